package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
)

// receive runs one message from the broker and gives what the device gets of it.
func (b *bench) receive(tb testing.TB, p mqttparse.Publish) []mqttparse.Publish {
	tb.Helper()
	return publishes(tb, b.c.version, b.fromBroker(tb, publishPacket(b.c.version, p)))
}

func (b *bench) acks(tb testing.TB, t mqttparse.Type, id uint16) {
	tb.Helper()
	in := mqttparse.AppendAck(nil, b.c.version, t, id, 0)
	if out := b.fromDevice(tb, in); !bytes.Equal(out, in) {
		tb.Fatalf("the device's %v did not pass: % x", t, out)
	}
}

func downBench(t *testing.T, v mqttparse.Version) (*bench, *fleet) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{})
	b.connack(t, false)
	return b, f
}

func TestSealedIsOpened(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V31, mqttparse.V311, mqttparse.V5} {
		b, f := downBench(t, v)
		s := f.sealer("default", "s/a")
		for i := range 3 {
			for _, size := range []int{0, 5, 100, 200, 20_000} {
				want := s.next(string(bytes.Repeat([]byte("p"), size)), byte(i), uint16(i))
				got := b.receive(t, want)
				if len(got) != 1 || len(got[0].Payload) != size || got[0].QoS != byte(i) || got[0].PacketID != uint16(i) || string(got[0].Topic) != "s/a" {
					t.Fatalf("%v QoS %d, %d bytes: %d packets", v, i, size, len(got))
				}
				if bytes.Count(got[0].Payload, []byte("p")) != size {
					t.Errorf("%v: payload changed", v)
				}
				if i > 0 {
					b.acks(t, mqttparse.PUBACK, uint16(i))
				}
			}
		}
	}
}

// A message is opened where its payload is to stand if the lengths before it have the usual number of bytes, and moved if they have not.
func TestOpenedAtAllLengths(t *testing.T) {
	lengths := []int{0, 10, 50, 118, 128, 16384}
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		for _, hide := range []bool{false, true} {
			f := newFleet(t)
			if hide {
				f.hiding()
			}
			b := newBench(t, f.rotate(1), v, Config{})
			b.connack(t, false)
			s := f.sealer("default", "s/a")
			if hide {
				s = f.hidden("s/a")
			}
			for _, outer := range lengths {
				for _, inner := range lengths {
					for _, size := range append(lengths, 60, 110, 115, 120, 125, 16230, 16360, 16370, 16380) {
						props := bytes.Repeat([]byte{mqttparse.PropSubscriptionID, 5}, outer/2)
						var content []byte
						if inner > 5 {
							content = join([]byte{mqttparse.PropUserProperty, 0, 0, byte((inner - 5) >> 8), byte(inner - 5)}, bytes.Repeat([]byte("v"), inner-5))
						}
						m := s.withProps(content, string(bytes.Repeat([]byte("p"), size)), 0, 0)
						m.Properties = props
						got := b.receive(t, m)
						want := join(props, content)
						if v != mqttparse.V5 {
							want = nil
						}
						if len(got) != 1 || len(got[0].Payload) != size || bytes.Count(got[0].Payload, []byte("p")) != size || !bytes.Equal(got[0].Properties, want) || string(got[0].Topic) != "s/a" {
							t.Fatalf("%v, hidden %v, %d bytes of properties outside, %d inside, %d of payload: %d delivered", v, hide, outer, inner, size, len(got))
						}
					}
				}
			}
		}
	}
}

