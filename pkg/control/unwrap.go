package control

import (
	"errors"
	"fmt"

	"sealgate/pkg/crypto"
)

// What announcements hold: epochs wrapped under the KEK of their number, opened and taken in (spec 6.3).

// unwrapEpochs opens the announced epochs that are new, oldest first, and reports whether the newest
// of them is held now.
func (m *Machine) unwrapEpochs(g *group, e *EpochMessage, from crypto.Member) bool {
	l := g.lineage(e.Generation, e.Founder)
	if l == nil || !l.opens(e.Wraps[0].Number) {
		m.event(Event{Kind: KindEpoch, Result: ResultIgnored, Group: g.name, From: label(from), Detail: fmt.Sprintf("no KEK of epoch %v; asks for it", e.Newest())})
		m.triggerKeys(g, e.Newest())
		return false
	}
	if oldest := e.Wraps[len(e.Wraps)-1].Number; oldest > l.next {
		m.wantKeys(g, m.jitter(RefillJitter)) // epochs in between are missing
	}
	highest := g.highest
	for i := len(e.Wraps) - 1; i >= 0; i-- {
		w := &e.Wraps[i]
		if !l.opens(w.Number) || g.find(w.Wrap.Commitment) != nil {
			continue
		}
		if err := m.unwrapOne(g, l, e, w); err != nil {
			m.refuse(KindEpoch, g.name, from, err)
			m.triggerKeys(g, e.Newest())
			return false
		}
		g.inherit(w.Wrap.Commitment, highest)
	}
	m.keysChanged = true
	m.event(Event{Kind: KindEpoch, Result: ResultAccepted, Group: g.name, From: label(from), Detail: "epoch " + e.Newest().String()})
	m.wantConfirm(g, g.find(e.Wraps[0].Wrap.Commitment)) // a second leader's: which of the two goes on?
	return true
}

// inherit lets an announced epoch be sealed under without a confirmation of its own, if it is above all that was
// known: it goes on in a chain whose KEK answered this member's own nonce, so nobody can open it who could not open the
// one before, but for whom the policy has let in since. That makes a rotation one message for a fleet of any size. A second
// leader's epoch of the same number inherits nothing: which of the two goes on is for a keeper to say.
func (g *group) inherit(commitment [32]byte, highest crypto.Epoch) {
	if k := g.find(commitment); k != nil && k.epoch.Compare(highest) > 0 {
		k.confirmed, k.confirmedAt = true, k.learned
	}
}

// tellStale has a keeper told that this member knows a higher epoch than the one announced, if that is none
// it held before: the keepers may have lost their state, or this member may have met a second leader only (F20). As with
// unknown key ids, a broker that plays old announcements again causes no more than one Hello in UnknownKeyInterval.
func (m *Machine) tellStale(g *group, e *EpochMessage) {
	if g.find(e.Wraps[0].Wrap.Commitment) != nil || m.now.Mono < g.toldAt {
		return
	}
	g.toldAt = m.now.Mono + UnknownKeyInterval
	m.wantKeys(g, m.jitter(GenerationJitter))
}

// takeSpare opens an announcement that is behind, of a second leader, while the KEK of its number is still there.
func (m *Machine) takeSpare(g *group, e *EpochMessage) {
	l, w := g.lineage(e.Generation, e.Founder), &e.Wraps[0]
	if l == nil || !l.opens(w.Number) || g.find(w.Wrap.Commitment) != nil {
		return
	}
	if m.unwrapOne(g, l, e, w) == nil {
		m.keysChanged = true
	}
}

// opens reports whether the KEK of epoch number is held, or can be made of the one held.
func (l *lineage) opens(number uint64) bool {
	return number >= l.next || number+1 == l.next && l.prev != nil
}

func (m *Machine) unwrapOne(g *group, l *lineage, e *EpochMessage, w *EpochWrap) error {
	if w.Number > l.next && w.Number-l.next > MaxNumberJump {
		return fmt.Errorf("epoch %d with a KEK for %d: %w", w.Number, l.next, ErrJump)
	}
	context := crypto.WrapContext{Fleet: m.self.Fleet, Group: g.name, Generation: e.Generation, Number: w.Number, Keeper: w.Minter}
	// The KEK is advanced on a copy: a wrap that does not open must not cost us the one held.
	kek := l.kek
	if w.Number < l.next {
		kek = l.prev
	}
	for n := l.next; n < w.Number; n++ {
		next := kek.Ratchet(g.name)
		if kek != l.kek {
			kek.Erase()
		}
		kek = next
	}
	secret, err := kek.Unwrap(&w.Wrap, context)
	if kek != l.kek && kek != l.prev {
		kek.Erase()
	}
	if err != nil {
		return fmt.Errorf("epoch %d of generation %d: %w", w.Number, e.Generation, err)
	}
	k := &key{epoch: crypto.Epoch{PolicyVersion: e.PolicyVersion, Generation: e.Generation, Number: w.Number}, id: w.Wrap.ID(), commitment: w.Wrap.Commitment,
		secret: secret, keeper: w.Minter, certificate: w.Certificate, learned: m.now.Mono, activateAt: m.now.Mono + w.ActivateAfter, supersededAt: never, barred: m.isBarred(w.Minter, w.Certificate)}
	if err := m.addKey(g, k); err != nil && !errors.Is(err, errKnown) {
		return err
	}
	l.ratchet(g.name, w.Number+1, m.now.Mono)
	return nil
}

// addKey adds a key to the group and notes under which policy the newest one was made.
func (m *Machine) addKey(g *group, k *key) error {
	if err := g.add(k); err != nil {
		return err
	}
	if k == g.newest() && k.epoch.PolicyVersion == m.policy.Document.Version {
		g.under = m.policy
	}
	return nil
}

// isBarred reports whether the policy in force revokes a minter, by its name or by the certificate that it had when it made
// the epoch. What it made opens messages and seals none (F4).
func (m *Machine) isBarred(minter string, certificate [32]byte) bool {
	return m.policy.Document.Revoked(crypto.Member{Name: minter, CertHash: certificate})
}
