package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// The minting side: what the keeper does that leads a group. takeover.go decides which one that is.

// leaderState is what a leader remembers of its term.
type leaderState struct {
	chain       *lineage      // the KEK it goes on with, one of the group's; nil: no generation begun
	bootAt      time.Duration // start a generation then
	rotateAt    time.Duration // the next scheduled epoch
	announceAt  time.Duration // publish the announcement again, unless the broker shows it before
	announcedAt time.Duration // when it last was published
	tries       int           // publications of the announcement
	jumpedAt    time.Duration // when a report last caused a generation
	retryAt     time.Duration // no epoch could be made; not before
	jumpAt      time.Duration // a report of a higher epoch waits for its turn
}

func (l *leaderState) reset() {
	*l = leaderState{bootAt: never, rotateAt: never, announceAt: never, jumpAt: never, announcedAt: -EchoWait, jumpedAt: -ReportInterval}
}

// runLeader does what is due for a group that this member leads.
func (m *Machine) runLeader(g *group) {
	if !g.leader {
		return
	}
	l, now := &g.lead, m.now.Mono
	if l.chain != nil && g.tied() {
		l.rotateAt = min(l.rotateAt, now+EchoWait)
	}
	switch {
	case l.retryAt > now:
	case l.chain == nil:
		if l.bootAt <= now {
			m.mint(g, true, "first generation of its term")
		}
	case l.jumpAt <= now:
		l.jumpedAt = now
		m.mint(g, true, "a member knows a higher epoch")
	case g.under == nil || g.under.Hash != m.policy.Hash:
		m.mint(g, g.under == nil || accessChanged(g.under.Document, m.policy.Document, g.name), "new policy")
	case l.rotateAt <= now:
		m.mint(g, now-g.born >= GenerationMaxAge, "scheduled rotation")
	case l.announceAt <= now && !g.canAnnounce():
		m.mint(g, false, "the broker does not show the newest epoch")
	}
	if l.announceAt <= now && g.canAnnounce() {
		m.announce(g)
	}
}

// tied reports whether two epochs of the highest number are known, of two leaders. The next one ends it: who seals under
// which of them, and who has lost one since, nobody needs to find out.
func (g *group) tied() bool {
	n := len(g.keys)
	return n > 1 && g.keys[n-1].epoch == g.keys[n-2].epoch
}

// leaderDue is when a keeper wants to mint, announce or take over.
func (m *Machine) leaderDue(g *group) time.Duration {
	switch {
	case !g.keeper || m.policy == nil:
		return never
	case !g.leader:
		return g.takeAt
	}
	l := &g.lead
	due := l.bootAt
	if l.chain != nil {
		due = min(due, l.rotateAt, l.jumpAt)
	}
	if now := m.now.Mono; l.retryAt > now {
		due = max(due, l.retryAt)
		if !g.canAnnounce() {
			return min(due, l.retryAt)
		}
		return min(due, l.retryAt, l.announceAt)
	}
	return min(due, l.announceAt)
}

// accessChanged reports whether who may hold the group's keys, the topic key among them, differs between two policies, in
// which case the new epochs need a KEK that the old holders do not have.
func accessChanged(a, b *policy.Document, group string) bool {
	x, y := a.Group(group), b.Group(group)
	return x == nil || y == nil || !slices.Equal(x.Publish, y.Publish) || !slices.Equal(x.Read, y.Read) || !slices.Equal(x.Keepers, y.Keepers) ||
		x.HideTopics != y.HideTopics || y.HideTopics && a.TopicKey != b.TopicKey ||
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
	case g.expects(m.now.Mono):
		err = ErrNotReady
	case !g.leader:
		err = fmt.Errorf("%w: ask %s", ErrNotLeader, g.leaderName())
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
	l, now := &g.lead, m.now.Mono
	d, err := m.draft(g, fresh)
	if err == nil {
		err = m.adopt(g, d)
	}
	if err != nil {
		err = fmt.Errorf("new epoch (%s): %w", why, err)
		m.alarm(Event{Kind: KindEpoch, Result: ResultNote, Group: g.name, Err: err})
		l.retryAt = now + RepublishInterval
		if !errors.Is(err, ErrExhausted) {
			l.retryAt = now + EchoWait // a signer or a source of randomness that fails now and then
		} else if l.chain != nil {
			l.rotateAt, l.jumpAt, l.announceAt, g.under = now+g.def.Rotate, never, never, m.policy
		}
		return err
	}
	l.bootAt, l.rotateAt = never, now+g.def.Rotate
	m.note(g, why+": epoch "+g.highest.String())
	m.announce(g)
	return nil
}

