package rewrite

import "slices"

// Room is how many original bytes are taken in ahead of whoever transforms them.
const Room = 64 << 10

// slack is what a window may be wider than meant, because it is told in units of its scale, rounded up (RFC 7323, 2.4).
const slack = 1 << 14

// MaxOut is how many transformed bytes are kept for the receiver; Write takes no more.
const MaxOut = 256 << 10

// maxEarly bounds what is kept behind a hole: pieces, and by Room bytes.
const maxEarly = 64

// maxMarks bounds the marks. When they run out the newest moves, which makes acknowledgements coarser.
const maxMarks = 512

// mark says: what the original bytes before orig became are the transformed bytes before out.
type mark struct{ orig, out uint64 }

// piece is a run of original bytes.
type piece struct {
	at   uint64
	data []byte
}

func (p piece) end() uint64 { return p.at + uint64(len(p.data)) }

// stream is one direction. Positions count bytes from the first after SYN: the sequence number of position p is
// isn+1+p, in both spaces.
type stream struct {
	isn uint32

	// Original bytes, from the sender.
	next    uint64  // all before it have come
	early   []piece // came behind a hole; sorted, apart
	avail   []byte  // [taken, next): to be read
	taken   uint64
	acked   uint64 // acknowledged to the sender
	fin     uint64 // where the sender's FIN is
	finSeen bool   // fin is known

	// Transformed bytes, to the receiver.
	base  uint64 // all before it are acknowledged
	out   []byte // [base, end)
	sent  uint64 // where sending goes on
	high  uint64 // all before it were sent once
	low   mark   // the last mark that base has passed
	marks []mark // those ahead of it, ascending in both
	edge  uint64 // the receiver takes what is before it
	cwnd  uint64 // bytes that may be under way
	mss   uint64 // bytes of data in one segment to the receiver

	tries int // how often the first byte that is not acknowledged was sent

	dups    int    // acknowledgements in a row that said nothing new
	recover uint64 // a loss is being made good until this is acknowledged

	closing, finSent, finAcked bool // our FIN, which follows the last transformed byte
}

func (s *stream) end() uint64           { return s.base + uint64(len(s.out)) }
func (s *stream) seq(pos uint64) uint32 { return s.isn + 1 + uint32(pos) }

// pos gives the position of a sequence number within 2 GiB of one that is known. It is negative for what is before
// the first byte.
func (s *stream) pos(seq uint32, near uint64) int64 {
	return int64(near) + int64(int32(seq-s.seq(near)))
}

// ended reports that all that the sender will ever send has come.
func (s *stream) ended() bool { return s.finSeen && s.next == s.fin }

// arrive takes in original bytes at pos, which is not before s.next-2^31. It reports whether some of them are ready to
// be read now, and whether some came behind a hole.
func (s *stream) arrive(pos int64, data []byte) (ready, hole bool) {
	if pos < int64(s.next) {
		past := int64(s.next) - pos
		if past >= int64(len(data)) {
			return false, false
		}
		data, pos = data[past:], int64(s.next)
	}
	at, limit := uint64(pos), s.taken+Room+slack
	if s.finSeen {
		limit = min(limit, s.fin)
	}
	if at+uint64(len(data)) > limit {
		if at >= limit {
			return false, false
		}
		data = data[:limit-at]
	}
	if at > s.next {
		s.keep(piece{at, data})
		return false, true
	}
	s.append(data)
	for len(s.early) > 0 && s.early[0].at <= s.next {
		if p := s.early[0]; p.end() > s.next {
			s.append(p.data[s.next-p.at:])
		}
		s.early = s.early[1:]
	}
	if len(s.early) == 0 {
		s.early = nil
	}
	return true, false
}

func (s *stream) append(data []byte) {
	s.avail = append(s.avail, data...)
	s.next += uint64(len(data))
}

// keep remembers a piece behind a hole, without what is kept already.
func (s *stream) keep(p piece) {
	i := 0
	for ; i < len(s.early) && s.early[i].at <= p.at; i++ {
		if e := s.early[i].end(); e > p.at {
			if e >= p.end() {
				return
			}
			p = piece{e, p.data[e-p.at:]}
		}
	}
	if i < len(s.early) && p.end() > s.early[i].at {
		p.data = p.data[:s.early[i].at-p.at] // what is behind comes again if it is missing
	}
	if len(p.data) > 0 && len(s.early) < maxEarly {
		s.early = slices.Insert(s.early, i, piece{p.at, slices.Clone(p.data)})
	}
}

