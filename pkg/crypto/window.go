package crypto

// Verdict is what a [Window] says of a sequence number.
type Verdict byte

// The verdicts.
const (
	Fresh     Verdict = iota // not seen yet
	Duplicate                // accepted before
	TooOld                   // below the window: nobody can tell any more
	Start                    // the first of its stream
)

// String names the verdict.
func (v Verdict) String() string {
	return [...]string{"fresh", "duplicate", "too old", "start"}[v&3]
}

// Range is a run of sequence numbers, both ends included. The zero value of a Range that a Window
// returns is told from number 0 by the boolean beside it.
type Range struct{ From, To uint64 }

// Len is the number of numbers in r.
func (r Range) Len() uint64 { return r.To - r.From + 1 }

// Window is a replay window.
type Window struct {
	ring     [32]uint64
	top      uint64
	first    uint64
	floor    uint64
	received uint64
	started  bool
}

// Check tells what seq is, changing nothing.
func (w *Window) Check(seq uint64) Verdict { return Fresh }

// Commit accepts seq. It returns the numbers skipped between the highest so far and
// seq, if any (gap).
func (w *Window) Commit(seq uint64) (gap Range, gapped bool) { return }
