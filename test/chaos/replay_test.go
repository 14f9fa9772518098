package chaos

import (
	"strings"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/test/embedded"
)

// replayScenarios repeat what was once genuine.
func replayScenarios() []scenario {
	return []scenario{
		{name: "replay: a session's messages within it", rules: "F3", expect: "all refused; nobody goes back to an old epoch", run: replaySame},
		{name: "replay: a recorded session to a fresh member", rules: "F3", expect: "no keys from it, nothing sealed; then honest keys", run: replayFresh},
		{name: "replay: a member's own session after its restart", rules: "F3 F15", expect: "not even its own old Grant opens", run: replayRestart},
		{name: "delay: a Grant beyond its nonce's life", rules: "F3", expect: "refused; the next one is taken", run: lateGrant},
	}
}

func replaySame(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	old := s.broker.Retained(keysTopic)
	oldKey := gw1.send().ID
	s.pass(control.ConfirmInterval) // gw2 has itself confirmed meanwhile
	for range 2 {
		s.rotate(gw1)
		s.agree()
	}
	mark := s.broker.Mark()
	s.mustRefuse(keysTopic, old, control.ErrStale, gw2, alice)
	replays := 0
	for _, kind := range []control.Kind{control.KindGrant, control.KindConfirm} {
		sent := s.sent(0, "gw1", kind)
		if len(sent) == 0 {
			s.Fatalf("no %s was recorded", kind)
		}
		for _, l := range some(sent) {
			s.mustRefuse(inbox, l.Payload, control.ErrNonce, gw2, alice)
			replays += 2
		}
	}
	for _, l := range append(some(s.sent(0, "gw2", control.KindHello)), some(s.sent(0, "alice", control.KindHello))...) {
		s.takeIn(gw1, l)
		s.mustRefuse(control.ControlTopic(prefix), l.Payload, control.ErrReplayedHello, gw1)
		replays++
	}
	s.broker.Deliver(embedded.Letter{To: "gw1", Topic: keysTopic, Payload: old}) // a late echo to its author
	s.rotate(gw1)
	s.agree()
	n := t.check()
	if under := s.sealedUnder(mark); under[oldKey] > 0 {
		s.Errorf("%d messages sealed under the replayed epoch's key", under[oldKey])
	}
	s.saw("%d replays refused, 0 messages under the old key, %d messages through", replays+2, n)
}

// some are as many of the letters as a member's log tells of when all are refused: it has room for 20 warnings at once. A fleet that was slow to begin
// has sent more.
func some(all []embedded.Letter) []embedded.Letter { return all[:min(len(all), 8)] }

// takeIn makes sure that a keeper has seen a Hello: one that was sent before the keeper led is new to it.
func (s *scene) takeIn(n *node, l embedded.Letter) {
	s.Helper()
	looked := func() int {
		return n.count(control.KindHello, control.ResultAccepted) + n.count(control.KindHello, control.ResultRefused) + n.count(control.KindHello, control.ResultIgnored)
	}
	before := looked()
	s.broker.Deliver(embedded.Letter{To: n.name, Topic: control.ControlTopic(prefix), Payload: l.Payload, QoS: 1})
	s.await(n.name+" has looked at a Hello", func() bool { return looked() > before })
}

// replayTo gives a member everything that the broker has recorded up to mark, each answer on the member's inbox of now.
func (s *scene) replayTo(n *node, mark int) (count int) {
	s.Helper()
	for _, l := range s.broker.Sent(0)[:mark] {
		if !strings.HasPrefix(l.Topic, prefix+"/") {
			continue
		}
		l.From, l.To = "", n.name
		if isInbox(l) {
			l.Topic = n.inbox()
		}
		count += s.broker.Deliver(l)
	}
	return count
}

// only withholds from a member whatever the broker is not told to deliver.
func only(name string) func(embedded.Letter) []embedded.Letter {
	return func(l embedded.Letter) []embedded.Letter {
		if l.To == name && isControl(l) {
			return nil
		}
		return []embedded.Letter{l}
	}
}

func replayFresh(s *scene) {
	gw1, _, _ := s.trio()
	recorded := s.broker.Mark()
	for range 2 {
		s.rotate(gw1)
		s.agree()
	}
	s.broker.Meddle(only("gw3"))
	mark := s.broker.Mark()
	gw3 := s.start(crypto.RoleGateway, "gw3")
	s.openHello(mark, "gw3", control.WantKeys)
	n := s.replayTo(gw3, recorded)
	s.jump(2 * time.Second)
	n += s.replayTo(gw3, recorded)
	s.await("gw3 has looked at all of it", func() bool {
		st := gw3.m.Status()
		var seen uint64
		for c, k := range st.Counters {
			if c.Result != control.ResultSent {
				seen += k
			}
		}
		return seen >= uint64(n)
	})
	if e := gw3.epoch(); e != (crypto.Epoch{}) || gw3.send() != nil {
		s.Errorf("a recording gave gw3 epoch %v", e)
	}
	s.saw("%d recorded messages: no key, nothing to seal under", n)
	s.broker.Meddle(nil)
	s.broker.Cut("gw3")
	s.agree()
	s.saw("then epoch %v", gw3.epoch())
}

// replayRestart: the broker has recorded the Hello, the Grant and all of a gateway that starts again.
func replayRestart(s *scene) {
	gw1, gw2, _ := s.trio()
	recorded := s.broker.Mark()
	s.rotate(gw1)
	s.agree()
	s.broker.Meddle(only("gw2"))
	mark := s.broker.Mark()
	gw2.reboot()
	s.openHello(mark, "gw2", control.WantKeys)
	n, refused := s.replayTo(gw2, recorded), gw2.refusals
	s.await("the Grants refused", func() bool { return refused() > 0 && gw2.log.said(control.ErrNonce.Error()) })
	if gw2.send() != nil || gw2.epoch() != (crypto.Epoch{}) {
		s.Errorf("its own recorded session gave gw2 epoch %v", gw2.epoch())
	}
	s.saw("%d of its own messages: no key", n)
	s.broker.Meddle(nil)
	s.broker.Cut("gw2")
	s.agree()
	s.saw("then epoch %v", gw2.epoch())
}

func lateGrant(s *scene) {
	s.trio()
	held := make(chan embedded.Letter, 64)
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "gw3" && isInbox(l) {
			held <- l
			return nil
		}
		return []embedded.Letter{l}
	})
	gw3 := s.start(crypto.RoleGateway, "gw3")
	late := <-held
	s.jump(control.NonceLife + time.Second)
	s.mustRefuse(inbox, late.Payload, control.ErrNonce, gw3)
	s.broker.Meddle(nil)
	s.jump(control.HelloBackoffMax)
	s.agree()
	s.saw("%v; then epoch %v", "refused after 31 s", gw3.epoch())
}
