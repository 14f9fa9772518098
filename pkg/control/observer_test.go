package control

import (
	"errors"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// An observer takes whatever an honest fleet says, once, and the fleet does not notice it.
func TestObserverHearsTheFleet(t *testing.T) {
	w, gw, sub := keepers(t, 2)
	o := NewObserver(w.trust, testPrefix)
	if _, err := o.Receive(w.now().Wall, ControlTopic(testPrefix), nil); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("without a policy: %v", err)
	}
	o.SetPolicy(w.signed)
	gw[0].says(gw[0].sealed(1, "a", 0, 3))
	w.run(15 * time.Second)
	heard := map[Kind][]string{}
	for _, r := range w.log {
		if r.topic == PolicyTopic(testPrefix) || !slices.ContainsFunc(o.Filters(), func(f string) bool { return matches(f, r.topic) }) {
			continue
		}
		h, err := o.Receive(w.now().Wall, r.topic, r.payload)
		if err != nil {
			t.Errorf("%s by %s: %v", r.topic, r.from.name(), err)
		}
		if h.From.Name != r.from.name() {
			t.Errorf("%s by %s is taken for %v", r.topic, r.from.name(), h.From)
		}
		heard[h.Kind] = append(heard[h.Kind], h.From.Name)
	}
	for kind, who := range map[Kind]string{KindHello: sub.name(), KindLease: "gw1", KindEpoch: "gw1", KindCheckpoint: "gw1"} {
		if !slices.Contains(heard[kind], who) {
			t.Errorf("no %s of %s: heard %v", kind, who, heard)
		}
	}
}

// matches is for the filters of an observer.
func matches(filter, topic string) bool {
	group, member, checkpoint := ofCheckpointTopic(testPrefix, topic)
	name, keys := groupOfKeysTopic(testPrefix, topic)
	switch filter {
	case CheckpointTopic(testPrefix, "+", "+"):
		return checkpoint && group != "" && member != ""
	case KeysTopic(testPrefix, "+"):
		return keys && name != ""
	}
	return filter == topic
}

// What an observer refuses, by the rule that refuses it.
func TestObserverRefuses(t *testing.T) {
	w, gw, sub := keepers(t, 2, func(d *policy.Document) { d.RevokedNames = []string{"gone"} })
	o := NewObserver(w.trust, testPrefix)
	o.SetPolicy(w.signed)
	gone := w.add(crypto.RoleGateway, "gone")
	liar := w.add(crypto.RoleSubscriber, "gw1")
	gw9 := w.add(crypto.RoleGateway, "gw9")
	lease := func(tick, version uint64) []byte {
		l := Lease{PolicyVersion: version, PolicyHash: w.signed.Hash, Boot: [16]byte{7}, Tick: tick, Groups: []LeaseGroup{{Name: "default", Generation: 1, Number: 1}}}
		return l.Marshal()
	}
	announced := w.retained[KeysTopic(testPrefix, "default")]
	point := func(group string) []byte {
		c := checkpoint.Message{Group: group, State: checkpoint.Last}
		return c.Marshal()
	}
	control, keys := ControlTopic(testPrefix), KeysTopic(testPrefix, "default")
	tell := func(who string) string { return CheckpointTopic(testPrefix, "default", who) }
	for _, c := range []struct {
		name, topic string
		msg         []byte
		want        error // nil: taken
	}{
		{"a lease", control, gw[0].sign(lease(5, 1), KindLease), nil},
		{"played again", control, gw[0].sign(lease(5, 1), KindLease), ErrReplayedLease},
		{"a lease by another role", control, liar.sign(lease(6, 1), KindLease), ErrRole},
		{"a lease of whom the policy does not list", control, gw9.sign(lease(6, 1), KindLease), ErrNotKeeper},
		{"a lease of one revoked", control, gone.sign(lease(6, 1), KindLease), ErrRevoked},
		{"a lease under a policy to come", control, gw[0].sign(lease(6, 2), KindLease), ErrPolicyAhead},
		{"another kind", control, gw[0].sign(point("default"), KindCheckpoint), ErrKind},
		{"the announcement", keys, announced, nil},
		{"the announcement elsewhere", KeysTopic(testPrefix, "other"), announced, ErrNoGroup},
		{"a checkpoint", tell("gw1"), gw[0].sign(point("default"), KindCheckpoint), nil},
		{"of another group", tell("gw1"), gw[0].sign(point("other"), KindCheckpoint), ErrTopic},
		{"on another's topic", tell("gw2"), gw[0].sign(point("default"), KindCheckpoint), ErrTopic},
		{"of one who may not publish", tell("alice"), sub.sign(point("default"), KindCheckpoint), ErrNotEntitled},
		{"any other topic", testPrefix + "/inbox/x", gw[0].sign(lease(7, 1), KindLease), ErrKind},
	} {
		if _, err := o.Receive(w.now().Wall, c.topic, c.msg); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	d := *w.doc
	d.Version, d.Previous, d.Groups = 2, w.signed.Hash, slices.Clone(d.Groups)
	d.Groups[0].Keepers = []string{"gw2"}
	o.SetPolicy(w.sign(&d))
	if _, err := o.Receive(w.now().Wall, keys, announced); !errors.Is(err, ErrNotKeeper) {
		t.Errorf("the announcement of a keeper that is no more: %v", err)
	}
	if len(o.leases) != 0 {
		t.Error("a keeper that is no more is remembered")
	}
}
