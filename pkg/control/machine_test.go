package control

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

func TestBootstrapOfTheFirstGateway(t *testing.T) {
	w := newWorld(t)
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	if gw.sendKey() != nil {
		t.Fatal("seals before there is a key")
	}
	w.run(BootstrapWait + FirstActivation + time.Second)
	k := gw.sendKey()
	if k == nil || k.Epoch != (crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: 1}) {
		t.Fatalf("sends under %+v:%s", k, describe(gw.events))
	}
	if got := w.count(KindEpoch, 0); got != 1 {
		t.Errorf("%d announcements, 1 expected", got)
	}
	if w.retained[PolicyTopic(testPrefix)] == nil {
		w.run(CopyWait)
		if w.retained[PolicyTopic(testPrefix)] == nil {
			t.Error("the keeper does not publish the policy that the broker lacks")
		}
	}
	s := gw.m.Status(w.now())
	if g := s.Groups[0]; !g.Leading || !g.Confirmed || g.Leader != "gw1" || g.Keys != 1 || g.Send != k.Epoch {
		t.Errorf("status %+v", g)
	}
}

func TestNothingBeforeAPolicy(t *testing.T) {
	w := newWorld(t)
	gw := w.add(crypto.RoleGateway, "gw1", func(c *Config) { c.Policy = nil }).connect()
	w.run(time.Minute)
	if len(w.log) != 0 || gw.ring != nil {
		t.Fatal("acts without a policy")
	}
	w.publish(nil, PolicyTopic(testPrefix), w.signed.Raw, true)
	w.run(10 * time.Second)
	if gw.sendKey() == nil || gw.policy == nil {
		t.Fatalf("no key after the policy came:%s", describe(gw.events))
	}
}

func TestMembersJoin(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	if gw2.sendKey() == nil || gw2.sendKey().ID != gw1.sendKey().ID {
		t.Errorf("gw2 does not seal under gw1's epoch:%s", describe(gw2.events))
	}
	if sub.sendKey() != nil {
		t.Error("a subscriber outside the publish patterns may seal")
	}
	late := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(2 * time.Second)
	if late.epoch() != gw1.epoch() {
		t.Fatalf("late member has %v:%s", late.epoch(), describe(late.events))
	}
	if g := gw1.m.Status(w.now()).Groups[0].Granted; g != 3 {
		t.Errorf("%d members granted, 3 expected", g)
	}
	if n := w.count(KindHello, 0); n > 10 {
		t.Errorf("%d Hellos for three members", n)
	}
}

// TestSubscriberAsksForConfirmationsOnlyIfItSeals: and for none in a rotation.
func TestSubscriberAsksForConfirmationsOnlyIfItSeals(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		w := newWorld(t, func(d *policy.Document) { d.Groups[0].Publish = []string{"*"} })
		w.add(crypto.RoleGateway, "gw1").connect()
		sub := w.add(crypto.RoleSubscriber, "alice", func(c *Config) { c.ReadOnly = readOnly }).connect()
		w.run(15 * time.Second)
		mark := len(w.log)
		w.rotate()
		w.run(20 * time.Second)
		if got := sub.sendKey() != nil && sub.sendKey().Epoch == sub.epoch(); got == readOnly {
			t.Errorf("read only %v: seals under %v", readOnly, sub.sendKey())
		}
		if n := w.countFrom(sub, KindHello, mark); n != 0 {
			t.Errorf("read only %v: %d Hellos in a rotation", readOnly, n)
		}
		w.run(2 * ConfirmInterval)
		if got := w.countFrom(sub, KindHello, mark) == 0; got != readOnly {
			t.Errorf("read only %v: %d Hellos in ten minutes", readOnly, w.countFrom(sub, KindHello, mark))
		}
	}
}

func (w *world) rotate() {
	w.t.Helper()
	leader := w.nodes[0]
	if err := leader.m.Rotate(w.now(), "default"); err != nil {
		w.t.Fatal(err)
	}
	leader.flush()
}

