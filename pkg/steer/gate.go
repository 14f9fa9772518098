package steer

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
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
	case *net.TCPConn:
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

// DeviceReport is what is known of devices at one moment.
type DeviceReport struct {
	Sums    DeviceSums
	Known   int      // devices that are remembered
	Packets bool     // the packets of devices are counted
	Devices []Device // the one seen last is first
	Denied  []Denied // as the deny list has them
}

// DeviceSums count connections that were accepted, and what became of them.
type DeviceSums struct {
	Accepted uint64 // of a device that is remembered
	Unknown  uint64 // of others: MaxDevices are remembered already
	Denied   uint64
	Limited  uint64
}

// Device is one address.
type Device struct {
	Addr        netip.Addr
	MAC         MAC           // that its last packet came from; zero if not known: there is a router in between, or no classifier
	Connections uint64        // accepted
	Packets     uint64        // TCP segments to steered ports
	Bytes       uint64        // of their frames; segments that the kernel has joined count one header
	Limited     uint64        // connections refused, SYNs included
	Idle        time.Duration // since its last packet, or last connection where packets are not counted
}

// Denied is one entry of the deny list.
type Denied struct {
	Source      string        // MAC, address or prefix
	Connections uint64        // refused when they were accepted
	Packets     uint64        // dropped before
	Idle        time.Duration // since the last of either; -1: there was none
}

// Devices reports at most limit devices, and all of the deny list.
func (s *Steering) Devices(limit int) DeviceReport { return s.devices.report(limit) }

// SetDevices puts other rules in force. After an error the old ones are. Connections that are open go on: see Denied.
func (s *Steering) SetDevices(r DeviceRules) error { return s.devices.set(r) }

// Denied tells whether the device that has an address is kept out; a MAC denies the addresses that it was last seen with.
func (s *Steering) Denied(addr netip.Addr) bool { return s.devices.denied(addr) }

func (t *devices) report(limit int) DeviceReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	r := DeviceReport{Sums: t.sums, Known: len(t.known), Packets: t.kernel != nil, Denied: t.reportDenied(now)}
	since := t.kernel.ages()
	for e := t.order.Front(); e != nil; e = e.Next() {
		d := e.Value.(*device)
		v := Device{Addr: d.addr, Connections: d.accepted, Limited: d.limited, Idle: now - d.seen}
		if c, ok := t.kernel.look(d.addr); ok {
			v.MAC, v.Packets, v.Bytes, v.Limited = c.MAC.mac(), c.Packets, c.Bytes, v.Limited+c.Limited
			if c.Packets > 0 {
				v.Idle = since(c.Seen)
			}
		}
		r.Devices = append(r.Devices, v)
	}
	slices.SortStableFunc(r.Devices, func(a, b Device) int { return cmp.Compare(a.Idle, b.Idle) })
	r.Devices = r.Devices[:min(len(r.Devices), limit)]
	return r
}

// reportDenied lists the deny list. The caller holds mu.
func (t *devices) reportDenied(now time.Duration) []Denied {
	since := t.kernel.ages()
	var list []Denied
	add := func(source string, d denial, m *ebpf.Map, key any) {
		v := Denied{Source: source, Connections: d.connections, Idle: -1}
		if d.connections > 0 {
			v.Idle = now - d.seen
		}
		var c deniedCount
		if m != nil && m.Lookup(key, &c) == nil && c.Packets > 0 {
			v.Packets, v.Idle = c.Packets, since(c.Seen)
		}
		list = append(list, v)
	}
	macs, nets := t.kernel.denials()
	for _, m := range t.rules.DenyMACs {
		add(m.String(), denial{}, macs, keyOfMAC(m))
	}
	for i, p := range t.rules.DenyNets {
		add(sourceText(p), t.denials[i], nets, keyOfNet(p))
	}
	return list
}

// sourceText writes an entry of the deny list as people do: an address alone without its bits.
func sourceText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
