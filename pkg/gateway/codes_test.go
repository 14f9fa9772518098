package gateway

import (
	"errors"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

// A device is told by DISCONNECT why its connection ends: with a code that DISCONNECT may carry (MQTT-3.14.2-1).
// Several that CONNACK has, 0x88 among them, do not exist there.
func TestDisconnectCodesExist(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{ConnectTimeout: time.Millisecond})
	u := b.c.up
	u.refresh()
	over := make(chan time.Time)
	close(over)
	load := func(in []byte) error {
		u.in.load(in)
		return u.transform()
	}
	b.g.memory.left.Store(0)
	for name, err := range map[string]error{
		"no key":          u.waitState(over, "default"),
		"no CONNACK":      u.waitConnAck(),
		"memory":          b.g.charge(1),
		"defect":          panicked("boom", "here"),
		"no randomness":   internalError(errors.New("none")),
		"malformed":       load([]byte{0xf1, 0}),
		"alias range":     errAliasRange,
		"alias unknown":   errAliasUnknown,
		"alias memory":    errAliasBytes,
		"message too big": refuse(refusedTooLarge, 0x95, ""),
	} {
		var r *refusal
		if !errors.As(err, &r) || r.code == 0 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var s mqttparse.Scanner
		s.Init(mqttparse.FromServer, 0)
		s.SetVersion(mqttparse.V5)
		_, _, _ = s.Next(mqttparse.AppendConnAck(nil, mqttparse.V5, false, 0))
		if _, _, err := s.Next(mqttparse.AppendDisconnect(nil, mqttparse.V5, r.code)); err != nil {
			t.Errorf("%s: DISCONNECT with %#x: %v", name, r.code, err)
		}
	}
}

// A device of MQTT 5 at a broker of 3.1.1 hears its refusal and may fall back.
func TestOldBrokerRefusesV5(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	in := []byte{0x20, 2, 0, 1}
	if out := b.fromBroker(t, in); string(out) != string(in) {
		t.Errorf("the device hears % x", out)
	}
}
