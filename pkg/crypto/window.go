package crypto

// Verdict is what a [Window] says of a sequence number.
type Verdict byte

// The verdicts (spec 7.4).
const (
	Fresh     Verdict = iota // not accepted yet
	Duplicate                // accepted before
	TooOld                   // below the window: nobody can tell any more
	Start                    // the first of its stream that this receiver sees
)

// String names the verdict.
func (v Verdict) String() string {
	return [...]string{"fresh", "duplicate", "too-old", "start"}[v&3]
}

// Range is a run of sequence numbers, both ends included.
type Range struct{ From, To uint64 }

// Len is the number of numbers in r.
func (r Range) Len() uint64 { return r.To - r.From + 1 }

const (
	windowWords = 32 // a power of two
	// WindowSize is how many numbers a Window tells apart, the highest included.
	WindowSize = (windowWords - 1) * 64

	_ = uint(WindowSize - 1024)                  // what the specification promises, 7.4
	_ = uint(-(windowWords & (windowWords - 1))) // the ring's index is a mask
)

// Window is the replay window of one stream at one receiver (spec 7.4), after the idea
// of RFC 6479: a ring of words one longer than the window, so that moving it
// forward clears whole words and shifts nothing. It also counts the numbers that are
// missing between the first it saw and the highest.
//
// The order of use is open, [Window.Check], hand the message on, [Window.Commit] when
// it is acknowledged; nothing moves before authentication has succeeded. The zero Window is
// ready. It has no lock: one goroutine owns it. It takes 296 bytes.
type Window struct {
	ring     [windowWords]uint64
	top      uint64 // highest number committed
	first    uint64 // numbers below it are not counted as missing
	received uint64 // numbers committed from first to top
	floor    uint64 // numbers below it are too old whatever the ring says
	started  bool
}

// Resume makes the window of a stream whose window was given up after it had accepted
// highest: that number and all below it are [TooOld], and the next one is no start
// (F17).
func (w *Window) Resume(highest uint64) {
	*w = Window{top: highest, first: highest, received: 1, floor: highest + 1, started: true}
	w.ring[highest/64%windowWords] |= 1 << (highest % 64)
}

// Check says what seq is. It changes nothing.
func (w *Window) Check(seq uint64) Verdict {
	switch {
	case !w.started:
		return Start
	case seq > w.top:
		return Fresh
	case seq < w.floor || w.top-seq >= WindowSize:
		return TooOld
	case w.has(seq):
		return Duplicate
	}
	return Fresh
}

// Commit accepts seq if it is Fresh or Start and does nothing otherwise. When seq lies above
// the next number expected, gap is what it skipped; numbers that come late fill it
// again, see [Window.Fills] and [Window.AppendMissing].
func (w *Window) Commit(seq uint64) (gap Range, gapped bool) {
	switch v := w.Check(seq); {
	case v == Start:
		w.started, w.top, w.first = true, seq, seq
	case v != Fresh:
		return Range{}, false
	case seq > w.top:
		gap, gapped = Range{From: w.top + 1, To: seq - 1}, seq > w.top+1
		w.advance(seq)
	}
	w.ring[seq/64%windowWords] |= 1 << (seq % 64)
	if seq >= w.first {
		w.received++
	}
	if !gapped {
		gap = Range{}
	}
	return gap, gapped
}

// advance moves the top to seq and clears the words that come into the window.
func (w *Window) advance(seq uint64) {
	from, to := w.top/64+1, seq/64
	if to >= from+windowWords {
		from = to - windowWords + 1
	}
	for i := from; i <= to; i++ {
		w.ring[i%windowWords] = 0
	}
	w.top = seq
}

// Highest returns the highest number committed, false before the first.
func (w *Window) Highest() (uint64, bool) { return w.top, w.started }

// Fills reports whether committing seq would fill a gap that was returned earlier.
func (w *Window) Fills(seq uint64) bool {
	return w.started && seq > w.first && seq < w.top && w.Check(seq) == Fresh
}

// Missing returns how many numbers between the first and the highest are missing, late is those
// of them that can still arrive; the rest left the window and are lost.
func (w *Window) Missing() (all, late uint64) {
	if !w.started {
		return 0, 0
	}
	for seq := w.lowest(); seq < w.top; seq++ {
		if !w.has(seq) {
			late++
		}
	}
	return w.top - w.first + 1 - w.received, late
}

// AppendMissing appends the ranges of numbers that are missing but can still arrive, lowest
// first, at most limit of them.
func (w *Window) AppendMissing(dst []Range, limit int) []Range {
	if !w.started {
		return dst
	}
	for seq := w.lowest(); seq < w.top && limit > 0; seq++ {
		if w.has(seq) {
			continue
		}
		r := Range{From: seq, To: seq}
		for !w.has(r.To + 1) { // ends at the top, which is there
			r.To++
		}
		dst, seq, limit = append(dst, r), r.To, limit-1
	}
	return dst
}

// lowest is the lowest number in the window that can count as missing.
func (w *Window) lowest() uint64 {
	low := max(w.first, w.floor)
	if w.top >= WindowSize {
		low = max(low, w.top-WindowSize+1)
	}
	return min(low, w.top)
}

func (w *Window) has(seq uint64) bool { return w.ring[seq/64%windowWords]&(1<<(seq%64)) != 0 }

const tagCount = 1024

// Tags remembers the tags of the last 1024 numbers of a stream beside their Window, so that
// a receiver can tell a repeated message from another one under the same number, which
// only a broken or hostile member makes (spec 7.5). It takes 4 KiB; receivers that do not
// report conflicts need none.
type Tags struct{ ring [tagCount]uint32 }

// Remember notes the tag (see [Envelope.Tag]) of seq, just committed to w.
func (t *Tags) Remember(w *Window, seq uint64, tag uint32) {
	if t.holds(w, seq) {
		t.ring[seq%tagCount] = tag
	}
}

// Conflict reports whether seq, which w calls Duplicate, was accepted with another tag. It is false
// for numbers that are no longer remembered.
func (t *Tags) Conflict(w *Window, seq uint64, tag uint32) bool {
	return t.holds(w, seq) && w.Check(seq) == Duplicate && t.ring[seq%tagCount] != tag
}

func (t *Tags) holds(w *Window, seq uint64) bool {
	return w.started && seq <= w.top && w.top-seq < tagCount
}
