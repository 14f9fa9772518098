package steer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sealgate/test/lab"
)

// eachWay runs a test once for each way to attach and each mode without classifier.
func eachWay(t *testing.T, f func(t *testing.T, p *plant)) {
	for _, way := range []string{AttachTCX, AttachClsact, ModeTProxy, ModeRedirect} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			f(t, newPlant(t, way))
		})
	}
}

func TestSteers(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.Gateway.Sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
		p.Gateway.Sysctl(t, "net/ipv4/conf/all/src_valid_mark", "1")
		p.setup()
		d := p.start()
		want := fmt.Sprintf(`ready {%q:%q}`, p.LAN, p.options.Attach)
		if !p.classifies() {
			want = "ready null"
		}
		if !lab.HasLine(d.Stdout(), want) {
			t.Errorf("daemon says %q; want %s", d.Stdout(), want)
		}
		p.mustSteer()
		p.mustNotLeak()
		c := p.counters(d)
		if p.classifies() && c.Assigned == 0 || c.Segments < c.Assigned || c.NoListener+c.Failed+c.Foreign+c.Refused != 0 {
			t.Errorf("counters %+v", c)
		}
	})
}

// What the daemon does may not be what holds the traffic back.
func TestKilled(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		conn, _, err := p.dial(lab.BrokerIP4, steered, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		d.Kill()
		<-d.Done()
		conn.Write(lab.Marker("secret;", 4000))
		p.mustBlock()
		p.mustNotLeak()
		d = p.start()
		p.mustSteer()
		p.mustNotLeak()

		d.Write([]byte("close\n"))
		if err := p.says(d, "closed <nil>"); err != nil {
			t.Fatal(err)
		}
		p.mustBlock()
		p.mustNotLeak()
	})
}

func TestSetupAlone(t *testing.T) {
	p := newPlant(t, "")
	p.mustGreet(lab.BrokerIP4, steered, "broker") // as it was before
	p.wire.Stop()
	p.wire = lab.NewCapture(t, p.Uplink, "eth0")
	p.setup()
	p.mustBlock()
	p.send(p.crafted()...)
	p.mustNotLeak()
}

// The guard holds even where the policy route is gone, and the other way round.
func TestEachHoldsAlone(t *testing.T) {
	p := newPlant(t, "")
	p.setup()
	p.in(removeRoutes)
	p.mustBlock()
	p.send(p.crafted()...)
	p.mustNotLeak()
	p.setup()
	p.in(removeGuard)
	p.mustBlock()
	p.mustNotLeak()
}

// The classifier alone holds after its daemon was killed: it is attached for good and drops.
func TestClassifierHoldsAlone(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		p.in(func() error { return errors.Join(removeRoutes(), removeGuard()) })
		p.mustBlock()
		p.send(p.crafted()...)
		p.mustNotLeak()
	})
}

func TestTeardownRestores(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		p.teardown()
		p.mustGreet(lab.BrokerIP4, steered, "broker")
		p.mustGreet(lab.BrokerIP6, steered, "broker")
		if s := p.state(); s != "" {
			t.Errorf("left behind:\n%s", s)
		}
	})
}

func TestRepeated(t *testing.T) {
	p := newPlant(t, "")
	p.teardown()
	p.setup()
	once := p.state()
	p.setup()
	if again := p.state(); again != once || once == "" {
		t.Errorf("after one setup:\n%s\nafter two:\n%s", once, again)
	}
	// Another configuration replaces the first.
	first := p.options
	p.options.LAN, p.options.Ports = []string{p.LAN, "notyet0"}, []uint16{1884, 1883, 1884}
	p.setup()
	p.in(func() error { return checkSetup(p.options) })
	p.options = first
	p.setup()
	if again := p.state(); again != once {
		t.Errorf("after one setup:\n%s\nafter another and back:\n%s", once, again)
	}
	p.teardown()
	p.teardown()
	if s := p.state(); s != "" {
		t.Errorf("left behind:\n%s", s)
	}
}

