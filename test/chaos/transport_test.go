package chaos

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// isControl tells control messages from data.
func isControl(l embedded.Letter) bool { return strings.HasPrefix(l.Topic, prefix+"/") }

func isInbox(l embedded.Letter) bool { return strings.HasPrefix(l.Topic, prefix+"/inbox/") }

// onControl meddles with control messages only.
func onControl(f func(embedded.Letter) []embedded.Letter) func(embedded.Letter) []embedded.Letter {
	return func(l embedded.Letter) []embedded.Letter {
		if isControl(l) {
			return f(l)
		}
		return []embedded.Letter{l}
	}
}

// transportScenarios are what networks do and brokers may do worse.
func transportScenarios() []scenario {
	const converge = "fleet converges over 3 rotations; traffic undisturbed"
	return []scenario{
		{name: "drop: a fifth of control messages", expect: "senders converge by repeating, readers by the first key id they miss", run: dropControl},
		{name: "delay: control messages by up to 400 ms", expect: converge, run: func(s *scene) {
			r := rand.New(rand.NewPCG(3, 4))
			s.rotations(onControl(func(l embedded.Letter) []embedded.Letter {
				time.AfterFunc(time.Duration(r.IntN(400))*time.Millisecond, func() { s.broker.Deliver(l) })
				return nil
			}))
		}},
		{name: "duplicate: every message three times", rules: "F8", expect: converge + "; repeats marked", run: duplicateAll},
		{name: "reorder: control messages in reversed batches", expect: converge, run: func(s *scene) {
			s.rotations(reorder(s))
		}},
		{name: "swap topics of control messages", expect: "each refused for its topic or nonce; keys unchanged", run: swapTopics},
	}
}

// rotations has a fleet begin and rotate under a meddling broker, with traffic.
func (s *scene) rotations(meddle func(embedded.Letter) []embedded.Letter) *traffic {
	s.Helper()
	s.broker.Meddle(meddle)
	gw1, _, _ := s.trio()
	t := s.traffic(gw1)
	for range 3 {
		s.rotate(gw1)
		s.agree()
	}
	n := t.check()
	s.saw("epoch %v everywhere, %d messages through", gw1.epoch(), n)
	return t
}

func duplicateAll(s *scene) {
	t := s.rotations(func(l embedded.Letter) []embedded.Letter { return []embedded.Letter{l, l, l} })
	if n := t.reader.statuses("duplicate"); n < len(t.acked) {
		s.Errorf("%d messages marked as duplicates, of %d delivered three times", n, len(t.acked))
	}
	gw1, gw2 := s.nodes[0], s.nodes[1]
	s.saw("%d duplicates marked, %d Hellos and %d answers refused as replays", t.reader.statuses("duplicate"), gw1.count(control.KindHello, control.ResultRefused),
		gw2.count(control.KindGrant, control.ResultRefused)+gw2.count(control.KindConfirm, control.ResultRefused))
	for _, n := range s.nodes {
		asked := len(s.sent(0, n.name, control.KindHello))
		if answers := n.count(control.KindGrant, control.ResultAccepted) + n.count(control.KindConfirm, control.ResultAccepted); answers > asked {
			s.Errorf("%s has taken %d answers to %d Hellos", n.name, answers, asked)
		}
	}
}

// dropControl loses messages at random between gateways, and for certain the announcement of which a reader has need.
// Three leases lost in a row hand the lead over, so it is whoever leads that rotates.
func dropControl(s *scene) {
	r := rand.New(rand.NewPCG(1, 2))
	s.broker.Meddle(onControl(func(l embedded.Letter) []embedded.Letter {
		if l.To == "rita" && l.Topic == keysTopic {
			return nil
		}
		// The reader's own question gets through: it may ask again only after half a minute.
		if l.From != "rita" && l.To != "rita" && r.IntN(5) == 0 {
			return nil
		}
		return []embedded.Letter{l}
	}))
	gw1 := s.start(crypto.RoleGateway, "gw1")
	s.start(crypto.RoleGateway, "gw2")
	s.agree()
	for range 2 {
		s.rotateAny()
		s.agree()
	}
	t := s.traffic(gw1)
	s.await("a first message opened", func() bool { return t.reader.statuses(subscriber.StatusOK) > 0 })
	mark := s.broker.Mark()
	s.rotateAny()
	s.agree()
	s.await("a message under the new epoch", func() bool { return s.sealedUnder(mark)[gw1.send().ID] > 0 })
	s.await("rita on the new epoch", func() bool { return t.reader.holds(gw1.send().ID) })
	before := t.reader.statuses(subscriber.StatusOK)
	s.await("rita opens messages", func() bool { return t.reader.statuses(subscriber.StatusOK) > before+20 })
	s.saw("epoch %v at senders and reader; %d messages opened", gw1.epoch(), t.reader.statuses(subscriber.StatusOK))
}

// reorder gathers what comes for a member for a while, and delivers it the last first.
func reorder(s *scene) func(embedded.Letter) []embedded.Letter {
	var mu sync.Mutex
	waiting := make(map[string][]embedded.Letter)
	return onControl(func(l embedded.Letter) []embedded.Letter {
		mu.Lock()
		defer mu.Unlock()
		if waiting[l.To] = append(waiting[l.To], l); len(waiting[l.To]) == 1 {
			time.AfterFunc(150*time.Millisecond, func() {
				mu.Lock()
				batch := waiting[l.To]
				waiting[l.To] = nil
				mu.Unlock()
				slices.Reverse(batch)
				for _, l := range batch {
					s.broker.Deliver(l)
				}
			})
		}
		return nil
	})
}

func swapTopics(s *scene) {
	s.edit(func(d *policy.Document) {
		other := d.Groups[0]
		other.Name, other.Topics = "other", []string{"other/#"}
		d.Groups = append(d.Groups, other)
	})
	gw1, gw2, alice := s.trio()
	s.await("both groups announced", func() bool { return s.broker.Retained(control.KeysTopic(prefix, "other")) != nil })
	s.mustRefuse(control.KeysTopic(prefix, "other"), s.broker.Retained(keysTopic), control.ErrTopic, gw1, gw2, alice)
	grants := s.sent(0, "gw1", control.KindGrant)
	for _, g := range grants {
		s.mustRefuse(inbox, g.Payload, control.ErrNonce, gw2, alice)
	}
	s.mustRefuse(inbox, s.broker.Retained(keysTopic), control.ErrKind, gw2, alice)
	s.mustRefuse(inbox, s.signed.Raw, control.ErrKind, gw2, alice)
	s.mustRefuse(control.ControlTopic(prefix), grants[0].Payload, control.ErrKind, gw1)
	for _, topic := range []string{prefix + "/elsewhere", "plant/a", prefix + "/inbox/00"} {
		mark := alice.log.mark()
		s.broker.Force(embedded.Letter{To: "alice", Topic: topic, Payload: grants[0].Payload})
		s.await("alice refuses an unknown topic", func() bool {
			_, ok := alice.log.find(mark, func(e control.Event) bool { return e.Result == control.ResultRefused })
			return ok
		})
	}
	s.rotate(gw1)
	s.agree()
	s.saw("%d swaps refused; next rotation fine", 3+2*len(grants)+5+3)
}
