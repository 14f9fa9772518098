package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// The answering side: Hellos in, Grants and Confirms out, at a bounded rate. A group's leader
// answers everybody. The other keepers answer only each other: so one that has restarted gets the
// history back, and a leader learns that it is not alone with the broker.

// keeperState is what a keeper remembers of those who ask.
type keeperState struct {
	grants    []*pendingHello // at most MaxPendingHellos, by class, oldest first
	confirms  []*pendingHello // at most MaxPendingConfirms
	batchAt   time.Duration   // answer confirms then
	hpke      bucket
	pausedTo  time.Duration // the next Grants, after a slice of them
	late      bucket        // Hellos that are looked at although the line is full: one of a gateway's still gets a place
	standby   bucket        // Hellos that are looked at while another leads
	signature bucket
	seen      map[[16]byte]struct{}      // nonces taken in, see order
	order     [][16]byte                 // the same, oldest first; at most MaxSeenNonces
	served    map[[32]byte]time.Duration // when each certificate's bucket of MemberBurst Grants is full again, unless that has passed
	asking    map[[32]byte]time.Duration // until when a Hello made with each certificate may stand in line, so that it is looked for
	sweepAt   time.Duration              // forget those of served and asking that have passed
}

// pendingHello is a Hello that waits for its answer.
type pendingHello struct {
	hello   *Hello
	from    crypto.Member
	class   class
	digest  []byte // the signed Hello, which the Grant's HPKE info binds
	expires time.Duration
	after   time.Duration // not to be answered before, for its member has had its share
	held    bool          // a group of it is not ready: its epoch is not made, or not yet seen at the broker
}

// class is the order in which members are served: those without whom data stands still come first.
type class uint8

const (
	classGateway class = iota // seals for its devices
	classKeeper               // may have to take over
	classSender               // another member that may seal
	classReader
)

// classOf is a member's best class in the groups of a Hello.
func (m *Machine) classOf(groups []HelloGroup, who crypto.Member) class {
	best := classReader
	for _, hg := range groups {
		switch def := m.groups[hg.Name].def; {
		case def.MayPublish(who) && who.Role == crypto.RoleGateway:
			return classGateway
		case def.Keeper(who):
			best = min(best, classKeeper)
		case def.MayPublish(who):
			best = min(best, classSender)
		}
	}
	return best
}

func (k *keeperState) init(rate int) {
	*k = keeperState{batchAt: never, hpke: newBucket(rate, 2*rate), late: newBucket(rate, rate), standby: newBucket(StandbyRate, 2*StandbyRate), signature: newBucket(ConfirmRate, ConfirmBurst), seen: make(map[[16]byte]struct{}), served: make(map[[32]byte]time.Duration), asking: make(map[[32]byte]time.Duration)}
}

// drop forgets who waits; they ask again.
func (k *keeperState) drop() {
	k.grants, k.confirms, k.batchAt = nil, nil, never
}

func (k *keeperState) due(now time.Duration) time.Duration {
	due, ready := k.batchAt, k.ready(now)
	for _, p := range k.grants {
		if due <= ready {
			break // nobody behind is answered sooner
		}
		if p.held {
			due = min(due, p.expires)
		} else {
			due = min(due, max(p.after, ready))
		}
	}
	return due
}

// grantPause is between two slices of Grants: long enough for a timer, too short to slow anybody down.
const grantPause = time.Millisecond

// ready is when the next Grant may be made.
func (k *keeperState) ready(now time.Duration) time.Duration {
	return max(k.hpke.ready(now), k.pausedTo)
}

// markSeen remembers the nonce of a Hello that was taken in: it is good for one answer.
func (k *keeperState) markSeen(nonce [16]byte) {
	if k.hasSeen(nonce) {
		return
	}
	if len(k.order) >= MaxSeenNonces {
		delete(k.seen, k.order[0])
		k.order = k.order[1:]
	}
	k.seen[nonce] = struct{}{}
	k.order = append(k.order, nonce)
}

func (k *keeperState) hasSeen(nonce [16]byte) bool {
	_, ok := k.seen[nonce]
	return ok
}

// mayHold reports whether the policy lets member hold keys of the group.
func (m *Machine) mayHold(def *policy.Group, who crypto.Member) bool {
	return !m.policy.Document.Revoked(who) && (def.MayRead(who) || def.MayPublish(who) || def.Keeper(who))
}

