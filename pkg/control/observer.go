package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Observer verifies what members say to keepers and to each other, for a program that looks on and takes no part: it
// asks nothing, answers nothing and holds no key (spec 6.12). It goes by the rules of those that a message is for; what it
// refuses, they refuse. It is not safe for concurrent use.
type Observer struct {
	trust  *crypto.Trust
	prefix string
	policy *policy.Signed
	leases map[string]*leaseSeen // of keepers that the policy lists
}

// Heard is a verified message. Of Hello, Lease, Epoch and Checkpoint the one that Kind names is set.
type Heard struct {
	Kind  Kind
	From  crypto.Member
	Group string // of an Epoch or a Checkpoint

	Hello      *Hello
	Lease      *Lease // its groups are those that its sender keeps
	Epoch      *EpochMessage
	Checkpoint *checkpoint.Message
}

// ErrNoPolicy is why an Observer that knows no policy verifies nothing.
var ErrNoPolicy = errors.New("no fleet policy is known yet")

// NewObserver makes an observer of the fleet of that CA, below a topic prefix.
func NewObserver(t *crypto.Trust, prefix string) *Observer {
	return &Observer{trust: t, prefix: prefix, leases: make(map[string]*leaseSeen)}
}

// Filters are the topic filters to subscribe to: Hellos and leases, epochs, checkpoints.
func (o *Observer) Filters() []string {
	return []string{ControlTopic(o.prefix), KeysTopic(o.prefix, "+"), CheckpointTopic(o.prefix, "+", "+")}
}

// SetPolicy tells the policy in force. What was refused because of another one is worth asking the broker for again.
func (o *Observer) SetPolicy(p *policy.Signed) {
	o.policy = p
	for name := range o.leases {
		if !slices.ContainsFunc(p.Document.Groups, func(g policy.Group) bool { return slices.Contains(g.Keepers, name) }) {
			delete(o.leases, name)
		}
	}
}

// Receive verifies a message that arrived at that civil time. Heard keeps views into msg; with an error it has as much
// of Kind and From as is certain.
func (o *Observer) Receive(now time.Time, topic string, msg []byte) (h Heard, err error) {
	if o.policy == nil {
		return h, ErrNoPolicy
	}
	group, keys := groupOfKeysTopic(o.prefix, topic)
	name, sender, checkpoints := ofCheckpointTopic(o.prefix, topic)
	switch {
	case keys:
		h.Kind, h.Group = KindEpoch, group
	case checkpoints:
		h.Kind, h.Group = KindCheckpoint, name
	case topic == ControlTopic(o.prefix):
		if h.Kind = kindOf(msg); h.Kind != KindHello && h.Kind != KindLease {
			return Heard{Kind: KindUnknown}, ErrKind
		}
	default:
		return Heard{Kind: KindUnknown}, fmt.Errorf("topic %.80q: %w", topic, ErrKind)
	}
	payload, from, err := verify(o.trust, o.policy.Document, now, msg, h.Kind)
	h.From = from
	if err != nil {
		return h, err
	}
	switch h.Kind {
	case KindHello:
		h.Hello, err = ParseHello(payload)
	case KindLease:
		h.Lease, err = o.lease(payload, from)
	case KindEpoch:
		h.Epoch, err = o.epoch(group, payload, from)
	case KindCheckpoint:
		h.Checkpoint, err = o.checkpoint(name, sender, payload, from)
	}
	return h, err
}

// group finds a group of the policy.
func (o *Observer) group(name string) (*policy.Group, error) {
	if g := o.policy.Document.Group(name); g != nil {
		return g, nil
	}
	return nil, ErrNoGroup
}

func (o *Observer) lease(payload []byte, from crypto.Member) (*Lease, error) {
	l, err := ParseLease(payload)
	if err != nil {
		return nil, err
	}
	l.Groups = slices.DeleteFunc(l.Groups, func(lg LeaseGroup) bool {
		g := o.policy.Document.Group(lg.Name)
		return g == nil || !g.Keeper(from)
	})
	if len(l.Groups) == 0 {
		return nil, ErrNotKeeper
	}
	if err := checkPolicy(o.policy, l.PolicyVersion, l.PolicyHash); err != nil {
		return nil, err
	}
	seen := o.leases[from.Name]
	if seen == nil {
		seen = new(leaseSeen)
		o.leases[from.Name] = seen
	}
	if seen.replayed(l) {
		return nil, ErrReplayedLease
	}
	return l, nil
}

func (o *Observer) epoch(name string, payload []byte, from crypto.Member) (*EpochMessage, error) {
	e, err := ParseEpoch(payload)
	if err != nil {
		return nil, err
	}
	g, err := o.group(name)
	switch {
	case err != nil:
		return nil, err
	case !g.Keeper(from):
		return nil, ErrNotKeeper
	case e.Group != name:
		return nil, ErrTopic
	}
	if err := checkMinters(g, e); err != nil {
		return nil, err
	}
	return e, checkPolicy(o.policy, e.PolicyVersion, e.PolicyHash)
}

func (o *Observer) checkpoint(name, sender string, payload []byte, from crypto.Member) (*checkpoint.Message, error) {
	c, err := checkpoint.Parse(payload)
	if err != nil {
		return nil, err
	}
	g, err := o.group(name)
	if err != nil {
		return nil, err
	}
	return c, checkCheckpoint(g, c, name, sender, from)
}
