package netns

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

// hidingPolicy hides the topics of one group, and not those of another.
const hidingPolicy = `unmatched = "deny"

[[group]]
name = "default"
topics = ["quarry/#"]
activate_after = "0s"
hide_topics = true

[[group]]
name = "open"
topics = ["visitors/#"]
activate_after = "0s"
`

// Devices publish, subscribe and leave wills as always, and so do sealctl sub and pub beside the broker; of the names of hidden topics the
// broker's wire shows no level. The uplink is without TLS, which would hide them there.
func TestHiddenTopics(t *testing.T) {
	for _, mode := range []string{"tc", "nfqueue"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPlantWith(t, hidingPolicy)
			passes(t, p)
			if mode == "tc" {
				p.Conf.Set("steer", "mode", "tc").Set("uplink", "port", clearPort)
				p.WriteConf(t)
			}
			hiddenTopics(t, p)
		})
	}
}

func hiddenTopics(t *testing.T, p *lab.Plant) {
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	p.Up(t)
	reader := subscribe(t, p, "quarry/#")
	got := make(chan mqtt.Message, 64)
	expect := func(name, payload string) {
		t.Helper()
		select {
		case m := <-got:
			if m.Topic() != name || string(m.Payload()) != payload {
				t.Errorf("%q on %q, want %q on %q", m.Payload(), m.Topic(), payload, name)
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("%q on %q does not come", payload, name)
		}
	}
	device := pahoClient(t, p, "device")
	handle := func(_ mqtt.Client, m mqtt.Message) { got <- m }
	finish(t, device.Subscribe("quarry/crusher/+", 1, handle), "subscribe")
	finish(t, device.Subscribe("visitors/#", 1, handle), "subscribe")
	var conn net.Conn
	ill := pahoClientWith(t, p, "ill", func(o *mqtt.ClientOptions) {
		o.SetWill("quarry/crusher/lastwords", "gone", 1, false).SetAutoReconnect(false)
		open := o.CustomOpenConnectionFn
		o.CustomOpenConnectionFn = func(uri *url.URL, opts mqtt.ClientOptions) (c net.Conn, err error) {
			conn, err = open(uri, opts)
			return conn, err
		}
	})
	for qos := range byte(3) {
		payload := fmt.Sprintf("temperature %d", qos)
		finish(t, ill.Publish("quarry/crusher/thermometer", qos, false, payload), "publish")
		expect("quarry/crusher/thermometer", payload)
	}
	finish(t, ill.Publish("quarry/belt/speed", 1, false, "not asked for"), "publish")
	finish(t, ill.Publish("visitors/today", 1, false, "7"), "publish")
	expect("visitors/today", "7")
	lab.MustRun(t, lab.Within(t, 60*time.Second), p.SealctlCmd("pub", "-t", "quarry/crusher/setpoint", "-m", "80", "-q", "1"))
	expect("quarry/crusher/setpoint", "80")
	conn.Close()
	expect("quarry/crusher/lastwords", "gone")
	finish(t, device.Unsubscribe("quarry/crusher/+"), "unsubscribe")
	lab.MustRun(t, lab.Within(t, 60*time.Second), p.SealctlCmd("pub", "-t", "quarry/crusher/setpoint", "-m", "81", "-q", "1"))
	finish(t, device.Publish("visitors/tomorrow", 1, false, "8"), "publish")
	expect("visitors/tomorrow", "8")
	for _, payload := range []string{"temperature 0", "temperature 1", "temperature 2", "not asked for", "80", "gone", "81"} {
		if err := reader.await(lab.Within(t, 60*time.Second), func() bool { return reader.opened(payload) > 0 }); err != nil {
			t.Errorf("sealctl sub does not get %q: %v", payload, err)
		}
	}
	if lines := reader.proc.Stdout(); !strings.Contains(strings.Join(lines, "\n"), `"topic":"quarry/crusher/lastwords"`) {
		t.Errorf("sealctl sub does not name the topics: %q", lines)
	}
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	if !wire.Contains([]byte("visitors/today")) {
		t.Error("the record does not show topics that are not hidden: it proves nothing")
	}
	for _, level := range []string{"quarry", "crusher", "thermometer", "setpoint", "lastwords", "belt", "temperature"} {
		if found := wire.Find([]byte(level)); len(found) > 0 {
			t.Errorf("%d frames on the broker's wire hold %q: the first % x", len(found), level, found[0])
		}
	}
}

func finish(t *testing.T, token mqtt.Token, what string) {
	t.Helper()
	if !token.WaitTimeout(60*time.Second) || token.Error() != nil {
		t.Fatalf("%s: no answer, or %v", what, token.Error())
	}
}
