package gateway

import (
	"sync/atomic"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/topic"
)

// Bounds of what is remembered of a session's subscriptions.
const (
	maxFilters  = 1024
	filterExtra = 96 // bytes that a filter is charged beside its own
)

// subscriptions are the topic filters that a device has subscribed to in its session. A broker may deliver a
// message once for each subscription that it matches (MQTT-3.3.4-2, and 3.3.5 before MQTT 5), and of a shared
// subscription other sessions get a part: without knowing filters the one would look like a replay, the
// other like a loss. A filter that is not known here, for want of room or since the gateway was restarted, makes its
// further copies be refused as duplicates. Those that the broker has granted count in what this gateway listens to (listen.go).
// The session's mu guards all but changes.
type subscriptions struct {
	m            map[string]*subscription // by filter, as subscribed to
	bytes        int                      // charged
	shared       int                      // shared subscriptions among them
	granted      int                      // those that count
	grantedBytes int
	live         bool          // they are counted in Gateway.listening
	changes      atomic.Uint32 // counts changes, so that streams know when to look again
}

type subscription struct {
	old     bool   // of an earlier connection
	whole   bool   // as it was asked for, it brings every message of its topics
	granted bool   // it counts
	asked   uint16 // the SUBSCRIBE that the broker has not answered; 0: none
	place   int    // of the filter in that
}

// note follows a SUBSCRIBE or UNSUBSCRIBE of the device on its way to the broker: of the latter's filters nothing need come any more.
func (c *conn) note(f mqttparse.Frame) {
	s := c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	it := mqttparse.Filters(f, c.version)
	for place := 0; it.Next(); place++ {
		filter := string(it.Filter())
		if f.Type() != mqttparse.SUBSCRIBE {
			s.subs.remove(c.g, filter)
		} else if x := s.subs.add(&c.g.memory, filter); x != nil {
			_, _, shared := topic.ShareFilter(filter)
			partial := c.version == mqttparse.V5 && it.Options()&(mqttparse.NoLocal|mqttparse.RetainAsPublished) != 0
			x.old, x.whole, x.asked, x.place = false, !shared && !partial && topic.ValidateFilter(filter) == nil, it.PacketID(), place
		}
	}
	s.subs.changes.Add(1)
}

// add returns the subscription of a filter, nil if there is no room.
func (t *subscriptions) add(b *budget, filter string) *subscription {
	if x := t.m[filter]; x != nil {
		return x
	}
	cost := len(filter) + filterExtra
	if len(t.m) >= maxFilters || !b.take(cost) {
		return nil
	}
	t.bytes += cost
	if _, _, shared := topic.ShareFilter(filter); shared {
		t.shared++
	}
	if t.m == nil {
		t.m = make(map[string]*subscription)
	}
	x := new(subscription)
	t.m[filter] = x
	return x
}

func (t *subscriptions) remove(g *Gateway, filter string) {
	x := t.m[filter]
	if x == nil {
		return
	}
	t.revoke(g, filter, x)
	delete(t.m, filter)
	cost := len(filter) + filterExtra
	t.bytes -= cost
	g.memory.give(cost)
	if _, _, shared := topic.ShareFilter(filter); shared {
		t.shared--
	}
}

// clear forgets all filters, or those of earlier connections only.
func (t *subscriptions) clear(g *Gateway, oldOnly bool) {
	for filter, x := range t.m {
		if x.old || !oldOnly {
			t.remove(g, filter)
		}
	}
	t.changes.Add(1)
}

// settle makes all filters those of an earlier connection.
func (t *subscriptions) settle() {
	for _, x := range t.m {
		x.old = true
	}
}

// tell says how many copies of a message on name the subscriptions make, and whether all of them are shared.
func (t *subscriptions) tell(name string) (copies int, shared bool) {
	own := 0
	for filter := range t.m {
		_, inner, ok := topic.ShareFilter(filter)
		if !ok {
			inner = filter
		}
		if !topic.Match(inner, name) {
			continue
		}
		if copies++; !ok {
			own++
		}
	}
	return copies, copies > 0 && own == 0
}

// copies counts the deliveries of the latest messages of a stream that came more than once. A number that has
// given its place to a higher one is not delivered again, so none is delivered more often than it may be.
type copies struct {
	seq [64]uint64
	n   [64]uint8
}

// another reports whether seq may be delivered once more, having been so before, to a session with so many
// matching subscriptions; if so it counts.
func (c *copies) another(seq uint64, matching int) bool {
	i := seq % uint64(len(c.seq))
	switch {
	case matching < 2:
		return false
	case c.n[i] == 0 || c.seq[i] < seq:
		c.seq[i], c.n[i] = seq, 2
		return true
	case c.seq[i] > seq || int(c.n[i]) >= min(matching, 255):
		return false
	}
	c.n[i]++
	return true
}

// matching says how many copies of a message of s the device's subscriptions make, and whether all of them are
// shared. It looks anew only when they have changed.
func (d *downPath) matching(s *openStream) (copies int, shared bool) {
	sess := d.c.sess
	if now := sess.subs.changes.Load(); !s.matched || s.changes != now {
		sess.mu.Lock()
		s.changes = sess.subs.changes.Load()
		s.subscribed, s.shared = sess.subs.tell(s.topicName())
		sess.mu.Unlock()
		s.matched = true
	}
	return s.subscribed, s.shared
}

// anotherCopy reports whether a message that the device has been sent before comes for another one of its subscriptions.
func (d *downPath) anotherCopy(s *openStream, seq uint64) bool {
	n, _ := d.matching(s)
	if n < 2 {
		return false
	}
	if s.copies == nil {
		s.copies = new(copies)
	}
	return s.copies.another(seq, n)
}

// pending reports whether the device has been sent number seq of s under another packet identifier than id, and
// has not acknowledged it. Under id too: then it is that copy which the broker sends again, and not one too many.
func (d *downPath) pending(s *openStream, seq uint64, id uint16) bool {
	sess := d.c.sess
	if !sess.hasDue.Load() {
		return false
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if r := sess.due.get(id); r != nil && r.seq == seq && r.stream.is(s) {
		return false
	}
	for i := range sess.due.slots {
		slot := &sess.due.slots[i]
		if slot.id != 0 && slot.id != id && slot.v.seq == seq && slot.v.stream.is(s) {
			return true
		}
	}
	return false
}

// matter reports whether anything depends on knowing the filters.
func (t *subscriptions) matter() bool { return len(t.m) > 1 || t.shared > 0 }
