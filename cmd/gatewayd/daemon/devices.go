package daemon

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"sealgate/pkg/config"
	"sealgate/pkg/steer"
)

// maxDeviceSeries and maxDeviceStatus bound what is said of single devices, those seen last.
const (
	maxDeviceSeries = 256
	maxDeviceStatus = 256
)

// deviceRules are [devices] as package steer has them.
func deviceRules(c *config.Devices) steer.DeviceRules {
	r := steer.DeviceRules{DenyNets: slices.Clone(c.DenyNets), Every: c.Every, Burst: c.Burst}
	for _, m := range c.DenyMACs {
		r.DenyMACs = append(r.DenyMACs, steer.MAC(m))
	}
	return r
}

// refuses tells whether a device is kept out. Before steering has begun nobody is there.
func (d *daemon) refuses(device netip.Addr) bool {
	s := d.steering.Load()
	return s != nil && s.Denied(device)
}

// reloadDevices puts [devices] in force, and ends the connections of whom it keeps out.
func (d *daemon) reloadDevices(next *config.Config) {
	s := d.steering.Load()
	if s == nil {
		return
	}
	if err := s.SetDevices(deviceRules(&next.Devices)); err != nil {
		d.log.Error("reload: [devices] refused, going on with the rules before", "error", err)
		return
	}
	d.perDevice.Store(next.Devices.Metrics)
	if n := d.gateway.Disconnect(s.Denied); n > 0 {
		d.log.Info("reload: devices.deny ended open connections", "connections", n)
	}
}

// DevicesStatus is what /status says of devices.
type DevicesStatus struct {
	Known       int            `json:"known"` // addresses that have connected, at most steer.MaxDevices
	Counted     bool           `json:"packets_counted"`
	Connections uint64         `json:"connections"` // accepted and served
	Denied      RefusedStatus  `json:"denied"`
	Limited     RefusedStatus  `json:"limited"`
	Devices     []DeviceStatus `json:"devices"`   // at most 256, the one seen last first
	DenyList    []DeniedStatus `json:"deny_list"` // as configured: MACs, then addresses
}

// RefusedStatus counts what was refused.
type RefusedStatus struct {
	Packets     uint64 `json:"packets"`     // dropped by the classifier; of the limit, SYNs
	Connections uint64 `json:"connections"` // reset when they were accepted
}

// DeviceStatus is one address.
type DeviceStatus struct {
	MAC         string   `json:"mac,omitempty"` // of its last packet; missing: not known
	Address     string   `json:"address"`
	Clients     []string `json:"clients"` // ids of its connections at present, at most 8
	Open        int      `json:"open"`    // connections at present
	Connections uint64   `json:"connections"`
	Packets     uint64   `json:"packets"` // towards the broker; 0 where packets_counted is false, like bytes
	Bytes       uint64   `json:"bytes"`
	Limited     uint64   `json:"limited"`
	Seen        float64  `json:"last_seen_seconds"` // ago
}

// DeniedStatus is one entry of the deny list.
type DeniedStatus struct {
	Source string `json:"source"`
	RefusedStatus
	Seen float64 `json:"last_seen_seconds"` // ago; -1: never
}

func (d *daemon) devicesStatus() *DevicesStatus {
	s := d.steering.Load()
	if s == nil {
		return nil
	}
	r := s.Devices(maxDeviceStatus)
	c, _ := s.Counters() // they are zero then
	out := &DevicesStatus{
		Known: r.Known, Counted: r.Packets, Connections: r.Sums.Accepted + r.Sums.Unknown,
		Denied: RefusedStatus{c.Denied, r.Sums.Denied}, Limited: RefusedStatus{c.Limited, r.Sums.Limited},
		Devices: []DeviceStatus{}, DenyList: []DeniedStatus{},
	}
	clients := d.gateway.Clients()
	for _, v := range r.Devices {
		now := clients[v.Addr]
		out.Devices = append(out.Devices, DeviceStatus{
			MAC: macText(v.MAC), Address: v.Addr.String(), Clients: append([]string{}, now.IDs...), Open: now.Connections,
			Connections: v.Connections, Packets: v.Packets, Bytes: v.Bytes, Limited: v.Limited, Seen: v.Idle.Seconds(),
		})
	}
	for _, v := range r.Denied {
		seen := -1.0
		if v.Idle >= 0 {
			seen = v.Idle.Round(time.Millisecond).Seconds()
		}
		out.DenyList = append(out.DenyList, DeniedStatus{v.Source, RefusedStatus{v.Packets, v.Connections}, seen})
	}
	return out
}

func macText(m steer.MAC) string {
	if m == (steer.MAC{}) {
		return ""
	}
	return m.String()
}

// writeDevices writes the sums and, where the configuration asks for it, series of single devices.
func (d *daemon) writeDevices(w io.Writer) {
	s := d.steering.Load()
	if s == nil {
		return
	}
	limit := 0
	if d.perDevice.Load() {
		limit = maxDeviceSeries
	}
	r := s.Devices(limit)
	c, _ := s.Counters()
	fmt.Fprintf(w, "sealgate_devices %d\n", r.Known)
	fmt.Fprintf(w, "sealgate_device_connections_total{result=\"served\"} %d\n", r.Sums.Accepted+r.Sums.Unknown)
	fmt.Fprintf(w, "sealgate_device_connections_total{result=\"denied\"} %d\n", r.Sums.Denied)
	fmt.Fprintf(w, "sealgate_device_connections_total{result=\"limited\"} %d\n", r.Sums.Limited)
	fmt.Fprintf(w, "sealgate_device_dropped_packets_total{reason=\"denied\"} %d\n", c.Denied)
	fmt.Fprintf(w, "sealgate_device_dropped_packets_total{reason=\"limited\"} %d\n", c.Limited)
	for _, v := range r.Devices {
		labels := fmt.Sprintf("{address=%q,mac=%q}", v.Addr, macText(v.MAC))
		fmt.Fprintf(w, "sealgate_device_accepted_total%s %d\n", labels, v.Connections)
		fmt.Fprintf(w, "sealgate_device_limited_total%s %d\n", labels, v.Limited)
		if r.Packets {
			fmt.Fprintf(w, "sealgate_device_packets_total%s %d\n", labels, v.Packets)
			fmt.Fprintf(w, "sealgate_device_bytes_total%s %d\n", labels, v.Bytes)
		}
	}
}
