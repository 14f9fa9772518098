package gateway

import (
	"io"
	"runtime"
	"time"
)

// dialsAtOnce is how many connections a processor opens their uplinks for at a time. When power or broker come back, all devices are there at once: if every TLS handshake
// ran beside all others, a small processor would end none in time and none would ever be accepted, and each holds some tens of KiB. So few run, each with what it takes,
// and the others wait in the order in which they came. On a slow way to the broker it takes many to keep a handshake going all the time.
const dialsAtOnce = 32

func newTurns() chan struct{} { return make(chan struct{}, dialsAtOnce*runtime.GOMAXPROCS(0)) }

// turn waits until the connection may open its uplink, for limits.connect_timeout at most: then its device is told to come back. The caller calls done once
// the uplink is open, or is not.
func (c *conn) turn() (done func(), err error) {
	turns := c.g.turns
	done = func() { <-turns }
	select {
	case turns <- struct{}{}:
		return done, nil
	default:
	}
	timer := time.NewTimer(c.g.connectTimeout())
	defer timer.Stop()
	select {
	case turns <- struct{}{}:
		if hungUp(c.dev) { // it has lost patience, and is back on another connection
			done()
			return nil, endOfStream{io.EOF}
		}
		return done, nil
	case <-timer.C:
		return nil, refuse(refusedRush, serverUnavailable, "more devices connect at once than connections to the broker can be opened for within limits.connect_timeout: this one is told to come back")
	case <-c.g.ctx.Done():
		return nil, errStopped
	}
}
