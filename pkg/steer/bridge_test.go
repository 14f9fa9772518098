package steer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sealgate/test/lab"
)

// newBridgePlant is a plant whose gateway is a bridge, of its own address or of none.
func newBridgePlant(t *testing.T, attach string) *plant {
	t.Helper()
	lab.NeedRoot(t)
	p := plantOf(t, lab.NewBridgeTopology(t, true), attach)
	p.options.Bridge = p.Bridge
	return p
}

func eachWayBridged(t *testing.T, f func(t *testing.T, p *plant)) {
	for _, attach := range []string{AttachTCX, AttachClsact} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			f(t, newBridgePlant(t, attach))
		})
	}
}

// craftedBridged are frames that only a bridge would carry: behind what is not looked into, and to everybody.
func (p *plant) craftedBridged() (list [][]byte) {
	broker, src := p.mac(p.Uplink, "eth0"), p.mac(p.Sensor, "eth0")
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	group := net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	l4 := tcp(lab.SensorIP4, lab.BrokerIP4, 40001, steered, flagSYN)
	v4 := ipv4(lab.SensorIP4, lab.BrokerIP4, protoTCP, 0)
	secret := raw(lab.Marker("secret;", 200))
	for _, f := range p.crafted() {
		list = append(list, append(bytes.Clone(broker), f[6:]...))
	}
	return append(list,
		frame(eth(everybody, src, 0x0800), v4, l4, secret),
		frame(eth(group, src, 0x0800), v4, l4, secret),
		frame(eth(net.HardwareAddr{2, 9, 9, 9, 9, 9}, src, 0x0800), v4, l4, secret), // a station that nobody knows
		frame(eth(broker, src, 0x8864), raw([]byte{0x11, 0, 0, 1, 0, 242, 0, 0x21}), v4, l4, secret),
		frame(eth(everybody, src, 0x8864), raw([]byte{0x11, 0, 0, 1, 0, 242, 0, 0x21}), v4, l4, secret),
		frame(eth(broker, src, 0x8847), raw([]byte{0, 0, 0x11, 64}), v4, l4, secret),
		frame(eth(broker, src, 0x9100), vlan(7, 0x0800), v4, l4, secret),
		frame(eth(broker, src, 0x88b5), v4, l4, secret),
		frame(eth(broker, src, 0x8100), vlan(7, 0x88b5), v4, l4, secret),
		frame(eth(broker, src, 250), raw([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}), v4, l4, secret), // IEEE 802.2 SNAP
		frame(eth(broker, src, 0x8100), vlan(1, 0x8100), vlan(2, 0x8100), vlan(3, 0x8100), vlan(4, 0x0800), v4, l4, secret),
	)
}

// mustKeep expects that no byte of what the sensor sends to a steered port is on the broker's wire.
func (p *plant) mustKeep() {
	p.t.Helper()
	p.mustNotLeak()
	if found := p.wire.Find([]byte("secret;")); len(found) != 0 {
		p.t.Errorf("%d frames of the sensor's payload crossed; the first: %x", len(found), found[0])
	}
}

// mustCut expects that nothing crosses at all.
func (p *plant) mustCut() {
	p.t.Helper()
	p.newWire()
	p.send(p.craftedBridged()...)
	for _, port := range []int{steered, other} {
		if conn, line, err := p.dial(lab.BrokerIP4, port, 300*time.Millisecond); err == nil {
			conn.Close()
			p.t.Errorf("dial port %d: answered %q", port, line)
		}
	}
	src := p.mac(p.Sensor, "eth0")
	for _, f := range p.wire.Find(nil) {
		if bytes.Equal(f[6:12], src) {
			p.t.Fatalf("a frame of the sensor's crossed: %x", f)
		}
	}
}

// newWire starts the capture again.
func (p *plant) newWire() {
	p.wire.Stop()
	p.wire = lab.NewCapture(p.t, p.Uplink, "eth0")
}

func TestBridgeSteers(t *testing.T) {
	t.Parallel()
	eachWayBridged(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		p.mustSteer()
		p.mustKeep()
		c := p.counters(d)
		if c.Assigned == 0 || c.Segments < c.Assigned || c.NoListener+c.Failed+c.Foreign+c.Refused != 0 {
			t.Errorf("counters %+v", c)
		}
	})
}

