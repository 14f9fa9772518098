package steer

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

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
