package gateway

import (
	"context"
	"slices"
	"time"
)

// Dismiss ends the connections that there are, the oldest first and evenly over a time, so that their devices do not all
// come back at once. Each ends as if its device had said all it had to: what it has sent goes to the broker, and the broker's
// answers to it. One whose CONNECT is not answered yet waits for a later turn. Dismiss returns when all have had theirs or
// ctx ends; how long they may take is Drain's matter. New connections are to have ended before.
func (g *Gateway) Dismiss(ctx context.Context, over time.Duration) {
	g.mu.Lock()
	conns := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	slices.SortFunc(conns, func(a, b *conn) int { return a.since.Compare(b.since) })
	pause := max(over/time.Duration(len(conns)+1), 100*time.Microsecond)
	turn := time.NewTicker(pause)
	defer turn.Stop()
	for len(conns) > 0 {
		select {
		case <-turn.C:
		case <-ctx.Done():
			return
		}
		c := conns[0]
		conns = conns[1:]
		if !c.running.Load() || !c.greeted() {
			if g.has(c) {
				conns = append(conns, c)
			}
			continue
		}
		c.dismiss()
	}
}

func (g *Gateway) has(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, yes := g.conns[c]
	return yes
}

// dismiss lets the direction device -> broker find the end of what the device has sent by now.
func (c *conn) dismiss() {
	if dev, ok := c.dev.(interface{ CloseRead() error }); ok {
		_ = dev.CloseRead()
		return
	}
	c.abort()
}
