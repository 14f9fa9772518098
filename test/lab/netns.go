package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace held by an open descriptor: it goes when the process and its children are gone.
type Namespace struct {
	Name   string
	handle netns.NsHandle
}

// NewNamespace makes an empty namespace with its loopback interface up. Name serves messages only.
func NewNamespace(t T, name string) *Namespace {
	t.Helper()
	handle := netns.None()
	err := onThread(func() error {
		var err error
		handle, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace %s: %v", name, err)
	}
	ns := &Namespace{Name: name, handle: handle}
	t.Cleanup(func() { ns.handle.Close() })
	ns.up(t, "lo")
	ns.Sysctl(t, "net/ipv6/conf/default/accept_dad", "0") // else neighbours are not found for the first two seconds
	return ns
}

// onThread runs f on an operating system thread whose network namespace f may change, and puts the namespace back after.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine: nobody else may run in f's namespace
		}
		done <- err
	}()
	return <-done
}

// Do runs f on a thread inside the namespace. Sockets that f opens and processes it starts belong to the namespace for
// good; goroutines it starts do not.
func (ns *Namespace) Do(f func() error) error {
	if ns == nil {
		return f()
	}
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// Path names the namespace for `nsenter --net=PATH`, valid while the process lives.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns.handle))
}

// Dial connects to an IP address and port from inside the namespace. A nil namespace is the caller's own.
func (ns *Namespace) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens on an address inside the namespace. A nil namespace is the caller's own.
func (ns *Namespace) Listen(network, addr string) (l net.Listener, err error) {
	err = ns.Do(func() error {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// Sysctl writes a value below /proc/sys as seen from the namespace, e.g. "net/ipv4/ip_forward".
func (ns *Namespace) Sysctl(t T, key, value string) {
	t.Helper()
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
	if err != nil {
		t.Fatalf("set %s in namespace %s: %v", key, ns.Name, err)
	}
}

// netlink calls f with a netlink handle of the namespace.
func (ns *Namespace) netlink(t T, what string, f func(*netlink.Handle) error) {
	t.Helper()
	h, err := netlink.NewHandleAt(ns.handle)
	if err == nil {
		defer h.Close()
		err = f(h)
	}
	if err != nil {
		t.Fatalf("%s in namespace %s: %v", what, ns.Name, err)
	}
}

func (ns *Namespace) up(t T, name string) {
	t.Helper()
	ns.netlink(t, "bring up "+name, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
}

// AddAddr gives an interface an address in CIDR form, usable at once (no duplicate address detection).
func (ns *Namespace) AddAddr(t T, ifname, cidr string) {
	t.Helper()
	ns.netlink(t, "add address "+cidr+" to "+ifname, func(h *netlink.Handle) error {
		link, err := h.LinkByName(ifname)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = 0x02 // IFA_F_NODAD
		}
		return h.AddrAdd(link, addr)
	})
}

// AddRoute adds a route; dst "default" with a gateway of either family is a default route.
func (ns *Namespace) AddRoute(t T, dst, via string) {
	t.Helper()
	ns.netlink(t, "add route to "+dst+" via "+via, func(h *netlink.Handle) error {
		route := &netlink.Route{Gw: net.ParseIP(via)}
		if dst != "default" {
			_, cidr, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			route.Dst = cidr
		}
		return h.RouteAdd(route)
	})
}

// SetMTU sets the longest packet that an interface takes.
func (ns *Namespace) SetMTU(t T, ifname string, mtu int) {
	t.Helper()
	ns.netlink(t, fmt.Sprintf("set the MTU of %s to %d", ifname, mtu), func(h *netlink.Handle) error {
		l, err := h.LinkByName(ifname)
		if err != nil {
			return err
		}
		return h.LinkSetMTU(l, mtu)
	})
}

// Veth lays a cable between two namespaces: interface nameA in a, nameB in b, both up.
func Veth(t T, a *Namespace, nameA string, b *Namespace, nameB string) {
	t.Helper()
	a.netlink(t, "lay cable "+nameA+" - "+nameB, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.handle))})
	})
	a.up(t, nameA)
	b.up(t, nameB)
}

// TapHeader is the length of what stands before each frame at a tap's descriptor, struct virtio_net_hdr.
const TapHeader = 10

// NewTap makes a tap interface, up, whose other end is the descriptor: a virtual machine's, through Cmd.Files. It goes with the descriptor.
func (ns *Namespace) NewTap(t T, name string) *os.File {
	t.Helper()
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1, NonPersist: true,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_ONE_QUEUE}
	if err := ns.Do(func() error { return netlink.LinkAdd(tap) }); err != nil {
		t.Fatalf("make the tap %s in namespace %s: %v", name, ns.Name, err)
	}
	t.Cleanup(func() { tap.Fds[0].Close() })
	ns.up(t, name)
	return tap.Fds[0]
}

