package gateway

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	tidyAfter = 3 * time.Second
	tidyDelta = 32 // connections
)

// tidier gives memory back after a rush of connections. A TLS handshake leaves garbage and
// grown stacks of about the size of the connection itself, and a gateway whose devices
// are silent afterwards allocates nothing that would make the collector run: for minutes the
// garbage would stay resident, on a router with little memory.
type tidier struct {
	armed atomic.Bool
	last  atomic.Int64 // connections when it ran
}

// changed notes that a connection came or went. It runs a collection some seconds later if
// the number of connections has changed much; steady coming and going costs nothing.
func (g *Gateway) changed() {
	if g.ctx.Err() == nil && g.tidy.armed.CompareAndSwap(false, true) {
		time.AfterFunc(tidyAfter, g.collect)
	}
}

func (g *Gateway) collect() {
	g.tidy.armed.Store(false)
	n := int64(g.connections())
	if d := n - g.tidy.last.Load(); g.ctx.Err() != nil || -tidyDelta < d && d < tidyDelta {
		return
	}
	g.tidy.last.Store(n)
	runtime.GC() // halves stacks
	debug.FreeOSMemory()
}
