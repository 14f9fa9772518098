package policy

import (
	"slices"
	"strings"

	"sealgate/pkg/crypto"
	"sealgate/pkg/topic"
)

// hidden is what a table knows of groups that hide their topics (envelope.md 17). The zero value hides none.
type hidden struct {
	groups    []string // that hide, in the document's order
	filters   []string // of these groups, but for those that begin with '$'
	open      []string // of all others
	clears    bool     // one of these groups allows clears
	restHides bool     // what no filter matches is sealed into a group that hides
	restOpen  bool     // what no filter matches passes, or is sealed and not hidden
}

func (h *hidden) add(g *Group) {
	if g.HideTopics {
		h.groups = append(h.groups, g.Name)
		h.clears = h.clears || g.ClearRetained == WordPass
	}
	for _, f := range g.Topics {
		if g.HideTopics && f[0] != '$' {
			h.filters = append(h.filters, f)
		} else {
			h.open = append(h.open, f)
		}
	}
}

func (h *hidden) unmatched(d *Document) {
	group, seal := strings.CutPrefix(d.Unmatched, SealPrefix)
	h.restHides = seal && d.Group(group).HideTopics
	h.restOpen = !h.restHides && d.Unmatched != WordDeny
}

// hides reports whether a group of the document hides its topics.
func (d *Document) hides() bool {
	for i := range d.Groups {
		if d.Groups[i].HideTopics {
			return true
		}
	}
	return false
}

// SameHiding reports whether both tables hide the same topics, so that names and filters stand for the same tokens.
func (t *Table) SameHiding(o *Table) bool {
	if !t.Hides() && !o.Hides() {
		return true
	}
	a, b := &t.hidden, &o.hidden
	return t.Hides() && o.Hides() && slices.Equal(a.filters, b.filters) && slices.Equal(a.open, b.open) && a.restHides == b.restHides && a.restOpen == b.restOpen
}

// Hides reports whether any group hides its topics. A nil Table hides none.
func (t *Table) Hides() bool { return t != nil && len(t.hidden.groups) > 0 }

// Hiding returns the names of the groups that hide their topics. The caller must not change the slice.
func (t *Table) Hiding() []string {
	if t == nil {
		return nil
	}
	return t.hidden.groups
}

// Hidden reports whether a message of group that came on the hidden topic wire may say that its topic is name
// (envelope.md 17.4).
func (t *Table) Hidden(k *crypto.TopicKey, group, wire, name string) bool {
	if k == nil || topic.ValidateName([]byte(name)) != nil || crypto.LooksHidden([]byte(name)) {
		return false
	}
	d := t.decide([]byte(name))
	return d.Verdict == Seal && d.Hide && d.Group == group && k.Hide(name) == wire
}

// Filters says how a client's topic filter reaches the broker (envelope.md 17.5): as it is, with tokens in place of its levels,
// or both. The key is needed only if hide is true. A shared subscription's filter has to go through [topic.ShareFilter] first.
func (t *Table) Filters(filter string) (plain, hide bool) {
	if !t.Hides() || filter == "" || filter[0] == '$' || wildcardsOnly(filter) {
		return true, false
	}
	h := &t.hidden
	covered := coversAny(h.filters, filter) || coversAny(h.open, filter)
	hide = overlapsAny(h.filters, filter) || h.restHides && !covered
	plain = overlapsAny(h.open, filter) || h.restOpen && !covered
	return plain || !hide, hide
}

// Wires gives the filters that one of a client's reaches the broker as (envelope.md 17.5), also that of a shared subscription: none, one or two,
// the hidden one last. It reports true if that one is missing, because k is nil.
func (t *Table) Wires(k *crypto.TopicKey, filter string) (wires []string, missing bool) {
	_, inner, _ := topic.ShareFilter(filter)
	plain, hide := t.Filters(inner)
	if plain {
		wires = append(wires, filter)
	}
	if hide && k != nil {
		wires = append(wires, filter[:len(filter)-len(inner)]+k.Hide(inner))
	}
	return wires, hide && k == nil
}

// wildcardsOnly reports whether hiding leaves a filter as it is.
func wildcardsOnly(filter string) bool {
	for level := range strings.SplitSeq(filter, "/") {
		if level != "+" && level != "#" {
			return false
		}
	}
	return true
}

func coversAny(list []string, filter string) bool {
	for _, f := range list {
		if topic.Covers(f, filter) {
			return true
		}
	}
	return false
}

func overlapsAny(list []string, filter string) bool {
	for _, f := range list {
		if topic.Overlap(f, filter) {
			return true
		}
	}
	return false
}
