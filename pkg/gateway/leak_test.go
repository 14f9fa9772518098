package gateway

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

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
		if len(got) != 2 || !got[0].Retain || len(got[0].Payload) != 0 || string(got[0].Topic) != "s/a" || got[1].PacketID != 7 {
			t.Fatalf("not the clear: %+v", got)
		}
		want := []byte{mqttparse.PropMessageExpiry, 0, 0, 0, 9}
		if aliased {
			want = append(want, mqttparse.PropTopicAlias, 0, 1)
		}
		if !bytes.Equal(got[0].Properties, want) {
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

// stallingBroker lets something happen during its first write: a broker that did not read
// for a while.
type stallingBroker struct {
	recorder
	meanwhile func()
}

func (s *stallingBroker) Write(p []byte) (int, error) {
	n, err := s.recorder.Write(p)
	if s.meanwhile != nil {
		s.meanwhile()
		s.meanwhile = nil
	}
	return n, err
}

// A batch can stand still in its middle for as long as the broker does not read. What follows
// goes by the policy and the keys of then, not by those of its beginning.
func TestStateChangesWhileTheBrokerDoesNotRead(t *testing.T) {
	const messages = 100
	payload := string(bytes.Repeat([]byte("x"), 1000))
	for _, tt := range []struct {
		name, topic string
		change      func(*fleet) *State
		stale       func(*fleet, mqttparse.Publish) bool
	}{
		{"pass becomes deny", "plain/x", func(f *fleet) *State { return f.denying().state() },
			func(*fleet, mqttparse.Publish) bool { return true }},
		{"another generation", "s/a", func(f *fleet) *State { return f.rotate(2) },
			func(f *fleet, p mqttparse.Publish) bool {
				env, _, _ := f.unseal("default", p)
				return f.state().Keys.Find("default", env.Kid.KeyID()).Epoch.Generation == 1
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t)
			b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
			written := 0
			broker := &stallingBroker{}
			broker.meanwhile = func() {
				written = len(broker.b)
				b.g.SetState(tt.change(f))
			}
			b.c.upl = broker
			var in []byte
			for range messages {
				in = append(in, publishPacket(mqttparse.V311, message(tt.topic, payload, 0, 0))...)
			}
			b.fromDevice(t, in)
			if written == 0 || written > chunk {
				t.Fatalf("the first write had %d bytes", written)
			}
			stale := 0
			for _, p := range publishes(t, mqttparse.V311, broker.b[written:]) {
				if tt.stale(f, p) {
					stale++
				}
			}
			if stale > 0 {
				t.Errorf("%d messages left by the state of before", stale)
			}
		})
	}
}

// Dialling may take as long as limits.connect_timeout: the will that CONNECT carries is one under the policy
// and the keys of when it leaves.
func TestStateChangesWhileTheUplinkOpens(t *testing.T) {
	for _, tt := range []struct {
		name, topic string
		change      func(*fleet) *State
		check       func(*testing.T, *fleet, *peer, func() *peer)
	}{
		{"another generation", "s/a", func(f *fleet) *State { return f.rotate(2) },
			func(t *testing.T, f *fleet, _ *peer, accept func() *peer) {
				var c mqttparse.Connect
				if err := mqttparse.ParseConnect(accept().next(), &c); err != nil {
					t.Fatal(err)
				}
				env, _, payload := f.unseal("default", mqttparse.Publish{Topic: c.Will.Topic, Payload: c.Will.Payload})
				if g := f.state().Keys.Find("default", env.Kid.KeyID()).Epoch.Generation; g != 2 || string(payload) != "gone" {
					t.Errorf("will %q of generation %d", payload, g)
				}
			}},
		{"pass becomes deny", "plain/x", func(f *fleet) *State { return f.denying().state() },
			func(t *testing.T, f *fleet, dev *peer, accept func() *peer) {
				if got := dev.next(); !bytes.Equal(got.Raw, []byte{0x20, 2, 0, 5}) {
					t.Errorf("device hears % x", got.Raw)
				}
				if f, err := accept().read(); err == nil {
					t.Errorf("the broker hears %q", f.Raw)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t)
			var ts *tester
			ln := listen(t)
			ts = newTester(t, f.rotate(1), Config{linger: 100 * time.Millisecond}, func(context.Context, netip.AddrPort) (net.Conn, error) {
				c, err := net.Dial("tcp", ln.Addr().String())
				ts.g.SetState(tt.change(f))
				return c, err
			})
			ts.broker = ln
			dev := ts.dial()
			dev.send(mqttparse.AppendConnect(nil, &mqttparse.Connect{
				Version: mqttparse.V311, ClientID: []byte("d"), CleanStart: true, HasWill: true,
				Will: mqttparse.Will{Topic: []byte(tt.topic), Payload: []byte("gone")},
			}))
			tt.check(t, f, dev, ts.accept)
		})
	}
}
