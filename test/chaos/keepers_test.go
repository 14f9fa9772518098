package chaos

import (
	"slices"
	"sync/atomic"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/test/embedded"
)

// keeperScenarios are about who leads, and about what a broker can do to those who should know.
func keeperScenarios() []scenario {
	return []scenario{
		{name: "lease: forged and replayed", expect: "refused; the leader stays", run: forgedLeases},
		{name: "checkpoint: forged and moved", expect: "refused by role, group and topic; genuine ones taken", run: forgedCheckpoints},
		{name: "takeover: the leader is gone", expect: "the next goes on in the generation; nothing lost", run: takeover},
		{name: "takeover: the leader restarts", expect: "the others give it the history; no new generation", run: leaderRestarts},
		{name: "split brain: two leaders mint", expect: "every message opens; one epoch, one leader after healing", run: splitBrain},
		{name: "split brain: leases withheld, all else passes", expect: "the leaders meet in an announcement; one steps down", run: leasesWithheld},
		{name: "freshness: all control withheld from a sender", rules: "F3", expect: "it warns, then seals nothing; back after healing", run: freshness},
		{name: "revocation: withheld from a sender", rules: "F3 F4", expect: "it seals under the old keys no longer than freshness", run: revocationWithheld},
		{name: "revocation: withheld from the leader", rules: "F4", expect: "another keeper takes over; others switch", run: revocationFromLeader},
		{name: "revocation: a keeper that goes on minting", rules: "F4", expect: "its epochs, leases and Grants refused", run: revokedKeeper},
	}
}

// lease is a lease on the retained announcement's epoch, but for what edit changes.
func (i *insider) lease(edit func(*control.Lease)) []byte {
	i.s.Helper()
	last := i.s.announced()
	l := &control.Lease{PolicyVersion: i.s.doc.Version, PolicyHash: i.s.signed.Hash, Boot: random(), Tick: 1,
		Groups: []control.LeaseGroup{{Name: group, Generation: last.Generation, Number: last.Wraps[0].Number, Commitment: last.Wraps[0].Wrap.Commitment}}}
	if edit != nil {
		edit(l)
	}
	return i.sign(l.Marshal(), control.KindLease)
}

// leads reports whether the node leads by its own account.
func (n *node) leads() bool {
	return slices.ContainsFunc(n.m.Status().Groups, func(g control.GroupStatus) bool { return g.Leading })
}

// leases are the leases that a member has published.
func (s *scene) leases(user string) []embedded.Letter { return s.sent(0, user, control.KindLease) }

func forgedLeases(s *scene) {
	gw1, gw2, _ := s.trio()
	s.await("two leases heard", func() bool {
		return len(s.leases("gw1")) >= 2 && gw2.count(control.KindLease, control.ResultAccepted) >= 2
	})
	topic := control.ControlTopic(prefix)
	mallory, gw9 := s.insider(crypto.RoleSubscriber, "mallory"), s.insider(crypto.RoleGateway, "gw9")
	for _, n := range []*node{gw1, gw2} {
		s.mustRefuse(topic, mallory.lease(nil), control.ErrRole, n)
		s.mustRefuse(topic, gw9.lease(nil), control.ErrNotKeeper, n)
	}
	for _, l := range s.leases("gw1") {
		s.mustRefuse(topic, l.Payload, control.ErrReplayedLease, gw2)
	}
	thief := gw1.stolen()
	s.mustRefuse(topic, thief.lease(func(l *control.Lease) { l.Groups[0].Number = control.MaxEpochValue }), control.ErrJump, gw2)
	s.mustRefuse(topic, thief.lease(func(l *control.Lease) { l.PolicyHash[0] ^= 1 }), control.ErrPolicyFork, gw2)
	if !gw1.leads() || gw2.leads() {
		s.Errorf("gw1 leads: %v, gw2 leads: %v", gw1.leads(), gw2.leads())
	}
	s.saw("%d refused; gw1 leads", 6+len(s.leases("gw1")))
}

