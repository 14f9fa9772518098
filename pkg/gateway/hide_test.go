package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// hiding is a fleet whose group "default" on "s/#" hides its topics and whose group "other" on "o/#" does not; what no group covers passes.
func (f *fleet) hiding() *fleet {
	f.tb.Helper()
	return f.hidingUnder(7, "s/#", "x/s/#")
}

func (f *fleet) hidingUnder(seed byte, topics ...string) *fleet {
	f.tb.Helper()
	hidden, other := policy.DefaultGroup("default"), policy.DefaultGroup("other")
	hidden.Topics, hidden.Keepers, hidden.HideTopics = topics, []string{"gw1"}, true
	other.Topics, other.Keepers = []string{"o/#"}, []string{"gw1"}
	f.doc = &policy.Document{Fleet: "plant", Version: 1, Unmatched: "pass", TopicKey: 1, Groups: []policy.Group{hidden, other}}
	var err error
	if f.table, err = f.doc.Table(); err != nil {
		f.tb.Fatal(err)
	}
	if f.names, err = crypto.TopicKeyFrom(bytes.Repeat([]byte{seed}, crypto.SecretSize)); err != nil {
		f.tb.Fatal(err)
	}
	return f
}

// hidden is the sealer of a name in group "default", hidden.
func (f *fleet) hidden(name string) *sealer {
	s := f.sealer("default", f.names.Hide(name))
	s.stream.SetName(name)
	return s
}

// What one gateway hides another brings back, whatever versions, properties and aliases, and the uplink does not show a level.
func TestHiddenAndBack(t *testing.T) {
	versions := []mqttparse.Version{mqttparse.V311, mqttparse.V5}
	for _, from := range versions {
		for _, to := range versions {
			for qos := byte(0); qos < 3; qos++ {
				t.Run(fmt.Sprintf("%v-%v-qos%d", from, to, qos), func(t *testing.T) {
					f := newFleet(t).hiding()
					up, down := newBench(t, f.rotate(1), from, Config{}), newBench(t, f.state(), to, Config{})
					up.connack(t, false)
					if up.c.version == mqttparse.V5 {
						up.c.aliasMax.Store(8)
					}
					down.connack(t, false)
					id := uint16(0)
					for _, name := range []string{"s/boilerhouse", "s/boilerhouse", "s//x", "s/" + strings.Repeat("basement/", 40) + "end", "s/" + strings.Repeat("w", 3000), "s/boilerhouse"} {
						for _, n := range []int{0, 1, 127, 128, 16384} {
							for _, props := range []string{"", expiry, contentType, expiry + contentType + userProp} {
								id += uint16(qos+1) / 2
								p := message(name, strings.Repeat("p", n), qos, id)
								if from == mqttparse.V5 {
									p.Properties = []byte(props)
								}
								f.hideRoundTrip(up, down, p)
							}
						}
					}
				})
			}
		}
	}
}

func (f *fleet) hideRoundTrip(up, down *bench, p mqttparse.Publish) {
	t := f.tb
	t.Helper()
	out := up.fromDevice(t, publishPacket(up.c.version, p))
	for _, level := range []string{"boilerhouse", "basement", strings.Repeat("w", 12)} {
		if bytes.Contains(out, []byte(level)) {
			t.Fatalf("level %q of %q is on the uplink", level, p.Topic)
		}
	}
	sent := publishes(t, up.c.version, out)
	if len(sent) != 1 || string(sent[0].Topic) != f.names.Hide(string(p.Topic)) {
		t.Fatalf("%q goes out as %+v", p.Topic, sent)
	}
	if down.c.version != mqttparse.V5 {
		sent[0].Properties = nil
	}
	want := p.Properties
	if down.c.version != mqttparse.V5 {
		want = nil
	}
	got := down.receive(t, sent[0])
	if len(got) != 1 || !bytes.Equal(got[0].Payload, p.Payload) || !bytes.Equal(got[0].Topic, p.Topic) || !bytes.Equal(got[0].Properties, want) || got[0].PacketID != p.PacketID {
		t.Fatalf("%d bytes on %.20q with properties % x: delivered %d: %.200v", len(p.Payload), p.Topic, p.Properties, len(got), got)
	}
}

