package gateway

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sealgate/pkg/mqttparse"
)

func user(name, value string) []byte { return appendUserProperty(nil, name, value) }

// users lists the user properties of a message.
func users(p mqttparse.Publish) string {
	var all []string
	for it := mqttparse.Properties(p.Properties); it.Next(); {
		if it.ID() == mqttparse.PropUserProperty {
			name, value := it.Pair()
			all = append(all, fmt.Sprintf("%s=%s", name, value))
		}
	}
	return strings.Join(all, " ")
}

// tellBench is a device with the properties given in CONNECT, behind a gateway that tells the status of messages.
func tellBench(t *testing.T, v mqttparse.Version, maximum int) (*bench, *fleet) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{TellStatus: true})
	b.c.devicePacket = maximum
	b.connack(t, false)
	return b, f
}

// docs/spec/mqtt.md: what was found out comes first, and nobody else can say it.
func TestStatusIsTold(t *testing.T) {
	b, f := tellBench(t, mqttparse.V5, 0)
	s := f.sealer("default", "s/a")
	forged := join(user(statusName, "ok"), user("own", "x"), user(toldPrefix+"else", "y"), []byte{mqttparse.PropContentType, 0, 1, 't'})
	for i, step := range []struct {
		skip   int
		inner  []byte
		outer  []byte
		retain bool
		want   string
	}{
		{0, nil, nil, false, "sealgate-status=ok"},
		{0, user("a", "b"), nil, false, "sealgate-status=ok a=b"},
		{3, nil, nil, false, "sealgate-status=gap sealgate-gap=3"},
		{1, forged, forged, false, "sealgate-status=gap sealgate-gap=1 own=x"},
		{0, user(gapName, "9"), []byte{mqttparse.PropMessageExpiry, 0, 0, 0, 9}, false, "sealgate-status=ok"},
		{2, nil, nil, true, "sealgate-status=ok"}, // RETAIN is not authenticated: nothing is missing before such a message
	} {
		for range step.skip {
			s.next("lost", 0, 0)
		}
		m := s.withProps(step.inner, fmt.Sprint("payload ", i), 1, uint16(i+1))
		m.Properties, m.Retain = step.outer, step.retain
		got := b.receive(t, m)
		if len(got) != 1 || string(got[0].Payload) != fmt.Sprint("payload ", i) || users(got[0]) != step.want {
			t.Errorf("message %d: %d packets, %q, want %q", i, len(got), users(got[0]), step.want)
		}
		if err := mqttparse.ValidateProperties(mqttparse.PUBLISH, got[0].Properties); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
}

// On a topic that is not sealed nothing was found out, and the broker cannot pretend it.
func TestStatusIsNotForged(t *testing.T) {
	b, _ := tellBench(t, mqttparse.V5, 0)
	m := message("plain/x", "open", 0, 0)
	alias := []byte{mqttparse.PropTopicAlias, 0, 1}
	m.Properties = join(alias, user("a", "b"), user(statusName, "ok"))
	for i := range 3 { // the second time the topic comes by its alias alone
		got := b.receive(t, m)
		if len(got) != 1 || string(got[0].Payload) != "open" || string(got[0].Topic) != "plain/x" || users(got[0]) != "a=b" {
			t.Errorf("message %d: %+v", i, got)
		}
		m.Topic = nil
	}
	m.Properties = join(alias, user("a", "b"))
	if got := b.fromBroker(t, publishPacket(mqttparse.V5, m)); !bytes.Equal(got, publishPacket(mqttparse.V5, m)) {
		t.Errorf("nothing to take out, and yet % x", got)
	}
}

// A message that would be too long for the device with the marks comes without them.
func TestStatusGivesWayToTheDevicesLimit(t *testing.T) {
	const v = mqttparse.V5
	b, f := tellBench(t, v, 200)
	s := f.sealer("default", "s/a")
	marks := len(user(statusName, "ok"))
	plain := message("s/a", "", 0, 0)
	fits := 200 - mqttparse.PublishLen(v, &plain, 0) - 1 // a Remaining Length of two bytes
	for _, tt := range []struct {
		size int
		want string
		none bool
	}{{fits - marks, "sealgate-status=ok", false}, {fits - marks + 1, "", false}, {fits, "", false}, {fits + 1, "", true}} {
		got := b.receive(t, s.next(strings.Repeat("x", tt.size), 0, 0))
		if tt.none {
			if len(got) != 0 {
				t.Errorf("%d bytes: longer than the device takes", tt.size)
			}
			continue
		}
		if len(got) != 1 || len(got[0].Payload) != tt.size || users(got[0]) != tt.want {
			t.Errorf("%d bytes: %d packets, %+v", tt.size, len(got), got)
		}
	}
}

// Who does not ask, or speaks MQTT 3.1.1, gets messages as they were published.
func TestStatusIsNotTold(t *testing.T) {
	b, f := tellBench(t, mqttparse.V311, 0)
	if got := b.receive(t, f.sealer("default", "s/a").next("x", 0, 0)); len(got) != 1 || string(got[0].Payload) != "x" {
		t.Errorf("%+v", got)
	}
	b, f = downBench(t, mqttparse.V5)
	if got := b.receive(t, f.sealer("default", "s/a").withProps(user(statusName, "mine"), "x", 0, 0)); len(got) != 1 || users(got[0]) != "sealgate-status=mine" {
		t.Errorf("%+v", got)
	}
}
