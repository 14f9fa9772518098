package gateway

import (
	"encoding/binary"
	"sync"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// Hidden topics (envelope.md 17): a device knows names, the broker tokens. What a device publishes gets its tokens where its stream
// begins; what comes back brings its name along, sealed. hidesub.go translates subscriptions.

// hideGrowth is what a PUBLISH on a hidden topic of up to 32 levels grows by beside the envelope: tokens, and the length of
// the name inside. One with more levels, or that comes by a topic alias, may turn out too long for the broker although its device
// kept to the limit it was told; see tooLarge.
const hideGrowth = 32*(crypto.TokenSize+1) + 2

// naming tells when topics change their names on the wire: another topic key, or other topics that are hidden. Whoever connected before
// has subscriptions and topic aliases under the old names, so that connection ends.
type naming struct {
	mu    sync.Mutex // guards what follows
	table *policy.Table
	key   *crypto.TopicKey
	now   uint64 // counts the changes
}

// follow takes s into account. It returns the present naming, and whether that has changed. A key that comes for the first
// time, or goes until it is granted again, changes no name.
func (n *naming) follow(s *State) (now uint64, changed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.Table != nil {
		changed = n.table != nil && !n.table.SameHiding(s.Table)
		n.table = s.Table
	}
	if key := s.Keys.TopicKey(); key != nil {
		changed = changed || n.key != nil && !n.key.Equal(key)
		n.key = key
	}
	if changed {
		n.now++
	}
	return n.now, changed
}

// errRenamed ends a connection of an earlier naming.
var errRenamed = refuse(refusedRenamed, 0x98, "how topics are hidden has changed: the device is to connect and subscribe anew")

// rename ends the connections of earlier namings. Those that are about to begin end by themselves, with the first message.
func (g *Gateway) rename(now uint64) {
	g.mu.Lock()
	var old []*conn
	for c := range g.conns {
		if c.running.Load() && c.naming != now {
			old = append(old, c)
		}
	}
	g.mu.Unlock()
	for _, c := range old {
		c.fail(errRenamed)
		c.abort()
	}
}

var errLongName = refuse(refusedDenied, 0x90, "a topic is longer than 65535 bytes when it is hidden: it has more than 3640 levels")

// hideName is what the broker knows a topic as.
func hideName(k *crypto.TopicKey, topic string) ([]byte, error) {
	wire := k.Hide(topic)
	if len(wire) > crypto.MaxTopic {
		return nil, errLongName
	}
	return []byte(wire), nil
}

// named reports whether the stream is on the topic that its messages are to go out on now.
func (s *sealStream) named(d policy.Decision, k *crypto.TopicKey) bool {
	if !d.Hide {
		return s.wire == nil
	}
	return s.wire != nil && string(s.wire) == k.Hide(s.topic)
}

// hideResponse gives the properties of a message that is not sealed with tokens in a response topic that the policy hides, or without it
// while there is no topic key (envelope.md 17.3). It reports false if there is none.
func (g *Gateway) hideResponse(s *State, block []byte) (out []byte, changed bool) {
	if len(block) == 0 || !s.Table.Hides() {
		return block, false
	}
	for it := mqttparse.Properties(block); it.Next(); {
		if it.ID() != mqttparse.PropResponseTopic || !g.decide(s, it.Value()).Hide {
			out = append(out, it.Raw()...)
			continue
		}
		changed = true
		if k := s.Keys.TopicKey(); k != nil {
			if wire, err := hideName(k, string(it.Value())); err == nil {
				out = binary.BigEndian.AppendUint16(append(out, mqttparse.PropResponseTopic), uint16(len(wire)))
				out = append(out, wire...)
			}
		}
	}
	return out, changed
}

// find looks for the key of a message on topic, as decided, and for its group.
func (d *downPath) find(dec policy.Decision, topic []byte, env *crypto.Envelope) (*crypto.Key, string) {
	if dec.Hide {
		return d.state.Keys.FindHidden(d.state.Table.Hiding(), string(topic), env)
	}
	return d.state.Keys.Find(dec.Group, env.Kid.KeyID()), dec.Group
}

// askFor asks for an unknown key: in all groups that it may be of.
func (d *downPath) askFor(dec policy.Decision, id crypto.KeyID, now time.Time) {
	groups := []string{dec.Group}
	if dec.Hide {
		groups = d.state.Table.Hiding()
	}
	for _, g := range groups {
		if d.c.g.asked.first(askedKey{g, id}, now) && d.c.g.cfg.UnknownKey != nil {
			d.c.g.cfg.UnknownKey(g, id)
		}
	}
}

// nameOf takes the topic name off the inner plaintext of a hidden topic's message, and returns what follows. The name has to be one
// that the topic hides, which is looked at once for a stream and State.
func (d *downPath) nameOf(s *openStream, inner []byte) ([]byte, error) {
	name, rest, err := crypto.SplitName(inner)
	switch {
	case err != nil:
		return nil, err
	case s.verified == s.state && string(s.name) == string(name):
		return rest, nil
	case !s.state.Table.Hidden(s.state.Keys.TopicKey(), s.group, s.id.topic, string(name)):
		return nil, crypto.ErrInner
	}
	s.name, s.verified = append(s.name[:0], name...), s.state
	s.matched = false // the device subscribes by names
	return rest, nil
}

// topicName is the name that devices know the stream's topic by.
func (s *openStream) topicName() string {
	if s.hidden {
		return string(s.name)
	}
	return s.id.topic
}
