package subscriber_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/session"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// Properties that describe content travel inside a sealed message, past a broker that reads none of them, and readers of
// either version get them; what a broker adds outside counts for nothing.
func TestPropertiesAreSealed(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	three, five := newInbox(), newInbox()
	old := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "old"), Broker: b.URL(), Handler: three.handle})
	alice := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: five.handle})
	bob := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	for _, c := range []*subscriber.Client{old, alice} {
		if err := c.Subscribe(within(t), 2, "plant/#", "open/#"); err != nil {
			t.Fatal(err)
		}
	}
	want := subscriber.Properties{PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "plant/answers", CorrelationData: []byte("request 7"),
		User: []subscriber.UserProperty{{Name: "unit", Value: "celsius"}, {Name: "unit", Value: "twice"}}}
	for qos := range byte(3) {
		p := &subscriber.Publication{Topic: "plant/1", Payload: []byte("21"), QoS: qos, Expiry: time.Minute, Properties: want}
		if err := bob.Send(within(t), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.Send(within(t), &subscriber.Publication{Topic: "open/1", Payload: []byte("open"), QoS: 1, Properties: want}); err != nil {
		t.Fatal(err)
	}
	for who, in := range map[string]*inbox{"3.1.1": three, "5": five} {
		for i, m := range in.await(t, 4) {
			expected := want
			if i == 3 && who == "3.1.1" { // on a topic in the clear they are the broker's to deliver, and 3.1.1 has no place for them
				expected = subscriber.Properties{}
			}
			if m.Status != subscriber.StatusOK || !reflect.DeepEqual(m.Properties, expected) {
				t.Errorf("%s, message %d: %+v", who, i, m)
			}
		}
	}
	for _, p := range b.Seen() {
		for _, secret := range []string{"celsius", "request 7", "answers", "text/plain"} {
			if strings.HasPrefix(p.Topic, "plant/") && bytes.Contains(p.Payload, []byte(secret)) {
				t.Errorf("the broker could read %q", secret)
			}
		}
	}
	err := old.Send(within(t), &subscriber.Publication{Topic: "plant/1", Properties: want})
	if err == nil || !strings.Contains(err.Error(), "MQTT 5") {
		t.Errorf("properties by 3.1.1: %v", err)
	}
	if err := bob.Send(within(t), &subscriber.Publication{Topic: "plant/1", Properties: subscriber.Properties{ContentType: "\xff"}}); err == nil {
		t.Error("a content type that is not UTF-8 was published")
	}
}

// Two members of a shared subscription get every message between them, and neither misses what the other got.
func TestSharedSubscription(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	in := newInbox()
	for i := range 2 {
		c := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, fmt.Sprint("worker", i)), Broker: b.URL(), Handler: func(m *subscriber.Message) {
			if !m.Report() {
				in.handle(m)
			}
		}})
		if err := c.Subscribe(within(t), 1, "$share/workers/plant/#"); err != nil {
			t.Fatal(err)
		}
	}
	bob := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	const n = 20
	for i := range n {
		if err := bob.Publish(within(t), "plant/1", fmt.Append(nil, i), 1, false); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]int{}
	for _, m := range in.await(t, n) {
		if m.Status != subscriber.StatusOK {
			t.Errorf("%+v", m)
		}
		got[string(m.Payload)]++
	}
	if len(got) != n {
		t.Errorf("%d of %d messages came: %v", len(got), n, got)
	}
}

// A broker that refuses says why.
func TestReasonsOfTheBroker(t *testing.T) {
	var refuse atomic.Bool
	b := embedded.Start(t, embedded.Options{Refuse: func(filter string) bool { return refuse.Load() && filter == "plant/secret" }})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	alice := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL()})
	refuse.Store(true)
	err := alice.Subscribe(within(t), 1, "plant/secret")
	r, ok := errors.AsType[*session.ReasonError](err)
	if !ok || r.Code != 0x87 || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("got %v", err)
	}
	if _, err := subscriber.Connect(within(t), subscriber.Options{Version: 6, Member: f.identity(crypto.RoleSubscriber, "x"), Broker: b.URL()}); err == nil || !strings.Contains(err.Error(), "version 6") {
		t.Errorf("version 6: %v", err)
	}
}
