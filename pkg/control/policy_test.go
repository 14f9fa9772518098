package control

import (
	"bytes"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// publishPolicy is `sealctl policy publish`.
func (w *world) publishPolicy(p *policy.Signed) {
	w.publish(nil, PolicyTopic(testPrefix), p.Raw, true)
}

func TestPolicyOnlyGrows(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	first := w.signed
	second := w.nextPolicy(func(d *policy.Document) { d.Groups[0].Rotate = 2 * time.Hour })
	w.publishPolicy(second)
	w.run(20 * time.Second)
	for _, n := range w.nodes {
		if n.policy == nil || n.policy.Hash != second.Hash {
			t.Fatalf("%s did not follow policy 2:%s", n.name(), describe(n.events))
		}
	}
	topic := PolicyTopic(testPrefix)
	fork := *w.doc
	fork.Unmatched = "pass"
	orphan := *w.doc
	orphan.Version, orphan.Previous = 3, first.Hash
	other := *w.doc
	other.Fleet, other.Version, other.Previous = "plant2", 3, second.Hash
	forged, err := sub.id.Sign(w.nextPolicy(func(*policy.Document) {}).Document.Marshal(), policy.MessageType)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{gw2, sub} {
		n.mustRefuse(topic, first.Raw, ErrPolicyOld)
		n.mustRefuse(topic, w.sign(&fork).Raw, ErrPolicyFork)
		n.mustRefuse(topic, w.sign(&orphan).Raw, ErrPolicyFork)
		n.mustRefuse(topic, forged, crypto.ErrUntrusted)
		n.mustRefuse(topic, make([]byte, MaxPolicyMessage+1), ErrTooLarge)
	}
	if raw, err := other.Sign(w.authority); err == nil {
		if e := gw1.inject(topic, raw); e[len(e)-1].Result != ResultRefused {
			t.Errorf("a policy of another fleet:%s", describe(e))
		}
	}
}

// TestRolledBackPolicyIsPutRight: the broker serves an old policy; members refuse it and one keeper
// publishes the newer one again.
func TestRolledBackPolicyIsPutRight(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	first := w.signed
	second := w.nextPolicy(func(*policy.Document) {})
	w.publishPolicy(second)
	w.run(10 * time.Second)
	mark := len(w.log)
	w.publishPolicy(first)
	w.run(RepublishInterval + 10*time.Second)
	if !bytes.Equal(w.retained[PolicyTopic(testPrefix)], second.Raw) {
		t.Error("the rolled-back policy stands")
	}
	if n := w.countTopic(PolicyTopic(testPrefix), mark); n > 3 {
		t.Errorf("%d messages to put it right", n)
	}
}

// TestBrokerInsistsOnOldPolicy: a broker that always serves the old one is answered at a bounded rate.
func TestBrokerInsistsOnOldPolicy(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	first := w.signed
	w.publishPolicy(w.nextPolicy(func(*policy.Document) {}))
	w.run(10 * time.Second)
	mark := len(w.log)
	for range 1000 {
		gw1.inject(PolicyTopic(testPrefix), first.Raw)
		w.run(100 * time.Millisecond)
	}
	if n := w.countTopic(PolicyTopic(testPrefix), mark); n > 5 {
		t.Errorf("%d publications in 100 s", n)
	}
}

// TestFloor: a member that boots from an old enrolment bundle, or is served an old policy, stays
// silent until the broker brings one at least as new as it has ever followed (F2).
func TestFloor(t *testing.T) {
	w := newWorld(t)
	first := w.signed
	second := w.nextPolicy(func(*policy.Document) {})
	n := w.add(crypto.RoleGateway, "gw1", func(c *Config) {
		c.Policy, c.Floor = first, Floor{second.Document.Version, second.Hash}
	}).connect()
	w.run(time.Minute)
	if n.policy != nil || n.ring != nil || len(w.log) != 0 {
		t.Fatal("works from a policy below its floor")
	}
	if !refused(n.events, ErrPolicyOld) {
		t.Errorf("does not say that its policy is old:%s", describe(n.events))
	}
	n.mustRefuse(PolicyTopic(testPrefix), first.Raw, ErrPolicyOld)
	w.publishPolicy(second)
	w.run(10 * time.Second)
	if n.sendKey() == nil {
		t.Errorf("no key under the policy at the floor:%s", describe(n.events))
	}
}

// TestPolicyChangeOfReaders: whoever may no longer read loses the keys, is granted none, and the others
// go on under a new generation, whose KEK it does not have.
func TestPolicyChangeOfReaders(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Read = []string{"gw*", "bob"} }))
	w.run(15 * time.Second)
	if n := len(sub.ring.Keys("default")); n != 0 {
		t.Errorf("the removed reader's program still gives out %d keys", n)
	}
	if gw2.epoch() != gw1.epoch() || gw1.epoch().Generation != 2 || gw1.epoch().PolicyVersion != 2 {
		t.Errorf("gw1 %v gw2 %v", gw1.epoch(), gw2.epoch())
	}
	if gw2.sendKey().Epoch != gw1.epoch() {
		t.Errorf("gw2 seals under %v", gw2.sendKey().Epoch)
	}
	msg, _ := sub.hello(nil)
	gw1.mustRefuse(ControlTopic(testPrefix), msg, ErrNotEntitled)
	bob := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(2 * time.Second)
	if bob.epoch() != gw1.epoch() {
		t.Errorf("the new reader has %v", bob.epoch())
	}
}

