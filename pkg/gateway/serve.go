package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Serve accepts connections from ln until ctx ends or the gateway is closed or drained; then
// it returns nil. It owns ln and closes it. Connections live on until Drain or Close ends
// them. Several listeners may be served at once.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener) error {
	if !g.addListener(ln) {
		ln.Close()
		return errors.New("gateway: Serve after Close")
	}
	defer g.removeListener(ln)
	unwatch := context.AfterFunc(ctx, func() { ln.Close() })
	defer unwatch()
	pause := minWait
	for {
		dev, err := ln.Accept()
		switch {
		case err == nil:
			pause = minWait
			g.accepted(dev)
			continue
		case ctx.Err() != nil || g.stopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("gateway: the listener was closed: %w", err)
		}
		// Out of file descriptors, most likely: never turn in circles over it.
		g.metrics.refuse(refusedAccept)
		g.report.warn(refusedAccept, "cannot accept a connection: "+err.Error()+"; trying again shortly", "pause", pause)
		select {
		case <-ctx.Done():
		case <-g.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, acceptWait)
	}
}

// accepted starts a connection, or closes it when there are too many.
func (g *Gateway) accepted(dev net.Conn) {
	watchPeer(dev)
	c := g.newConn(dev)
	if err := g.add(c); err != nil {
		_ = dev.Close()
		if err != errStopped {
			g.metrics.refuse(refusedConnections)
			g.report.warn(refusedConnections, err.Error(), "device", c.from)
		}
		return
	}
	go c.serve()
}

func (g *Gateway) add(c *conn) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped:
		return errStopped
	case len(g.conns) >= g.maxConnections():
		return fmt.Errorf("limits.max_connections (%d) reached: a connection was closed", g.maxConnections())
	}
	g.conns[c] = struct{}{}
	return nil
}

func (g *Gateway) remove(c *conn) {
	g.changed()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if g.stopped && len(g.conns) == 0 {
		g.signalIdle()
	}
}

// signalIdle closes g.idle once. g.mu is held.
func (g *Gateway) signalIdle() {
	select {
	case <-g.idle:
	default:
		close(g.idle)
	}
}

func (g *Gateway) addListener(ln net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return false
	}
	g.listeners[ln] = struct{}{}
	return true
}

func (g *Gateway) removeListener(ln net.Listener) {
	ln.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.listeners, ln)
}

func (g *Gateway) stopping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopped
}

// stopAccepting closes the listeners; no connection is added any more.
func (g *Gateway) stopAccepting() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	for ln := range g.listeners {
		ln.Close()
	}
	if len(g.conns) == 0 {
		g.signalIdle()
	}
}

// Drain stops accepting and waits for connections to end; when ctx ends it closes the rest.
// It returns ctx's error if it had to. Devices re-send what the broker has not acknowledged.
func (g *Gateway) Drain(ctx context.Context) error {
	g.stopAccepting()
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
	}
	_ = g.Close()
	return ctx.Err()
}

// Close ends every connection and returns when all are gone.
func (g *Gateway) Close() error {
	g.stopAccepting()
	g.stop()
	g.mu.Lock()
	conns := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
	<-g.idle
	return nil
}