// CutLAN takes the gateway's interface to the devices away, and the devices' with it.
func (topo *Topology) CutLAN(t T) {
	t.Helper()
	topo.Gateway.netlink(t, "remove "+topo.LAN, func(h *netlink.Handle) error {
		l, err := h.LinkByName(topo.LAN)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// LayLAN lays the cable between gateway and devices. These keep the Ethernet address that they had at another cable.
func (topo *Topology) LayLAN(t T) {
	t.Helper()
	Veth(t, topo.Gateway, topo.LAN, topo.Sensor, "eth0")
	topo.sameDevice(t)
	if topo.Bridge != "" {
		topo.Plug(t, topo.LAN)
		topo.Sensor.AddAddr(t, "eth0", SensorIP4+"/16")
		topo.Sensor.AddAddr(t, "eth0", SensorIP6+"/16")
		return
	}
	topo.Sensor.AddAddr(t, "eth0", SensorIP4+"/24")
	topo.Sensor.AddAddr(t, "eth0", SensorIP6+"/64")
	topo.Gateway.AddAddr(t, topo.LAN, LANIP4+"/24")
	topo.Gateway.AddAddr(t, topo.LAN, LANIP6+"/64")
	topo.Sensor.AddRoute(t, "default", LANIP4)
	topo.Sensor.AddRoute(t, "default", LANIP6)
}

// sameDevice gives the devices' interface the Ethernet address that it has at every cable.
func (topo *Topology) sameDevice(t T) {
	t.Helper()
	topo.Sensor.netlink(t, "set the address of eth0", func(h *netlink.Handle) error {
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0x77, 0, 0, 1, 2})
	})
}

// Topology is the routed set-up of every whole-system test: a sensor network, the gateway that routes, and the uplink
// network where the broker stands.
//
//	sensor eth0 ---- lan  gateway  up ---- eth0 uplink
//	10.77.1.2        10.77.1.1     10.77.2.1     10.77.2.2
//	fd77:1::2        fd77:1::1     fd77:2::1     fd77:2::2
//
// The gateway's interface names differ from one topology to the next, because pins in /sys/fs/bpf are not separated by
// network namespaces.
type Topology struct {
	Sensor, Gateway, Uplink *Namespace
	LAN, Up                 string // interface names in the gateway
	Bridge                  string // of a NewBridgeTopology, else empty
}

// Addresses of a Topology.
const (
	SensorIP4 = "10.77.1.2"
	LANIP4    = "10.77.1.1"
	UpIP4     = "10.77.2.1"
	BrokerIP4 = "10.77.2.2"
	SensorIP6 = "fd77:1::2"
	LANIP6    = "fd77:1::1"
	UpIP6     = "fd77:2::1"
	BrokerIP6 = "fd77:2::2"
)

var topologies atomic.Int32

// newTopology makes the namespaces, and names that no other topology has.
func newTopology(t T) *Topology {
	t.Helper()
	name := func(kind string, n int32) string { return fmt.Sprintf("%s%dx%d", kind, os.Getpid(), n) }
	n := topologies.Add(1)
	return &Topology{
		Sensor: NewNamespace(t, "sensor"), Gateway: NewNamespace(t, "gateway"), Uplink: NewNamespace(t, "uplink"),
		LAN: name("lan", n), Up: name("up", n),
	}
}

// NewTopology makes the namespaces, cables, addresses and routes, with forwarding on in the gateway.
func NewTopology(t T) *Topology {
	t.Helper()
	topo := newTopology(t)
	topo.LayLAN(t)
	Veth(t, topo.Gateway, topo.Up, topo.Uplink, "eth0")
	for _, a := range []struct {
		ns           *Namespace
		ifname, cidr string
	}{
		{topo.Gateway, topo.Up, UpIP4 + "/24"}, {topo.Gateway, topo.Up, UpIP6 + "/64"},
		{topo.Uplink, "eth0", BrokerIP4 + "/24"}, {topo.Uplink, "eth0", BrokerIP6 + "/64"},
	} {
		a.ns.AddAddr(t, a.ifname, a.cidr)
	}
	topo.Gateway.Sysctl(t, "net/ipv4/ip_forward", "1")
	topo.Gateway.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	topo.Uplink.AddRoute(t, "default", UpIP4)
	topo.Uplink.AddRoute(t, "default", UpIP6)
	return topo
}

// Within returns a context that ends after d and is released with the test: the bound of every wait in the workbench.
func Within(t T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