func TestInnerPropertiesReplaceOuter(t *testing.T) {
	inner := []byte{mqttparse.PropContentType, 0, 4, 't', 'e', 'x', 't'}
	forged := []byte{mqttparse.PropContentType, 0, 4, 'e', 'v', 'i', 'l'}
	expiry := []byte{mqttparse.PropMessageExpiry, 0, 0, 0, 60}
	for _, tt := range []struct {
		v                  mqttparse.Version
		outer, inner, want []byte
	}{
		{mqttparse.V5, nil, inner, inner},
		{mqttparse.V5, expiry, inner, append(bytes.Clone(expiry), inner...)},
		{mqttparse.V5, append(bytes.Clone(forged), expiry...), nil, expiry},
		{mqttparse.V5, forged, inner, inner},
		{mqttparse.V5, forged, nil, nil},
		{mqttparse.V311, nil, inner, nil},
	} {
		b, f := downBench(t, tt.v)
		m := f.sealer("default", "s/a").withProps(tt.inner, "payload", 0, 0)
		m.Properties = tt.outer
		got := b.receive(t, m)
		if len(got) != 1 || string(got[0].Payload) != "payload" || !bytes.Equal(got[0].Properties, tt.want) {
			t.Errorf("%v outer % x inner % x: %+v", tt.v, tt.outer, tt.inner, got)
		}
	}
	b, f := downBench(t, mqttparse.V5)
	if got := b.receive(t, f.sealer("default", "s/a").withProps(expiry, "payload", 0, 0)); len(got) != 0 || b.count(downForged) != 1 {
		t.Error("a property that does not belong inside was delivered")
	}
}

func TestBrokersTricksAreRefused(t *testing.T) {
	v := mqttparse.V311
	good := func(f *fleet) mqttparse.Publish { return f.sealer("default", "s/a").next("secret", 1, 5) }
	for _, tt := range []struct {
		name string
		make func(*fleet) mqttparse.Publish
		want verdict
	}{
		{"plaintext", func(*fleet) mqttparse.Publish { return message("s/a", "hello", 1, 5) }, downPlaintext},
		{"empty", func(*fleet) mqttparse.Publish { return message("k/a", "", 1, 5) }, downPlaintext},
		{"a clear", func(*fleet) mqttparse.Publish { return message("s/a", "", 1, 5) }, downClear},
		{"cut envelope", func(f *fleet) mqttparse.Publish {
			m := good(f)
			m.Payload = m.Payload[:len(m.Payload)-1]
			return m
		}, downForged},
		{"changed byte", func(f *fleet) mqttparse.Publish {
			m := good(f)
			m.Payload[len(m.Payload)-1] ^= 1
			return m
		}, downForged},
		{"another topic", func(f *fleet) mqttparse.Publish {
			m := good(f)
			m.Topic = []byte("s/b")
			return m
		}, downForged},
		{"another group's topic", func(f *fleet) mqttparse.Publish {
			m := good(f)
			m.Topic = []byte("o/a")
			return m
		}, downUnknownKey},
		{"unknown key", func(f *fleet) mqttparse.Publish {
			m := good(f)
			m.Payload[11] ^= 1
			return m
		}, downUnknownKey},
		{"control topic", func(*fleet) mqttparse.Publish { return message("sealgate/policy", "x", 1, 5) }, downControl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, f := downBench(t, v)
			b.c.down.hold.since, b.c.down.hold.spent = time.Now(), holdTime // no patience left
			for qos := byte(0); qos < 3; qos++ {
				m := tt.make(f)
				m.QoS = qos
				if qos == 0 {
					m.PacketID = 0
				}
				if got := b.receive(t, m); len(got) != 0 {
					t.Fatalf("QoS %d delivered: %+v", qos, got)
				}
				want := [][]byte{nil, {0x40, 2, 0, 5}, {0x50, 2, 0, 5}}[qos]
				if !bytes.Equal(b.upl.b, want) {
					t.Errorf("QoS %d: the broker hears % x, want % x", qos, b.upl.b, want)
				}
			}
			if out := b.fromBroker(t, mqttparse.AppendAck(nil, v, mqttparse.PUBREL, 5, 0)); len(out) != 0 || !bytes.Equal(b.upl.b, []byte{0x70, 2, 0, 5}) {
				t.Errorf("PUBREL of a refused message: device % x broker % x", out, b.upl.b)
			}
			if got := b.count(tt.want); got != 3 {
				t.Errorf("%d counted as %s", got, verdictWords[tt.want].verdict)
			}
			if got := b.receive(t, good(f)); len(got) != 1 || string(got[0].Payload) != "secret" {
				t.Errorf("a good message after it: %+v", got)
			}
		})
	}
}

