package checkpoint

import (
	"container/list"
	"fmt"
	"math"
	"slices"
	"time"

	"sealgate/pkg/crypto"
)

// Bounds of a ledger.
const (
	MaxLedgerStreams  = 1 << 16 // streams remembered; the longest unused give way
	MaxLedgerGateways = 1 << 14 // senders remembered
	MaxUnheard        = 1 << 12 // streams that one sender claims and nothing has arrived of
	MaxLedgerBoots    = 8       // earlier runs of a sender whose messages are known as old
	MaxLedgerEvents   = 4096    // events kept between two calls of Take; the oldest give way
	maxTimers         = 4 * MaxLedgerStreams
)

// Config is what a ledger is made from.
type Config struct {
	Interval time.Duration // the group's checkpoint interval
	All      bool          // the receiver gets every topic of the group: it misses streams of which nothing arrived
	Topics   [][32]byte    // else the topics, SHA-256 of their names, of which it misses streams
	// Digest returns the digest of a topic under a key of the group; false: the key is not held.
	Digest func(key crypto.KeyID, topic [32]byte) (Digest, bool)

	// Listens and Expects, both or none, are for a receiver whose subscriptions come and go: they stand in place of All and
	// Topics. Listens says since when, without a break, it has listened to the topic of that SHA-256. Expects says so of a stream
	// of which nothing has arrived, whose topic only its digest tells.
	Listens func(topic [32]byte) (since time.Duration, ok bool)
	Expects func(key crypto.KeyID, topic Digest) (since time.Duration, ok bool)

	MaxStreams int // streams remembered; 0: MaxLedgerStreams
}

// Ledger holds what one receiver got of a group against what senders say they sent. A message that
// was sent counts as dropped an interval after the checkpoint that tells of it, so at most two intervals after it was sent.
// It is not safe for concurrent use.
type Ledger struct {
	cfg      Config
	gateways map[string]*gateway
	streams  map[crypto.Kid]*stream
	used     *list.List // of *stream, the longest unused first
	tails    queue      // an interval: has it arrived?
	claims   queue      // two intervals: has anybody claimed it?
	silences queue      // two intervals: is the sender heard of?
	events   []Event
	crowded  time.Duration // when that was last reported
	since    time.Duration // when this receiver began to listen, or was interrupted
}

type gateway struct {
	name    string
	boot    [16]byte
	past    [][16]byte
	next    uint64 // number of the message to come
	heardAt time.Duration
	wholeAt time.Duration // when it last said that this is all of an interval; before all time: never
	silent  bool
	ended   bool
	unheard int // streams that it claims and nothing has arrived of
}

type stream struct {
	kid     crypto.Kid
	place   *list.Element
	topic   [32]byte
	arrived bool
	gateway *gateway // nil: nobody has claimed it
	digest  Digest   // as its sender claims it
	first   uint64   // the first number that arrived
	high    uint64   // the number after the highest that arrived, or that was reported as dropped
	claimed uint64   // the number after the highest that its sender says it sent
	covered uint64   // likewise, burned numbers included: up to here messages are accounted for

	tail, claim timer // claim: numbers below its value must be claimed by then
	dropped     crypto.Range
	lost        bool // dropped is set
	disputed    bool
}

// timer waits for a number until a time.
type timer struct {
	at    time.Duration
	value uint64
	armed bool
}

type due struct {
	at      time.Duration
	stream  *stream
	gateway *gateway
}

// queue is a list of deadlines that all are equally far away when they are set, so it stays in order.
// What has been settled meanwhile stays in it until then and is passed over.
type queue []due

func (q *queue) add(d due) bool {
	if len(*q) >= maxTimers {
		return false
	}
	*q = append(*q, d)
	return true
}

func (q *queue) pop(now time.Duration) (d due, ok bool) {
	if len(*q) == 0 || (*q)[0].at > now {
		return due{}, false
	}
	d = (*q)[0]
	(*q)[0] = due{}
	if *q = (*q)[1:]; len(*q) == 0 {
		*q = nil
	}
	return d, true
}

// New makes a ledger.
func New(cfg Config) (*Ledger, error) {
	if cfg.Interval <= 0 || cfg.Digest == nil || (cfg.Listens == nil) != (cfg.Expects == nil) {
		return nil, fmt.Errorf("checkpoint: an interval and a digest are needed, and Expects where there is Listens")
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = MaxLedgerStreams
	}
	return &Ledger{cfg: cfg, gateways: make(map[string]*gateway), streams: make(map[crypto.Kid]*stream), used: list.New(), crowded: -cfg.Interval, since: -cfg.Interval}, nil
}

