package control

import (
	"time"

	"sealgate/pkg/crypto"
)

// What the data plane may do with the keys: every key opens until its history ends, and one
// key of a group seals.

// sendKey chooses the key that this member seals under at now: the highest that is
// confirmed (F3), active and announced. nil: nothing may be sealed, for there is none, or its minter
// is revoked, or no keeper has confirmed anything for too long.
func (g *group) sendKey(now time.Duration) *key {
	if !g.sender || g.lapse() <= now {
		return nil
	}
	for i := len(g.keys) - 1; i >= 0; i-- {
		if k := g.keys[i]; k.confirmed && !k.unannounced && k.activateAt <= now {
			if k.barred || g.authorityEnd(i) <= now {
				return nil
			}
			return k
		}
	}
	return nil
}

// authorityEnd is when the authority to seal under keys[i] lapses: a newer epoch has been
// active for the policy's freshness limit, and no keeper has confirmed it to us, nor this one since. Until then
// the older one goes on being used, because an outage would be worse than a late switch (spec 6.4).
func (g *group) authorityEnd(i int) time.Duration {
	for _, newer := range g.keys[i+1:] {
		if !newer.confirmed && newer.learned >= g.keys[i].confirmedAt {
			return newer.activateAt + g.def.Freshness
		}
	}
	return never
}

// keysDue is the next moment at which the keyring changes by itself.
func (g *group) keysDue(now time.Duration) time.Duration {
	due := never
	for _, l := range g.lineages {
		if l.prev != nil {
			due = min(due, l.prevUntil)
		}
	}
	for i, k := range g.keys {
		if g.sender && k.confirmed && !k.unannounced && k.activateAt > now {
			due = min(due, k.activateAt)
		}
		if k == g.sending {
			due = min(due, g.authorityEnd(i), g.lapse(), g.warnAt())
			continue
		}
		if end := g.end(k); end != never {
			due = min(due, end+ExpiredGrace)
		}
	}
	return due
}

// refreshKeys prunes every group and makes a new keyring if anything in it has changed.
func (m *Machine) refreshKeys() {
	now := m.now.Mono
	for _, g := range m.ordered() {
		for _, l := range g.lineages {
			l.expire(now)
		}
		before := len(g.keys)
		if send := g.sendKey(now); send != g.sending {
			g.sending, m.keysChanged = send, true
			m.noteSending(g)
		}
		m.warnStale(g)
		if g.prune(now); len(g.keys) != before {
			m.keysChanged = true
		}
	}
	m.collectKept()
	if !m.keysChanged {
		return
	}
	m.keysChanged = false
	all := make(map[string][]crypto.Key, len(m.order))
	for _, g := range m.ordered() {
		if len(g.keys) > 0 {
			all[g.name] = g.snapshot()
		}
	}
	ring, err := crypto.NewKeyring(all)
	if err != nil { // add keeps every reason out; without a keyring the old one stays in use
		m.alarm(Event{Kind: KindUnknown, Result: ResultNote, Detail: "keys held make no keyring", Err: err})
		return
	}
	m.out.Keyring = ring.WithTopicKey(m.topicKey)
}

func (g *group) snapshot() []crypto.Key {
	keys := make([]crypto.Key, 0, len(g.keys))
	for _, k := range g.keys {
		out := crypto.Key{ID: k.id, Epoch: k.epoch, Secret: k.secret, Send: k == g.sending}
		if end := g.end(k); end != never {
			out.NotAfter = end
		}
		keys = append(keys, out)
	}
	return keys
}

func (m *Machine) noteSending(g *group) {
	switch {
	case g.sending != nil:
		m.note(g, "seals under epoch "+g.sending.epoch.String())
	case g.sender && len(g.keys) > 0 && g.newest().activateAt <= m.now.Mono && !g.newest().unannounced:
		why := "no keeper confirms the current epoch"
		if g.newest().barred {
			why = "the keeper that made the current epoch is revoked"
		}
		m.alarm(Event{Kind: KindConfirm, Result: ResultNote, Group: g.name, Detail: why + ": nothing of this group leaves until another keeper does its part"})
	}
}