func TestDeniedAndPassedDownwards(t *testing.T) {
	f := newFleet(t).denying()
	b := newBench(t, f.rotate(1, "default"), mqttparse.V311, Config{})
	b.connack(t, false)
	if got := b.receive(t, message("x", "hello", 0, 0)); len(got) != 0 || b.count(downDeny) != 1 {
		t.Errorf("denied topic delivered: %+v", got)
	}
	b, _ = downBench(t, mqttparse.V311)
	in := publishPacket(mqttparse.V311, message("plain/x", "hello", 1, 4))
	in = append(in, 0xd0, 0)
	if out := b.fromBroker(t, in); !bytes.Equal(out, in) {
		t.Errorf("% x", out)
	}
}

func TestReplays(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	s := f.sealer("default", "s/a")
	var all []mqttparse.Publish
	for i := range crypto.WindowSize + 10 {
		all = append(all, s.next(fmt.Sprint(i), 0, 0))
	}
	deliver := func(i int, want bool) {
		t.Helper()
		if got := len(b.receive(t, all[i])) == 1; got != want {
			t.Errorf("number %d delivered: %v, want %v", i, got, want)
		}
	}
	deliver(3, true) // a start, not a gap
	deliver(3, false)
	deliver(5, true)
	deliver(4, true)
	deliver(4, false)
	deliver(len(all)-1, true)
	deliver(0, false) // below the window
	if b.count(downDuplicate) != 2 || b.count(downReplayed) != 1 {
		t.Errorf("%d duplicates, %d replayed", b.count(downDuplicate), b.count(downReplayed))
	}
	if got, want := b.g.metrics.gaps.Get(), uint64(1+len(all)-1-6); got != want {
		t.Errorf("%d missing counted, want %d", got, want)
	}
	b.reconnect(t, mqttparse.V311, "dev1", true) // the same receiver: its windows stay
	b.connack(t, false)
	deliver(len(all)-1, false)
}

func TestRetainedNeverMoveTheWindow(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	s := f.sealer("default", "s/a")
	first, second := s.next("1", 0, 0), s.next("2", 0, 0)
	retained := second
	retained.Retain = true
	for range 2 {
		if len(b.receive(t, retained)) != 1 {
			t.Fatal("a retained message is lost")
		}
	}
	if len(b.receive(t, first)) != 1 || len(b.receive(t, second)) != 1 {
		t.Error("a retained message moved the window")
	}
	first.Retain = true
	if len(b.receive(t, first)) != 0 || b.count(downStale) != 1 {
		t.Error("a stale retained message was delivered")
	}
}

func TestWindowCommitsWithTheDevicesAcknowledgement(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	s := f.sealer("default", "s/a")
	m := s.next("1", 1, 5)
	again := func() int {
		t.Helper()
		r := m
		r.Dup = true
		return len(b.receive(t, r))
	}
	if len(b.receive(t, m)) != 1 || again() != 1 {
		t.Fatal("not acknowledged: the broker's second try must arrive")
	}
	b.reconnect(t, mqttparse.V311, "dev1", false)
	b.connack(t, true)
	if again() != 1 {
		t.Fatal("after a reconnect it must arrive, too")
	}
	b.acks(t, mqttparse.PUBACK, 5)
	if again() != 0 || !bytes.Equal(b.upl.b, []byte{0x40, 2, 0, 5}) {
		t.Errorf("acknowledged and delivered again; broker hears % x", b.upl.b)
	}
	m.PacketID = 6
	if again() != 0 {
		t.Error("another packet id makes it new")
	}
}

