package control

import (
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// The minting side. The leader of a group is the first of its keepers in the policy. Takeover by the
// others when it falls silent is not built yet: it will change who [group.leader] is, and
// nothing else here.

// leaderState is what a leader remembers of a group.
type leaderState struct {
	chain       *lineage       // its own KEK; nil: no generation begun
	wraps       []EpochWrap    // of this generation, newest first
	policy      *policy.Signed // in force when it last minted
	message     []byte         // the signed announcement
	bootAt      time.Duration  // start the first generation then
	rotateAt    time.Duration  // the next scheduled epoch
	announceAt  time.Duration  // publish the announcement again, unless the broker shows it before
	announcedAt time.Duration  // when it last was published
	tries       int            // publications of message
	jumpedAt    time.Duration  // when a report last caused a generation
	jumpDue     bool           // a report of a higher epoch waits for its turn
}

func (l *leaderState) reset() {
	if l.chain != nil {
		l.chain.kek.Erase()
	}
	*l = leaderState{bootAt: never, rotateAt: never, announceAt: never, announcedAt: -EchoWait, jumpedAt: -ReportInterval}
}

// startLeading begins a session, or a term, as leader.
func (m *Machine) startLeading(g *group) {
	switch {
	case g.lead.chain != nil:
		g.lead.announceAt, g.lead.tries = m.now.Mono+CopyWait, 0
	case g.highest != (crypto.Epoch{}):
		g.lead.bootAt = m.now.Mono // it was a member until now and knows where to go on
	default:
		g.lead.bootAt = m.now.Mono + BootstrapWait
	}
}

func (m *Machine) leaderDue(g *group) time.Duration {
	if !g.leader || m.policy == nil {
		return never
	}
	l := &g.lead
	due := min(l.bootAt, l.announceAt)
	if l.chain != nil {
		due = min(due, l.rotateAt)
		if l.jumpDue {
			due = min(due, l.jumpedAt+ReportInterval)
		}
	}
	return due
}

// runLeader does what is due for a group that this member leads.
func (m *Machine) runLeader(g *group) {
	if !g.leader {
		return
	}
	l, now := &g.lead, m.now.Mono
	switch {
	case l.chain == nil:
		if l.bootAt <= now {
			m.mint(g, true, "first generation")
		}
	case l.jumpDue && l.jumpedAt+ReportInterval <= now:
		l.jumpedAt = now
		m.mint(g, true, "a member knows a higher epoch")
	case l.policy.Hash != m.policy.Hash:
		m.mint(g, accessChanged(l.policy.Document, m.policy.Document, g.name), "new policy")
	case l.rotateAt <= now:
		m.mint(g, false, "scheduled rotation")
	}
	if l.announceAt <= now && l.message != nil {
		m.announce(g)
	}
}

// accessChanged reports whether who may hold the group's keys differs between two policies, in
// which case the new epochs need a KEK that the old holders do not have.
func accessChanged(a, b *policy.Document, group string) bool {
	x, y := a.Group(group), b.Group(group)
	return x == nil || y == nil || !slices.Equal(x.Publish, y.Publish) || !slices.Equal(x.Read, y.Read) || !slices.Equal(x.Keepers, y.Keepers) ||
		!slices.Equal(a.RevokedNames, b.RevokedNames) || !slices.Equal(a.RevokedCerts, b.RevokedCerts)
}

// Rotate starts a new epoch of group. Only the group's leader can, and only
// while it is connected.
func (m *Machine) Rotate(now Time, group string) error {
	m.at(now)
	g := m.groups[group]
	var err error
	switch {
	case g == nil:
		err = ErrNoGroup
	case !g.leader:
		err = fmt.Errorf("%w: ask %s", ErrNotLeader, g.def.Keepers[0])
	case !m.connected:
		err = ErrNotConnected
	case g.lead.chain == nil:
		err = ErrNotReady
	case g.pending(m.now.Mono) >= MaxPendingEpochs:
		err = ErrTooFast
	default:
		err = m.mint(g, false, "rotation by request")
	}
	m.settle()
	if err != nil {
		return fmt.Errorf("rotating group %q: %w", group, err)
	}
	return nil
}

// pending counts the epochs that are not active yet.
func (g *group) pending(now time.Duration) (n int) {
	for _, k := range g.keys {
		if k.activateAt > now {
			n++
		}
	}
	return n
}

// mint makes the next epoch, in a fresh generation if asked to, and announces it (spec 6.1).
func (m *Machine) mint(g *group, fresh bool, why string) error {
	l := &g.lead
	l.bootAt, l.rotateAt = never, m.now.Mono+g.def.Rotate
	if err := m.mintNext(g, fresh); err != nil {
		err = fmt.Errorf("new epoch (%s): %w", why, err)
		m.alarm(Event{Kind: KindEpoch, Result: ResultNote, Group: g.name, Err: err})
		if l.chain == nil {
			l.bootAt = m.now.Mono + RepublishInterval // try again; nothing leaves until then
		} else {
			l.policy, l.jumpDue = m.policy, false
		}
		return err
	}
	m.note(g, why+": epoch "+g.highest.String())
	m.announce(g)
	return nil
}

func (m *Machine) mintNext(g *group, fresh bool) error {
	l, now := &g.lead, m.now.Mono
	e := crypto.Epoch{PolicyVersion: m.policy.Document.Version, Generation: max(g.highest.Generation, g.reported.Generation), Number: max(g.highest.Number, g.reported.Number) + 1}
	if fresh {
		e.Generation++
	} else {
		e.Generation, e.Number = l.chain.generation, l.chain.next
	}
	if e.Generation > MaxEpochValue || e.Number >= MaxEpochValue {
		return ErrExhausted
	}
	chain := l.chain
	if fresh {
		kek, err := crypto.NewKEK(m.cfg.Rand)
		if err != nil {
			return err
		}
		chain = &lineage{generation: e.Generation, keeper: m.self.Name, next: e.Number, kek: kek}
	}
	k, err := m.drawKey(g, e)
	if err != nil {
		return err
	}
	wrap, err := chain.kek.Wrap(m.cfg.Rand, k.secret, crypto.WrapContext{Fleet: m.self.Fleet, Group: g.name, Generation: e.Generation, Number: e.Number, Keeper: m.self.Name})
	if err != nil {
		return err
	}
	if k.delay = g.def.ActivateAfter; g.sendable(now) == nil {
		k.delay = min(k.delay, FirstActivation)
	}
	k.activateAt = now + k.delay
	if fresh && l.chain != nil {
		l.chain.kek.Erase()
	}
	if fresh {
		l.wraps = nil
		clear(g.granted)
	}
	chain.ratchet(g.name, e.Number+1)
	l.chain, l.policy, l.jumpDue = chain, m.policy, false
	l.wraps = slices.Insert(l.wraps, 0, EpochWrap{Number: e.Number, ActivateAfter: g.def.ActivateAfter, Wrap: wrap})
	l.wraps = l.wraps[:min(len(l.wraps), MaxWraps)]
	if err := g.add(k); err != nil {
		return err
	}
	m.keysChanged = true
	return m.signAnnouncement(g)
}

// sendable is the newest key that somebody may seal under at now.
func (g *group) sendable(now time.Duration) *key {
	for i := len(g.keys) - 1; i >= 0; i-- {
		if k := g.keys[i]; k.activateAt <= now && !k.unannounced {
			return k
		}
	}
	return nil
}

// drawKey draws a secret until its key id is free (F10). The minter needs no one's confirmation.
func (m *Machine) drawKey(g *group, e crypto.Epoch) (*key, error) {
	for range MaxRedraws {
		secret, err := crypto.NewPayloadSecret(m.cfg.Rand)
		if err != nil {
			return nil, err
		}
		k := &key{epoch: e, secret: secret, commitment: crypto.Commitment(secret, g.name), keeper: m.self.Name, learned: m.now.Mono,
			supersededAt: never, confirmed: true, confirmedAt: m.now.Mono, unannounced: true}
		k.id = crypto.KeyID(k.commitment[:4])
		if !slices.ContainsFunc(g.keys, func(old *key) bool { return old.id == k.id }) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%d secrets in a row: %w; the source of randomness is broken", MaxRedraws, crypto.ErrCollision)
}

// signAnnouncement makes the Epoch message for what the leader has minted.
func (m *Machine) signAnnouncement(g *group) error {
	l := &g.lead
	e := EpochMessage{Group: g.name, PolicyVersion: l.policy.Document.Version, PolicyHash: l.policy.Hash, Generation: l.chain.generation, Wraps: l.wraps}
	msg, err := m.cfg.Identity.Sign(e.Marshal(), string(KindEpoch))
	if err != nil {
		return fmt.Errorf("signing the announcement: %w", err)
	}
	l.message, l.tries = msg, 0
	return nil
}

// announce publishes the announcement, and has it published again if the broker does
// not show it to us in time.
func (m *Machine) announce(g *group) {
	l := &g.lead
	m.send(KindEpoch, KeysTopic(m.cfg.Prefix, g.name), l.message, true)
	l.announceAt = m.now.Mono + min(EchoWait<<min(l.tries, 8), RepublishInterval) + m.jitter(EchoWait/2)
	l.announcedAt = m.now.Mono
	l.tries++
}

// leaderSees handles an announcement that the leader itself receives: the echo of its own, or
// what the broker retained before (spec 6.6).
func (m *Machine) leaderSees(g *group, e *EpochMessage, from crypto.Member) {
	l := &g.lead
	newest := e.Newest()
	mine := l.chain != nil && l.chain.generation == e.Generation && from.Name == m.self.Name
	switch own := g.find(e.Wraps[0].Wrap.Commitment); {
	case mine && own != nil:
		m.leaderEcho(g, own)
	case e.PolicyVersion > m.policy.Document.Version && l.chain != nil:
		m.event(Event{Kind: KindEpoch, Result: ResultDeferred, Group: g.name, From: label(from), Detail: fmt.Sprintf("waits for policy %d", e.PolicyVersion)})
	case (l.chain == nil || newest.Compare(g.highest) > 0) && m.noteReport(g, newest.Generation, newest.Number, false):
		m.event(Event{Kind: KindEpoch, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "epoch " + newest.String() + " was announced before; goes on above it"})
	case l.chain != nil:
		l.announceAt = min(l.announceAt, max(m.now.Mono+m.jitter(JoinJitter), l.announcedAt+EchoWait))
		m.refuse(KindEpoch, g.name, from, fmt.Errorf("announced %v, current is %v: %w", newest, g.highest, ErrStale))
	default:
		m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, From: label(from)})
	}
}

