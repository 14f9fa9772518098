package control

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// never is a timer that does not run.
const never = time.Duration(1<<63 - 1)

// group is what a member knows and does about one group.
type group struct {
	name string
	def  *policy.Group // in the policy in force

	member bool // may hold its keys
	sender bool // may seal, and wants to
	keeper bool // is one of its keepers
	leader bool // mints and answers, at present

	acting  crypto.Member // the keeper that leads, as its lease says; zero: none is known
	leaseAt time.Duration // when it was last heard of
	takeAt  time.Duration // of a keeper that does not lead: it takes over then, unless a lease comes before
	excused bool          // it once came too late to its takeover, and listens again: the silence may have been its own

	freshAt time.Duration // when the last answer to this member's own nonce was asked for (F3)
	renewAt time.Duration // a confirmation is asked for then
	alone   bool          // the only keeper: nobody else can confirm anything
	warned  bool          // that no answer has come for long

	subscribed bool     // to its announcements, in this session
	copy       [32]byte // the newest commitment in what the broker has shown in this session; zero: nothing

	keys     []*key       // ascending: the newest last
	lineages []*lineage   // KEKs, oldest first
	highest  crypto.Epoch // of all keys ever held: it does not fall when keys are pruned
	reported crypto.Epoch // the highest generation and number that anybody told of, no policy version (F20)
	sending  *key         // what the keyring last given out seals under

	ask      askState
	unknown  unknownState
	toldAt   time.Duration // no Hello because of a stale announcement before
	deferred []byte        // an Epoch message that waits for the policy that it names

	generation uint64        // the highest of a key held
	born       time.Duration // when it began, as far as this member can tell

	under   *policy.Signed // the policy of the newest key; nil: another than the one in force
	shown   []byte         // of a keeper: the signed announcement of the newest epoch, its own or its predecessor's
	wraps   []EpochWrap    // what shown announces, newest first
	founder string         // of the generation of wraps

	checkpoint checkpointState
	changed    bool // what the next run of a keeper should know has changed
	kept       bool // it has been put out, or was kept by the run before

	lead    leaderState           // of the leader
	granted map[[32]byte]struct{} // of a keeper: certificates served in this generation
}

// key is one payload secret of a group.
type key struct {
	epoch        crypto.Epoch
	id           crypto.KeyID
	commitment   [32]byte
	secret       *crypto.PayloadSecret
	keeper       string        // who minted it
	certificate  [32]byte      // of its minter, by SHA-256
	barred       bool          // its minter is revoked: it opens what was sealed, and seals no more
	learned      time.Duration // when this member got it
	activateAt   time.Duration // senders may use it from then on
	supersededAt time.Duration // a newer one took over then: the history runs from here; never: it is the newest
	confirmed    bool          // answered to this member's own nonce, minted by itself, or next in the chain after such a one (F3)
	confirmedAt  time.Duration // when that was last said
	unannounced  bool          // minted here, and the broker has not yet echoed it
	delay        time.Duration // of a key minted here: from its echo until senders may use it
}

// lineage is the KEK chain of one generation, ratcheted to epoch next. Whoever leads goes on with
// the chain, so a generation bears its founder's name and not its minters'.
type lineage struct {
	generation uint64
	founder    string
	next       uint64 // the epoch that kek wraps
	kek        *crypto.KEK

	// The KEK of epoch next-1, until then: a second leader that has not heard of the first one's epoch
	// mints another of the same number (spec 6.10). nil: erased, or never held.
	prev      *crypto.KEK
	prevUntil time.Duration
}

// errKnown is returned by add for a key that is held already.
var errKnown = errors.New("key is held already")

func newGroup(name string) *group {
	g := &group{name: name, takeAt: never, renewAt: never, granted: make(map[[32]byte]struct{})}
	g.ask.reset()
	g.lead.reset()
	g.checkpoint.at = never
	return g
}

// newest is the key of the highest epoch, nil without any.
func (g *group) newest() *key {
	if len(g.keys) == 0 {
		return nil
	}
	return g.keys[len(g.keys)-1]
}

// find returns the key with this commitment.
func (g *group) find(commitment [32]byte) *key {
	for _, k := range g.keys {
		if k.commitment == commitment {
			return k
		}
	}
	return nil
}