// TestPolicyChangeWithoutAccess: other changes cost an epoch, not a Grant for each member.
func TestPolicyChangeWithoutAccess(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	mark := len(w.log)
	w.watchSenders()
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Rotate = 5 * time.Minute }))
	w.run(15 * time.Second)
	w.mustAgree()
	if e := gw1.epoch(); e != (crypto.Epoch{PolicyVersion: 2, Generation: 1, Number: 2}) {
		t.Errorf("epoch %v", e)
	}
	if n := w.count(KindGrant, mark); n != 0 {
		t.Errorf("%d Grants", n)
	}
	w.run(5 * time.Minute)
	if e := gw1.epoch(); e.Number != 3 {
		t.Errorf("epoch %v: the new rotation period is not used", e)
	}
}

func TestPolicyChangeOfKeepers(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw2"} }))
	w.run(20 * time.Second)
	w.mustAgree()
	if e := gw2.epoch(); e.PolicyVersion != 2 || e.Generation != 2 {
		t.Errorf("epoch %v", e)
	}
	if !gw2.m.Status(w.now()).Groups[0].Leading || gw1.m.Status(w.now()).Groups[0].Leading {
		t.Error("the leader is not gw2")
	}
	if gw1.sendKey() == nil || gw1.sendKey().Epoch != gw2.epoch() {
		t.Errorf("gw1 seals under %v:%s", gw1.sendKey(), describe(gw1.events))
	}
	gw1.mustRefuse(KeysTopic(testPrefix, "default"), gw1.announcement(nil), ErrNotKeeper)
}

func TestPolicyChangeOfGroups(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) {
		d.Groups[0].Topics = []string{"plant/#"}
		hall := policy.DefaultGroup("hall")
		hall.Topics, hall.Keepers, hall.Publish = []string{"hall/#"}, []string{"gw2"}, []string{"gw*"}
		d.Groups = append(d.Groups, hall)
	}))
	w.run(20 * time.Second)
	w.mustAgree()
	for _, n := range w.nodes {
		if len(n.ring.Keys("hall")) != 1 {
			t.Fatalf("%s has no key of the new group:%s", n.name(), describe(n.events))
		}
	}
	if w.nodes[0].ring.Send("hall").Epoch.PolicyVersion != 2 {
		t.Error("gw1 does not seal in the new group")
	}
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups = d.Groups[1:] }))
	w.run(20 * time.Second)
	if len(sub.ring.Keys("default")) != 0 || len(sub.ring.Keys("hall")) == 0 {
		t.Errorf("groups held: %v", sub.ring.Groups())
	}
	if sub.subs[KeysTopic(testPrefix, "default")] {
		t.Error("still subscribed to the removed group")
	}
}

// TestEpochBeforeItsPolicy: the broker may deliver in any order.
func TestEpochBeforeItsPolicy(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	policyTopic := PolicyTopic(testPrefix)
	w.drop = func(to *node, topic string) bool { return to == sub && topic == policyTopic }
	second := w.nextPolicy(func(*policy.Document) {})
	w.publishPolicy(second)
	w.run(5 * time.Second)
	if sub.epoch() == gw1.epoch() || sub.m.groups["default"].deferred == nil {
		t.Fatalf("an epoch of an unknown policy is not held back:%s", describe(sub.events))
	}
	sub.inject(policyTopic, second.Raw)
	if sub.epoch() != gw1.epoch() {
		t.Errorf("epoch %v, want %v:%s", sub.epoch(), gw1.epoch(), describe(sub.events))
	}
}

func TestStandaloneKeeper(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"vault"} })
	vault := w.add(crypto.RoleKeeper, "vault").connect()
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	w.run(15 * time.Second)
	w.mustAgree()
	if gw.sendKey() == nil || vault.sendKey() != nil {
		t.Errorf("gateway seals under %v, keeper under %v", gw.sendKey(), vault.sendKey())
	}
}

func TestKeylessOperatorFollowsOnly(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	op := w.add(crypto.RoleOperator, "root", func(c *Config) { c.Keyless, c.Policy = true, nil }).connect()
	w.run(time.Minute)
	if op.policy == nil || op.ring != nil && len(op.ring.Groups()) != 0 {
		t.Errorf("policy %v, groups %v", op.policy, op.ring.Groups())
	}
	for _, r := range w.log {
		if r.from == op {
			t.Errorf("published on %s", r.topic)
		}
	}
}

func TestReconnectUsesANewInbox(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	first := sub.inboxTopic()
	sub.disconnect()
	sub.connect()
	if sub.inboxTopic() == first || !sub.subs[sub.inboxTopic()] || sub.subs[first] {
		t.Error("the inbox is the same")
	}
}

func TestHelloBacksOffWithoutAKeeper(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.add(crypto.RoleSubscriber, name).connect()
	}
	w.run(10 * time.Minute)
	n := len(w.log)
	if n > 4*40 || n < 4*15 {
		t.Errorf("%d Hellos of 4 members in 10 minutes", n)
	}
	seen := make(map[time.Duration]bool)
	for _, r := range w.log {
		if seen[r.at] {
			t.Error("two members ask at the same moment: no jitter")
		}
		seen[r.at] = true
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	id := w.identity(crypto.RoleGateway, "gw1")
	good := Config{Identity: id, Trust: w.trust, Policy: w.signed, Prefix: "a/b", Rand: w.rand}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Config){
		"no identity":     func(c *Config) { c.Identity = nil },
		"no trust":        func(c *Config) { c.Trust = nil },
		"no randomness":   func(c *Config) { c.Rand = nil },
		"empty prefix":    func(c *Config) { c.Prefix = "" },
		"wildcard prefix": func(c *Config) { c.Prefix = "a/#" },
		"broker's prefix": func(c *Config) { c.Prefix = "$SYS" },
		"foreign policy": func(c *Config) {
			p := *w.signed
			d := *p.Document
			d.Fleet, p.Document = "other", &d
			c.Policy = &p
		},
		"foreign trust": func(c *Config) { c.Trust, _ = crypto.NewTrust("other", w.caCert) },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