// Topic aliases stand for tokens on the wire and for names at the device.
func TestHiddenTopicsByAlias(t *testing.T) {
	f := newFleet(t).hiding()
	up, down := newBench(t, f.rotate(1), mqttparse.V5, Config{}), newBench(t, f.state(), mqttparse.V5, Config{})
	up.fromBroker(t, mqttparse.AppendConnAck(nil, mqttparse.V5, false, 0))
	up.c.aliasMax.Store(8)
	down.connack(t, false)
	alias := []byte{mqttparse.PropTopicAlias, 0, 3}
	for i, name := range []string{"s/a", "", "", "s/b", "", "plain/x", "", "s/a"} {
		p := message(name, "m", 0, 0)
		p.Properties = alias
		sent := publishes(t, up.c.version, up.fromDevice(t, publishPacket(up.c.version, p)))
		want := []string{"s/a", "", "", "s/b", "", "plain/x", "", "s/a"}[i]
		wire := want
		if strings.HasPrefix(want, "s/") {
			wire = f.names.Hide(want)
		}
		if len(sent) != 1 || string(sent[0].Topic) != wire || sent[0].TopicAlias != 3 {
			t.Fatalf("message %d: %+v", i, sent)
		}
		got := down.receive(t, sent[0])
		if len(got) != 1 || string(got[0].Topic) != want || got[0].TopicAlias != 3 || string(got[0].Payload) != "m" {
			t.Fatalf("message %d comes as %+v", i, got)
		}
	}
}

// Sent again, a message on a hidden topic is the same bytes, also on another connection of the session.
func TestHiddenSentAgain(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	m := message("s/x", "once more", 1, 7)
	first := bytes.Clone(b.fromDevice(t, publishPacket(b.c.version, m)))
	first[0] |= 8
	m.Dup = true
	b.g.SetState(f.rotate(1))
	if again := b.fromDevice(t, publishPacket(b.c.version, m)); !bytes.Equal(first, again) {
		t.Errorf("sent again as % x, first % x", again, first)
	}
	b.reconnect(t, b.c.version, "dev1", false)
	b.connack(t, true)
	if again := b.fromDevice(t, publishPacket(b.c.version, m)); !bytes.Equal(first, again) {
		t.Errorf("sent again on another connection as % x, first % x", again, first)
	}
}

// What does not prove its name is refused, and so is what a device could pass off as hidden.
func TestHiddenRefused(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	b.connack(t, false)
	wire := f.names.Hide("s/x")
	seal := func(group, topic, name string) mqttparse.Publish {
		s := f.sealer(group, topic)
		if name != "" {
			s.stream.SetName(name)
		}
		return s.next("m", 0, 0)
	}
	for _, tt := range []struct {
		why  string
		p    mqttparse.Publish
		want verdict
	}{
		{"another name", seal("default", wire, "s/y"), downForged},
		{"no name", seal("default", wire, ""), downForged},
		{"a wildcard for a name", seal("default", wire, "s/+"), downForged},
		{"a name of another group", seal("default", f.names.Hide("o/x"), "o/x"), downForged},
		{"a group that does not hide", seal("other", wire, "s/x"), downUnknownKey},
		{"a token for a name", seal("default", f.names.Hide(wire), wire), downForged},
		{"plaintext", message(wire, "m", 0, 0), downPlaintext},
	} {
		before := b.count(tt.want)
		if got := b.receive(t, tt.p); len(got) != 0 || b.count(tt.want) != before+1 {
			t.Errorf("%s: %d delivered, %d refused so", tt.why, len(got), b.count(tt.want)-before)
		}
	}
	if got := b.receive(t, seal("default", wire, "s/x")); len(got) != 1 {
		t.Error("nothing is delivered at all")
	}
	if got := b.receive(t, seal("default", "s/x", "")); len(got) != 1 || string(got[0].Topic) != "s/x" {
		t.Errorf("of before the group hid: %+v", got)
	}
	if out := b.fromDevice(t, publishPacket(b.c.version, message(wire, "m", 0, 0))); len(out) != 0 || b.count(upDeny) != 1 {
		t.Errorf("a device may publish on a token: % x", out)
	}
	deep := "s" + strings.Repeat("/x", 3640)
	b.c.up.in.acquire()
	b.c.up.in.b = append(b.c.up.in.b, publishPacket(b.c.version, message(deep, "m", 0, 0))...)
	if err := b.c.up.transform(); err != errLongName {
		t.Errorf("3641 levels: %v", err)
	}
}

