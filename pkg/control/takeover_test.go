package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Leaders that come, go, return, and do not see each other.

// keepers connects n keepers gw1.. and a subscriber, and lets them settle.
func keepers(t *testing.T, n int, edit ...func(*policy.Document)) (*world, []*node, *node) {
	t.Helper()
	w := newWorld(t, append([]func(*policy.Document){func(d *policy.Document) {
		d.Groups[0].Keepers = nil
		for i := range n {
			d.Groups[0].Keepers = append(d.Groups[0].Keepers, fmt.Sprintf("gw%d", i+1))
		}
	}}, edit...)...)
	var all []*node
	for i := range n {
		all = append(all, w.add(crypto.RoleGateway, fmt.Sprintf("gw%d", i+1)).connect())
	}
	sub := w.add(crypto.RoleSubscriber, "alice").connect()
	w.run(20 * time.Second)
	w.mustAgree()
	return w, all, sub
}

func (n *node) leads() bool { return n.m.Status(n.w.now()).Groups[0].Leading }

// leaders are the connected nodes that lead.
func (w *world) leaders() (names []string) {
	for _, n := range w.nodes {
		if n.subs != nil && n.leads() {
			names = append(names, n.name())
		}
	}
	return names
}

// leader is the node that leads.
func (w *world) leader() *node {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.subs != nil && n.leads() {
			return n
		}
	}
	w.t.Fatal("nobody leads")
	return nil
}

func (w *world) mustLead(want string) {
	w.t.Helper()
	if got := w.leaders(); !slices.Equal(got, []string{want}) {
		for _, n := range w.nodes {
			w.t.Logf("%s:%s", n.name(), describe(n.events))
		}
		w.t.Fatalf("leaders %v, want %s", got, want)
	}
}

func (n *node) rotateHere() {
	n.w.t.Helper()
	if err := n.m.Rotate(n.w.now(), "default"); err != nil {
		n.w.t.Fatalf("%s: %v", n.name(), err)
	}
	n.flush()
}

// without runs until somebody leads who is not gone, and returns how long that took.
func (w *world) without(gone *node) time.Duration {
	w.t.Helper()
	start := w.mono
	for w.mono < start+time.Minute {
		if l := w.leaders(); len(l) > 0 && (len(l) > 1 || l[0] != gone.name()) {
			return w.mono - start
		}
		w.run(50 * time.Millisecond)
	}
	w.t.Fatal("nobody takes over")
	return 0
}

func TestTakeover(t *testing.T) {
	w, gw, sub := keepers(t, 3)
	w.mustLead("gw1")
	if s := gw[1].m.Status(w.now()).Groups[0]; s.Leader != "gw1" || !s.Keeper || s.Leading || s.LeaseAge > LeaseInterval+time.Second {
		t.Errorf("status of a follower %+v", s)
	}
	w.watchSenders()
	before, mark := gw[0].epoch(), len(w.log)
	gw[0].disconnect()
	if d := w.without(gw[0]); d >= 3*LeaseInterval {
		t.Errorf("%v without a leader", d)
	}
	w.run(20 * time.Second)
	w.mustLead("gw2")
	if g, e := w.count(KindGrant, mark), w.count(KindEpoch, mark); g != 0 || e != 0 {
		t.Errorf("the takeover cost %d Grants and %d announcements", g, e)
	}
	gw[1].rotateHere()
	w.run(15 * time.Second)
	if sub.epoch() != gw[1].epoch() || sub.epoch().Generation != before.Generation || sub.epoch().Number != before.Number+1 {
		t.Errorf("epoch %v after %v: the successor goes on in the same generation", sub.epoch(), before)
	}
	if g := w.count(KindGrant, mark); g != 0 {
		t.Errorf("%d Grants", g)
	}
	late := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(2 * time.Second)
	if late.epoch() != sub.epoch() || len(late.ring.Keys("default")) != 2 {
		t.Errorf("a newcomer has epoch %v, %d keys", late.epoch(), len(late.ring.Keys("default")))
	}
	w.prefer = nil
	// The first one returns: it follows, and catches up from the announcement.
	gw[0].connect()
	w.run(30 * time.Second)
	w.mustLead("gw2")
	w.mustAgree()
	// Both in front of gw3 fall silent at once.
	gw[0].disconnect()
	gw[1].disconnect()
	if d := w.without(gw[1]); d >= 3*LeaseInterval {
		t.Errorf("%v without a leader when two are gone", d)
	}
	w.run(time.Second)
	w.mustLead("gw3")
}