func forgedCheckpoints(s *scene) {
	s.edit(func(d *policy.Document) { d.Groups[0].Checkpoint = time.Second })
	var taken atomic.Int64
	gw1 := s.start(crypto.RoleGateway, "gw1")
	alice := s.start(crypto.RoleSubscriber, "alice", func(c *member.Config) {
		c.Checkpoints = func(got []control.ReceivedCheckpoint) { taken.Add(int64(len(got))) }
	})
	s.agree()
	gw1.m.ReportStreams([]control.StreamHead{{Group: group, Topic: [32]byte{1}, Key: gw1.send().ID, Stream: crypto.StreamID{2}, Next: 3}})
	s.await("two checkpoints taken", func() bool { return taken.Load() >= 2 })
	topic, others := control.CheckpointTopic(prefix, group, "gw1"), control.CheckpointTopic(prefix, group, "gw2")
	forged := (&checkpoint.Message{Group: group, Boot: random(), State: checkpoint.Last}).Marshal()
	mallory, thief := s.insider(crypto.RoleSubscriber, "mallory"), gw1.stolen()
	s.mustRefuse(control.CheckpointTopic(prefix, group, "mallory"), mallory.sign(forged, control.KindCheckpoint), control.ErrNotEntitled, alice)
	s.mustRefuse(topic, s.insider(crypto.RoleGateway, "gw2").sign(forged, control.KindCheckpoint), control.ErrTopic, alice)
	s.mustRefuse(others, thief.sign(forged, control.KindCheckpoint), control.ErrTopic, alice)
	wrong := (&checkpoint.Message{Group: "other", Boot: random(), State: checkpoint.Last}).Marshal()
	s.mustRefuse(topic, thief.sign(wrong, control.KindCheckpoint), control.ErrTopic, alice)
	s.mustRefuse(topic, s.insider(crypto.RoleKeeper, "gw1").sign(forged, control.KindCheckpoint), control.ErrRole, alice)
	before := taken.Load()
	s.await("a genuine one more", func() bool { return taken.Load() > before })
	s.saw("5 refused, %d genuine ones taken", taken.Load())
}

// gone ends a member for good.
func (s *scene) gone(n *node) {
	s.Helper()
	if err := n.m.Close(); err != nil {
		s.Fatal(err)
	}
	s.nodes = slices.DeleteFunc(s.nodes, func(x *node) bool { return x == n })
}

func takeover(s *scene) {
	gw1, gw2, _ := s.trio()
	t := s.traffic(gw2)
	before := gw2.epoch()
	s.gone(gw1)
	if gw2.leads() {
		s.Error("gw2 leads beside gw1")
	}
	s.jump(control.LeaseLife + control.RankDelay)
	s.await("gw2 leads", gw2.leads)
	s.rotate(gw2)
	s.agree()
	if e := gw2.epoch(); e.Generation != before.Generation || e.Number != before.Number+1 {
		s.Errorf("after %v comes %v", before, e)
	}
	s.start(crypto.RoleSubscriber, "bob")
	s.agree()
	s.saw("gw2 leads on: %v after %v, a newcomer served; %d messages through", gw2.epoch(), before, t.check())
}

func leaderRestarts(s *scene) {
	gw1, gw2, _ := s.trio()
	t := s.traffic(gw2)
	s.rotate(gw1)
	s.agree()
	before := gw1.epoch()
	gw1.reboot()
	s.await("gw1 holds the history", func() bool { return gw1.epoch() == before && len(gw1.m.State().Keys.Keys(group)) == 2 })
	s.jump(control.LeaseLife + control.RankDelay)
	s.await("one leader", func() bool { return gw1.leads() != gw2.leads() })
	s.rotateAny()
	s.agree()
	if gw2.epoch().Generation != before.Generation {
		s.Errorf("a restart cost a generation: %v after %v", gw2.epoch(), before)
	}
	s.saw("2 secrets given back; %v after %v; %d messages through", gw2.epoch(), before, t.check())
}

// rotateAny rotates at whoever leads; who that is may just be changing.
func (s *scene) rotateAny() {
	s.Helper()
	s.await("a leader makes an epoch", func() bool {
		for _, n := range s.nodes {
			if n.leads() {
				if _, err := n.m.Rotate(s.ctx, group); err == nil {
					return true
				}
			}
		}
		return false
	})
}

