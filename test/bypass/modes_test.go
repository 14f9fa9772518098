package bypass

import (
	"fmt"
	"testing"
	"time"

	"sealgate/test/lab"
)

// mode is a way to steer: a column of the matrix.
type mode struct {
	name      string
	configure func(p *lab.Plant)
	start     func(s *site, flags ...string) // starts gatewayd
	passes    bool                           // devices' own connections reach the broker, their content changed
	bridge    bool                           // the gateway is a bridge
	spoofs    bool                           // the bridge has no address, and gatewayd dials from those of the devices
}

// modes are all ways to steer. Mode listen is none: nothing is installed, devices are told whom to dial, and one that
// dials the broker reaches it.
var modes = []mode{
	{name: "tc, TCX", configure: steers("tc"), start: starts("attached=tcx")},
	{name: "tc, clsact", configure: steers("tc"), start: startPrivately},
	{name: "tproxy", configure: steers("tproxy"), start: starts("gatewayd runs")},
	{name: "redirect", configure: steers("redirect"), start: starts("gatewayd runs")},
	{name: "bridge, TCX", configure: steers("tc"), start: starts("attached=tcx"), bridge: true},
	{name: "bridge, clsact", configure: steers("tc"), start: startPrivately, bridge: true},
	{name: "bridge, spoofing", configure: spoofs, start: starts("attached=tcx"), bridge: true, spoofs: true},
	{name: "nfqueue", configure: steers("nfqueue"), start: starts(""), passes: true},
}

func steers(mode string) func(*lab.Plant) {
	return func(p *lab.Plant) { p.Conf.Set("steer", "mode", mode) }
}

func (m mode) topology(t *testing.T) *lab.Topology {
	t.Helper()
	if !m.bridge {
		return lab.NewTopology(t)
	}
	topo := lab.NewBridgeTopology(t, !m.spoofs)
	if m.spoofs {
		layBeside(t, topo)
	}
	return topo
}

// spoofs has controld reach the broker by a cable beside the bridge.
func spoofs(p *lab.Plant) {
	p.Conf.Set("steer", "spoof_source", true)
	p.Conf.Set("control", "broker", fmt.Sprintf("mqtts://%s:%d", besideIP, p.TLSPort)).Set("control", "server_name", lab.BrokerIP4)
}

// besideIP is the broker's address on that cable.
const besideIP = "10.78.0.2"

// layBeside lays it.
func layBeside(t *testing.T, topo *lab.Topology) {
	t.Helper()
	lab.Veth(t, topo.Gateway, "beside", topo.Uplink, "beside")
	topo.Gateway.AddAddr(t, "beside", "10.78.0.1/24")
	topo.Uplink.AddAddr(t, "beside", besideIP+"/24")
}

// starts starts gatewayd and waits for a line of its log.
func starts(line string) func(*site, ...string) {
	return func(s *site, flags ...string) {
		s.Gatewayd = lab.Start(s.t, lab.Cmd{NS: s.GatewayNS(), Path: s.Programs.Gatewayd, Args: append(flags, "-config", s.ConfFile)})
		s.says(line)
	}
}

func (s *site) says(line string) {
	s.t.Helper()
	if err := s.Gatewayd.AwaitLine(lab.Within(s.t, 40*time.Second), line); err != nil {
		s.t.Fatal(err)
	}
}

// startPrivately starts gatewayd in a mount namespace of its own, as a service manager may: no pinned link would
// outlive it there, so it attaches the other way.
func startPrivately(s *site, flags ...string) {
	args := []string{"--mount", "sh", "-c", `mount -t sysfs sysfs /sys && exec "$0" "$@"`, s.Programs.Gatewayd, "-config", s.ConfFile}
	s.Gatewayd = lab.Start(s.t, lab.Cmd{NS: s.GatewayNS(), Path: lab.NeedTool(s.t, "unshare"), Args: append(args, flags...)})
	s.says("attached=clsact")
}