// read gives ready bytes to whoever transforms.
func (s *stream) read(b []byte) int {
	n := copy(b, s.avail)
	s.avail = s.avail[n:]
	s.taken += uint64(n)
	if len(s.avail) == 0 {
		s.avail = nil
	}
	return n
}

// cover notes that all original bytes before orig have become all transformed bytes there are.
func (s *stream) cover(orig uint64) {
	m := mark{orig, s.end()}
	last := &s.low
	if n := len(s.marks); n > 0 {
		last = &s.marks[n-1]
	}
	switch {
	case m == *last:
	case m.out == last.out || len(s.marks) == maxMarks:
		*last = m
	default:
		s.marks = append(s.marks, m)
	}
	s.translate()
}

// trusting reports that the sender has been told that all it sent has arrived: it will send nothing of it again.
func (s *stream) trusting() bool { return s.acked >= s.next }

// finish notes the sender's FIN at pos.
func (s *stream) finish(pos int64) {
	if s.finSeen || pos < int64(s.next) || pos > int64(s.taken+Room+slack) {
		return
	}
	s.fin, s.finSeen = uint64(pos), true
	s.translate()
}

// hold notes that whoever transforms waits for more, with all that was taken. If nothing is under way, then nothing
// will ever acknowledge these bytes to the sender but this.
func (s *stream) hold() {
	if len(s.out) == 0 && s.taken > s.acked {
		s.acked = s.taken
	}
}

// acknowledge notes what the receiver has, and reports whether that is news.
func (s *stream) acknowledge(pos uint64) bool {
	fin := s.finSent && pos == s.end()+1
	if fin {
		pos--
	}
	n := pos - s.base
	if n == 0 && fin == s.finAcked {
		return false
	}
	s.out = s.out[n:]
	s.base, s.sent = pos, max(s.sent, pos)
	s.dups, s.tries = 0, 0
	if len(s.out) == 0 {
		s.out = nil
	}
	s.finAcked = s.finAcked || fin
	s.cwnd = min(s.cwnd+n, MaxOut)
	s.translate()
	return true
}

// doubt makes segments smaller if the first one does not arrive, however often it is sent: the path may be narrower than it is known to be. The
// message of a router that says so goes to the sender, whose segments are others (RFC 4821, 7.7).
func (s *stream) doubt() {
	const enough = 4
	if s.tries >= enough && s.mss > leastMSS {
		s.mss, s.tries = max(s.mss/2, leastMSS), 0
	}
}

// translate moves the acknowledgement to the sender to what that of the receiver covers.
func (s *stream) translate() {
	for len(s.marks) > 0 && s.marks[0].out <= s.base {
		s.low = s.marks[0]
		s.marks = s.marks[1:]
	}
	if len(s.marks) == 0 {
		s.marks = nil
	}
	if s.low.out <= s.base {
		s.acked = max(s.acked, s.low.orig)
	}
	if s.finAcked && s.ended() {
		s.acked = s.fin + 1
	}
}

// before is the transformed position that all of the original bytes before orig certainly lie behind or at: where
// to begin when orig is sent again.
func (s *stream) before(orig uint64) uint64 {
	out := s.base
	for _, m := range s.marks {
		if m.orig > orig {
			break
		}
		out = max(out, m.out)
	}
	return out
}

// behind is the transformed position where what became of the original bytes before orig ends.
func (s *stream) behind(orig uint64) uint64 {
	for _, m := range s.marks {
		if m.orig >= orig {
			return m.out
		}
	}
	return s.end()
}

// within translates a block of transformed bytes that the receiver has into original ones, rounded inwards.
func (s *stream) within(from, to uint64) (a, b uint64, ok bool) {
	ok = false
	prev := s.low
	for _, m := range s.marks {
		if prev.out >= from && m.out <= to {
			if !ok {
				a = prev.orig
			}
			b, ok = m.orig, true
		}
		prev = m
	}
	return a, b, ok && b > a && a > s.acked
}