// Received tells of an authentic message: number seq of the stream kid, on the topic of that SHA-256. Call it when
// the message's window accepted it.
func (l *Ledger) Received(now time.Duration, kid crypto.Kid, topic [32]byte, seq uint64) {
	l.Reached(now, kid, topic, seq, seq+1, false)
}

// Reached tells that since the last call messages of the stream kid have arrived, number from the first and next-1 the highest
// of them, for a receiver that looks at its streams now and then. Of messages that a broker may have kept for long, since their receiver
// has just begun to listen, nobody need say that it sent them.
func (l *Ledger) Reached(now time.Duration, kid crypto.Kid, topic [32]byte, from, next uint64, kept bool) {
	l.Advance(now)
	s := l.stream(now, kid)
	if !s.arrived {
		l.firstArrival(now, s, topic, from)
	}
	if lo, hi := max(from, s.dropped.From), min(next-1, s.dropped.To); s.lost && lo <= hi {
		l.event(Event{At: now, What: Recovered, Gateway: s.name(), Kid: kid, Topic: s.topic, From: lo, To: hi})
	}
	s.high = max(s.high, next)
	if s.tail.armed && s.high >= s.tail.value {
		s.tail.armed = false
		l.awaitTail(now, s)
	}
	if !kept {
		l.awaitClaim(now, s)
	}
}

// firstArrival notes the topic of a stream, which its sender may have claimed before as another one.
func (l *Ledger) firstArrival(now time.Duration, s *stream, topic [32]byte, seq uint64) {
	s.arrived, s.topic, s.first = true, topic, seq
	if s.gateway == nil {
		return
	}
	s.gateway.unheard--
	if d, held := l.cfg.Digest(s.kid.KeyID(), topic); held && d != s.digest {
		l.dispute(now, s, s.gateway.name, otherTopic)
		s.gateway, s.claimed, s.covered = nil, 0, 0
	}
}

const otherTopic = "messages on another topic"

func (l *Ledger) dispute(now time.Duration, s *stream, by, other string) {
	if !s.disputed {
		s.disputed = true
		l.event(Event{At: now, What: Disputed, Gateway: by, Other: other, Kid: s.kid, Topic: s.topic})
	}
}

// Interrupted tells that this receiver's own sessions have begun, or were interrupted: what was sent before or meanwhile, and
// what was due, is not held against anybody, until a whole interval has been heard of again. For that interval
// nobody need claim what arrives either: a broker may have kept it for long.
func (l *Ledger) Interrupted(now time.Duration) {
	l.tails, l.claims, l.silences, l.since = nil, nil, nil, now
	for _, g := range l.gateways {
		g.heardAt = now
		if !g.ended && !g.silent {
			l.silences.add(due{at: now + 2*l.cfg.Interval, gateway: g})
		}
	}
	for _, s := range l.streams {
		s.tail.armed, s.claim.armed = false, false
	}
}

// Checkpoint takes a message whose signature was verified, of the member gateway.
func (l *Ledger) Checkpoint(now time.Duration, name string, m *Message) error {
	l.Advance(now)
	g, err := l.admit(now, name, m)
	if err != nil {
		return err
	}
	if g.silent {
		g.silent = false
		l.event(Event{At: now, What: Heard, Gateway: name})
	}
	for i := range m.Streams {
		l.take(now, g, &m.Streams[i])
	}
	g.heardAt, g.ended = now, m.State == Ending
	if m.State != More {
		g.wholeAt = now
	}
	if !g.ended {
		l.silences.add(due{at: now + 2*l.cfg.Interval, gateway: g})
	}
	return nil
}

// joined reports whether a whole interval of g has been heard of since a time: from then on streams begin in our presence. The
// first checkpoint may be from just before this receiver listened: what it tells of is a little older still.
func (l *Ledger) joined(g *gateway, since time.Duration) bool {
	return g.wholeAt >= since+l.cfg.Interval/4
}

// listening says since when this receiver should have got the messages of s.
func (l *Ledger) listening(s *stream) (since time.Duration, ok bool) {
	switch {
	case l.cfg.Listens == nil:
		return l.since, true
	case s.arrived:
		since, ok = l.cfg.Listens(s.topic)
	default:
		since, ok = l.cfg.Expects(s.kid.KeyID(), s.digest)
	}
	return max(since, l.since), ok
}

