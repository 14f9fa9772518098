package control

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// copyState is what a keeper knows of the broker's retained policy.
type copyState struct {
	at   time.Duration // publish ours then
	last time.Duration // when we last did
}

func (c *copyState) reset() { *c = copyState{at: never, last: -RepublishInterval} }

// receivePolicy takes a fleet policy (spec 5).
func (m *Machine) receivePolicy(raw []byte) {
	if len(raw) > MaxPolicyMessage {
		m.refuse(KindPolicy, "", crypto.Member{}, fmt.Errorf("%d bytes, at most %d: %w", len(raw), MaxPolicyMessage, ErrTooLarge))
		return
	}
	if m.policy != nil && sha256.Sum256(raw) == m.policy.Hash {
		m.copy.at = never
		m.event(Event{Kind: KindPolicy, Result: ResultIgnored, Detail: "in force already"})
		return
	}
	p, err := policy.Verify(m.cfg.Trust, raw, m.now.Wall)
	if err == nil {
		err = m.admitPolicy(p)
	}
	if err != nil {
		if m.policy != nil {
			m.wantCopy()
		}
		m.refuse(KindPolicy, "", crypto.Member{}, err)
		return
	}
	m.event(Event{Kind: KindPolicy, Result: ResultAccepted, Detail: fmt.Sprintf("version %d", p.Document.Version)})
	m.applyPolicy(p)
	m.copy.at = never // the broker has it
	m.replayDeferred()
}

// admitPolicy decides whether a verified policy may follow the one in force (F2).
func (m *Machine) admitPolicy(p *policy.Signed) error {
	d := p.Document
	switch {
	case d.Version < m.floor.Version:
		return fmt.Errorf("version %d, %d has been in force: %w", d.Version, m.floor.Version, ErrPolicyOld)
	case d.Version == m.floor.Version && p.Hash != m.floor.Hash && m.floor.Hash != [32]byte{}:
		return fmt.Errorf("version %d: %w", d.Version, ErrPolicyFork)
	case d.Version == m.floor.Version+1 && m.floor.Hash != [32]byte{} && d.Previous != m.floor.Hash:
		return fmt.Errorf("version %d does not follow our version %d: %w", d.Version, m.floor.Version, ErrPolicyFork)
	}
	return nil
}

// wantCopy has ours published in place of what the broker retains. Lower
// ranks wait longer, so that as a rule one keeper does it.
func (m *Machine) wantCopy() {
	rank, keeps := m.bestRank()
	if !keeps || m.copy.at != never {
		return
	}
	at := m.now.Mono + time.Duration(rank)*RankDelay + m.jitter(RankDelay/4)
	m.copy.at = max(at, m.copy.last+RepublishInterval)
}

// bestRank is this member's best rank in any group.
func (m *Machine) bestRank() (best int, keeps bool) {
	for _, g := range m.groups {
		if rank, ok := g.def.Rank(m.self.Name); ok && g.keeper && (!keeps || rank < best) {
			best, keeps = rank, true
		}
	}
	return best, keeps
}

func (m *Machine) runCopy() {
	if m.copy.at > m.now.Mono {
		return
	}
	m.copy.at, m.copy.last = never, m.now.Mono
	m.send(KindPolicy, PolicyTopic(m.cfg.Prefix), m.policy.Raw, true)
}

// applyPolicy puts an admitted policy in force.
func (m *Machine) applyPolicy(p *policy.Signed) {
	before := m.policy
	m.policy, m.out.Policy = p, p
	m.floor = Floor{Version: p.Document.Version, Hash: p.Hash}
	old := m.groups
	m.groups, m.order = make(map[string]*group, len(p.Document.Groups)), nil
	for i := range p.Document.Groups {
		def := &p.Document.Groups[i]
		g := old[def.Name]
		if g == nil {
			g = newGroup(def.Name)
		}
		delete(old, def.Name)
		m.groups[def.Name] = g
		m.order = append(m.order, def.Name)
		m.redefine(g, def)
	}
	for _, g := range old {
		g.erase()
		m.leaveTopic(g)
		if g.kept {
			m.putKept(Kept{Group: g.name})
		}
	}
	m.redefineTopics(before)
	m.restoreKept()
	m.keysChanged = true
	maps.DeleteFunc(m.lease.seen, func(name string, _ *leaseSeen) bool { // leases of older policies are refused as such
		return !slices.ContainsFunc(p.Document.Groups, func(g policy.Group) bool { return slices.Contains(g.Keepers, name) })
	})
	m.startCheckpoints()
	if m.connected {
		m.joinTopics()
	}
}