// draft is an epoch that is made and signed, and of which nobody knows yet.
type draft struct {
	fresh bool
	chain *lineage // of which its KEK is the next
	key   *key
	wraps []EpochWrap
	shown []byte // the signed announcement
}

// draft makes the next epoch. It changes nothing: a signer in a TPM may fail.
func (m *Machine) draft(g *group, fresh bool) (*draft, error) {
	d := &draft{fresh: fresh, chain: g.lead.chain}
	e := crypto.Epoch{PolicyVersion: m.policy.Document.Version, Generation: max(g.highest.Generation, g.reported.Generation), Number: max(g.highest.Number, g.reported.Number) + 1}
	if fresh {
		e.Generation++
	} else {
		e.Generation, e.Number = d.chain.generation, d.chain.next
	}
	if e.Generation > MaxEpochValue || e.Number >= MaxEpochValue {
		return nil, ErrExhausted
	}
	if fresh {
		kek, err := crypto.NewKEK(m.cfg.Rand)
		if err != nil {
			return nil, err
		}
		d.chain = &lineage{generation: e.Generation, founder: m.self.Name, next: e.Number, kek: kek}
	}
	var err error
	if d.key, err = m.drawKey(g, e); err != nil {
		return nil, err
	}
	wrap, err := d.chain.kek.Wrap(m.cfg.Rand, d.key.secret, crypto.WrapContext{Fleet: m.self.Fleet, Group: g.name, Generation: e.Generation, Number: e.Number, Keeper: m.self.Name})
	if err != nil {
		return nil, err
	}
	announced := m.activation(g, fresh)
	if d.key.delay = announced; g.sendable(m.now.Mono) == nil {
		d.key.delay = min(announced, FirstActivation)
	}
	d.wraps = []EpochWrap{{Number: e.Number, Minter: m.self.Name, Certificate: m.self.CertHash, ActivateAfter: announced, Wrap: wrap}}
	if !fresh && len(g.wraps) > 0 && g.founder == d.chain.founder && g.wraps[0].Number+1 == e.Number {
		d.wraps = append(d.wraps, g.wraps[:min(len(g.wraps), MaxWraps-1)]...)
	}
	msg := EpochMessage{Group: g.name, PolicyVersion: e.PolicyVersion, PolicyHash: m.policy.Hash, Generation: e.Generation, Founder: d.chain.founder, Wraps: d.wraps}
	if d.shown, err = m.cfg.Identity.Sign(msg.Marshal(), string(KindEpoch)); err != nil {
		return nil, fmt.Errorf("signing the announcement: %w", err)
	}
	return d, nil
}

// adopt makes a draft the group's newest epoch.
func (m *Machine) adopt(g *group, d *draft) error {
	l, now := &g.lead, m.now.Mono
	d.key.activateAt = now + d.key.delay
	if err := g.add(d.key); err != nil {
		return err
	}
	if d.fresh {
		g.setLineage(d.chain)
		clear(g.granted)
	}
	d.chain.ratchet(g.name, d.key.epoch.Number+1, now)
	l.chain, l.jumpAt, l.tries, g.under = d.chain, never, 0, m.policy
	g.shown, g.wraps, g.founder = d.shown, d.wraps, d.chain.founder
	if g.freshAt == 0 {
		g.freshAt = now // the first of its keys: nobody could have confirmed any
		m.startFreshness(g)
	}
	m.keysChanged, g.changed = true, true
	return nil
}

// activation is the delay from an announcement until senders switch. A generation that has no
// hurry gives the keeper time to hand its KEK to everybody first.
func (m *Machine) activation(g *group, fresh bool) time.Duration {
	d := g.def.ActivateAfter
	if planned := g.under != nil && g.under.Hash == m.policy.Hash; fresh && planned && g.sendable(m.now.Mono) != nil {
		d = max(d, 2*time.Duration(len(g.granted))*time.Second/time.Duration(m.cfg.GrantRate))
	}
	return min(d, MaxDelay)
}

