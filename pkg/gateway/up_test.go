package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
)

func TestPublishIsSealedInPlaceOfItsPayload(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V31, mqttparse.V311, mqttparse.V5} {
		f := newFleet(t)
		b := newBench(t, f.rotate(1), v, Config{})
		for i := range 3 {
			m := message("s/a", fmt.Sprintf("value %d", i), byte(i), uint16(i))
			m.Retain = i == 1
			out := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))
			if len(out) != 1 {
				t.Fatalf("%d packets", len(out))
			}
			got := out[0]
			if got.QoS != m.QoS || got.PacketID != m.PacketID || got.Retain != m.Retain || string(got.Topic) != "s/a" {
				t.Errorf("header changed: %+v", got)
			}
			env, props, payload := f.unseal("default", got)
			if env.Seq != uint64(i) || len(props) != 0 || !bytes.Equal(payload, m.Payload) {
				t.Errorf("seq %d props %x payload %q", env.Seq, props, payload)
			}
			if env.Kid.StreamID().Will() {
				t.Error("an ordinary stream is marked as a will's")
			}
		}
	}
}

func TestPolicyDecides(t *testing.T) {
	f := newFleet(t).denying()
	state := f.rotate(1, "default")
	v5, v311 := mqttparse.V5, mqttparse.V311
	for _, tt := range []struct {
		name    string
		v       mqttparse.Version
		m       mqttparse.Publish
		reply   []byte // to the device
		refused string // the connection ends for it
	}{
		{"QoS 0 is dropped", v311, message("x", "secret", 0, 0), nil, ""},
		{"3.1.1 has no negative acknowledgement", v311, message("x", "secret", 1, 9), nil, refusedDenied},
		{"5 QoS 1", v5, message("x", "secret", 1, 9), []byte{0x40, 3, 0, 9, 0x87}, ""},
		{"5 QoS 2", v5, message("x", "secret", 2, 9), []byte{0x50, 3, 0, 9, 0x87}, ""},
		{"control prefix", v5, message("sealgate/keys/default", "secret", 1, 9), []byte{0x40, 3, 0, 9, 0x87}, ""},
		{"the prefix itself", v5, message("sealgate", "secret", 1, 9), []byte{0x40, 3, 0, 9, 0x87}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, state, tt.v, Config{})
			b.connack(t, false)
			b.dev.b = nil
			b.c.up.in.load(publishPacket(tt.v, tt.m))
			err := b.c.up.transform()
			var r *refusal
			if errors.As(err, &r) != (tt.refused != "") || r != nil && r.reason != tt.refused {
				t.Fatalf("error %v", err)
			}
			if err := b.c.up.flush(); err != nil {
				t.Fatal(err)
			}
			if len(b.upl.b) != 0 {
				t.Errorf("reached the broker: % x", b.upl.b)
			}
			if !bytes.Equal(b.dev.b, tt.reply) && !(len(tt.reply) > 0 && bytes.HasPrefix(b.dev.b, tt.reply[:1]) && bytes.Contains(b.dev.b, tt.reply[2:])) {
				t.Errorf("device hears % x, want % x", b.dev.b, tt.reply)
			}
			if b.count(upDeny) != 1 {
				t.Error("not counted")
			}
		})
	}
}

func TestPrefixEndsAtALevel(t *testing.T) {
	for topic, want := range map[string]bool{"sealgate": true, "sealgate/x": true, "sealgates": false, "seal": false, "x/sealgate": false} {
		if underPrefix([]byte(topic), "sealgate") != want {
			t.Errorf("%s: want %v", topic, want)
		}
	}
}

func TestPassIsByteIdentical(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	props := []byte{mqttparse.PropUserProperty, 0, 1, 'a', 0, 1, 'b', mqttparse.PropMessageExpiry, 0, 0, 0, 9}
	m := message("plain/x", "open", 1, 3)
	m.Properties = props
	in := publishPacket(mqttparse.V5, m)
	in = append(in, 0xc0, 0) // PINGREQ
	in = append(in, mqttparse.AppendAck(nil, mqttparse.V5, mqttparse.PUBREL, 5, 0)...)
	if out := b.fromDevice(t, in); !bytes.Equal(out, in) {
		t.Errorf("got % x\nwant % x", out, in)
	}
}