// Both parts of a clear go out on tokens, and a receiver is told under the name.
func TestHiddenClear(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	b.connack(t, false)
	for qos := range byte(3) {
		p := message("s/x", "", qos, uint16(qos))
		p.Retain, p.Properties = true, []byte(contentType)
		sent := publishes(t, b.c.version, b.fromDevice(t, publishPacket(b.c.version, p)))
		told := 0
		for _, m := range sent {
			if string(m.Topic) != f.names.Hide("s/x") || bytes.Contains(m.Properties, []byte("text")) || m.Retain != (len(m.Payload) == 0) {
				t.Errorf("QoS %d: %+v", qos, m)
			}
			m.PacketID = uint16(m.QoS)
			for _, got := range b.receive(t, m) {
				if told++; string(got.Topic) != "s/x" || len(got.Payload) != 0 || string(got.Properties) != contentType {
					t.Errorf("QoS %d: the device gets %+v", qos, got)
				}
			}
		}
		if len(sent) != 2 || told != 1 || b.count(downClear) != uint64(qos)+1 {
			t.Errorf("QoS %d: %d messages, %d delivered, %d clears", qos, len(sent), told, b.count(downClear))
		}
	}
}

// A will goes out on tokens, and a response topic does too where the message itself is not sealed.
func TestHiddenWillAndResponseTopic(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	b.connack(t, false)
	response := func(name string) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{mqttparse.PropResponseTopic}, uint16(len(name))), name...)
	}
	state := f.state()
	for _, topic := range []string{"s/will", "plain/will"} {
		con := &mqttparse.Connect{Version: mqttparse.V5, HasWill: true, Will: mqttparse.Will{Topic: []byte(topic), Payload: []byte("gone"), Properties: response("s/answer")}}
		if changed, err := b.c.sealWill(con, state); err != nil || !changed {
			t.Fatal(changed, err)
		}
		w := con.Will
		if topic == "plain/will" {
			if string(w.Topic) != topic || !bytes.Equal(w.Properties, response(f.names.Hide("s/answer"))) {
				t.Errorf("will on %q with properties %q", w.Topic, w.Properties)
			}
			continue
		}
		got := b.receive(t, mqttparse.Publish{Topic: w.Topic, Payload: w.Payload, Properties: w.Properties})
		if string(w.Topic) != f.names.Hide(topic) || len(w.Properties) > 0 || len(got) != 1 || string(got[0].Topic) != topic || !bytes.Equal(got[0].Properties, response("s/answer")) {
			t.Errorf("will on %q with properties %q comes as %+v", w.Topic, w.Properties, got)
		}
	}
	for name, want := range map[string]string{"s/answer": f.names.Hide("s/answer"), "plain/answer": "plain/answer", "$SYS/x": "$SYS/x"} {
		p := message("plain/x", "request", 0, 0)
		p.Properties = append(response(name), userProp...)
		sent := publishes(t, b.c.version, b.fromDevice(t, publishPacket(b.c.version, p)))
		if len(sent) != 1 || !bytes.Equal(sent[0].Properties, append(response(want), userProp...)) || string(sent[0].Payload) != "request" {
			t.Errorf("response topic %q: %+v", name, sent)
		}
	}
	f.names = nil
	b.g.SetState(f.state())
	p := message("plain/x", "request", 0, 0)
	p.Properties = response("s/answer")
	if sent := publishes(t, b.c.version, b.fromDevice(t, publishPacket(b.c.version, p))); len(sent) != 1 || len(sent[0].Properties) != 0 {
		t.Errorf("without a topic key: %+v", sent)
	}
}

