package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// The asking side, which every member has: Hellos out, Grants, Confirms and Epochs in.

// askState is when a group wants to ask, and how often it has.
type askState struct {
	keysAt, confirmAt       time.Duration // the next Hello is due
	keysTries, confirmTries int
	lastKeys                time.Duration // when the last Hello for keys went out
	trigger                 crypto.Epoch  // the last announcement that made us ask
}

func (a *askState) reset() {
	*a = askState{keysAt: never, confirmAt: never, lastKeys: -HelloBackoffMin}
}

func (a *askState) due() time.Duration { return min(a.keysAt, a.confirmAt) }

// ask is a Hello that may still be answered, once for each group.
type ask struct {
	want    Want
	nonce   [16]byte
	about   []string     // all groups of the Hello
	groups  []askedGroup // those that some keeper may still answer about
	key     *crypto.InboxKey
	hello   []byte // the signed message
	sent    time.Duration
	expires time.Duration
}

// askedGroup is a group of a Hello with the keepers that have not answered about it.
type askedGroup struct {
	name    string
	keepers []string
}

func (a *ask) erase() {
	if a.key != nil {
		a.key.Erase()
	}
	a.groups = nil
}

// awaits reports whether the keeper may still answer about the group.
func (a *ask) awaits(group, keeper string) bool {
	return slices.ContainsFunc(a.groups, func(g askedGroup) bool { return g.name == group && slices.Contains(g.keepers, keeper) })
}

// answered notes a keeper's answer: each keeper has one for each group.
func (a *ask) answered(group, keeper string) {
	for i := range a.groups {
		if g := &a.groups[i]; g.name == group {
			g.keepers = slices.DeleteFunc(g.keepers, func(k string) bool { return k == keeper })
		}
	}
	a.groups = slices.DeleteFunc(a.groups, func(g askedGroup) bool { return len(g.keepers) == 0 })
}

// otherKeepers are the keepers of the group beside this member.
func (m *Machine) otherKeepers(g *group) []string {
	return slices.DeleteFunc(slices.Clone(g.def.Keepers), func(k string) bool { return g.keeper && k == m.self.Name })
}

// wantKeys has a Hello for the group's keys sent after delay, or sooner if one is due sooner.
func (m *Machine) wantKeys(g *group, delay time.Duration) {
	if !g.member || m.cfg.Keyless || g.keeper && len(g.def.Keepers) == 1 {
		return
	}
	at := max(m.now.Mono+delay, g.ask.lastKeys+HelloBackoffMin)
	if at < g.ask.keysAt {
		g.ask.keysAt, g.ask.keysTries = at, 0
	}
}

// wantConfirm has the newest epoch confirmed if it needs that, at random within the first part of its
// activation delay: questions are spread, and a lost answer can be repeated in time.
func (m *Machine) wantConfirm(g *group, k *key) {
	if !g.sender || k.confirmed || g.keeper && len(g.def.Keepers) == 1 {
		return
	}
	delay := max(k.activateAt-m.now.Mono, 0)
	g.ask.confirmAt = m.now.Mono + delay/10 + m.jitter(delay/2)
	g.ask.confirmTries = 0
}

// backoff is the time until the next repetition: doubling, and half of it at random.
func (m *Machine) backoff(tries int) time.Duration {
	d := HelloBackoffMax
	if tries < 16 {
		d = min(HelloBackoffMin<<tries, HelloBackoffMax)
	}
	return d/2 + m.jitter(d)
}

