package rewrite

import (
	"errors"
	"time"
)

// Side is one end of a connection.
type Side uint8

// The ends: the device that opened the connection, and the broker.
const (
	Client Side = iota
	Server
)

func (s Side) other() Side { return s ^ 1 }

func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

// ErrReset is what reading and writing give after a reset.
var ErrReset = errors.New("the connection was reset")

// rtoFirst and rtoMost bound the timer for transformed bytes that nothing acknowledges. It only matters where the
// sender has been told that all is well; else its own timer, which knows the path, comes first.
const (
	rtoFirst = time.Second
	rtoMost  = 16 * time.Second
)

// leastMSS is what every host takes (RFC 9293, 3.7.1).
const leastMSS = 536

// firstWindow is how many segments go out at once before anything is acknowledged (RFC 6928).
const firstWindow = 10

// end is what is known of one end.
type end struct {
	syn    bool  // seen
	scale  uint8 // its windows are scaled by it
	scales int8  // as offered; -1: not
	sack   bool
	stamps bool
	mss    uint16
	path   uint16 // the most that a segment to it may carry, as the path is known; 0: it is not
	tsval  uint32 // newest
	tsecr  uint32

	wl1 uint32 // sequence number and acknowledged position of the segment that its window is from
	wl2 uint64

	told     uint64 // acknowledged to it last, of its stream
	toldEdge uint64 // window told to it last
	owed     int    // acknowledgements that it must get, though nothing is new
	probing  bool   // it asked whether the other end lives
	blocks   [MaxSACK][2]uint64
	nblocks  int // what the other end has of its stream behind a hole, in original positions
}

// Flow is one connection.
type Flow struct {
	// Emit sends a segment towards a side. The segment and its data are valid during the call.
	Emit func(to Side, seg *Segment)

	ends    [2]end
	streams [2]stream // by sender
	reset   bool
	greeted bool          // the server has been sent the acknowledgement of its SYN
	timer   time.Duration // when to send again; 0: not running
	rto     time.Duration
	seg     Segment // scratch
}

// New makes a Flow for a connection whose SYN is about to be given to Segment.
func New(emit func(to Side, seg *Segment)) *Flow {
	f := &Flow{Emit: emit, rto: rtoFirst}
	return f
}

// Established reports that both ends have said SYN.
func (f *Flow) Established() bool { return f.ends[Client].syn && f.ends[Server].syn }

// Done reports that nothing more will come of the connection but repetitions of its end.
func (f *Flow) Done() bool {
	return f.reset || (f.streams[0].finAcked && f.streams[1].finAcked && f.streams[0].ended() && f.streams[1].ended())
}

// Unread reports that something has come that was not read.
func (f *Flow) Unread() bool {
	return len(f.streams[Client].avail) > 0 || len(f.streams[Server].avail) > 0
}

// Began reports whether the client's SYN had this sequence number.
func (f *Flow) Began(seq uint32) bool { return f.streams[Client].isn == seq }

// Limit says what a segment towards to may carry at most on its path, as a maximum segment size: IP and TCP headers taken off, options not
// (RFC 6691). What to says in its SYN holds if it is less, and what to is told of the other end is not more. Call it before the first SYN.
func (f *Flow) Limit(to Side, size uint16) { f.ends[to].path = size }

// Segment takes in a segment that from has sent.
func (f *Flow) Segment(now time.Duration, from Side, seg *Segment) {
	switch {
	case f.reset:
		f.refuse(from, seg)
	case seg.has(RST):
		f.onReset(from, seg)
	case seg.has(SYN):
		f.onSyn(from, seg)
	case f.Established() && seg.has(ACK):
		f.onData(from, seg)
		f.settle(now)
	}
}