// TestRestartedLeaderAsksFirst: kill -9 of the leader; the others hold what it has lost.
func TestRestartedLeaderAsksFirst(t *testing.T) {
	for _, away := range []time.Duration{0, time.Second, time.Minute} {
		w, gw, sub := keepers(t, 3)
		gw[0].rotateHere()
		w.run(15 * time.Second)
		before, mark := sub.epoch(), len(w.log)
		gw[0].boot()
		w.run(away)
		gw[0].connect()
		w.run(20 * time.Second)
		w.mustAgree()
		if sub.epoch() != before || len(gw[0].ring.Keys("default")) != 2 {
			t.Errorf("away %v: epoch %v after %v, %d keys:%s", away, sub.epoch(), before, len(gw[0].ring.Keys("default")), describe(gw[0].events))
		}
		if n := len(w.leaders()); n != 1 {
			t.Errorf("away %v: leaders %v", away, w.leaders())
		}
		if n := w.count(KindEpoch, mark); n != 0 {
			t.Errorf("away %v: %d announcements", away, n)
		}
		if gw[0].sendKey() == nil {
			t.Errorf("away %v: the restarted leader does not seal", away)
		}
	}
}

// TestFlappingLeader: a leader whose connection comes and goes does not make the lead flap, nor cost epochs.
func TestFlappingLeader(t *testing.T) {
	w, gw, sub := keepers(t, 3)
	w.watchSenders()
	before, terms := sub.epoch(), 0
	last := "gw1"
	for i := range 40 {
		gw[0].disconnect()
		w.run(time.Duration(1+i%20) * time.Second)
		gw[0].connect()
		w.run(time.Duration(1+i%7) * time.Second)
		if l := w.leaders(); len(l) == 1 && l[0] != last {
			last = l[0]
			terms++
		}
	}
	w.run(30 * time.Second)
	w.mustAgree()
	w.mustLead("gw2")
	if terms > 2 || sub.epoch().Generation != before.Generation {
		t.Errorf("%d changes of the leader, epoch %v after %v", terms, sub.epoch(), before)
	}
}

// split makes the keepers deaf to each other, with every member on one side.
func (w *world) split(sides ...[]*node) {
	side := func(n *node) int {
		return slices.IndexFunc(sides, func(s []*node) bool { return slices.Contains(s, n) })
	}
	w.cut = func(from, to *node) bool { return from != nil && side(from) != side(to) }
}

// TestTwoLeaders: the broker parts two keepers, both mint, and parts them no more. The cost is the spare
// keys; no member loses a key that anybody sealed under.
func TestTwoLeaders(t *testing.T) {
	for _, s := range []twoSides{
		{"one epoch each", 1, 1, time.Second, 1},
		{"one each, long ago", 1, 1, 2 * time.Minute, 1},
		{"the first is ahead", 3, 1, 15 * time.Second, 1},
		{"the second is ahead", 1, 3, 15 * time.Second, 1},
		{"only the second", 0, 2, 15 * time.Second, 0},
	} {
		for phase := range 8 { // so that either hears of the other first, by a lease or by what the broker retains
			t.Run(fmt.Sprintf("%s, %d", s.name, phase), func(t *testing.T) { s.meet(t, phase) })
		}
	}
}

type twoSides struct {
	name         string
	one, two     int           // rotations on each side
	between      time.Duration // after each
	spareAtLeast int
}

