package gateway

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"

	"sealgate/pkg/crypto"
)

// Bounds of what waits to be told of streams.
const (
	maxEnded  = 1 << 14 // ended streams; the oldest are forgotten
	maxBurned = 16      // burned ranges of one stream; those that find no room count as sent
	maxDoubt  = 1 << 12 // streams with burned ranges
)

// StreamHead says how far one seal stream has come since it was last told of. Checkpoints are
// made of heads. Streams of wills have none: the broker sends a will, or never does.
type StreamHead struct {
	Group  string
	Topic  [32]byte // SHA-256 of the topic name
	Key    crypto.KeyID
	Stream crypto.StreamID
	From   uint64         // the first number since the head before
	Next   uint64         // the number after the last one used
	Burned []crypto.Range // of From to Next-1: numbers that never left; ascending
	Final  bool           // the stream has ended
}

// heads knows every seal stream that is in use, and what was told of it. Its lock is taken when a
// stream begins or ends, when writing to a broker fails, and by Heads; never for a message.
type heads struct {
	mu     sync.Mutex // guards what follows, and headState.told, before and after of all streams
	first  *sealStream
	burned map[*sealStream][]crypto.Range
	ended  []StreamHead
}

// headState is what a sealStream carries of it. marked and retired belong to the stream's owner.
type headState struct {
	sent          atomic.Uint64 // numbers below it have been written, or never will be; stored by the owner, for Heads
	told          uint64        // sent, when Heads told last
	before, after *sealStream   // in heads.first's list
	unwritten     *sealStream   // the next one in upPath.unwritten
	marked        bool          // it is in upPath.unwritten
	retired       bool          // it has ended, and what waits to be written is its last
}

// begin notes a new stream.
func (h *heads) begin(s *sealStream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.head.told, s.head.before, s.head.after = 0, nil, h.first
	if h.first != nil {
		h.first.head.before = s
	}
	h.first = s
}

// end notes that a stream has ended: its epoch is over, it was evicted, or its session was dropped.
func (h *heads) end(s *sealStream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.head.before != nil {
		s.head.before.head.after = s.head.after
	} else if h.first == s {
		h.first = s.head.after
	}
	if s.head.after != nil {
		s.head.after.head.before = s.head.before
	}
	s.head.before, s.head.after = nil, nil
	head := h.take(s)
	head.Final = true
	if head.Next == 0 {
		return // nobody has heard of it
	}
	if len(h.ended) >= maxEnded {
		h.ended = append(h.ended[:0], h.ended[maxEnded/4:]...)
	}
	h.ended = append(h.ended, head)
}

// take makes the head of s and notes that it is told. The caller holds mu.
func (h *heads) take(s *sealStream) StreamHead {
	kid := s.seal.Kid()
	head := StreamHead{
		Group: s.group, Topic: sha256.Sum256([]byte(s.topic)), Key: kid.KeyID(), Stream: kid.StreamID(),
		From: s.head.told, Next: s.head.sent.Load(), Burned: h.burned[s],
	}
	delete(h.burned, s)
	s.head.told = head.Next
	return head
}

// burn notes that the numbers of s up to next that are not written never will be.
func (h *heads) burn(s *sealStream, next uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := s.head.sent.Load()
	s.head.sent.Store(next)
	ranges, known := h.burned[s]
	switch n := len(ranges); {
	case from >= next:
		return
	case n > 0 && ranges[n-1].To+1 == from:
		ranges[n-1].To = next - 1
		return
	case n >= maxBurned, !known && len(h.burned) >= maxDoubt:
		return
	}
	if h.burned == nil {
		h.burned = make(map[*sealStream][]crypto.Range)
	}
	h.burned[s] = append(ranges, crypto.Range{From: from, To: next - 1})
}

// Heads gives the heads of at most limit streams: of those that have ended, and of those that have
// sent something, since they were told of last. As many as limit means that there may be more.
func (g *Gateway) Heads(limit int) (out []StreamHead) {
	h := &g.heads
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(limit, len(h.ended))
	out = append(out, h.ended[:n]...)
	if h.ended = h.ended[n:]; len(h.ended) == 0 {
		h.ended = nil
	}
	for s := h.first; s != nil && len(out) < limit; s = s.head.after {
		if s.head.sent.Load() != s.head.told {
			out = append(out, h.take(s))
		}
	}
	return out
}

// mark notes that something of s waits to be written.
func (u *upPath) mark(s *sealStream) {
	if !s.head.marked {
		s.head.marked, s.head.unwritten, u.unwritten = true, u.unwritten, s
	}
}

// written settles what waited to be written: it has left, or never will.
func (u *upPath) written(left bool) {
	for s := u.unwritten; s != nil; s = u.unwritten {
		u.unwritten, s.head.unwritten, s.head.marked = s.head.unwritten, nil, false
		if next := s.seal.Next(); left {
			s.head.sent.Store(next)
		} else {
			u.c.g.heads.burn(s, next)
		}
		if s.head.retired {
			u.c.g.heads.end(s)
		}
	}
}

// retire ends a stream, once nothing of it waits to be written.
func (u *upPath) retire(s *sealStream) {
	if s.head.marked {
		s.head.retired = true
		return
	}
	u.c.g.heads.end(s)
}