// onSyn passes a SYN on, with the options that are understood, and without data: what TCP Fast Open would carry comes
// again after the handshake (RFC 7413, 4.1.2).
func (f *Flow) onSyn(from Side, seg *Segment) {
	e, s := &f.ends[from], &f.streams[from]
	if from == Server && !f.ends[Client].syn {
		return
	}
	if e.syn && seg.Seq != s.isn {
		return // another connection: whoever keeps the flows decides
	}
	if !e.syn {
		e.syn, s.isn, e.wl1 = true, seg.Seq, seg.Seq
		e.scales, e.sack, e.stamps = seg.WindowScale, seg.SACKAllowed, seg.Timestamps
		e.mss = seg.MSS
	}
	e.tsval, e.tsecr = seg.TSVal, seg.TSEcr
	if from == Server && seg.has(ACK) {
		f.agree()
		f.streams[Client].edge = uint64(seg.Window) // SYN's window is never scaled (RFC 7323, 2.2)
		f.greeted = false
	}
	out := *seg
	out.Data, out.SACKs = nil, 0
	if path := f.ends[from.other()].path; path != 0 && out.MSS > path {
		out.MSS = path // the way back is no wider
	}
	f.Emit(from.other(), &out)
}

// agree settles what both ends have offered.
func (f *Flow) agree() {
	c, s := &f.ends[Client], &f.ends[Server]
	c.sack = c.sack && s.sack
	s.sack = c.sack
	c.stamps = c.stamps && s.stamps
	s.stamps = c.stamps
	for _, side := range []Side{Client, Server} {
		e := &f.ends[side]
		if e.scale = 0; c.scales >= 0 && s.scales >= 0 {
			e.scale = uint8(min(e.scales, 14))
		}
		const header = 12 // a timestamp takes as much of a segment
		mss := uint64(e.mss)
		if mss == 0 {
			mss = leastMSS
		}
		if e.path != 0 {
			mss = min(mss, uint64(e.path))
		}
		if e.stamps {
			mss -= header
		}
		in := &f.streams[side.other()]
		in.mss = max(mss, 64)
		in.cwnd = firstWindow * in.mss
		e.toldEdge = Room
	}
}

// onReset passes a reset on, if it is where the sender is: at the other end it must be exactly what is expected
// next (RFC 5961, 3.2).
func (f *Flow) onReset(from Side, seg *Segment) {
	s := &f.streams[from]
	if f.Established() {
		if p := s.pos(seg.Seq, s.next); p < int64(s.acked) || p > int64(s.taken+Room) {
			return
		}
	}
	out := Segment{Flags: seg.Flags & (RST | ACK), Seq: s.tail(), WindowScale: -1}
	if !f.ends[from].syn {
		out.Seq = seg.Seq // the answer to a SYN that nobody listens for
	}
	if seg.has(ACK) {
		out.Ack = f.streams[from.other()].seq(f.streams[from.other()].acked)
		if !f.Established() {
			out.Ack = seg.Ack
		}
	}
	f.reset = true
	f.Emit(from.other(), &out)
}

// onData takes in an ordinary segment: its acknowledgement, its window, its data, its FIN.
func (f *Flow) onData(from Side, seg *Segment) {
	if !f.onAck(from, seg) {
		return
	}
	e, s := &f.ends[from], &f.streams[from]
	if seg.Timestamps && e.stamps {
		e.tsval, e.tsecr = seg.TSVal, seg.TSEcr
	}
	if from == Client && !f.greeted {
		f.greeted = true
		f.ends[Server].owed++
	}
	pos := s.pos(seg.Seq, s.next)
	end := pos + int64(len(seg.Data))
	if len(seg.Data) == 0 && !seg.has(FIN) {
		if pos < int64(s.next) { // a probe: it says nothing, and wants an answer from the other end
			f.probe(from)
		}
		return
	}
	if seg.has(FIN) {
		s.finish(end)
	}
	_, hole := s.arrive(pos, seg.Data)
	switch {
	case hole:
		e.owed++ // the sender has to hear of the hole
	case end <= int64(s.acked):
		e.owed = max(e.owed, 1) // it has not heard that all of it arrived
	case end <= int64(s.next) && pos < int64(s.next) && uint64(max(pos, 0)) < s.taken:
		f.again(from, uint64(max(pos, 0)), uint64(end))
	}
	f.ends[from].probing = false
}