func (c twoSides) meet(t *testing.T, phase int) {
	w, gw, alice := keepers(t, 3)
	bob := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(5*time.Second + time.Duration(phase)*3200*time.Millisecond)
	sealed := make(map[crypto.KeyID]bool)
	w.prefer = func() {
		for _, n := range w.nodes {
			if k := n.sendKey(); k != nil {
				sealed[k.ID] = true
			}
		}
	}
	w.split([]*node{gw[0], alice}, []*node{gw[1], gw[2], bob})
	w.run(LeaseLife + 5*time.Second)
	if got := w.leaders(); !slices.Equal(got, []string{"gw1", "gw2"}) {
		t.Fatalf("leaders %v", got)
	}
	for i := range max(c.one, c.two) {
		if i < c.one {
			gw[0].rotateHere()
		}
		if i < c.two {
			gw[1].rotateHere()
		}
		w.run(c.between)
	}
	w.run(20 * time.Second)
	w.cut = nil
	w.run(40 * time.Second)
	if n := len(w.leaders()); n != 1 {
		t.Fatalf("leaders %v", w.leaders())
	}
	w.mustAgree()
	for _, n := range w.nodes {
		for id := range sealed {
			if n.ring.Find("default", id) == nil { // a data plane that meets it asks
				n.m.UnknownKey(w.now(), "default", id)
				n.flush()
			}
		}
	}
	w.run(time.Minute)
	newest := gw[0].ring.Keys("default")[0].ID
	for _, n := range w.nodes {
		for id := range sealed {
			if n.ring.Find("default", id) == nil {
				t.Errorf("%s has not got key %v, under which somebody sealed", n.name(), id)
			}
		}
		if k := n.sendKey(); n.id.Member().Role == crypto.RoleGateway && (k == nil || k.ID != newest) {
			t.Errorf("%s seals under %v, newest %v", n.name(), k, newest)
		}
	}
	if spare := len(gw[2].ring.Keys("default")) - int(gw[2].epoch().Number); spare < c.spareAtLeast || spare > c.spareAtLeast+2 {
		t.Errorf("%d spare keys", spare)
	}
	// and on: the next rotation is one message again
	mark := len(w.log)
	for _, n := range gw {
		if n.leads() {
			n.rotateHere()
		}
	}
	w.run(15 * time.Second)
	w.mustAgree()
	if g := w.count(KindGrant, mark); g != 0 {
		t.Errorf("%d Grants in the rotation after", g)
	}
}

// TestSecondLeadersEpochInheritsNothing: of two epochs of one number a gateway takes the first that it hears of, and turns to
// the other only when a keeper says that it is current. Which of them is the higher, by its random key id, varies here.
func TestSecondLeadersEpochInheritsNothing(t *testing.T) {
	w, gw, _ := keepers(t, 2)
	member := w.add(crypto.RoleGateway, "gw9").connect()
	w.run(5 * time.Second)
	w.split([]*node{gw[0], member}, []*node{gw[1]}) // the broker shows the second's announcements when it likes
	w.run(LeaseLife + 5*time.Second)
	w.drop = func(to *node, topic string) bool { return to == member && topic == member.inboxTopic() }
	keys := KeysTopic(testPrefix, "default")
	for range 8 {
		gw[1].rotateHere()
		w.run(time.Second)
		second := w.retained[keys]
		gw[0].rotateHere()
		w.run(time.Second)
		member.inject(keys, second)
		w.run(15 * time.Second)
		if k := member.sendKey(); k == nil || k.ID != gw[0].sendKey().ID {
			t.Fatalf("seals under %v, heard first of %v", k, gw[0].sendKey())
		}
		if n := len(member.ring.Keys("default")); n < 3 {
			t.Fatalf("%d keys held: the second leader's is none of them:%s", n, describe(member.events))
		}
	}
}