func TestQoS2SurvivesALostPubrec(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	s := f.sealer("default", "s/a")
	m := s.next("1", 2, 5)
	b.receive(t, m)
	b.acks(t, mqttparse.PUBREC, 5)
	b.reconnect(t, mqttparse.V311, "dev1", false) // the broker never saw PUBREC
	b.connack(t, true)
	m.Dup = true
	if len(b.receive(t, m)) != 1 {
		t.Fatal("the device knows the packet id and must answer itself")
	}
	other := m
	other.PacketID = 9
	if len(b.receive(t, other)) != 0 {
		t.Error("under another id it is a replay")
	}
	b.acks(t, mqttparse.PUBREC, 5)
	rel := mqttparse.AppendAck(nil, mqttparse.V311, mqttparse.PUBREL, 5, 0)
	if out := b.fromBroker(t, rel); !bytes.Equal(out, rel) {
		t.Errorf("PUBREL did not pass: % x", out)
	}
	b.acks(t, mqttparse.PUBCOMP, 5)
	if len(b.receive(t, m)) != 0 {
		t.Error("delivered after PUBCOMP")
	}
	next := s.next("2", 2, 5)
	if len(b.receive(t, next)) != 1 {
		t.Error("the packet id is free again")
	}
}

// A QoS 2 message that the device has and that is refused when it comes again, here because its epoch's
// history has ended: PUBREL is the device's, or it would take the next message of that packet id for a
// duplicate.
func TestQoS2RefusedTheSecondTime(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{Now: func() time.Duration { return time.Hour }})
	b.connack(t, false)
	m := f.sealer("default", "s/a").next("1", 2, 5)
	b.receive(t, m)
	b.acks(t, mqttparse.PUBREC, 5)
	b.reconnect(t, mqttparse.V311, "dev1", false) // the broker never saw PUBREC
	b.connack(t, true)
	f.keys["default"][0].NotAfter = time.Minute
	b.g.SetState(f.state())
	m.Dup = true
	if len(b.receive(t, m)) != 0 || b.count(downExpired) != 1 {
		t.Fatal("not refused")
	}
	if want := mqttparse.AppendAck(nil, mqttparse.V311, mqttparse.PUBREC, 5, 0); !bytes.Equal(b.upl.b, want) {
		t.Errorf("the broker hears % x", b.upl.b)
	}
	rel := mqttparse.AppendAck(nil, mqttparse.V311, mqttparse.PUBREL, 5, 0)
	if out := b.fromBroker(t, rel); !bytes.Equal(out, rel) || len(b.upl.b) != 0 {
		t.Errorf("PUBREL did not pass: % x, the broker hears % x", out, b.upl.b)
	}
	b.acks(t, mqttparse.PUBCOMP, 5)
	if b.c.sess.due.n != 0 {
		t.Error("the record stays")
	}
}

func TestUnknownKeyIsHeldUntilItComes(t *testing.T) {
	f := newFleet(t)
	before := f.rotate(1)
	after := f.rotate(1)
	asked := make(chan crypto.KeyID, 8)
	b := newBench(t, before, mqttparse.V311, Config{UnknownKey: func(_ string, id crypto.KeyID) { asked <- id }})
	b.connack(t, false)
	m := f.sealer("default", "s/a").next("late", 0, 0)
	go func() {
		<-asked
		b.g.SetState(before) // another State without it: the wait goes on
		b.g.SetState(after)
	}()
	if got := b.receive(t, m); len(got) != 1 || string(got[0].Payload) != "late" {
		t.Fatalf("%+v", got)
	}
}

