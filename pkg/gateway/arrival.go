package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"sealgate/pkg/crypto"
)

// arrival is how far one stream has come at one connection, for the ledgers to see. The direction broker -> device writes next, for a
// message an atomic load and store; the ledgers look at it now and then.
type arrival struct {
	kid   crypto.Kid
	topic string
	group string
	ear   *ear
	jump  atomic.Uint64 // the first number of those that came last without one missing between them
	next  atomic.Uint64 // the number after the highest
	gone  atomic.Bool   // nobody looks at it any more: a message makes a new one

	told uint64 // next, as the ledger knows it; owned by whoever sweeps
	idle int    // sweeps since it changed; owned by whoever sweeps
}

// ear is a connection that messages arrive on.
type ear struct {
	since time.Duration
	over  atomic.Bool
}

// arrivals are all of them. Its lock is taken when a stream begins on a connection and by whoever looks.
type arrivals struct {
	mu      sync.Mutex
	list    []*arrival
	n       int  // with those that are being looked at
	crowded bool // one found no room
}

// begin makes the arrival of a stream; nil if there is no room.
func (a *arrivals) begin(x *arrival, limit int) *arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n >= limit {
		a.crowded = true
		return nil
	}
	a.n++
	a.list = append(a.list, x)
	return x
}

// sweep calls news for each arrival that has changed since the last sweep, and forgets those of connections that have ended, those
// whose key is dead and, when there are many, those that have been idle for long. It reports whether one found no room since.
func (a *arrivals) sweep(keys *crypto.Keyring, limit int, news func(x *arrival, from, next uint64)) (crowded bool) {
	const idleFor = 64
	a.mu.Lock()
	list, many := a.list, a.n > limit/2
	a.list, crowded, a.crowded = nil, a.crowded, false
	a.mu.Unlock()
	kept := list[:0]
	for _, x := range list {
		last := x.ear.over.Load() || x.gone.Load() // before next, which is final then
		if next := x.next.Load(); next != x.told {
			news(x, max(x.told, min(x.jump.Load(), next-1)), next)
			x.told, x.idle = next, 0
		} else {
			x.idle++
		}
		if last {
			continue
		}
		if many && x.idle > idleFor || keys.Find(x.group, x.kid.KeyID()) == nil {
			x.gone.Store(true) // it is looked at once more
		}
		kept = append(kept, x)
	}
	clear(list[len(kept):])
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n -= len(list) - len(kept)
	a.list = append(kept, a.list...)
	return crowded
}

// arrived notes a new message of s. Wills and retained messages are the broker's to send: it is not called for those.
func (d *downPath) arrived(s *openStream, seq uint64) {
	x := s.arrival
	if x == nil || x.ear != d.ear || x.gone.Load() {
		if x = d.beginArrival(s); x == nil {
			return
		}
	}
	next := x.next.Load()
	if seq > next {
		x.jump.Store(seq)
	}
	if seq >= next {
		x.next.Store(seq + 1)
	}
}

func (d *downPath) beginArrival(s *openStream) *arrival {
	if d.ear == nil || s.id.kid.StreamID().Will() {
		return nil
	}
	g := d.c.g
	s.arrival = g.arrivals.begin(&arrival{kid: s.id.kid, topic: s.topicName(), group: s.group, ear: d.ear}, g.cfg.MaxStreams)
	return s.arrival
}
