package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/topic"
)

// maxDuration bounds every duration: a year is more than any of them can mean.
const maxDuration = 366 * 24 * time.Hour

// limits of each duration. The lower ones keep a typing error ("1s" for "1h") from turning
// into a storm of control messages, yet let tests and demonstrations be quick.
var durations = []struct {
	key         string
	least, most time.Duration
	ofGroup     func(*Group) time.Duration
}{
	{"rotate", time.Second, 31 * 24 * time.Hour, func(g *Group) time.Duration { return g.Rotate }},
	{"history", time.Second, maxDuration, func(g *Group) time.Duration { return g.History }},
	{"freshness", time.Second, 31 * 24 * time.Hour, func(g *Group) time.Duration { return g.Freshness }},
	{"activate_after", 0, time.Hour, func(g *Group) time.Duration { return g.ActivateAfter }},
	{"checkpoint", time.Second, 24 * time.Hour, func(g *Group) time.Duration { return g.Checkpoint }},
}

// Validate reports everything that keeps the document from being signed or obeyed, nil if
// it holds together: names, bounds, known words, durations in range, keepers named, and no
// topic that two groups claim. Each problem names its key.
func (d *Document) Validate() error {
	var p problems
	d.validate(&p)
	if d.Fleet == "" {
		p.add("fleet", "missing")
	}
	if d.Version == 0 {
		p.add("version", "0 is not a version; the first one is 1")
	}
	for i := range d.Groups {
		if len(d.Groups[i].Keepers) == 0 {
			p.add(groupKey(i, "keepers"), "group %q has no keeper: nobody would make its keys; name one to %d members", d.Groups[i].Name, MaxKeepers)
		}
	}
	return p.err()
}

// problem is one defect at one key, such as group[1].topics.
type problem struct{ key, text string }

type problems []problem

const maxProblems = 50

// add records a problem; past the first few dozen, one more helps nobody.
func (p *problems) add(key, format string, args ...any) {
	if len(*p) >= maxProblems {
		return
	}
	*p = append(*p, problem{key, fmt.Sprintf(format, args...)})
}

func (p problems) err() error {
	var errs []error
	for _, one := range p {
		errs = append(errs, fmt.Errorf("policy: %s: %s", one.key, one.text))
	}
	return errors.Join(errs...)
}

func groupKey(i int, key string) string { return fmt.Sprintf("group[%d].%s", i, key) }

// validate checks all but what signing fills in: fleet, version and keepers may be missing.
func (d *Document) validate(p *problems) {
	if d.Fleet != "" && !crypto.ValidName(d.Fleet) {
		p.add("fleet", "%q is not a name: %s", d.Fleet, nameRule)
	}
	if len(d.Groups) == 0 {
		p.add("group", "no group: at least one is needed, for example name = \"default\", topics = [\"#\"]")
	}
	if len(d.Groups) > MaxGroups {
		p.add("group", "%d groups, at most %d allowed", len(d.Groups), MaxGroups)
		return
	}
	filters := 0
	for i := range d.Groups {
		filters += len(d.Groups[i].Topics)
	}
	if filters > MaxFilters {
		p.add("group.topics", "%d topic filters in all groups, at most %d allowed", filters, MaxFilters)
		return
	}
	for i := range d.Groups {
		d.Groups[i].validate(i, p)
	}
	d.validateUnmatched(p)
	d.validateTopicKey(p)
	d.validateApart(p)
	d.validateRevocations(p)
}

func (d *Document) validateUnmatched(p *problems) {
	group, seal := strings.CutPrefix(d.Unmatched, SealPrefix)
	switch {
	case seal && d.Group(group) == nil:
		p.add("unmatched", "%q names a group that does not exist", d.Unmatched)
	case !seal && d.Unmatched != WordPass && d.Unmatched != WordDeny:
		p.add("unmatched", "%q is not a rule: use \"seal:<group>\", \"pass\" or \"deny\"", d.Unmatched)
	}
}

func (d *Document) validateTopicKey(p *problems) {
	switch hides := d.hides(); {
	case hides && (d.TopicKey == 0 || d.TopicKey > MaxTopicKey):
		p.add("topic_key", "%d is out of range: 1 to %d allowed where a group hides its topics", d.TopicKey, uint64(MaxTopicKey))
	case !hides && d.TopicKey != 0:
		p.add("topic_key", "%d, but no group hides its topics", d.TopicKey)
	}
}

