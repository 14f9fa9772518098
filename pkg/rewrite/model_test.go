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
	saw   [occasions]int
}

// What must have happened for the model to prove anything.
const (
	sawLoss  = iota
	sawTwice // a segment that arrives twice
	sawLate  // one that others overtake
	sawShut  // a window of nothing, of a host or for one
	sawSACK  // blocks in what the flow tells a host
	sawWide  // a segment that is lost because the path is narrow
	sawSmall // a host with less room for what it sends than its message is long
	sawBoth  // data of both hosts under way
	occasions
)

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
		w.saw[sawLoss]++
	case x < w.loss*1.5:
		copies = 2
		w.saw[sawTwice]++
	}
	if s.Window == 0 {
		w.saw[sawShut]++
	}
	for range copies {
		delay := 10 * time.Millisecond
		if w.r.Float64() < w.loss {
			delay += time.Duration(w.r.IntN(60)) * time.Millisecond
			w.saw[sawLate]++
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
		w.saw[sawWide]++
		return
	}
	if s.SACKs > 0 {
		w.saw[sawSACK]++
	}
	if f := w.flow; len(f.streams[0].out) > 0 && len(f.streams[1].out) > 0 {
		w.saw[sawBoth]++
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

// play plays a seed and adds to sum what has happened.
func play(t *testing.T, seed uint64, sum *[occasions]int) {
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
			w.saw[sawSmall]++
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
	for i, n := range w.saw {
		sum[i] += n
	}
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
	var saw [occasions]int
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { play(t, seed, &saw) })
	}
	for i, n := range saw {
		if n < 50 {
			t.Errorf("occasion %d came %d times", i, n)
		}
	}
	t.Logf("losses, copies, late, windows shut, blocks, too wide, little room, both ways: %v", saw)
}