// TestTwoLeadersWithinTheGrace: the members had heard both; the second epoch of the same number opens with the KEK
// that is kept for it, without any Grant.
func TestTwoLeadersWithinTheGrace(t *testing.T) {
	w, gw, alice := keepers(t, 2)
	w.cut = func(from, to *node) bool {
		return from != nil && from != to && slices.Contains(gw, from) && slices.Contains(gw, to)
	}
	w.run(LeaseLife + 5*time.Second)
	mark := len(w.log)
	gw[0].rotateHere()
	gw[1].rotateHere()
	w.run(2 * time.Second)
	if n := len(alice.ring.Keys("default")); n != 3 {
		t.Errorf("alice holds %d keys, 3 expected:%s", n, describe(alice.events))
	}
	w.cut = nil
	w.run(30 * time.Second)
	w.mustAgree()
	if g := w.countFrom(alice, KindHello, mark); g != 0 {
		t.Errorf("alice had to ask %d times", g)
	}
	if n := len(w.leaders()); n != 1 {
		t.Fatalf("leaders %v", w.leaders())
	}
	w.run(2 * KEKGrace)
	for _, n := range w.nodes {
		for _, l := range n.m.groups["default"].lineages {
			if l.prev != nil {
				t.Errorf("%s still holds the KEK of epoch %d (F9)", n.name(), l.next-1)
			}
		}
	}
}

// TestPowerCutOfAll: nobody has kept a key; they go on above the highest that anybody reports (F20).
func TestPowerCutOfAll(t *testing.T) {
	for _, first := range []int{0, 1, 2} { // who is back first
		w, gw, alice := keepers(t, 3)
		for range 3 {
			gw[0].rotateHere()
			w.run(12 * time.Second)
		}
		before := alice.epoch()
		for _, n := range w.nodes {
			n.boot()
		}
		w.run(time.Minute)
		gw[first].connect()
		gw[first].m.ReportEpoch(w.now(), "default", before)
		gw[first].flush()
		w.run(time.Second)
		for _, n := range w.nodes {
			if n != gw[first] {
				n.connect()
				w.run(time.Second)
			}
		}
		w.run(40 * time.Second)
		w.mustAgree()
		if e := alice.epoch(); e.Generation <= before.Generation || e.Number <= before.Number {
			t.Errorf("first back %s: epoch %v after %v", gw[first].name(), e, before)
		}
		if len(w.leaders()) != 1 {
			t.Errorf("leaders %v", w.leaders())
		}
	}
}

// lease makes a lease that is right but for what edit changes, signed by n.
func (n *node) lease(edit func(*Lease)) []byte {
	n.w.t.Helper()
	k := n.w.nodes[0].ring.Keys("default")[0]
	l := &Lease{PolicyVersion: n.w.doc.Version, PolicyHash: n.w.signed.Hash, Boot: [16]byte{9}, Tick: 1,
		Groups: []LeaseGroup{{"default", k.Epoch.Generation, k.Epoch.Number, crypto.Commitment(k.Secret, "default")}}}
	if edit != nil {
		edit(l)
	}
	return n.sign(l.Marshal(), KindLease)
}

func TestForgedLeases(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	gw4 := w.add(crypto.RoleGateway, "gw4").connect()
	same := &node{w: w, id: w.identity(crypto.RoleSubscriber, "gw1")}
	gw[0].rotateHere()
	w.run(15 * time.Second)
	control := ControlTopic(testPrefix)
	for _, c := range []struct {
		name string
		msg  []byte
		want error
	}{
		{"by a subscriber", alice.lease(nil), ErrRole},
		{"by a subscriber with the leader's name", same.lease(nil), ErrRole},
		{"by a gateway that is no keeper", gw4.lease(nil), ErrNotKeeper},
		{"of a forked policy", gw[2].lease(func(l *Lease) { l.PolicyHash[0] ^= 1 }), ErrPolicyFork},
		{"of an older policy", gw[2].lease(func(l *Lease) { l.PolicyVersion = 0 }), ErrPolicyBehind},
		{"number out of reach", gw[2].lease(func(l *Lease) { l.Groups[0].Number = MaxEpochValue }), ErrJump},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			gw[0].mustRefuse(control, c.msg, c.want)
			gw[1].mustRefuse(control, c.msg, c.want)
			w.mustLead("gw1")
		})
	}
	w.t = t
	gw[1].mustRefuse(control, gw[2].lease(func(l *Lease) { l.Groups[0].Number--; l.Groups[0].Commitment[0] ^= 1; l.Tick = 2 }), ErrStale)
	w.mustLead("gw1")
}

