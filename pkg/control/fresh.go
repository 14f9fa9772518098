package control

import (
	"fmt"
	"time"
)

// The freshness limit (F3, spec 6.4): the authority to seal lapses when no keeper has answered this
// member's own nonce for as long as the policy says. So a broker that withholds the control
// topics, and with them a revocation, gains no more than that.

// lapse is when the authority to seal ends, never for a keeper that has no other to ask.
func (g *group) lapse() time.Duration {
	if g.alone {
		return never
	}
	return g.freshAt + g.def.Freshness
}

// warnAt is when the lack of a confirmation becomes an alarm; never once it has.
func (g *group) warnAt() time.Duration {
	if g.alone || g.warned || g.freshAt == 0 {
		return never
	}
	return g.freshAt + g.patience()
}

// patience is how long the lack of a confirmation is borne before it becomes an alarm.
func (g *group) patience() time.Duration { return min(FreshnessWarning, g.def.Freshness/4) }

// renewEvery is the longest time until the next confirmation is asked for.
func (g *group) renewEvery() time.Duration { return min(ConfirmInterval, g.def.Freshness/12) }

// renewal is a time, at random, until the next confirmation is asked for.
func (m *Machine) renewal(g *group) time.Duration {
	d := g.renewEvery()
	return d/2 + m.jitter(d/2)
}

// confirmedAt is when this member's authority was last confirmed, false if there is nothing to seal under. A keeper that has no other
// to ask confirms itself, as often as others ask: who lives on its word, as a data plane does, must hear it again.
func (g *group) confirmedAt(now time.Duration) (at time.Duration, ok bool) {
	switch {
	case !g.sender || g.sending == nil:
		return 0, false
	case g.alone:
		return now - now%max(g.renewEvery(), 1), true
	}
	return g.freshAt, g.freshAt > 0
}

// fresh notes an answer to our own nonce: what it confirms was true after the Hello was sent.
func (m *Machine) fresh(g *group, a *ask) {
	g.freshAt = max(g.freshAt, a.sent)
	g.renewAt = m.now.Mono + m.renewal(g)
	if g.warned {
		g.warned = false
		m.note(g, "a keeper confirms the epoch again")
	}
}

// startFreshness plans the first confirmation of a session.
func (m *Machine) startFreshness(g *group) {
	g.renewAt = never
	if g.sender && !g.alone {
		g.renewAt = max(m.now.Mono+m.jitter(RefillJitter), g.freshAt+m.renewal(g))
	}
}

// runFreshness asks for a confirmation when it is time; it is repeated until one comes.
func (m *Machine) runFreshness(g *group) {
	if g.renewAt > m.now.Mono {
		return
	}
	g.renewAt = never
	if g.sender && !g.alone && len(g.keys) > 0 && g.ask.confirmAt == never {
		g.ask.confirmAt, g.ask.confirmTries = m.now.Mono, 0
	} else if g.sender && !g.alone {
		g.renewAt = m.now.Mono + max(m.renewal(g), HelloBackoffMin)
	}
}

// warnStale raises the alarm in good time before the authority lapses.
func (m *Machine) warnStale(g *group) {
	if !g.sender || g.sending == nil || g.warnAt() > m.now.Mono {
		return
	}
	g.warned = true
	why := "no keeper has answered"
	if g.leader {
		why = "no other keeper has answered"
	}
	m.alarm(Event{Kind: KindConfirm, Result: ResultNote, Group: g.name, Detail: fmt.Sprintf("%s for %v: in %v nothing of this group leaves any more; bring a keeper back, or sign a policy that names those that live",
		why, (m.now.Mono - g.freshAt).Round(time.Second), (g.lapse() - m.now.Mono).Round(time.Second))})
}
