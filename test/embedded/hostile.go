package embedded

import (
	"bytes"
	"crypto/tls"
	"maps"
	"slices"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"sealgate/pkg/topic"
	"sealgate/test/lab"
)

// Letter is one PUBLISH on its way to one session. Sessions go by the user name that they gave.
type Letter struct {
	From, To string // From is "" for what the broker retained or made up
	Topic    string
	Payload  []byte
	QoS      byte
	Retain   bool // as the receiver will see it
}

// Hostile is a broker that acknowledges whatever it is given and then does with it what it is told: every
// delivery to every session passes [Hostile.Meddle]. It keeps a record of all that clients published.
type Hostile struct {
	*Broker
	hook *hostileHook
}

// StartHostile starts one on a free port of 127.0.0.1, honest until told otherwise; the test's end stops it.
func StartHostile(t lab.T, conf *tls.Config) *Hostile {
	t.Helper()
	h := &hostileHook{sessions: make(map[*mochi.Client]*hostileSession), retained: make(map[string]Letter), changed: make(chan struct{})}
	return &Hostile{Broker: Start(t, Options{TLS: conf, Hook: h}), hook: h}
}

// Meddle has f decide about every delivery from now on: what it returns is delivered instead, nothing means
// withheld. It may keep a letter and hand it to Deliver later. Calls do not overlap. nil: honest again.
func (h *Hostile) Meddle(f func(Letter) []Letter) {
	h.hook.meddling.Lock()
	defer h.hook.meddling.Unlock()
	h.hook.meddle = f
}

// Acknowledge has f decide whether a PUBLISH is acknowledged, whatever Meddle makes of it. nil: each is.
func (h *Hostile) Acknowledge(f func(Letter) bool) {
	h.hook.meddling.Lock()
	defer h.hook.meddling.Unlock()
	h.hook.acknowledge = f
}

// Will is the will that a user's session was opened with; false if there is none.
func (h *Hostile) Will(user string) (Letter, bool) {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	for cl, s := range h.hook.sessions {
		if w := &cl.Properties.Will; s.user == user && w.Flag != 0 {
			return Letter{From: user, Topic: w.TopicName, Payload: bytes.Clone(w.Payload), QoS: w.Qos, Retain: w.Retain}, true
		}
	}
	return Letter{}, false
}

// Deliver sends a letter, without asking Meddle, to every session of l.To that has subscribed to its
// topic, and reports to how many.
func (h *Hostile) Deliver(l Letter) int { return h.hook.deliver(l, false) }

// Force is Deliver to sessions that have not subscribed as well.
func (h *Hostile) Force(l Letter) int { return h.hook.deliver(l, true) }

// Spread sends to everybody who has subscribed, without asking Meddle, and reports to how many sessions.
func (h *Hostile) Spread(topic string, payload []byte) (n int) {
	for _, user := range h.Users() {
		n += h.Deliver(Letter{To: user, Topic: topic, Payload: payload, QoS: 1})
	}
	return n
}

// Retain puts a message in the place of what the broker retains, an empty one in the place of nothing.
func (h *Hostile) Retain(topic string, payload []byte) {
	h.hook.retain(Letter{Topic: topic, Payload: payload, QoS: 1, Retain: true})
}

// Retained is what the broker retains under a topic.
func (h *Hostile) Retained(topic string) []byte {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	return h.hook.retained[topic].Payload
}

// Sent returns all that clients have published since mark letters, To being empty.
func (h *Hostile) Sent(mark int) []Letter {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	return slices.Clone(h.hook.sent[min(mark, len(h.hook.sent)):])
}

// Mark is the number of letters sent so far.
func (h *Hostile) Mark() int {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	return len(h.hook.sent)
}

// Changed returns a channel that is closed at the next publication, connection or subscription.
func (h *Hostile) Changed() <-chan struct{} {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	return h.hook.changed
}

// Users are those who have a session now.
func (h *Hostile) Users() []string {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	users := make(map[string]bool)
	for _, s := range h.hook.sessions {
		users[s.user] = true
	}
	return slices.Sorted(maps.Keys(users))
}

// Filters are what a user's sessions have subscribed to.
func (h *Hostile) Filters(user string) (all []string) {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	for _, s := range h.hook.sessions {
		if s.user == user {
			all = slices.AppendSeq(all, maps.Keys(s.filters))
		}
	}
	return all
}

// Cut ends a user's connections.
func (h *Hostile) Cut(user string) {
	h.hook.mu.Lock()
	var cut []*mochi.Client
	for cl, s := range h.hook.sessions {
		if s.user == user {
			cut = append(cut, cl)
		}
	}
	h.hook.mu.Unlock()
	for _, cl := range cut {
		cl.Stop(packets.ErrServerShuttingDown)
	}
}

// Raw writes bytes into a user's connections, as they are.
func (h *Hostile) Raw(user string, b []byte) {
	h.hook.mu.Lock()
	var all []*mochi.Client
	for cl, s := range h.hook.sessions {
		if s.user == user {
			all = append(all, cl)
		}
	}
	h.hook.mu.Unlock()
	for _, cl := range all {
		_, _ = cl.Net.Conn.Write(b) // the receiver may have ended it already
	}
}

// Forget drops what is retained, as a broker that has lost its store.
func (h *Hostile) Forget() {
	h.hook.mu.Lock()
	defer h.hook.mu.Unlock()
	clear(h.hook.retained)
}

type hostileSession struct {
	user    string
	filters map[string]byte
	id      uint16
	writing sync.Mutex // keeps one session's deliveries in one order
}

