package gateway

import (
	"bytes"
	"testing"

	"sealgate/pkg/mqttparse"
)

// What TestProperty has found, in the fewest steps.

// The broker sends each copy of a message again that the device has not acknowledged, on the next connection: none of them is one too many.
func TestCopiesAreSentAgain(t *testing.T) {
	const v = mqttparse.V311
	b, f := downBench(t, v)
	b.subscribes(t, mqttparse.SUBSCRIBE, "s/a", "s/+", "#")
	m := f.sealer("default", "s/a").next("1", 1, 0)
	if n := b.times(t, m, 1, 1, 3, false); n != 3 {
		t.Fatalf("%d copies for three subscriptions", n)
	}
	b.reconnect(t, v, "dev1", false)
	b.connack(t, true)
	m.Dup = true
	if n := b.times(t, m, 1, 1, 3, true); n != 3 {
		t.Errorf("%d of three copies after the connection was lost", n)
	}
}

// A QoS 2 message that comes with DUP and is refused may be one that the device got through another gateway, or before this one was
// restarted: PUBREL is for the device, which else takes the next message of that identifier for the same one.
func TestPubrelOfARefusedCopy(t *testing.T) {
	const v = mqttparse.V311
	rel := mqttparse.AppendAck(nil, v, mqttparse.PUBREL, 5, 0)
	for _, dup := range []bool{true, false} {
		b, f := downBench(t, v)
		m := f.sealer("default", "s/a").next("1", 0, 0)
		b.receive(t, m) // and not for a second subscription: that was made elsewhere
		m.QoS, m.PacketID, m.Dup = 2, 5, dup
		if len(b.receive(t, m)) != 0 {
			t.Fatal("delivered twice")
		}
		if out := b.fromBroker(t, rel); bytes.Equal(out, rel) != dup || len(b.upl.b) > 0 == dup {
			t.Errorf("DUP %v: PUBREL becomes % x, the broker hears % x", dup, out, b.upl.b)
		}
	}
}

// That a message was refused is forgotten with the connection: the device may get it by another way.
func TestRefusedIsForgottenWithTheConnection(t *testing.T) {
	const v = mqttparse.V311
	b, f := downBench(t, v)
	s := f.sealer("default", "s/a")
	b.receive(t, s.next("1", 0, 0))
	if len(b.receive(t, message("s/a", "not sealed", 2, 5))) != 0 {
		t.Fatal("delivered unsealed")
	}
	b.reconnect(t, v, "dev1", false)
	b.connack(t, true)
	rel := mqttparse.AppendAck(nil, v, mqttparse.PUBREL, 5, 0)
	if out := b.fromBroker(t, rel); !bytes.Equal(out, rel) || len(b.upl.b) > 0 {
		t.Errorf("PUBREL becomes % x, the broker hears % x", out, b.upl.b)
	}
}
