package gateway

import (
	"errors"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// openStream is one stream as a session receives it: what opens its messages, and which of
// them the session has accepted.
type openStream struct {
	id       openKey
	group    string
	state    *State // group and key hold under this one
	key      *crypto.Key
	hidden   bool   // the topic is; its messages say its name
	name     []byte // that name, if they do
	verified *State // under which the topic hides it
	open     *crypto.OpenStream
	window   crypto.Window
	ahead    uint64   // the number after the highest that was forwarded, acknowledged or not
	begun    bool     // ahead is valid
	arrival  *arrival // as the ledgers see it
	cost     int      // bytes charged for a long topic
	gone     bool     // it is not in openStreams any more, though the device may still acknowledge messages of it

	// of the device's subscriptions, as of so many changes to them, if matched; see subscriptions.go
	matched, shared bool
	changes         uint32
	subscribed      int
	copies          *copies // nil before the first

	links[openStream] // by use
}

func (s *openStream) list() *links[openStream] { return &s.links }

// is reports whether both are one stream, which may have been evicted and begun again. s may be nil, which is none.
func (s *openStream) is(o *openStream) bool { return s == o || s != nil && s.gone && s.id == o.id }

// openKey names a stream: the topic belongs to it (F6).
type openKey struct {
	kid   crypto.Kid
	topic string
}

// openStreams are the streams that a session receives. Its zero value is empty.
type openStreams struct {
	byUse[openStream, *openStream]
	m      map[openKey]*openStream
	n      int
	bytes  int                  // the costs of all
	floors map[crypto.Kid]floor // of streams that were evicted (F17)
	pruned *State               // no stream of a key that is dead under this one is left
}

// floor is what is remembered of an evicted stream.
type floor struct {
	next  uint64 // the number after the highest accepted
	ahead uint64 // as of the stream
}

// get finds a stream and makes it the newest. It does not allocate.
func (t *openStreams) get(kid *crypto.Kid, topic []byte) *openStream {
	s := t.newest
	if s == nil || s.id.kid == *kid && s.id.topic == string(topic) {
		return s
	}
	if s = t.m[openKey{*kid, string(topic)}]; s != nil {
		t.touch(s)
	}
	return s
}

func (t *openStreams) add(s *openStream) {
	if t.m == nil {
		t.m = make(map[openKey]*openStream)
	}
	t.m[s.id] = s
	t.n++
	t.bytes += s.cost
	t.link(s)
}

func (t *openStreams) remove(s *openStream) {
	s.gone = true
	delete(t.m, s.id)
	t.n--
	t.bytes -= s.cost
	t.unlink(s)
}

// prune drops the streams and floors of keys that are dead: nothing under them is opened any
// more.
func (t *openStreams) prune(state *State) {
	if t.pruned == state {
		return
	}
	t.pruned = state
	for s := t.oldest; s != nil; {
		older := s
		s = s.prev
		if state.Keys.Find(older.group, older.id.kid.KeyID()) == nil {
			t.remove(older)
		}
	}
	t.trimFloors(state.Keys)
}

const (
	maxFloors = 4 * perSession
	floorCost = 64 // bytes charged for one: an entry of a Go map that is three quarters full
)

// evict drops the oldest stream. What it has accepted stays refused as long as its key lives, and so does what the device acknowledges later.
func (t *openStreams) evict(keys *crypto.Keyring) {
	s := t.oldest
	t.remove(s)
	f := floor{ahead: s.ahead}
	if highest, any := s.window.Highest(); any {
		f.next = highest + 1
	} else if !s.begun {
		return
	}
	if t.floors == nil {
		t.floors = make(map[crypto.Kid]floor)
	}
	if len(t.floors) >= maxFloors {
		t.trimFloors(keys)
	}
	t.floors[s.id.kid] = f
}

// commit accepts a number of a stream that the device has acknowledged, which may have been evicted since it was sent, and begun again.
func (t *openStreams) commit(s *openStream, seq uint64) {
	if s.gone {
		if f, evicted := t.floors[s.id.kid]; evicted && seq >= f.next {
			f.next = seq + 1
			t.floors[s.id.kid] = f
		}
		if s = t.m[s.id]; s == nil {
			return
		}
	}
	s.window.Commit(seq)
}

// trimFloors drops the floors of dead keys; where all live, as many as it must.
func (t *openStreams) trimFloors(keys *crypto.Keyring) {
	live := make(map[crypto.KeyID]bool)
	for _, g := range keys.Groups() {
		for _, k := range keys.Keys(g) {
			live[k.ID] = true
		}
	}
	for kid := range t.floors {
		if !live[kid.KeyID()] || len(t.floors) >= maxFloors {
			delete(t.floors, kid)
		}
	}
}

// open handles a message on a sealed topic: it is delivered or refused. It reports false for
// one on a topic that is not sealed. The topic decides, never the content (spec 7.1).
func (d *downPath) open(p *mqttparse.Publish) (sealed bool, err error) {
	env, bad := crypto.ParseEnvelope(p.Payload)
	if bad == nil {
		if s := d.c.sess.opens.get(&env.Kid, p.Topic); s != nil && s.state == d.state {
			return true, d.deliver(s, p, &env, false)
		}
	}
	dec := d.decide(p.Topic)
	switch {
	case dec.Verdict != policy.Seal:
		return false, nil
	case len(p.Payload) == 0 && dec.ClearRetained:
		return true, d.refuse(p, downClear)
	case bad != nil && !crypto.LooksSealed(p.Payload):
		return true, d.refuse(p, downPlaintext)
	case bad != nil:
		return true, d.refuse(p, downForged)
	}
	key, group := d.find(dec, p.Topic, &env)
	if key == nil {
		if key, group, err = d.holdFor(p, &dec, &env); err != nil {
			return true, err
		}
		if key == nil {
			return true, d.refuse(p, downUnknownKey)
		}
	}
	s, fresh, err := d.stream(p.Topic, dec.Hide, group, key, &env)
	if err != nil {
		return true, internalError(err)
	}
	return true, d.deliver(s, p, &env, fresh)
}

func (d *downPath) decide(topic []byte) policy.Decision {
	if d.state.Table == nil || underPrefix(topic, d.c.g.cfg.ControlPrefix) {
		return policy.Decision{Verdict: policy.Deny}
	}
	return d.state.Table.Receive(topic)
}

// stream gives the stream of an envelope: the one there is, if its group is still the
// topic's, else a new one, which is not stored before it has authenticated a message.
func (d *downPath) stream(topic []byte, hidden bool, group string, key *crypto.Key, env *crypto.Envelope) (s *openStream, fresh bool, err error) {
	t := &d.c.sess.opens
	if s = t.get(&env.Kid, topic); s != nil && s.group == group && s.hidden == hidden && s.key.Epoch == key.Epoch {
		s.state, s.key = d.state, key
		return s, false, nil
	}
	name := string(topic)
	open, err := crypto.NewOpenStream(key.Secret, group, name, env.Kid.StreamID())
	if err != nil {
		return nil, false, fmt.Errorf("opening a stream of group %q: %w", group, err)
	}
	made := &openStream{id: openKey{env.Kid, name}, group: group, hidden: hidden, state: d.state, key: key, open: open, cost: topicCost(name)}
	if s != nil {
		made.window, made.ahead, made.begun = s.window, s.ahead, s.begun
	} else if f, evicted := t.floors[env.Kid]; evicted {
		if f.next > 0 {
			made.window.Resume(f.next - 1)
		}
		made.ahead, made.begun = max(f.ahead, f.next), true
	}
	return made, true, nil
}

// keep stores a stream that has authenticated its first message.
func (d *downPath) keep(s *openStream) error {
	t, g := &d.c.sess.opens, d.c.g
	n, bytes := t.n, t.bytes
	if old := t.m[s.id]; old != nil {
		t.remove(old)
	}
	floors := len(t.floors)
	t.prune(d.state)
	g.memory.give((floors - len(t.floors)) * floorCost)
	n, bytes = d.dropped(n, bytes)
	full := g.streams.Load() >= int64(g.cfg.MaxStreams)
	if full && g.store.shed() {
		full = false
	}
	var err error
	if t.n >= perSession || full && t.n >= minStreams {
		err = d.evict()
	}
	for err == nil && s.cost > 0 && t.bytes+s.cost > topicBytes {
		err = d.evict()
	}
	d.dropped(n, bytes)
	if err == nil {
		err = g.charge(s.cost)
	}
	if err != nil {
		return err
	}
	t.add(s)
	g.streams.Add(1)
	return nil
}

// evict drops the oldest stream, and pays for the floor that it leaves.
func (d *downPath) evict() error {
	t, g := &d.c.sess.opens, d.c.g
	if err := g.charge(floorCost); err != nil {
		return err
	}
	before := len(t.floors)
	t.evict(d.state.Keys)
	g.memory.give((before + 1 - len(t.floors)) * floorCost)
	return nil
}

// dropped gives back what the session's streams take less than n streams of so many bytes, and returns what
// they take.
func (d *downPath) dropped(n, bytes int) (int, int) {
	t, g := &d.c.sess.opens, d.c.g
	g.streams.Add(int64(t.n - n))
	g.memory.give(bytes - t.bytes)
	return t.n, t.bytes
}

// deliver opens a message straight into the output; if it authenticates and is new to this
// session it stays there. fresh says that s is not stored yet.
func (d *downPath) deliver(s *openStream, p *mqttparse.Publish, env *crypto.Envelope, fresh bool) error {
	if s.key.NotAfter != 0 && s.key.Expired(d.clock()) {
		return d.refuse(p, downExpired)
	}
	outer := p.Properties
	if len(outer) > 0 {
		_, outer = d.props.of(p) // content properties outside the envelope are nobody's word
	}
	marked := outer
	if d.tells() {
		marked = d.told(s, p, env.Seq, outer)
	}
	start, err := d.openInto(s, p, marked, env)
	if err == nil && len(marked) > len(outer) && d.overDevice(len(d.out.b)-start) {
		d.out.b = d.out.b[:start]
		start, err = d.openInto(s, p, outer, env) // rather unmarked than not at all
	}
	if err != nil {
		if errors.Is(err, crypto.ErrForged) || errors.Is(err, crypto.ErrInner) || errors.Is(err, crypto.ErrKid) {
			return d.refuse(p, downForged)
		}
		return err
	}
	if fresh {
		s.cost += topicCost(string(s.name))
		if err := d.keep(s); err != nil {
			d.out.b = d.out.b[:start]
			return err
		}
	}
	if d.overDevice(len(d.out.b) - start) {
		d.out.b = d.out.b[:start]
		d.seen(s, p, env)
		return d.refuse(p, downOversize)
	}
	v := d.judge(s, p, env)
	if v != downOpen {
		d.out.b = d.out.b[:start]
		return d.refuse(p, v)
	}
	d.aliases.tell(p)
	d.tally.add(downOpen)
	return nil
}

// headMost is the longest PUBLISH header without topic and properties: first byte,
// Remaining Length, topic length, packet id, property length.
const headMost = 1 + 4 + 2 + 2 + 4

// openInto appends the opened message: the inner plaintext first, and then the header before it. An inner plaintext begins with what a
// header ends with, or has no use for: the topic name if that is hidden, and the length of the properties. So it is
// opened as far behind the start as the header is long without these, and what follows them mostly stands where it belongs: always but where there is padding,
// or a length takes more bytes than expected, or the receiver takes no properties or knows the topic by an alias.
func (d *downPath) openInto(s *openStream, p *mqttparse.Publish, outer []byte, env *crypto.Envelope) (start int, err error) {
	const tag = 16
	v := d.c.version
	head := &d.head
	head.Dup, head.Retain, head.QoS, head.PacketID, head.Topic, head.Properties = p.Dup, p.Retain, p.QoS, p.PacketID, p.Topic, outer
	begins := 1   // the inner plaintext, with so many bytes that a header has too
	if s.hidden { // the name is inside
		head.Topic = nil
		begins += 2
	} else if d.named == byAlias {
		head.Topic = nil
	}
	if err := d.reserve(headMost + len(head.Topic) + len(outer) + len(env.Ciphertext)); err != nil {
		return 0, err
	}
	start = len(d.out.b)
	at := start + mqttparse.HeaderLen(v, head, len(env.Ciphertext)-tag-begins) - begins
	out, err := s.open.Open(d.out.b[:at], env)
	if err != nil {
		return 0, err
	}
	inner := out[at:]
	if s.hidden {
		if inner, err = d.nameOf(s, inner); err != nil {
			return 0, err
		}
		if d.named != byAlias {
			head.Topic = s.name
		}
	}
	props, payload, err := crypto.SplitInner(inner)
	switch {
	case err != nil:
		return 0, err
	case len(props) > 0 && !mqttparse.ContentOnly(props):
		return 0, crypto.ErrInner
	}
	if d.tells() {
		if kept := withoutMarks(props); len(kept) < len(props) {
			props = out[len(out)-len(payload)-len(kept) : len(out)-len(payload)]
			copy(props, kept)
		}
	}
	if v != mqttparse.V5 {
		props = nil
	}
	if out = mqttparse.InsertPublishHeader(out, start, v, head, len(props), len(payload)); out == nil {
		return 0, crypto.ErrForged
	}
	d.out.b = out
	return start, nil
}

// judge says whether an authentic message is new to this session, and if so remembers it:
// for QoS 0 at once, else when the device acknowledges it (F8). A message with RETAIN never
// moves the window: the flag is not authenticated.
func (d *downPath) judge(s *openStream, p *mqttparse.Publish, env *crypto.Envelope) verdict {
	d.catchUp()
	seq := env.Seq
	if p.Retain {
		if highest, any := s.window.Highest(); any && seq < highest {
			return downStale
		}
		if s.begun && seq == s.ahead { // published just now, and subscribed to with Retain As Published
			s.ahead++
		}
		return d.track(p, dueRecord{stream: s, seq: seq, tag: env.Tag(), counted: true})
	}
	switch s.window.Check(seq) {
	case crypto.Duplicate:
		if d.again(p, s, env) {
			return downOpen // the same delivery, not another one
		}
		if !d.anotherCopy(s, seq) {
			return downDuplicate
		}
		return d.track(p, dueRecord{stream: s, seq: seq, tag: env.Tag(), counted: true})
	case crypto.TooOld:
		return downReplayed
	}
	if s.begun && seq < s.ahead && d.pending(s, seq, p.PacketID) && !d.anotherCopy(s, seq) {
		return downDuplicate
	}
	d.countGap(s, p, seq)
	d.arrived(s, seq)
	if p.QoS == 0 {
		s.window.Commit(seq)
		return downOpen
	}
	return d.track(p, dueRecord{stream: s, seq: seq, tag: env.Tag()})
}

// seen moves the window past a message that is too long for the device, which counts as delivered (MQTT-3.1.2-25).
func (d *downPath) seen(s *openStream, p *mqttparse.Publish, env *crypto.Envelope) {
	d.catchUp()
	if v := s.window.Check(env.Seq); p.Retain || v == crypto.Duplicate || v == crypto.TooOld {
		return
	}
	d.countGap(s, p, env.Seq)
	d.arrived(s, env.Seq)
	s.window.Commit(env.Seq)
}

// track remembers a message until the device has acknowledged it. Without room the window
// commits at once.
func (d *downPath) track(p *mqttparse.Publish, r dueRecord) verdict {
	if p.QoS > 0 && !d.expect(p.PacketID, r) && !p.Retain {
		r.stream.window.Commit(r.seq)
	}
	return downOpen
}

// again reports whether p is the message that the device was sent under this packet id, and whose handshake is not over: a copy for one of
// its subscriptions that it has not acknowledged, or a QoS 2 message of which it knows the packet id.
func (d *downPath) again(p *mqttparse.Publish, s *openStream, env *crypto.Envelope) bool {
	d.c.sess.mu.Lock()
	defer d.c.sess.mu.Unlock()
	r := d.c.sess.due.get(p.PacketID)
	return r != nil && r.seq == env.Seq && r.tag == env.Tag() && r.stream.is(s)
}

// catchUp commits what the device has acknowledged meanwhile.
func (d *downPath) catchUp() {
	s := d.c.sess
	if !s.hasAcks.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accepted {
		s.opens.commit(a.stream, a.seq)
	}
	s.accepted = s.accepted[:0]
	s.hasAcks.Store(false)
}

// countGap counts the messages missing before seq, in the order in which the broker sends:
// devices acknowledge in any order.
func (d *downPath) countGap(s *openStream, p *mqttparse.Publish, seq uint64) {
	d.gaps += d.missing(s, p, seq)
	if !s.begun || seq >= s.ahead {
		s.ahead, s.begun = seq+1, true
	}
}

// missing is the number of messages missing before seq of s, which came as p.
func (d *downPath) missing(s *openStream, p *mqttparse.Publish, seq uint64) uint64 {
	if p.Retain || !s.begun || seq <= s.ahead {
		return 0
	}
	if _, shared := d.matching(s); shared { // others get the rest
		return 0
	}
	return seq - s.ahead
}

// clock reads the clock of Key.NotAfter once a batch.
func (d *downPath) clock() time.Duration {
	if d.now == 0 {
		d.now = d.c.g.cfg.Now()
	}
	return d.now
}
