package daemon_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
)

// What devices sent is in the signed checkpoints of the gateway, to the last message, and when the gateway ends, so does it.
func TestCheckpointsTellWhatWasSent(t *testing.T) {
	p := newPlant(t)
	seen := make(chan []byte, 256)
	spy := mqttClient(t, "ssl://"+p.brokerAddr, "spy", &tls.Config{RootCAs: p.ca.Pool()})
	done(t, spy.Subscribe("sealgate/checkpoint/default/gw1", 1, func(_ mqtt.Client, m mqtt.Message) { seen <- bytes.Clone(m.Payload()) }), "subscribe")
	_, trust, _, err := member.LoadIdentity(p.identity())
	if err != nil {
		t.Fatal(err)
	}
	next := func() *checkpoint.Message {
		t.Helper()
		payload, from, err := trust.Verify(await(t, seen, "a checkpoint"), checkpoint.Kind, time.Now())
		if err != nil || from.Name != "gw1" {
			t.Fatal(from, err)
		}
		m, err := checkpoint.Parse(payload)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	p.startControld(t)
	p.startGatewayd(t)
	p.awaitReady(t)
	if m := next(); m.Group != "default" || len(m.Streams) != 0 {
		t.Errorf("before anything was sent: %+v", m)
	}
	device := mqttClient(t, "tcp://"+p.device(t), "sensor", nil)
	const messages = 5
	for range messages {
		done(t, device.Publish("plant/line1/temp", 1, false, "21.5"), "publish")
	}
	m := next()
	for len(m.Streams) == 0 || m.Streams[0].Next < messages {
		m = next()
	}
	s := m.Streams[0]
	if len(m.Streams) != 1 || s.Next != messages || s.Final || len(s.Burned) > 0 {
		t.Errorf("%+v", m)
	}
	secret := crypto.PayloadSecret{}
	if s.Topic == checkpoint.TopicDigest(&secret, "default", sha256.Sum256([]byte("plant/line1/temp"))) {
		t.Error("the topic's digest is made without a secret")
	}

	// What is sent before the gateway ends is told, although the interval is not over.
	done(t, device.Publish("plant/line1/temp", 1, false, "the last"), "publish")
	p.gatewayd.stop()
	for m = next(); len(m.Streams) == 0 || m.Streams[0].Next < messages+1; {
		m = next()
	}
	p.controld.stop()
	for m.State != checkpoint.Ending {
		m = next()
	}
}
