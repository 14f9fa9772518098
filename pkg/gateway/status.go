package gateway

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Status is what /status shows of the data plane.
type Status struct {
	Ready        bool                         `json:"ready"` // there are a policy and keys
	Connections  int                          `json:"connections"`
	Streams      int                          `json:"streams"`
	IdleSessions int                          `json:"idle_sessions"`
	Messages     map[string]map[string]uint64 `json:"messages"` // by direction and verdict
	Bytes        map[string]uint64            `json:"bytes"`    // by direction
	Gaps         uint64                       `json:"gap_messages"`
	Refused      map[string]uint64            `json:"refused"`       // connections, by reason
	UplinkErrors map[string]uint64            `json:"uplink_errors"` // by reason
	Epochs       map[string]EpochStatus       `json:"epochs"`        // by group
	Checkpoints  CheckpointStatus             `json:"checkpoints"`
	Devices      []DeviceStatus               `json:"devices"` // at most 256, the longest connected first
}

// EpochStatus is the epoch that a group's messages are sealed under.
type EpochStatus struct {
	Epoch string `json:"epoch"` // policy version.generation.number
	Key   string `json:"key"`   // key id, hex
	Age   int64  `json:"age_seconds"`
}

// DeviceStatus is one connection. Addresses are the device's and the one that it dialled.
type DeviceStatus struct {
	Client  string `json:"client"`
	Device  string `json:"device"`
	Broker  string `json:"broker"`
	Version string `json:"version"`
	Seconds int64  `json:"seconds"` // connected
	Up      uint64 `json:"up"`      // messages forwarded
	Down    uint64 `json:"down"`
	Refused uint64 `json:"refused"`
}

// Clients are the connections of one device at present.
type Clients struct {
	Connections int
	IDs         []string // client ids, the first eight by name; without those that are empty or not known yet
}

const maxClients = 8

// Clients returns them by the devices' addresses.
func (g *Gateway) Clients() map[netip.Addr]Clients {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[netip.Addr]Clients)
	for c := range g.conns {
		d := all[c.from.Addr()]
		d.Connections++
		if c.running.Load() && c.name() != "" {
			d.IDs = append(d.IDs, c.name())
		}
		all[c.from.Addr()] = d
	}
	for addr, d := range all {
		slices.Sort(d.IDs)
		d.IDs = d.IDs[:min(len(d.IDs), maxClients)]
		all[addr] = d
	}
	return all
}

// Disconnect ends the connections of the devices that match, as Close would, and returns how many. A connection that is only
// beginning is found here or asks Config.Refuses afterwards, so what both answer alike leaves none over.
func (g *Gateway) Disconnect(match func(device netip.Addr) bool) int {
	g.mu.Lock()
	conns := slices.Collect(maps.Keys(g.conns))
	g.mu.Unlock()
	n := 0
	for _, c := range conns {
		if match(c.from.Addr()) {
			c.abort()
			n++
		}
	}
	return n
}

// Metrics gives the counters.
func (g *Gateway) Metrics() *Metrics { return g.metrics }

func (g *Gateway) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Status takes a snapshot for people and for sealctl.
func (g *Gateway) Status() Status {
	m := g.metrics
	s := Status{
		Ready:        g.Ready(),
		Streams:      int(g.streams.Load()),
		IdleSessions: g.store.len(),
		Messages:     map[string]map[string]uint64{"up": {}, "down": {}},
		Bytes:        m.labelled("sealgate_bytes_total"),
		Gaps:         m.gaps.Get(),
		Refused:      m.labelled("sealgate_refused_total"),
		UplinkErrors: m.labelled("sealgate_uplink_errors_total"),
		Epochs:       g.epochStatus(),
		Checkpoints:  g.checkpointStatus(),
	}
	for v, w := range verdictWords {
		s.Messages[w.direction][w.verdict] = m.messages[v].Get()
	}
	s.Connections, s.Devices = g.devices()
	return s
}

func (g *Gateway) epochStatus() map[string]EpochStatus {
	out := make(map[string]EpochStatus)
	keys := g.state.Load().Keys
	g.metrics.epochs.mu.Lock()
	defer g.metrics.epochs.mu.Unlock()
	for _, name := range keys.Groups() {
		if k := keys.Send(name); k != nil {
			age := time.Since(g.metrics.epochs.m[name].since)
			out[name] = EpochStatus{Epoch: k.Epoch.String(), Key: k.ID.String(), Age: int64(age.Seconds())}
		}
	}
	return out
}

func (g *Gateway) devices() (int, []DeviceStatus) {
	g.mu.Lock()
	n := len(g.conns)
	conns := make([]*conn, 0, n)
	for c := range g.conns {
		if c.running.Load() {
			conns = append(conns, c)
		}
	}
	g.mu.Unlock()
	slices.SortFunc(conns, func(a, b *conn) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.name(), b.name()))
	})
	out := []DeviceStatus{}
	for _, c := range conns[:min(len(conns), statusMax)] {
		out = append(out, DeviceStatus{
			Client: c.name(), Device: c.from.String(), Broker: c.dst.String(), Version: c.version.String(),
			Seconds: int64(time.Since(c.since).Seconds()),
			Up:      c.messages[0].Load(), Down: c.messages[1].Load(), Refused: c.refusedMsg.Load(),
		})
	}
	return n, out
}
