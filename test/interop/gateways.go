package interop

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"sealgate/test/lab"
)

const policy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["#"]
keepers = ["gw1"]
activate_after = "1s"
`

// gateways starts two gateways of one fleet before a broker that listens on a port of loopback, and returns where they
// take devices. Their control messages go over a broker of their own: the matrix is about the other one.
func gateways(t *testing.T, brokerPort int) (ports [2]int) {
	t.Helper()
	one := lab.NewPlant(t, lab.PlantOptions{Loopback: true, Policy: policy})
	one.Fleet = lab.NewFleet(t, one.Programs.Sealctl, policy, map[string]string{"gw1": "gateway", "gw2": "gateway"})
	two := *one
	two.Conf = lab.Conf{}
	for section, values := range one.Conf {
		two.Conf[section] = maps.Clone(values)
	}
	for i, p := range []*lab.Plant{one, &two} {
		dir := t.TempDir()
		p.DevicePort = lab.FreePort(t)
		p.ConfFile = filepath.Join(dir, "sealgate.toml")
		c := p.Conf.Set("", "identity", p.Fleet.Identity(fmt.Sprintf("gw%d", i+1))).Set("", "state", filepath.Join(dir, "state"))
		c.Set("", "keylink", filepath.Join(dir, "keylink.sock")).Set("steer", "listen", p.DeviceAddr())
		c.Set("metrics", "listen", fmt.Sprintf("127.0.0.1:%d", lab.FreePort(t)))
		c.Set("uplink", "broker", fmt.Sprintf("127.0.0.1:%d", brokerPort)).Set("uplink", "tls", false)
		delete(c["uplink"], "ca")
		p.WriteConf(t)
		p.StartControld(t)
		p.StartGatewayd(t)
		ports[i] = p.DevicePort
	}
	one.AwaitReady(t)
	two.AwaitReady(t)
	return ports
}
