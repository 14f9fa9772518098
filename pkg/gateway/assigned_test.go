package gateway

import (
	"bytes"
	"testing"

	"sealgate/pkg/mqttparse"
)

// A client without an id gets one of the broker, comes back under it, and finds its streams and the records of what it
// sends again (MQTT 5, 3.2.2.3.7).
func TestAssignedClientIdentifier(t *testing.T) {
	const v = mqttparse.V5
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{})
	b.reconnect(t, v, "", true)
	id := func(s string) []byte {
		return append([]byte{mqttparse.PropAssignedClientID, 0, byte(len(s))}, s...)
	}
	if got := b.connackWith(t, id("auto-1")); !bytes.Contains(got, id("auto-1")) {
		t.Errorf("the device reads % x", got)
	}
	if b.c.name() != "auto-1" {
		t.Errorf("status names it %q", b.c.name())
	}
	m := message("s/a", "one", 1, 7)
	first := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]
	b.reconnect(t, v, "auto-1", false)
	b.connack(t, true)
	m.Dup = true
	if again := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]; !bytes.Equal(again.Payload, first.Payload) {
		t.Error("sent again under the assigned id: other bytes")
	}
	// An id that another client has is not taken over with it: neither while that is away nor while it is here.
	for _, away := range []bool{false, true} {
		owner := b.c
		if away {
			b.reconnect(t, v, "", true)
		} else {
			b.c = nil
			b.reconnect(t, v, "", true)
		}
		b.connackWith(t, id("auto-1"))
		if e := b.g.store.m[owner.key]; e == nil || e.session != owner.sess || b.c.sess == owner.sess || b.c.name() != "" {
			t.Fatalf("away %v: a broker replaced a client's session by assigning its id", away)
		}
		b.g.store.put(b.c.sess)
		b.c = owner
	}
}
