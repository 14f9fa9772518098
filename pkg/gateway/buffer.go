package gateway

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
)

// chunk is what one read takes and one write gives: also the plaintext of one TLS record.
const chunk = 16 << 10

// chunks are shared by all directions of all connections. Only a direction that is at
// work holds some: one to read into, one to write from.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

var errMemory = errors.New("too much is buffered for large messages, all connections together")

// budget bounds the bytes of all buffers beyond one chunk, over all connections.
type budget struct{ left atomic.Int64 }

func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

func (b *budget) give(n int) { b.left.Add(int64(n)) }

// buffer holds what a direction has read and not yet transformed. It starts as a pooled
// chunk, grows with what really arrives, never with what a peer declares, and holds
// nothing at all while it is released.
type buffer struct {
	b      []byte // b[from:] has not been transformed
	from   int
	pooled *[chunk]byte // the storage of b, or nil
	taken  int          // bytes of the budget behind a grown b
	budget *budget
}

// free is where to read to: never empty after acquire.
func (b *buffer) free() []byte { return b.b[len(b.b):cap(b.b)] }

// unread is what has not been transformed yet.
func (b *buffer) unread() []byte { return b.b[b.from:] }

func (b *buffer) empty() bool { return b.from == len(b.b) }

// added says that n bytes were read into free.
func (b *buffer) added(n int) { b.b = b.b[:len(b.b)+n] }

// acquire makes sure that there is storage.
func (b *buffer) acquire() {
	if b.b == nil {
		b.pooled = chunks.Get().(*[chunk]byte)
		b.b, b.from = b.pooled[:0], 0
	}
}

// release gives the storage back if nothing is in it.
func (b *buffer) release() {
	if b.b != nil && b.empty() {
		b.drop()
	}
}

// drop gives the storage back with whatever is in it.
func (b *buffer) drop() {
	if b.pooled != nil {
		chunks.Put(b.pooled)
	}
	if b.taken > 0 {
		b.budget.give(b.taken)
	}
	b.b, b.from, b.pooled, b.taken = nil, 0, nil, 0
}

// compact moves what has not been transformed from the chunk to storage of its own length, before a wait that many may share. Slices of it before are void.
func (b *buffer) compact() {
	if b.pooled != nil && !b.empty() {
		rest := bytes.Clone(b.unread())
		b.drop()
		b.b = rest
	}
}

// settle makes room for the next read, once all whole packets have been transformed: what
// is left moves to the front, into a chunk if it fits, or into twice the storage if it
// fills all there is. It never grows beyond limit bytes.
func (b *buffer) settle(limit int) error {
	rest := b.unread()
	switch {
	case b.b == nil:
		return nil
	case b.pooled == nil && len(rest) < chunk:
		p := chunks.Get().(*[chunk]byte)
		n := copy(p[:], rest)
		b.drop()
		b.pooled, b.b = p, p[:n]
	case b.from > 0:
		n := copy(b.b, rest)
		b.b, b.from = b.b[:n], 0
	case len(b.b) == cap(b.b):
		return b.grow(limit)
	}
	return nil
}

func (b *buffer) grow(limit int) error {
	size := min(2*cap(b.b), max(limit, cap(b.b)+chunk))
	// What fills it will be transformed into an output of about the same size.
	if !b.budget.take(2 * size) {
		return errMemory
	}
	grown := make([]byte, len(b.b), size)
	copy(grown, b.b)
	b.drop()
	b.b, b.taken = grown, 2*size
	return nil
}

// output collects what goes out with the next write. The zero value is ready to use.
type output struct {
	b      []byte
	pooled *[chunk]byte
}

// fits reports whether n more bytes still go out with the same write.
func (o *output) fits(n int) bool { return len(o.b) == 0 || len(o.b)+n <= chunk }

// room makes sure that n bytes can be appended without moving the storage. Call fits, and
// write, before it: a message longer than a chunk travels alone.
func (o *output) room(n int) {
	if cap(o.b)-len(o.b) >= n {
		return
	}
	if o.b == nil && n <= chunk {
		o.pooled = chunks.Get().(*[chunk]byte)
		o.b = o.pooled[:0]
		return
	}
	grown := make([]byte, len(o.b), len(o.b)+n)
	copy(grown, o.b)
	o.drop()
	o.b = grown
}

// sent empties the output after a write; a storage longer than a chunk goes.
func (o *output) sent() {
	if o.pooled == nil {
		o.b = nil
		return
	}
	o.b = o.b[:0]
}

// drop gives the storage back.
func (o *output) drop() {
	if o.pooled != nil {
		chunks.Put(o.pooled)
	}
	o.b, o.pooled = nil, nil
}
