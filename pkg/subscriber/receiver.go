package subscriber

import (
	"bytes"
	"container/list"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

// Bounds on what a broker can make a receiver hold.
const (
	DefaultStreams = 8192             // streams with a replay window, about 5 KiB each
	floorsAStream  = 4                // evicted streams remembered, times the limit on streams
	holdTime       = 2 * time.Second  // for the key of a message
	troubledTime   = 30 * time.Second // the same while keys cannot come, and so long after
	holdMessages   = 1024
	holdBytes      = 8 << 20
	holdCopies     = 16 * holdMessages // of held messages: what a broker repeats until it is acknowledged
	negativeTime   = 30 * time.Second  // a key that did not come is not waited for again so soon
	negativeKeys   = 256
)

// Incoming is a PUBLISH as the broker delivered it.
type Incoming struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool

	Properties Properties // as the broker delivered them; they count only where policy leaves the topic in the clear

	Done func() // called once the message has been reported; may be nil
}

// Receiver turns what a broker delivers into messages with a status. It does no I/O and
// reads no clock: bytes and a time in, calls of its callbacks out. One goroutine owns it.
//
// The topic's policy decides what a message must be, never its content. On a sealed topic the
// order is: parse, find the key by (group, key id), open, then the replay window, which moves
// only after the message has authenticated, and never for a retained one: RETAIN is a flag that a broker may
// set as it likes.
type Receiver struct {
	deliver func(*Message)
	unknown func(group string, id crypto.KeyID)

	table *policy.Table
	keys  *crypto.Keyring

	streams map[streamID]*stream
	recent  *list.List // of *stream, most recently used first
	limit   int
	floors  floors

	held      []held
	heldBytes int
	copies    int                        // of all that are held
	troubled  time.Duration              // until then keys may come late
	negative  map[groupKey]time.Duration // when a key that did not come may be waited for again
}

type groupKey struct {
	group string
	id    crypto.KeyID
}

type held struct {
	in           Incoming
	since, until time.Duration
	copies       []func() // Done of each repetition
}

// NewReceiver makes a receiver of at most limit streams (0: [DefaultStreams]). deliver is called for every
// message and report; unknown, when a key is missing and worth asking for.
func NewReceiver(limit int, deliver func(*Message), unknown func(group string, id crypto.KeyID)) *Receiver {
	if limit <= 0 {
		limit = DefaultStreams
	}
	return &Receiver{
		deliver: deliver, unknown: unknown, limit: limit,
		streams: make(map[streamID]*stream), recent: list.New(),
		floors:   floors{limit: floorsAStream * limit, at: make(map[streamID]uint64)},
		negative: make(map[groupKey]time.Duration),
	}
}

// SetState gives the receiver the policy and the keys of now, and reports held messages that
// can be opened with them.
func (r *Receiver) SetState(now time.Duration, t *policy.Table, k *crypto.Keyring) {
	r.table, r.keys = t, k
	for id, s := range r.streams {
		if k.Find(s.group, id.kid.KeyID()) == nil {
			r.drop(id, s)
		}
	}
	r.floors.prune(func(id streamID) bool { return r.known(id) })
	r.release(now)
}

// known reports whether the key of a stream is still held.
func (r *Receiver) known(id streamID) bool {
	if r.table == nil {
		return false
	}
	return slices.ContainsFunc(r.groupsOf(id.topic), func(g string) bool { return r.keys.Find(g, id.kid.KeyID()) != nil })
}

// Receive takes one message. It is reported before Receive returns, unless its key is
// missing and it is held.
func (r *Receiver) Receive(now time.Duration, in Incoming) {
	if r.clears(&in) {
		if in.Done != nil {
			in.Done()
		}
		return
	}
	if m := r.judge(now, &in, true); m != nil {
		r.report(m, &in)
	}
}

