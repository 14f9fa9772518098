package subscriber

import (
	"crypto/sha256"
	"strings"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/topic"
)

// maxTopicNames bounds the topics whose names reports can give.
const maxTopicNames = 1 << 14

// ledgers hold what arrived against the checkpoints of those who sent it, one checkpoint.Ledger a group. One goroutine
// owns them.
type ledgers struct {
	of    map[string]*groupLedger
	names map[[32]byte]string // topics by SHA-256
	keys  *crypto.Keyring
}

type groupLedger struct {
	*checkpoint.Ledger
	interval time.Duration
	filters  string // what it was made for
}

// adopt makes the ledgers that a policy and the subscriptions call for. Those that nothing has changed for stay.
func (l *ledgers) adopt(now time.Duration, s *member.State, self crypto.Member, filters []string) {
	l.keys = s.Keys
	next := make(map[string]*groupLedger)
	if s.Policy != nil && !shared(filters) {
		for i := range s.Policy.Document.Groups {
			g := &s.Policy.Document.Groups[i]
			if wanted := strings.Join(filters, "\n"); !g.MayRead(self) || !overlaps(filters, s.Policy.Document.TopicsOf(g)) {
				continue
			} else if old := l.of[g.Name]; old != nil && old.interval == g.Checkpoint && old.filters == wanted {
				next[g.Name] = old
			} else if made, err := l.open(g, s.Policy.Document.TopicsOf(g), filters); err == nil {
				made.Interrupted(now)
				next[g.Name] = &groupLedger{made, g.Checkpoint, wanted}
			}
		}
	}
	l.of = next
}

// open makes the ledger of a group, whose messages come on topics.
func (l *ledgers) open(g *policy.Group, topics, filters []string) (*checkpoint.Ledger, error) {
	group := g.Name
	cfg := checkpoint.Config{
		Interval: g.Checkpoint, All: true,
		Digest: func(key crypto.KeyID, name [32]byte) (checkpoint.Digest, bool) {
			return control.Digest(l.keys, group, key, name)
		},
	}
	for _, t := range topics {
		cfg.All = cfg.All && covered(filters, t)
	}
	for _, f := range filters {
		if !strings.ContainsAny(f, "+#") {
			cfg.Topics = append(cfg.Topics, l.name(f))
		}
	}
	return checkpoint.New(cfg)
}

// name remembers a topic and returns its digest.
func (l *ledgers) name(t string) [32]byte {
	d := sha256.Sum256([]byte(t))
	if l.names == nil || len(l.names) >= maxTopicNames {
		l.names = make(map[[32]byte]string)
	}
	l.names[d] = t
	return d
}

// received tells the ledger of a message that is about to be delivered, and says in the message who sent it. Wills are
// the broker's to send, and retained messages may be of any age: neither is in anybody's checkpoints.
func (l *ledgers) received(now time.Duration, m *Message) {
	g := l.of[m.Group]
	if g == nil || !m.Sealed {
		return
	}
	kid := crypto.NewKid(m.Key, m.Stream)
	if m.Status == StatusOK && !m.Retain && !m.Stream.Will() {
		g.Received(now, kid, l.name(m.Topic), m.Seq)
	}
	if m.Status == StatusOK || m.Report() {
		m.Gateway = g.Attributed(kid)
	}
}

// checkpoint gives a verified checkpoint to its group's ledger.
func (l *ledgers) checkpoint(now time.Duration, c control.ReceivedCheckpoint, whole bool) {
	if g := l.of[c.Message.Group]; g != nil {
		if !whole { // our own session is interrupted: what was sent cannot have arrived
			g.Interrupted(now)
		}
		_ = g.Checkpoint(now, c.From.Name, c.Message) // replays are of no consequence
	}
}

func (l *ledgers) interrupted(now time.Duration) {
	for _, g := range l.of {
		g.Interrupted(now)
	}
}

// advance tells the time and returns what was found out.
func (l *ledgers) advance(now time.Duration, whole bool) (out []*Message) {
	for name, g := range l.of {
		if whole {
			g.Advance(now)
		}
		for _, e := range g.Take() {
			out = append(out, l.report(name, e))
		}
	}
	return out
}

func (l *ledgers) deadline() (at time.Duration, ok bool) {
	for _, g := range l.of {
		if t, has := g.Deadline(); has && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// report makes a Message of an event.
func (l *ledgers) report(group string, e checkpoint.Event) *Message {
	m := &Message{
		Topic: l.names[e.Topic], Status: Status(e.What.String()), Group: group, Gateway: e.Gateway, Other: e.Other,
		Stream: e.Kid.StreamID(), Key: e.Kid.KeyID(), Sealed: e.Kid != (crypto.Kid{}), From: e.From, To: e.To,
	}
	return m
}

// shared reports whether a subscription is shared with others: then nobody knows what should have arrived here.
func shared(filters []string) bool {
	for _, f := range filters {
		if strings.HasPrefix(f, "$share/") {
			return true
		}
	}
	return false
}

func overlaps(filters, topics []string) bool {
	for _, f := range filters {
		for _, t := range topics {
			if topic.Overlap(f, t) {
				return true
			}
		}
	}
	return false
}

// covered reports whether one of filters matches every name that t matches.
func covered(filters []string, t string) bool {
	for _, f := range filters {
		if topic.Covers(f, t) {
			return true
		}
	}
	return false
}
