package rewrite

import (
	"bytes"
	"time"
)

// host is a model of one end's TCP: it sends in random pieces, loses patience, sends again in other pieces, reads
// slowly or not at all for a while.
type host struct {
	side Side
	w    *world
	iss  uint32
	irs  uint32
	peer bool // SYN of the other seen

	data   []byte // to send
	una    uint64 // of data; counts the FIN too
	nxt    uint64
	edge   uint64 // the other takes what is before it
	cwnd   uint64
	memory uint64 // bytes that it has under way at most; 0: as many as it likes
	dup    int
	rto    time.Duration
	timer  time.Duration // 0: not running
	sacked [][2]uint64
	mss    int
	scale  uint8
	pscale uint8
	sack   bool
	stamps bool
	ecr    uint32
	synAck bool // our SYN is acknowledged

	got    []byte // received in order
	ooo    map[uint64]byte
	finAt  uint64 // position of the other's FIN, if finIn
	finIn  bool
	ended  bool // it was reached
	unread int  // of got, not taken by the application
	buf    int
	told   uint64 // right edge told to the other: never to go back
	resets int
}

func (h *host) fin() uint64 { return uint64(len(h.data)) }

// window is what may be advertised.
func (h *host) window() uint16 {
	h.told = max(h.told, uint64(len(h.got))+uint64(max(h.buf-h.unread, 0)))
	return uint16(min((h.told-uint64(len(h.got)))>>h.scale, 0xffff))
}

func (h *host) head() Segment {
	s := Segment{Flags: ACK, Seq: h.iss + 1 + uint32(h.nxt), Ack: h.irs + 1 + uint32(len(h.got)), Window: h.window(), WindowScale: -1}
	if h.ended {
		s.Ack++
	}
	if h.stamps {
		s.Timestamps, s.TSVal, s.TSEcr = true, uint32(h.w.now/time.Millisecond), h.ecr
	}
	if h.sack {
		h.reportEarly(&s)
	}
	return s
}

func (h *host) reportEarly(s *Segment) {
	for at := range h.ooo {
		if s.SACKs == MaxSACK {
			return
		}
		from, to := at, at+1
		for _, ok := h.ooo[from-1]; ok; _, ok = h.ooo[from-1] {
			from--
		}
		for _, ok := h.ooo[to]; ok; _, ok = h.ooo[to] {
			to++
		}
		s.SACK[s.SACKs] = [2]uint32{h.irs + 1 + uint32(from), h.irs + 1 + uint32(to)}
		s.SACKs++
	}
}

func (h *host) syn() {
	s := Segment{Flags: SYN, Seq: h.iss, Window: uint16(min(h.buf, 0xffff)), MSS: uint16(h.mss), WindowScale: int8(h.scale), SACKAllowed: h.sack, Timestamps: h.stamps}
	if h.peer {
		s.Flags |= ACK
		s.Ack = h.irs + 1
	}
	h.w.send(h.side, s)
	h.arm()
}

func (h *host) arm() { h.timer = h.w.now + h.rto }

// recv takes in a segment.
func (h *host) recv(s Segment) {
	switch {
	case s.has(RST):
		h.resets++
		return
	case s.has(SYN):
		first := !h.peer
		h.peer, h.irs = true, s.Seq
		if first {
			h.sack, h.stamps = h.sack && s.SACKAllowed, h.stamps && s.Timestamps
			if h.pscale = uint8(max(s.WindowScale, 0)); s.WindowScale < 0 {
				h.scale = 0
			}
			if s.MSS != 0 {
				h.mss = min(h.mss, int(s.MSS))
			}
			h.edge = uint64(s.Window)
			h.told = uint64(min(h.buf, 0xffff))
		}
		if s.has(ACK) {
			h.synAck = true
			h.edge = uint64(s.Window)
			h.w.send(h.side, h.head())
			h.output()
			return
		}
		h.syn()
		return
	case !h.peer:
		return
	}
	if !h.synAck {
		h.synAck, h.timer, h.rto = true, 0, h.w.rto()
	}
	if s.Timestamps {
		h.ecr = s.TSVal
	}
	h.onAck(s)
	h.onData(s)
	h.output()
}