// runAsks drops Hellos whose nonce has expired and sends those that are due.
func (m *Machine) runAsks() {
	now := m.now.Mono
	m.asks = slices.DeleteFunc(m.asks, func(a *ask) bool {
		if a.expires > now && len(a.groups) > 0 {
			return false
		}
		a.erase()
		return true
	})
	// What is due a little later goes along: one Hello for several groups.
	soon := now
	if slices.ContainsFunc(m.ordered(), func(g *group) bool { return min(g.ask.due(), g.unknown.due()) <= now }) {
		soon = now + JoinJitter
	}
	var keys, confirm []*group
	for _, g := range m.ordered() {
		if g.unknown.take(now) && g.ask.keysAt > now {
			g.ask.keysAt, g.ask.keysTries = now, 0
		}
		if g.ask.keysAt <= soon {
			keys, g.ask.lastKeys = append(keys, g), now
			g.ask.keysAt = now + m.backoff(g.ask.keysTries)
			g.ask.keysTries++
		}
		if g.ask.confirmAt <= soon {
			confirm = append(confirm, g)
			g.ask.confirmAt = now + m.backoff(g.ask.confirmTries)
			g.ask.confirmTries++
		}
	}
	m.sayHello(WantKeys, keys)
	m.sayHello(WantConfirm, confirm)
}

func (m *Machine) asksDue() time.Duration {
	due := never
	for _, a := range m.asks {
		due = min(due, a.expires)
	}
	return due
}

// sayHello asks the keepers about groups, with a fresh nonce and, for keys, a fresh key pair.
func (m *Machine) sayHello(want Want, groups []*group) {
	if len(groups) == 0 {
		return
	}
	a := &ask{want: want, sent: m.now.Mono, expires: m.now.Mono + NonceLife}
	h := Hello{Want: want, Inbox: m.inbox, PolicyVersion: m.policy.Document.Version, PolicyHash: m.policy.Hash}
	err := m.random(a.nonce[:])
	if want == WantKeys && err == nil {
		if a.key, err = crypto.NewInboxKey(); err == nil {
			h.Public = a.key.Public()
		}
	}
	if err != nil {
		m.alarm(Event{Kind: KindHello, Result: ResultNote, Err: err})
		return
	}
	h.Nonce = a.nonce
	slices.SortFunc(groups, func(a, b *group) int { return compareNames(a.name, b.name) })
	for _, g := range groups {
		a.about = append(a.about, g.name)
		a.groups = append(a.groups, askedGroup{g.name, m.otherKeepers(g)})
		h.Groups = append(h.Groups, HelloGroup{g.name, max(g.highest.Generation, g.reported.Generation), max(g.highest.Number, g.reported.Number)})
	}
	if a.hello, err = m.publish(KindHello, "", ControlTopic(m.cfg.Prefix), h.Marshal(), false); err != nil {
		return
	}
	if len(m.asks) >= MaxAsks {
		m.asks[0].erase()
		m.asks = slices.Delete(m.asks, 0, 1)
	}
	m.asks = append(m.asks, a)
}

// findAsk returns the open Hello with this nonce.
func (m *Machine) findAsk(want Want, nonce [16]byte) *ask {
	for _, a := range m.asks {
		if a.want == want && a.nonce == nonce && a.expires > m.now.Mono && len(a.groups) > 0 {
			return a
		}
	}
	return nil
}

// checkAnswerPolicy holds the policy that an answer was made under against ours.
func (m *Machine) checkAnswerPolicy(version uint64, hash [32]byte) error {
	return checkPolicy(m.policy, version, hash)
}

func checkPolicy(inForce *policy.Signed, version uint64, hash [32]byte) error {
	switch ours := inForce.Document.Version; {
	case version < ours:
		return fmt.Errorf("policy %d, ours is %d: %w", version, ours, ErrPolicyBehind)
	case version > ours:
		return fmt.Errorf("policy %d, ours is %d: %w", version, ours, ErrPolicyAhead)
	case hash != inForce.Hash:
		return ErrPolicyFork
	}
	return nil
}