// admit finds the sender and holds the message's number against its last.
func (l *Ledger) admit(now time.Duration, name string, m *Message) (*gateway, error) {
	g := l.gateways[name]
	if g == nil {
		if len(l.gateways) >= MaxLedgerGateways {
			l.crowd(now)
			return nil, ErrCrowded
		}
		g = &gateway{name: name, boot: m.Boot, next: m.Number, wholeAt: math.MinInt64}
		l.gateways[name] = g
	}
	if m.Boot != g.boot {
		if slices.Contains(g.past, m.Boot) {
			return nil, ErrReplay
		}
		if len(g.past) >= MaxLedgerBoots {
			g.past = slices.Delete(g.past, 0, 1)
		}
		g.past = append(g.past, g.boot)
		g.boot, g.next = m.Boot, 0
	}
	if m.Number < g.next {
		return nil, ErrReplay
	}
	if m.Number > g.next && l.joined(g, l.since) {
		l.event(Event{At: now, What: Withheld, Gateway: name, From: g.next, To: m.Number - 1})
	}
	g.next = m.Number + 1
	return g, nil
}

// take holds one stream of a checkpoint against what arrived.
func (l *Ledger) take(now time.Duration, g *gateway, c *Stream) {
	s := l.streams[c.Kid]
	if s == nil {
		if !l.expected(c) || g.unheard >= MaxUnheard {
			return
		}
		s = l.stream(now, c.Kid)
		s.high = c.From
	}
	known := s.gateway != nil
	if !l.attribute(now, g, s, c) {
		return
	}
	since, ok := l.listening(s)
	switch {
	case !ok || !l.joined(g, since):
		s.high = max(s.high, c.Next) // some of it was sent before this receiver listened
	case !known && s.arrived && c.From < s.first && !c.Kid.StreamID().Will():
		s.dropped, s.lost = crypto.Range{From: c.From, To: s.first - 1}, true
		l.event(Event{At: now, What: Dropped, Gateway: g.name, Kid: s.kid, Topic: s.topic, From: c.From, To: s.first - 1})
	}
	for _, r := range c.Burned {
		l.event(Event{At: now, What: Burned, Gateway: g.name, Kid: c.Kid, Topic: s.topic, From: r.From, To: r.To})
	}
	s.claimed, s.covered = max(s.claimed, c.sent()), max(s.covered, c.Next)
	if s.claim.armed && c.Next >= s.claim.value {
		s.claim.armed = false
	}
	l.awaitClaim(now, s)
	if !c.Kid.StreamID().Will() { // wills are sent by the broker, perhaps never
		l.awaitTail(now, s)
	}
}

// attribute makes g the sender of the stream, unless another one claims it or its messages came on another topic.
func (l *Ledger) attribute(now time.Duration, g *gateway, s *stream, c *Stream) bool {
	other := ""
	if s.gateway != nil && s.gateway != g {
		other = s.gateway.name
	} else if s.arrived && s.gateway == nil {
		if d, held := l.cfg.Digest(c.Kid.KeyID(), s.topic); held && d != c.Topic {
			other = otherTopic
		}
	}
	if other != "" {
		l.dispute(now, s, g.name, other)
		return false
	}
	if s.gateway == nil {
		s.gateway, s.digest = g, c.Topic
		if !s.arrived {
			g.unheard++
		}
	}
	return true
}

// expected reports whether messages of a stream of which none has arrived should have.
func (l *Ledger) expected(c *Stream) bool {
	switch {
	case l.cfg.Expects != nil:
		_, ok := l.cfg.Expects(c.Kid.KeyID(), c.Topic)
		return ok
	case l.cfg.All:
		return true
	}
	return slices.ContainsFunc(l.cfg.Topics, func(topic [32]byte) bool {
		d, held := l.cfg.Digest(c.Kid.KeyID(), topic)
		return held && d == c.Topic
	})
}

// awaitTail sets the deadline for what was sent and has not arrived.
func (l *Ledger) awaitTail(now time.Duration, s *stream) {
	if s.tail.armed || s.claimed <= s.high {
		return
	}
	at := now + l.cfg.Interval
	if l.tails.add(due{at: at, stream: s}) {
		s.tail = timer{at, s.claimed, true}
	}
}