func needBridgeNetfilter(t *testing.T) {
	t.Helper()
	_, err := os.Stat("/proc/sys/net/bridge")
	lab.Require(t, err == nil, "needs br_netfilter: modprobe br_netfilter")
}

// With and without the kernel's netfilter looking at what passes the bridge.
func TestBridgeNetfilter(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"0", "1"} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			p := newBridgePlant(t, "")
			needBridgeNetfilter(t)
			for _, knob := range []string{"iptables", "ip6tables", "arptables"} {
				p.Gateway.Sysctl(t, "net/bridge/bridge-nf-call-"+knob, value)
			}
			p.Gateway.Sysctl(t, "net/ipv4/ip_forward", value)
			p.Gateway.Sysctl(t, "net/ipv4/conf/all/rp_filter", value)
			p.setup()
			d := p.start()
			p.mustSteer()
			p.send(p.craftedBridged()...)
			p.mustKeep()
			p.mustSteer()
			d.Kill()
			<-d.Done()
			p.send(p.craftedBridged()...)
			p.mustBlock()
			p.mustKeep()
		})
	}
}

// A bridge without defences passes the frames on: the control of the tests here.
func TestBridgeCraftedCross(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	p.mustGreet(lab.BrokerIP4, other, "broker")
	src := p.mac(p.Sensor, "eth0")
	for i, f := range p.craftedBridged() {
		crossed := func() (n int) { // by their ends: the capture shows the first VLAN tag elsewhere
			for _, seen := range p.wire.Find(f[len(f)-12:]) {
				if bytes.Equal(seen[6:12], src) && bytes.Equal(seen[:6], f[:6]) {
					n++
				}
			}
			return n
		}
		before := crossed()
		p.send(f)
		p.settle()
		if crossed() == before {
			t.Errorf("frame %d does not cross: %x", i, f)
		}
	}
}

func TestBridgeKilled(t *testing.T) {
	t.Parallel()
	eachWayBridged(t, func(t *testing.T, p *plant) {
		p.setup()
		p.mustCut()
		p.newWire()
		d := p.start()
		conn, _, err := p.dial(lab.BrokerIP4, steered, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p.send(p.craftedBridged()...)
		p.mustSteer()
		p.mustKeep()
		c := p.counters(d)
		for name, n := range map[string]uint64{
			"Fragment": c.Fragment, "Truncated": c.Truncated, "Extension": c.Extension, "VLAN": c.VLAN, "Barred": c.Barred,
		} {
			if n == 0 {
				t.Errorf("%s: no packet counted: %+v", name, c)
			}
		}
		d.Kill()
		<-d.Done()
		conn.Write(lab.Marker("secret;", 4000))
		p.send(p.craftedBridged()...)
		p.mustBlock() // and what is not steered goes on
		p.mustKeep()
		d = p.start()
		p.mustSteer()
		p.mustKeep()
		d.Write([]byte("close\n"))
		if err := p.says(d, "closed <nil>"); err != nil {
			t.Fatal(err)
		}
		p.mustBlock()
		p.mustKeep()
	})
}

// Each of the three layers holds without the other two.
func TestBridgeEachHoldsAlone(t *testing.T) {
	t.Parallel()
	ports := func(p *plant, isolated bool) error {
		found, err := findPorts(p.options)
		return errors.Join(err, isolate(found.all, isolated))
	}
	t.Run("guard", func(t *testing.T) {
		t.Parallel()
		p := newBridgePlant(t, "")
		p.setup()
		p.in(func() error { return errors.Join(ports(p, false), removeRoutes(), removeGuard()) })
		p.mustCut()
	})
	t.Run("isolation", func(t *testing.T) {
		t.Parallel()
		p := newBridgePlant(t, "")
		p.setup()
		p.in(func() error { return errors.Join(removeBridgeGuard(), removeRoutes(), removeGuard()) })
		p.mustCut()
	})
	t.Run("classifier", func(t *testing.T) {
		t.Parallel()
		p := newBridgePlant(t, "")
		p.setup()
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		p.in(func() error { return errors.Join(ports(p, false), removeBridgeGuard(), removeRoutes(), removeGuard()) })
		p.send(p.craftedBridged()...)
		p.mustBlock()
		p.mustKeep()
	})
}

// Ports and bridges come and go. What is made again has none of the ports' isolation, and no classifier if it is
// another interface.
func TestBridgePlugged(t *testing.T) {
	t.Parallel()
	again := map[string]func(p *plant){
		"device's port out and in": func(p *plant) { p.Unplug(p.t, p.LAN); p.Plug(p.t, p.LAN) },
		"broker's port out and in": func(p *plant) { p.Unplug(p.t, p.Up); p.Plug(p.t, p.Up) },
		"bridge made again":        func(p *plant) { p.CutBridge(p.t); p.LayBridge(p.t, true) },
		"device's port made again": func(p *plant) { p.CutLAN(p.t); p.LayLAN(p.t) },
	}
	for name, do := range again {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newBridgePlant(t, "")
			p.setup()
			do(p)
			p.mustCut() // never started
			p.newWire()
			d := p.start()
			p.awaitSteered() // the device may still be at asking for an address that nothing took across until now
			p.mustSteer()
			do(p)
			p.awaitSteered()
			p.mustSteer()
			p.send(p.craftedBridged()...)
			p.mustKeep()
			d.Kill()
			<-d.Done()
			do(p)
			p.send(p.craftedBridged()...)
			if conn, line, err := p.dial(lab.BrokerIP4, steered, 300*time.Millisecond); err == nil {
				conn.Close()
				t.Errorf("after the kill: answered %q", line)
			}
			p.start()
			p.awaitSteered()
			p.mustSteer()
			p.mustKeep()
		})
	}
}