// What deletes a retained message goes as it is, and a sealed message without payload goes with it, for subscribers (spec 3.2).
func TestRetainedClear(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	type packet struct {
		retain, dup, sealed bool
		qos                 byte
		id                  uint16
	}
	clear := message("s/a", "", 0, 0)
	clear.Retain = true
	var first []byte
	for _, tt := range []struct {
		qos  byte
		dup  bool
		want []packet
	}{
		{0, false, []packet{{true, false, false, 0, 0}, {false, false, true, 0, 0}}},
		{1, false, []packet{{true, false, false, 0, 0}, {false, false, true, 1, 7}}},
		{1, true, []packet{{true, false, false, 0, 0}, {false, true, true, 1, 7}}},
		{2, false, []packet{{false, false, true, 0, 0}, {true, false, false, 2, 8}}},
		{2, true, []packet{{true, true, false, 2, 8}}}, // deletes once, and who listens has been told
	} {
		p := clear
		p.QoS, p.Dup, p.PacketID = tt.qos, tt.dup, []uint16{0, 7, 8}[tt.qos]
		out := publishes(t, mqttparse.V311, b.fromDevice(t, publishPacket(mqttparse.V311, p)))
		var got []packet
		for _, o := range out {
			sealed := len(o.Payload) > 0
			if sealed {
				if _, _, payload := f.unseal("default", o); len(payload) > 0 {
					t.Errorf("QoS %d: sealed %q", tt.qos, payload)
				}
				if tt.qos == 1 && tt.dup && !bytes.Equal(o.Payload, first) {
					t.Error("sent again as other bytes")
				}
				first = o.Payload
			}
			got = append(got, packet{o.Retain, o.Dup, sealed, o.QoS, o.PacketID})
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("QoS %d, DUP %v: %v, want %v", tt.qos, tt.dup, got, tt.want)
		}
	}
	kept := clear
	kept.Topic = []byte("k/a")
	if out := b.fromDevice(t, publishPacket(mqttparse.V311, kept)); len(out) != 0 || b.count(upDeny) != 1 {
		t.Errorf("the group denies clears: % x", out)
	}
	empty := message("s/a", "", 0, 0)
	out := publishes(t, mqttparse.V311, b.fromDevice(t, publishPacket(mqttparse.V311, empty)))
	if _, _, payload := f.unseal("default", out[0]); len(payload) != 0 {
		t.Error("empty without RETAIN is sealed like any other")
	}
}

func TestContentPropertiesMoveInside(t *testing.T) {
	f := newFleet(t)
	v := mqttparse.V5
	b := newBench(t, f.rotate(1), v, Config{})
	b.connackMax(t, 10)
	content := []byte{mqttparse.PropContentType, 0, 4, 't', 'e', 'x', 't', mqttparse.PropResponseTopic, 0, 1, 'r',
		mqttparse.PropCorrelationData, 0, 1, 7, mqttparse.PropUserProperty, 0, 1, 'k', 0, 1, 'v', mqttparse.PropPayloadFormat, 1}
	expiry := []byte{mqttparse.PropMessageExpiry, 0, 0, 0, 60}
	alias := []byte{mqttparse.PropTopicAlias, 0, 3}
	m := message("s/a", "hello", 1, 1)
	m.Properties = append(append(append([]byte{}, expiry...), content...), alias...)
	first := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]
	if !bytes.Equal(first.Properties, append(bytes.Clone(expiry), alias...)) {
		t.Errorf("outside: % x", first.Properties)
	}
	if _, props, _ := f.unseal("default", first); !bytes.Equal(props, content) {
		t.Errorf("inside: % x", props)
	}
	// by the alias alone: the broker knows it too, and the stream goes on
	m = message("", "again", 1, 2)
	m.Properties = alias
	second := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]
	if len(second.Topic) != 0 || !bytes.Equal(second.Properties, alias) {
		t.Errorf("%+v", second)
	}
	second.Topic = []byte("s/a")
	if env, _, payload := f.unseal("default", second); string(payload) != "again" || env.Seq != 1 {
		t.Errorf("%q number %d", payload, env.Seq)
	}
	// on a topic that passes all of it passes
	m = message("plain/x", "open", 0, 0)
	m.Properties = append(append([]byte{}, alias...), expiry...)
	in := publishPacket(v, m)
	m.Topic = nil
	in = append(in, publishPacket(v, m)...)
	if out := b.fromDevice(t, in); !bytes.Equal(out, in) {
		t.Errorf("% x became % x", in, out)
	}
}

