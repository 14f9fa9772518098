package chaos

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// floodScenarios are about what a broker, or an insider, can make a member hold and do.
func floodScenarios() []scenario {
	return []scenario{
		{name: "flood: 10^6 made-up key ids", rules: "F16", expect: "1 query at once, no other within 30 s; memory flat", run: keyIDs, alone: true},
		{name: "flood: Hellos of one insider", expect: "a bounded share of Grants; others served; memory flat", run: hellos, alone: true},
		{name: "flood: junk on every control topic", expect: "refused and counted; keys and traffic stay; memory flat", run: junk, alone: true},
		{name: "flood: cut and overlong messages", expect: "each refused as malformed or too large; nothing changes", run: cutMessages, alone: true},
	}
}

// heap is what lives on the heap, in KiB.
func heap() int {
	runtime.GC()
	runtime.GC() // the first one may leave what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc / 1024)
}

// flat floods three times and fails if the second or third time left more than limit KiB behind. The first fills caches
// that are bounded.
func (s *scene) flat(limit int, flood func(round int)) {
	s.Helper()
	flood(0)
	first := heap()
	flood(1)
	flood(2)
	if grown := heap() - first; grown > limit {
		s.Errorf("two floods left %d KiB on the heap, at most %d are allowed", grown, limit)
	} else {
		s.saw("heap %+d KiB after two more floods", grown)
	}
}

// keyIDs meets the rules three times: in the receiver, a million ids; at the member, a million; and over the broker's
// connection, twenty thousand.
func keyIDs(s *scene) {
	gw1, _, alice := s.trio()
	l := s.line(gw1)
	genuine := l.publish("genuine")
	l.hears("genuine")
	envelope, err := crypto.ParseEnvelope(genuine.Payload)
	if err != nil {
		s.Fatal(err)
	}
	madeUp := func(n uint64) []byte {
		e := envelope
		binary.BigEndian.PutUint64(e.Kid[:], n*0x9e3779b97f4a7c15) // spreads over key id and stream id
		return crypto.AppendEnvelope(nil, &e)
	}
	state, asked := alice.m.State(), 0
	receiver := subscriber.NewReceiver(0, func(*subscriber.Message) {}, func(string, crypto.KeyID) { asked++ })
	receiver.SetState(0, state.Table, state.Keys)
	mark := s.broker.Mark()
	next, virtual := uint64(1), time.Duration(0)
	s.flat(2048, func(int) {
		for range 333_334 {
			receiver.Receive(virtual, subscriber.Incoming{Topic: "plant/a", Payload: madeUp(next)})
			alice.m.UnknownKey(group, crypto.KeyID(binary.BigEndian.AppendUint32(nil, uint32(next))))
			virtual += 100 * time.Microsecond
			next++
		}
		unknown := l.reader.statuses(subscriber.StatusUnknownKey)
		for range 3000 {
			l.to(embedded.Letter{Topic: "plant/a", Payload: madeUp(next), QoS: 1})
			next++
		}
		s.await("the reader over the flood", func() bool { return l.reader.statuses(subscriber.StatusUnknownKey) >= unknown+3000 })
	})
	if receiver.Streams() != 0 {
		s.Errorf("%d streams for made-up keys", receiver.Streams())
	}
	for _, name := range []string{"alice", "rita", "gw1"} {
		n := len(s.sent(mark, name, control.KindHello))
		if n > 2 {
			s.Errorf("%s sent %d Hellos", name, n)
		}
		s.saw("%s: %d queries", name, n)
	}
	l.publish("after")
	l.hears("after")
}

func hellos(s *scene) {
	gw1, _, _ := s.trio()
	t := s.traffic(gw1)
	mallory := s.insider(crypto.RoleSubscriber, "mallory")
	var flood [][]byte
	hello, key := mallory.hello(nil)
	public := key.Public()
	flood = append(flood, hello)
	for range 2000 {
		h := &control.Hello{Want: control.WantKeys, Inbox: random(), Nonce: random(), Public: public, PolicyVersion: 1, PolicyHash: s.signed.Hash, Groups: []control.HelloGroup{{Name: group}}}
		flood = append(flood, mallory.sign(h.Marshal(), control.KindHello))
	}
	mark, start := s.broker.Mark(), time.Now()
	var took time.Duration
	s.flat(2048, func(round int) {
		before := gw1.answered() + int(gw1.m.Counters().Dropped)
		for _, h := range flood {
			s.broker.Deliver(embedded.Letter{To: "gw1", Topic: control.ControlTopic(prefix), Payload: h, QoS: 1})
		}
		asked := time.Now()
		s.start(crypto.RoleSubscriber, fmt.Sprint("honest", round))
		s.agree()
		took = max(took, time.Since(asked))
		s.await("the flood looked at", func() bool { return gw1.answered()+int(gw1.m.Counters().Dropped) >= before+len(flood) })
	})
	grants, limit := 0, control.MemberBurst+int(time.Since(start)/control.MemberInterval)+1
	for _, l := range s.sent(mark, "gw1", control.KindGrant) {
		if !s.listens(l.Topic) {
			grants++
		}
	}
	if grants > limit {
		s.Errorf("%d Grants to the flooder, at most %d expected", grants, limit)
	}
	s.saw("6003 Hellos, %d Grants; honest newcomers served within %.1f s; %d messages through", grants, took.Seconds(), t.check())
}

