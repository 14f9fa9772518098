package control

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
)

// Which keeper leads (spec 6.10). A leader sends leases; the others take over, by rank, when it
// falls silent. Two leaders, which a broker can always make, meet in their leases and
// announcements: the one whose epoch is lower steps down.

// leaseState is this member's own heartbeat, and what it knows of the others'.
type leaseState struct {
	boot [16]byte // of this run
	tick uint64
	at   time.Duration // the next lease is due
	seen map[string]*leaseSeen
}

// leaseSeen is the newest lease of one keeper, and its earlier runs.
type leaseSeen struct {
	boot [16]byte
	tick uint64
	past [][16]byte // at most MaxBoots, oldest first
}

// replayed reports whether a lease is not newer than what was heard of its sender, and notes it otherwise.
func (s *leaseSeen) replayed(l *Lease) bool {
	switch {
	case l.Boot == s.boot:
		if l.Tick <= s.tick {
			return true
		}
	case slices.Contains(s.past, l.Boot):
		return true
	case s.tick > 0:
		if len(s.past) >= MaxBoots {
			s.past = slices.Delete(s.past, 0, 1)
		}
		s.past = append(s.past, s.boot)
	}
	s.boot, s.tick = l.Boot, l.Tick
	return false
}

// distance is the number of keepers that come before this member when the one that led is gone.
func (m *Machine) distance(g *group) time.Duration {
	n := 0
	for _, k := range g.def.Keepers {
		if k == m.self.Name {
			break
		}
		if k != g.acting.Name {
			n++
		}
	}
	return time.Duration(n)
}

// startKeeping begins a session as keeper of a group: a leader that was away for less than a lease goes
// on, the others listen first. The first in rank listens for less, so that a fleet starts quickly.
func (m *Machine) startKeeping(g *group) {
	now := m.now.Mono
	if g.leader && (now-m.endedAt < LeaseLife || len(g.def.Keepers) == 1) {
		g.lead.announceAt, g.lead.tries = now+CopyWait, 0
		m.lease.at = now
		return
	}
	if g.leader {
		m.stepDown(g, crypto.Member{}, "was away")
	}
	g.excused = false
	rank, _ := g.def.Rank(m.self.Name)
	switch {
	case len(g.def.Keepers) == 1 && g.highest != (crypto.Epoch{}):
		g.takeAt = now // there is nobody else
	case rank > 0:
		g.takeAt = now + LeaseLife + m.distance(g)*RankDelay
	case g.newestChain() != nil:
		g.takeAt = now + LeaseInterval + BootstrapWait
	default:
		g.takeAt = now + BootstrapWait
	}
	m.postpone(g)
	if g.newestChain() == nil {
		m.wantKeys(g, 0) // those who hold them answer, and the leader says that it leads
	}
}

// postpone gives the other keepers time to answer when an epoch is known to exist whose
// keys this keeper does not have: a bootstrap would cut off the history.
func (m *Machine) postpone(g *group) {
	if g.keeper && !g.leader && g.takeAt != never && g.newestChain() == nil && len(g.def.Keepers) > 1 && g.reported.Number > 0 {
		g.takeAt = max(g.takeAt, m.startedAt+AskWait)
	}
}

// candidateSees notes an announcement that a keeper without a term receives.
func (m *Machine) candidateSees(g *group, e *EpochMessage) {
	if !g.keeper || e.PolicyVersion > m.policy.Document.Version {
		return
	}
	if newest := e.Newest(); g.checkJump(newest, MaxGenerationJump, MaxNumberJump) == nil {
		m.noteReport(g, newest.Generation, newest.Number, false)
	}
	m.postpone(g)
}

// expects reports whether this keeper may lead soon: it keeps the Hellos that come meanwhile.
func (g *group) expects(now time.Duration) bool {
	return g.keeper && !g.leader && g.acting.Name == "" && g.takeAt-now <= AskWait
}

// leaderName is who leads the group, as far as known: else who is to.
func (g *group) leaderName() string {
	if g.acting.Name != "" || len(g.def.Keepers) == 0 {
		return g.acting.Name
	}
	return g.def.Keepers[0]
}

// runTakeover begins a term when its time has come.
func (m *Machine) runTakeover(g *group) {
	if !g.keeper || g.leader || g.takeAt > m.now.Mono {
		return
	}
	if m.now.Mono-g.takeAt > Oversleep && !g.excused && len(g.def.Keepers) > 1 {
		// This program did not run when it should have: the leases that it missed may wait to be read.
		g.excused, g.takeAt = true, m.now.Mono+LeaseInterval+m.distance(g)*RankDelay
		return
	}
	why := "leads: no other keeper is heard"
	if g.acting.Name != "" {
		why = "leads: " + g.acting.Name + " has fallen silent"
	}
	m.note(g, why)
	l, now := &g.lead, m.now.Mono
	l.reset()
	g.leader, g.acting, g.leaseAt, g.takeAt = true, m.self, now, never
	clear(g.granted)
	m.lease.at = now
	if l.chain = g.newestChain(); l.chain == nil {
		l.bootAt = now
		return
	}
	l.rotateAt = max(now, g.newest().learned+g.def.Rotate)
	if g.copy != g.newest().commitment {
		l.announceAt = now + CopyWait
	}
}