// TestReplayedLeases: a broker that plays a silent leader's leases again does not keep the others from taking over.
func TestReplayedLeases(t *testing.T) {
	w, gw, _ := keepers(t, 3)
	gw[0].boot() // the leases of two runs
	gw[0].connect()
	w.run(30 * time.Second)
	leases := w.sent(KindLease)
	leader := w.leaders()[0]
	if len(leases) < 8 {
		t.Fatalf("%d leases recorded", len(leases))
	}
	control := ControlTopic(testPrefix)
	for _, n := range gw {
		if n.name() == leader {
			n.disconnect()
			n.boot()
		}
	}
	start := w.mono
	for len(w.leaders()) == 0 && w.mono < start+time.Minute {
		for _, r := range leases {
			for _, n := range gw {
				if n.subs != nil && n != r.from {
					if events := n.inject(control, r.payload); !refused(events, ErrReplayedLease) {
						t.Fatalf("%s takes a replayed lease:%s", n.name(), describe(events))
					}
				}
			}
		}
		w.run(time.Second)
	}
	if d := w.mono - start; d > 3*LeaseInterval+time.Second {
		t.Errorf("%v without a leader", d)
	}
}

// TestLoneKeeperNeedsNobody: one keeper goes on for months without an answer from anyone.
func TestLoneKeeperNeedsNobody(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	w.run(72 * time.Hour)
	if s := gw.m.Status(w.now()); gw.sendKey() == nil || s.Alarms != 0 || s.Groups[0].FreshLeft != -1 {
		t.Errorf("seals under %v, %d alarms (%s), fresh for %v", gw.sendKey(), s.Alarms, s.LastAlarm, s.Groups[0].FreshLeft)
	}
	if n := w.count(KindLease, 0) + w.count(KindHello, 0); n != 0 {
		t.Errorf("%d leases and Hellos to nobody", n)
	}
}

// healTime is when a fleet that is whole again agrees on an epoch and seals under it, whatever was before: what nobody has said by
// then, a sender says when it asks for its next confirmation, and a generation goes above it.
const healTime = ConfirmInterval + AskWait + ReportInterval + 30*time.Second

// TestKeepersConverge: whatever partitions, losses, restarts and rotations there were, once the network is well one
// keeper leads, everybody has the same newest epoch and senders seal under it.
func TestKeepersConverge(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { converge(t, seed) })
	}
}

func converge(t *testing.T, seed uint64) {
	w, gw, _ := keepers(t, 3)
	w.add(crypto.RoleGateway, "gw8").connect()
	w.add(crypto.RoleSubscriber, "bob").connect()
	rng := rand.New(rand.NewPCG(seed, 11))
	for range 25 {
		switch rng.IntN(7) {
		case 0, 1:
			sides := make([][]*node, 2)
			for _, n := range w.nodes {
				i := rng.IntN(2)
				sides[i] = append(sides[i], n)
			}
			w.split(sides...)
		case 2:
			w.cut = nil
		case 3:
			n := w.nodes[rng.IntN(len(w.nodes))]
			n.disconnect()
			n.boot()
			n.connect()
		case 4:
			n := w.nodes[rng.IntN(len(w.nodes))]
			if n.subs != nil {
				n.disconnect()
			} else {
				n.connect()
			}
		case 5:
			w.drop = func(*node, string) bool { return rng.IntN(100) < 20 }
			w.latency = func() time.Duration { return time.Duration(rng.IntN(2000)) * time.Millisecond }
			w.repeat = rng.IntN(2) == 0
		case 6:
			w.drop, w.latency, w.repeat = nil, nil, false
		}
		if n := gw[rng.IntN(3)]; n.subs != nil {
			n.m.Rotate(w.now(), "default")
			n.flush()
		}
		w.run(time.Duration(rng.IntN(40)) * time.Second)
	}
	w.drop, w.latency, w.repeat, w.cut = nil, nil, false, nil
	for _, n := range w.nodes {
		n.connect()
	}
	w.run(healTime)
	if l := w.leaders(); len(l) != 1 {
		t.Fatalf("leaders %v", l)
	}
	w.mustAgree()
	newest := w.leader().ring.Keys("default")[0].ID
	for _, n := range w.nodes {
		if n.ring.Find("default", newest) == nil { // beside it, perhaps, the spare of a leader that has lost it
			t.Errorf("%s has not got the newest key", n.name())
		}
		if k := n.sendKey(); n.id.Member().Role == crypto.RoleGateway && (k == nil || k.ID != newest) {
			t.Errorf("%s seals under %v, newest %v:%s", n.name(), k, newest, describe(n.events))
		}
	}
}

