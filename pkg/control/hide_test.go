package control

import (
	"errors"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

func topicSecret(t *testing.T, fill byte) *crypto.TopicSecret {
	t.Helper()
	b := make([]byte, crypto.SecretSize)
	b[0] = fill
	s, err := crypto.TopicSecretFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hides(d *policy.Document) { d.Groups[0].HideTopics, d.TopicKey = true, 1 }

// keepers and a subscriber of a fleet whose keepers have the topic secrets given.
func (w *world) hidingFleet(secrets ...*crypto.TopicSecret) (gw1, gw2, sub *node) {
	w.t.Helper()
	for i, name := range []string{"gw1", "gw2"} {
		w.add(crypto.RoleGateway, name, func(c *Config) { c.Topics = secrets[i] })
	}
	w.add(crypto.RoleSubscriber, "app", func(c *Config) { c.ReadOnly = true })
	for _, n := range w.nodes {
		n.connect()
	}
	w.run(time.Minute)
	return w.nodes[0], w.nodes[1], w.nodes[2]
}

// hasTopicKey fails unless a node holds the topic key of a number.
func (n *node) hasTopicKey(s *crypto.TopicSecret, number uint64) {
	n.w.t.Helper()
	want, err := s.Key("plant", number)
	if err != nil {
		n.w.t.Fatal(err)
	}
	if !n.ring.TopicKey().Equal(want) {
		n.w.t.Errorf("%s does not hold topic key %d: %s", n.name(), number, describe(n.events))
	}
}

func (n *node) alarmed(err error) bool {
	return slices.ContainsFunc(n.events, func(e Event) bool { return e.Alarm && errors.Is(e.Err, err) })
}

// Keepers derive the topic key, all others are granted it; it is the same after all keepers have restarted.
func TestTopicKeyReachesMembers(t *testing.T) {
	w := newWorld(t, hides)
	secret := topicSecret(t, 1)
	gw1, gw2, sub := w.hidingFleet(secret, secret)
	for _, n := range w.nodes {
		n.hasTopicKey(secret, 1)
	}
	for _, n := range w.nodes {
		n.disconnect()
		n.boot()
	}
	if sub.ring.TopicKey() != nil {
		t.Error("a subscriber that has just booted holds a topic key")
	}
	for _, n := range []*node{gw2, gw1, sub} {
		n.connect()
	}
	w.run(time.Minute)
	for _, n := range w.nodes {
		n.hasTopicKey(secret, 1)
	}
}

// A policy that takes hiding into use, or names another key, has every member get the key; whoever it revokes does not. One that
// ends hiding takes it away.
func TestTopicKeyFollowsThePolicy(t *testing.T) {
	w := newWorld(t)
	secret := topicSecret(t, 1)
	_, _, sub := w.hidingFleet(secret, secret)
	for _, n := range w.nodes {
		if n.ring.TopicKey() != nil {
			t.Errorf("%s has a topic key where no group hides topics", n.name())
		}
	}
	w.publishPolicy(w.nextPolicy(hides))
	w.run(time.Minute)
	for _, n := range w.nodes {
		n.hasTopicKey(secret, 1)
	}
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Rotate = 2 * time.Hour }))
	w.run(time.Minute)
	for _, n := range w.nodes {
		n.hasTopicKey(secret, 1)
	}
	other := w.add(crypto.RoleSubscriber, "other").connect()
	w.run(time.Minute)
	other.hasTopicKey(secret, 1)
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.TopicKey, d.RevokedNames = 2, []string{"other"} }))
	w.run(time.Minute)
	for _, n := range w.nodes[:3] {
		n.hasTopicKey(secret, 2)
	}
	if other.ring.TopicKey() != nil {
		t.Error("the revoked member has a topic key")
	}
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.TopicKey, d.Groups[0].HideTopics = 0, false }))
	w.run(time.Minute)
	if sub.ring.TopicKey() != nil || len(sub.ring.Keys("default")) == 0 {
		t.Error("a topic key is left where no group hides topics")
	}
}

// A keeper without the topic secret grants nothing of a group that hides, and says so, until another keeper has granted it the key.
func TestKeeperWithoutTopicSecret(t *testing.T) {
	w := newWorld(t, hides, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	gw1, _, sub := w.hidingFleet(nil, nil)
	if !gw1.alarmed(ErrTopicKey) {
		t.Errorf("no alarm: %s", describe(gw1.events))
	}
	if len(sub.ring.Keys("default")) > 0 {
		t.Error("keys were granted without the topic key")
	}
	secret := topicSecret(t, 1)
	gw1.cfg.Topics = secret
	gw1.disconnect()
	gw1.boot()
	gw1.connect()
	w.run(time.Minute)
	sub.hasTopicKey(secret, 1)
}

func TestKeeperIsGrantedTheTopicKey(t *testing.T) {
	w := newWorld(t, hides)
	secret := topicSecret(t, 1)
	gw1, gw2, sub := w.hidingFleet(secret, nil)
	gw2.hasTopicKey(secret, 1)
	gw1.disconnect()
	sub.disconnect()
	sub.boot()
	w.run(time.Minute) // gw2 takes over
	sub.connect()
	w.run(time.Minute)
	sub.hasTopicKey(secret, 1)
}

// Two keepers with different secrets keep their own, and tell.
func TestTopicSecretsDiffer(t *testing.T) {
	w := newWorld(t, hides)
	one, two := topicSecret(t, 1), topicSecret(t, 2)
	gw1, gw2, _ := w.hidingFleet(one, two)
	gw1.hasTopicKey(one, 1)
	gw2.hasTopicKey(two, 1)
	if !slices.ContainsFunc(slices.Concat(gw1.events, gw2.events), func(e Event) bool { return e.Alarm && e.Kind == KindGrant }) {
		t.Errorf("no alarm: %s", describe(gw2.events))
	}
}

// A topic key comes with the keys of a group that hides its topics, and with no other.
func TestGrantWithTheWrongTopicKey(t *testing.T) {
	for _, hiding := range []bool{false, true} {
		w := newWorld(t, func(d *policy.Document) {
			if hiding {
				hides(d)
			}
		})
		secret := topicSecret(t, 1)
		gw1, gw2, _ := w.hidingFleet(secret, secret)
		m := gw2.m
		g := m.groups["default"]
		gg := gw1.m.grantGroup(gw1.m.groups["default"], gw2.id.Member(), 10)
		m.wantKeys(g, 0)
		m.Advance(w.now())
		a := m.asks[len(m.asks)-1]
		if gg.Topics = nil; !hiding {
			gg.Topics, _ = secret.Key("plant", 1)
		}
		if err := m.takeGrant(a, &gg, gw1.id.Member()); !errors.Is(err, ErrTopicKey) {
			t.Errorf("hiding %v: %v", hiding, err)
		}
	}
}
