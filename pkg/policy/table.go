package policy

import (
	"fmt"
	"strings"

	"sealgate/pkg/crypto"
	"sealgate/pkg/topic"
)

// Verdict says what happens to a message.
type Verdict byte

// The verdicts. The zero Verdict denies, so that forgetting to decide lets nothing out.
const (
	Deny Verdict = iota // refused and counted
	Pass                // forwarded as it is
	Seal                // sealed on the way up; on the way down only what opens is delivered
)

// String is the verdict as metrics and logs show it.
func (v Verdict) String() string {
	switch v {
	case Seal:
		return "seal"
	case Pass:
		return WordPass
	}
	return WordDeny
}

// Decision is the answer for one topic.
type Decision struct {
	Verdict       Verdict
	Group         string // set if Verdict is Seal
	ClearRetained bool   // a zero-length retained PUBLISH may pass as it is
	Hide          bool   // the topic is hidden: to be, or received so; Group is then not known before the message opens
	Pad           int    // multiple of bytes that the inner plaintext is padded to; 0: not padded
}

// Table answers for topics. It is immutable and safe for concurrent use.
type Table struct {
	topics    topic.Set[Decision]
	unmatched Decision
	pad       int
	hidden    hidden
}

// Table builds the table of a valid document.
func (d *Document) Table() (*Table, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	t := new(Table)
	for i := range d.Groups {
		g := &d.Groups[i]
		t.pad = max(t.pad, g.Pad)
		t.hidden.add(g)
		for _, f := range g.Topics {
			if err := t.topics.Add(f, g.decision()); err != nil {
				return nil, fmt.Errorf("policy: group %q: topic filter %q: %w", g.Name, f, err)
			}
		}
	}
	t.hidden.unmatched(d)
	switch group, seal := strings.CutPrefix(d.Unmatched, SealPrefix); {
	case seal:
		t.unmatched = d.Group(group).decision()
	case d.Unmatched == WordPass:
		t.unmatched = Decision{Verdict: Pass, ClearRetained: true}
	}
	return t, nil
}

func (g *Group) decision() Decision {
	return Decision{Verdict: Seal, Group: g.Name, ClearRetained: g.ClearRetained == WordPass, Hide: g.HideTopics, Pad: g.Pad}
}

// MaxPad is the largest Pad of all groups: an envelope under this policy is up to MaxPad+1 bytes longer than
// without padding, or as long if it is 0.
func (t *Table) MaxPad() int {
	if t == nil {
		return 0
	}
	return t.pad
}

// Publish decides about a PUBLISH that a device sends, by its full topic name. It does not
// allocate.
//
// Topics that begin with '$' are the broker's own (MQTT-4.7.2-1). A filter that names the
// '$' level covers them, "#" does not, and the rule "seal:<group>" for unmatched topics
// does not either: a broker cannot use a sealed message there. Then they are denied.
func (t *Table) Publish(name []byte) Decision {
	if t.Hides() && crypto.LooksHidden(name) {
		return Decision{} // it could only be taken for what it is not
	}
	return t.decide(name)
}

func (t *Table) decide(name []byte) Decision {
	if d, ok := t.topics.Lookup(name); ok {
		d.Hide = d.Hide && name[0] != '$'
		return d
	}
	if t.unmatched.Verdict == Seal && len(name) > 0 && name[0] == '$' {
		return Decision{}
	}
	return t.unmatched
}

// Receive decides about a PUBLISH that the broker sends, by its full topic name. The
// topic decides, never the content: on a sealed topic only an envelope that opens under
// the group's keys is delivered. It does not allocate.
//
// On a hidden topic only an envelope of one of the groups of [Table.Hiding] is delivered, whose name [Table.Hidden] then
// confirms.
func (t *Table) Receive(name []byte) Decision {
	if t.Hides() && crypto.LooksHidden(name) {
		return Decision{Verdict: Seal, Hide: true, ClearRetained: t.hidden.clears}
	}
	d := t.decide(name)
	d.Hide = false
	return d
}
