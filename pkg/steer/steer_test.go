package steer

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sealgate/test/lab"
)

// TestRefused holds that what this version cannot do is refused before anything is touched, naming the key.
func TestRefused(t *testing.T) {
	good := Options{Mode: ModeTC, LAN: []string{"lan0"}, Uplink: []string{"up0"}, Ports: []uint16{1883}}
	if err := good.check(); err != nil {
		t.Fatalf("good options: %v", err)
	}
	for _, c := range []struct {
		key, word string
		change    func(*Options)
	}{
		{"steer.lan", "redirect", func(o *Options) { o.Mode, o.LAN = ModeRedirect, nil }},
		{"steer.mode", `""`, func(o *Options) { o.Mode = "" }},
		{"steer.bridge", "cannot stand in a bridge", func(o *Options) { o.Bridge, o.Mode = "br0", ModeNFQueue }},
		{"steer.bridge", "not the name", func(o *Options) { o.Bridge = "lan0" }},
		{"steer.bridge", "not the name", func(o *Options) { o.Bridge = "a/b" }},
		{"steer.uplink", "ports of br0", func(o *Options) { o.Bridge, o.Uplink = "br0", nil }},
		{"steer.uplink", "not an interface name", func(o *Options) { o.Bridge, o.Uplink = "br0", []string{".."} }},
		{"steer.uplink", "16 in all", func(o *Options) { o.Bridge, o.Uplink = "br0", make([]string, MaxBridgePorts) }},
		{"steer.ethertypes", "steer.bridge", func(o *Options) { o.Ethertypes = []uint16{0x88b5} }},
		{"steer.ethertypes", "at most 13", func(o *Options) { o.Bridge, o.Ethertypes = "br0", make([]uint16, MaxEthertypes+1) }},
		{"steer.spoof_source", "between the ports of a bridge", func(o *Options) { o.SpoofSource = true }},
		{"steer.spoof_source", "uplink.broker", func(o *Options) { o.Bridge, o.SpoofSource, o.FixedBroker = "br0", true, true }},
		{"steer.lan", "empty", func(o *Options) { o.LAN = nil }},
		{"steer.lan", "not an interface name", func(o *Options) { o.LAN = []string{"../x"} }},
		{"steer.lan", "not an interface name", func(o *Options) { o.LAN = []string{".."} }},
		{"steer.lan", "not an interface name", func(o *Options) { o.LAN = []string{"sixteen.letters."} }},
		{"steer.lan", "uplink", func(o *Options) { o.LAN = []string{"up0"} }},
		{"steer.lan", "loopback", func(o *Options) { o.LAN = []string{"lo"} }},
		{"steer.ports", "0 ports", func(o *Options) { o.Ports = nil }},
		{"steer.ports", "65 ports", func(o *Options) { o.Ports = make([]uint16, MaxPorts+1) }},
		{"steer.ports", "0 is not a port", func(o *Options) { o.Ports = []uint16{1883, 0} }},
		{"steer.listen", "empty", func(o *Options) { o.Mode = ModeListen }},
		{"attach", "xdp", func(o *Options) { o.Attach = "xdp" }},
	} {
		o := good
		c.change(&o)
		_, listenErr := Listen(context.Background(), o, nil)
		for _, err := range []error{Setup(o), listenErr} {
			if err == nil || !strings.HasPrefix(err.Error(), c.key) || !strings.Contains(err.Error(), c.word) {
				t.Errorf("%s, %s: %v", c.key, c.word, err)
			}
		}
	}
}

func TestPlainListener(t *testing.T) {
	o := Options{Mode: ModeListen, Listen: "127.0.0.1:0"}
	for _, f := range []func(Options) error{Setup, Teardown} {
		if err := f(o); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Listen(ctx, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := net.Dial("tcp", s.Listener.Addr().String()); err == nil {
			c.Close()
		}
	}()
	conn, err := s.Listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if c, err := s.Counters(); err != nil || c != (Counters{}) || s.Attached() != nil {
		t.Errorf("mode listen counts %+v, %v, attached %v", c, err, s.Attached())
	}

	o.Listen = s.Listener.Addr().String()
	if _, err := Listen(ctx, o, nil); err == nil || !strings.Contains(err.Error(), "steer.listen: "+o.Listen+" is taken") {
		t.Errorf("port taken: %v", err)
	}
	cancel()
	if _, err := s.Listener.Accept(); err == nil {
		t.Error("the listener outlives its context")
	}
}

func TestAcceptorRefuses(t *testing.T) {
	a := newAcceptor(nil, Options{Ports: []uint16{1883}}, nil)
	a.own.Store(&map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("fe80::1"): true})
	for _, c := range []struct {
		dst          string
		refused, own bool // own: also when connections to the gateway itself are welcome
	}{
		{"198.51.100.2:1883", false, false},
		{"[::ffff:198.51.100.2]:1883", false, false},
		{"198.51.100.2:1884", true, true},
		{"192.0.2.1:1883", true, false},
		{"[::ffff:192.0.2.1]:1883", true, false},
		{"[fe80::1%lan0]:1883", true, false},
		{"[::1]:1883", true, false},
		{"[::1]:40000", true, true},
		{"127.0.0.2:1883", true, false},
	} {
		dst := netip.MustParseAddrPort(c.dst)
		a.allowOwn = false
		if got := a.refuse(dst) != ""; got != c.refused {
			t.Errorf("%s: refused %t", c.dst, got)
		}
		a.allowOwn = true
		if got := a.refuse(dst) != ""; got != c.own {
			t.Errorf("%s with a fixed broker: refused %t", c.dst, got)
		}
	}
}

// Without a single right, an ability is "not tried" and the list is still complete; with all, a kernel that can run the
// other tests can do all but perhaps bpffs.
func TestAbilities(t *testing.T) {
	list := Abilities()
	var names []string
	for _, a := range list {
		names = append(names, a.Name)
		if a.Detail == "" || strings.Contains(a.Detail, "\n") {
			t.Errorf("%s: detail %q", a.Name, a.Detail)
		}
	}
	want := []string{"nf_tables", "policy-route", "transparent", "sk_assign", "tcx", "bpffs", "clsact", "nft-bridge", "nft-tproxy", "nft-redirect", "nfqueue", "conntrack"}
	if !slices.Equal(names, want) {
		t.Errorf("abilities %q", names)
	}
	lab.NeedRoot(t)
	for _, a := range append(list, Modes(list)...) {
		if !a.OK {
			t.Errorf("%s: %s", a.Name, a.Detail)
		}
	}
}

func TestUnprivilegedAbilities(t *testing.T) {
	for _, a := range probe(context.Canceled) {
		if a.OK {
			t.Errorf("%s is said to work though nothing could be tried", a.Name)
		}
	}
}

func TestMountedBPFFS(t *testing.T) {
	for _, path := range []string{"/proc/self/mountinfo", "/proc/1/mountinfo"} {
		device, err := mountedBPFFS(path)
		if err != nil {
			t.Skip(err)
		}
		if (device != "") != isBPFFS(bpffsRoot) {
			t.Errorf("%s says device %q; statfs finds a BPF file system: %t", path, device, isBPFFS(bpffsRoot))
		}
	}
}
