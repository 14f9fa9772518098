package gateway

import (
	"bytes"
	"errors"
	"fmt"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// sealStream is one topic of one client: the verdict for it and the stream under it. Both
// hold as long as the State is the one they were made from.
type sealStream struct {
	topic string
	state *State // the verdict is Seal under this one
	group string
	clear bool // a zero-length retained message passes as it is
	key   *crypto.Key
	seal  *crypto.SealStream
	pad   int    // as in seal
	wire  []byte // what the broker knows the topic as, if it is hidden from it; else nil
	cost  int    // bytes charged for a long topic

	links[sealStream] // by use
	head              headState
}

func (s *sealStream) list() *links[sealStream] { return &s.links }

// sealStreams are the streams of one client, by topic. Its zero value is empty.
type sealStreams struct {
	byUse[sealStream, *sealStream]
	m     map[string]*sealStream
	n     int
	bytes int // the costs of all
}

// get finds the stream of a topic and makes it the newest. It does not allocate.
func (t *sealStreams) get(topic []byte) *sealStream {
	s := t.newest
	if s == nil || s.topic == string(topic) {
		return s
	}
	if s = t.m[string(topic)]; s != nil {
		t.touch(s)
	}
	return s
}

func (t *sealStreams) add(s *sealStream) {
	if t.m == nil {
		t.m = make(map[string]*sealStream)
	}
	t.m[s.topic] = s
	t.n++
	t.bytes += s.cost
	t.link(s)
}

func (t *sealStreams) remove(s *sealStream) {
	delete(t.m, s.topic)
	t.n--
	t.bytes -= s.cost
	t.unlink(s)
}

var (
	errNoKey      = errors.New("no key to seal under")
	errOverBroker = errors.New("a message is longer than the broker takes")
)

// stream gives the stream to seal topic under, as decided: the one there is if its
// send key is still the group's, else a new one. errNoKey means to wait for another State.
func (u *upPath) stream(topic []byte, d policy.Decision) (*sealStream, error) {
	key, names := u.state.Keys.Send(d.Group), u.state.Keys.TopicKey()
	if key == nil || d.Hide && names == nil {
		return nil, errNoKey
	}
	t := &u.c.sess.seals
	s := t.get(topic)
	if s != nil && s.group == d.Group && s.key.ID == key.ID && s.key.Epoch == key.Epoch && s.named(d, names) {
		s.state, s.clear, s.key = u.state, d.ClearRetained, key
		s.setPad(d.Pad)
		return s, nil
	}
	made, err := u.c.g.newSealStream(string(topic), d, key, names, false)
	if err != nil {
		return nil, err
	}
	made.state = u.state
	if s != nil {
		u.drop(s)
	}
	if err := u.makeRoom(made.cost); err != nil {
		return nil, err
	}
	u.c.g.streams.Add(1)
	t.add(made)
	u.c.g.heads.begin(made)
	return made, nil
}

// drop forgets a stream.
func (u *upPath) drop(s *sealStream) {
	u.c.sess.seals.remove(s)
	u.retire(s)
	u.c.g.streams.Add(-1)
	u.c.g.memory.give(s.cost)
}

// makeRoom keeps the number of streams bounded: a client's oldest goes, or an idle session.
// An evicted stream costs a new stream id later, and a start instead of a sequence. cost is what
// the topic of the one to come is charged.
func (u *upPath) makeRoom(cost int) error {
	t, g := &u.c.sess.seals, u.c.g
	full := g.streams.Load() >= int64(g.cfg.MaxStreams)
	if full && g.store.shed() {
		full = false
	}
	if t.n >= perClient || full && t.n >= minStreams {
		u.drop(t.oldest)
	}
	for cost > 0 && t.bytes+cost > topicBytes {
		s := t.oldest
		u.drop(s)
		u.c.sess.mu.Lock()
		u.c.sess.sent.keep(func(r *sentRecord) bool { return r.stream != s })
		u.c.sess.mu.Unlock()
	}
	return g.charge(cost)
}

// topicCost is what a stream is charged for its topic, which it keeps twice. Only long
// ones cost: a device may name a thousand of 64 KiB.
func topicCost(topic string) int {
	if len(topic) <= longTopic {
		return 0
	}
	return 2 * len(topic)
}

// charge takes cost bytes for a stream, from idle sessions if there is no other way.
func (g *Gateway) charge(cost int) error {
	for !g.memory.take(cost) {
		if !g.store.shed() {
			return refuse(refusedMemory, 0x97, "too much is kept of long topics and large messages, all connections together")
		}
	}
	return nil
}

// newSealStream starts a stream of topic, as decided, under key. names hides topics.
func (g *Gateway) newSealStream(topic string, d policy.Decision, key *crypto.Key, names *crypto.TopicKey, will bool) (*sealStream, error) {
	id, err := g.newStreamID(will)
	if err != nil {
		return nil, err
	}
	s := &sealStream{topic: topic, group: d.Group, clear: d.ClearRetained, key: key, cost: topicCost(topic)}
	wire := topic
	if d.Hide {
		if s.wire, err = hideName(names, topic); err != nil {
			return nil, err
		}
		wire = string(s.wire)
		s.cost += topicCost(wire)
	}
	if s.seal, err = crypto.NewSealStream(key.Secret, d.Group, wire, id); err != nil {
		return nil, fmt.Errorf("starting a stream of group %q: %w", d.Group, err)
	}
	if d.Hide {
		s.seal.SetName(topic)
	}
	s.setPad(d.Pad)
	return s, nil
}

// setPad sets the multiple that messages are padded to from now on.
func (s *sealStream) setPad(pad int) {
	s.pad = pad
	s.seal.SetPad(pad)
}

// seal puts a message on a sealed topic into the output: header, and the envelope in place
// of the payload. p's properties are those that stay outside.
func (u *upPath) seal(s *sealStream, p *mqttparse.Publish, inner []byte) error {
	if p.QoS > 0 {
		return u.sealRecorded(s, p, inner)
	}
	size := s.seal.Len(crypto.InnerLen(len(inner), len(p.Payload)))
	start, err := u.header(p, size)
	if err != nil {
		return err
	}
	out, _, err := s.seal.Seal(u.out.b, inner, p.Payload)
	return u.sealed(s, out, start, err)
}

// sealRecorded seals a QoS 1 or 2 message, so that the same message sent again, with DUP or
// just under the packet id of one that is still in flight, becomes the same bytes (F1).
func (u *upPath) sealRecorded(s *sealStream, p *mqttparse.Publish, inner []byte) error {
	sess := u.c.sess
	sess.mu.Lock()
	var rec sentRecord
	if r := sess.sent.get(p.PacketID); r != nil {
		rec = *r
	}
	sess.mu.Unlock()
	if rec.stream != nil && u.continues(rec.stream, s) {
		done, err := u.reseal(&rec, p, inner)
		if done || err != nil {
			return err
		}
	}
	size := s.seal.Len(crypto.InnerLen(len(inner), len(p.Payload)))
	start, err := u.header(p, size)
	if err != nil {
		return err
	}
	out, record, err := s.seal.SealRecorded(u.out.b, inner, p.Payload)
	if err := u.sealed(s, out, start, err); err != nil {
		return err
	}
	u.remember(p.PacketID, sentRecord{stream: s, record: record})
	return nil
}

// remember keeps the record for re-sending. Without room there is none, and the message
// sent again gets a fresh number.
func (u *upPath) remember(id uint16, r sentRecord) {
	sess := u.c.sess
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if !sess.sent.put(id, r, &u.c.g.memory, sentSize) {
		sess.sent.remove(id)
	}
}

// continues reports whether a message of r may go out again under r now that its topic's
// stream is s: the same topic and group, no revocation or new generation in between, and
// receivers that still open what r's epoch sealed.
func (u *upPath) continues(r, s *sealStream) bool {
	if r == s {
		return true
	}
	if r.topic != s.topic || !bytes.Equal(r.wire, s.wire) || r.group != s.group ||
		r.key.Epoch.PolicyVersion != s.key.Epoch.PolicyVersion || r.key.Epoch.Generation != s.key.Epoch.Generation {
		return false
	}
	key := u.state.Keys.Find(r.group, r.key.ID)
	return key != nil && !key.Expired(u.c.g.cfg.Now())
}

// reseal puts the message into the output as it was sealed before. It reports false if
// it is another message that reuses the packet id.
func (u *upPath) reseal(rec *sentRecord, p *mqttparse.Publish, inner []byte) (done bool, err error) {
	size := rec.stream.seal.LenAt(rec.record.Seq(), crypto.InnerLen(len(inner), len(p.Payload)))
	start, err := u.header(p, size)
	if err != nil {
		return false, err
	}
	out, err := rec.stream.seal.Reseal(u.out.b, rec.record, inner, p.Payload)
	if err != nil {
		u.out.b = u.out.b[:start]
		return false, nil // crypto.ErrNotIdentical: seal it afresh
	}
	u.out.b = out
	u.tally.add(upResend)
	if rec.old {
		rec.old = false
		u.remember(p.PacketID, *rec) // of this connection now
	}
	return true, nil
}

// header appends a PUBLISH header for a payload of size bytes, with room for the payload, and
// returns where in the output it starts.
func (u *upPath) header(p *mqttparse.Publish, size int) (start int, err error) {
	if u.named == byAlias {
		p.Topic = nil // the stream has it
	}
	n := mqttparse.PublishLen(u.c.version, p, size)
	if u.overBroker(n) {
		return 0, errOverBroker
	}
	if err := u.reserve(n); err != nil {
		return 0, err
	}
	start = len(u.out.b)
	out := mqttparse.AppendPublishHeader(u.out.b, u.c.version, p, size)
	if out == nil {
		return 0, refuse(refusedTooLarge, 0x95, "a message does not fit an MQTT packet")
	}
	u.aliases.tell(p)
	u.out.b = out
	return start, nil
}

// sealed ends a seal: the message counts, or its header goes again.
func (u *upPath) sealed(s *sealStream, out []byte, start int, err error) error {
	if err != nil {
		u.out.b = u.out.b[:start]
		return err
	}
	u.out.b = out
	u.tally.add(upSeal)
	u.mark(s)
	return nil
}
