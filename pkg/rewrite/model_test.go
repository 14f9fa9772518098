package rewrite

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
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

// event is something that happens at a time.
type event struct {
	at  time.Duration
	n   int // order of those at the same time
	run func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// world is two hosts, the flow between them, and two lossy links.
type world struct {
	t     *testing.T
	r     *rand.Rand
	now   time.Duration
	q     queue
	n     int
	hosts [2]*host
	flow  *Flow
	loss  float64
	msgs  [2]*rewriter
	edges [2]int64 // told to each host
	width int      // bytes of data that a segment to a host may have, or it is lost and nobody says so; 0: any
	limit [2]int   // the same, where the flow has been told
	trace []string
}

func (w *world) rto() time.Duration { return 300 * time.Millisecond }

func (w *world) at(d time.Duration, run func()) {
	w.n++
	heap.Push(&w.q, event{w.now + d, w.n, run})
}

// link carries a segment over one of the links, or loses it, or carries it twice, or late.
func (w *world) link(what string, s Segment, deliver func(Segment)) {
	w.note("%-16s seq=%d ack=%d len=%d flags=%x win=%d sack=%d", what, s.Seq, s.Ack, len(s.Data), s.Flags, s.Window, s.SACKs)
	copies := 1
	switch x := w.r.Float64(); {
	case x < w.loss:
		copies = 0
	case x < w.loss*1.5:
		copies = 2
	}
	for range copies {
		delay := 10 * time.Millisecond
		if w.r.Float64() < w.loss {
			delay += time.Duration(w.r.IntN(60)) * time.Millisecond
		}
		w.at(delay, func() { deliver(s) })
	}
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%8.3f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	if len(w.trace) > 400 {
		w.trace = w.trace[200:]
	}
}

// send carries a segment from a host to the flow.
func (w *world) send(from Side, s Segment) {
	w.link(from.String()+" sends", s, func(s Segment) {
		w.flow.Segment(w.now, from, &s)
		w.transform()
	})
}

// emit carries a segment from the flow to a host.
func (w *world) emit(to Side, s *Segment) {
	c := *s
	if h := w.hosts[to]; h.peer && w.flow.Established() && !s.has(SYN) && !s.has(RST) {
		edge := int64(int32(s.Ack-(h.iss+1))) + int64(s.Window)<<h.pscale
		if edge+1<<h.pscale <= w.edges[to] {
			w.t.Fatalf("the window of %v shrinks from %d to %d", to, w.edges[to], edge)
		}
		w.edges[to] = max(w.edges[to], edge)
	}
	if n := w.limit[to]; n > 0 && (len(s.Data) > n || int(s.MSS) > n) {
		w.t.Fatalf("a segment to %v of %d bytes, maximum segment size %d, where the path takes %d", to, len(s.Data), s.MSS, n)
	}
	if w.width > 0 && len(s.Data) > w.width {
		w.note("too wide to %v: %d", to, len(s.Data))
		return
	}
	c.Data = bytes.Clone(s.Data)
	w.link("to "+to.String(), c, w.hosts[to].recv)
}

// rewriter turns messages, a length of two bytes and that many bytes, into messages that are longer or shorter by some.
type rewriter struct {
	grow   int
	in     []byte
	out    []byte
	ended  bool
	closed bool
}

// message is what becomes of one.
func (m *rewriter) message(body []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(body)))
	for _, b := range body {
		out = append(out, b^0x5a)
	}
	if m.grow < 0 {
		return out[:max(2, len(out)+m.grow)]
	}
	return append(out, bytes.Repeat([]byte{0xee}, m.grow)...)
}

func (m *rewriter) all(in []byte) (out []byte) {
	for len(in) >= 2 && len(in) >= 2+int(binary.BigEndian.Uint16(in)) {
		n := 2 + int(binary.BigEndian.Uint16(in))
		out = append(out, m.message(in[2:n])...)
		in = in[n:]
	}
	return out
}

