package subscriber

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

// Hidden topics (docs/spec/envelope.md 17): the program knows names, the broker tokens. Filters are translated here, messages where they are
// sealed and opened.

// takesPart reports whether the client's member may read or publish in a group that hides its topics, so that it gets the topic key.
func (c *Client) takesPart(s *member.State) bool {
	return s.Policy != nil && s.Policy.Document.TakesPart(c.member.Identity(), s.Table.Hiding())
}

// subscriptionOf gives what reaches the broker of a filter. It waits for the topic key where there is none yet, and fails where nothing
// is left.
func (c *Client) subscriptionOf(ctx context.Context, name string) (wires []string, err error) {
	if c.isControl(name) {
		return []string{name}, nil
	}
	err = c.waitFor(ctx, func(s *member.State) bool {
		var missing bool
		wires, missing = s.Table.Wires(s.Keys.TopicKey(), name)
		return !missing || !c.takesPart(s)
	})
	if err != nil {
		return nil, fmt.Errorf("no topic key to hide the filter under (does a keeper's controld run?): %w", err)
	}
	if len(wires) == 0 {
		me := c.member.Identity()
		return nil, fmt.Errorf("its topics are hidden, and the fleet policy lets %s %q read or publish in no group that hides its topics", me.Role, me.Name)
	}
	for _, w := range wires {
		if len(w) > crypto.MaxTopic {
			return nil, errLongName
		}
	}
	return wires, nil
}

var errLongName = errors.New("longer than 65535 bytes when it is hidden: it has too many levels")

// renamed brings the subscriptions in line with a state under which filters may reach the broker otherwise than before.
func (c *Client) renamed(s *member.State) {
	c.mu.Lock()
	conn := c.conn
	var drop, take []filter
	for i := range c.filters {
		f := &c.filters[i]
		if c.isControl(f.name) {
			continue
		}
		wires, missing := s.Table.Wires(s.Keys.TopicKey(), f.name)
		if missing && c.takesPart(s) {
			continue // until the key comes
		}
		for _, w := range f.wires {
			if !slices.Contains(wires, w) {
				drop = append(drop, filter{name: w, qos: f.qos})
			}
		}
		for _, w := range wires {
			if !slices.Contains(f.wires, w) {
				take = append(take, filter{name: w, qos: f.qos})
			}
		}
		f.wires = wires
	}
	c.mu.Unlock()
	if conn == nil || len(drop)+len(take) == 0 {
		return
	}
	go func() {
		for _, f := range take {
			c.again(conn, f)
		}
		for _, f := range drop {
			if err := conn.Unsubscribe(c.ctx, f.name); err != nil && c.ctx.Err() == nil {
				c.log.Warn("a subscription of before stays", "error", err)
			}
		}
	}()
}

// again makes a subscription once more that has been made before, on this connection or another.
func (c *Client) again(conn *session.Conn, f filter) {
	err := conn.Subscribe(c.ctx, f.name, f.qos)
	if err != nil && c.ctx.Err() == nil {
		c.log.Warn("subscription is missing after reconnecting", "error", err)
	}
	if errors.Is(err, session.ErrRefused) {
		go conn.Insist(c.ctx, f.name, f.qos)
	}
}

// hideName is what the broker knows the topic of a message as; it waits for the topic key.
func (c *Client) hideName(ctx context.Context, name, group string) (wire string, err error) {
	var k *crypto.TopicKey
	err = c.waitFor(ctx, func(s *member.State) bool { k = s.Keys.TopicKey(); return k != nil || !c.takesPart(s) })
	switch {
	case err != nil:
		return "", fmt.Errorf("no topic key to hide the topic under (does a keeper's controld run?): %w", err)
	case k == nil:
		return "", fmt.Errorf("group %q hides its topics, and the fleet policy does not let %q take part in it", group, c.member.Identity().Name)
	}
	if wire = k.Hide(name); len(wire) > crypto.MaxTopic {
		return "", errLongName
	}
	return wire, nil
}

// hideResponse replaces the response topic of a message that is not sealed, if the policy hides it.
func (c *Client) hideResponse(ctx context.Context, s *member.State, p *Properties) error {
	if p.ResponseTopic == "" {
		return nil
	}
	d := s.Table.Publish([]byte(p.ResponseTopic))
	if !d.Hide {
		return nil
	}
	wire, err := c.hideName(ctx, p.ResponseTopic, d.Group)
	if err != nil {
		return fmt.Errorf("response topic: %w", err)
	}
	p.ResponseTopic = wire
	return nil
}

// find looks for the key of an envelope that came on a topic, as decided, and for its group.
func (r *Receiver) find(d policy.Decision, wire string, e *crypto.Envelope) (*crypto.Key, string) {
	if d.Hide {
		return r.keys.FindHidden(r.table.Hiding(), wire, e)
	}
	return r.keys.Find(d.Group, e.Kid.KeyID()), d.Group
}

// groupsOf are the groups that a message on a topic may be of: of a hidden one, all that hide theirs.
func (r *Receiver) groupsOf(wire string) []string {
	if d := r.table.Receive([]byte(wire)); !d.Hide {
		return []string{d.Group}
	}
	return r.table.Hiding()
}

// nameOf takes the topic name off the inner plaintext of a message that came on a hidden topic.
func (r *Receiver) nameOf(m *Message, wire string, inner []byte) ([]byte, error) {
	name, rest, err := crypto.SplitName(inner)
	if err != nil {
		return nil, err
	}
	if !r.table.Hidden(r.keys.TopicKey(), m.Group, wire, string(name)) {
		return nil, crypto.ErrInner
	}
	m.Topic = string(name)
	return rest, nil
}
