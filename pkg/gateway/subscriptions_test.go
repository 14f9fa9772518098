package gateway

import (
	"encoding/binary"
	"fmt"
	"testing"

	"sealgate/pkg/mqttparse"
)

// subscribes lets the device subscribe or unsubscribe: the packet passes as it is.
func (b *bench) subscribes(tb testing.TB, t mqttparse.Type, filters ...string) {
	tb.Helper()
	body := []byte{0, 77}
	if b.c.version == mqttparse.V5 {
		body = append(body, 0)
	}
	for _, f := range filters {
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(f))), f...)
		if t == mqttparse.SUBSCRIBE {
			body = append(body, 1)
		}
	}
	in := append([]byte{byte(t)<<4 | 2, byte(len(body))}, body...)
	if out := b.fromDevice(tb, in); string(out) != string(in) {
		tb.Fatalf("% x became % x", in, out)
	}
}

// times counts how often a message is delivered of so many copies, under packet identifiers from id on.
func (b *bench) times(tb testing.TB, p mqttparse.Publish, qos byte, id uint16, copies int, acked bool) (n int) {
	tb.Helper()
	for i := range uint16(copies) {
		p.QoS, p.PacketID = qos, 0
		if qos > 0 {
			p.PacketID = id + i
		}
		got := len(b.receive(tb, p))
		n += got
		switch {
		case qos > 0 && got == 0 && len(b.upl.b) == 0:
			tb.Error("a refused copy was not acknowledged")
		case qos > 0 && got > 0 && acked:
			b.acks(tb, mqttparse.PUBACK, p.PacketID)
		}
	}
	return n
}

// A broker may send a message once for each subscription that it matches, and not more often (MQTT-3.3.4-2).
func TestOverlappingSubscriptions(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		for qos := range byte(3) {
			for _, acked := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v-qos%d-acknowledged-%v", v, qos, acked), func(t *testing.T) {
					b, f := downBench(t, v)
					s := f.sealer("default", "s/a")
					id := uint16(1)
					want := func(n int, why string) {
						t.Helper()
						id += 10
						if got := b.times(t, s.next("m", 0, 0), qos, id, 5, acked); got != n {
							t.Errorf("%s: delivered %d times, want %d", why, got, n)
						}
					}
					want(1, "no subscription known")
					b.subscribes(t, mqttparse.SUBSCRIBE, "s/a", "other/#")
					want(1, "one that matches")
					b.subscribes(t, mqttparse.SUBSCRIBE, "s/+", "$share/g/s/#")
					want(3, "three that match")
					b.subscribes(t, mqttparse.SUBSCRIBE, "s/+")
					want(3, "the same again")
					b.subscribes(t, mqttparse.UNSUBSCRIBE, "s/+", "nothing")
					want(2, "one less")
					b.reconnect(t, v, "dev1", false)
					b.connack(t, true)
					want(2, "the session is present")
					b.reconnect(t, v, "dev1", false)
					b.subscribes(t, mqttparse.SUBSCRIBE, "s/a")
					b.connack(t, false)
					want(1, "the session is not, but for what this connection has said")
					b.reconnect(t, v, "dev1", true)
					b.connack(t, false)
					want(1, "a clean start")
					if gaps := b.g.metrics.gaps.Get(); gaps != 0 {
						t.Errorf("%d counted as missing", gaps)
					}
				})
			}
		}
	}
}

// Copies for one subscription may come after other messages for another, and no number ever comes too often.
func TestCopiesInAnyOrder(t *testing.T) {
	b, f := downBench(t, mqttparse.V5)
	b.subscribes(t, mqttparse.SUBSCRIBE, "s/a", "s/#")
	s := f.sealer("default", "s/a")
	var all []mqttparse.Publish
	for range 200 {
		all = append(all, s.next("m", 0, 0))
	}
	got := make([]int, len(all))
	order := make([]int, 0, 4*len(all))
	for i := 0; i < len(all); i += 50 {
		for range 2 {
			for j := i; j < i+50; j++ {
				order = append(order, j)
			}
		}
	}
	for i := range all {
		order = append(order, i, len(all)-1-i)
	}
	for _, i := range order {
		got[i] += len(b.receive(t, all[i]))
	}
	for i, n := range got {
		if n != 2 {
			t.Errorf("number %d came %d times", i, n)
		}
	}
}

// Of a shared subscription others get the rest: what is missing here is no loss.
func TestSharedSubscriptionsHaveNoGaps(t *testing.T) {
	b, f := downBench(t, mqttparse.V5)
	b.subscribes(t, mqttparse.SUBSCRIBE, "$share/g/s/#", "s/other")
	s := f.sealer("default", "s/a")
	step := func(skip int) uint64 {
		for range skip {
			s.next("for others", 0, 0)
		}
		if len(b.receive(t, s.next("m", 0, 0))) != 1 {
			t.Error("not delivered")
		}
		return b.g.metrics.gaps.Get()
	}
	if step(0) != 0 || step(3) != 0 {
		t.Error("the messages of others count as missing")
	}
	b.subscribes(t, mqttparse.SUBSCRIBE, "s/+")
	if n := step(3); n != 3 {
		t.Errorf("with a subscription of its own: %d missing, want 3", n)
	}
}

// With Retain As Published a live message may have RETAIN set: it is not missing when the next one comes.
func TestRetainAsPublishedMakesNoGaps(t *testing.T) {
	b, f := downBench(t, mqttparse.V5)
	s := f.sealer("default", "s/a")
	for i := range 10 {
		m := s.next("m", 0, 0)
		m.Retain = i%3 > 0
		if len(b.receive(t, m)) != 1 {
			t.Errorf("number %d not delivered", i)
		}
	}
	if n := b.g.metrics.gaps.Get(); n != 0 {
		t.Errorf("%d counted as missing", n)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	b, _ := downBench(t, mqttparse.V5)
	before := b.g.memory.left.Load()
	for i := range maxFilters + 10 {
		b.subscribes(t, mqttparse.SUBSCRIBE, fmt.Sprintf("s/%d", i))
	}
	if n := len(b.c.sess.subs.m); n != maxFilters {
		t.Errorf("%d kept, want %d", n, maxFilters)
	}
	b.reconnect(t, mqttparse.V5, "dev1", true)
	if n := b.g.memory.left.Load(); n != before {
		t.Errorf("%d bytes lost", before-n)
	}
	b.g.memory.left.Store(filterExtra)
	b.subscribes(t, mqttparse.SUBSCRIBE, "s/a")
	if n := len(b.c.sess.subs.m); n != 0 {
		t.Error("kept without memory")
	}
}
