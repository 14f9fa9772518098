package daemon_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// While controld is dead, gatewayd seals until the freshness limit and then no more; devices go on receiving. When controld
// is back, what waited goes out.
func TestDeadControldEndsInTheFreshnessLimit(t *testing.T) {
	gateway, _ := editedFleet(t, `freshness = "24h"`, `freshness = "4s"`)
	p := newPlant(t)
	p.write(t, strings.Replace(p.text(), p.identity(), gateway, 1))
	p.startGatewayd(t)
	p.startControld(t)
	p.awaitReady(t)
	base := "http://" + value(t, p.gatewayd.log.await(t, "metrics server listens"), "addr")
	seen := make(chan mqtt.Message, 64)
	broker := mqttClient(t, "tls://"+p.brokerAddr, "watcher", &tls.Config{RootCAs: p.ca.Pool()})
	done(t, broker.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) { seen <- m }), "subscribe at the broker")
	device := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.device(t)).SetClientID("device").SetCleanSession(false). // it sends again what was not acknowledged
																		SetConnectTimeout(patience).SetMaxReconnectInterval(100 * time.Millisecond))
	done(t, device.Connect(), "connect the device")
	defer device.Disconnect(0)
	done(t, device.Publish("plant/a", 1, false, "controld lives"), "publish")
	sealed := await(t, seen, "a sealed message")

	p.controld.stop()
	p.gatewayd.log.await(t, "freshness: no keeper has confirmed", `"group":"default"`)
	p.gatewayd.log.await(t, "freshness: the freshness limit has passed", `"level":"ERROR"`)
	awaitMetrics(t, base+"/metrics", "sealgate_fresh_seconds{group=\"default\"} 0.0\n")
	var status struct {
		Ready  bool
		Groups []struct {
			Sending string
			Fresh   float64 `json:"fresh_seconds"`
			Stale   bool
		}
	}
	if err := json.Unmarshal([]byte(get(t, base+"/status")), &status); err != nil {
		t.Fatal(err)
	}
	if g := status.Groups; !status.Ready || len(g) != 1 || g[0].Sending != "" || g[0].Fresh != 0 || !g[0].Stale {
		t.Errorf("status %+v", status)
	}

	// A device still receives what was sealed before.
	opened := make(chan mqtt.Message, 64)
	reader := mqttClient(t, "tcp://"+p.device(t), "reader", nil)
	done(t, reader.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) { opened <- m }), "subscribe behind the gateway")
	done(t, broker.Publish("plant/a", 1, false, sealed.Payload()), "publish a recorded message")
	if m := await(t, opened, "the message behind the gateway"); string(m.Payload()) != "controld lives" {
		t.Errorf("the reader got %q", m.Payload())
	}
	if m := await(t, seen, "the recorded message"); !bytes.Equal(m.Payload(), sealed.Payload()) {
		t.Error("the broker saw something else")
	}

	// What a device sends leaves no more.
	device.Publish("plant/a", 1, false, "too late")
	awaitMetrics(t, base+"/metrics", `sealgate_messages_total{direction="up",verdict="no-key"} 1`)
	select {
	case m := <-seen:
		t.Fatalf("%x left although the limit had passed", m.Payload())
	default:
	}
	p.startControld(t)
	p.gatewayd.log.await(t, "freshness: the keys of this group are confirmed again")
	if got := open(t, p.keysOf(t), "default", "plant/a", await(t, seen, "what waited").Payload()); got != "too late" {
		t.Errorf("opened %q", got)
	}
}