func TestRotation(t *testing.T) {
	for _, members := range []int{1, 3, 20} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			w := newWorld(t)
			for i := range members {
				role, name := crypto.RoleGateway, fmt.Sprintf("gw%d", i+1)
				if i >= 4 && i%2 == 0 {
					role, name = crypto.RoleSubscriber, fmt.Sprintf("sub%d", i)
				}
				w.add(role, name).connect()
			}
			w.run(20 * time.Second)
			w.mustAgree()
			w.watchSenders()
			for range 5 {
				before := w.nodes[0].epoch()
				mark := len(w.log)
				w.rotate()
				w.run(15 * time.Second)
				w.mustAgree()
				if got := w.nodes[0].epoch().Number; got != before.Number+1 {
					t.Fatalf("epoch %d after %d", got, before.Number)
				}
				if n := w.count(KindEpoch, mark); n != 1 {
					t.Errorf("%d announcements for one rotation", n)
				}
				if hellos, confirms := w.count(KindHello, mark), w.count(KindConfirm, mark); members > 1 && hellos+confirms != 0 {
					t.Errorf("%d Hellos and %d Confirms for one rotation, which takes an announcement only", hellos, confirms)
				}
				for _, n := range w.nodes {
					if k := n.sendKey(); n.id.Member().Role == crypto.RoleGateway && (k == nil || k.Epoch != n.epoch()) {
						t.Fatalf("%s seals under %v, the newest is %v:%s", n.name(), k, n.epoch(), describe(n.events))
					}
				}
			}
			if got := w.count(KindGrant, 0); got > members {
				t.Errorf("%d Grants for %d members: rotation must not need any", got, members)
			}
		})
	}
}

// TestRotationsInQuickSuccession is what an impatient operator does.
func TestRotationsInQuickSuccession(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	w.watchSenders()
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = gw1.m.Rotate(w.now(), "default")
		gw1.flush()
		w.run(100 * time.Millisecond)
	}
	if !errors.Is(err, ErrTooFast) {
		t.Fatalf("error %v, want ErrTooFast", err)
	}
	w.run(20 * time.Second)
	w.mustAgree()
	for _, n := range []*node{gw1, gw2} {
		if n.sendKey().Epoch != gw1.epoch() {
			t.Errorf("%s seals under %v, newest %v", n.name(), n.sendKey().Epoch, gw1.epoch())
		}
	}
	if gw1.epoch().Number != 1+MaxPendingEpochs {
		t.Errorf("epoch %v after %d rotations", gw1.epoch(), MaxPendingEpochs)
	}
}

func TestRotateRefuses(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	if err := gw1.m.Rotate(w.now(), "nosuch"); !errors.Is(err, ErrNoGroup) {
		t.Errorf("unknown group: %v", err)
	}
	if err := gw2.m.Rotate(w.now(), "default"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("not the leader: %v", err)
	}
	gw1.disconnect()
	if err := gw1.m.Rotate(w.now(), "default"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("disconnected: %v", err)
	}
	gw1.boot()
	gw1.connect()
	if err := gw1.m.Rotate(w.now(), "default"); !errors.Is(err, ErrNotReady) {
		t.Errorf("before the first epoch: %v", err)
	}
}

func TestScheduledRotationAndHistory(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Rotate, d.Groups[0].History = time.Minute, 10*time.Minute
	})
	_, _, sub := w.fleet()
	first := sub.ring.Keys("default")[0]
	w.watchSenders()
	w.run(9 * time.Minute)
	if sub.ring.Find("default", first.ID) == nil {
		t.Fatal("the first key is gone before its history has ended")
	}
	w.run(time.Hour)
	w.mustAgree()
	keys := sub.ring.Keys("default")
	if n := len(keys); n < 11 || n > 18 {
		t.Errorf("%d keys held: 10 to 11 minutes' worth and those just expired were expected", n)
	}
	last := keys[len(keys)-1]
	if !last.Expired(w.mono) || last.NotAfter+ExpiredGrace < w.mono {
		t.Errorf("the oldest key ends at %v, now is %v", last.NotAfter, w.mono)
	}
	if got := w.nodes[0].epoch().Number; got < 68 || got > 71 {
		t.Errorf("epoch %d after 69 minutes of rotation each minute", got)
	}
	late := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(time.Second)
	history := late.ring.Keys("default")
	if n := len(history); n < 10 || n > 12 {
		t.Fatalf("a late reader got %d keys of history", n)
	}
	for _, k := range history {
		if early := sub.ring.Find("default", k.ID); early.NotAfter-k.NotAfter > time.Second || k.NotAfter-early.NotAfter > time.Second {
			t.Errorf("epoch %v ends at %v for the late reader, at %v for the others", k.Epoch, k.NotAfter, early.NotAfter)
		}
	}
}

func TestOnlyReadersGetTheHistory(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Read, d.Groups[0].Publish = []string{"gw1", "alice"}, []string{"gw*"}
	})
	w.fleet()
	for range 3 {
		w.rotate()
		w.run(15 * time.Second)
	}
	writer := w.add(crypto.RoleGateway, "gw9").connect()
	w.run(2 * time.Second)
	if n := len(writer.ring.Keys("default")); n != 1 || writer.sendKey() == nil {
		t.Errorf("a writer holds %d keys, send %v", n, writer.sendKey())
	}
}