// receiveGrant takes keys that answer one of our Hellos (spec 6.2).
func (m *Machine) receiveGrant(msg []byte) {
	payload, from, err := m.verify(msg, KindGrant)
	if err != nil {
		m.refuse(KindGrant, "", from, err)
		return
	}
	grant, err := ParseGrant(payload)
	if err != nil {
		m.refuse(KindGrant, "", from, err)
		return
	}
	a := m.findAsk(WantKeys, grant.Nonce)
	if a == nil {
		m.refuse(KindGrant, "", from, ErrNonce)
		return
	}
	body, err := m.openGrant(a, grant, from)
	if err != nil {
		m.refuse(KindGrant, "", from, err)
		return
	}
	for i := range body {
		if err := m.takeGrant(a, &body[i], from); err != nil {
			m.refuse(KindGrant, body[i].Name, from, err)
			continue
		}
		m.event(Event{Kind: KindGrant, Result: ResultAccepted, Group: body[i].Name, From: label(from), Detail: "keys up to epoch " + body[i].Keys[0].Epoch.String()})
	}
}

// openGrant decrypts a Grant for one of our Hellos. A sender that keeps none of the groups
// asked about is turned away before any decryption.
func (m *Machine) openGrant(a *ask, grant *Grant, from crypto.Member) (GrantBody, error) {
	keeps := slices.ContainsFunc(m.ordered(), func(g *group) bool { return g.def.Keeper(from) })
	open := slices.ContainsFunc(a.groups, func(g askedGroup) bool { return slices.Contains(g.keepers, from.Name) })
	switch {
	case !open && keeps && m.hasAnswered(a, from):
		return nil, ErrNonce
	case !open:
		return nil, ErrNotKeeper
	}
	if err := m.checkAnswerPolicy(grant.PolicyVersion, grant.PolicyHash); err != nil {
		return nil, err
	}
	plain, err := a.key.Open(GrantInfo(a.hello, from.CertHash, grant.PolicyHash), grant.Sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return ParseGrantBody(plain)
}

// takeGrant installs one group's keys.
func (m *Machine) takeGrant(a *ask, gg *GrantGroup, from crypto.Member) error {
	g := m.groups[gg.Name]
	switch {
	case g == nil || !g.member:
		return ErrNotEntitled
	case !g.def.Keeper(from):
		return ErrNotKeeper
	case !a.awaits(gg.Name, from.Name):
		return ErrNonce
	}
	if (gg.Topics != nil) != g.def.HideTopics {
		return ErrTopicKey
	}
	newest := gg.Keys[0].Epoch
	if newest.PolicyVersion > m.policy.Document.Version {
		return ErrPolicyAhead
	}
	if err := g.checkJump(newest, MaxGrantJump, MaxGrantJump); err != nil {
		return err
	}
	a.answered(gg.Name, from.Name)
	m.keysChanged = true
	// A keeper that is behind, after a split, may still hold keys that nobody else has. They open
	// messages; they neither confirm anything nor take this member back.
	current := newest.Compare(g.highest) >= 0
	if g.leader && newest.Compare(g.highest) > 0 {
		m.lastLease(g, g.announced())
		m.stepDown(g, from, "granted "+newest.String()+", ours is "+g.highest.String())
	}
	m.takeTopics(gg.Topics, from)
	m.installKeys(g, gg, from, current)
	g.unknown.answered(g, m.now.Mono)
	if !current {
		return nil
	}
	g.ask.keysAt, g.ask.keysTries = never, 0
	g.setLineage(&lineage{generation: gg.Generation, founder: gg.Founder, next: gg.Next, kek: gg.KEK})
	m.fresh(g, a)
	return nil
}

// hasAnswered reports whether a keeper of a group of the Hello is one that it no longer awaits.
func (m *Machine) hasAnswered(a *ask, from crypto.Member) bool {
	return slices.ContainsFunc(a.about, func(name string) bool {
		g := m.groups[name]
		return g != nil && g.def.Keeper(from)
	})
}

// installKeys adds the granted secrets, oldest first. The Grant answers our own nonce, so it
// confirms its newest epoch, and the one before while the newest is not yet active (F3).
// A secret whose key id another live one has is left out (F10).
func (m *Machine) installKeys(g *group, gg *GrantGroup, from crypto.Member, current bool) {
	now := m.now.Mono
	for i := len(gg.Keys) - 1; i >= 0; i-- {
		gk := &gg.Keys[i]
		k := &key{epoch: gk.Epoch, secret: gk.Secret, commitment: crypto.Commitment(gk.Secret, g.name), keeper: gk.Keeper,
			certificate: gk.Certificate, learned: now, activateAt: now + gk.ActiveIn, supersededAt: never, barred: m.isBarred(gk.Keeper, gk.Certificate)}
		k.id = crypto.KeyID(k.commitment[:4])
		if i > 0 || !current {
			k.supersededAt = now - gk.SupersededBy
		}
		switch err := m.addKey(g, k); {
		case errors.Is(err, errKnown):
			k = g.find(k.commitment)
		case err != nil:
			m.refuse(KindGrant, g.name, from, err)
			continue
		}
		if current && (i == 0 || i == 1 && gg.Keys[0].ActiveIn > 0) {
			m.confirmed(g, k)
		}
	}
}

// confirmed marks a key as confirmed now, and ends the asking if it is of the newest epoch.
func (m *Machine) confirmed(g *group, k *key) {
	k.confirmed, k.confirmedAt, g.changed = true, m.now.Mono, true
	for _, other := range g.keys { // of a second leader: the keepers may have lost it
		if other.epoch == k.epoch && other != k {
			other.confirmed = false
		}
	}
	if k.epoch == g.newest().epoch { // a key of the same epoch that comes after it is the spare of a leader that is gone
		g.ask.confirmAt, g.ask.confirmTries = never, 0
	}
}

// receiveConfirm takes a keeper's word that epochs are current (spec 6.4).
func (m *Machine) receiveConfirm(msg []byte) {
	payload, from, err := m.verify(msg, KindConfirm)
	if err != nil {
		m.refuse(KindConfirm, "", from, err)
		return
	}
	c, err := ParseConfirm(payload)
	if err != nil {
		m.refuse(KindConfirm, "", from, err)
		return
	}
	var a *ask
	for _, n := range c.Nonces {
		if a = m.findAsk(WantConfirm, n); a != nil {
			break
		}
	}
	if a == nil {
		m.refuse(KindConfirm, "", from, ErrNonce)
		return
	}
	if err := m.checkAnswerPolicy(c.PolicyVersion, c.PolicyHash); err != nil {
		m.refuse(KindConfirm, "", from, err)
		return
	}
	for i := range c.Groups {
		cg := &c.Groups[i]
		if !slices.Contains(a.about, cg.Name) {
			continue // for another member of the batch
		}
		if err := m.takeConfirm(a, cg, from); err != nil {
			m.refuse(KindConfirm, cg.Name, from, err)
		}
	}
}

func (m *Machine) takeConfirm(a *ask, cg *ConfirmGroup, from crypto.Member) error {
	g := m.groups[cg.Name]
	if g == nil || !g.sender {
		return ErrNotEntitled
	}
	if !g.def.Keeper(from) {
		return ErrNotKeeper
	}
	if !a.awaits(cg.Name, from.Name) {
		return ErrNonce
	}
	a.answered(cg.Name, from.Name)
	k := g.find(cg.Commitment)
	if k == nil || k.epoch.Generation != cg.Generation || k.epoch.Number != cg.Number {
		m.wantKeys(g, 0)
		m.event(Event{Kind: KindConfirm, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "current is an epoch not held; asks for it"})
		return nil
	}
	m.confirmed(g, k)
	m.fresh(g, a)
	m.event(Event{Kind: KindConfirm, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "epoch " + k.epoch.String() + " is current"})
	return nil
}

// receiveEpoch takes an announcement (spec 6.3).
func (m *Machine) receiveEpoch(name string, msg []byte) {
	g := m.groups[name]
	if g == nil || !g.member || m.cfg.Keyless {
		m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: name, Detail: "takes no part in the group"})
		return
	}
	payload, from, err := m.verify(msg, KindEpoch)
	if err != nil {
		m.refuse(KindEpoch, name, from, err)
		return
	}
	e, err := ParseEpoch(payload)
	if err == nil && !g.def.Keeper(from) {
		err = ErrNotKeeper
	}
	if err == nil && e.Group != name {
		err = ErrTopic
	}
	if err == nil {
		err = checkMinters(g.def, e)
	}
	if err != nil {
		m.refuse(KindEpoch, name, from, err)
		return
	}
	g.copy = e.Wraps[0].Wrap.Commitment
	if g.leader {
		m.leaderSees(g, e, from, msg)
		return
	}
	m.candidateSees(g, e)
	m.takeEpoch(g, e, from, msg)
}