func splitBrain(s *scene) {
	gw1, gw2, _ := s.trio()
	t := s.traffic(gw1)
	_, addr := gw2.serve()
	far := s.device("dev-gw2", addr)
	s.broker.Meddle(between("gw1", "gw2"))
	s.jump(control.LeaseLife + control.RankDelay)
	s.await("two leaders", func() bool { return gw1.leads() && gw2.leads() })
	mark := s.broker.Mark()
	s.rotate(gw1)
	s.rotate(gw2)
	s.await("both seal under epochs of their own", func() bool {
		a, b := gw1.send(), gw2.send()
		return a != nil && b != nil && a.ID != b.ID && a.Epoch == gw1.epoch() && b.Epoch == gw2.epoch()
	})
	a, b := gw1.send().ID, gw2.send().ID
	for i := range 10 {
		payload := needle + " from the other side " + string(rune('a'+i))
		if token := far.Publish("plant/b", 1, false, payload); !token.WaitTimeout(patience) || token.Error() != nil {
			s.Fatalf("not acknowledged: %v", token.Error())
		}
		s.await("opened: "+payload, func() bool { return t.reader.opened(payload) == 1 })
	}
	s.await("messages of both", func() bool { under := s.sealedUnder(mark); return under[a] > 0 && under[b] > 0 })
	s.saw("apart, %v was sealed under as %v and as %v", gw1.epoch(), a, b)
	s.broker.Meddle(nil)
	s.jump(control.LeaseInterval)
	s.await("one leader", func() bool { return gw1.leads() != gw2.leads() })
	s.rotateAny()
	s.agree()
	s.saw("healed: %v, one leader; %d messages through", gw1.epoch(), t.check())
}

func leasesWithheld(s *scene) {
	gw1, gw2, _ := s.trio()
	t := s.traffic(gw1)
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.Topic == control.ControlTopic(prefix) && s.kindOf(l.Payload) == control.KindLease {
			return nil
		}
		return []embedded.Letter{l}
	})
	s.jump(control.LeaseLife + control.RankDelay)
	s.await("two leaders", func() bool { return gw1.leads() && gw2.leads() })
	e := s.rotate(gw2)
	s.await("gw1 steps down", func() bool { return !gw1.leads() })
	s.agree()
	if gw1.send().Epoch != e {
		s.Errorf("gw1 seals under %v, announced is %v", gw1.send().Epoch, e)
	}
	s.saw("two leaders until %v was announced, then gw2; %d messages through", e, t.check())
}

func freshness(s *scene) {
	const limit = time.Hour
	s.edit(func(d *policy.Document) { d.Groups[0].Freshness, d.Groups[0].Rotate = limit, 24*time.Hour })
	_, gw2, _ := s.trio()
	key := gw2.send().ID
	s.broker.Meddle(only("gw2"))
	s.jump(limit / 2)
	if gw2.send() == nil || gw2.send().ID != key {
		s.Error("at half the limit gw2 does not seal as before")
	}
	s.await("the warning in good time", func() bool { return gw2.log.said("nothing of this group leaves any more") })
	s.jump(limit/2 + time.Minute)
	s.await("gw2 seals nothing", func() bool { return gw2.send() == nil })
	if !gw2.log.said("nothing of this group leaves until") {
		s.Error("no alarm says that nothing leaves")
	}
	s.saw("warned at a quarter, silent after %v, with an alarm", limit)
	s.broker.Meddle(nil)
	s.broker.Cut("gw2")
	s.jump(control.HelloBackoffMax)
	s.await("gw2 seals again", func() bool { return gw2.send() != nil })
	s.saw("healed: seals under %v", gw2.send().Epoch)
}

// withoutPolicy withholds a version of the policy from members, by whatever way it comes.
func withoutPolicy(raw []byte, names ...string) func(embedded.Letter) []embedded.Letter {
	return func(l embedded.Letter) []embedded.Letter {
		if l.Topic == policyTopic && slices.Contains(names, l.To) && string(l.Payload) == string(raw) {
			return nil
		}
		return []embedded.Letter{l}
	}
}