// leaderEcho notes that the broker has shown our announcement of own: everybody who
// listens has it, so from now on its activation delay counts. Only the newest one's echo ends the repetition.
func (m *Machine) leaderEcho(g *group, own *key) {
	for _, k := range g.keys {
		if k.unannounced && k.epoch.Compare(own.epoch) <= 0 {
			k.unannounced, k.activateAt = false, m.now.Mono+k.delay
		}
	}
	if own == g.newest() {
		g.lead.announceAt = never
	}
	m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, Detail: "echo of epoch " + own.epoch.String()})
}

// noteReport takes note of the highest epoch that somebody knows (F20), and reports whether it is
// above the leader's own. A claim from elsewhere than a keeper's announcement is capped (F4).
func (m *Machine) noteReport(g *group, generation, number uint64, capped bool) bool {
	l := &g.lead
	if capped {
		generation = min(generation, g.highest.Generation+MaxGenerationJump-1)
		number = min(number, g.highest.Number+MaxNumberJump-1)
	}
	if generation < g.highest.Generation || generation == g.highest.Generation && number <= g.highest.Number {
		return false
	}
	g.reported.Generation = max(g.reported.Generation, generation)
	g.reported.Number = max(g.reported.Number, number)
	l.jumpDue = g.leader && l.chain != nil
	return true
}

// ReportEpoch tells the highest epoch of group that this member's data plane holds
// keys of. After a restart a keeper goes on above it, and another member tells its
// keeper in its Hellos. Call it again when the policy has changed.
func (m *Machine) ReportEpoch(now Time, group string, e crypto.Epoch) {
	m.at(now)
	if g := m.groups[group]; g != nil {
		m.noteReport(g, e.Generation, e.Number, true)
	}
	m.settle()
}