// validateApart refuses a topic that two groups claim: which keys seal a topic must have one
// answer, the same at every member.
func (d *Document) validateApart(p *problems) {
	for i := range d.Groups {
		a := &d.Groups[i]
		for j := range i {
			b := &d.Groups[j]
			if a.Name == b.Name {
				p.add(groupKey(i, "name"), "%q is used twice", a.Name)
				continue
			}
			for _, fa := range a.Topics {
				for _, fb := range b.Topics {
					if topic.Overlap(fa, fb) {
						p.add(groupKey(i, "topics"), "%q of group %q overlaps %q of group %q: a topic may belong to one group only", fa, a.Name, fb, b.Name)
					}
				}
			}
		}
	}
}

func (d *Document) validateRevocations(p *problems) {
	if len(d.RevokedNames) > MaxRevocations {
		p.add("revoked_names", "%d names, at most %d allowed", len(d.RevokedNames), MaxRevocations)
		return
	}
	if len(d.RevokedCerts) > MaxRevocations {
		p.add("revoked_certificates", "%d certificates, at most %d allowed", len(d.RevokedCerts), MaxRevocations)
		return
	}
	for _, n := range d.RevokedNames {
		if !crypto.ValidName(n) {
			p.add("revoked_names", "%q is not a member name: %s", n, nameRule)
		}
	}
}

func (g *Group) validate(i int, p *problems) {
	if !crypto.ValidName(g.Name) {
		p.add(groupKey(i, "name"), "%q is not a name: %s", g.Name, nameRule)
	}
	if len(g.Topics) == 0 {
		p.add(groupKey(i, "topics"), "no topic filter")
	}
	g.validateTopics(i, p)
	validatePatterns(groupKey(i, "publish"), g.Publish, p)
	validatePatterns(groupKey(i, "read"), g.Read, p)
	g.validateKeepers(i, p)
	for _, d := range durations {
		v := d.ofGroup(g)
		switch {
		case v < d.least || v > d.most:
			p.add(groupKey(i, d.key), "%s is out of range: %s to %s allowed", v, d.least, d.most)
		case v%time.Millisecond != 0:
			p.add(groupKey(i, d.key), "%s is not a whole number of milliseconds", v)
		}
	}
	g.validatePad(i, p)
	if g.ClearRetained != WordPass && g.ClearRetained != WordDeny {
		p.add(groupKey(i, "clear_retained"), "%q: use \"pass\" or \"deny\"", g.ClearRetained)
	}
}

func (g *Group) validatePad(i int, p *problems) {
	if g.Pad != 0 && (g.Pad < MinPad || g.Pad > crypto.MaxPad) {
		p.add(groupKey(i, "pad"), "%d: lengths are hidden in multiples of %d to %d bytes; 0, or leaving it out, hides none", g.Pad, MinPad, crypto.MaxPad)
	}
}

func (g *Group) validateTopics(i int, p *problems) {
	for j, f := range g.Topics {
		if err := topic.ValidateFilter(f); err != nil {
			p.add(groupKey(i, "topics"), "%q: %v", f, err)
			continue
		}
		if _, _, shared := topic.ShareFilter(f); shared {
			p.add(groupKey(i, "topics"), "%q: a shared subscription is not a topic filter for a group; name the filter behind $share/<name>/", f)
		}
		if slices.Contains(g.Topics[:j], f) {
			p.add(groupKey(i, "topics"), "%q is there twice", f)
		}
	}
}

func (g *Group) validateKeepers(i int, p *problems) {
	if len(g.Keepers) > MaxKeepers {
		p.add(groupKey(i, "keepers"), "%d keepers, at most %d allowed", len(g.Keepers), MaxKeepers)
	}
	for j, k := range g.Keepers {
		if !crypto.ValidName(k) {
			p.add(groupKey(i, "keepers"), "%q is not a member name (patterns are not allowed here, their order is the rank): %s", k, nameRule)
		}
		if slices.Contains(g.Keepers[:j], k) {
			p.add(groupKey(i, "keepers"), "%q is there twice", k)
		}
	}
}

func validatePatterns(key string, list []string, p *problems) {
	if len(list) > MaxPatterns {
		p.add(key, "%d patterns, at most %d allowed", len(list), MaxPatterns)
	}
	for _, s := range list {
		if !crypto.ValidName(strings.ReplaceAll(s, "*", "x")) {
			p.add(key, "%q is not a name pattern: names of members, '*' for any run of characters", s)
		}
	}
}

const nameRule = "1 to 63 characters a-z 0-9 . _ -, the first a letter or digit"

// ValidName reports whether s may name a fleet, a member or a group: the rule of
// certificates, [crypto.ValidName].
func ValidName(s string) bool { return crypto.ValidName(s) }