// onAck takes in acknowledgement and window of the stream that comes towards from. False: no such thing was ever
// sent, and the segment counts for nothing (RFC 9293, 3.10.7.4).
func (f *Flow) onAck(from Side, seg *Segment) bool {
	in, sender := &f.streams[from.other()], from.other()
	p := in.pos(seg.Ack, in.base)
	most := int64(in.high)
	if in.finSent {
		most++
	}
	if p > most {
		return false
	}
	e := &f.ends[sender]
	if p >= int64(in.base) {
		opened := f.window(from, seg, uint64(p))
		news := in.acknowledge(uint64(p))
		pure := len(seg.Data) == 0 && !seg.has(FIN)
		switch {
		case news:
			f.timer, f.rto = 0, rtoFirst
			if in.base < in.recover {
				f.resend(sender)
			}
		case pure && !opened && len(in.out) > 0:
			f.duplicate(sender)
		}
		if pure && e.probing {
			e.owed, e.probing = e.owed+1, false
		}
		f.sacked(in, e, seg)
	}
	return true
}

// window takes in the window that from opens behind pos, unless an older segment says so (RFC 9293, 3.10.7.4), and
// reports whether it has changed.
func (f *Flow) window(from Side, seg *Segment, pos uint64) bool {
	e, in := &f.ends[from], &f.streams[from.other()]
	edge := pos + uint64(seg.Window)<<e.scale
	if edge == in.edge || int32(seg.Seq-e.wl1) < 0 || seg.Seq == e.wl1 && pos < e.wl2 {
		return false
	}
	e.wl1, e.wl2, in.edge = seg.Seq, pos, edge
	return true
}

// duplicate handles an acknowledgement that tells of a hole. The sender hears of it, and sends again; if it thinks that
// all has arrived, that is for us to do (RFC 6582).
func (f *Flow) duplicate(sender Side) {
	s := &f.streams[sender]
	if !s.trusting() {
		f.ends[sender].owed++
		return
	}
	const enough = 3
	if s.dups++; s.dups == enough && s.base >= s.recover {
		s.recover = s.high
		s.cwnd = max(s.cwnd/2, 2*s.mss)
		f.resend(sender)
	}
}

// resend sends the first segment that is not acknowledged.
func (f *Flow) resend(from Side) {
	s := &f.streams[from]
	s.doubt()
	f.data(from, s.base, min(s.mss, uint64(len(s.out))))
}

// sacked translates what from has behind a hole.
func (f *Flow) sacked(in *stream, e *end, seg *Segment) {
	e.nblocks = 0
	for _, b := range seg.SACK[:seg.SACKs] {
		l, r := in.pos(b[0], in.base), in.pos(b[1], in.base)
		if l < int64(in.base) || r <= l || r > int64(in.high) {
			continue // below the acknowledgement: a duplicate that arrived (RFC 2883)
		}
		if a, b, ok := in.within(uint64(l), uint64(r)); ok {
			e.blocks[e.nblocks] = [2]uint64{a, b}
			e.nblocks++
		}
	}
}

// again serves what the sender has sent again from the kept bytes.
func (f *Flow) again(from Side, a, b uint64) {
	s := &f.streams[from]
	s.doubt()
	t0, t1 := s.before(a), min(s.behind(b), s.high)
	t1 = min(t1, t0+firstWindow*s.mss)
	for at := t0; at < t1; at += s.mss {
		f.data(from, at, min(s.mss, t1-at))
	}
	if s.finSent && !s.finAcked && t1 >= s.end() {
		f.data(from, s.end(), 0)
	}
}

// probe asks the other end whether it lives, as from has asked.
func (f *Flow) probe(from Side) {
	s := &f.streams[from]
	f.ends[from].probing = true
	seg := f.header(from)
	seg.Seq = s.tail() - 1
	f.Emit(from.other(), seg)
}

// refuse answers what comes on a connection that was reset.
func (f *Flow) refuse(from Side, seg *Segment) {
	if seg.has(ACK) && !seg.has(RST) {
		f.Emit(from, &Segment{Flags: RST, Seq: seg.Ack, WindowScale: -1})
	}
}
