package lab

import (
	"strings"

	"github.com/vishvananda/netlink"
)

// NewBridgeTopology makes a Topology whose gateway is a bridge of its two interfaces: sensor and broker are in one
// subnet, at the addresses of the routed Topology. With an address the bridge itself has LANIP4 and LANIP6.
func NewBridgeTopology(t T, addressed bool) *Topology {
	t.Helper()
	topo := newTopology(t)
	topo.Bridge = "br" + strings.TrimPrefix(topo.LAN, "lan")
	Veth(t, topo.Gateway, topo.LAN, topo.Sensor, "eth0")
	topo.sameDevice(t)
	Veth(t, topo.Gateway, topo.Up, topo.Uplink, "eth0")
	topo.LayBridge(t, addressed)
	topo.Sensor.AddAddr(t, "eth0", SensorIP4+"/16")
	topo.Sensor.AddAddr(t, "eth0", SensorIP6+"/16")
	topo.Uplink.AddAddr(t, "eth0", BrokerIP4+"/16")
	topo.Uplink.AddAddr(t, "eth0", BrokerIP6+"/16")
	return topo
}

// LayBridge makes the bridge and puts the gateway's two interfaces in.
func (topo *Topology) LayBridge(t T, addressed bool) {
	t.Helper()
	topo.Gateway.netlink(t, "make bridge "+topo.Bridge, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = topo.Bridge
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	topo.Plug(t, topo.LAN)
	topo.Plug(t, topo.Up)
	topo.Gateway.up(t, topo.Bridge)
	if addressed {
		topo.Gateway.AddAddr(t, topo.Bridge, LANIP4+"/16")
		topo.Gateway.AddAddr(t, topo.Bridge, LANIP6+"/16")
	}
}

// CutBridge takes the bridge away. Its ports stay.
func (topo *Topology) CutBridge(t T) {
	t.Helper()
	topo.Gateway.netlink(t, "remove bridge "+topo.Bridge, func(h *netlink.Handle) error {
		l, err := h.LinkByName(topo.Bridge)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// Plug puts an interface of the gateway into the bridge.
func (topo *Topology) Plug(t T, name string) {
	t.Helper()
	topo.Gateway.netlink(t, "put "+name+" into the bridge", func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(topo.Bridge)
		if err != nil {
			return err
		}
		port, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkSetMaster(port, bridge)
	})
}

// Unplug takes an interface of the gateway out of the bridge.
func (topo *Topology) Unplug(t T, name string) {
	t.Helper()
	topo.Gateway.netlink(t, "take "+name+" out of the bridge", func(h *netlink.Handle) error {
		port, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkSetNoMaster(port)
	})
}