// filtersPacket is a SUBSCRIBE or UNSUBSCRIBE.
func filtersPacket(t mqttparse.Type, v mqttparse.Version, id uint16, filters ...string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if v == mqttparse.V5 {
		body = append(body, 2, mqttparse.PropSubscriptionID, 9)
		if t == mqttparse.UNSUBSCRIBE {
			body = append(body[:2], 0)
		}
	}
	for i, f := range filters {
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(f))), f...)
		if t == mqttparse.SUBSCRIBE {
			body = append(body, byte(i%3))
		}
	}
	return append(mqttparse.AppendVarint([]byte{byte(t)<<4 | 2}, len(body)), body...)
}

// answerPacket is a SUBACK or UNSUBACK.
func answerPacket(t mqttparse.Type, v mqttparse.Version, id uint16, codes ...byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if v == mqttparse.V5 {
		body = append(body, 0)
	}
	if t != mqttparse.UNSUBACK || v == mqttparse.V5 {
		body = append(body, codes...)
	}
	return append(mqttparse.AppendVarint([]byte{byte(t) << 4}, len(body)), body...)
}

// Filters reach the broker with tokens, as they are or both ways; the device is told one code for each of its own.
func TestHiddenFilters(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t).hiding()
		b := newBench(t, f.rotate(1), v, Config{})
		b.connack(t, false)
		h := f.names.Hide
		for _, kind := range []mqttparse.Type{mqttparse.SUBSCRIBE, mqttparse.UNSUBSCRIBE} {
			device := []string{"s/x", "+/x", "#", "o/x", "$share/g/s/+", "$share/g/+/x", "$SYS/#", "sealgate/control", "plain/#"}
			out := frames(t, v, b.fromDevice(t, filtersPacket(kind, v, 5, device...)))
			want := []struct {
				filter string
				of     int
			}{{h("s/x"), 0}, {"+/x", 1}, {h("+/x"), 1}, {"#", 2}, {"o/x", 3}, {"$share/g/" + h("s/+"), 4}, {"$share/g/+/x", 5}, {"$share/g/" + h("+/x"), 5},
				{"$SYS/#", 6}, {"sealgate/control", 7}, {"plain/#", 8}}
			if len(out) != 1 || out[0].Type() != kind {
				t.Fatalf("%v %v becomes %+v", v, kind, out)
			}
			var got []string
			for it := mqttparse.Filters(out[0], v); it.Next(); {
				if w := want[min(len(got), len(want)-1)]; kind == mqttparse.SUBSCRIBE && it.Options() != byte(w.of%3) {
					t.Errorf("%v: %q has options %d", v, it.Filter(), it.Options())
				}
				got = append(got, string(it.Filter()))
			}
			var wire []string
			for _, w := range want {
				wire = append(wire, w.filter)
			}
			if !slices.Equal(got, wire) {
				t.Fatalf("%v %v: the broker gets\n%q, want\n%q", v, kind, got, wire)
			}
			if v == mqttparse.V5 && kind == mqttparse.SUBSCRIBE && !bytes.Equal(out[0].Body[:5], []byte{0, 5, 2, mqttparse.PropSubscriptionID, 9}) {
				t.Errorf("packet identifier and properties are % x", out[0].Body[:5])
			}
			answer, codes, joined := mqttparse.SUBACK, []byte{0, 1, 2, 2, 0, 1, 0x80, 2, 0, 1, 2}, []byte{0, 1, 2, 0, 1, 0x80, 0, 1, 2}
			if kind == mqttparse.UNSUBSCRIBE {
				answer, codes, joined = mqttparse.UNSUBACK, []byte{0, 0x11, 0, 0, 0, 0x11, 0x11, 0x11, 0, 0, 0}, []byte{0, 0, 0, 0, 0x11, 0x11, 0, 0, 0}
			}
			if got := b.fromBroker(t, answerPacket(answer, v, 5, codes...)); !bytes.Equal(got, answerPacket(answer, v, 5, joined...)) {
				t.Errorf("%v: the device gets % x", v, got)
			}
			if got, pass := b.fromBroker(t, answerPacket(answer, v, 5, joined...)), answerPacket(answer, v, 5, joined...); !bytes.Equal(got, pass) {
				t.Errorf("%v: an answer to nothing becomes % x", v, got)
			}
		}
	}
}