func TestUnknownKeysAreWaitedForOnce(t *testing.T) {
	now := time.Now()
	var h holder
	a, b := askedKey{"g", crypto.KeyID{1}}, askedKey{"g", crypto.KeyID{2}}
	if h.budget(a, now, holdTime) != holdTime {
		t.Error("the first waits")
	}
	h.waited(a, holdTime/2, false)
	if h.budget(a, now, holdTime) != 0 || h.budget(b, now, holdTime) != holdTime/2 {
		t.Error("one that did not come is not waited for again; another one as long as is left")
	}
	if h.budget(a, now.Add(negativeTime), holdTime) != holdTime {
		t.Error("after half a minute it starts over")
	}
	var asked askedKeys
	if !asked.first(a, now) || asked.first(a, now) || !asked.first(a, now.Add(negativeTime)) {
		t.Error("one question a key and half minute")
	}
	for i := range 3 * maxAsked {
		asked.first(askedKey{"g", crypto.KeyID{byte(i), byte(i >> 8)}}, now)
	}
	if len(asked.m) > maxAsked {
		t.Errorf("%d remembered", len(asked.m))
	}
}

func TestExpiredEpoch(t *testing.T) {
	f := newFleet(t)
	f.rotate(1)
	s := f.sealer("default", "s/a")
	f.keys["default"][0].NotAfter = time.Minute
	now := time.Second
	b := newBench(t, f.state(), mqttparse.V311, Config{Now: func() time.Duration { return now }})
	b.connack(t, false)
	if len(b.receive(t, s.next("1", 0, 0))) != 1 {
		t.Error("within its history")
	}
	if now = time.Hour; len(b.receive(t, s.next("2", 0, 0))) != 0 || b.count(downExpired) != 1 {
		t.Error("delivered after the end of its history")
	}
}

func TestKeyRemoval(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	s := f.sealer("default", "s/a")
	b.receive(t, s.next("1", 0, 0))
	delete(f.keys, "default")
	b.g.SetState(f.state())
	b.c.down.hold.since, b.c.down.hold.spent = time.Now(), holdTime
	if len(b.receive(t, s.next("2", 0, 0))) != 0 || b.count(downUnknownKey) != 1 {
		t.Error("opened with a key that was taken away")
	}
}

func TestStreamsOfDeadKeysGo(t *testing.T) {
	b, f := downBench(t, mqttparse.V311)
	b.receive(t, f.sealer("default", "s/a").next("1", 0, 0))
	b.receive(t, f.sealer("other", "o/a").next("1", 0, 0))
	b.c.sess.opens.floors = map[crypto.Kid]floor{{1}: {next: 1}}
	delete(f.keys, "default")
	b.g.SetState(f.state())
	b.receive(t, f.sealer("other", "o/b").next("1", 0, 0))
	if n := b.c.sess.opens.n; n != 2 || b.g.streams.Load() != 2 || len(b.c.sess.opens.m) != 2 {
		t.Errorf("%d streams, %d counted", n, b.g.streams.Load())
	}
	if len(b.c.sess.opens.floors) != 0 {
		t.Error("the floor of a dead key stays")
	}
}

func TestReceiveStreamsAreBoundedAndLeaveFloors(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	first := f.sealer("default", "s/first")
	m0, m1, m2 := first.next("0", 0, 0), first.next("1", 0, 0), first.next("2", 0, 0)
	b.receive(t, m0)
	b.receive(t, m1)
	for i := range perSession {
		b.receive(t, f.sealer("default", fmt.Sprintf("s/%d", i)).next("x", 0, 0))
	}
	if n := b.c.sess.opens.n; n != perSession || b.g.streams.Load() != int64(n) {
		t.Errorf("%d streams, %d counted", n, b.g.streams.Load())
	}
	if len(b.receive(t, m0)) != 0 || len(b.receive(t, m1)) != 0 {
		t.Error("what an evicted stream had delivered is delivered again")
	}
	if len(b.receive(t, m2)) != 1 {
		t.Error("an evicted stream does not go on")
	}
}

