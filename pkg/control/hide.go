package control

import (
	"fmt"
	"slices"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Topic keys (spec 4.2; envelope.md 17.1). A keeper derives the key from the fleet's topic secret; every other member has it from
// a Grant. It holds for all groups, and as long as the policy names its number.

// redefineTopics gives this member the topic key of the policy in force, or takes it away. before is the policy before.
func (m *Machine) redefineTopics(before *policy.Signed) {
	doc := m.policy.Document
	if before != nil && before.Document.TopicKey != doc.TopicKey || !m.takesPart(func(g *group) bool { return g.member }) {
		m.topicKey = nil
	}
	if m.topicKey != nil || !m.takesPart(func(g *group) bool { return g.keeper }) {
		return
	}
	if m.cfg.Topics == nil {
		m.alarm(Event{Kind: KindPolicy, Result: ResultNote,
			Err: fmt.Errorf("keeps a group that hides its topics: %w: copy topic.key, which `sealctl policy sign` made, into the identity directory and restart controld", ErrTopicKey)})
		return
	}
	key, err := m.cfg.Topics.Key(m.self.Fleet, doc.TopicKey)
	if err != nil {
		m.alarm(Event{Kind: KindPolicy, Result: ResultNote, Err: err})
		return
	}
	m.topicKey = key
}

// takesPart reports whether in holds for a group that hides its topics.
func (m *Machine) takesPart(in func(*group) bool) bool {
	return slices.ContainsFunc(m.ordered(), func(g *group) bool { return g.def.HideTopics && in(g) })
}

// lacksTopics reports whether this keeper cannot grant the group's keys for want of the topic key.
func (g *group) lacksTopics(m *Machine) bool { return g.def.HideTopics && m.topicKey == nil }

// takeTopics takes the topic key of a Grant. One that a keeper derived itself stays.
func (m *Machine) takeTopics(k *crypto.TopicKey, from crypto.Member) {
	switch {
	case k == nil || k.Equal(m.topicKey):
	case m.topicKey != nil && m.cfg.Topics != nil && m.takesPart(func(g *group) bool { return g.keeper }):
		m.alarm(Event{Kind: KindGrant, Result: ResultNote, From: label(from),
			Detail: "its topic key is another than ours: the topic.key of the two keepers differ; copy the operator's to both, and restart controld"})
	default:
		m.topicKey, m.keysChanged = k, true
	}
}