func TestKeeperRestarts(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	w.rotate()
	w.run(20 * time.Second)
	old := gw2.sendKey()
	gw1.boot() // kill -9: keys, KEK and all are gone
	w.run(time.Minute)
	if gw2.sendKey() != old && gw2.sendKey().ID != old.ID {
		t.Fatal("the other gateway stopped sealing while the keeper was away")
	}
	gw1.connect()
	w.run(20 * time.Second)
	w.mustAgree()
	if e := gw1.epoch(); e.Generation != 1 || e.Number != 2 {
		t.Errorf("epoch %v after the restart, 1.1.2 expected: the other keeper had the keys", e)
	}
	if got := len(gw1.ring.Keys("default")); got != 2 {
		t.Errorf("%d keys after the restart: the history is lost", got)
	}
	if gw2.sendKey().Epoch != gw1.epoch() {
		t.Errorf("gw2 seals under %v:%s", gw2.sendKey().Epoch, describe(gw2.events))
	}
	if sub.ring.Find("default", old.ID) == nil {
		t.Error("the subscriber lost a key within its history")
	}
}

// TestManyNeedKeysAtOnce: after the keeper's restart everybody asks, and is served at the keeper's rate
// without asking in vain much.
func TestManyNeedKeysAtOnce(t *testing.T) {
	w := newWorld(t)
	gw1 := w.add(crypto.RoleGateway, "gw1", func(c *Config) { c.GrantRate = 20 }).connect()
	const members = 120
	for i := range members {
		w.add(crypto.RoleSubscriber, fmt.Sprintf("sub%d", i)).connect()
	}
	w.run(30 * time.Second)
	w.mustAgree()
	gw1.boot()
	gw1.connect()
	mark := len(w.log)
	w.run(30 * time.Second)
	w.mustAgree()
	if g, h := w.count(KindGrant, mark), w.count(KindHello, mark); g > members+members/10 || h > 3*members {
		t.Errorf("%d Grants and %d Hellos for %d members", g, h, members)
	}
}

// TestPowerCut: every program starts anew, and the broker has lost its store. One
// member's data plane still knows what epoch there was (F20).
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	w.retained = make(map[string][]byte)
	for _, n := range w.nodes {
		n.boot()
		n.connect()
	}
	gw1.m.ReportEpoch(w.now(), "default", crypto.Epoch{PolicyVersion: 1, Generation: 7, Number: 90})
	w.run(20 * time.Second)
	w.mustAgree()
	if e := gw1.epoch(); e.Generation != 8 || e.Number != 91 {
		t.Errorf("epoch %v, 1.8.91 expected", e)
	}
}

// TestMemberKnowsMore: a keeper that has lost everything starts low; when the other keeper comes back, the
// first one goes on from what that one holds.
func TestMemberKnowsMore(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	for range 4 {
		w.rotate()
		w.run(15 * time.Second)
	}
	w.retained = make(map[string][]byte)
	gw1.boot()
	gw2.disconnect()
	sub.disconnect()
	gw1.connect()
	w.run(10 * time.Second)
	if e := gw1.epoch(); e.Generation != 1 {
		t.Fatalf("epoch %v", e)
	}
	gw2.connect()
	sub.connect()
	w.run(40 * time.Second)
	sub.m.UnknownKey(w.now(), "default", gw1.ring.Send("default").ID)
	sub.flush()
	w.run(2 * time.Minute)
	w.mustAgree()
	if e := gw1.epoch(); e.Number < 5 {
		t.Errorf("epoch %v is below the fleet's 1.1.5", e)
	}
	for _, n := range w.nodes {
		if got := len(n.ring.Keys("default")); got < 5 || n == gw1 && got != 6 {
			t.Errorf("%s holds %d keys: the five of before were expected, and gw1's own", n.name(), got)
		}
	}
}

func TestBrokerLosesItsStore(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	w.run(10 * time.Second)
	w.retained = make(map[string][]byte)
	before := gw1.epoch()
	for _, n := range w.nodes {
		n.disconnect()
	}
	w.run(5 * time.Second)
	for _, n := range w.nodes {
		n.connect()
	}
	mark := len(w.log)
	w.run(20 * time.Second)
	if w.retained[PolicyTopic(testPrefix)] == nil || w.retained[KeysTopic(testPrefix, "default")] == nil {
		t.Fatal("the keepers did not put the policy and the epoch back")
	}
	if n := w.count(KindEpoch, mark); n != 1 {
		t.Errorf("%d announcements", n)
	}
	if gw1.epoch() != before {
		t.Errorf("epoch %v, was %v", gw1.epoch(), before)
	}
	w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(3 * time.Second)
	w.mustAgree()
}