// awaitSteered waits for the watcher to have done its work.
func (p *plant) awaitSteered() {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		p.send(frame(eth(p.mac(p.Uplink, "eth0"), p.mac(p.Sensor, "eth0"), 0x0800),
			ipv4(lab.SensorIP4, lab.BrokerIP4, protoTCP, 0), tcp(lab.SensorIP4, lab.BrokerIP4, 40001, steered, flagSYN),
			raw(lab.Marker("secret;", 200))))
		if conn, line, err := p.dial(lab.BrokerIP4, steered, time.Second); err == nil {
			conn.Close()
			if line == net.JoinHostPort(lab.BrokerIP4, fmt.Sprint(steered)) {
				return
			}
			p.t.Fatalf("a steered connection reached %q", line)
		}
		if time.Now().After(deadline) {
			p.t.Fatal("never steered again")
		}
	}
}

// What gatewayd tells a device in clear never leaves by the broker's side, whoever claims the device's addresses there:
// the Ethernet address, or the IP address for an Ethernet address of its own. The classifier and the guard each see to it.
func TestBridgeClaimedStation(t *testing.T) {
	t.Parallel()
	for alone, without := range map[string]func(bridge iface) error{
		"both": func(iface) error { return nil }, "classifier": func(iface) error { return removeBridgeGuard() },
		"guard": func(bridge iface) error { return removeFilter(bridge, outgoing) },
	} {
		t.Run(alone, func(t *testing.T) { testClaimedStation(t, without) })
	}
}

func testClaimedStation(t *testing.T, without func(bridge iface) error) {
	p := newBridgePlant(t, AttachClsact)
	p.Gateway.Sysctl(t, "net/ipv4/neigh/"+p.Bridge+"/locktime", "0") // believe the last one
	p.setup()
	p.start()
	p.in(func() error {
		bridge, err := interfaceByName(p.Bridge)
		return errors.Join(err, without(bridge))
	})
	conn, _, err := p.dial(lab.BrokerIP4, steered, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	claim := frame(eth(everybody, p.mac(p.Sensor, "eth0"), 0x0806), raw(make([]byte, 46)))
	p.Uplink.Send(t, "eth0", claim)
	go conn.Write(lab.Marker("secret;", 40000)) // the daemon echoes it; without the classifier the device may not hear it
	p.Uplink.Send(t, "eth0", claim)
	p.settle()
	p.mustGreet(lab.BrokerIP4, other, "broker")
	p.mustKeep()

	thief, device := p.mac(p.Uplink, "eth0"), net.ParseIP(lab.SensorIP4).To4()
	reply := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, []byte(thief), []byte(device), []byte(p.mac(p.Gateway, p.Bridge)), []byte(net.ParseIP(lab.LANIP4).To4()), make([]byte, 18))
	for deadline := time.Now().Add(60 * time.Second); !p.believes(device, thief); {
		if time.Now().After(deadline) {
			t.Fatal("the gateway does not believe who claims the device's address")
		}
		p.Uplink.Send(t, "eth0", frame(eth(p.mac(p.Gateway, p.Bridge), thief, 0x0806), raw(reply)))
	}
	go conn.Write(lab.Marker("secret;", 40000))
	p.settle()
	p.mustKeep()
}

