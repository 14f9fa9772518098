package gateway

import (
	"testing"

	"sealgate/pkg/mqttparse"
)

// aliased is a QoS 0 message under an alias.
func aliased(m mqttparse.Publish, alias byte, topic string) mqttparse.Publish {
	m.Topic, m.Properties = []byte(topic), append([]byte{mqttparse.PropTopicAlias, 0, alias}, m.Properties...)
	return m
}

// topicOf follows aliases as whoever reads the packets does.
type topicOf map[uint16]string

func (a topicOf) read(tb testing.TB, p mqttparse.Publish) string {
	tb.Helper()
	if p.TopicAlias != 0 && len(p.Topic) > 0 {
		a[p.TopicAlias] = string(p.Topic)
	}
	if len(p.Topic) > 0 {
		return string(p.Topic)
	}
	topic, known := a[p.TopicAlias]
	if !known {
		tb.Errorf("alias %d was never set", p.TopicAlias)
	}
	return topic
}

// An alias reaches the broker as a device uses it (MQTT 5, 3.3.2.3.4). When the message that sets it goes no further,
// the next one brings the topic.
func TestAliasesGoOnToTheBroker(t *testing.T) {
	const v = mqttparse.V5
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{})
	b.connackMax(t, 10)
	broker := topicOf{}
	clear := func(m mqttparse.Publish) mqttparse.Publish { m.Retain = true; return m }
	for i, tt := range []struct {
		p     mqttparse.Publish
		topic string // "": goes no further
		full  bool   // with the topic
	}{
		{aliased(message("", "1", 0, 0), 1, "s/a"), "s/a", true},
		{aliased(message("", "2", 1, 5), 1, ""), "s/a", false},
		{aliased(message("", "3", 0, 0), 1, "sealgate/keys"), "", false},
		{aliased(message("", "4", 0, 0), 1, ""), "", false},
		{aliased(message("", "", 0, 0), 2, "k/a"), "k/a", true},
		{aliased(clear(message("", "", 0, 0)), 3, "k/b"), "", false}, // policy denies clears there
		{aliased(message("", "5", 0, 0), 3, ""), "k/b", true},
		{aliased(message("", "6", 0, 0), 3, ""), "k/b", false},
		{aliased(clear(message("", "", 0, 0)), 4, "s/c"), "s/c", true},
		{aliased(clear(message("", "", 0, 0)), 4, ""), "s/c", false},
		{aliased(message("", "7", 0, 0), 1, "s/d"), "s/d", true}, // another topic for it
		{aliased(message("", "8", 0, 0), 1, ""), "s/d", false},
		{aliased(message("", "9", 0, 0), 10, "plain/a"), "plain/a", true},
		{aliased(message("", "10", 0, 0), 10, ""), "plain/a", false},
	} {
		got := publishes(t, v, b.fromDevice(t, publishPacket(v, tt.p)))
		if (len(got) > 0) != (tt.topic != "") {
			t.Fatalf("%d: %d messages went on", i, len(got))
		}
		if len(got) == 2 { // a clear, and the sealed message about it
			if broker.read(t, got[0]) != tt.topic {
				t.Errorf("%d: the clear is for another topic", i)
			}
			tt.full = len(got[1].Topic) > 0
			got = got[1:]
		}
		if len(got) == 1 && (broker.read(t, got[0]) != tt.topic || (len(got[0].Topic) > 0) != tt.full) {
			t.Errorf("%d: %q under alias %d", i, got[0].Topic, got[0].TopicAlias)
		}
		if len(got) == 1 && tt.topic[:2] != "pl" && len(got[0].Payload) > 0 {
			got[0].Topic = []byte(tt.topic)
			f.unseal(map[byte]string{'s': "default", 'k': "keeps"}[tt.topic[0]], got[0])
		}
	}
}

// The same from the broker to the device: a refused message does not leave it without the topic.
func TestAliasesGoOnToTheDevice(t *testing.T) {
	const v = mqttparse.V5
	b, f := downBench(t, v)
	a, c := f.sealer("default", "s/a"), f.sealer("default", "s/c")
	device := topicOf{}
	replayed := a.next("0", 0, 0)
	inner := []byte{mqttparse.PropContentType, 0, 1, 't'}
	b.receive(t, replayed)
	for i, tt := range []struct {
		p     mqttparse.Publish
		topic string
		full  bool
	}{
		{aliased(replayed, 1, "s/a"), "", false},
		{aliased(a.next("1", 0, 0), 1, ""), "s/a", true},
		{aliased(a.next("2", 0, 0), 1, ""), "s/a", false},
		{aliased(a.withProps(inner, "3", 0, 0), 1, ""), "s/a", false},
		{aliased(message("", "plain", 0, 0), 2, "s/c"), "", false},
		{aliased(c.withProps(inner, "1", 0, 0), 2, ""), "s/c", true},
		{aliased(message("", "control", 0, 0), 2, "sealgate/x"), "", false},
		{aliased(message("", "control", 0, 0), 2, ""), "", false},
		{aliased(message("", "1", 0, 0), 3, "plain/a"), "plain/a", true},
		{aliased(message("", "2", 0, 0), 3, ""), "plain/a", false},
	} {
		got := b.receive(t, tt.p)
		if (len(got) == 1) != (tt.topic != "") {
			t.Fatalf("%d: %d messages went on", i, len(got))
		}
		if len(got) == 1 && (device.read(t, got[0]) != tt.topic || (len(got[0].Topic) > 0) != tt.full) {
			t.Errorf("%d: %q under alias %d", i, got[0].Topic, got[0].TopicAlias)
		}
	}
	// passed ones too: too long for the device with the topic, then known by none
	b.c.devicePacket = 30
	long := aliased(message("", "a payload of 22 bytes.", 0, 0), 4, "plain/b")
	if got := b.receive(t, long); len(got) != 0 {
		t.Fatal("longer than the device takes")
	}
	if got := b.receive(t, aliased(message("", "short", 0, 0), 4, "")); len(got) != 1 || device.read(t, got[0]) != "plain/b" {
		t.Errorf("%+v", got)
	}
	if got := b.receive(t, aliased(message("", "a payload of 17 b", 0, 0), 4, "")); len(got) != 1 || len(got[0].Topic) != 0 {
		t.Errorf("%+v", got)
	}
}