// stepDown ends a term. What nobody has seen of it is dropped.
func (m *Machine) stepDown(g *group, to crypto.Member, why string) {
	m.note(g, "leads no more: "+why)
	g.dropUnannounced()
	g.lead.reset()
	clear(g.granted)
	g.leader, g.shown, g.wraps = false, nil, nil
	m.follow(g, to)
	m.keysChanged = true
	if k := g.newest(); k != nil {
		m.wantConfirm(g, k)
	}
}

// dropUnannounced forgets the epochs that the broker has not shown, and takes the KEK back before them.
func (g *group) dropUnannounced() {
	dropped := uint64(0)
	g.keys = slices.DeleteFunc(g.keys, func(k *key) bool {
		if k.unannounced {
			dropped++
		}
		return k.unannounced
	})
	if dropped == 0 {
		return
	}
	g.changed = true
	if l := g.lead.chain; l != nil && dropped == 1 && l.prev != nil {
		l.kek.Erase()
		l.kek, l.prev, l.next = l.prev, nil, l.next-1
	} else if l != nil {
		l.erase()
		g.lineages = slices.DeleteFunc(g.lineages, func(x *lineage) bool { return x == l })
	}
	g.highest = crypto.Epoch{}
	if k := g.newest(); k != nil {
		g.highest, k.supersededAt = k.epoch, never
	}
}

// follow notes who leads, and when this keeper takes over if nothing more is heard.
func (m *Machine) follow(g *group, leader crypto.Member) {
	g.acting, g.leaseAt, g.excused = leader, m.now.Mono, false
	if g.keeper {
		g.takeAt = m.now.Mono + LeaseLife + m.distance(g)*RankDelay
	}
}

// runLease sends the lease of all groups that this member leads.
func (m *Machine) runLease() {
	if m.lease.at > m.now.Mono {
		return
	}
	m.lease.at = never
	l := m.newLease()
	leads := false
	for _, g := range m.ordered() {
		leads = leads || g.leader && len(g.def.Keepers) > 1
		if k := g.announced(); g.leader && k != nil && len(g.def.Keepers) > 1 {
			l.Groups = append(l.Groups, g.leaseOf(k))
		}
	}
	if !leads {
		return
	}
	m.lease.at = m.now.Mono + LeaseInterval - m.jitter(LeaseInterval/10)
	m.sendLease(l)
}

func (m *Machine) sendLease(l *Lease) {
	if len(l.Groups) == 0 {
		return
	}
	slices.SortFunc(l.Groups, func(a, b LeaseGroup) int { return compareNames(a.Name, b.Name) })
	m.lease.tick++
	l.Tick = m.lease.tick
	m.publish(KindLease, "", ControlTopic(m.cfg.Prefix), l.Marshal(), false)
}

// lastLease names the key that a leader sealed under until it steps down for another leader, which may lack it.
func (m *Machine) lastLease(g *group, k *key) {
	if k != nil {
		l := m.newLease()
		l.Groups = []LeaseGroup{g.leaseOf(k)}
		m.sendLease(l)
	}
}

func (m *Machine) newLease() *Lease {
	return &Lease{PolicyVersion: m.policy.Document.Version, PolicyHash: m.policy.Hash, Boot: m.lease.boot}
}

func (g *group) leaseOf(k *key) LeaseGroup {
	return LeaseGroup{g.name, k.epoch.Generation, k.epoch.Number, k.commitment}
}

// announced is the newest key that the broker has shown.
func (g *group) announced() *key {
	for i := len(g.keys) - 1; i >= 0; i-- {
		if !g.keys[i].unannounced {
			return g.keys[i]
		}
	}
	return nil
}

// receiveLease takes a leader's heartbeat.
func (m *Machine) receiveLease(msg []byte) {
	payload, from, err := m.verify(msg, KindLease)
	if err != nil {
		m.refuse(KindLease, "", from, err)
		return
	}
	l, err := ParseLease(payload)
	switch {
	case err != nil:
	case from == m.self:
		m.event(Event{Kind: KindLease, Result: ResultIgnored, From: label(from), Detail: "our own"})
		return
	case !slices.ContainsFunc(m.ordered(), func(g *group) bool { return g.def.Keeper(from) }):
		err = ErrNotKeeper
	default:
		err = m.admitLease(l, from)
	}
	if err != nil {
		m.refuse(KindLease, "", from, err)
		return
	}
	for i := range l.Groups {
		if err := m.takeLease(l, &l.Groups[i], from); err != nil {
			m.refuse(KindLease, l.Groups[i].Name, from, err)
		}
	}
}

