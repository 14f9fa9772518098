package netns

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

// newPassingPlant is a plant whose gateway changes connections in passing.
func newPassingPlant(t *testing.T) *lab.Plant {
	t.Helper()
	p := newPlant(t)
	passes(t, p)
	return p
}

// passes makes a plant's gateway one that changes connections in passing.
func passes(t *testing.T, p *lab.Plant) {
	t.Helper()
	p.Conf.Set("steer", "mode", "nfqueue").Set("uplink", "tls", false)
	delete(p.Conf["uplink"], "ca")
	p.WriteConf(t)
}

// loses has a namespace lose a part of the TCP packets of devices' connections that reach it.
func loses(t *testing.T, ns *lab.Namespace, port int, part float64) {
	t.Helper()
	for _, side := range []string{"--sport", "--dport"} {
		cmd := lab.Cmd{NS: ns, Path: lab.NeedTool(t, "iptables"), Args: []string{"-A", "INPUT", "-p", "tcp", side, fmt.Sprint(port),
			"-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(part), "-j", "DROP"}}
		lab.MustRun(t, lab.Within(t, 10*time.Second), cmd)
	}
}

// Messages of all sizes, up and down, over a connection that stays one from end to end, on links that lose packets.
func TestPassing(t *testing.T) {
	for _, part := range []float64{0, 0.01, 0.1} {
		t.Run(fmt.Sprintf("%v of packets lost", part), func(t *testing.T) { passing(t, part) })
	}
}

func passing(t *testing.T, part float64) {
	p := newPassingPlant(t)
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	p.Up(t)
	sub := subscribe(t, p, "plant/#")
	if part > 0 {
		loses(t, p.SensorNS(), p.DevicePort, part)
		loses(t, p.UplinkNS(), p.DevicePort, part)
	}
	var acked sync.Map
	var group sync.WaitGroup
	for i := range 4 {
		client := pahoClient(t, p, fmt.Sprintf("passing%d", i))
		group.Go(func() { publishAll(t, client, i, &acked) })
	}
	group.Wait()
	checkArrived(t, sub, &acked)
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	if wire.Contains([]byte(needle("passing"))) {
		t.Error("a payload crossed the uplink in clear")
	}
	if len(wire.ToPort(uint16(p.DevicePort), 1)) == 0 {
		t.Error("no device has reached the broker at the port that it dialled")
	}
}

// publishAll publishes messages of sizes from nothing to many segments, and gets its own back.
func publishAll(t *testing.T, client mqtt.Client, i int, acked *sync.Map) {
	const patience = 2 * time.Minute
	topic := fmt.Sprintf("plant/passing%d", i)
	back := make(chan string, 64)
	if token := client.Subscribe(topic, 1, func(_ mqtt.Client, m mqtt.Message) { back <- string(m.Payload()) }); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Errorf("subscribe: %v", token.Error())
		return
	}
	for n, size := range []int{0, 1, 100, 1400, 1500, 20_000, 100_000, 250_000, 10} {
		payload := fmt.Sprintf("message %d of device %d %s%s", n, i, needle("passing"), strings.Repeat("x", size))
		token := client.Publish(topic, byte(n%3), false, payload)
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Errorf("message %d: not acknowledged: %v", n, token.Error())
			return
		}
		acked.Store(payload, true)
		select {
		case got := <-back:
			if !bytes.Equal([]byte(got), []byte(payload)) {
				t.Errorf("message %d came back as %d bytes that are not it", n, len(got))
			}
		case <-time.After(patience):
			t.Errorf("message %d of %d bytes did not come back", n, len(payload))
			return
		}
	}
}