// redefine gives a group its definition and this member's part in it.
func (m *Machine) redefine(g *group, def *policy.Group) {
	kept := g.keeper
	g.def = def
	g.member = m.mayHold(def, m.self) && !m.cfg.Keyless
	g.sender = g.member && def.MayPublish(m.self) && !m.cfg.ReadOnly
	g.keeper = g.member && def.Keeper(m.self)
	alone := g.keeper && len(def.Keepers) == 1
	if g.alone && !alone {
		g.freshAt = m.now.Mono // until now nobody could confirm anything
	}
	g.alone = alone
	for _, k := range g.keys {
		k.barred = m.isBarred(k.keeper, k.certificate)
	}
	g.changed = g.changed || kept != g.keeper
	m.redefineKeeping(g, kept)
	if !g.member {
		g.erase()
		g.ask.reset()
	}
}

// redefineKeeping gives a keeper its part after a policy: its own, and the leader's place if that is free now.
func (m *Machine) redefineKeeping(g *group, kept bool) {
	gone := g.acting.Name != "" && (!g.def.Keeper(g.acting) || m.policy.Document.Revoked(g.acting))
	switch {
	case !g.keeper:
		if g.leader {
			m.stepDown(g, crypto.Member{}, "the policy no longer lists it")
		}
		g.takeAt, g.shown, g.wraps = never, nil, nil
		if gone {
			g.acting = crypto.Member{}
		}
	case gone:
		g.acting = crypto.Member{}
		g.takeAt = m.now.Mono + m.distance(g)*RankDelay
	case !kept && g.subscribed:
		m.startKeeping(g)
	}
}

// leaveTopic ends the subscription to a group's announcements.
func (m *Machine) leaveTopic(g *group) {
	if m.connected && g.subscribed {
		m.out.Unsubscribe = append(m.out.Unsubscribe, KeysTopic(m.cfg.Prefix, g.name))
		m.hearCheckpoints(g, false)
	}
	g.subscribed, g.checkpoint.heard = false, false
}

// joinTopics subscribes to what the policy gives us a part in, and starts what begins with a
// session: asking for keys, or watching over the broker's copies.
func (m *Machine) joinTopics() {
	if m.policy == nil {
		return
	}
	keeps := false
	for _, g := range m.ordered() {
		if !g.member {
			m.leaveTopic(g)
			continue
		}
		begins := !g.subscribed
		keeps, g.subscribed = keeps || g.keeper, true
		m.out.Subscribe = append(m.out.Subscribe, KeysTopic(m.cfg.Prefix, g.name))
		m.hearCheckpoints(g, m.wantsCheckpoints(g))
		if begins {
			m.startFreshness(g)
		}
		switch {
		case g.keeper && begins:
			m.startKeeping(g)
		case g.keeper:
		case len(g.lineages) == 0:
			m.wantKeys(g, m.jitter(JoinJitter))
		}
		if newest := g.newest(); newest != nil && !newest.confirmed {
			m.wantConfirm(g, newest)
		}
	}
	if keeps {
		m.out.Subscribe = append(m.out.Subscribe, ControlTopic(m.cfg.Prefix))
		rank, _ := m.bestRank()
		m.copy.at = m.now.Mono + CopyWait + time.Duration(rank)*RankDelay
	}
	m.out.Subscribe = append(m.out.Subscribe, InboxTopic(m.cfg.Prefix, m.inbox))
}

// replayDeferred looks again at announcements that came before the policy they name.
func (m *Machine) replayDeferred() {
	for _, g := range m.ordered() {
		if msg := g.deferred; msg != nil {
			g.deferred = nil
			m.receiveEpoch(g.name, msg)
		}
	}
}