// believes tells whether an address is the neighbour that it is said to be.
func (p *plant) believes(addr net.IP, mac net.HardwareAddr) (yes bool) {
	p.t.Helper()
	p.in(func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range list {
			yes = yes || n.IP.Equal(addr) && bytes.Equal(n.HardwareAddr, mac)
		}
		return err
	})
	return yes
}

// Kinds of frame that the configuration allows cross, and others do not.
func TestBridgeEthertypes(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	p.options.Ethertypes = []uint16{0x88b5}
	p.setup()
	p.start()
	p.mustSteer()
	broker, src := p.mac(p.Uplink, "eth0"), p.mac(p.Sensor, "eth0")
	kind := func(proto uint16, text string) []byte {
		return frame(eth(broker, src, proto), raw(lab.Marker(text, 60)))
	}
	p.send(kind(0x88b5, "allowed;"), kind(0x88b6, "forbidden;"), frame(eth(broker, src, 0x8100), vlan(7, 0x88b5), raw(lab.Marker("tagged;", 60))))
	p.settle()
	for text, want := range map[string]bool{"allowed;": true, "tagged;": true, "forbidden;": false} {
		if got := p.wire.Contains([]byte(text)); got != want {
			t.Errorf("%s crossed: %t", text, got)
		}
	}
}

// From the broker's side nobody reaches a steered port, of a device or of the gateway itself.
func TestBridgeFromUplink(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	p.serve(p.Sensor, fmt.Sprintf("[%s]:%d", lab.SensorIP6, steered), "sensor")
	p.serve(p.Sensor, fmt.Sprintf("[%s]:%d", lab.SensorIP6, other), "sensor")
	p.serve(p.Gateway, fmt.Sprintf("[::]:%d", steered), "host")
	p.serve(p.Gateway, fmt.Sprintf("[::]:%d", other), "host")
	p.setup()
	d := p.start()
	for to, want := range map[string]string{
		fmt.Sprintf("[%s]:%d", lab.SensorIP6, other):   "sensor",
		fmt.Sprintf("[%s]:%d", lab.SensorIP6, steered): "",
		fmt.Sprintf("[%s]:%d", lab.LANIP6, steered):    "",
		fmt.Sprintf("[%s]:%d", lab.LANIP6, other):      "host",
	} {
		if got := p.greetingFrom(p.Uplink, to, want); got != want {
			t.Errorf("from the broker's side to %s: %q; want %q", to, got, want)
		}
	}
	if c := p.counters(d); c.Barred == 0 {
		t.Errorf("counters %+v", c)
	}
}

