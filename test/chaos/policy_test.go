package chaos

import (
	"bytes"
	"path/filepath"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/test/embedded"
)

var policyTopic = control.PolicyTopic(prefix)

// policyScenarios are about which policy is followed, and whom it shuts out.
func policyScenarios() []scenario {
	return []scenario{
		{name: "stale policy: retained and repeated", rules: "F2", expect: "refused everywhere; a keeper puts the broker right", run: stalePolicy},
		{name: "stale policy: after a restart", rules: "F2", expect: "the persisted floor refuses it", run: stalePolicyRestart},
		{name: "stale policy: at the first boot", rules: "F2", expect: "the enrolment bundle's version refuses it", run: stalePolicyBundle},
		{name: "stale policy: a member kept on it", rules: "F2", expect: "keepers refuse its Hello; it gets nothing to seal under", run: frozenPolicy},
		{name: "forked policy: two documents of one version", rules: "F2", expect: "the second refused with an alarm", run: forkedPolicy},
		{name: "stale keys: retained and repeated", rules: "F3", expect: "refused; the leader puts the broker right", run: staleKeys},
		{name: "revocation: a reader", rules: "F4", expect: "nothing sealed under its keys; its Hellos refused", run: revokeReader},
		{name: "revocation: the leading keeper", rules: "F4", expect: "another keeper leads; its messages are refused", run: revokeLeader},
	}
}

// followed waits until all members follow a version.
func (s *scene) followed(version uint64, nodes ...*node) {
	s.Helper()
	s.await("the newest policy followed", func() bool {
		for _, n := range nodes {
			if p := n.m.State().Policy; p == nil || p.Document.Version != version {
				return false
			}
		}
		return true
	})
}

// relax is a change of the policy that shuts nobody out.
func relax(d *policy.Document) { d.Groups[0].Rotate = 2 * time.Hour }

func stalePolicy(s *scene) {
	gw1, gw2, alice := s.trio()
	old := s.signed
	s.publish(s.next(relax))
	s.followed(2, gw1, gw2, alice)
	s.agree()
	s.broker.Retain(policyTopic, old.Raw)
	s.mustRefuse(policyTopic, old.Raw, control.ErrPolicyOld, gw1, gw2, alice)
	s.await("the newest policy retained again", func() bool { return bytes.Equal(s.broker.Retained(policyTopic), s.signed.Raw) })
	s.saw("refused by 3, version 2 retained again")
}

func stalePolicyRestart(s *scene) {
	dir := s.TempDir()
	keep := func(c *member.Config) { c.StateDir = filepath.Join(dir, "state") }
	gw1, gw2 := s.start(crypto.RoleGateway, "gw1"), s.start(crypto.RoleGateway, "gw2", keep)
	s.agree()
	old := s.signed
	s.publish(s.next(relax))
	s.followed(2, gw1, gw2)
	s.agree()
	// The broker shows gw2 nothing but the past.
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "gw2" && l.Topic == policyTopic {
			l.Payload = old.Raw
		}
		return []embedded.Letter{l}
	})
	gw2.reboot() // its enrolment bundle holds version 1
	s.followed(2, gw2)
	s.await("gw2 refuses the past", func() bool { return gw2.log.said(control.ErrPolicyOld.Error()) })
	s.agree()
	s.saw("version 2 in force from the first moment, version 1 refused")
}

func stalePolicyBundle(s *scene) {
	gw1, _, _ := s.trio()
	old := s.signed
	s.publish(s.next(relax))
	s.followed(2, gw1)
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "gw3" && l.Topic == policyTopic {
			l.Payload = old.Raw
		}
		return []embedded.Letter{l}
	})
	gw3 := s.start(crypto.RoleGateway, "gw3") // enrolled with version 2
	s.await("gw3 refuses the past", func() bool { return gw3.log.said(control.ErrPolicyOld.Error()) })
	s.agree()
	s.saw("version 1 refused, seals under %v", gw3.send().Epoch)
}

func frozenPolicy(s *scene) {
	gw1, gw2, alice := s.trio()
	old := s.signed
	s.publish(s.next(func(d *policy.Document) { d.RevokedNames = []string{"eve"} }))
	s.followed(2, gw1, gw2, alice)
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "gw3" && l.Topic == policyTopic {
			l.Payload = old.Raw
		}
		return []embedded.Letter{l}
	})
	gw3 := s.start(crypto.RoleGateway, "gw3", func(c *member.Config) { c.Policy = old })
	s.await("gw1 refuses a Hello under the old policy", func() bool { return gw1.log.said(control.ErrPolicyBehind.Error()) })
	if gw3.send() != nil || gw3.epoch() != (crypto.Epoch{}) {
		s.Errorf("gw3 has keys under a policy that is no longer in force")
	}
	s.heal(gw3)
	s.saw("Hello refused, no keys; healed it follows version %d", gw3.m.State().Policy.Document.Version)
}