// clears reports whether a message only deletes a retained one at the broker: nobody has vouched for it, and a sealed one tells of it (spec 3.2).
func (r *Receiver) clears(in *Incoming) bool {
	if len(in.Payload) > 0 || r.table == nil {
		return false
	}
	d := r.table.Receive([]byte(in.Topic))
	return d.Verdict == policy.Seal && d.ClearRetained
}

// Advance reports the held messages whose time is over.
func (r *Receiver) Advance(now time.Duration) { r.release(now) }

// Deadline is when Advance wants to be called; false: nothing is held.
func (r *Receiver) Deadline() (time.Duration, bool) {
	if len(r.held) == 0 {
		return 0, false
	}
	at := r.held[0].until
	for i := range r.held {
		at = min(at, r.held[i].until)
	}
	return at, true
}

// Interrupted tells that keys cannot come at now, or could not a moment ago. A broker that has lost a node may take half a minute
// until they do, and deliver messages under new keys meanwhile: they wait so long.
func (r *Receiver) Interrupted(now time.Duration) {
	r.troubled = now + troubledTime
	for i := range r.held {
		r.held[i].until = r.held[i].since + troubledTime
	}
}

// Streams is the number of streams that have a replay window now.
func (r *Receiver) Streams() int { return len(r.streams) }

// release judges every held message again, in order, and keeps those that still lack a key and
// have time left.
func (r *Receiver) release(now time.Duration) {
	waiting := r.held
	r.held, r.heldBytes, r.copies = nil, 0, 0
	for i := range waiting {
		h := &waiting[i]
		m := r.judge(now, &h.in, false)
		if m.Status == StatusUnknownKey && now < h.until {
			r.held = append(r.held, *h)
			r.heldBytes += len(h.in.Payload)
			r.copies += len(h.copies)
			continue
		}
		if m.Status == StatusUnknownKey {
			r.giveUp(now, groupKey{m.Group, m.Key})
		}
		r.report(m, &h.in)
		for _, done := range h.copies {
			again := h.in
			again.Done = done
			r.report(r.judge(now, &again, false), &again)
		}
	}
}

// giveUp remembers that a key did not come.
func (r *Receiver) giveUp(now time.Duration, k groupKey) {
	if len(r.negative) >= negativeKeys {
		for old, until := range r.negative {
			if until <= now {
				delete(r.negative, old)
			}
		}
	}
	if len(r.negative) < negativeKeys {
		r.negative[k] = now + negativeTime
	}
}

func (r *Receiver) report(m *Message, in *Incoming) {
	switch {
	case m.Status != StatusOK:
		m.Payload, m.Properties = nil, Properties{}
	case m.Gap > 0:
		gap := m.about(StatusGap)
		gap.From, gap.To = m.Seq-m.Gap, m.Seq-1
		r.deliver(gap)
	}
	r.deliver(m)
	if m.late {
		filled := m.about(StatusGapFilled)
		filled.From, filled.To = m.Seq, m.Seq
		r.deliver(filled)
	}
	if in.Done != nil {
		in.Done()
	}
}

// about makes a report on the stream of m.
func (m *Message) about(s Status) *Message {
	return &Message{Topic: m.Topic, Status: s, Group: m.Group, Gateway: m.Gateway, Stream: m.Stream, Key: m.Key, Sealed: true}
}

// judge finds out what a message is. With hold, it returns nil for one that is held for its key.
func (r *Receiver) judge(now time.Duration, in *Incoming, hold bool) *Message {
	m := &Message{Topic: in.Topic, QoS: in.QoS, Retain: in.Retain}
	var d policy.Decision
	if r.table != nil {
		d = r.table.Receive([]byte(in.Topic))
	}
	if d.Verdict == policy.Pass {
		m.Status, m.Payload, m.Properties = StatusOK, in.Payload, in.Properties
		return m
	}
	m.Group = d.Group
	if !crypto.LooksSealed(in.Payload) {
		m.Status = StatusPlaintext
		return m
	}
	e, err := crypto.ParseEnvelope(in.Payload)
	if err != nil {
		m.Status = StatusForged
		return m
	}
	m.Sealed, m.Stream, m.Key, m.Seq = true, e.Kid.StreamID(), e.Kid.KeyID(), e.Seq
	key, group := r.find(d, in.Topic, &e)
	if key != nil {
		m.Group = group
	}
	switch {
	case d.Verdict != policy.Seal: // no group covers the topic, so no key can be the right one
		m.Status = StatusUnknownKey
	case key == nil:
		m.Status = StatusUnknownKey
		if hold && r.hold(now, m, in) {
			return nil
		}
	case key.Expired(now):
		m.Status = StatusExpiredEpoch
	default:
		r.open(m, in.Topic, d.Hide, key, &e)
	}
	return m
}

