package daemon_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/crypto"
	"sealgate/pkg/keylink"
)

// keysOf gets the keys from controld the way gatewayd does, and adds those known before:
// right after controld's return gatewayd still seals under them.
func (p *plant) keysOf(t *testing.T) *crypto.Keyring {
	t.Helper()
	got := make(chan keylink.Snapshot, 16)
	c := keylink.NewClient(p.keylink, keylink.ClientOptions{OnSnapshot: func(s keylink.Snapshot, renewed bool) {
		if len(s.Keys["default"]) > 0 {
			select {
			case got <- s:
			default:
			}
		}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for _, key := range await(t, got, "keys").Keys["default"] {
		if !slices.ContainsFunc(p.known, func(k crypto.Key) bool { return k.ID == key.ID }) {
			p.known = append(p.known, key)
		}
	}
	ring, err := crypto.NewKeyring(map[string][]crypto.Key{"default": p.known})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// open opens an envelope as a member does.
func open(t *testing.T, keys *crypto.Keyring, group, topic string, b []byte) string {
	t.Helper()
	e, err := crypto.ParseEnvelope(b)
	if err != nil {
		t.Fatalf("the broker holds no envelope: %v: %q", err, b)
	}
	key := keys.Find(group, e.Kid.KeyID())
	if key == nil {
		t.Fatalf("sealed under key %v, which controld does not know", e.Kid.KeyID())
	}
	s, err := crypto.NewOpenStream(key.Secret, group, topic, e.Kid.StreamID())
	if err != nil {
		t.Fatal(err)
	}
	inner, err := s.Open(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	_, payload, err := crypto.SplitInner(inner)
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

// The whole gateway: a plain publisher, the daemons, a broker that sees envelopes only.
func TestGatewayEndToEnd(t *testing.T) {
	p := newPlant(t)
	p.startGatewayd(t)
	if code := connack(t, p.device(t)); code != 3 {
		t.Errorf("before controld is there, a device gets return code %d, want 3 (server unavailable)", code)
	}
	p.startControld(t)
	p.awaitReady(t)

	seen := make(chan mqtt.Message, 16)
	broker := mqttClient(t, "tls://"+p.brokerAddr, "watcher", &tls.Config{RootCAs: p.ca.Pool()})
	done(t, broker.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) { seen <- m }), "subscribe at the broker")
	opened := make(chan mqtt.Message, 16)
	device := mqttClient(t, "tcp://"+p.device(t), "device", nil)
	reader := mqttClient(t, "tcp://"+p.device(t), "reader", nil)
	done(t, reader.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) { opened <- m }), "subscribe behind the gateway")

	publish := func(text string) {
		t.Helper()
		done(t, device.Publish("plant/line1/temp", 1, false, text), "publish")
		m := await(t, seen, "the message at the broker")
		if bytes.Contains(m.Payload(), []byte(text)) {
			t.Fatalf("the broker saw %q", m.Payload())
		}
		if got := open(t, p.keysOf(t), "default", m.Topic(), m.Payload()); got != text {
			t.Errorf("opened %q, published %q", got, text)
		}
		if got := await(t, opened, "the message behind the gateway"); string(got.Payload()) != text {
			t.Errorf("the reader behind the gateway got %q, published %q", got.Payload(), text)
		}
	}
	publish("temperature is 21.5")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	epoch, err := keylink.Rotate(ctx, p.keylink, "default")
	if err != nil {
		t.Fatal(err)
	}
	if epoch.Number == 0 && epoch.Generation == 0 {
		t.Errorf("rotated to epoch %v", epoch)
	}
	publish("sealed after the rotation")

	// controld goes, data goes on under the keys at hand.
	p.gatewayd.log.await(t, "connected to controld")
	p.controld.stop()
	p.gatewayd.log.await(t, "controld is gone")
	done(t, device.Publish("plant/line1/temp", 1, false, "controld is dead"), "publish without controld")
	if m := await(t, seen, "the message at the broker"); bytes.Contains(m.Payload(), []byte("controld")) {
		t.Errorf("the broker saw %q", m.Payload())
	}
	if got := await(t, opened, "the message behind the gateway"); string(got.Payload()) != "controld is dead" {
		t.Errorf("the reader got %q", got.Payload())
	}

	// It comes back and finds a gateway that holds keys.
	p.startControld(t)
	publish("controld is back")
	p.checkHTTP(t)
	p.gatewayd.stop()
	if !strings.Contains(p.gatewayd.log.String(), "gatewayd ended") {
		t.Errorf("no word of the end:\n%s", p.gatewayd.log)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(b)
}

// awaitMetrics reads the metrics until all of want are among them: counters of controld
// come a little later.
func awaitMetrics(t *testing.T, url string, want ...string) string {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text := get(t, url)
		missing := slices.IndexFunc(want, func(s string) bool { return !strings.Contains(text, s) })
		if missing < 0 {
			return text
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s is not among the metrics:\n%s", want[missing], text)
		}
	}
}

func (p *plant) checkHTTP(t *testing.T) {
	t.Helper()
	base := "http://" + value(t, p.gatewayd.log.await(t, "metrics server listens"), "addr")
	text := awaitMetrics(t, base+"/metrics",
		`sealgate_messages_total{direction="up",verdict="seal"}`, `sealgate_epoch_number{group="default"}`,
		`sealgate_control_messages_total{type="epoch",result="sent"}`, "sealgate_controld_connected 1", "sealgate_seal_seconds_count")
	if missing := undocumented(operations(t), text); len(missing) > 0 {
		t.Errorf("docs/OPERATIONS.md does not mention %q", missing)
	}
	series := make(map[string]bool)
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(line, " "); name != "#" {
			if series[name] {
				t.Errorf("series %s twice", name)
			}
			series[name] = true
		}
	}
	var s struct {
		Gateway       string `json:"gateway"`
		Ready         bool   `json:"ready"`
		PolicyVersion int    `json:"policy_version"`
	}
	if err := json.Unmarshal([]byte(get(t, base+"/status")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Gateway != "gw1" || !s.Ready || s.PolicyVersion != 1 {
		t.Errorf("status %+v", s)
	}
	if resp, err := http.Post(base+"/metrics", "text/plain", nil); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST /metrics: %s", resp.Status)
		}
	}
}

func TestReload(t *testing.T) {
	p := newPlant(t)
	p.startGatewayd(t)
	p.startControld(t)
	p.awaitReady(t)
	device := mqttClient(t, "tcp://"+p.device(t), "device", nil)

	p.write(t, "fleet = ")
	p.gatewayd.hangup()
	p.gatewayd.log.await(t, "reload refused, going on as before")

	p.write(t, strings.Replace(p.text(), "[limits]", "[downlink]\ntell_status = true\n[limits]\nmax_message = \"64KiB\"\nmax_connections = 1", 1))
	p.gatewayd.hangup()
	p.gatewayd.log.await(t, "need a restart", `"keys":"downlink.tell_status limits.max_message"`)
	p.gatewayd.log.await(t, "hold for new connections")
	if code := connack(t, p.device(t)); code != -1 {
		t.Errorf("over the new limit of connections a device got return code %d", code)
	}

	// A CA that did not sign the broker's certificate: new connections fail, the open one stays.
	other := filepath.Join(p.dir, "other-ca.pem")
	b, err := os.ReadFile(filepath.Join(p.identity(), "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p.write(t, strings.Replace(p.text(), fmt.Sprintf("ca = %q", p.ca.File), fmt.Sprintf("ca = %q", other), 1))
	p.gatewayd.hangup()
	p.gatewayd.log.await(t, "hold for new connections")
	if code := connack(t, p.device(t)); code == 0 {
		t.Error("a broker that the new CA does not vouch for was used")
	}
	done(t, device.Publish("plant/x", 1, false, "y"), "publish on the connection that was there before")

	p.controld.hangup()
	p.controld.log.await(t, "the policy in force is not older")
}