// state is everything of ours that iproute2 and nft see in the gateway.
func (p *plant) state() string {
	p.t.Helper()
	var all []string
	for _, c := range []string{
		"ip rule", "ip -6 rule", fmt.Sprintf("ip route show table %d", routeTable), fmt.Sprintf("ip -6 route show table %d", routeTable),
		"nft list tables", "tc filter show dev " + p.LAN + " ingress",
	} {
		args := strings.Fields(c)
		path := lab.NeedTool(p.t, args[0])
		p.in(func() error {
			out, _ := exec.Command(path, args[1:]...).CombinedOutput()
			for line := range strings.Lines(string(out)) {
				if strings.HasPrefix(c, "ip rule") || strings.HasPrefix(c, "ip -6 rule") {
					if !strings.Contains(line, fmt.Sprint(routeTable)) {
						continue
					}
				}
				if strings.Contains(line, "FIB table does not exist") || strings.HasPrefix(line, "Dump terminated") {
					continue
				}
				all = append(all, c+": "+line)
			}
			return nil
		})
	}
	return strings.Join(all, "")
}

func TestNotSetUp(t *testing.T) {
	p := newPlant(t, "")
	refused := func(what string) {
		t.Helper()
		p.in(func() error {
			s, err := Listen(t.Context(), p.options, nil)
			if err == nil {
				s.Close()
				t.Errorf("%s: Listen steers", what)
			} else if !errors.Is(err, ErrNotSetUp) || !strings.Contains(err.Error(), "gatewayd -setup -config F") {
				t.Errorf("%s: %v", what, err)
			}
			return nil
		})
	}
	refused("nothing")
	p.setup()
	p.in(removeRoutes)
	refused("no routes")
	p.setup()
	p.in(removeGuard)
	refused("no guard")
	p.setup()
	p.options.Ports = append(p.options.Ports, 1884)
	refused("another port")
	p.options.Ports = p.options.Ports[:1]
	p.options.LAN = append(p.options.LAN, "other0")
	refused("another interface")
}

func TestNoPrivileges(t *testing.T) {
	p := newPlant(t, "")
	p.setup()
	d := p.launch(dropEnv + "=" + dropAll)
	<-d.Done()
	if got := d.Stderr(); len(got) != 1 || !strings.Contains(got[0], "CAP_NET_ADMIN and CAP_BPF") {
		t.Errorf("without capabilities: %q", got)
	}
}

// The capabilities that the error of TestNoPrivileges asks for are enough.
func TestFewPrivileges(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		p.start(dropEnv + "=" + dropMost)
		p.mustSteer()
	})
}

func TestWithoutIPv6(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.Gateway.Sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
		p.setup()
		p.start()
		p.mustGreet(lab.BrokerIP4, steered, lab.BrokerIP4+":1883")
		p.teardown()
		if s := p.state(); s != "" {
			t.Errorf("left behind:\n%s", s)
		}
	})
}

// Where the kernel has no conntrack, the guard sees fragments as they are.
func TestGuardWithoutConntrack(t *testing.T) {
	p := newPlant(t, "")
	p.mustGreet(lab.BrokerIP4, other, "broker")
	p.in(func() error { return (&guard{ports: p.options.Ports}).write() })
	p.send(p.crafted()...)
	p.mustNotLeak()
	p.mustGreet(lab.BrokerIP6, other, "broker")
}

// Enough data, in both directions, for the kernel to join segments into large packets.
func TestBulk(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.Gateway.Sysctl(t, "net/ipv4/tcp_syncookies", "2") // always: the handshake leaves no trace to look up
		p.setup()
		d := p.start()
		want := lab.Marker("0123456789abcdef-", 4<<20)
		for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
			conn, _, err := p.dial(addr, steered, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			go conn.Write(want)
			got := make([]byte, len(want))
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes come back otherwise, %v", addr, len(want), err)
			}
			conn.Close()
		}
		if c := p.counters(d); p.classifies() && c.Segments <= c.Assigned {
			t.Errorf("no packet of several segments among them: %+v", c)
		}
		p.mustNotLeak()
	})
}

