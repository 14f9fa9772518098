package steer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// table is devices without a kernel, on a clock that the test moves.
func table(mode string, r DeviceRules) (t *devices, now *time.Duration) {
	now = new(time.Duration)
	t = newDevices(&Options{Mode: mode, Devices: r}, nil)
	t.now = func() time.Duration { return *now }
	return t, now
}

// number is one of many addresses.
func number(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func TestDenyAtAccept(t *testing.T) {
	d, _ := table(ModeListen, DeviceRules{DenyNets: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/64"),
	}})
	for addr, want := range map[string]string{
		"192.0.2.7": "devices.deny has 192.0.2.7", "192.0.2.8": "", "2001:db8::1": "devices.deny has 2001:db8::/64", "2001:db8:1::1": "",
	} {
		if got := d.admit(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q; want %q", addr, got, want)
		}
		if got := d.denied(netip.MustParseAddr(addr)); got != (want != "") {
			t.Errorf("%s: denied %t", addr, got)
		}
	}
	if d.admit(netip.Addr{}) == "" {
		t.Error("a connection of nobody knows whom is served")
	}
	r := d.report(10)
	if r.Known != 2 || r.Sums != (DeviceSums{Accepted: 2, Denied: 2}) {
		t.Errorf("%+v", r)
	}
	if len(r.Denied) != 2 || r.Denied[0] != (Denied{Source: "192.0.2.7", Connections: 1}) || r.Denied[1].Source != "2001:db8::/64" {
		t.Errorf("%+v", r.Denied)
	}
}

// A device may make Burst connections at once and then one every Every, and no other device pays for it.
func TestRateAtAccept(t *testing.T) {
	d, now := table(ModeListen, DeviceRules{Every: time.Minute, Burst: 3})
	fast, slow := number(1), number(2)
	served := func(addr netip.Addr, tries int) (n int) {
		for range tries {
			if d.admit(addr) == "" {
				n++
			}
		}
		return n
	}
	for i, step := range []struct {
		after       time.Duration
		tries, want int
	}{{0, 10, 3}, {59 * time.Second, 10, 0}, {time.Second, 10, 1}, {2 * time.Minute, 10, 2}, {time.Hour, 10, 3}, {time.Hour, 1, 1}, {0, 9, 2}} {
		*now += step.after
		if got := served(fast, step.tries); got != step.want {
			t.Errorf("step %d: %d of %d served; want %d", i, got, step.tries, step.want)
		}
		if served(slow, 1) != 1 && i != 1 {
			t.Errorf("step %d: another device was refused", i)
		}
	}
	if reason := d.admit(fast); !strings.Contains(reason, "devices.rate") {
		t.Errorf("refused for %q", reason)
	}
}

// Another rate lets everybody begin anew; the same one does not.
func TestRateChanges(t *testing.T) {
	r := DeviceRules{Every: time.Hour, Burst: 1}
	d, _ := table(ModeListen, r)
	a := number(1)
	if d.admit(a) != "" || d.admit(a) == "" {
		t.Fatal("the limit does not hold")
	}
	r.DenyNets = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	if err := d.set(r); err != nil || d.admit(a) == "" {
		t.Errorf("denying another device: %v, and the limit is gone", err)
	}
	r.Burst = 2
	if err := d.set(r); err != nil || d.admit(a) != "" || d.admit(a) != "" || d.admit(a) == "" {
		t.Errorf("another limit: %v", err)
	}
	if err := d.set(DeviceRules{}); err != nil || d.admit(a) != "" {
		t.Errorf("no limit: %v", err)
	}
	r.DenyMACs = []MAC{{2}}
	if err := d.set(r); err == nil || !strings.Contains(err.Error(), `devices.deny: 02:00:00:00:00:00: mode "listen" does not see MAC addresses`) {
		t.Errorf("a MAC where none is seen: %v", err)
	}
	if d.admit(a) != "" {
		t.Error("rules that were refused hold")
	}
}

// However many addresses connect, the table stays as large, who is over the rate stays so, and who finds no room is served.
func TestManyDevices(t *testing.T) {
	d, now := table(ModeListen, DeviceRules{DenyNets: []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16")}, Every: time.Hour, Burst: 2})
	greedy := netip.MustParseAddr("192.0.2.1")
	for range 3 {
		d.admit(greedy)
	}
	for i := range 100_000 {
		if reason := d.admit(number(i)); reason != "" {
			t.Fatalf("device %d was refused: %s", i, reason)
		}
	}
	if len(d.known) > MaxDevices || d.order.Len() != len(d.known) {
		t.Errorf("%d devices remembered, %d in order", len(d.known), d.order.Len())
	}
	if d.admit(greedy) == "" {
		t.Error("who was over the rate is served again")
	}
	if d.admit(netip.MustParseAddr("10.255.3.4")) == "" {
		t.Error("who is denied is served")
	}
	if d.sums.Unknown == 0 || d.sums.Unknown+d.sums.Accepted != 100_000+2 || d.sums.Limited != 2 {
		t.Errorf("%+v", d.sums)
	}
	*now += 3 * time.Hour // nobody has to wait
	before := d.sums.Unknown
	for i := range 2 * MaxDevices {
		d.admit(number(200_000 + i))
	}
	if d.sums.Unknown != before || len(d.known) != MaxDevices {
		t.Errorf("%d of those who came later were not remembered; %d known", d.sums.Unknown-before, len(d.known))
	}
	if r := d.report(100); len(r.Devices) != 100 || r.Known != MaxDevices || r.Devices[0].Addr != number(200_000+2*MaxDevices-1) {
		t.Errorf("%d devices reported of %d, first %v", len(r.Devices), r.Known, r.Devices[0].Addr)
	}
}

func TestDeviceRules(t *testing.T) {
	many := make([]netip.Prefix, MaxDenied+1)
	for name, c := range map[string]struct {
		mode string
		r    DeviceRules
		want string
	}{
		"nothing": {ModeNFQueue, DeviceRules{}, ""},
		"MAC":     {ModeTC, DeviceRules{DenyMACs: []MAC{{2}}}, ""},
		"blind":   {ModeNFQueue, DeviceRules{DenyMACs: []MAC{{2}}}, "does not see MAC addresses"},
		"many":    {ModeTC, DeviceRules{DenyNets: many}, "at most 1024"},
		"burst":   {ModeTC, DeviceRules{Every: 1}, "devices.rate"},
	} {
		if err := c.r.check(c.mode); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if got := fmt.Sprint(MAC{2, 0, 0, 0, 0, 0xff}); got != "02:00:00:00:00:ff" {
		t.Error(got)
	}
}

// A refused connection is reset, whatever it is wrapped in: its device is told at once, and nothing waits for it.
func TestReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, wrap := range map[string]func(*net.TCPConn) net.Conn{
		"steered": func(c *net.TCPConn) net.Conn { return c },
		"redirected": func(c *net.TCPConn) net.Conn {
			return &redirected{c, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:1883"))}
		},
	} {
		device, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		reset(wrap(conn.(*net.TCPConn)))
		if _, err := device.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the device reads %v; want a reset", name, err)
		}
	}
}
