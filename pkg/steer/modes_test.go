package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// nft feeds a ruleset to nft in the gateway.
func (p *plant) nft(ruleset string) {
	p.t.Helper()
	nft := lab.NeedTool(p.t, "nft")
	p.in(func() error {
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// track has the gateway's kernel track connections, as a router's firewall does.
func (p *plant) track() {
	p.nft("table inet router { chain forward { type filter hook forward priority 0; ct state established accept; }; }")
}

// tracked counts the lines of /proc/net/nf_conntrack that contain all words.
func (p *plant) tracked(words ...string) (n int) {
	p.t.Helper()
	p.in(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		for line := range strings.Lines(string(b)) {
			has := true
			for _, w := range words {
				has = has && strings.Contains(line, w)
			}
			if has {
				n++
			}
		}
		return err
	})
	return n
}

// Connections that the kernel tracked before Setup end with a reset, and the device's next one is steered.
func TestOlderConnections(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.track()
		var old []net.Conn
		for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
			conn, line, err := p.dial(addr, steered, 30*time.Second)
			if err != nil || line != "broker" {
				t.Fatalf("before steering: %q, %v", line, err)
			}
			defer conn.Close()
			old = append(old, conn)
		}
		if n := p.tracked("tcp", " dport=1883 "); n != len(old) {
			t.Fatalf("%d connections tracked", n)
		}
		p.wire.Stop()
		p.wire = lab.NewCapture(t, p.Uplink, "eth0")
		p.setup()
		p.in(func() error {
			n, err := Forget(p.options)
			if err == nil && n != len(old) {
				err = fmt.Errorf("%d connections forgotten; want %d", n, len(old))
			}
			return err
		})
		if n := p.tracked("tcp", " dport=1883 "); n != 0 {
			t.Errorf("%d connections tracked after they were forgotten", n)
		}
		p.start()
		for _, conn := range old {
			conn.Write(lab.Marker("secret;", 4000))
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.ReadAll(conn); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("a connection older than steering ended with %v; want a reset", err)
			}
		}
		p.mustSteer()
		p.mustNotLeak()
	})
}

// What was tracked after Setup and before the daemon starts, with the device's packets delivered to nobody, does not keep
// it from the daemon: a device may try again and again from the same port.
func TestTrackedBeforeStart(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.track()
		p.setup()
		const port = 40003
		if err := p.dialFrom(port, lab.BrokerIP4, 2*time.Second); err == nil {
			t.Fatal("answered before the daemon has started")
		}
		p.start(closeEnv + "=1")
		if err := p.dialFrom(port, lab.BrokerIP4, 30*time.Second); err != nil {
			t.Errorf("from the same port: %v", err)
		}
		p.mustNotLeak()
	})
}

// Forget leaves the gateway's own connections alone, those redirected to it, and those to other ports.
func TestForgetSpares(t *testing.T) {
	p := newPlant(t, ModeRedirect)
	p.track()
	p.mustGreet(lab.BrokerIP4, other, "broker")
	own, err := p.Gateway.Dial(lab.Within(t, 30*time.Second), "tcp", net.JoinHostPort(lab.BrokerIP4, "1883"))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	p.setup()
	p.start()
	var conns []net.Conn
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		conn, _, err := p.dial(addr, steered, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	p.in(func() error {
		n, err := Forget(p.options)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d connections forgotten", n)
		}
		return err
	})
	for _, conn := range conns {
		fmt.Fprintf(conn, "still there\n")
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		b := make([]byte, 12)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "still there\n" {
			t.Errorf("a redirected connection answers %q, %v", b, err)
		}
	}
	for _, words := range [][]string{{"src=" + lab.UpIP4, " dport=1883 "}, {"src=" + lab.SensorIP4, " dport=8080 "}} {
		if p.tracked(words...) == 0 {
			t.Errorf("forgotten: %q", words)
		}
	}
}

// A firewall as OpenWrt's lets in what was translated, what devices send to the steered port, and nothing else. It changes
// the source of what it forwards, so that every frame to the steered port counts. Where addresses are translated by its own
// rules too, ours come first.
func TestBehindFirewall(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		elsewhere := ""
		if p.options.Mode == ModeRedirect {
			elsewhere = "meta nfproto ipv4 tcp dport 1883 dnat ip to 10.77.2.77"
		}
		p.nft(fmt.Sprintf(`table inet fw4 {
			chain input { type filter hook input priority 0; policy drop;
				ct state established,related accept
				iifname lo accept
				meta l4proto ipv6-icmp accept
				ct status dnat accept
				iifname %[1]q tcp dport 1883 ct state new accept
			}
			chain forward { type filter hook forward priority 0; policy drop;
				ct state established,related accept
				ct state invalid drop
				iifname %[1]q oifname %[2]q accept
			}
			chain dstnat { type nat hook prerouting priority dstnat; policy accept;
				%[3]s
			}
			chain srcnat { type nat hook postrouting priority srcnat; policy accept;
				oifname %[2]q masquerade
			}
		}`, p.LAN, p.Up, elsewhere))
		p.setup()
		d := p.start()
		p.mustSteer()
		p.send(p.crafted()...)
		d.Kill()
		<-d.Done()
		p.mustBlock()
		p.start()
		p.mustSteer()
		p.settle()
		if l := p.wire.ToPort(steered, 0); len(l) != 0 {
			t.Errorf("%d frames to the steered port leaked; the first: %x", len(l), l[0])
		}
	})
}

