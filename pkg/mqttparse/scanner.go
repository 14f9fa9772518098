package mqttparse

// MaxPacket is the largest packet that the fixed header can describe.
const MaxPacket = 5 + MaxVarint

// Scanner cuts one direction of one connection into control packets. It keeps no
// bytes: the caller holds the buffer, and passes what it has not yet consumed.
// A Scanner is used by one goroutine; after a refusal it stays refused, since
// the stream has no place to start again from.
type Scanner struct {
	max     int
	need    int
	err     *Error
	dir     Direction
	version Version
	open    bool // CONNECT or CONNACK was seen
	closed  bool // DISCONNECT was seen
}

// Init prepares s for a new connection. maxPacket limits a packet's size in bytes,
// fixed header included; zero or less stands for [MaxPacket].
func (s *Scanner) Init(d Direction, maxPacket int) {
	if maxPacket <= 0 || maxPacket > MaxPacket {
		maxPacket = MaxPacket
	}
	*s = Scanner{max: maxPacket, dir: d}
}

// Version is the connection's protocol version: with FromClient what CONNECT said, also one that was
// refused for something else, zero before it; with FromServer what [Scanner.SetVersion] set.
func (s *Scanner) Version() Version { return s.version }

// SetVersion tells a FromServer scanner the version that the client's CONNECT asked
// for. Without it the stream is read as MQTT 3.1.1.
func (s *Scanner) SetVersion(v Version) { s.version = v }

// Need is, after Next returned n == 0 without error, the least number of bytes that
// have to be added to the buffer before Next can say more.
func (s *Scanner) Need() int { return s.need }

// Next looks at the packet at the front of buf. It returns the packet as views into buf
// and its size n; n == 0 with a nil error means that buf holds only part of it.
// The error is always an [*Error].
//
// The fixed header is judged as soon as it is there: a reserved type or flag, a packet out
// of order, and a declared size over the limit are refused before the body arrives. Once whole,
// every packet's body is checked, but for that of PUBLISH, which [ParsePublish] checks.
func (s *Scanner) Next(buf []byte) (f Frame, n int, err error) {
	if s.err != nil {
		return f, 0, s.err
	}
	if len(buf) == 0 {
		s.need = 2
		return f, 0, nil
	}
	if r := s.checkFirstByte(buf[0]); r != nil {
		return f, 0, s.refuse(r)
	}
	size, width := Varint(buf[1:])
	if width <= 0 {
		if width < 0 {
			return f, 0, s.refuse(errLength)
		}
		s.need = 1
		return f, 0, nil
	}
	total := 1 + width + size
	if total > s.max {
		return f, 0, s.refuse(s.tooLarge())
	}
	if total > len(buf) {
		s.need = total - len(buf)
		return f, 0, nil
	}
	f = Frame{Raw: buf[:total:total], Body: buf[1+width : total : total], from: s.dir}
	if f.Type() != PUBLISH {
		if err := s.accept(f); err != nil {
			return Frame{}, 0, err
		}
	}
	s.need = 0
	return f, total, nil
}

func (s *Scanner) refuse(r *refusal) error {
	s.err = r.at(s.version)
	return s.err
}

func (s *Scanner) tooLarge() *refusal {
	if s.dir == FromServer {
		return errTooLargeDown
	}
	return errTooLarge
}

// checkFirstByte judges type and flags, and whether the packet may come now.
func (s *Scanner) checkFirstByte(b byte) *refusal {
	t, flags := Type(b>>4), b&0x0f
	if t == PUBLISH && s.open && !s.closed { // the hot path
		return checkPublishFlags(flags)
	}
	if r := s.checkOrder(t); r != nil {
		return r
	}
	return checkFlags(t, flags, s.version)
}

func (s *Scanner) checkOrder(t Type) *refusal {
	v5 := s.version == V5
	switch {
	case s.closed:
		return errAfterEnd
	case t == 0:
		return errType
	case !s.open && s.dir == FromClient && t != CONNECT:
		return errFirst
	case !s.open && s.dir == FromServer && t != CONNACK && !(v5 && t == AUTH):
		return errFirstDown
	case t == AUTH && !v5:
		return errType
	case !allowed(s.dir, t, v5):
		return errDirection
	case s.open && t == CONNECT:
		return errSecond
	case s.open && t == CONNACK:
		return errSecondDown
	}
	return nil
}

// allowed is the column "Direction of Flow" of the table of packet types.
func allowed(d Direction, t Type, v5 bool) bool {
	switch t {
	case CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ:
		return d != FromServer
	case CONNACK, SUBACK, UNSUBACK, PINGRESP:
		return d != FromClient
	case DISCONNECT:
		return d != FromServer || v5
	}
	return true
}

func checkFlags(t Type, flags byte, v Version) *refusal {
	want := byte(0)
	r := errFlags
	switch t {
	case PUBLISH:
		return checkPublishFlags(flags)
	case PUBREL:
		want, r = 2, errFlagsRel
	case SUBSCRIBE:
		want, r = 2, errFlagsSub
	case UNSUBSCRIBE:
		want, r = 2, errFlagsUnsub
	}
	if want == 2 && v == V31 {
		flags &^= flagDup // in 3.1 these three are QoS 1 messages, sent again with DUP
	}
	if flags != want {
		return r
	}
	return nil
}

// accept checks a whole packet's body and moves the connection's state on.
func (s *Scanner) accept(f Frame) error {
	var err error
	switch f.Type() {
	case CONNECT:
		err = s.connect(f)
	case CONNACK:
		var c ConnAck
		err = ParseConnAck(f, s.version, &c)
		s.open = err == nil
	case DISCONNECT:
		_, err = ParseDisconnect(f, s.version)
		s.closed = err == nil
	default:
		err = checkBody(f, s.version)
	}
	if e, ok := err.(*Error); ok {
		s.err = e
	}
	return err
}

func (s *Scanner) connect(f Frame) error {
	var c Connect
	err := ParseConnect(f, &c)
	if c.Version == V31 || c.Version == V311 || c.Version == V5 {
		s.version = c.Version // also of a CONNECT that is refused: its answer has to be of this version
	}
	s.open = err == nil
	return err
}