// publishExcept publishes a policy that some members are not shown.
func (s *scene) publishExcept(p *policy.Signed, names ...string) {
	s.broker.Meddle(withoutPolicy(p.Raw, names...))
	s.broker.Retain(policyTopic, p.Raw)
	for _, user := range s.broker.Users() {
		if !slices.Contains(names, user) {
			s.broker.Deliver(embedded.Letter{To: user, Topic: policyTopic, Payload: p.Raw, QoS: 1})
		}
	}
}

func revokeAlice(d *policy.Document) { d.RevokedNames = []string{"alice"} }

func revocationWithheld(s *scene) {
	const limit = time.Hour
	s.edit(func(d *policy.Document) { d.Groups[0].Freshness, d.Groups[0].Rotate = limit, 24*time.Hour })
	gw1, gw2, alice := s.trio()
	hers := gw2.send().ID
	s.publishExcept(s.next(revokeAlice), "gw2")
	s.followed(2, gw1)
	s.await("gw1 seals under what alice does not hold", func() bool {
		k := gw1.send()
		return k != nil && alice.m.State().Keys.Find(group, k.ID) == nil && k.ID != hers
	})
	if gw2.send() == nil || gw2.send().ID != hers {
		s.Error("gw2 knows of the revocation, though the broker withholds it")
	}
	s.jump(limit / 2)
	s.jump(limit/2 + time.Minute)
	s.await("gw2 seals nothing more", func() bool { return gw2.send() == nil })
	s.saw("gw1 switched at once; gw2, kept in the dark, seals nothing after %v", limit)
	s.broker.Meddle(nil)
	s.broker.Cut("gw2")
	s.followed(2, gw2)
	s.await("gw2 seals under the new generation", func() bool { k := gw2.send(); return k != nil && k.ID != hers })
	s.saw("healed: %v", gw2.send().Epoch)
}

func revocationFromLeader(s *scene) {
	gw1, gw2, _ := s.trio()
	hers := gw2.send().ID
	s.publishExcept(s.next(revokeAlice), "gw1")
	s.followed(2, gw2)
	s.jump(control.LeaseLife + 2*control.RankDelay)
	s.await("gw2 leads", gw2.leads)
	s.await("gw2 seals under a new generation", func() bool { k := gw2.send(); return k != nil && k.ID != hers && k.Epoch.PolicyVersion == 2 })
	s.saw("gw2 took over, %v; gw1 in the dark", gw2.send().Epoch)
	s.broker.Meddle(nil)
	s.broker.Cut("gw1")
	s.followed(2, gw1)
	s.nodes = slices.DeleteFunc(s.nodes, func(n *node) bool { return n.name == "alice" })
	s.await("gw1 with gw2", func() bool { return gw1.send() != nil && gw1.send().ID == gw2.send().ID })
	s.saw("healed: %v", gw1.send().Epoch)
}

func revokedKeeper(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	thief := gw2.stolen()
	hers := gw1.send().ID
	mark := s.broker.Mark()
	s.publish(s.next(func(d *policy.Document) { d.RevokedNames, d.Groups[0].Keepers = []string{"gw2"}, []string{"gw1"} }))
	s.followed(2, gw1, alice)
	after := s.switched(mark, map[crypto.KeyID]int{hers: 1})
	s.await("alice on gw1's epoch", func() bool { return alice.epoch() == gw1.epoch() })
	topic := control.ControlTopic(prefix)
	s.mustRefuse(keysTopic, thief.epoch(nil), control.ErrRevoked, gw1, alice)
	s.mustRefuse(topic, thief.lease(nil), control.ErrRevoked, gw1)
	hello, _ := thief.hello(nil)
	s.mustRefuse(topic, hello, control.ErrRevoked, gw1)
	gw3, open, _ := s.asking()
	s.mustRefuse(inbox, thief.grant(open, thief.body(thief.secret())), control.ErrRevoked, gw3)
	s.broker.Meddle(nil)
	s.broker.Cut("gw3")
	s.await("gw3 served by gw1", func() bool { return gw3.send() != nil && gw3.send().ID == gw1.send().ID })
	if n := s.sealedUnder(after)[hers]; n > 0 {
		s.Errorf("%d messages under a key that gw2 holds", n)
	}
	s.saw("5 refused; 0 messages under its keys; %d messages through", t.check())
}