// connackMax accepts with a Topic Alias Maximum.
func (b *bench) connackMax(tb testing.TB, n byte) []byte {
	tb.Helper()
	return b.fromBroker(tb, []byte{0x20, 6, 0, 0, 3, mqttparse.PropTopicAliasMaximum, 0, n})
}

func TestAliasLimits(t *testing.T) {
	f := newFleet(t)
	with := func(alias uint16, topic string) []byte {
		m := message(topic, "x", 0, 0)
		m.Properties = []byte{mqttparse.PropTopicAlias, byte(alias >> 8), byte(alias)}
		return publishPacket(mqttparse.V5, m)
	}
	for name, tt := range map[string]struct {
		in   []byte
		code byte
	}{
		"above the broker's maximum": {with(5, "s/a"), 0x94},
		"never set":                  {with(2, ""), 0x82},
	} {
		b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
		b.connackMax(t, 4)
		b.c.up.in.load(tt.in)
		var r *refusal
		if err := b.c.up.transform(); !errors.As(err, &r) || r.code != tt.code || r.reason != refusedAlias {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	if out := b.connackMax(t, 200); out[7] != maxAliases {
		t.Errorf("the device may use %d aliases, want %d", out[7], maxAliases)
	}
	var table aliasTable
	long := bytes.Repeat([]byte("a"), aliasBytes/2)
	for i := range uint16(3) {
		_, _, err := table.resolve(&mqttparse.Publish{TopicAlias: i + 1, Topic: long}, 64)
		if want := i == 2; (err != nil) != want {
			t.Errorf("alias %d: %v", i+1, err)
		}
	}
}

func TestResend(t *testing.T) {
	v := mqttparse.V311
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{})
	b.connack(t, false)
	send := func(m mqttparse.Publish) mqttparse.Publish {
		t.Helper()
		return publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]
	}
	m := message("s/a", "one", 1, 7)
	first := send(m)
	dup := m
	dup.Dup = true
	if again := send(dup); !bytes.Equal(again.Payload, first.Payload) || !again.Dup {
		t.Error("DUP: other bytes")
	}
	if again := send(m); !bytes.Equal(again.Payload, first.Payload) {
		t.Error("packet id in flight: other bytes")
	}
	seq := func(p mqttparse.Publish) uint64 { env, _, _ := f.unseal("default", p); return env.Seq }
	other := dup
	other.Payload = []byte("two")
	if got := seq(send(other)); got != 1 {
		t.Errorf("another message under the same id: number %d, want 1", got)
	}
	if other.Topic = []byte("s/b"); seq(send(other)) != 0 {
		t.Error("another topic under the same id")
	}
	b.fromBroker(t, mqttparse.AppendAck(nil, v, mqttparse.PUBACK, 7, 0))
	if got := seq(send(dup)); got != 2 {
		t.Errorf("after PUBACK: number %d, want 2", got)
	}
	q2 := message("s/a", "three", 2, 8)
	first = send(q2)
	b.fromBroker(t, mqttparse.AppendAck(nil, v, mqttparse.PUBREC, 8, 0))
	if again := send(q2); !bytes.Equal(again.Payload, first.Payload) {
		t.Error("QoS 2 before PUBCOMP: other bytes")
	}
	b.fromBroker(t, mqttparse.AppendAck(nil, v, mqttparse.PUBCOMP, 8, 0))
	if got := seq(send(q2)); got != 4 {
		t.Errorf("after PUBCOMP: number %d, want 4", got)
	}
	if b.count(upResend) != 3 {
		t.Errorf("%d counted as re-sent", b.count(upResend))
	}
}

