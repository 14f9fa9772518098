package gateway

import (
	"io"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// dialsAtOnce is how many connections a processor opens their uplinks for at a time. When power or broker come back, all devices are there at once: if every TLS handshake
// ran beside all others, a small processor would end none in time and none would ever be accepted, and each holds some tens of KiB. So few run, each with what it takes,
// and the others wait in the order in which they came. On a slow way to the broker it takes many to keep a handshake going all the time.
const dialsAtOnce = 32

// turns are the places of connections that open their uplinks. One address has half of them at most: a device that dials where nobody answers keeps each of its places
// for limits.connect_timeout, and no other device waits for that.
type turns struct {
	places chan struct{}
	mu     sync.Mutex
	shares map[netip.Addr]*dialShare // of the addresses that have or await places
}

type dialShare struct {
	places chan struct{}
	users  int // under turns.mu
}

func newTurns() *turns {
	return &turns{places: make(chan struct{}, dialsAtOnce*runtime.GOMAXPROCS(0)), shares: make(map[netip.Addr]*dialShare)}
}

func (t *turns) join(a netip.Addr) *dialShare {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shares[a]
	if s == nil {
		s = &dialShare{places: make(chan struct{}, cap(t.places)/2)}
		t.shares[a] = s
	}
	s.users++
	return s
}

func (t *turns) leave(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shares[a].users--; t.shares[a].users == 0 {
		delete(t.shares, a)
	}
}

// turn waits until the connection may open its uplink, for limits.connect_timeout at most: then its device is told to come back. The caller calls done once
// the uplink is open, or is not.
func (c *conn) turn() (done func(), err error) {
	t, from := c.g.turns, c.from.Addr()
	both := [...]chan struct{}{t.join(from).places, t.places}
	held, waited := 0, false
	done = func() {
		for _, places := range both[:held] {
			<-places
		}
		t.leave(from)
	}
	timer := time.NewTimer(c.g.connectTimeout())
	defer timer.Stop()
	for _, places := range both {
		select {
		case places <- struct{}{}:
			held++
			continue
		default:
			waited = true
		}
		select {
		case places <- struct{}{}:
			held++
		case <-timer.C:
			done()
			return nil, refuse(refusedRush, serverUnavailable, "more devices connect at once than connections to the broker can be opened for within limits.connect_timeout: this one is told to come back")
		case <-c.g.ctx.Done():
			done()
			return nil, errStopped
		}
	}
	if waited && hungUp(c.dev) { // it has lost patience, and is back on another connection
		done()
		return nil, endOfStream{io.EOF}
	}
	return done, nil
}