// greetingFrom is what a server says to a namespace, or nothing. Nothing is waited for less long.
func (p *plant) greetingFrom(ns *lab.Namespace, addr, want string) string {
	p.t.Helper()
	patience := 300 * time.Millisecond
	if want != "" {
		patience = 30 * time.Second
	}
	conn, err := ns.Dial(lab.Within(p.t, patience), "tcp", addr)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

// Several devices' ports: devices reach one another, and all of them are steered, also to a broker beside them.
func TestBridgeSeveralPorts(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	second := lab.NewNamespace(t, "second")
	port := strings.Replace(p.LAN, "lan", "ln2", 1)
	lab.Veth(t, p.Gateway, port, second, "eth0")
	p.Plug(t, port)
	second.AddAddr(t, "eth0", "10.77.1.3/16")
	p.serve(second, fmt.Sprintf("10.77.1.3:%d", steered), "second")
	p.serve(second, fmt.Sprintf("10.77.1.3:%d", other), "second")
	p.options.LAN = append(p.options.LAN, port)
	p.setup()
	p.start()
	p.mustSteer()
	p.mustGreet("10.77.1.3", other, "second")
	p.mustGreet("10.77.1.3", steered, fmt.Sprintf("10.77.1.3:%d", steered))
	for _, c := range []struct {
		port int
		want string
	}{{other, "broker"}, {steered, fmt.Sprintf("%s:%d", lab.BrokerIP4, steered)}} {
		if got := p.greetingFrom(second, fmt.Sprintf("%s:%d", lab.BrokerIP4, c.port), c.want); got != c.want {
			t.Errorf("the second device hears %q; want %q", got, c.want)
		}
	}
	p.mustKeep()
}

// A bridge that does not exist yet, and ports that nobody named.
func TestBridgeLater(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	p.CutBridge(t)
	p.setup()
	d := p.start()
	p.warns(d, "the bridge does not exist")
	p.LayBridge(t, true)
	p.awaitSteered()
	p.mustSteer()
	p.mustKeep()
	stranger := lab.NewNamespace(t, "stranger")
	port := strings.Replace(p.LAN, "lan", "st", 1)
	lab.Veth(t, p.Gateway, port, stranger, "eth0")
	p.Plug(t, port)
	stranger.AddAddr(t, "eth0", "10.77.1.3/16")
	p.warns(d, "neither in steer.lan nor in steer.uplink")
	if got := p.greetingFrom(stranger, fmt.Sprintf("%s:%d", lab.BrokerIP4, steered), ""); got != "" {
		t.Errorf("behind a port that nobody named: %q", got)
	}
}

func TestBridgeTeardownRestores(t *testing.T) {
	t.Parallel()
	eachWayBridged(t, func(t *testing.T, p *plant) {
		before := p.bridgeState()
		p.setup()
		p.setup()
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		p.teardown()
		p.mustGreet(lab.BrokerIP4, steered, "broker")
		p.mustGreet(lab.BrokerIP6, steered, "broker")
		if s := p.bridgeState(); s != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", s, before)
		}
		p.teardown()
	})
}

// bridgeState is state and what the bridge command shows of the ports.
func (p *plant) bridgeState() string {
	p.t.Helper()
	path := lab.NeedTool(p.t, "bridge")
	var out []byte
	p.in(func() (err error) { out, err = exec.Command(path, "-d", "link", "show").CombinedOutput(); return err })
	return p.state() + string(out)
}

// What a bridge does that steering between its ports would undo is refused. Few kernels can do all of it.
func TestBridgeRefused(t *testing.T) {
	t.Parallel()
	for word, b := range map[string]iface{
		"filters VLANs": {kind: "bridge", filtering: true}, "spanning tree": {kind: "bridge", spanning: true}, "not a bridge": {kind: "vlan"},
	} {
		if err := refuseBridge(b); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", word, err)
		}
	}
	p := newBridgePlant(t, "")
	path := lab.NeedTool(t, "ip")
	p.in(func() error {
		return exec.Command(path, "link", "set", p.Bridge, "type", "bridge", "stp_state", "1").Run()
	})
	p.in(func() error {
		if err := Setup(p.options); err == nil || !strings.Contains(err.Error(), "stp_state 0") {
			t.Errorf("setup: %v", err)
		}
		return nil
	})
	p.mustCut() // even so
	d := p.launch()
	<-d.Done()
	if err := strings.Join(d.Stderr(), "\n"); !strings.Contains(err, "stp_state 0") {
		t.Errorf("steering: %q", err)
	}
	p.mustCut()
}

// Another configuration's guard is not taken for this one's.
func TestBridgeNotSetUp(t *testing.T) {
	t.Parallel()
	p := newBridgePlant(t, "")
	refused := func(what string) {
		t.Helper()
		p.in(func() error {
			s, err := Listen(t.Context(), p.options, nil)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrNotSetUp) {
				t.Errorf("%s: %v", what, err)
			}
			return nil
		})
	}
	p.setup()
	p.in(removeBridgeGuard)
	refused("no guard of the bridge")
	p.setup()
	p.options.LAN = append(p.options.LAN, "other0")
	refused("another port")
}