func TestResendAcrossReconnects(t *testing.T) {
	v := mqttparse.V311
	m := message("s/a", "one", 1, 7)
	dup := m
	dup.Dup = true
	for _, tt := range []struct {
		name           string
		clean, present bool
		client         string
		state          func(*fleet) *State
		identical      bool
	}{
		{"session present", false, true, "dev1", nil, true},
		{"session lost", false, false, "dev1", nil, false},
		{"clean start", true, false, "dev1", nil, false},
		{"another client", false, true, "dev2", nil, false},
		{"after a rotation", false, true, "dev1", func(f *fleet) *State { return f.rotate(1) }, true},
		{"after a revocation", false, true, "dev1", func(f *fleet) *State { return f.rotate(2) }, false},
		{"within the epoch's history", false, true, "dev1", func(f *fleet) *State {
			f.rotate(1)
			f.keys["default"][0].NotAfter = time.Hour
			return f.state()
		}, true},
		{"after the epoch's history", false, true, "dev1", func(f *fleet) *State {
			f.rotate(1)
			f.keys["default"][0].NotAfter = time.Hour - 1
			return f.state()
		}, false},
		{"without the epoch's key", false, true, "dev1", func(f *fleet) *State {
			f.rotate(1)
			f.keys["default"] = f.keys["default"][1:]
			return f.state()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t)
			b := newBench(t, f.rotate(1), v, Config{Now: func() time.Duration { return time.Hour }})
			b.reconnect(t, v, "dev1", false)
			b.connack(t, false)
			first := publishes(t, v, b.fromDevice(t, publishPacket(v, m)))[0]
			b.reconnect(t, v, tt.client, tt.clean)
			if tt.state != nil {
				b.g.SetState(tt.state(f))
			}
			b.connack(t, tt.present)
			again := publishes(t, v, b.fromDevice(t, publishPacket(v, dup)))[0]
			if bytes.Equal(first.Payload, again.Payload) != tt.identical {
				t.Errorf("identical: %v, want %v", !tt.identical, tt.identical)
			}
			if _, _, payload := f.unseal("default", again); string(payload) != "one" {
				t.Errorf("%q", payload)
			}
		})
	}
}

