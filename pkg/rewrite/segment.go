package rewrite

// Flags of a TCP header (RFC 9293, 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// MaxSACK is how many SACK blocks fit beside a timestamp (RFC 2018, 3).
const MaxSACK = 3

// Segment is what a TCP segment says, without addresses. The options that are not here are not passed on: what is
// not understood cannot be translated.
type Segment struct {
	Seq, Ack uint32
	Flags    uint8
	Window   uint16 // as in the header, not scaled
	Data     []byte // a view, valid during the call that it is given to

	MSS          uint16 // 0: absent
	WindowScale  int8   // -1: absent (RFC 7323, 2)
	SACKAllowed  bool   // with SYN only
	Timestamps   bool   // the option is there (RFC 7323, 3)
	TSVal, TSEcr uint32
	SACK         [MaxSACK][2]uint32 // left and right edges
	SACKs        int                // of them in use
}

func (s *Segment) has(flag uint8) bool { return s.Flags&flag != 0 }