// TestReaderKnowsMore: all keepers have lost their state and go on below what a reader knows, which has no reason to ask.
// It says so when it meets their announcement, once, however often the broker plays it again (F20).
func TestReaderKnowsMore(t *testing.T) {
	w, gw, alice := keepers(t, 2)
	for range 4 {
		gw[0].rotateHere()
		w.run(12 * time.Second)
	}
	w.retained = make(map[string][]byte)
	alice.disconnect()
	for _, n := range gw {
		n.boot()
	}
	gw[0].connect()
	gw[1].connect()
	w.run(20 * time.Second)
	low := w.retained[KeysTopic(testPrefix, "default")]
	before := alice.epoch()
	if gw[0].epoch().Compare(before) >= 0 {
		t.Fatalf("the keepers are at %v, alice at %v", gw[0].epoch(), before)
	}
	alice.connect()
	w.run(ReportInterval + 20*time.Second)
	w.mustAgree()
	if e := alice.epoch(); e.Compare(before) <= 0 {
		t.Errorf("epoch %v after %v", e, before)
	}
	mark := len(w.log)
	for range 900 {
		alice.inject(KeysTopic(testPrefix, "default"), low)
		w.run(100 * time.Millisecond)
	}
	if n := w.countFrom(alice, KindHello, mark); n > 4 {
		t.Errorf("%d Hellos in 90 s", n)
	}
}

// TestReaderAloneKnowsAGeneration: a reader holds a generation that every keeper has lost, and can open what they announce below it. It
// tells them all the same: a sender in its place would seal under keys that nobody else has (F20).
func TestReaderAloneKnowsAGeneration(t *testing.T) {
	w, gw, alice := keepers(t, 2)
	keys := KeysTopic(testPrefix, "default")
	w.split([]*node{gw[0]}, []*node{gw[1], alice})
	w.run(LeaseLife + 5*time.Second)
	low := w.retained[keys]
	gw[1].m.mint(gw[1].m.groups["default"], true, "for the test")
	gw[1].flush()
	w.run(15 * time.Second)
	lost := alice.epoch()
	if lost.Generation != 2 {
		t.Fatalf("alice is at %v", lost)
	}
	w.retained[keys] = low // and the broker has lost it too
	gw[1].boot()
	w.cut = nil
	gw[1].connect()
	w.run(20 * time.Second)
	if gw[0].epoch().Generation != 1 || gw[1].epoch().Generation != 1 {
		t.Fatalf("the keepers are at %v and %v", gw[0].epoch(), gw[1].epoch())
	}
	w.leader().rotateHere()
	w.run(AskWait + ReaderDelay + 15*time.Second)
	w.mustAgree()
	if e := alice.epoch(); e.Generation != 3 {
		t.Errorf("epoch %v after %v, which alice alone held", e, lost)
	}
}