func TestStreamsGoOnAcrossReconnects(t *testing.T) {
	f := newFleet(t)
	v := mqttparse.V311
	b := newBench(t, f.rotate(1), v, Config{linger: time.Millisecond})
	send := func() crypto.Envelope {
		t.Helper()
		env, _, _ := f.unseal("default", publishes(t, v, b.fromDevice(t, publishPacket(v, message("s/a", "x", 0, 0))))[0])
		return env
	}
	first := send()
	b.reconnect(t, v, "dev1", true)
	if next := send(); next.Kid != first.Kid || next.Seq != 1 {
		t.Errorf("%v number %d after %v", next.Kid, next.Seq, first.Kid)
	}
	b.g.SetState(f.rotate(1))
	if next := send(); next.Kid.KeyID() == first.Kid.KeyID() || next.Kid.StreamID() == first.Kid.StreamID() || next.Seq != 0 {
		t.Errorf("a new epoch needs a new stream: %v number %d", next.Kid, next.Seq)
	}
	f.keys["default"][1].Send = false
	f.epoch-- // two leaders: another key of the same epoch, told apart by its id alone
	before := f.keys["default"][1].ID
	b.g.SetState(f.rotate(1))
	if next := send(); next.Kid.KeyID() != f.state().Keys.Send("default").ID || next.Seq != 0 || next.Kid.KeyID() == before {
		t.Errorf("another key of the same epoch needs a new stream: %v number %d", next.Kid, next.Seq)
	}
	b.g.SetState(f.state()) // the same keys in a new snapshot
	if next := send(); next.Seq != 1 {
		t.Errorf("number %d under an equal snapshot", next.Seq)
	}
	old := b.c.sess
	b.c.sess = nil // its connection still lives: a takeover
	b.c = nil
	b.reconnect(t, v, "dev1", false)
	if b.c.sess == old {
		t.Fatal("two connections own one session")
	}
	b.connack(t, true)
	if next := send(); next.Seq != 0 {
		t.Errorf("number %d after a takeover", next.Seq)
	}
	b.g.store.put(old)
	if b.g.store.len() != 0 {
		t.Error("the end of the older connection gave the younger one's session away")
	}
	taken := b.c.sess
	b.reconnect(t, v, "dev1", false)
	if b.c.sess != taken {
		t.Error("the session of the older connection came back")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	f := newFleet(t)
	v := mqttparse.V311
	b := newBench(t, f.rotate(1), v, Config{})
	for i := range perClient + 10 {
		b.fromDevice(t, publishPacket(v, message(fmt.Sprintf("s/%d", i), "x", 0, 0)))
	}
	if n := b.c.sess.seals.n; n != perClient || len(b.c.sess.seals.m) != n || b.g.streams.Load() != int64(n) {
		t.Errorf("%d streams, %d in the map, %d counted", n, len(b.c.sess.seals.m), b.g.streams.Load())
	}
	env, _, _ := f.unseal("default", publishes(t, v, b.fromDevice(t, publishPacket(v, message("s/0", "x", 0, 0))))[0])
	if env.Seq != 0 {
		t.Error("an evicted stream came back with its numbers")
	}
	b.g.cfg.MaxStreams = 1 // all connections together
	b.reconnect(t, v, "dev2", true)
	for i := range minStreams + 3 {
		b.fromDevice(t, publishPacket(v, message(fmt.Sprintf("s/%d", i), "x", 0, 0)))
	}
	if n := b.c.sess.seals.n; n != minStreams {
		t.Errorf("%d streams of dev2, want %d", n, minStreams)
	}
	if n := b.g.store.len(); n != 0 {
		t.Errorf("%d idle sessions kept while streams are short", n)
	}
}

func TestTooLarge(t *testing.T) {
	f := newFleet(t)
	for _, tt := range []struct {
		v    mqttparse.Version
		n    int
		fits bool
	}{
		{mqttparse.V311, 1000, true}, {mqttparse.V311, 1001, false}, {mqttparse.V311, 6000, false},
		{mqttparse.V5, 1000, true}, {mqttparse.V5, 5000, true}, {mqttparse.V5, 6000, false}, // MQTT 5 counts the packet
	} {
		b := newBench(t, f.rotate(1), tt.v, Config{MaxMessage: 1000})
		p := publishPacket(tt.v, message("s/a", string(make([]byte, tt.n)), 0, 0))
		b.c.up.in.b = p
		err := b.c.up.transform()
		var r *refusal
		if tt.fits == (errors.As(err, &r) && r.code == 0x95 && r.reason == refusedTooLarge) {
			t.Errorf("%v, %d bytes: %v", tt.v, tt.n, err)
		}
	}
}

func TestMalformedIsRefusedAfterWhatWasWhole(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	in := publishPacket(mqttparse.V311, message("s/a", "x", 0, 0))
	in = append(in, 0x36, 2, 0, 0) // QoS 3
	b.c.up.in.load(in)
	var r *refusal
	if err := b.c.up.transform(); !errors.As(err, &r) || r.reason != refusedMalformed {
		t.Fatalf("%v", err)
	}
	if err := b.c.up.flush(); err != nil || len(publishes(t, mqttparse.V311, b.upl.b)) != 1 {
		t.Errorf("the whole packet before it is lost: %v % x", err, b.upl.b)
	}
}

func TestIDTable(t *testing.T) {
	var b budget
	b.left.Store(1 << 20)
	var table idTable[int]
	model := map[uint16]int{}
	seed := uint32(1)
	for i := range 200_000 {
		seed = seed*1664525 + 1013904223
		id := uint16(seed>>16) % 1500
		switch {
		case seed>>8&3 == 0:
			_, want := model[id]
			if table.remove(id) != want {
				t.Fatalf("step %d: remove(%d)", i, id)
			}
			delete(model, id)
		default:
			_, known := model[id]
			if got := table.put(id, i, &b, 8); got != (id != 0 && (known || len(model) < maxIDs)) {
				t.Fatalf("step %d: put(%d) with %d entries: %v", i, id, len(model), got)
			} else if got {
				model[id] = i
			}
		}
		if table.n != len(model) {
			t.Fatalf("step %d: %d entries, want %d", i, table.n, len(model))
		}
		if p, want := table.get(id), model[id]; (p != nil) != (want != 0 && model[id] == want) && p != nil && *p != want {
			t.Fatalf("step %d: get(%d)", i, id)
		}
	}
	for id, v := range model {
		if p := table.get(id); p == nil || *p != v {
			t.Fatalf("%d lost", id)
		}
	}
	table.keep(func(v *int) bool { return *v%2 == 0 })
	for id, v := range model {
		if p := table.get(id); (p != nil) != (v%2 == 0) {
			t.Fatalf("keep: %d", id)
		}
	}
	table.clear(&b)
	if b.left.Load() != 1<<20 {
		t.Errorf("%d bytes of the budget are lost", 1<<20-b.left.Load())
	}
}

func TestAnEnvelopeIsSealedAgain(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	once := f.sealer("default", "s/a").next("inside", 0, 0)
	twice := publishes(t, mqttparse.V311, b.fromDevice(t, publishPacket(mqttparse.V311, once)))[0]
	_, _, payload := f.unseal("default", twice)
	if !bytes.Equal(payload, once.Payload) {
		t.Fatalf("%x", payload)
	}
}

func TestManyDenialsInOneRead(t *testing.T) {
	f := newFleet(t).denying()
	b := newBench(t, f.rotate(1, "default"), mqttparse.V5, Config{})
	const n = 5000
	b.connack(t, false)
	b.dev.b = nil
	one := publishPacket(mqttparse.V5, message("x", "", 1, 9))
	b.fromDevice(t, bytes.Repeat(one, n))
	if got := len(frames(t, mqttparse.V5, b.dev.b)); got != n {
		t.Errorf("%d answers to %d messages", got, n)
	}
}

func TestMemoryIsGivenBackAfterARush(t *testing.T) {
	g := New(Config{})
	for range tidyDelta {
		g.conns[&conn{}] = struct{}{}
	}
	g.collect()
	if g.tidy.last.Load() != tidyDelta {
		t.Error("a rush was not noticed")
	}
	g.conns[&conn{}] = struct{}{}
	g.collect()
	if g.tidy.last.Load() != tidyDelta {
		t.Error("a single connection runs the collector")
	}
}

// Nothing may reach a device before CONNACK (MQTT-3.2.0-1): refusals of what it published meanwhile
// wait for it.
func TestRefusalsComeAfterConnAck(t *testing.T) {
	v := mqttparse.V5
	ts := newTester(t, newFleet(t).denying().rotate(1, "default"), Config{}, nil)
	dev := ts.dial()
	dev.v = v
	dev.send(append(connectPacket(v, "d", true), publishPacket(v, message("x", "secret", 1, 9))...))
	broker := ts.accept()
	broker.next()
	broker.send(mqttparse.AppendConnAck(nil, v, false, 0))
	if f := dev.next(); f.Type() != mqttparse.CONNACK {
		t.Fatalf("%v comes first", f.Type())
	}
	if f := dev.next(); !bytes.Equal(f.Raw, []byte{0x40, 3, 0, 9, 0x87}) {
		t.Errorf("device hears % x", f.Raw)
	}
	// A DISCONNECT before CONNACK is none either (MQTT-3.14.0-1).
	dev = ts.dial()
	dev.send(append(connectPacket(v, "e", true), 0xf1, 0))
	ts.accept()
	if f, err := dev.read(); err == nil {
		t.Errorf("device hears % x before CONNACK", f.Raw)
	}
}

func TestNobodyWaitsForConnAckOfABrokerThatHasGone(t *testing.T) {
	v := mqttparse.V5
	ts := newTester(t, newFleet(t).denying().rotate(1, "default"), Config{ConnectTimeout: time.Hour, linger: 10 * time.Millisecond}, nil)
	dev := ts.dial()
	dev.send(append(connectPacket(v, "d", true), publishPacket(v, message("x", "secret", 1, 9))...))
	broker := ts.accept()
	broker.next()
	broker.Close()
	dev.ended()
	eventually(t, "the connection is gone", func() bool { return ts.g.connections() == 0 })
}
