// Package netns tests the whole system as it stands in a network: devices, a gateway that routes, a real broker with TLS, in
// network namespaces joined by virtual cables. Leaks are judged by a record of every frame on the broker's side of the wire
// and by nothing else.
package netns

import (
	"fmt"
	"os"
	"testing"

	"sealgate/test/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) != "" {
		os.Exit(crowdMain())
	}
	lab.Main(m)
}

// policy lets an epoch become active soon after it was announced.
const policy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["plant/#"]
activate_after = "1s"
`

// clearPort is where the broker takes cleartext from a gateway whose uplink has no TLS.
const clearPort = 1884

// newPlant makes an installation whose broker also takes cleartext on the port that devices dial: a leak finds somebody to
// talk to, and becomes visible with its payload.
func newPlant(t *testing.T) *lab.Plant {
	t.Helper()
	return newPlantWith(t, policy)
}

// newPlantWith is newPlant under another policy.
func newPlantWith(t *testing.T, policy string) *lab.Plant {
	t.Helper()
	lab.NeedRoot(t)
	return newPlantIn(t, policy, nil)
}

// newPlantIn is newPlantWith in a topology; nil: one whose gateway routes.
func newPlantIn(t *testing.T, policy string, topo *lab.Topology) *lab.Plant {
	t.Helper()
	lab.NeedTool(t, "mosquitto")
	p := lab.NewPlant(t, lab.PlantOptions{Policy: policy, NoBroker: true, Topo: topo})
	o := p.BrokerOptions()
	o.Plain = p.DevicePort
	o.Host = "" // every address, IPv4 and IPv6
	o.Extra = fmt.Sprintf("listener %d\n", clearPort)
	p.Broker = lab.Mosquitto(t, o)
	return p
}

// needle is what payloads of a phase of a test are made of.
func needle(phase string) string { return fmt.Sprintf("needle-of-%s-c7e1|", phase) }