// What the device had been sent and not acknowledged when its stream was evicted: before it is acknowledged only the same delivery gets through again,
// and then none.
func TestAcknowledgedAfterEviction(t *testing.T) {
	for _, remade := range []bool{false, true} {
		f := newFleet(t)
		b := newBench(t, f.rotate(1), mqttparse.V311, Config{MaxStreams: minStreams})
		b.connack(t, false)
		first := f.sealer("default", "s/first")
		m0, m1 := first.next("0", 1, 1), first.next("1", 1, 2)
		b.receive(t, m0)
		flood := func() {
			for i := range 3 * minStreams {
				b.receive(t, f.sealer("default", fmt.Sprintf("s/%d", i)).next("x", 0, 0))
			}
		}
		flood()
		other := m0
		other.PacketID = 9
		if len(b.receive(t, other)) != 0 {
			t.Error("a copy of what waits for its acknowledgement is delivered")
		}
		if len(b.receive(t, m0)) != 1 {
			t.Error("the same delivery, repeated, is not")
		}
		flood()
		if remade {
			b.receive(t, m1)
		}
		b.acks(t, mqttparse.PUBACK, 1)
		if len(b.receive(t, other)) != 0 || len(b.receive(t, m0)) != 0 {
			t.Errorf("begun again %v: what was acknowledged after its stream was evicted is delivered again", remade)
		}
		if !remade && len(b.receive(t, m1)) != 1 {
			t.Error("an evicted stream does not go on")
		}
	}
}

// TestFloorsAreCharged: what is remembered of evicted streams comes out of the memory of all connections, and goes back.
func TestFloorsAreCharged(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{MaxStreams: minStreams})
	b.connack(t, false)
	left := func() int64 { return b.g.memory.left.Load() }
	stream := func(i int) mqttparse.Publish { return f.sealer("default", fmt.Sprintf("s/%d", i)).next("x", 0, 0) }
	b.receive(t, stream(0))
	before := left()
	for i := range minStreams + 9 {
		b.receive(t, stream(i+1))
	}
	if n := len(b.c.sess.opens.floors); n != 10 || before-left() != int64(n*floorCost) {
		t.Errorf("%d floors cost %d bytes", n, before-left())
	}
	b.g.memory.left.Add(-left() + floorCost - 1)
	b.c.down.in.load(publishPacket(mqttparse.V311, stream(99)))
	var r *refusal
	if err := b.c.down.transform(); !errors.As(err, &r) || r.reason != refusedMemory {
		t.Errorf("without memory for a floor: %v", err)
	}
	b.g.memory.left.Add(before - left() - 10*floorCost)
	delete(f.keys, "default")
	b.g.SetState(f.state())
	b.receive(t, f.sealer("other", "o/a").next("1", 0, 0))
	if left() != before || len(b.c.sess.opens.floors) != 0 {
		t.Errorf("%d bytes are missing when the keys are dead, %d floors", before-left(), len(b.c.sess.opens.floors))
	}
}

func TestBrokersAliases(t *testing.T) {
	f := newFleet(t)
	v := mqttparse.V5
	b := newBench(t, f.rotate(1), v, Config{})
	b.connack(t, false)
	s := f.sealer("default", "s/a")
	m := s.next("1", 0, 0)
	m.Properties = []byte{mqttparse.PropTopicAlias, 0, 1}
	b.receive(t, m)
	m = s.next("2", 0, 0)
	m.Topic, m.Properties = nil, []byte{mqttparse.PropTopicAlias, 0, 1}
	got := b.receive(t, m)
	if len(got) != 1 || len(got[0].Topic) != 0 || string(got[0].Payload) != "2" || !bytes.Equal(got[0].Properties, m.Properties) {
		t.Errorf("%+v", got)
	}
	m.Properties[2] = 65
	b.c.down.in.load(publishPacket(v, m))
	var r *refusal
	if err := b.c.down.transform(); !errors.As(err, &r) || r.reason != refusedBroker {
		t.Errorf("alias above the maximum: %v", err)
	}
}

func TestBrokerBreaksTheStandard(t *testing.T) {
	b, _ := downBench(t, mqttparse.V311)
	b.c.down.in.load([]byte{0x36, 2, 0, 0})
	var r *refusal
	if err := b.c.down.transform(); !errors.As(err, &r) || r.reason != refusedBroker {
		t.Errorf("%v", err)
	}
}