// answers reports whether this member answers who about the group: now, or soon.
func (m *Machine) answers(g *group, who crypto.Member) bool {
	return g.leader || g.expects(m.now.Mono) || g.keeper && g.newestChain() != nil && g.def.Keeper(who)
}

// keepsAny reports whether this member keeps a group: the others need not even verify a Hello.
func (m *Machine) keepsAny() bool {
	for _, g := range m.groups {
		if g.keeper {
			return true
		}
	}
	return false
}

// leadsAny reports whether this member leads a group, or may soon.
func (m *Machine) leadsAny() bool {
	for _, g := range m.groups {
		if g.leader || g.expects(m.now.Mono) {
			return true
		}
	}
	return false
}

// receiveHello checks a Hello and queues it (spec 6.5).
func (m *Machine) receiveHello(msg []byte) {
	// Who only stands by looks for the Hellos of other keepers; a fleet that boots is not its business.
	if !m.leadsAny() && !m.keeper.standby.take(m.now.Mono) {
		m.event(Event{Kind: KindHello, Result: ResultIgnored, Detail: "leads no group"})
		return
	}
	// A large fleet that boots at once is turned away for a hundredth of what an answer costs. Only
	// a Hello for keys is as long as the key in it.
	if n := len(m.keeper.grants); len(msg) > crypto.InboxPublicSize && n >= MaxPendingHellos &&
		(m.keeper.grants[n-1].class == classGateway || !m.keeper.late.take(m.now.Mono)) {
		m.refuse(KindHello, "", crypto.Member{}, ErrFlood)
		return
	}
	payload, from, err := m.verify(msg, KindHello)
	if err != nil {
		m.refuse(KindHello, "", from, err)
		return
	}
	h, err := ParseHello(payload)
	switch {
	case err != nil:
	case from == m.self:
		m.event(Event{Kind: KindHello, Result: ResultIgnored, From: label(from), Detail: "our own"})
		return
	case m.keeper.hasSeen(h.Nonce):
		err = ErrReplayedHello
	default:
		err = m.checkAsker(h)
	}
	if err == nil {
		err = m.queueHello(h, from, msg)
	}
	if err != nil {
		m.refuse(KindHello, "", from, err)
	}
}

// checkAsker holds the asker's policy against ours: the answer binds the policy's hash, so
// one of another policy would be in vain.
func (m *Machine) checkAsker(h *Hello) error {
	err := m.checkAnswerPolicy(h.PolicyVersion, h.PolicyHash)
	if h.PolicyVersion < m.policy.Document.Version {
		m.wantCopy() // perhaps the broker has lost it
	}
	return err
}

// queueHello keeps the groups that we lead and the asker may hold, notes what epochs it
// knows, and puts it in line.
func (m *Machine) queueHello(h *Hello, from crypto.Member, msg []byte) error {
	var mine []HelloGroup
	refused := false
	for _, hg := range h.Groups {
		g := m.groups[hg.Name]
		if g == nil || !m.answers(g, from) {
			continue
		}
		if g.leader && g.def.Keeper(from) {
			m.lease.at = m.now.Mono // it should know at once who leads
			if k := g.announced(); k != nil && hg.Number > 0 && hg.Number < k.epoch.Number {
				// It listens, and has not heard of the newest: nor have those around it. And perhaps it led meanwhile.
				m.announceSoon(g)
				m.triggerKeys(g, crypto.Epoch{Generation: hg.Generation, Number: hg.Number})
			}
		}
		if !m.mayHold(g.def, from) || h.Want == WantConfirm && !g.def.MayPublish(from) {
			refused = true
			continue
		}
		if m.noteReport(g, hg.Generation, hg.Number, true) {
			m.alarm(Event{Kind: KindHello, Result: ResultNote, Group: g.name, From: label(from),
				Detail: fmt.Sprintf("knows generation %d, epoch %d: above ours; the next generation goes above it", hg.Generation, hg.Number)})
		}
		m.postpone(g)
		mine = append(mine, hg)
	}
	switch {
	case len(mine) == 0 && refused:
		return ErrNotEntitled
	case len(mine) == 0:
		m.event(Event{Kind: KindHello, Result: ResultIgnored, From: label(from), Detail: "answers for none of its groups"})
		return nil
	}
	kept := *h
	kept.Public, kept.Groups = slices.Clone(h.Public), mine
	p := &pendingHello{hello: &kept, from: from, class: m.classOf(mine, from), digest: slices.Clone(msg), expires: m.now.Mono + NonceLife}
	queue, limit := &m.keeper.grants, MaxPendingHellos
	if h.Want == WantConfirm {
		queue, limit = &m.keeper.confirms, MaxPendingConfirms
		m.keeper.batchAt = min(m.keeper.batchAt, m.now.Mono+ConfirmBatch)
	}
	if m.keeper.asking[from.CertHash] <= m.now.Mono || !replace(*queue, p) { // thousands may stand in line
		if err := enqueue(queue, p, limit); err != nil {
			return err
		}
	}
	m.keeper.asking[from.CertHash] = m.now.Mono + 2*NonceLife
	m.keeper.markSeen(h.Nonce)
	m.event(Event{Kind: KindHello, Result: ResultAccepted, From: label(from), Detail: "wants " + h.Want.String()})
	return nil
}