// A port of a bridge is refused; the bridge is steered. With br_netfilter tproxy cannot, and says so; nothing leaks.
func TestBridgePort(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.bridgeLAN()
		p.setup()
		d := p.launch()
		<-d.Done()
		if err := strings.Join(d.Stderr(), "\n"); !strings.Contains(err, "steer.lan: "+p.LAN+" is a port of the bridge br-lan: name br-lan") {
			t.Errorf("steering a port of a bridge: %q", err)
		}
		p.options.LAN = []string{"br-lan"}
		p.setup()
		d = p.start()
		p.mustSteer()
		p.mustNotLeak()
		p.netfilterBridges("1")
		if p.options.Mode != ModeTProxy {
			p.mustSteer()
			p.mustNotLeak()
			return
		}
		p.mustBlock()
		p.mustNotLeak()
		if lab.HasLine(d.Stderr(), "br_netfilter") {
			t.Errorf("a warning before there was a reason: %q", d.Stderr())
		}
		p.warns(p.start(), "br_netfilter")
	})
}

// netfilterBridges has netfilter see packets in bridges, or not.
func (p *plant) netfilterBridges(value string) {
	p.t.Helper()
	for _, family := range []string{"iptables", "ip6tables"} {
		p.Gateway.Sysctl(p.t, "net/bridge/bridge-nf-call-"+family, value)
	}
}

// bridgeLAN makes the LAN interface the port of a bridge, which takes over its addresses.
func (p *plant) bridgeLAN() {
	p.t.Helper()
	p.in(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-lan"}}
		port, err := netlink.LinkByName(p.LAN)
		return errors.Join(err, netlink.LinkAdd(br), netlink.LinkSetMaster(port, br), netlink.LinkSetUp(br))
	})
	p.netfilterBridges("0")
	p.in(func() error {
		l, err := netlink.LinkByName(p.LAN)
		if err != nil {
			return err
		}
		var moved []netlink.Addr
		for _, cidr := range []string{lab.LANIP4 + "/24", lab.LANIP6 + "/64"} {
			a, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			if err := netlink.AddrDel(l, a); err != nil {
				return err
			}
			moved = append(moved, *a)
		}
		br, err := netlink.LinkByName("br-lan")
		for _, a := range moved {
			err = errors.Join(err, netlink.AddrAdd(br, &a))
		}
		return err
	})
}

// A server of the gateway's own on a steered port gets none of the devices' connections, new or old.
func TestHostServer(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.serve(p.Gateway, fmt.Sprintf("[::]:%d", steered), "host")
		old, line, err := p.dial(lab.LANIP4, steered, 5*time.Second)
		if err != nil || line != "host" {
			t.Fatalf("before steering: %q, %v", line, err)
		}
		defer old.Close()
		p.setup()
		p.options.FixedBroker = true
		d := p.start()
		p.mustSteer()
		p.mustGreet(lab.LANIP4, steered, fmt.Sprintf("%s:%d", lab.LANIP4, steered))
		p.mustGreet(lab.LANIP6, steered, fmt.Sprintf("[%s]:%d", lab.LANIP6, steered))
		old.Write([]byte("x"))
		patience, silent := 10*time.Second, false
		if p.options.Mode == ModeTProxy { // drops what the kernel leads to the host server's socket
			patience, silent = 300*time.Millisecond, true
		}
		old.SetDeadline(time.Now().Add(patience))
		var timeout net.Error
		if _, err := io.ReadAll(old); err == nil || errors.As(err, &timeout) && timeout.Timeout() && !silent {
			t.Errorf("a connection older than steering ended with %v; want a reset", err)
		}
		if c := p.counters(d); p.classifies() && c.Foreign == 0 {
			t.Errorf("counters %+v", c)
		}
		p.mustNotLeak()
	})
}