// TestBrokerShowsAnOldAnnouncement: the leader puts its own in its place, at a bounded rate.
func TestBrokerShowsAnOldAnnouncement(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	old := w.retained[keys]
	gw1.boot()
	gw1.connect()
	w.run(20 * time.Second)
	current := w.retained[keys]
	w.publish(nil, keys, old, true)
	w.run(time.Second)
	if string(w.retained[keys]) != string(current) {
		t.Error("the old announcement stands")
	}
	mark := len(w.log)
	for range 300 {
		gw1.inject(keys, old)
		w.run(100 * time.Millisecond)
	}
	if n := w.count(KindEpoch, mark); n > 11 {
		t.Errorf("%d announcements in 30 s", n)
	}
}

// TestMemberComesBack: after a pause it catches up from the retained message alone.
func TestMemberComesBack(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	gw2.disconnect()
	for range MaxWraps - 1 {
		w.rotate()
		w.run(12 * time.Second)
	}
	mark := len(w.log)
	gw2.connect()
	w.run(20 * time.Second)
	w.mustAgree()
	if n := w.count(KindGrant, mark); n != 0 {
		t.Errorf("%d Grants", n)
	}
	if a, b := len(gw1.ring.Keys("default")), len(gw2.ring.Keys("default")); a != b {
		t.Errorf("gw1 holds %d keys, gw2 %d", a, b)
	}
	// Longer away than the message reaches back: a Grant fills the hole.
	gw2.disconnect()
	for range MaxWraps + 3 {
		w.rotate()
		w.run(12 * time.Second)
	}
	gw2.connect()
	w.run(20 * time.Second)
	w.mustAgree()
	if a, b := len(gw1.ring.Keys("default")), len(gw2.ring.Keys("default")); a != b {
		t.Errorf("after the long pause gw1 holds %d keys, gw2 %d", a, b)
	}
}

// TestLossyNetwork: whatever is lost, repeated and reordered, once the network is well the
// fleet agrees, and nobody ever sealed under an unconfirmed key.
func TestLossyNetwork(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			rng := rand.New(rand.NewPCG(seed, 7))
			w.drop = func(*node, string) bool { return rng.IntN(100) < 30 }
			w.latency = func() time.Duration { return time.Duration(rng.IntN(3000)) * time.Millisecond }
			w.repeat = true
			for i := range 6 {
				w.add(crypto.RoleGateway, fmt.Sprintf("gw%d", i+1)).connect()
			}
			for i := range 10 {
				w.run(20 * time.Second)
				w.nodes[0].m.Rotate(w.now(), "default")
				w.nodes[0].flush()
				if i == 5 {
					w.nodes[0].boot()
					w.nodes[0].connect()
				}
				w.nodes[rng.IntN(6)].connect()
			}
			w.drop, w.latency, w.repeat = nil, nil, false
			w.run(30 * time.Second)
			for _, n := range w.nodes {
				n.connect()
			}
			w.run(2 * time.Minute)
			w.mustAgree()
			for _, n := range w.nodes {
				if k := n.sendKey(); k == nil || k.Epoch != n.epoch() {
					t.Errorf("%s seals under %v, newest %v:%s", n.name(), k, n.epoch(), describe(n.events))
				}
			}
		})
	}
}

// TestLostAnnouncement: the leader repeats it until the broker shows it, and does not seal under it before.
func TestLostAnnouncement(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	w.watchSenders()
	old := gw1.sendKey().Epoch
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(_ *node, topic string) bool { return topic == keys }
	w.rotate()
	w.run(time.Minute)
	if got := gw1.sendKey().Epoch; got != old {
		t.Fatalf("seals under %v, which nobody has heard of", got)
	}
	w.drop = nil
	w.run(time.Minute)
	w.mustAgree()
	if got := gw1.sendKey().Epoch; got.Number != old.Number+1 {
		t.Errorf("seals under %v", got)
	}
}