// add inserts a key in its order. It refuses one whose id another live key has (F10).
func (g *group) add(k *key) error {
	for _, old := range g.keys {
		switch {
		case old.commitment == k.commitment:
			return errKnown
		case old.id == k.id:
			return fmt.Errorf("epoch %v and epoch %v have the id %v: %w", k.epoch, old.epoch, k.id, crypto.ErrCollision)
		}
	}
	g.changed = true
	at, _ := slices.BinarySearchFunc(g.keys, k, compareKeys)
	g.keys = slices.Insert(g.keys, at, k)
	if at+1 < len(g.keys) && k.supersededAt == never {
		k.supersededAt = max(k.learned, min(g.keys[at+1].activateAt, k.learned+MaxDelay))
	}
	if at > 0 && g.keys[at-1].supersededAt == never {
		g.keys[at-1].supersededAt = max(k.activateAt, k.learned)
	}
	if k.epoch.Compare(g.highest) > 0 {
		g.highest = k.epoch
	}
	switch born := min(k.learned, k.supersededAt); {
	case k.epoch.Generation > g.generation:
		g.generation, g.born = k.epoch.Generation, born
	case k.epoch.Generation == g.generation:
		g.born = min(g.born, born)
	}
	if len(g.keys) > MaxKeysPerGroup {
		g.keys = slices.Delete(g.keys, 0, len(g.keys)-MaxKeysPerGroup)
	}
	return nil
}

// compareKeys orders keys by epoch, then key id: two leaders' keys of one epoch come out
// in the same order at every member (spec 5.1).
func compareKeys(a, b *key) int {
	return cmp.Or(a.epoch.Compare(b.epoch), bytes.Compare(a.id[:], b.id[:]))
}

// end is when the key's history ends, never for the newest.
func (g *group) end(k *key) time.Duration {
	if k.supersededAt == never {
		return never
	}
	return k.supersededAt + g.def.History
}

// prune forgets keys whose history ended so long ago that nobody need be told that they
// are expired. Their secrets are left to the collector: a keyring in use may still share them.
func (g *group) prune(now time.Duration) {
	g.keys = slices.DeleteFunc(g.keys, func(k *key) bool {
		end := g.end(k)
		if end == never || end+ExpiredGrace > now || k == g.sending {
			return false
		}
		g.unknown.remember(k.id, now)
		g.changed = true
		return true
	})
}

// lineage finds the KEK of a founder's generation.
func (g *group) lineage(generation uint64, founder string) *lineage {
	for _, l := range g.lineages {
		if l.generation == generation && l.founder == founder {
			return l
		}
	}
	return nil
}

// setLineage stores a KEK, unless the one held has been ratcheted further. The lowest
// generations make room.
func (g *group) setLineage(n *lineage) {
	g.changed = true
	if old := g.lineage(n.generation, n.founder); old != nil {
		if old.next <= n.next && !old.kek.Equal(n.kek) {
			old.erase()
			old.next, old.kek = n.next, n.kek
		}
		return
	}
	g.lineages = append(g.lineages, n)
	slices.SortStableFunc(g.lineages, func(a, b *lineage) int { return cmp.Compare(a.generation, b.generation) })
	if len(g.lineages) > MaxLineages {
		g.lineages[0].erase()
		g.lineages = slices.Delete(g.lineages, 0, 1)
	}
}

// ratchet moves the KEK on to epoch number. It erases what it passes (F9), the last one after KEKGrace.
func (l *lineage) ratchet(group string, number uint64, now time.Duration) {
	for l.next < number {
		l.prev.Erase()
		l.prev, l.prevUntil = l.kek, now+KEKGrace
		l.kek = l.kek.Ratchet(group)
		l.next++
	}
}

// expire erases the KEK before the last when its grace has ended.
func (l *lineage) expire(now time.Duration) {
	if l.prev != nil && l.prevUntil <= now {
		l.prev.Erase()
		l.prev = nil
	}
}

func (l *lineage) erase() {
	l.kek.Erase()
	l.prev.Erase()
	l.prev = nil
}

// newestChain is the KEK that wraps the epoch after the highest known: with it a keeper goes on where
// another has ended. nil: this member does not hold it.
func (g *group) newestChain() *lineage {
	for _, l := range g.lineages {
		if k := g.newest(); k != nil && l.generation == k.epoch.Generation && l.next == k.epoch.Number+1 && k.epoch == g.highest {
			return l
		}
	}
	return nil
}

// erase drops everything secret: the member takes no more part in the group.
func (g *group) erase() {
	for _, l := range g.lineages {
		l.erase()
	}
	g.changed = true
	g.lineages, g.keys, g.sending, g.deferred = nil, nil, nil, nil
	g.under, g.shown, g.wraps = nil, nil, nil
	g.lead.reset()
	clear(g.granted)
}

// checkJump refuses an epoch that is out of reach of the highest known (F4).
func (g *group) checkJump(e crypto.Epoch, generations, numbers uint64) error {
	if g.highest == (crypto.Epoch{}) {
		return nil
	}
	if e.Generation > g.highest.Generation+generations || e.Number > g.highest.Number+numbers {
		return fmt.Errorf("epoch %v after %v: %w", e, g.highest, ErrJump)
	}
	return nil
}