// checkMinters refuses an announcement with an epoch of somebody whom the policy lists as no keeper.
func checkMinters(g *policy.Group, e *EpochMessage) error {
	for i := range e.Wraps {
		if _, ok := g.Rank(e.Wraps[i].Minter); !ok {
			return fmt.Errorf("epoch %d by %s: %w", e.Wraps[i].Number, e.Wraps[i].Minter, ErrNotKeeper)
		}
	}
	return nil
}

// takeEpoch accepts, defers or refuses a listed keeper's announcement.
func (m *Machine) takeEpoch(g *group, e *EpochMessage, from crypto.Member, msg []byte) {
	switch err := m.checkAnswerPolicy(e.PolicyVersion, e.PolicyHash); {
	case errors.Is(err, ErrPolicyAhead):
		g.deferred = slices.Clone(msg)
		m.event(Event{Kind: KindEpoch, Result: ResultDeferred, Group: g.name, From: label(from), Detail: fmt.Sprintf("waits for policy %d", e.PolicyVersion)})
		return
	case errors.Is(err, ErrPolicyBehind):
		m.refuse(KindEpoch, g.name, from, fmt.Errorf("policy %d, ours is %d: %w", e.PolicyVersion, m.policy.Document.Version, ErrEpochPolicy))
		return
	case err != nil:
		m.refuse(KindEpoch, g.name, from, err)
		return
	}
	switch newest := e.Newest(); {
	case g.find(e.Wraps[0].Wrap.Commitment) != nil && newest.Compare(g.highest) == 0:
		m.keepShown(g, e, msg)
		g.echoed(newest, m.now.Mono) // minted by an earlier run of this keeper
		m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, From: label(from), Detail: "epoch " + newest.String() + " is known"})
		return
	case newest.Compare(g.highest) < 0:
		m.tellStale(g, e) // first: a spare that opens now was not known before
		m.takeSpare(g, e)
		m.refuse(KindEpoch, g.name, from, fmt.Errorf("announced %v, known %v: %w", newest, g.highest, ErrStale))
		return
	}
	if err := g.checkJump(e.Newest(), MaxGenerationJump, MaxNumberJump); err != nil {
		m.refuse(KindEpoch, g.name, from, err)
		m.triggerKeys(g, e.Newest())
		return
	}
	if m.unwrapEpochs(g, e, from) {
		m.keepShown(g, e, msg)
	}
}

// triggerKeys asks for keys because of an announcement or a lease: at once, and if it is repeated and nobody is being
// asked, again after UnknownKeyInterval. A keeper that is behind may have answered the first time.
func (m *Machine) triggerKeys(g *group, e crypto.Epoch) {
	if g.ask.trigger != e || g.ask.keysAt == never && m.now.Mono >= g.ask.lastKeys+UnknownKeyInterval {
		g.ask.trigger = e
		delay := m.jitter(GenerationJitter)
		if !g.keeper && m.self.Role != crypto.RoleGateway {
			delay += min(ReaderDelay, g.def.ActivateAfter/5) // senders first
		}
		m.wantKeys(g, delay)
	}
}