// A device learns what its broker says even where that is wrong.
func TestHiddenFiltersAndTheirAnswers(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	b.connack(t, false)
	v := mqttparse.V5
	if out := b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 1, "o/x", "s/y")); bytes.Contains(out, []byte("s/y")) {
		t.Errorf("% x", out)
	}
	if got := b.fromBroker(t, answerPacket(mqttparse.SUBACK, v, 1, 1, 0x87)); !bytes.Equal(got, answerPacket(mqttparse.SUBACK, v, 1, 1, 0x87)) {
		t.Errorf("% x", got)
	}
	b.dev.b = nil
	if out := b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 3, "s"+strings.Repeat("/x", 3640))); len(out) != 0 {
		t.Errorf("a filter of 3641 levels: %d bytes for the broker", len(out))
	}
	if want := answerPacket(mqttparse.SUBACK, v, 3, 0x8f); !bytes.Equal(b.dev.b, want) {
		t.Errorf("a filter of 3641 levels: the device gets % x", b.dev.b)
	}
	b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 2, "+/x"))
	b.c.down.in.acquire()
	b.c.down.in.b = append(b.c.down.in.b, answerPacket(mqttparse.SUBACK, v, 2, 1)...)
	if err := b.c.down.transform(); err == nil || !strings.Contains(err.Error(), "1 codes for 2") {
		t.Errorf("one code for two filters: %v", err)
	}
	b.reconnect(t, v, "dev1", true)
	b.connack(t, false)
	for i := range maxExpanded {
		b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, uint16(i+1), "+/x"))
	}
	b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 1, "+/x")) // the same again
	b.c.up.in.acquire()
	b.c.up.in.b = append(b.c.up.in.b, filtersPacket(mqttparse.SUBSCRIBE, v, 9999, "+/x")...)
	if err := b.c.up.transform(); err == nil || !strings.Contains(err.Error(), "too many subscriptions") {
		t.Errorf("%d without answer: %v", maxExpanded+1, err)
	}
}

// A gateway that takes part in no group that hides has no topic key: what its devices ask of such a group is refused to them, and the broker
// hears no name.
func TestHiddenFiltersOfOthers(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t).hiding()
		f.doc.Groups[0].Read, f.doc.Groups[0].Publish, f.names = []string{"gw7"}, []string{"gw7"}, nil
		state := f.rotate(1)
		state.Policy = f.doc
		b := newBench(t, state, v, Config{Gateway: "gw1"})
		b.connack(t, false)
		refusal := byte(0x87)
		if v != mqttparse.V5 {
			refusal = 0x80
		}
		b.dev.b = nil
		if out := b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 3, "s/x", "s/#")); len(out) != 0 {
			t.Errorf("%v: the broker hears % x", v, out)
		}
		if want := answerPacket(mqttparse.SUBACK, v, 3, refusal, refusal); !bytes.Equal(b.dev.b, want) {
			t.Errorf("%v: the device hears % x", v, b.dev.b)
		}
		b.dev.b = nil
		b.fromDevice(t, filtersPacket(mqttparse.UNSUBSCRIBE, v, 4, "s/x"))
		if want := answerPacket(mqttparse.UNSUBACK, v, 4, 0x11); !bytes.Equal(b.dev.b, want) {
			t.Errorf("%v: the device hears % x", v, b.dev.b)
		}
		out := b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, v, 5, "o/a", "s/x", "+/x"))
		if want := filtersPacket(mqttparse.SUBSCRIBE, v, 5, "o/a", "+/x"); len(out) != len(want) || bytes.Contains(out, []byte("s/x")) {
			t.Errorf("%v: the broker hears % x", v, out)
		}
		if got := b.fromBroker(t, answerPacket(mqttparse.SUBACK, v, 5, 0, 2)); !bytes.Equal(got, answerPacket(mqttparse.SUBACK, v, 5, 0, refusal, 2)) {
			t.Errorf("%v: the device hears % x", v, got)
		}
	}
}

// The status of a message is told of hidden topics as of others.
func TestHiddenStatusIsTold(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{TellStatus: true})
	b.connack(t, false)
	s := f.hidden("s/a")
	for i, want := range []string{"sealgate-status=ok a=b", "sealgate-status=ok a=b", "sealgate-status=gap sealgate-gap=1 a=b"} {
		if i == 2 {
			s.next("lost", 0, 0)
		}
		got := b.receive(t, s.withProps(user("a", "b"), "m", 0, 0))
		if len(got) != 1 || string(got[0].Topic) != "s/a" || string(got[0].Payload) != "m" || users(got[0]) != want {
			t.Errorf("message %d: %+v", i, got)
		}
	}
}