// sendable is the newest key that somebody may seal under at now.
func (g *group) sendable(now time.Duration) *key {
	for i := len(g.keys) - 1; i >= 0; i-- {
		if k := g.keys[i]; k.activateAt <= now && !k.unannounced && !k.barred {
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
		k := &key{epoch: e, secret: secret, commitment: crypto.Commitment(secret, g.name), keeper: m.self.Name, certificate: m.self.CertHash, learned: m.now.Mono,
			supersededAt: never, confirmed: true, unannounced: true}
		k.id = crypto.KeyID(k.commitment[:4])
		if !slices.ContainsFunc(g.keys, func(old *key) bool { return old.id == k.id }) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%d secrets in a row: %w; the source of randomness is broken", MaxRedraws, crypto.ErrCollision)
}

// announce publishes the announcement, and has it published again if the broker does
// not show it to us in time.
func (m *Machine) announce(g *group) {
	l := &g.lead
	m.send(KindEpoch, KeysTopic(m.cfg.Prefix, g.name), g.shown, true)
	l.announceAt = m.now.Mono + min(EchoWait<<min(l.tries, 8), RepublishInterval) + m.jitter(EchoWait/2)
	l.announcedAt = m.now.Mono
	l.tries++
}

// canAnnounce reports whether the announcement held is of the newest epoch: a keeper may have been given that in a Grant.
func (g *group) canAnnounce() bool {
	return g.shown != nil && len(g.wraps) > 0 && g.newest() != nil && g.wraps[0].Wrap.Commitment == g.newest().commitment
}

// announceSoon has the announcement published again, at most once each EchoWait.
func (m *Machine) announceSoon(g *group) {
	l := &g.lead
	l.announceAt = min(l.announceAt, max(m.now.Mono+m.jitter(JoinJitter), l.announcedAt+EchoWait))
}

// leaderSees handles an announcement that the leader itself receives: the echo of its own, what
// the broker retained before (spec 6.6), or another leader's (spec 6.10).
func (m *Machine) leaderSees(g *group, e *EpochMessage, from crypto.Member, msg []byte) {
	l := &g.lead
	newest := e.Newest()
	switch own := g.find(e.Wraps[0].Wrap.Commitment); {
	case own != nil && l.chain != nil && (from.Name == m.self.Name || own == g.newest()):
		m.leaderEcho(g, own)
	case e.PolicyVersion > m.policy.Document.Version && l.chain != nil:
		m.event(Event{Kind: KindEpoch, Result: ResultDeferred, Group: g.name, From: label(from), Detail: fmt.Sprintf("waits for policy %d", e.PolicyVersion)})
	case own == nil && l.chain != nil && from.Name != m.self.Name && m.rivalEpoch(g, e, from, msg):
	case (l.chain == nil || newest.Compare(g.highest) > 0) && m.noteReport(g, newest.Generation, newest.Number, false):
		m.event(Event{Kind: KindEpoch, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "epoch " + newest.String() + " was announced before; goes on above it"})
	case l.chain != nil:
		m.announceSoon(g)
		m.refuse(KindEpoch, g.name, from, fmt.Errorf("announced %v, current is %v: %w", newest, g.highest, ErrStale))
	default:
		m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, From: label(from)})
	}
}

// leaderEcho notes that the broker has shown our announcement of own: everybody who
// listens has it, so from now on its activation delay counts. Only the newest one's echo ends the repetition.
func (m *Machine) leaderEcho(g *group, own *key) {
	g.echoed(own.epoch, m.now.Mono)
	switch {
	case own == g.newest():
		g.lead.announceAt = never
	case g.lead.announceAt == never:
		m.announceSoon(g) // the newest was delivered, and is not what the broker has retained
	}
	m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, Detail: "echo of epoch " + own.epoch.String()})
}

// echoed notes that everybody may have heard of what was minted here, up to an epoch.
func (g *group) echoed(upTo crypto.Epoch, now time.Duration) {
	for _, k := range g.keys {
		if k.unannounced && k.epoch.Compare(upTo) <= 0 {
			k.unannounced, k.activateAt, g.changed = false, now+k.delay, true
		}
	}
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
	if g.leader && l.chain != nil {
		// Another keeper may hold the keys that were told of; then there is no need to go above them.
		wait := time.Duration(0)
		if len(g.def.Keepers) > 1 {
			wait = AskWait
			m.wantKeys(g, 0)
		}
		l.jumpAt = min(l.jumpAt, max(m.now.Mono+wait, l.jumpedAt+ReportInterval))
	}
	return true
}

// ReportEpoch tells the highest epoch of group that this member's data plane holds
// keys of. After a restart a keeper goes on above it, and another member tells its
// keeper in its Hellos. Call it again when the policy has changed.
func (m *Machine) ReportEpoch(now Time, group string, e crypto.Epoch) {
	m.at(now)
	if g := m.groups[group]; g != nil {
		m.noteReport(g, e.Generation, e.Number, true)
		m.postpone(g)
	}
	m.settle()
}
