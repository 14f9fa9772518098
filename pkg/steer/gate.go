package steer

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// gate asks about the device of each connection that is accepted, whatever steered it here.
type gate struct {
	net.Listener
	devices *devices
	log     *slog.Logger
	refused seldom
	denied  seldom
	limited seldom
}

// guardDevices puts the gate in front of the listener.
func (s *Steering) guardDevices(o *Options, log *slog.Logger) {
	s.devices = newDevices(o, s.kernel)
	g := &gate{Listener: s.Listener, devices: s.devices, log: log}
	s.Listener = g
	if s.kernel == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.hear(ctx, s.kernel) }()
	s.unhear = func() { stop(); <-done }
}

// Accept returns the next connection of a device that may connect. The others are reset.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := deviceAddr(conn.RemoteAddr())
		reason := g.devices.admit(addr)
		if reason == "" {
			return conn, nil
		}
		if g.refused.now() {
			g.log.Warn("device refused", "device", addr.String(), "reason", reason)
		}
		reset(conn)
	}
}

// reset ends a connection without a word more.
func reset(conn net.Conn) {
	switch c := conn.(type) {
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0)
	case interface{ Abort() error }: // in passing: the broker's end too
		_ = c.Abort()
	}
	_ = conn.Close()
}

// deviceAddr is the address that a device is known by.
func deviceAddr(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// seldom lets one log line through a minute.
type seldom struct{ last atomic.Int64 }

func (s *seldom) now() bool {
	now, last := time.Now().Unix(), s.last.Load()
	return now-last >= 60 && s.last.CompareAndSwap(last, now)
}

// hearEvery is how often the classifier's events are fetched, as long as they are few.
const hearEvery = time.Second

// hear writes into the log what the classifier tells of new connections.
func (g *gate) hear(ctx context.Context, k *kernelDevices) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(hearEvery):
		}
		for range maxEvents { // no longer, however fast they come
			var e deviceEvent
			if k.objects.SteerEventsMap.LookupAndDelete(nil, &e) != nil {
				break
			}
			g.heard(&e)
		}
	}
}

func (g *gate) heard(e *deviceEvent) {
	args := []any{"device", netip.AddrPortFrom(netip.AddrFrom16(e.Address).Unmap(), uint16(e.Port)).String(), "mac", e.MAC.mac().String()}
	switch {
	case e.Kind == eventDenied && g.denied.now():
		g.log.Warn("device denied: devices.deny has it", args...)
	case e.Kind == eventLimited && g.limited.now():
		g.log.Warn("device limited: it makes more connections than devices.rate", args...)
	default:
		g.log.Debug("connection", append(args, "kind", e.Kind)...)
	}
}
