package rewrite

import "time"

// header begins a segment of from's stream: what it acknowledges, and the window it opens, are those of the other.
func (f *Flow) header(from Side) *Segment {
	to := from.other()
	e, in := &f.ends[to], &f.streams[to]
	seg := &f.seg
	*seg = Segment{Flags: ACK, WindowScale: -1, Ack: in.seq(in.acked)}
	e.told = in.acked
	e.toldEdge = max(e.toldEdge, in.taken+Room)
	unit := uint64(1) << f.ends[from].scale
	seg.Window = uint16(min((e.toldEdge-min(in.acked, e.toldEdge)+unit-1)/unit, 0xffff))
	if e.stamps {
		seg.Timestamps, seg.TSVal, seg.TSEcr = true, f.ends[from].tsval, f.ends[from].tsecr
	}
	return seg
}

// tail is the sequence number behind all that was sent.
func (s *stream) tail() uint32 {
	if s.finSent {
		return s.seq(s.high) + 1
	}
	return s.seq(s.high)
}

// data sends n transformed bytes of from's stream at pos, and the FIN if it comes right behind them.
func (f *Flow) data(from Side, pos, n uint64) {
	s := &f.streams[from]
	seg := f.header(from)
	seg.Seq = s.seq(pos)
	seg.Data = s.out[pos-s.base:][:n]
	if n > 0 {
		seg.Flags |= PSH
	}
	if s.closing && pos+n == s.end() {
		seg.Flags |= FIN
		s.finSent = true
	}
	if pos == s.base && n > 0 && pos < s.edge {
		s.tries++
	}
	s.sent = max(s.sent, pos+n)
	s.high = max(s.high, s.sent)
	f.Emit(from.other(), seg)
}

// settle sends what may be sent, and the acknowledgements that no data has carried.
func (f *Flow) settle(now time.Duration) {
	if f.reset || !f.Established() {
		return
	}
	f.pump(Client)
	f.pump(Server)
	f.acknowledge(Client)
	f.acknowledge(Server)
	waits := f.waits(Client) || f.waits(Server)
	switch {
	case !waits:
		f.timer, f.rto = 0, rtoFirst
	case f.timer == 0:
		f.timer = now + f.rto
	}
}

// waits reports that something of from's stream is to be sent or acknowledged.
func (f *Flow) waits(from Side) bool {
	s := &f.streams[from]
	return len(s.out) > 0 || s.finSent && !s.finAcked
}

// pump sends what the receiver's window and the congestion window allow.
func (f *Flow) pump(from Side) {
	s := &f.streams[from]
	limit := min(s.edge, s.base+s.cwnd, s.end())
	for s.sent < limit {
		n := min(s.mss, limit-s.sent)
		if n < s.mss && s.sent+n < s.end() && s.sent > s.base {
			return // a full segment goes when the window opens (RFC 9293, 3.8.6.2.1)
		}
		f.data(from, s.sent, n)
	}
	if s.closing && !s.finSent && s.sent == s.end() {
		f.data(from, s.sent, 0)
	}
}

// acknowledge tells to what the other end has of its stream, if it does not know yet.
func (f *Flow) acknowledge(to Side) {
	e, s := &f.ends[to], &f.streams[to]
	const much = 4 // half of Room: a window that has opened by less can wait
	if s.acked > e.told || s.taken+Room >= e.toldEdge+Room/much && s.taken+Room > e.toldEdge {
		e.owed = max(e.owed, 1)
	}
	for ; e.owed > 0; e.owed-- {
		seg := f.header(to.other())
		seg.Seq = f.streams[to.other()].tail()
		f.blocks(to, seg)
		f.Emit(to, seg)
	}
}

// blocks tells to what has arrived of its stream behind a hole: here, or at the other end.
func (f *Flow) blocks(to Side, seg *Segment) {
	e, s := &f.ends[to], &f.streams[to]
	if !e.sack {
		return
	}
	add := func(a, b uint64) {
		if n := seg.SACKs; n < MaxSACK {
			seg.SACK[n] = [2]uint32{s.seq(a), s.seq(b)}
			seg.SACKs++
		}
	}
	for i := len(s.early) - 1; i >= 0; i-- {
		add(s.early[i].at, s.early[i].end())
	}
	for _, b := range e.blocks[:e.nblocks] {
		add(b[0], b[1])
	}
}

// Deadline is when Advance wants to be called next.
func (f *Flow) Deadline() (at time.Duration, ok bool) { return f.timer, f.timer != 0 && !f.reset }

// Advance lets time pass: what was not acknowledged for long is sent again, and a closed window is probed.
func (f *Flow) Advance(now time.Duration) {
	if f.reset || f.timer == 0 || now < f.timer {
		return
	}
	f.rto = min(2*f.rto, rtoMost)
	f.timer = now + f.rto
	for _, from := range []Side{Client, Server} {
		s := &f.streams[from]
		if !f.waits(from) {
			continue
		}
		s.doubt()
		s.cwnd, s.recover, s.sent = firstWindow*s.mss, 0, s.base // and all of it again, as acknowledgements allow
		f.data(from, s.base, min(s.mss, uint64(len(s.out))))
	}
	f.settle(now)
}

// Read gives whoever transforms original bytes that from has sent. 0 and false: none have come yet; 0 and true: none
// will.
func (f *Flow) Read(from Side, b []byte) (n int, ended bool) {
	s := &f.streams[from]
	n = s.read(b)
	return n, n == 0 && s.taken == s.next && s.ended()
}

// Waiting says that whoever transforms waits for more of from, with unread of the bytes it has been given still
// untouched, and sends what may go.
func (f *Flow) Waiting(now time.Duration, from Side, unread int) {
	f.Covered(from, unread)
	f.streams[from].hold()
	f.settle(now)
}

// Covered says that all that from has sent, but for the last unread bytes of what was read, has become what was written.
func (f *Flow) Covered(from Side, unread int) {
	s := &f.streams[from]
	s.cover(s.taken - uint64(unread))
}

// Write adds transformed bytes of from's stream; less than all when too much is under way.
func (f *Flow) Write(from Side, b []byte) int {
	s := &f.streams[from]
	if s.closing {
		return 0
	}
	n := min(len(b), MaxOut-min(MaxOut, len(s.out)))
	s.out = append(s.out, b[:n]...)
	return n
}

// Flush sends what was written.
func (f *Flow) Flush(now time.Duration) { f.settle(now) }

// CloseWrite ends from's stream behind what was written.
func (f *Flow) CloseWrite(now time.Duration, from Side) {
	f.streams[from].closing = true
	f.settle(now)
}

// Abort resets both ends.
func (f *Flow) Abort() {
	if f.reset {
		return
	}
	for _, to := range []Side{Client, Server} {
		if !f.ends[to].syn {
			continue
		}
		seg := f.header(to.other())
		seg.Flags |= RST
		seg.Seq = f.streams[to.other()].tail()
		f.Emit(to, seg)
	}
	f.reset = true
}

// Reset reports that the connection was reset.
func (f *Flow) Reset() bool { return f.reset }