// transform does what the gateway does between two segments.
func (w *world) transform() {
	for side, m := range w.msgs {
		side := Side(side)
		for moved := true; moved; {
			moved = false
			if len(m.out) > 0 {
				n := w.flow.Write(side, m.out)
				m.out = m.out[n:]
				if len(m.out) > 0 {
					break // wait for room
				}
				w.flow.Covered(side, len(m.in))
			}
			buf := make([]byte, 1+w.r.IntN(20000))
			n, ended := w.flow.Read(side, buf)
			m.in = append(m.in, buf[:n]...)
			out := m.all(m.in)
			for len(m.in) >= 2 && len(m.in) >= 2+int(binary.BigEndian.Uint16(m.in)) {
				m.in = m.in[2+int(binary.BigEndian.Uint16(m.in)):]
			}
			m.out = append(m.out, out...)
			moved = n > 0
			m.ended = m.ended || ended
			if n == 0 && len(m.out) == 0 {
				w.flow.Waiting(w.now, side, len(m.in))
			}
		}
		w.flow.Flush(w.now)
		if m.ended && len(m.out) == 0 && !m.closed {
			m.closed = true
			w.flow.CloseWrite(w.now, side)
		}
	}
}

func (w *world) run() {
	w.hosts[Client].syn()
	for w.now < time.Hour {
		next, what := time.Hour, 0
		if len(w.q) > 0 {
			next = w.q[0].at
		}
		for i, h := range w.hosts {
			if h.timer != 0 && h.timer < next {
				next, what = h.timer, i+1
			}
		}
		if at, ok := w.flow.Deadline(); ok && at < next {
			next, what = at, 3
		}
		w.now = max(next, w.now)
		switch what {
		case 0:
			if len(w.q) == 0 {
				return
			}
			heap.Pop(&w.q).(event).run()
		case 3:
			w.flow.Advance(w.now)
			w.transform()
		default:
			w.hosts[what-1].tick()
		}
		if w.flow.Done() && w.hosts[0].ended && w.hosts[1].ended && w.hosts[0].una > w.hosts[0].fin() && w.hosts[1].una > w.hosts[1].fin() {
			return
		}
	}
}

// reads has a host's application read now and then.
func (w *world) reads(h *host) {
	w.at(time.Duration(1+w.r.IntN(100))*time.Millisecond, func() {
		if w.r.IntN(4) > 0 && h.unread > 0 {
			h.unread -= 1 + w.r.IntN(h.unread)
			if h.peer && h.synAck {
				w.send(h.side, h.head()) // a window update
			}
		}
		if !h.ended || h.unread > 0 {
			w.reads(h)
		}
	})
}

func messages(r *rand.Rand, total int) []byte {
	var out []byte
	for len(out) < total {
		n := r.IntN(200)
		if r.IntN(20) == 0 {
			n = r.IntN(30000)
		}
		out = binary.BigEndian.AppendUint16(out, uint16(n))
		for range n {
			out = append(out, byte(r.Uint32()))
		}
	}
	return out
}

func play(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{t: t, r: r, loss: []float64{0, 0.01, 0.1, 0.2}[seed%4]}
	w.flow = New(w.emit)
	w.msgs = [2]*rewriter{{grow: 45}, {grow: -45}}
	switch seed % 7 {
	case 1:
		w.width = leastMSS + r.IntN(300)
	case 2:
		for i := range w.limit {
			w.limit[i] = leastMSS + r.IntN(900)
			w.flow.Limit(Side(i), uint16(w.limit[i]))
		}
	}
	for i := range w.hosts {
		h := &host{side: Side(i), w: w, iss: r.Uint32(), data: messages(r, 1+r.IntN(100000)), ooo: map[uint64]byte{}, rto: w.rto(),
			mss: 300 + r.IntN(1160), scale: uint8(r.IntN(5)), sack: r.IntN(2) == 0, stamps: r.IntN(2) == 0, buf: 2000 + r.IntN(100000)}
		h.cwnd = uint64(10 * h.mss)
		if r.IntN(3) == 0 {
			h.buf = 1000 + r.IntN(3000)
		}
		if r.IntN(4) == 0 { // less than many a message
			h.memory = uint64(1000 + r.IntN(4000))
		}
		w.hosts[i] = h
		w.reads(h)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, l := range w.trace[max(0, len(w.trace)-60):] {
				t.Log(l)
			}
		}
	})
	w.run()
	for i, h := range w.hosts {
		want := w.msgs[1-i].all(w.hosts[1-i].data)
		if !bytes.Equal(h.got, want) {
			t.Fatalf("seed %d: the %v has %d bytes, not the %d that it should; at %v; flow %+v", seed, h.side, len(h.got), len(want), w.now, w.flow.streams[1-i].sent)
		}
		if !h.ended || h.resets > 0 {
			t.Fatalf("seed %d: the %v saw end %v, %d resets, at %v", seed, h.side, h.ended, h.resets, w.now)
		}
	}
}

// Whatever the links do, each end gets what the other's messages became, and the end of the stream.
func TestModel(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { play(t, seed) })
	}
}