// awaitClaim sets the deadline for what has arrived and nobody has claimed.
func (l *Ledger) awaitClaim(now time.Duration, s *stream) {
	if s.claim.armed || !s.arrived || s.high <= s.covered || now < l.since+l.cfg.Interval {
		return
	}
	at := now + 2*l.cfg.Interval
	if l.claims.add(due{at: at, stream: s}) {
		s.claim = timer{at, s.high, true}
	}
}

// Advance tells the time; call it when Deadline has come.
func (l *Ledger) Advance(now time.Duration) {
	for d, ok := l.tails.pop(now); ok; d, ok = l.tails.pop(now) {
		if s := d.stream; s.tail.armed && s.tail.at == d.at {
			s.tail.armed = false
			if since, ok := l.listening(s); ok && since <= d.at-l.cfg.Interval { // it has listened from the checkpoint on
				s.dropped, s.lost = crypto.Range{From: s.high, To: s.tail.value - 1}, true
				l.event(Event{At: d.at, What: Dropped, Gateway: s.name(), Kid: s.kid, Topic: s.topic, From: s.high, To: s.tail.value - 1})
			}
			s.high = s.tail.value
			l.awaitTail(now, s)
		}
	}
	for d, ok := l.claims.pop(now); ok; d, ok = l.claims.pop(now) {
		if s := d.stream; s.claim.armed && s.claim.at == d.at {
			s.claim.armed = false
			l.event(Event{At: d.at, What: Unattributed, Gateway: s.name(), Kid: s.kid, Topic: s.topic, From: s.covered, To: s.claim.value - 1})
			s.covered = max(s.covered, s.claim.value) // once for each number
			l.awaitClaim(now, s)
		}
	}
	for d, ok := l.silences.pop(now); ok; d, ok = l.silences.pop(now) {
		if g := d.gateway; !g.ended && !g.silent && g.heardAt+2*l.cfg.Interval <= d.at {
			g.silent = true
			l.event(Event{At: d.at, What: Silent, Gateway: g.name})
		}
	}
}

// Deadline is when Advance wants to be called; false: no timer runs.
func (l *Ledger) Deadline() (at time.Duration, ok bool) {
	for _, q := range []queue{l.tails, l.claims, l.silences} {
		if len(q) > 0 && (!ok || q[0].at < at) {
			at, ok = q[0].at, true
		}
	}
	return at, ok
}

// Take returns the events since the last Take, oldest first.
func (l *Ledger) Take() []Event {
	out := l.events
	l.events = nil
	return out
}

// Attributed returns the member that claims a stream, "" if none does.
func (l *Ledger) Attributed(kid crypto.Kid) string {
	if s := l.streams[kid]; s != nil {
		return s.name()
	}
	return ""
}

// Senders is the number of members that have published a checkpoint.
func (l *Ledger) Senders() int { return len(l.gateways) }

// Streams is the number of streams remembered.
func (l *Ledger) Streams() int { return len(l.streams) }

// Silenced returns the senders that are not heard of, in order.
func (l *Ledger) Silenced() (names []string) {
	for name, g := range l.gateways {
		if g.silent {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *stream) name() string {
	if s.gateway == nil {
		return ""
	}
	return s.gateway.name
}

// stream finds or makes the state of a stream.
func (l *Ledger) stream(now time.Duration, kid crypto.Kid) *stream {
	if s := l.streams[kid]; s != nil {
		l.used.MoveToBack(s.place)
		return s
	}
	if len(l.streams) >= l.cfg.MaxStreams {
		old := l.used.Remove(l.used.Front()).(*stream)
		old.tail.armed, old.claim.armed = false, false
		if old.gateway != nil && !old.arrived {
			old.gateway.unheard--
		}
		delete(l.streams, old.kid)
		l.crowd(now)
	}
	s := &stream{kid: kid}
	s.place = l.used.PushBack(s)
	l.streams[kid] = s
	return s
}

func (l *Ledger) crowd(now time.Duration) {
	if now-l.crowded >= l.cfg.Interval {
		l.crowded = now
		l.event(Event{At: now, What: Crowded})
	}
}

func (l *Ledger) event(e Event) {
	if len(l.events) >= MaxLedgerEvents {
		l.events = append(l.events[:0], l.events[MaxLedgerEvents/2:]...)
	}
	l.events = append(l.events, e)
}