// replace puts p in the place of an older Hello, if there is one: of the same session, or the oldest of the same member if that has MemberBurst
// sessions waiting already.
func replace(queue []*pendingHello, p *pendingHello) bool {
	oldest, sessions := -1, 0
	for i, old := range queue {
		if old.from.CertHash != p.from.CertHash {
			continue
		}
		if old.hello.Inbox == p.hello.Inbox {
			queue[i] = p
			return true
		}
		if sessions++; oldest < 0 {
			oldest = i
		}
	}
	if sessions >= MemberBurst {
		queue[oldest] = p
		return true
	}
	return false
}

// enqueue puts p behind its class, in a full line in the place of the last of a lower class.
func enqueue(queue *[]*pendingHello, p *pendingHello, limit int) error {
	if n := len(*queue); n >= limit {
		if (*queue)[n-1].class <= p.class {
			return ErrFlood
		}
		*queue = (*queue)[:n-1]
	}
	at, _ := slices.BinarySearchFunc(*queue, p.class+1, func(old *pendingHello, c class) int { return cmp.Compare(old.class, c) })
	*queue = slices.Insert(*queue, at, p)
	return nil
}

// runKeeper answers as many as the rate allows. Thousands may wait: whoever stands behind the one
// that the rate stops is not looked at.
func (m *Machine) runKeeper() {
	k, now := &m.keeper, m.now.Mono
	if k.sweepAt <= now {
		k.sweepAt = now + MemberInterval
		passed := func(_ [32]byte, at time.Duration) bool { return at <= now }
		maps.DeleteFunc(k.served, passed)
		maps.DeleteFunc(k.asking, passed)
	}
	waiting, served := k.grants[:0], 0
	for i, p := range k.grants {
		if p.expires <= now {
			continue
		}
		if served >= GrantSlice {
			k.pausedTo = now + grantPause
		}
		if k.ready(now) > now {
			waiting = append(waiting, k.grants[i:]...)
			break
		}
		p.after = k.served[p.from.CertHash] - (MemberBurst-1)*MemberInterval
		if p.held = m.held(p); p.held || p.after > now || !k.hpke.take(now) {
			waiting = append(waiting, p)
			continue
		}
		served++
		m.serve(p)
	}
	clear(k.grants[len(waiting):])
	k.grants = waiting
	if k.batchAt <= now {
		m.serveConfirms()
	}
}

// held reports whether the answer has to wait: members that got an epoch which its
// announcement has not brought to the others would use it too early.
func (m *Machine) held(p *pendingHello) bool {
	return slices.ContainsFunc(p.hello.Groups, func(hg HelloGroup) bool {
		g := m.groups[hg.Name]
		switch {
		case g == nil:
			return false
		case g.leader:
			return g.lead.chain == nil || g.newest().unannounced
		}
		return g.expects(m.now.Mono) && !g.def.Keeper(p.from)
	})
}

// serve answers one Hello for keys.
func (m *Machine) serve(p *pendingHello) {
	var body GrantBody
	quota := max(2, MaxGrantKeys/len(p.hello.Groups))
	for _, hg := range p.hello.Groups {
		g := m.groups[hg.Name]
		if g == nil || !m.answers(g, p.from) || !m.mayHold(g.def, p.from) || g.newestChain() == nil || g.lacksTopics(m) {
			continue // the policy has changed since, or who leads
		}
		body = append(body, m.grantGroup(g, p.from, quota))
	}
	if len(body) == 0 {
		return
	}
	if err := m.sendGrant(p, body); err != nil {
		m.refuse(KindHello, "", p.from, err)
		return
	}
	m.keeper.served[p.from.CertHash] = max(m.keeper.served[p.from.CertHash], m.now.Mono) + MemberInterval
	for i := range body {
		if g := m.groups[body[i].Name]; len(g.granted) < MaxGranted {
			g.granted[p.from.CertHash] = struct{}{}
		}
		m.event(Event{Kind: KindGrant, Result: ResultNote, Group: body[i].Name, From: label(p.from), Detail: "granted keys up to epoch " + body[i].Keys[0].Epoch.String()})
	}
}

