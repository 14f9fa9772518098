package bypass

import (
	"fmt"
	"testing"

	"sealgate/test/lab"
)

// TestSeveralInterfaces has devices behind two interfaces that are steered and one that is not. From the two they are
// served, and from none does anything pass.
func TestSeveralInterfaces(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.NeedTool(t, "mosquitto")
	for _, m := range modes {
		if m.bridge {
			continue // TestBridgeSeveralPorts of package steer
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, m)
			places := []place{s.at, s.another(1), s.another(2)}
			s.Conf.Set("steer", "lan", []string{places[0].gateway, places[1].gateway})
			s.WriteConf(t)
			s.several(places)
		})
	}
}

// another makes one more network of devices.
func (s *site) another(n int) place {
	s.t.Helper()
	p := place{lab.NewNamespace(s.t, fmt.Sprintf("sensor%d", n)), fmt.Sprintf("%sx%d", s.Topo.LAN, n),
		fmt.Sprintf("10.77.1%d.2", n), fmt.Sprintf("fd77:1%d::2", n)}
	four, six := fmt.Sprintf("10.77.1%d.1", n), fmt.Sprintf("fd77:1%d::1", n)
	lab.Veth(s.t, s.GatewayNS(), p.gateway, p.ns, "eth0")
	for _, a := range []struct {
		ns           *lab.Namespace
		ifname, cidr string
	}{{s.GatewayNS(), p.gateway, four + "/24"}, {s.GatewayNS(), p.gateway, six + "/64"}, {p.ns, "eth0", p.four + "/24"}, {p.ns, "eth0", p.six + "/64"}} {
		a.ns.AddAddr(s.t, a.ifname, a.cidr)
	}
	s.GatewayNS().Sysctl(s.t, "net/ipv4/conf/"+p.gateway+"/rp_filter", "0")
	p.ns.AddRoute(s.t, "default", four)
	p.ns.AddRoute(s.t, "default", six)
	return p
}

func (s *site) several(places []place) {
	s.t.Helper()
	fire := func() {
		for i, p := range places {
			s.at, s.state = p, i
			s.settle()
			s.volley()
			s.settle()
		}
	}
	fire()
	proved := map[string]bool{}
	s.payloads(func(_, place, row int, _ []byte) { proved[fmt.Sprint(place, row)] = true })
	for i := range places {
		for j, r := range rows() {
			if !r.stream && !r.bridge && !proved[fmt.Sprint(i, j)] {
				s.t.Errorf("undefended, interface %d: %s does not cross", i, r)
			}
		}
	}
	s.Setup(s.t)
	guarded, _ := s.wire.Frames()
	fire()
	s.StartControld(s.t)
	s.mode.start(s)
	s.at = places[0]
	s.AwaitReady(s.t)
	for i, p := range places[:2] {
		s.at, s.where = p, fmt.Sprintf("interface %d", i)
		s.mustServe()
	}
	fire()
	s.Gatewayd.Kill()
	fire()
	s.payloads(func(i, place, row int, f []byte) {
		if i >= guarded {
			s.t.Errorf("interface %d: %s: payload crosses in clear: %x", place, rows()[row], f)
		}
	})
}
