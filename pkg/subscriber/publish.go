package subscriber

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
	"sealgate/pkg/topic"
)

// maxSealStreams is how many topics a client seals for without starting a new stream each time.
const maxSealStreams = 1024

// publisher seals what the client itself publishes: one stream a topic and epoch, as a gateway
// does for its devices. A stream that was evicted is continued by a new one.
type publisher struct {
	name string
	boot [16]byte

	mu     sync.Mutex
	topics map[string]*list.Element // guarded by mu; of *sealing
	recent *list.List               // guarded by mu; most recently used first
}

type sealing struct {
	topic, wire, group string // wire: the topic as the broker knows it
	key                crypto.KeyID
	stream             *crypto.SealStream
}

func (p *publisher) init(name string) error {
	p.name, p.topics, p.recent = name, make(map[string]*list.Element), list.New()
	_, err := rand.Read(p.boot[:])
	return err
}

// seal seals properties and payload for a topic, which the broker knows as wire, as decided, under key.
func (p *publisher) seal(name, wire string, d policy.Decision, key *crypto.Key, props, payload []byte) (envelope []byte, head control.StreamHead, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		s, err := p.get(name, wire, d.Group, key)
		if err != nil {
			return nil, head, err
		}
		s.stream.SetPad(d.Pad)
		out, seq, err := s.stream.Seal(nil, props, payload)
		if err == nil {
			kid := s.stream.Kid()
			head = control.StreamHead{Group: d.Group, Topic: sha256.Sum256([]byte(name)), Key: kid.KeyID(), Stream: kid.StreamID(), From: seq, Next: seq + 1}
		}
		if !errors.Is(err, crypto.ErrExhausted) {
			return out, head, err
		}
		p.forget(name)
	}
}

// get returns the stream of a topic under key, a new one if there is none; p.mu is held.
func (p *publisher) get(name, wire, group string, key *crypto.Key) (*sealing, error) {
	if e, ok := p.topics[name]; ok {
		if s := e.Value.(*sealing); s.key == key.ID && s.group == group && s.wire == wire {
			p.recent.MoveToFront(e)
			return s, nil
		}
		p.forget(name)
	}
	var fresh [16]byte
	if _, err := rand.Read(fresh[:]); err != nil {
		return nil, err
	}
	stream, err := crypto.NewSealStream(key.Secret, group, wire, crypto.NewStreamID(p.name, p.boot, fresh, false))
	if err != nil {
		return nil, err
	}
	if wire != name {
		stream.SetName(name)
	}
	if p.recent.Len() >= maxSealStreams {
		p.forget(p.recent.Back().Value.(*sealing).topic)
	}
	s := &sealing{name, wire, group, key.ID, stream}
	p.topics[name] = p.recent.PushFront(s)
	return s, nil
}

func (p *publisher) forget(name string) {
	if e, ok := p.topics[name]; ok {
		p.recent.Remove(e)
		delete(p.topics, name)
	}
}

// Publish seals a message as the policy wants for its topic and publishes it. It waits for a key to seal
// under, and for QoS 1 and 2 until the broker has acknowledged the message; over a lost connection it sends the same
// bytes again, which a receiver reports as a duplicate if both arrive. For QoS 0 it returns when the message
// is written.
//
// Without a key nothing leaves: the message waits until ctx ends. An empty retained message clears a
// retained one, where the policy allows clears, and subscribers get a message without payload.
func (c *Client) Publish(ctx context.Context, name string, payload []byte, qos byte, retain bool) error {
	return c.Send(ctx, &Publication{Topic: name, Payload: payload, QoS: qos, Retain: retain})
}