// listens reports whether a user has subscribed to a topic.
func (s *scene) listens(topic string) bool {
	for _, user := range s.broker.Users() {
		for _, f := range s.broker.Filters(user) {
			if f == topic {
				return true
			}
		}
	}
	return false
}

// answered is how many Hellos the node has looked at.
func (n *node) answered() (sum int) {
	for c, count := range n.m.Status().Counters {
		if c.Kind == control.KindHello && c.Result != control.ResultSent {
			sum += int(count)
		}
	}
	return sum
}

// topicsOf are the control topics that a member listens to.
func (n *node) topicsOf() []string {
	topics := []string{keysTopic, policyTopic, n.inbox()}
	if n.id.Member().Role == crypto.RoleGateway {
		topics = append(topics, control.ControlTopic(prefix))
	}
	return topics
}

// looked is how many messages the node has refused, or dropped unread.
func (n *node) looked() int {
	c := n.m.Counters()
	return int(n.refusals() + c.TooLarge + c.Dropped)
}

func junk(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	key := gw2.send().ID
	sizes := []int{0, 1, 16, 300, 40 << 10, 300 << 10}
	s.flat(2048, func(int) {
		for _, n := range []*node{gw1, gw2, alice} {
			before, count := n.looked(), 0
			for _, topic := range n.topicsOf() {
				for _, size := range sizes {
					b := make([]byte, size)
					_, _ = rand.Read(b)
					for range min(200, 1+(8<<20)/(size+1)/8) {
						count += s.broker.Deliver(embedded.Letter{To: n.name, Topic: topic, Payload: b, QoS: 1})
					}
				}
			}
			s.await(n.name+" has looked at the junk", func() bool { return n.looked() >= before+count })
		}
	})
	if gw2.send() == nil || gw2.send().ID != key {
		s.Error("junk cost gw2 its key")
	}
	s.rotate(gw1)
	s.agree()
	s.saw("%d refused or dropped; then %v; %d messages through", gw1.looked()+gw2.looked()+alice.looked(), alice.epoch(), t.check())
}

// cutMessages gives members every kind of genuine message, cut short, with something behind, and blown up.
func cutMessages(s *scene) {
	gw1, gw2, alice := s.trio()
	mallory := s.insider(crypto.RoleSubscriber, "mallory")
	hello, _ := mallory.hello(nil)
	kinds := []struct {
		topic string
		msg   []byte
		to    *node
	}{
		{keysTopic, s.broker.Retained(keysTopic), gw2},
		{keysTopic, s.broker.Retained(keysTopic), alice},
		{policyTopic, s.signed.Raw, alice},
		{control.ControlTopic(prefix), hello, gw1},
		{alice.inbox(), s.sent(0, "gw1", control.KindGrant)[0].Payload, alice},
	}
	total := 0
	for _, k := range kinds {
		before, state, count := k.to.looked(), k.to.fingerprint(), 0
		give := func(b []byte) {
			count += s.broker.Deliver(embedded.Letter{To: k.to.name, Topic: k.topic, Payload: b, QoS: 1})
		}
		for n := 0; n < len(k.msg); n += 1 + len(k.msg)/97 {
			give(k.msg[:n])
		}
		give(append(append([]byte(nil), k.msg...), 0))
		for _, size := range []int{control.MaxEpochMessage + 1, control.MaxMessage + 1, policy.MaxEncoded + 64<<10} {
			give(append(append([]byte(nil), k.msg...), make([]byte, size-len(k.msg))...))
		}
		s.await("all of it refused", func() bool { return k.to.looked() >= before+count })
		if k.to.fingerprint() != state {
			s.Errorf("%s: cut messages on %s changed its state", k.to.name, k.topic)
		}
		total += count
	}
	s.rotate(gw1)
	s.agree()
	s.saw("%d refused; then %v", total, alice.epoch())
}