// With its rules flushed by another program, nothing passes: the policy route is left. The daemon will not start so.
func TestRulesetFlushed(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.track()
		p.setup()
		p.start()
		conn, _, err := p.dial(lab.BrokerIP4, steered, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p.nft("flush ruleset")
		conn.Write(lab.Marker("secret;", 4000))
		if !p.classifies() {
			p.mustBlock()
		}
		p.mustNotLeak()
		d := p.launch()
		<-d.Done()
		if err := strings.Join(d.Stderr(), "\n"); !strings.Contains(err, ErrNotSetUp.Error()) {
			t.Errorf("the daemon started without a guard, or says %q", err)
		}
		p.setup()
		p.start()
		p.mustSteer()
		p.mustNotLeak()
	})
}

// -setup while the daemon runs changes nothing for devices.
func TestSetupWhileRunning(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		p.start()
		p.mustSteer()
		p.setup()
		p.in(func() error { _, err := Forget(p.options); return err })
		p.mustSteer()
		p.mustNotLeak()
	})
}

// A daemon in another mode takes over what the last one left, whatever its mode was.
func TestChangeMode(t *testing.T) {
	p := newPlant(t, "")
	for _, mode := range []string{ModeTProxy, ModeTC, ModeRedirect, ModeTProxy, ModeRedirect, ModeTC} {
		p.options.Mode = mode
		p.setup()
		d := p.start()
		p.mustSteer()
		d.Kill()
		<-d.Done()
		p.mustBlock()
	}
	p.mustNotLeak()
}

// Devices behind several interfaces are steered, and those behind one that is not named are shut off.
func TestSeveralLANs(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		second, third := p.beside("10.78.1", "fd78:1::"), p.beside("10.79.1", "fd79:1::")
		p.options.LAN = append(p.options.LAN, second.lan)
		p.setup()
		p.start()
		p.mustSteer()
		for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
			if got, err := second.greeting(addr, 30*time.Second); err != nil || got != net.JoinHostPort(addr, "1883") {
				t.Errorf("from the second interface, %s: %q, %v", addr, got, err)
			}
			if got, err := third.greeting(addr, 300*time.Millisecond); err == nil {
				t.Errorf("from an interface that is not in steer.lan, %s: %q", addr, got)
			}
		}
		p.settle()
		if n := len(p.wire.ToPort(steered, 0)); n != 0 {
			t.Errorf("%d frames to the steered port leaked", n)
		}
	})
}

// side is another network of devices.
type side struct {
	*lab.Namespace
	lan string // its interface in the gateway
}

// beside adds one. The prefixes lack a host's number.
func (p *plant) beside(ipv4, ipv6 string) side {
	p.t.Helper()
	p.marks++
	s := side{lab.NewNamespace(p.t, "beside"), fmt.Sprintf("x%d%s", p.marks, p.LAN[3:])}
	lab.Veth(p.t, p.Gateway, s.lan, s.Namespace, "eth0")
	for _, cidr := range []string{ipv4 + ".%d/24", ipv6 + "%d/64"} {
		p.Gateway.AddAddr(p.t, s.lan, fmt.Sprintf(cidr, 1))
		s.AddAddr(p.t, "eth0", fmt.Sprintf(cidr, 2))
	}
	s.AddRoute(p.t, "default", ipv4+".1")
	s.AddRoute(p.t, "default", ipv6+"1")
	return s
}

func (s side) greeting(addr string, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := s.Dial(ctx, "tcp", net.JoinHostPort(addr, "1883"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	return firstLine(conn)
}

// The listener cannot be reached by the port that it listens on.
func TestListenerShut(t *testing.T) {
	for _, mode := range []string{ModeTProxy, ModeRedirect} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, mode)
			p.options.FixedBroker = true
			p.setup()
			p.start()
			port := p.listening()[0]
			for _, c := range []struct {
				from *lab.Namespace
				addr string
			}{{p.Sensor, lab.LANIP4}, {p.Sensor, lab.LANIP6}, {p.Uplink, lab.UpIP4}, {p.Uplink, lab.UpIP6}} {
				addr := net.JoinHostPort(c.addr, fmt.Sprint(port))
				var silence net.Error
				if conn, err := c.from.Dial(lab.Within(t, time.Second), "tcp", addr); err == nil {
					conn.Close()
					t.Errorf("%s takes a connection from the %s", addr, c.from.Name)
				} else if !errors.As(err, &silence) || !silence.Timeout() {
					t.Errorf("%s answers the %s: %v", addr, c.from.Name, err)
				}
			}
			p.mustSteer()
		})
	}
}