type hostileHook struct {
	mochi.HookBase

	meddling    sync.Mutex // guards the next two
	meddle      func(Letter) []Letter
	acknowledge func(Letter) bool

	mu       sync.Mutex // guards what follows
	sessions map[*mochi.Client]*hostileSession
	retained map[string]Letter
	sent     []Letter
	changed  chan struct{}
}

func (h *hostileHook) ID() string { return "hostile" }

func (h *hostileHook) Provides(what byte) bool {
	switch what {
	case mochi.OnSessionEstablished, mochi.OnDisconnect, mochi.OnPublish, mochi.OnSubscribed, mochi.OnUnsubscribed, mochi.OnWill:
		return true
	}
	return false
}

// notify wakes those who wait for a change; h.mu is held.
func (h *hostileHook) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hostileHook) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[cl] = &hostileSession{user: string(cl.Properties.Username), filters: make(map[string]byte)}
	h.notify()
}

func (h *hostileHook) OnDisconnect(cl *mochi.Client, _ error, _ bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, cl)
	h.notify()
}

// OnSubscribed delivers what is retained under the new filters.
func (h *hostileHook) OnSubscribed(cl *mochi.Client, pk packets.Packet, _ []byte) {
	h.mu.Lock()
	s := h.sessions[cl]
	var due []Letter
	for _, f := range pk.Filters {
		if s == nil {
			break
		}
		s.filters[f.Filter] = f.Qos
		for name, l := range h.retained {
			if topic.Match(f.Filter, name) {
				l.To = s.user
				due = append(due, l)
			}
		}
	}
	h.notify()
	h.mu.Unlock()
	for _, l := range due {
		for _, out := range h.ask(l) {
			if out.To == l.To && out.Topic == l.Topic {
				h.write(cl, s, out) // to this session only
			} else {
				h.deliver(out, false)
			}
		}
	}
}

func (h *hostileHook) OnUnsubscribed(cl *mochi.Client, pk packets.Packet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range pk.Filters {
		if s := h.sessions[cl]; s != nil {
			delete(s.filters, f.Filter)
		}
	}
}

// OnPublish takes the routing out of the server's hands: it only acknowledges.
func (h *hostileHook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	l := Letter{From: string(cl.Properties.Username), Topic: pk.TopicName, Payload: bytes.Clone(pk.Payload), QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain}
	h.route(l)
	if h.silent(l) {
		return pk, packets.ErrRejectPacket
	}
	return pk, packets.CodeSuccessIgnore
}

// OnWill takes the wills out of the server's hands: what it sends in place of one is on a topic that nobody hears.
func (h *hostileHook) OnWill(cl *mochi.Client, w mochi.Will) (mochi.Will, error) {
	h.route(Letter{From: string(cl.Properties.Username), Topic: w.TopicName, Payload: bytes.Clone(w.Payload), QoS: w.Qos, Retain: w.Retain})
	return mochi.Will{TopicName: "$will"}, nil
}

// silent reports whether a PUBLISH goes unacknowledged.
func (h *hostileHook) silent(l Letter) bool {
	h.meddling.Lock()
	defer h.meddling.Unlock()
	return h.acknowledge != nil && !h.acknowledge(l)
}

// route gives a letter to all that have subscribed to its topic.
func (h *hostileHook) route(l Letter) {
	h.mu.Lock()
	h.sent = append(h.sent, l)
	users := make(map[string]bool)
	for _, s := range h.sessions {
		if _, ok := s.matches(l.Topic); ok {
			users[s.user] = true
		}
	}
	h.notify()
	h.mu.Unlock()
	if l.Retain {
		h.retain(l)
	}
	l.Retain = false
	for _, user := range slices.Sorted(maps.Keys(users)) {
		l.To = user
		for _, out := range h.ask(l) {
			h.deliver(out, false)
		}
	}
}

func (h *hostileHook) retain(l Letter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.From = ""; len(l.Payload) == 0 {
		delete(h.retained, l.Topic)
	} else {
		h.retained[l.Topic] = l
	}
}

func (h *hostileHook) ask(l Letter) []Letter {
	h.meddling.Lock()
	defer h.meddling.Unlock()
	if h.meddle == nil {
		return []Letter{l}
	}
	return h.meddle(l)
}

// matches reports whether the session has subscribed to a topic, and at which QoS.
func (s *hostileSession) matches(name string) (qos byte, ok bool) {
	for f, q := range s.filters {
		if topic.Match(f, name) {
			qos, ok = max(qos, q), true
		}
	}
	return qos, ok
}

func (h *hostileHook) deliver(l Letter, always bool) (n int) {
	type target struct {
		cl *mochi.Client
		s  *hostileSession
	}
	var to []target
	h.mu.Lock()
	for cl, s := range h.sessions {
		if _, ok := s.matches(l.Topic); s.user == l.To && (ok || always) {
			to = append(to, target{cl, s})
		}
	}
	h.mu.Unlock()
	for _, t := range to {
		h.write(t.cl, t.s, l)
	}
	return len(to)
}

// write sends a PUBLISH; the server does not know the packet id, and ignores its PUBACK.
func (h *hostileHook) write(cl *mochi.Client, s *hostileSession, l Letter) {
	s.writing.Lock()
	defer s.writing.Unlock()
	h.mu.Lock()
	granted, ok := s.matches(l.Topic)
	h.mu.Unlock()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: min(l.QoS, 1), Retain: l.Retain}, TopicName: l.Topic, Payload: l.Payload}
	if ok {
		pk.FixedHeader.Qos = min(pk.FixedHeader.Qos, granted)
	}
	if pk.FixedHeader.Qos > 0 {
		if s.id++; s.id == 0 {
			s.id++
		}
		pk.PacketID = s.id
	}
	_ = cl.WritePacket(pk) // a session that has gone gets nothing
}
