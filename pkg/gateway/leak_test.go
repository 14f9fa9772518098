package gateway

import (
	"bytes"
	"testing"

	"sealgate/pkg/mqttparse"
)

// contentProps is one of each property that describes a payload, and two that do not.
func contentProps() []byte {
	return []byte{
		mqttparse.PropPayloadFormat, 1,
		mqttparse.PropMessageExpiry, 0, 0, 0, 9,
		mqttparse.PropContentType, 0, 6, 's', 'e', 'c', 'r', 'e', 't',
		mqttparse.PropResponseTopic, 0, 6, 's', 'e', 'c', 'r', 'e', 't',
		mqttparse.PropCorrelationData, 0, 6, 's', 'e', 'c', 'r', 'e', 't',
		mqttparse.PropUserProperty, 0, 6, 's', 'e', 'c', 'r', 'e', 't', 0, 6, 's', 'e', 'c', 'r', 'e', 't',
	}
}

// A clear passes outside an envelope, so nothing that belongs inside one may go with it.
func TestRetainedClearLeavesContentPropertiesBehind(t *testing.T) {
	v := mqttparse.V5
	for _, aliased := range []bool{false, true} {
		b := newBench(t, newFleet(t).rotate(1), v, Config{})
		b.connackMax(t, 8)
		m := message("s/a", "", 1, 7)
		m.Retain, m.Properties = true, contentProps()
		if aliased {
			m.Properties = append(m.Properties, mqttparse.PropTopicAlias, 0, 1)
		}
		out := b.fromDevice(t, publishPacket(v, m))
		if bytes.Contains(out, []byte("secret")) {
			t.Errorf("content properties leave in clear: %q", out)
		}
		got := publishes(t, v, out)
		if len(got) != 1 || !got[0].Retain || got[0].PacketID != 7 || len(got[0].Payload) != 0 || string(got[0].Topic) != "s/a" {
			t.Fatalf("not the clear: %+v", got)
		}
		if want := []byte{mqttparse.PropMessageExpiry, 0, 0, 0, 9}; !bytes.Equal(got[0].Properties, want) {
			t.Errorf("properties % x, want % x", got[0].Properties, want)
		}
	}
}

func TestClearingWillLeavesContentPropertiesBehind(t *testing.T) {
	ts := newTester(t, newFleet(t).rotate(1), Config{}, nil)
	dev := ts.dial()
	dev.send(mqttparse.AppendConnect(nil, &mqttparse.Connect{
		Version: mqttparse.V5, ClientID: []byte("d"), CleanStart: true, HasWill: true,
		Will: mqttparse.Will{Topic: []byte("s/a"), Retain: true, Properties: contentProps()},
	}))
	f := ts.accept().next()
	if bytes.Contains(f.Raw, []byte("secret")) {
		t.Errorf("content properties of the will leave in clear: %q", f.Raw)
	}
	var c mqttparse.Connect
	if err := mqttparse.ParseConnect(f, &c); err != nil || !c.HasWill || !c.Will.Retain || len(c.Will.Payload) != 0 || len(c.Will.Properties) != 5 {
		t.Errorf("not the will: %+v, %v", c.Will, err)
	}
}