// Overlapping subscriptions of the device count copies by its own names.
func TestHiddenOverlappingSubscriptions(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	b.connack(t, false)
	b.fromDevice(t, filtersPacket(mqttparse.SUBSCRIBE, mqttparse.V5, 1, "s/a", "s/#", "#", "+/a", "s/b"))
	s := f.hidden("s/a")
	m := s.next("m", 0, 0)
	n := 0
	for range 6 {
		n += len(b.receive(t, m))
	}
	if n != 4 {
		t.Errorf("delivered %d times, want 4", n)
	}
}

// Another topic key, or other topics that are hidden, end the connections that began before; keys and other policies do not.
func TestRenamingEndsConnections(t *testing.T) {
	f := newFleet(t).hiding()
	b := newBench(t, f.rotate(1), mqttparse.V5, Config{})
	works := func() bool {
		t.Helper()
		b.c.up.in.acquire()
		b.c.up.in.b = append(b.c.up.in.b, publishPacket(b.c.version, message("s/x", "m", 0, 0))...)
		err := b.c.up.transform()
		if err != nil && err != errRenamed {
			t.Fatal(err)
		}
		if b.c.down.refresh() != err {
			t.Error("the two directions differ")
		}
		return err == nil
	}
	keyless := *f
	keyless.names = nil
	for _, step := range []struct {
		why   string
		state func() *State
		stays bool
	}{
		{"the same", f.state, true},
		{"another epoch", func() *State { return f.rotate(1) }, true},
		{"no policy and no keys", func() *State { return nil }, true},
		{"without a topic key", keyless.state, true},
		{"the same again", f.state, true},
		{"another topic key", func() *State { return f.hidingUnder(8, "s/#", "x/s/#").state() }, false},
		{"other topics", func() *State { return f.hidingUnder(8, "s/#").state() }, false},
		{"nothing hidden", func() *State { f.table = newFleet(t).table; return f.state() }, false},
		{"still nothing", f.state, true},
		{"hidden again", func() *State { return f.hiding().state() }, false},
	} {
		b.reconnect(t, mqttparse.V5, "dev1", false)
		b.connack(t, false)
		b.g.SetState(step.state())
		if s := b.g.state.Load(); s.Table == nil || s.Table.Hides() && s.Keys.TopicKey() == nil {
			if b.c.up.refresh() != nil {
				t.Errorf("%s: the connection ends", step.why)
			}
		} else if works() != step.stays {
			t.Errorf("%s: the connection stays: %v", step.why, !step.stays)
		}
	}
}

// A message on a hidden topic costs no allocation either, in neither direction.
func TestHiddenAllocations(t *testing.T) {
	const runs = 500
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t).hiding()
		b := newBench(t, f.rotate(1), v, Config{})
		b.connack(t, false)
		b.c.dev = nullConn{}
		up := sealStep(t, b, publishPacket(v, message("s/plant/line1/temperature", string(make([]byte, 100)), 0, 0)))
		up()
		if n := testing.AllocsPerRun(runs, up); n != 0 {
			t.Errorf("%v: %v allocations a message upwards", v, n)
		}
		s := f.hidden("s/plant/line1/temperature")
		var packets [][]byte
		for range runs + 2 {
			packets = append(packets, publishPacket(v, s.next(string(make([]byte, 100)), 0, 0)))
		}
		d, i := b.c.down, 0
		down := func() {
			d.in.load(packets[i])
			i++
			if err := errors.Join(d.transform(), d.flush()); err != nil {
				t.Fatal(err)
			}
		}
		down()
		if n := testing.AllocsPerRun(runs, down); n != 0 {
			t.Errorf("%v: %v allocations a message downwards", v, n)
		}
		if b.count(upSeal) < runs || b.count(downOpen) < runs {
			t.Errorf("%v: %d sealed, %d opened", v, b.count(upSeal), b.count(downOpen))
		}
	}
}