// TestLostAnswerOfTheLeader: a keeper that has lost its keys asks before the leader listens, and one that is behind answers. It asks again
// as long as leases name an epoch that it has not.
func TestLostAnswerOfTheLeader(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	w.split([]*node{gw[0], gw[1], alice}, []*node{gw[2]})
	gw[2].m.groups["default"].takeAt = never // it follows nobody and leads nothing, but holds the old keys
	gw[0].rotateHere()
	w.run(15 * time.Second)
	w.split([]*node{gw[0], alice}, []*node{gw[1], gw[2]})
	gw[1].boot()
	gw[1].connect()
	w.run(500 * time.Millisecond) // gw3 answers
	if e := gw[1].epoch(); e.Number != 1 {
		t.Fatalf("gw2 is at %v:%s", e, describe(gw[1].events))
	}
	w.cut = nil
	w.drop = func(to *node, topic string) bool { return to == gw[0] && topic == ControlTopic(testPrefix) } // the leader does not hear it yet
	w.run(UnknownKeyInterval)
	w.drop = nil
	w.run(UnknownKeyInterval + LeaseInterval)
	w.mustAgree()
}

// TestTwoEpochsOfOneNumber: a leader that comes to hold another's epoch of its own number ends the tie with the next one, and a sender
// seals under the one that was last confirmed to it.
func TestTwoEpochsOfOneNumber(t *testing.T) {
	w, gw, alice := keepers(t, 2)
	gw9 := w.add(crypto.RoleGateway, "gw9").connect()
	w.run(10 * time.Second)
	w.split([]*node{gw[0], alice}, []*node{gw[1], gw9})
	w.run(LeaseLife + 5*time.Second)
	gw[0].rotateHere()
	gw[1].rotateHere()
	w.run(15 * time.Second)
	if gw[0].epoch() != gw[1].epoch() || gw[0].sendKey().ID == gw[1].sendKey().ID {
		t.Fatalf("%v and %v", gw[0].epoch(), gw[1].epoch())
	}
	tie := gw[0].epoch()
	w.cut = func(from, to *node) bool { return from == gw[0] && to == gw[1] } // the one whose epoch comes first hears of the other's
	w.run(LeaseInterval)
	w.cut = nil
	w.run(LeaseInterval + 2*EchoWait + 15*time.Second)
	w.mustAgree()
	if e := alice.epoch(); e.Generation != tie.Generation || e.Number != tie.Number+1 {
		t.Errorf("epoch %v after two of %v:%s", e, tie, describe(gw[0].events))
	}
	for _, n := range []*node{gw[0], gw[1], gw9} {
		if k := n.sendKey(); k == nil || k.Epoch != alice.epoch() {
			t.Errorf("%s seals under %v", n.name(), k)
		}
	}
}

// TestSenderAloneHoldsASpare: a sender seals under an epoch that only it still holds, and hears of another of the same number. It asks
// which of the two goes on, and goes by the answer.
func TestSenderAloneHoldsASpare(t *testing.T) {
	for before := range 6 { // so that either comes first
		w, gw, _ := keepers(t, 2)
		gw9 := w.add(crypto.RoleGateway, "gw9").connect()
		w.run(10 * time.Second)
		for range before {
			gw[0].rotateHere()
			w.run(15 * time.Second)
		}
		keys := KeysTopic(testPrefix, "default")
		w.split([]*node{gw[0]}, []*node{gw[1], gw9})
		w.run(LeaseLife + 5*time.Second)
		gw[1].rotateHere()
		w.run(15 * time.Second)
		lost := gw9.sendKey()
		gw[1].disconnect() // with it
		gw[1].boot()
		gw[0].rotateHere()
		w.run(15 * time.Second)
		w.cut = nil
		gw9.connect() // the broker shows gw1's
		w.run(20 * time.Second)
		if k := gw9.sendKey(); k == nil || k.ID == lost.ID || k.ID != gw[0].sendKey().ID {
			t.Errorf("gw9 seals under %v, gw1 under %v; lost %v; retained %d bytes:%s", k, gw[0].sendKey(), lost, len(w.retained[keys]), describe(gw9.events))
		}
	}
}