func forkedPolicy(s *scene) {
	gw1, gw2, alice := s.trio()
	fork := *s.doc
	fork.Groups = []policy.Group{s.doc.Groups[0]}
	fork.Groups[0].Keepers = []string{"gw2"}
	other := s.sign(&fork)
	s.mustRefuse(policyTopic, other.Raw, control.ErrPolicyFork, gw1, gw2, alice)
	fork.Version, fork.Previous = 2, other.Hash
	s.mustRefuse(policyTopic, s.sign(&fork).Raw, control.ErrPolicyFork, gw1, gw2, alice)
	if gw1.m.Status().Alarms == 0 {
		s.Error("no alarm")
	}
	s.saw("6 refused; last alarm: %.60s...", gw1.m.Status().LastAlarm)
}

func staleKeys(s *scene) {
	gw1, gw2, alice := s.trio()
	old := s.broker.Retained(keysTopic)
	s.rotate(gw1)
	s.agree()
	s.broker.Retain(keysTopic, old)
	s.mustRefuse(keysTopic, old, control.ErrStale, gw2, alice)
	// One who comes now is shown the old announcement; its keys come in a Grant, and are the newest.
	bob := s.start(crypto.RoleSubscriber, "bob")
	s.agree()
	// The broker forgets, and the leader's next session finds out.
	s.broker.Forget()
	s.broker.Cut("gw1")
	s.await("the announcement retained again", func() bool { return len(s.broker.Retained(keysTopic)) > 0 })
	if got := s.announced().Newest(); got != gw1.epoch() {
		s.Errorf("retained is %v, current %v", got, gw1.epoch())
	}
	s.saw("2 refused, a newcomer got %v; after a loss retained again", bob.epoch())
}

// switched waits for the first message that is sealed under other keys than before, and returns the mark behind it.
func (s *scene) switched(mark int, before map[crypto.KeyID]int) int {
	s.Helper()
	s.await("messages under a new key", func() bool {
		for id := range s.sealedUnder(mark) {
			if before[id] == 0 {
				return true
			}
		}
		return false
	})
	return s.broker.Mark()
}

func revokeReader(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	s.await("messages under the first key", func() bool { return len(s.sealedUnder(0)) > 0 })
	before := s.sealedUnder(0)
	first := gw1.epoch()
	start, mark := time.Now(), s.broker.Mark()
	s.publish(s.next(func(d *policy.Document) { d.RevokedNames = []string{"alice"} }))
	after := s.switched(mark, before)
	took := time.Since(start)
	s.followed(2, gw1, gw2)
	thief := alice.stolen()
	hello, _ := thief.hello(nil)
	s.mustRefuse(control.ControlTopic(prefix), hello, control.ErrRevoked, gw1)
	s.rotate(gw1)
	s.await("some messages more", func() bool { return len(s.broker.Sent(after)) > 30 })
	for id := range s.sealedUnder(after) {
		if before[id] > 0 || alice.m.State().Keys.Find(group, id) != nil {
			s.Errorf("sealed under %v, which alice holds", id)
		}
	}
	if gw1.epoch().Generation <= first.Generation {
		s.Errorf("still generation %d", gw1.epoch().Generation)
	}
	s.saw("senders switched after %.1f s; 0 messages under her keys; Hello refused; %d messages through", took.Seconds(), t.check())
}

func revokeLeader(s *scene) {
	s.edit(func(d *policy.Document) { d.Groups[0].Publish = []string{"gw*"} })
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw2)
	s.await("messages under the first key", func() bool { return len(s.sealedUnder(0)) > 0 })
	before := s.sealedUnder(0)
	thief := gw1.stolen()
	mark := s.broker.Mark()
	s.publish(s.next(func(d *policy.Document) { d.RevokedNames, d.Groups[0].Keepers = []string{"gw1"}, []string{"gw2"} }))
	s.followed(2, gw2, alice)
	after := s.switched(mark, before)
	s.await("alice on gw2's epoch", func() bool { return alice.epoch() == gw2.epoch() })
	if s.announcer() != "gw2" {
		s.Errorf("the announcement is %s's", s.announcer())
	}
	s.mustRefuse(keysTopic, thief.epoch(nil), control.ErrRevoked, gw2, alice)
	hello, _ := thief.hello(nil)
	s.mustRefuse(control.ControlTopic(prefix), hello, control.ErrRevoked, gw2)
	s.await("some messages more", func() bool { return len(s.broker.Sent(after)) > 30 })
	for id := range s.sealedUnder(after) {
		if before[id] > 0 || gw1.m.State().Keys.Find(group, id) != nil {
			s.Errorf("sealed under %v, which gw1 holds", id)
		}
	}
	if gw1.send() != nil {
		s.Error("gw1 knows that it is revoked, and would seal")
	}
	s.saw("gw2 leads with %v; 3 refused; %d messages through", gw2.epoch(), t.check())
}

// announcer is who signed the retained announcement.
func (s *scene) announcer() string {
	_, from, err := s.trust.Verify(s.broker.Retained(keysTopic), string(control.KindEpoch), s.clock.now().Wall)
	if err != nil {
		return err.Error()
	}
	return from.Name
}
