package control

import (
	"slices"
	"time"

	"sealgate/pkg/crypto"
)

// Key ids that messages carry and the keyring does not have (F16). A query is a Hello; there
// is one at once, then one in 30 s at most, whatever the broker makes up.

// unknownState is a group's memory of unknown key ids.
type unknownState struct {
	asked   []crypto.KeyID // the next Grant should bring them; at most MaxAskedIDs
	queryAt time.Duration  // a query is due; meaningful if waiting
	waiting bool
	nextAt  time.Duration // no query before
	absent  []absentID    // asked for in vain, oldest first; at most MaxUnknownIDs
}

type absentID struct {
	id    crypto.KeyID
	until time.Duration
}

func (u *unknownState) due() time.Duration {
	if u.waiting {
		return u.queryAt
	}
	return never
}

// remember puts id in the negative cache.
func (u *unknownState) remember(id crypto.KeyID, now time.Duration) {
	u.absent = slices.DeleteFunc(u.absent, func(a absentID) bool { return a.id == id || a.until <= now })
	if len(u.absent) >= MaxUnknownIDs {
		u.absent = slices.Delete(u.absent, 0, 1)
	}
	u.absent = append(u.absent, absentID{id, now + NegativeLife})
}

func (u *unknownState) isAbsent(id crypto.KeyID, now time.Duration) bool {
	return slices.ContainsFunc(u.absent, func(a absentID) bool { return a.id == id && a.until > now })
}

// answered moves what a Grant did not bring into the negative cache.
func (u *unknownState) answered(g *group, now time.Duration) {
	for _, id := range u.asked {
		if !slices.ContainsFunc(g.keys, func(k *key) bool { return k.id == id }) {
			u.remember(id, now)
		}
	}
	u.asked = u.asked[:0]
}

// UnknownKey tells that a message of group came under a key id that the keyring
// does not have.
func (m *Machine) UnknownKey(now Time, group string, id crypto.KeyID) {
	m.at(now)
	if g := m.groups[group]; g != nil && g.member && !g.leader && g.noteUnknown(id, m.now.Mono) {
		m.settle()
	}
}

// noteUnknown has id asked for, and reports whether that set a timer.
func (g *group) noteUnknown(id crypto.KeyID, now time.Duration) bool {
	u := &g.unknown
	if u.isAbsent(id, now) || slices.ContainsFunc(g.keys, func(k *key) bool { return k.id == id }) {
		return false
	}
	if len(u.asked) < MaxAskedIDs && !slices.Contains(u.asked, id) {
		u.asked = append(u.asked, id)
	}
	if u.waiting {
		return false
	}
	u.waiting, u.queryAt = true, max(now, u.nextAt)
	return true
}

// take reports whether a query is due, and starts the time to the next.
func (u *unknownState) take(now time.Duration) bool {
	if !u.waiting || u.queryAt > now {
		return false
	}
	u.waiting, u.nextAt = false, now+UnknownKeyInterval
	return true
}
