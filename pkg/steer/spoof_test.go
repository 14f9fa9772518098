package steer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sealgate/test/lab"
)

// newSpoofPlant is a bridge without an address. Behind the broker's port "mirror" is a server that says where a
// connection comes from, and then what it is told.
func newSpoofPlant(t *testing.T, attach string) *plant {
	t.Helper()
	lab.NeedRoot(t)
	p := plantOf(t, lab.NewBridgeTopology(t, false), attach)
	p.options.Bridge, p.options.SpoofSource = p.Bridge, true
	for _, name := range []string{"all", "default", p.Bridge} {
		p.Gateway.Sysctl(t, "net/ipv4/conf/"+name+"/rp_filter", "0")
	}
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		p.mirror(p.Uplink, net.JoinHostPort(addr, mirrorPort))
	}
	return p
}

const mirrorPort = "8883"

func (p *plant) mirror(ns *lab.Namespace, addr string) {
	p.t.Helper()
	p.accept(ns, addr, func(conn net.Conn) {
		go func() {
			defer conn.Close()
			fmt.Fprintf(conn, "%s\n", conn.RemoteAddr())
			io.Copy(conn, conn)
		}()
	})
}

// mustRelay expects that the broker sees the device's address, and that what the device says comes back from it.
func (p *plant) mustRelay(addr string) {
	p.t.Helper()
	ctx := lab.Within(p.t, 60*time.Second)
	conn, err := p.Sensor.Dial(ctx, "tcp", net.JoinHostPort(addr, fmt.Sprint(steered)))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("through the gateway to %s: %v", addr, err)
	}
	from, err := netip.ParseAddrPort(strings.TrimSpace(line))
	own := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if err != nil || from.Addr() != own.Addr().Unmap() || from.Port() == own.Port() {
		p.t.Errorf("the broker sees %q; the device is %s, and its port is its own", line, own)
	}
	want := lab.Marker("0123456789abcdef-", 1<<20)
	go conn.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		p.t.Errorf("to %s: %d bytes come back otherwise, %v", addr, len(want), err)
	}
}

func TestSpoof(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{AttachTCX, AttachClsact} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			p := newSpoofPlant(t, attach)
			p.setup()
			p.mustCut()
			p.newWire()
			d := p.start(spoofEnv + "=" + mirrorPort)
			for range 2 {
				p.mustRelay(lab.BrokerIP4)
				p.mustRelay(lab.BrokerIP6)
			}
			p.mustGreet(lab.BrokerIP4, other, "broker")
			p.mustGreet(lab.BrokerIP6, other, "broker")
			p.send(p.craftedBridged()...)
			p.mustKeep()
			if c := p.counters(d); c.Failed+c.Foreign+c.Refused != 0 {
				t.Errorf("counters %+v", c)
			}
			d.Kill()
			<-d.Done()
			p.send(p.craftedBridged()...)
			p.mustBlock()
			p.mustKeep()
			p.start(spoofEnv + "=" + mirrorPort)
			p.mustRelay(lab.BrokerIP4)
			p.mustRelay(lab.BrokerIP6)
			p.CutBridge(t)
			p.LayBridge(t, false)
			p.awaitRelay()
			p.mustRelay(lab.BrokerIP4)
			p.mustRelay(lab.BrokerIP6)
			p.mustKeep()
		})
	}
}

// awaitRelay waits for the watcher to have done its work.
func (p *plant) awaitRelay() {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		conn, line, err := p.dial(lab.BrokerIP4, steered, time.Second)
		if err == nil {
			conn.Close()
			if strings.HasPrefix(line, lab.SensorIP4) {
				return
			}
			p.t.Fatalf("a steered connection reached %q", line)
		}
		if time.Now().After(deadline) {
			p.t.Fatal("never steered again")
		}
	}
}

// A broker in another subnet, behind a router: the gateway finds the router as the device does. br_netfilter is on.
func TestSpoofRouted(t *testing.T) {
	t.Parallel()
	p := newSpoofPlant(t, "")
	needBridgeNetfilter(t)
	for _, knob := range []string{"iptables", "ip6tables"} {
		p.Gateway.Sysctl(t, "net/bridge/bridge-nf-call-"+knob, "1")
	}
	far := lab.NewNamespace(t, "far")
	lab.Veth(t, p.Uplink, "eth1", far, "eth0")
	p.Uplink.AddAddr(t, "eth1", "192.0.2.1/24")
	far.AddAddr(t, "eth0", "192.0.2.9/24")
	far.AddRoute(t, "default", "192.0.2.1")
	p.Sensor.AddRoute(t, "default", lab.BrokerIP4)
	p.Uplink.Sysctl(t, "net/ipv4/ip_forward", "1")
	p.mirror(far, net.JoinHostPort("192.0.2.9", mirrorPort))
	p.setup()
	p.start(spoofEnv + "=" + mirrorPort)
	p.mustRelay("192.0.2.9")
	p.mustRelay(lab.BrokerIP4)
	p.mustKeep()
}

// A bridge with an address can do the same.
func TestSpoofAddressed(t *testing.T) {
	t.Parallel()
	p := newSpoofPlant(t, "")
	p.Gateway.AddAddr(t, p.Bridge, lab.LANIP4+"/16")
	p.Gateway.AddAddr(t, p.Bridge, lab.LANIP6+"/16")
	p.setup()
	p.start(spoofEnv + "=" + mirrorPort)
	p.mustRelay(lab.BrokerIP4)
	p.mustRelay(lab.BrokerIP6)
	if line, err := p.greeting(lab.LANIP4, steered); err == nil { // it would dial itself
		t.Errorf("the gateway's own address answers %q", line)
	}
}

func TestSpoofTeardownRestores(t *testing.T) {
	t.Parallel()
	p := newSpoofPlant(t, "")
	before := p.bridgeState() + p.neighbours()
	p.setup()
	d := p.start(spoofEnv + "=" + mirrorPort)
	p.mustRelay(lab.BrokerIP4)
	d.Kill()
	<-d.Done()
	p.teardown()
	if s := p.bridgeState() + p.neighbours(); s != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", s, before)
	}
	p.mustGreet(lab.BrokerIP4, steered, "broker")
}

// neighbours are the permanent ones, and the routes of the bridge's table.
func (p *plant) neighbours() string {
	p.t.Helper()
	var text []string
	p.in(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := netlink.NeighList(0, family)
			if err != nil {
				return err
			}
			for _, n := range list {
				if n.State&netlink.NUD_PERMANENT != 0 && n.HardwareAddr != nil {
					text = append(text, n.String())
				}
			}
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: bridgeTable}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				text = append(text, r.String())
			}
		}
		return nil
	})
	return strings.Join(text, "\n")
}

// Where the kernel holds sources against routes, it is said what to change.
func TestSpoofReversePath(t *testing.T) {
	t.Parallel()
	p := newSpoofPlant(t, "")
	p.Gateway.Sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
	p.in(func() error {
		if err := Setup(p.options); err == nil || !strings.Contains(err.Error(), "net.ipv4.conf.all.rp_filter is 1") {
			t.Errorf("setup: %v", err)
		}
		return nil
	})
	p.mustCut()
	d := p.launch()
	<-d.Done()
	if err := strings.Join(d.Stderr(), "\n"); !strings.Contains(err, "rp_filter is 1") {
		t.Errorf("steering: %q", err)
	}
}
