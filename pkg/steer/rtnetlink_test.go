package steer

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// The library in the test is an implementation of rtnetlink other than ours.

func TestInterfaces(t *testing.T) {
	lab.NeedRoot(t)
	ns := lab.NewNamespace(t, "links")
	err := ns.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "a1"}
		if err := errors.Join(netlink.LinkAdd(br), netlink.LinkAdd(veth), netlink.LinkSetMaster(veth, br), netlink.LinkSetIsolated(veth, true)); err != nil {
			return err
		}
		port, err := netlink.LinkByName("a0")
		if err != nil {
			return err
		}
		mac := [6]byte(port.Attrs().HardwareAddr) // the bridge takes that of its first port
		list, err := listInterfaces()
		for _, want := range []iface{
			{index: br.Index, name: "br0", kind: "bridge", mac: mac},
			{index: veth.Index, name: "a0", kind: "veth", master: br.Index, lower: veth.Index - 1, mac: mac, isolated: true},
			{index: 1, name: "lo"},
		} {
			byName, err1 := interfaceByName(want.name)
			byIndex, err2 := interfaceByIndex(want.index)
			err = errors.Join(err, err1, err2)
			if byName != want || byIndex != want || !slices.Contains(list, want) {
				t.Errorf("%+v by name, %+v by index, all %+v; want %+v", byName, byIndex, list, want)
			}
		}
		if _, err := interfaceByName("none"); !errors.Is(err, errNoInterface) {
			t.Errorf("an interface that does not exist: %v", err)
		}
		if err := setUp(iface{index: br.Index}); err != nil {
			return err
		}
		if l, err := netlink.LinkByName("br0"); err != nil || l.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("br0 is not up: %v", err)
		}
		if err := setUp(iface{index: 999}); err != unix.ENODEV { // the bare number: it stands in messages
			t.Errorf("setting up an interface that does not exist: %v", err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Setup leaves no rule to our table but its own, and none of its own that asks for more.
func TestForeignRules(t *testing.T) {
	p := newPlant(t, "")
	p.setup()
	want := p.state()
	_, src, _ := net.ParseCIDR("192.0.2.0/24")
	ports := netlink.NewRulePortRange(steered, steered)
	change := map[string]func(*netlink.Rule){
		"source":      func(r *netlink.Rule) { r.Src = src },
		"destination": func(r *netlink.Rule) { r.Dst = src },
		"mark":        func(r *netlink.Rule) { r.Mark = 7 },
		"out":         func(r *netlink.Rule) { r.OifName = p.Up },
		"source port": func(r *netlink.Rule) { r.Sport = ports },
		"ports":       func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(steered, steered+1) },
		"tos":         func(r *netlink.Rule) { r.Tos = 16 },
		"not":         func(r *netlink.Rule) { r.Invert = true },
		"protocol":    func(r *netlink.Rule) { r.IPProto = unix.IPPROTO_UDP },
		"priority":    func(r *netlink.Rule) { r.Priority = rulePriority + 1 },
		"interface":   func(r *netlink.Rule) { r.IifName = "other0" },
		"other port":  func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(other, other) },
	}
	for name, f := range change {
		p.in(func() error {
			if err := removeRoutes(); err != nil { // else a rule taken for ours would only be one too many
				return err
			}
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority, r.IifName = unix.AF_INET, routeTable, rulePriority, p.LAN
			r.IPProto, r.Dport = unix.IPPROTO_TCP, ports
			f(r)
			if err := netlink.RuleAdd(r); err != nil {
				return fmt.Errorf("add a rule with another %s: %w", name, err)
			}
			return nil
		})
		p.setup()
		if got := p.state(); got != want {
			t.Errorf("%s: after setup:\n%s\nwant:\n%s", name, got, want)
		}
	}
}