// hold keeps a message whose key is missing, if there is room and hope, and asks for the key.
func (r *Receiver) hold(now time.Duration, m *Message, in *Incoming) bool {
	k := groupKey{m.Group, m.Key}
	if until, tried := r.negative[k]; tried {
		if now < until {
			return false
		}
		delete(r.negative, k)
	}
	for _, g := range r.groupsOf(in.Topic) {
		r.unknown(g, m.Key)
	}
	for i := range r.held {
		if h := &r.held[i]; h.in.Topic == in.Topic && h.in.QoS == in.QoS && h.in.Retain == in.Retain && bytes.Equal(h.in.Payload, in.Payload) {
			if r.copies >= holdCopies {
				return false
			}
			h.copies, r.copies = append(h.copies, in.Done), r.copies+1
			return true
		}
	}
	if len(r.held) >= holdMessages || r.heldBytes+len(in.Payload) > holdBytes {
		return false
	}
	wait := holdTime
	if now < r.troubled {
		wait = troubledTime
	}
	r.held = append(r.held, held{in: *in, since: now, until: now + wait})
	r.heldBytes += len(in.Payload)
	return true
}

// open authenticates the envelope, which came on wire, and asks the stream's window.
func (r *Receiver) open(m *Message, wire string, hidden bool, key *crypto.Key, e *crypto.Envelope) {
	id := streamID{e.Kid, wire}
	s := r.streams[id]
	if s == nil || s.group != m.Group {
		opener, err := crypto.NewOpenStream(key.Secret, m.Group, wire, m.Stream)
		if err != nil {
			m.Status = StatusForged
			return
		}
		s = &stream{id: id, group: m.Group, opener: opener}
		if top, evicted := r.floors.at[id]; evicted {
			s.window.Resume(top)
		}
	}
	inner, err := s.opener.Open(nil, e)
	if err == nil && hidden {
		inner, err = r.nameOf(m, wire, inner)
	}
	if err == nil {
		err = m.unpack(inner)
	}
	if err != nil {
		m.Status = StatusForged
		return
	}
	if m.Retain {
		m.Status = s.judgeRetained(e)
		return
	}
	r.touch(s)
	s.accept(m, e)
}

// unpack takes an inner plaintext apart. Properties that do not describe content have no place there (spec 3).
func (m *Message) unpack(inner []byte) error {
	block, payload, err := crypto.SplitInner(inner)
	if err != nil {
		return err
	}
	m.Payload = payload
	m.Properties, err = session.ParseProperties(block)
	return err
}

// touch puts s in front of the recently used, and evicts the last when there are too many.
func (r *Receiver) touch(s *stream) {
	if s.element != nil {
		r.recent.MoveToFront(s.element)
		return
	}
	if old := r.streams[s.id]; old != nil {
		r.drop(s.id, old)
	}
	for len(r.streams) >= r.limit {
		last := r.recent.Back().Value.(*stream)
		r.drop(last.id, last)
		if top, started := last.window.Highest(); started {
			r.floors.set(last.id, top)
		}
	}
	s.element = r.recent.PushFront(s)
	r.streams[s.id] = s
	r.floors.forget(s.id)
}

func (r *Receiver) drop(id streamID, s *stream) {
	r.recent.Remove(s.element)
	delete(r.streams, id)
}