// Without a fixed broker, a connection to the gateway itself would make it dial itself.
func TestOwnAddress(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		for _, addr := range []string{lab.LANIP4, lab.LANIP6, lab.UpIP4} {
			if line, err := p.greeting(addr, steered); err == nil {
				t.Errorf("the gateway's own %s answered %q", addr, line)
			}
		}
		p.Gateway.AddAddr(t, p.LAN, "10.77.1.9/24")
		for deadline := time.Now().Add(10 * time.Second); ; {
			if _, err := p.greeting("10.77.1.9", steered); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("an address that came later is not recognised as the gateway's own")
			}
		}
		if c := p.counters(d); c.Refused < 4 {
			t.Errorf("counters %+v", c)
		}
		p.warns(d, "uplink.broker")
		if n := strings.Count(strings.Join(d.Stderr(), "\n"), "uplink.broker"); n != 1 {
			t.Errorf("%d warnings; want 1: %q", n, d.Stderr())
		}
		p.mustSteer()
	})
}

func TestInterfaceReappears(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		p.mustSteer()
		p.in(func() error {
			l, err := netlink.LinkByName(p.LAN)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
		awaitLog := func(n int, text string) {
			t.Helper()
			if !p.classifies() {
				return // its rules carry the name
			}
			says := func(_, stderr []string) bool { return strings.Count(strings.Join(stderr, "\n"), text) == n }
			if err := d.Await(lab.Within(t, 10*time.Second), says); err != nil {
				t.Fatalf("%v: %q", err, d.Stderr())
			}
		}
		awaitLog(1, "steering waits for it")
		lab.Veth(t, p.Gateway, p.LAN, p.Sensor, "eth0")
		p.Gateway.AddAddr(t, p.LAN, lab.LANIP4+"/24")
		p.Gateway.AddAddr(t, p.LAN, lab.LANIP6+"/64")
		p.Sensor.AddAddr(t, "eth0", lab.SensorIP4+"/24")
		p.Sensor.AddAddr(t, "eth0", lab.SensorIP6+"/64")
		p.Sensor.AddRoute(t, "default", lab.LANIP4)
		p.Sensor.AddRoute(t, "default", lab.LANIP6)
		awaitLog(2, "msg=steering interface")
		p.mustSteer()
		p.mustNotLeak()
	})
}

// A new daemon takes over from one that still runs; the old one's connections go on there.
func TestHandover(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		first := p.start()
		conn, _, err := p.dial(lab.BrokerIP4, steered, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := p.says(first, "accepted "); err != nil {
			t.Fatal(err)
		}
		before := len(first.Stdout())
		second := p.start()
		p.mustSteer()
		if n := len(first.Stdout()); n != before {
			t.Errorf("the old daemon accepted: %q", first.Stdout()[before:])
		}
		first.Write([]byte("close\n"))
		if err := p.says(first, "closed <nil>"); err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "still there\n")
		b := make([]byte, 12)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "still there\n" {
			t.Errorf("the old connection answers %q, %v", b, err)
		}
		p.mustSteer()
		if c := p.counters(second); c.Foreign+c.NoListener+c.Failed != 0 {
			t.Errorf("counters %+v", c)
		}
		p.mustNotLeak()
	})
}

// Changing the way of attaching leaves nothing of the other behind.
func TestChangeAttach(t *testing.T) {
	p := newPlant(t, AttachTCX)
	p.setup()
	for _, attach := range []string{AttachTCX, AttachClsact, AttachTCX} {
		p.options.Attach = attach
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		if has := strings.Contains(p.state(), filterName); has != (attach == AttachClsact) {
			t.Errorf("after %s, a clsact filter of ours: %t", attach, has)
		}
	}
	p.mustBlock()
	p.mustNotLeak()
}