// grantGroup gathers what member may hold of a group: readers and keepers its
// history, others only what they need to seal.
func (m *Machine) grantGroup(g *group, who crypto.Member, quota int) GrantGroup {
	now := m.now.Mono
	chain := g.newestChain()
	out := GrantGroup{Name: g.name, Generation: chain.generation, Founder: chain.founder, Next: chain.next, KEK: chain.kek}
	if g.def.HideTopics {
		out.Topics = m.topicKey
	}
	history := g.def.MayRead(who) || g.def.Keeper(who)
	for i := len(g.keys) - 1; i >= 0 && len(out.Keys) < quota; i-- {
		k := g.keys[i]
		if g.end(k) <= now || !history && len(out.Keys) > 0 && out.Keys[len(out.Keys)-1].ActiveIn == 0 {
			break
		}
		gk := GrantKey{Epoch: k.epoch, Keeper: k.keeper, Certificate: k.certificate, ActiveIn: max(k.activateAt-now, 0), Secret: k.secret}
		if k.supersededAt != never {
			gk.SupersededBy = max(now-k.supersededAt, 0)
		}
		out.Keys = append(out.Keys, gk)
	}
	return out
}

func (m *Machine) sendGrant(p *pendingHello, body GrantBody) error {
	slices.SortFunc(body, func(a, b GrantGroup) int { return compareNames(a.Name, b.Name) })
	plain := body.Marshal()
	defer clear(plain)
	sealed, err := crypto.HPKESeal(p.hello.Public, GrantInfo(p.digest, m.self.CertHash, m.policy.Hash), plain)
	if err != nil {
		return fmt.Errorf("sealing a grant: %w", err)
	}
	grant := Grant{Nonce: p.hello.Nonce, PolicyVersion: m.policy.Document.Version, PolicyHash: m.policy.Hash, Sealed: sealed}
	_, err = m.publish(KindGrant, "", InboxTopic(m.cfg.Prefix, p.hello.Inbox), grant.Marshal(), false)
	return err
}

// serveConfirms answers everybody who waits for a Confirm, MaxNonces to a signature.
func (m *Machine) serveConfirms() {
	k, now := &m.keeper, m.now.Mono
	k.batchAt = never
	k.confirms = slices.DeleteFunc(k.confirms, func(p *pendingHello) bool { return p.expires <= now })
	for len(k.confirms) > 0 {
		if !k.signature.take(now) {
			k.batchAt = k.signature.ready(now)
			return
		}
		n := min(len(k.confirms), MaxNonces)
		m.confirmBatch(k.confirms[:n])
		k.confirms = k.confirms[n:]
	}
}

func (m *Machine) confirmBatch(batch []*pendingHello) {
	c := Confirm{PolicyVersion: m.policy.Document.Version, PolicyHash: m.policy.Hash}
	named := make(map[string]bool)
	for _, p := range batch {
		c.Nonces = append(c.Nonces, p.hello.Nonce)
		for _, hg := range p.hello.Groups {
			g := m.groups[hg.Name]
			if g == nil || named[hg.Name] || !m.answers(g, p.from) || g.newest() == nil {
				continue
			}
			named[hg.Name] = true
			k := g.newest()
			c.Groups = append(c.Groups, ConfirmGroup{Name: g.name, Generation: k.epoch.Generation, Number: k.epoch.Number, Commitment: k.commitment})
		}
	}
	if len(c.Groups) == 0 {
		return
	}
	slices.SortFunc(c.Groups, func(a, b ConfirmGroup) int { return compareNames(a.Name, b.Name) })
	msg, err := m.cfg.Identity.Sign(c.Marshal(), string(KindConfirm))
	if err != nil {
		m.alarm(Event{Kind: KindConfirm, Result: ResultNote, Err: fmt.Errorf("signing a confirm: %w", err)})
		return
	}
	for _, p := range batch {
		m.send(KindConfirm, InboxTopic(m.cfg.Prefix, p.hello.Inbox), msg, false)
	}
}

func compareNames(a, b string) int { return cmp.Compare(a, b) }
