package subscriber_test

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// hidingFleet hides the topics of group plant, and not those of group office.
func hidingFleet(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t, func(d *policy.Document) {
		office := policy.DefaultGroup("office")
		office.Topics, office.Keepers, office.ActivateAfter = []string{"office/#"}, []string{"gw1"}, 0
		d.Groups[0].HideTopics, d.TopicKey = true, 1
		d.Groups = append(d.Groups, office)
	})
	var err error
	if f.topics, err = crypto.NewTopicSecret(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return f
}

// names keeps what a broker is asked to route by, but for control messages: a group's name is no secret.
type names struct {
	mu   sync.Mutex
	seen []string
}

func (n *names) note(filter string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !strings.HasPrefix(filter, "sealgate/") {
		n.seen = append(n.seen, filter)
	}
	return false
}

func (n *names) contains(what string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.seen, func(s string) bool { return strings.Contains(s, what) })
}

// Readers get messages under their names, by filters that reach hidden topics, topics that are not, and both; the broker sees no name.
func TestHiddenTopics(t *testing.T) { bothVersions(t, hiddenTopics) }

func hiddenTopics(t *testing.T, version byte) {
	var seen names
	b := embedded.Start(t, embedded.Options{Refuse: seen.note})
	f := hidingFleet(t)
	f.keeper(b.URL(), nil)
	bob := connect(t, subscriber.Options{Version: version, Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	inboxes := make(map[string]*inbox)
	for who, filters := range map[string][]string{"deep": {"plant/+/temperature"}, "both": {"+/boiler/#"}, "all": {"#"}, "shared": {"$share/g/plant/#"}, "office": {"office/#", "open/#"}} {
		inboxes[who] = newInbox()
		c := connect(t, subscriber.Options{Version: version, Member: f.identity(crypto.RoleSubscriber, who), Broker: b.URL(), Handler: inboxes[who].handle})
		if err := c.Subscribe(within(t), 1, filters...); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"plant/boiler/temperature", "office/boiler/x", "open/boiler", "plant/boiler/pressure"} {
		for qos := range byte(3) {
			if err := bob.Publish(within(t), name, []byte("21.5 at "+name), qos, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	for who, want := range map[string][]string{
		"deep": {"plant/boiler/temperature"}, "shared": {"plant/boiler/temperature", "plant/boiler/pressure"}, "office": {"office/boiler/x", "open/boiler"},
		"both": {"plant/boiler/temperature", "office/boiler/x", "open/boiler", "plant/boiler/pressure"},
		"all":  {"plant/boiler/temperature", "office/boiler/x", "open/boiler", "plant/boiler/pressure"},
	} {
		for i, m := range inboxes[who].await(t, 3*len(want)) {
			if name := want[i/3]; m.Status != subscriber.StatusOK || m.Topic != name || string(m.Payload) != "21.5 at "+name {
				t.Errorf("%s, message %d: %+v %q", who, i, m, m.Payload)
			}
		}
	}
	for _, secret := range []string{"plant", "temperature", "pressure"} {
		if seen.contains(secret) {
			t.Errorf("the broker routes by %q", secret)
		}
		for _, p := range b.Seen() {
			if !strings.HasPrefix(p.Topic, "sealgate/") && (strings.Contains(p.Topic, secret) || bytes.Contains(p.Payload, []byte(secret))) {
				t.Errorf("the broker could read %q on %s", secret, p.Topic)
			}
		}
	}
	if !seen.contains("office/#") {
		t.Error("topics of a group that does not hide are hidden")
	}
}

// Retained messages, clears and response topics of hidden topics.
func TestHiddenRetainedMessages(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := hidingFleet(t)
	f.keeper(b.URL(), nil)
	bob := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	for _, name := range []string{"plant/kept", "plant/cleared"} {
		if err := bob.Publish(within(t), name, []byte("kept"), 1, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.Publish(within(t), "plant/cleared", nil, 1, true); err != nil {
		t.Fatal(err)
	}
	in := newInbox()
	alice := connect(t, subscriber.Options{Version: 5, Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/+", "open/request"); err != nil {
		t.Fatal(err)
	}
	request := &subscriber.Publication{Topic: "plant/request", Payload: []byte("?"), QoS: 1, Properties: subscriber.Properties{ResponseTopic: "plant/answer"}}
	if err := bob.Send(within(t), request); err != nil {
		t.Fatal(err)
	}
	request.Topic = "open/request"
	if err := bob.Send(within(t), request); err != nil {
		t.Fatal(err)
	}
	got := in.await(t, 3)
	if m := got[0]; m.Topic != "plant/kept" || !m.Retain || string(m.Payload) != "kept" || m.Status != subscriber.StatusOK {
		t.Errorf("retained: %+v", m)
	}
	if m := got[1]; m.Topic != "plant/request" || m.Properties.ResponseTopic != "plant/answer" {
		t.Errorf("request: %+v", m)
	}
	if m := got[2]; m.Topic != "open/request" || !crypto.LooksHidden([]byte(m.Properties.ResponseTopic)) {
		t.Errorf("request in the clear: %+v", m)
	}
}

// Under another topic key the client subscribes anew, and what is published then comes.
func TestAnotherTopicKey(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := hidingFleet(t)
	keeper := f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	before := alice.State().Keys.TopicKey()
	keeper.Close()
	doc := *f.policy.Document
	doc.Version, doc.Previous, doc.TopicKey = 2, f.policy.Hash, 2
	f.sign(&doc)
	f.keeper(b.URL(), nil)
	for ctx := within(t); ; {
		if k := alice.State().Keys.TopicKey(); k != nil && !k.Equal(before) && alice.State().Keys.Send("plant") != nil {
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no other topic key")
		}
	}
	for limit := within(t); limit.Err() == nil; { // until the broker has heard of the new subscription
		if err := alice.Publish(within(t), "plant/x", []byte("m"), 1, false); err != nil {
			t.Fatal(err)
		}
		select {
		case <-in.more:
			if m := in.await(t, 1)[0]; m.Topic != "plant/x" || m.Status != subscriber.StatusOK {
				t.Errorf("%+v", m)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("nothing comes under the new key")
}

// Whoever takes part in no group that hides is told so, and asks the broker for nothing.
func TestHiddenFromOthers(t *testing.T) {
	var seen names
	b := embedded.Start(t, embedded.Options{Refuse: seen.note})
	f := hidingFleet(t)
	doc := *f.policy.Document
	doc.Groups = slices.Clone(doc.Groups)
	doc.Groups[0].Read, doc.Groups[0].Publish = []string{"bob"}, []string{"bob"}
	f.sign(&doc)
	f.keeper(b.URL(), nil)
	eve := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "eve"), Broker: b.URL()})
	if err := eve.Subscribe(within(t), 1, "plant/#"); err == nil || !strings.Contains(err.Error(), "no group that hides") {
		t.Errorf("subscribed: %v", err)
	}
	if err := eve.Publish(within(t), "plant/x", []byte("m"), 1, false); err == nil || !strings.Contains(err.Error(), "take part") {
		t.Errorf("published: %v", err)
	}
	if err := eve.Subscribe(within(t), 1, "+/x"); err != nil {
		t.Error(err)
	}
	if seen.contains("plant") {
		t.Errorf("the broker sees %q", seen.seen)
	}
}

// What does not prove its name is refused.
func TestHiddenNamesAreVerified(t *testing.T) {
	b := newBench(t, 0)
	sealed := policy.DefaultGroup("plant")
	sealed.Topics, sealed.Keepers, sealed.HideTopics = []string{"plant/#"}, []string{"gw1"}, true
	doc := &policy.Document{Fleet: "f", Version: 1, TopicKey: 1, Unmatched: policy.WordPass, Groups: []policy.Group{sealed}}
	var err error
	if b.table, err = doc.Table(); err != nil {
		t.Fatal(err)
	}
	k, err := crypto.TopicKeyFrom(bytes.Repeat([]byte{7}, crypto.SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	b.topics = k
	b.give(b.key)
	wire := k.Hide("plant/1")
	send := func(wire, name string) *subscriber.Message {
		t.Helper()
		s := b.stream(b.key, wire, false)
		if name != "" {
			s.SetName(name)
		}
		b.got = nil
		b.r.Receive(b.now, subscriber.Incoming{Topic: wire, Payload: b.seal(s, 1)[0]})
		if len(b.got) != 1 {
			t.Fatalf("%d reports", len(b.got))
		}
		return b.got[0]
	}
	if m := send(wire, "plant/1"); m.Status != subscriber.StatusOK || m.Topic != "plant/1" || m.Group != "plant" {
		t.Errorf("%+v", m)
	}
	for _, bad := range [][2]string{{wire, "plant/2"}, {wire, ""}, {k.Hide("other/1"), "other/1"}, {wire, "plant/+"}} {
		if m := send(bad[0], bad[1]); m.Status != subscriber.StatusForged {
			t.Errorf("%q: %+v", bad, m)
		}
	}
	if m := send("plant/1", ""); m.Status != subscriber.StatusOK || m.Topic != "plant/1" {
		t.Errorf("of before the group hid: %+v", m)
	}
	other := secret(t)
	b.got = nil
	b.r.Receive(b.now, subscriber.Incoming{Topic: wire, Payload: b.seal(b.stream(other, wire, false), 1)[0]})
	if len(b.got) != 0 || len(b.asked) != 1 {
		t.Errorf("an unknown key: %d reports, %d asked for", len(b.got), len(b.asked))
	}
}