// admitLease holds a lease against the policy and against what was heard of its sender before.
func (m *Machine) admitLease(l *Lease, from crypto.Member) error {
	if l.PolicyVersion < m.policy.Document.Version {
		m.wantCopy()
	}
	if err := m.checkAnswerPolicy(l.PolicyVersion, l.PolicyHash); err != nil {
		return err
	}
	seen := m.lease.seen[from.Name]
	if seen == nil {
		seen = new(leaseSeen)
		m.lease.seen[from.Name] = seen
	}
	if seen.replayed(l) {
		return ErrReplayedLease
	}
	return nil
}

// takeLease follows the sender, or contests its term.
func (m *Machine) takeLease(l *Lease, lg *LeaseGroup, from crypto.Member) error {
	g := m.groups[lg.Name]
	switch {
	case g == nil || !g.keeper:
		return nil
	case !g.def.Keeper(from):
		return ErrNotKeeper
	}
	theirs := crypto.Epoch{PolicyVersion: l.PolicyVersion, Generation: lg.Generation, Number: lg.Number}
	if err := g.checkJump(theirs, MaxGrantJump, MaxGrantJump); err != nil {
		return err
	}
	held := g.find(lg.Commitment)
	if held == nil {
		m.triggerKeys(g, theirs) // also of a rival that is behind: its keys open what was sealed under them
	}
	if g.leader && held != nil && held.unannounced {
		m.leaderEcho(g, held) // the broker has shown it to somebody
	}
	order := m.compareLease(g, theirs, lg, held)
	switch {
	case order < 0 && g.leader:
		m.announceSoon(g) // to those on the other side
		m.lease.at = min(m.lease.at, m.now.Mono+m.jitter(JoinJitter))
		m.event(Event{Kind: KindLease, Result: ResultIgnored, Group: g.name, From: label(from), Detail: "leads too, with a lower epoch; it will step down"})
		return nil
	case order < 0:
		return fmt.Errorf("lease of %v, known %v: %w", theirs, g.highest, ErrStale)
	case g.leader && order == 0 && !m.outranked(g, from):
		m.lease.at = min(m.lease.at, m.now.Mono+m.jitter(JoinJitter))
		return nil
	case g.leader:
		if order > 0 {
			m.lastLease(g, g.announced())
		}
		m.stepDown(g, from, from.Name+" leads too, and comes first")
	}
	m.follow(g, from)
	m.event(Event{Kind: KindLease, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "leads at epoch " + theirs.String()})
	return nil
}

// compareLease orders the epoch of a lease against this member's newest announced one.
func (m *Machine) compareLease(g *group, theirs crypto.Epoch, lg *LeaseGroup, held *key) int {
	ours := g.announced()
	switch {
	case ours == nil:
		return 1
	case held == ours:
		return 0
	case held != nil:
		theirs = held.epoch // it may have been minted under an older policy than the lease's
	}
	return cmp.Or(theirs.Compare(ours.epoch), bytes.Compare(lg.Commitment[:], ours.commitment[:]))
}

func (m *Machine) outranked(g *group, by crypto.Member) bool {
	ours, _ := g.def.Rank(m.self.Name)
	theirs, _ := g.def.Rank(by.Name)
	return theirs < ours
}

// rivalEpoch handles another leader's announcement at a leader, and reports whether it was one.
func (m *Machine) rivalEpoch(g *group, e *EpochMessage, from crypto.Member, msg []byte) bool {
	newest := e.Newest()
	if m.checkAnswerPolicy(e.PolicyVersion, e.PolicyHash) != nil || g.checkJump(newest, MaxGenerationJump, MaxNumberJump) != nil {
		return false
	}
	if newest.Compare(g.highest) < 0 {
		m.takeSpare(g, e)
		m.triggerKeys(g, newest)
		return false // ours is put in its place
	}
	ours := g.announced()
	if !m.unwrapEpochs(g, e, from) {
		return false // its keys are asked for; if nobody has them, ours go above it
	}
	if theirs := g.find(e.Wraps[0].Wrap.Commitment); theirs == g.newest() {
		m.lastLease(g, ours)
		m.stepDown(g, from, from.Name+" has announced epoch "+newest.String())
		m.keepShown(g, e, msg)
		return true
	}
	m.announceSoon(g)
	return true
}

// keepShown keeps the announcement of the newest epoch, for a keeper that takes over to repeat or go on from.
func (m *Machine) keepShown(g *group, e *EpochMessage, msg []byte) {
	if g.keeper {
		g.shown, g.wraps, g.founder, g.changed = slices.Clone(msg), e.Wraps, e.Founder, true
	}
}