// TestJoinDuringActivation: a gateway that comes between announcement and activation seals under the
// old epoch until the new one is active, like the others.
func TestJoinDuringActivation(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, _ := w.fleet()
	w.rotate()
	w.run(time.Second)
	gw3 := w.add(crypto.RoleGateway, "gw3").connect()
	w.run(2 * time.Second)
	if k := gw3.sendKey(); k == nil || k.ID != gw2.sendKey().ID || k.Epoch == gw1.epoch() {
		t.Fatalf("seals under %v during the activation delay:%s", k, describe(gw3.events))
	}
	w.run(10 * time.Second)
	if gw3.sendKey().Epoch != gw1.epoch() {
		t.Errorf("seals under %v after it", gw3.sendKey().Epoch)
	}
}

// TestGrantWaitsForTheAnnouncement: nobody gets an epoch that the broker has not shown yet.
func TestGrantWaitsForTheAnnouncement(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(_ *node, topic string) bool { return topic == keys }
	w.rotate()
	gw3 := w.add(crypto.RoleGateway, "gw3").connect()
	w.run(20 * time.Second)
	if gw3.epoch() != (crypto.Epoch{}) {
		t.Fatalf("granted %v before it was announced", gw3.epoch())
	}
	w.drop = nil
	w.run(20 * time.Second)
	w.mustAgree()
	if gw1.m.Status(w.now()).Waiting != 0 {
		t.Error("Hellos still wait")
	}
}

// TestConfirmWithheld: epochs go on in the chain that the member was given, and none of them puts off the end: that
// counts from the last answer to its own nonce.
func TestConfirmWithheld(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) { d.Groups[0].Freshness = 30 * time.Minute })
	gw1, gw2, _ := w.fleet()
	old := gw2.sendKey().Epoch
	w.drop = func(to *node, topic string) bool {
		return to == gw2 && len(topic) > 15 && topic[:15] == testPrefix+"/inbox/"
	}
	for range 2 {
		w.rotate()
		w.run(14 * time.Minute)
		if k := gw2.sendKey(); k == nil || k.Epoch != gw1.sendKey().Epoch {
			t.Fatalf("seals under %v, the leader under %v", k, gw1.sendKey())
		}
	}
	if !gw2.m.Status(w.now()).Groups[0].Asking {
		t.Error("does not ask for the confirmation any more")
	}
	w.rotate()
	w.run(2*time.Minute + 30*time.Second)
	if k := gw2.sendKey(); k != nil {
		t.Fatalf("still seals under %v after the freshness limit", k.Epoch)
	}
	if s := gw2.m.Status(w.now()); s.Alarms == 0 {
		t.Error("no alarm")
	}
	w.drop = nil
	w.run(time.Minute)
	if k := gw2.sendKey(); k == nil || k.Epoch.Number != old.Number+3 {
		t.Errorf("seals under %v once the confirmation is through", k)
	}
}

// TestDelayedAnnouncement: a broker that shows a member a genuine announcement late moves it on to that epoch, which is better than
// the one before, and gains no time.
func TestDelayedAnnouncement(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) { d.Groups[0].Freshness = 30 * time.Minute })
	_, gw2, _ := w.fleet()
	keys, old := KeysTopic(testPrefix, "default"), gw2.sendKey().Epoch
	w.drop = func(to *node, _ string) bool { return to == gw2 }
	w.rotate()
	w.run(5 * time.Minute)
	second := w.retained[keys]
	w.rotate()
	w.run(20 * time.Minute)
	gw2.inject(keys, second)
	w.run(time.Minute)
	if k := gw2.sendKey(); k == nil || k.Epoch.Number != old.Number+1 {
		t.Errorf("seals under %v, shown was epoch %d", k, old.Number+1)
	}
	w.run(5 * time.Minute)
	if k := gw2.sendKey(); k != nil {
		t.Errorf("still seals under %v after the freshness limit", k.Epoch)
	}
}

func TestConfirmsShareASignature(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		w.add(crypto.RoleGateway, fmt.Sprintf("gw%d", i+1)).connect()
	}
	w.run(20 * time.Second)
	for _, n := range w.nodes {
		n.disconnect()
	}
	w.run(2 * ConfirmInterval)
	mark := len(w.log)
	for _, n := range w.nodes {
		n.connect() // all come back, and have not been confirmed for long
	}
	w.run(20 * time.Second)
	w.mustAgree()
	distinct := make(map[string]int)
	for _, r := range w.log[mark:] {
		if kindOf(r.payload) == KindConfirm {
			distinct[string(r.payload)]++
		}
	}
	if len(distinct) == 0 || len(distinct) > 30 {
		t.Errorf("%d Confirm signatures for 39 gateways within 5 s", len(distinct))
	}
}