// Send is Publish of all that a message can be. Properties and an expiry need MQTT 5 (Options.Version). On a sealed topic the properties travel
// inside the message; the expiry is the broker's business and stays outside. A broker that refuses a message says why: the error is
// a [session.ReasonError].
func (c *Client) Send(ctx context.Context, p *Publication) error {
	if err := c.send(ctx, p); err != nil {
		return fmt.Errorf("publish on %q: %w", p.Topic, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, p *Publication) error {
	if err := c.allow(p); err != nil {
		return err
	}
	parts, head, err := c.prepare(ctx, p)
	if err != nil {
		return err
	}
	conn, err := c.connection(ctx)
	for err == nil {
		for _, part := range parts {
			if err = conn.Send(ctx, part).Wait(ctx); err != nil {
				break
			}
		}
		if err == nil && head.Next > 0 {
			c.member.ReportStreams([]control.StreamHead{head}) // receivers hold this client to what it has sent
		}
		if !errors.Is(err, session.ErrLost) {
			return err
		}
		conn, err = c.nextConnection(ctx, conn)
	}
	return err
}

// allow refuses what cannot be published, whatever the policy says.
func (c *Client) allow(p *Publication) error {
	switch err := topic.ValidateName([]byte(p.Topic)); {
	case p.QoS > 2:
		return fmt.Errorf("QoS %d; want 0, 1 or 2", p.QoS)
	case err != nil:
		return err
	case c.isControl(p.Topic):
		return fmt.Errorf("topics under %q carry the fleet's control messages", c.opts.Prefix+"/")
	case len(p.Payload) > c.opts.MaxMessage:
		return fmt.Errorf("%d bytes; at most %d are allowed", len(p.Payload), c.opts.MaxMessage)
	case c.opts.Version != 5 && (p.Expiry > 0 || !p.Properties.Empty()):
		return errors.New("properties and an expiry need MQTT 5: set Version to 5 (sealctl: -V 5)")
	}
	return nil
}

// prepare returns what goes onto the wire: the message sealed, or as it is where the policy
// leaves the topic in the clear. head is of the stream that it was sealed in, if it was.
func (c *Client) prepare(ctx context.Context, p *Publication) (parts []*Publication, head control.StreamHead, err error) {
	wire := *p
	out := &wire
	state := c.member.State()
	d := state.Table.Publish([]byte(p.Topic))
	switch {
	case d.Verdict == policy.Pass:
		out.Payload = append([]byte(nil), p.Payload...)
		return []*Publication{out}, head, c.hideResponse(ctx, state, &out.Properties)
	case d.Verdict != policy.Seal:
		return nil, head, errors.New("the fleet policy denies this topic: no group covers it")
	}
	if d.Hide {
		if out.Topic, err = c.hideName(ctx, p.Topic, d.Group); err != nil {
			return nil, head, err
		}
	}
	out.Properties = Properties{} // inside
	props, err := p.Properties.AppendTo(nil)
	if err != nil {
		return nil, head, err
	}
	key, err := c.sendKey(ctx, d.Group)
	if err != nil {
		return nil, head, err
	}
	out.Payload, head, err = c.out.seal(p.Topic, out.Topic, d, key, props, p.Payload)
	if len(p.Payload) == 0 && p.Retain && d.ClearRetained {
		return clears(out), head, err
	}
	return []*Publication{out}, head, err
}

// clears are the two messages that go in place of one that deletes a retained one, where the policy allows that: what deletes, and sealed, which
// tells those who listen (spec 3.2).
func clears(sealed *Publication) []*Publication {
	deletes := &Publication{Topic: sealed.Topic, Retain: true, Expiry: sealed.Expiry}
	sealed.Retain = false
	if sealed.QoS < 2 {
		return []*Publication{deletes, sealed}
	}
	deletes.QoS, sealed.QoS = 2, 0
	return []*Publication{sealed, deletes}
}

// sendKey is the key that this member may seal under in a group; it waits for one.
func (c *Client) sendKey(ctx context.Context, group string) (key *crypto.Key, err error) {
	if c.opts.ReadOnly {
		return nil, errors.New("this client was made ReadOnly")
	}
	me := c.member.Identity()
	if g := c.member.State().Policy.Document.Group(group); g == nil || !g.MayPublish(me) {
		return nil, fmt.Errorf("the fleet policy does not let %s %q publish in group %q; add its name to the group's publish list", me.Role, me.Name, group)
	}
	err = c.waitFor(ctx, func(s *member.State) bool { key = s.Keys.Send(group); return key != nil })
	if err != nil {
		return nil, fmt.Errorf("no confirmed key of group %q (does a keeper's controld run?): %w", group, err)
	}
	return key, nil
}