func (h *host) onAck(s Segment) {
	a := h.una + uint64(int64(int32(s.Ack-(h.iss+1+uint32(h.una)))))
	if int64(a-h.una) < 0 {
		return
	}
	if a > h.fin()+1 || a > h.nxt {
		h.w.t.Fatalf("%v: acknowledgement of %d, but only %d was sent", h.side, a, h.nxt)
	}
	edge := a + uint64(s.Window)<<h.pscale
	h.sacked = nil
	for _, b := range s.SACK[:s.SACKs] {
		l, r := a+uint64(b[0]-s.Ack), a+uint64(b[1]-s.Ack)
		if r > h.nxt || r <= l {
			h.w.t.Fatalf("%v: SACK of %d to %d, but only %d was sent", h.side, l, r, h.nxt)
		}
		h.sacked = append(h.sacked, [2]uint64{l, r})
	}
	same := edge <= h.edge && len(s.Data) == 0 // an older one may come later
	h.edge = max(h.edge, edge)
	switch {
	case a > h.una:
		h.cwnd += a - h.una
		h.una, h.dup, h.rto = a, 0, h.w.rto()
		h.timer = 0
		if h.una < h.nxt {
			h.arm()
		}
	case same && h.una < h.nxt:
		if h.dup++; h.dup == 3 {
			h.resend()
		}
	}
}

// resend sends some of what is not acknowledged, from the beginning, cut anew.
func (h *host) resend() {
	n := uint64(1 + h.w.r.IntN(h.mss*3/2))
	h.cut(h.una, min(h.nxt, h.una+n), true)
}

// cut sends [a, b) in random segments, without what the other has said it has.
func (h *host) cut(a, b uint64, again bool) {
	for a < b {
		n := min(uint64(1+h.w.r.IntN(h.mss)), b-a)
		if h.w.r.IntN(3) > 0 {
			n = min(uint64(h.mss), b-a)
		}
		skip := false
		for _, k := range h.sacked {
			skip = skip || again && a >= k[0] && a+n <= k[1]
		}
		if !skip {
			h.segment(a, a+n)
		}
		a += n
	}
	h.arm()
}

func (h *host) segment(a, b uint64) {
	s := h.head()
	s.Seq = h.iss + 1 + uint32(a)
	s.Data = bytes.Clone(h.data[a:min(b, h.fin())])
	if b > h.fin() {
		s.Flags |= FIN
	}
	h.w.send(h.side, s)
}

// output sends new data, as far as the windows allow.
func (h *host) output() {
	if !h.synAck || h.una < h.nxt && h.dup >= 3 {
		return
	}
	limit := min(h.edge, h.una+h.cwnd, h.fin())
	if h.memory > 0 {
		limit = min(limit, h.una+h.memory)
	}
	if limit > h.nxt {
		a := h.nxt
		h.nxt = limit
		h.cut(a, limit, false)
	}
	if h.nxt == h.fin() && h.edge > h.nxt {
		h.nxt++
		h.segment(h.fin(), h.fin()+1)
		h.arm()
	}
	if h.una == h.nxt && h.nxt < h.fin() && h.timer == 0 { // the window is closed: persist
		h.arm()
	}
}

func (h *host) tick() {
	h.timer = 0
	h.rto = min(2*h.rto, 20*time.Second)
	switch {
	case !h.synAck && (h.side == Client || h.peer):
		h.syn()
	case h.una < h.nxt:
		h.cwnd, h.dup = uint64(2*h.mss), 0
		h.resend()
	case h.nxt <= h.fin():
		h.output()
		if h.una == h.nxt {
			s := h.head()
			s.Seq--
			h.w.send(h.side, s)
			h.arm()
		}
	}
}

func (h *host) onData(s Segment) {
	at := uint64(len(h.got)) + uint64(int64(int32(s.Seq-(h.irs+1+uint32(len(h.got))))))
	if int64(at) < 0 {
		h.w.send(h.side, h.head())
		return
	}
	for i, b := range s.Data {
		p := at + uint64(i)
		if p < uint64(len(h.got)) {
			if h.got[p] != b {
				h.w.t.Fatalf("%v: byte %d was %02x and is %02x", h.side, p, h.got[p], b)
			}
		} else if p < h.told {
			if old, ok := h.ooo[p]; ok && old != b {
				h.w.t.Fatalf("%v: byte %d changes", h.side, p)
			}
			h.ooo[p] = b
		}
	}
	if s.has(FIN) {
		h.finIn, h.finAt = true, at+uint64(len(s.Data))
	}
	for b, ok := h.ooo[uint64(len(h.got))]; ok; b, ok = h.ooo[uint64(len(h.got))] {
		delete(h.ooo, uint64(len(h.got)))
		h.got = append(h.got, b)
		h.unread++
	}
	if h.finIn && uint64(len(h.got)) == h.finAt {
		h.ended = true
	}
	if len(s.Data) > 0 || s.has(FIN) || int64(at) < int64(len(h.got)) {
		h.w.send(h.side, h.head())
	}
}
