package control

import (
	"errors"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

func testKey(w *world, e crypto.Epoch, at time.Duration) *key {
	secret, _ := crypto.NewPayloadSecret(w.rand)
	k := &key{epoch: e, secret: secret, commitment: crypto.Commitment(secret, "default"), learned: at, activateAt: at, supersededAt: never}
	k.id = crypto.KeyID(k.commitment[:4])
	return k
}

func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t)
	g := newGroup("default")
	for i := range uint64(MaxKeysPerGroup + 50) {
		if err := g.add(testKey(w, crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: i + 1}, time.Duration(i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.keys) != MaxKeysPerGroup || g.newest().epoch.Number != MaxKeysPerGroup+50 {
		t.Errorf("%d keys, newest %v", len(g.keys), g.newest().epoch)
	}
}

// TestKeysOfOneEpoch: two leaders mint the same epoch; every member ends up with the same newest key,
// whatever the order in which it learns them.
func TestKeysOfOneEpoch(t *testing.T) {
	w := newWorld(t)
	e := crypto.Epoch{PolicyVersion: 1, Generation: 2, Number: 3}
	a, b := testKey(w, e, 1), testKey(w, e, 2)
	one, two := newGroup("default"), newGroup("default")
	for _, err := range []error{one.add(a), one.add(b), two.add(b), two.add(a)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if one.newest() != two.newest() {
		t.Error("the order of arrival decides")
	}
	if err := one.add(a); !errors.Is(err, errKnown) {
		t.Errorf("the same key again: %v", err)
	}
}

func TestLineages(t *testing.T) {
	w := newWorld(t)
	g := newGroup("default")
	kek := func() *crypto.KEK { k, _ := crypto.NewKEK(w.rand); return k }
	ahead := kek()
	g.setLineage(&lineage{generation: 1, founder: "gw1", next: 9, kek: ahead})
	g.setLineage(&lineage{generation: 1, founder: "gw1", next: 5, kek: kek()})
	if l := g.lineage(1, "gw1"); l.next != 9 || l.kek != ahead {
		t.Error("an older KEK took the place of a newer one")
	}
	for i := range uint64(3 * MaxLineages) {
		g.setLineage(&lineage{generation: i + 2, founder: "gw1", next: 1, kek: kek()})
	}
	if len(g.lineages) != MaxLineages || ahead.Bytes() != nil {
		t.Errorf("%d KEKs held; the dropped one erased: %v", len(g.lineages), ahead.Bytes() == nil)
	}
}

// TestUnwrapAfterAGap: the KEK that a member skips over is erased, and it is not ratcheted without end.
func TestUnwrapAfterAGap(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	g := sub.m.groups["default"]
	l := g.lineages[0]
	held := l.kek
	far := &EpochMessage{Group: "default", PolicyVersion: 1, Generation: 1, Wraps: []EpochWrap{{Number: l.next + MaxNumberJump + 1}}}
	if err := sub.m.unwrapOne(g, l, far, &far.Wraps[0]); !errors.Is(err, ErrJump) || held.Bytes() == nil {
		t.Errorf("too far: %v", err)
	}
	sub.disconnect()
	for range MaxWraps + 1 {
		w.rotate()
		w.run(12 * time.Second)
	}
	sub.connect()
	w.run(20 * time.Second)
	w.mustAgree()
	if held.Bytes() != nil {
		t.Error("the KEK that was passed over is not erased (F9)")
	}
}

func TestOpenHellosAreBounded(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	for range 3 * MaxAsks {
		sub.m.sayHello(WantKeys, []*group{sub.m.groups["default"]})
	}
	if len(sub.m.asks) > MaxAsks {
		t.Errorf("%d open Hellos", len(sub.m.asks))
	}
}

// TestAnnouncementRepeated: a broker that repeats an announcement which a member cannot open does not
// make it ask more often than it would by itself.
func TestAnnouncementRepeated(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	announcement := w.retained[KeysTopic(testPrefix, "default")]
	sub.boot()
	w.drop = func(_ *node, topic string) bool { return topic == ControlTopic(testPrefix) }
	sub.connect()
	mark := len(w.log)
	for range 1000 {
		sub.inject(KeysTopic(testPrefix, "default"), announcement)
		w.run(100 * time.Millisecond)
	}
	if n := w.count(KindHello, mark); n > 12 {
		t.Errorf("%d Hellos in 100 s", n)
	}
}

// TestLeaderStepsDown: what it minted and nobody has heard of does not stay its newest key.
func TestLeaderStepsDown(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(_ *node, topic string) bool { return topic == keys }
	w.rotate()
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw2"} }))
	w.run(10 * time.Millisecond)
	for _, k := range gw1.m.groups["default"].keys {
		if k.unannounced {
			t.Errorf("still holds epoch %v", k.epoch)
		}
	}
	w.drop = nil
	w.run(time.Minute)
	w.mustAgree()
	if gw1.sendKey().Epoch != gw2.epoch() {
		t.Errorf("gw1 seals under %v, the newest is %v", gw1.sendKey().Epoch, gw2.epoch())
	}
}
