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

// What the device answers to such a PUBREL does not tell the broker whether the device has the message: that would be an oracle for who forges (F8).
func TestTheAnswerToPubrelTellsNothing(t *testing.T) {
	const v = mqttparse.V5
	for _, again := range []bool{false, true} {
		b, _ := downBench(t, v)
		m := message("s/a", "forged", 2, 5)
		m.Dup = !again
		b.receive(t, m)
		if again {
			b.reconnect(t, v, "dev1", false)
			b.connack(t, true)
		}
		rel := mqttparse.AppendAck(nil, v, mqttparse.PUBREL, 5, 0)
		if out := b.fromBroker(t, rel); !bytes.Equal(out, rel) {
			t.Fatalf("PUBREL becomes % x", out)
		}
		got := b.fromDevice(t, mqttparse.AppendAck(nil, v, mqttparse.PUBCOMP, 5, 0x92))
		if want := mqttparse.AppendAck(nil, v, mqttparse.PUBCOMP, 5, 0); !bytes.Equal(got, want) || b.c.sess.due.n != 0 {
			t.Errorf("the broker hears % x; %d records left", got, b.c.sess.due.n)
		}
	}
}

// That a message was refused is for its connection: the device may get it by another way.
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