// listening finds the ports of the gateway's listening sockets.
func (p *plant) listening() (ports []int) {
	p.t.Helper()
	p.in(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/tcp6")
		for line := range strings.Lines(string(b)) {
			var slot, port, state int
			var addr, remote string
			if n, _ := fmt.Sscanf(line, "%d: %32s:%X %s %X", &slot, &addr, &port, &remote, &state); n == 5 && state == 10 {
				ports = append(ports, port)
			}
		}
		if ports == nil {
			err = errors.Join(err, errors.New("nothing listens"))
		}
		return err
	})
	return ports
}

// A program on the port is passed over; another daemon takes the next.
func TestRedirectPortTaken(t *testing.T) {
	p := newPlant(t, ModeRedirect)
	p.serve(p.Gateway, fmt.Sprintf("[::]:%d", redirectFirst), "host")
	p.setup()
	p.start()
	p.mustSteer()
	if ports := p.listening(); !slices.Contains(ports, redirectFirst+1) {
		t.Errorf("ports %d listen", ports)
	}
	p.mustNotLeak()
}

// Of mode tc's two ways to attach one is enough; of all else nothing may be missing.
func TestModes(t *testing.T) {
	all := func() (list []Ability) {
		for _, a := range abilities {
			list = append(list, Ability{Name: a.name, OK: true})
		}
		return list
	}
	for lacks, cannot := range map[string]string{
		"":                  "",
		"conntrack":         "",
		"tcx":               "",
		"bpffs":             "",
		"clsact":            "",
		"clsact bpffs":      "tc",
		"clsact tcx":        "tc",
		"sk_assign":         "tc",
		"transparent":       "tc tproxy",
		"policy-route":      "tc tproxy redirect",
		"nf_tables":         "tc tproxy redirect nfqueue",
		"nft-tproxy":        "tproxy",
		"nft-redirect":      "redirect",
		"nfqueue sk_assign": "tc nfqueue",
	} {
		list := all()
		for i := range list {
			if strings.Contains(" "+lacks+" ", " "+list[i].Name+" ") {
				list[i].OK, list[i].Detail = false, "no "+list[i].Name
			}
		}
		var not []string
		for _, m := range Modes(list) {
			if !m.OK {
				not = append(not, m.Name)
			}
			if (m.Detail == "this kernel can") != m.OK || !m.OK && !strings.Contains(m.Detail, ": no ") {
				t.Errorf("without %q, mode %s: %q", lacks, m.Name, m.Detail)
			}
		}
		if got := strings.Join(not, " "); got != cannot {
			t.Errorf("without %q cannot steer in %q; want %q", lacks, got, cannot)
		}
	}
	if list := Modes([]Ability{{Name: "nf_tables", Untried: true}}); !list[0].Untried || list[0].OK {
		t.Errorf("not tried: %+v", list[0])
	}
}

func TestExplain(t *testing.T) {
	for mode, kmod := range map[string]string{ModeTProxy: "kmod-nft-tproxy", ModeRedirect: "kmod-nft-nat"} {
		i := interception{mode: mode}
		if err := i.explain(unix.ENOENT); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), kmod) {
			t.Errorf("%s: %v", mode, err)
		}
		if err := i.explain(unix.EPERM); !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func TestEndsHere(t *testing.T) {
	own := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}
	for _, c := range []struct {
		src, dst, replier string
		want              bool
	}{
		{"10.0.0.2:40000", "198.51.100.2:1883", "198.51.100.2:1883", false}, // forwarded
		{"10.0.0.2:40000", "198.51.100.2:1883", "198.51.100.3:1883", false}, // translated to another broker
		{"10.0.0.2:40000", "198.51.100.2:1883", "192.0.2.1:24225", true},    // redirected
		{"10.0.0.2:40000", "192.0.2.1:1883", "192.0.2.1:24225", true},       // likewise
		{"10.0.0.2:40000", "192.0.2.1:1883", "192.0.2.1:1883", false},       // of a server of the gateway's own
		{"192.0.2.1:40000", "198.51.100.2:1883", "198.51.100.2:1883", true}, // the gateway's own
	} {
		f := flow{src: netip.MustParseAddrPort(c.src), dst: netip.MustParseAddrPort(c.dst), replier: netip.MustParseAddrPort(c.replier)}
		if got := f.endsHere(own); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
