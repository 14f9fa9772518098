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
	topic, group string
	key          crypto.KeyID
	stream       *crypto.SealStream
}

func (p *publisher) init(name string) error {
	p.name, p.topics, p.recent = name, make(map[string]*list.Element), list.New()
	_, err := rand.Read(p.boot[:])
	return err
}

// seal seals payload for a topic, as decided, under key.
func (p *publisher) seal(name string, d policy.Decision, key *crypto.Key, payload []byte) (wire []byte, head control.StreamHead, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		s, err := p.get(name, d.Group, key)
		if err != nil {
			return nil, head, err
		}
		s.stream.SetPad(d.Pad)
		out, seq, err := s.stream.Seal(nil, nil, payload)
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
func (p *publisher) get(name, group string, key *crypto.Key) (*sealing, error) {
	if e, ok := p.topics[name]; ok {
		if s := e.Value.(*sealing); s.key == key.ID && s.group == group {
			p.recent.MoveToFront(e)
			return s, nil
		}
		p.forget(name)
	}
	var fresh [16]byte
	if _, err := rand.Read(fresh[:]); err != nil {
		return nil, err
	}
	stream, err := crypto.NewSealStream(key.Secret, group, name, crypto.NewStreamID(p.name, p.boot, fresh, false))
	if err != nil {
		return nil, err
	}
	if p.recent.Len() >= maxSealStreams {
		p.forget(p.recent.Back().Value.(*sealing).topic)
	}
	s := &sealing{name, group, key.ID, stream}
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
// retained one; it passes as it is where the policy allows clears.
func (c *Client) Publish(ctx context.Context, name string, payload []byte, qos byte, retain bool) error {
	err := c.publish(ctx, name, payload, qos, retain)
	if err != nil {
		return fmt.Errorf("publish on %q: %w", name, err)
	}
	return nil
}

func (c *Client) publish(ctx context.Context, name string, payload []byte, qos byte, retain bool) error {
	if qos > 2 {
		return fmt.Errorf("QoS %d; want 0, 1 or 2", qos)
	}
	if err := topic.ValidateName([]byte(name)); err != nil {
		return err
	}
	if c.isControl(name) {
		return fmt.Errorf("topics under %q carry the fleet's control messages", c.opts.Prefix+"/")
	}
	if len(payload) > c.opts.MaxMessage {
		return fmt.Errorf("%d bytes; at most %d are allowed", len(payload), c.opts.MaxMessage)
	}
	wire, head, err := c.prepare(ctx, name, payload, retain)
	if err != nil {
		return err
	}
	conn, err := c.connection(ctx)
	for err == nil {
		err = conn.Publish(name, wire, qos, retain).Wait(ctx)
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

// prepare returns what goes onto the wire: the sealed message, or the message itself where the policy
// leaves the topic in the clear. head is of the stream that it was sealed in, if it was.
func (c *Client) prepare(ctx context.Context, name string, payload []byte, retain bool) (wire []byte, head control.StreamHead, err error) {
	state := c.member.State()
	d := state.Table.Publish([]byte(name))
	switch {
	case d.Verdict == policy.Pass:
		return append([]byte(nil), payload...), head, nil
	case d.Verdict != policy.Seal:
		return nil, head, errors.New("the fleet policy denies this topic: no group covers it")
	case len(payload) == 0 && retain && d.ClearRetained:
		return []byte{}, head, nil
	case c.opts.ReadOnly:
		return nil, head, errors.New("this client was made ReadOnly")
	}
	me := c.member.Identity()
	if g := state.Policy.Document.Group(d.Group); g == nil || !g.MayPublish(me) {
		return nil, head, fmt.Errorf("the fleet policy does not let %s %q publish in group %q; add its name to the group's publish list", me.Role, me.Name, d.Group)
	}
	var key *crypto.Key
	err = c.waitFor(ctx, func(s *member.State) bool { key = s.Keys.Send(d.Group); return key != nil })
	if err != nil {
		return nil, head, fmt.Errorf("no confirmed key of group %q (does a keeper's controld run?): %w", d.Group, err)
	}
	return c.out.seal(name, d, key, payload)
}
