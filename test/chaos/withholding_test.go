package chaos

import (
	"slices"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/test/embedded"
)

// withholdingScenarios are what a broker achieves by saying nothing.
func withholdingScenarios() []scenario {
	return []scenario{
		{name: "partition: keepers from one another", expect: "both sides' messages open; one epoch after healing", run: partition},
		{name: "withhold: Confirms", rules: "F3", expect: "rotation goes on, then nothing leaves, with an alarm; back after", run: withholdConfirms},
		{name: "withhold: control only, data goes on", expect: "messages go on under the epoch held", run: withholdControl},
		{name: "withhold: announcements only", expect: "the leader does not seal under an epoch nobody was shown", run: withholdEpochs},
		{name: "broker: packets that no server may send", expect: "the connection ends; a new one; keys stay", run: badPackets},
		{name: "broker: loses all it retained, ends all sessions", expect: "keepers put it right; traffic goes on", run: amnesia},
	}
}

// between withholds what two members say to one another, and the announcements and policies of either from the other.
func between(a, b string) func(embedded.Letter) []embedded.Letter {
	return onControl(func(l embedded.Letter) []embedded.Letter {
		if l.From == a && l.To == b || l.From == b && l.To == a || l.From == "" && (l.To == b || l.To == a) {
			return nil
		}
		return []embedded.Letter{l}
	})
}

func partition(s *scene) {
	gw1, gw2, _ := s.trio()
	t1 := s.traffic(gw1)
	_, addr2 := gw2.serve()
	d2 := s.device("dev-gw2", addr2)
	s.broker.Meddle(between("gw1", "gw2"))
	e := s.rotate(gw1)
	s.await("gw1 seals under its new epoch", func() bool { return gw1.send() != nil && gw1.send().Epoch == e })
	for i := range 20 {
		payload := needle + " from behind the partition " + string(rune('a'+i))
		if token := d2.Publish("plant/b", 1, false, payload); !token.WaitTimeout(patience) || token.Error() != nil {
			s.Fatalf("not acknowledged: %v", token.Error())
		}
		s.await("the message from gw2 opened", func() bool { return t1.reader.opened(payload) == 1 })
	}
	s.saw("apart: gw1 %v, gw2 %v, both opened", gw1.epoch(), gw2.epoch())
	s.broker.Meddle(nil)
	s.rotate(s.leader())
	s.agree()
	s.saw("healed: %v; %d messages through", gw2.epoch(), t1.check())
}

// leader is the member that leads by its own account.
func (s *scene) leader() *node {
	for _, n := range s.nodes {
		for _, g := range n.m.Status().Groups {
			if g.Leading {
				return n
			}
		}
	}
	s.Fatal("nobody leads")
	return nil
}

func withholdConfirms(s *scene) {
	const freshness = 20 * time.Minute
	s.edit(func(d *policy.Document) { d.Groups[0].Freshness, d.Groups[0].Rotate = freshness, 24*time.Hour })
	gw1, gw2, _ := s.trio()
	s.unconfirmed(gw1, gw2)
	s.pass(freshness / 2)
	if k := gw2.send(); k == nil || k.Epoch != gw1.send().Epoch {
		s.Errorf("after most of the freshness gw2 seals under %v", k)
	}
	s.pass(freshness / 2)
	s.await("gw2's authority lapsed", func() bool { return gw2.send() == nil })
	if !gw2.log.said("nothing of this group leaves") {
		s.Error("no warning says that nothing leaves")
	}
	s.saw("the new epoch for %v, then nothing, with an alarm", freshness)
	s.broker.Meddle(nil)
	s.jump(control.HelloBackoffMax)
	s.agree()
	s.saw("then %v", gw2.send().Epoch)
}

func withholdControl(s *scene) {
	gw1, gw2, _ := s.trio()
	t := s.traffic(gw2)
	key := gw2.send().ID
	s.broker.Meddle(only("gw2"))
	s.rotate(gw1)
	mark := s.broker.Mark()
	s.await("messages meanwhile", func() bool { return s.sealedUnder(mark)[key] > 30 })
	if n := len(s.sealedUnder(mark)); n != 1 {
		s.Errorf("sealed under %d keys", n)
	}
	s.heal(gw2)
	s.saw("%d messages under %v's key, all opened; then %v", s.sealedUnder(mark)[key], "the old epoch", gw2.epoch())
	t.check()
}

func withholdEpochs(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	old := gw1.send()
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.Topic == keysTopic {
			return nil
		}
		return []embedded.Letter{l}
	})
	mark := s.broker.Mark()
	e := s.rotate(gw1)
	s.await("the announcement repeated", func() bool { return len(s.sent(mark, "gw1", control.KindEpoch)) >= 2 })
	if gw1.send().ID != old.ID {
		s.Errorf("gw1 seals under %v, which nobody was shown", gw1.send().Epoch)
	}
	s.broker.Meddle(nil)
	s.jump(control.RepublishInterval)
	s.agree()
	if gw2.epoch().Compare(e) < 0 || alice.epoch().Compare(e) < 0 {
		s.Errorf("epoch %v was lost", e)
	}
	s.saw("repeated; used only when shown: %v; %d messages through", gw1.send().Epoch, t.check())
}

func badPackets(s *scene) {
	gw1, _, _ := s.trio()
	victims := []string{"gw2", "alice"}
	for _, name := range []string{"bob", "carol"} {
		s.start(crypto.RoleSubscriber, name)
		victims = append(victims, name)
	}
	s.agree()
	raws := [][]byte{
		{0x10, 0x00},                         // CONNECT, from a server
		{0x36, 0x05, 0, 1, 'a', 0, 1},        // QoS 3
		{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, // a length of five bytes
		{0x30, 0xff, 0xff, 0xff, 0x7f},       // 256 MB
		{0x00, 0x00}, {0xf0, 0x00},           // reserved
		{0x90, 0x00},       // SUBACK without content
		{0x40, 0x01, 0x00}, // PUBACK of one byte
	}
	for i := 0; i < len(raws); i += len(victims) { // a member that is cut off often waits longer each time
		old := make(map[string]string)
		for k, name := range victims {
			old[name] = s.node(name).inbox()
			s.broker.Raw(name, raws[i+k])
		}
		s.await("new sessions", func() bool {
			return !slices.ContainsFunc(victims, func(name string) bool {
				return s.node(name).inbox() == old[name]
			})
		})
	}
	for _, name := range victims {
		if s.node(name).epoch() != gw1.epoch() || !s.node(name).log.said("the broker sent") {
			s.Errorf("%s: epoch %v, its log does not tell what the broker did", name, s.node(name).epoch())
		}
	}
	s.rotate(gw1)
	s.agree()
	s.saw("%d connections ended with a warning and made again; keys stayed; then %v", len(raws), gw1.epoch())
}

func (s *scene) node(name string) *node {
	s.Helper()
	i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		s.Fatalf("no member %s", name)
	}
	return s.nodes[i]
}

func amnesia(s *scene) {
	gw1, _, _ := s.trio()
	t := s.traffic(gw1)
	for range 2 {
		s.broker.Forget()
		for _, n := range s.nodes {
			s.broker.Cut(n.name)
		}
		s.await("policy and announcement retained again", func() bool {
			return len(s.broker.Retained(keysTopic)) > 0 && len(s.broker.Retained(policyTopic)) > 0
		})
		s.rotate(gw1)
		s.agree()
	}
	s.saw("twice put right; epoch %v; %d messages through", gw1.epoch(), t.check())
}
