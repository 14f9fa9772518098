package crypto

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrCollision is wrapped when two live secrets of a group share a key id. A
// member refuses the newer one; a keeper draws its secret again (F10).
var ErrCollision = errors.New("two live keys of a group have the same id")

// Epoch orders the payload secrets of a group (spec 5.5): by policy version, then
// generation, then number.
type Epoch struct{ PolicyVersion, Generation, Number uint64 }

// Compare returns -1, 0 or +1 as e is before, equal to or after o.
func (e Epoch) Compare(o Epoch) int {
	return cmp.Or(cmp.Compare(e.PolicyVersion, o.PolicyVersion), cmp.Compare(e.Generation, o.Generation), cmp.Compare(e.Number, o.Number))
}

// String returns the epoch as "version.generation.number".
func (e Epoch) String() string {
	return fmt.Sprintf("%d.%d.%d", e.PolicyVersion, e.Generation, e.Number)
}

// Key is a payload secret as a member holds it.
type Key struct {
	ID       KeyID
	Epoch    Epoch
	Secret   *PayloadSecret
	Send     bool          // may seal, not only open
	NotAfter time.Duration // end of its history on the caller's boot-time clock; 0: none
}

// Compare orders keys by epoch, then by id: two keepers that mint the same epoch leave all
// members with the same highest key (spec 5.5).
func (k *Key) Compare(o *Key) int {
	return cmp.Or(k.Epoch.Compare(o.Epoch), slices.Compare(k.ID[:], o.ID[:]))
}

// Expired reports whether the key's history has ended at now, a time on the
// same clock as NotAfter. A message under it is reported as expired-epoch.
func (k *Key) Expired(now time.Duration) bool { return k.NotAfter != 0 && now > k.NotAfter }

// Keyring is an immutable snapshot of the keys of all groups. Holders swap
// whole snapshots atomically. A nil Keyring is empty. Safe for concurrent use.
type Keyring struct {
	groups map[string]*groupKeys
	names  []string
	topics *TopicKey
}

type groupKeys struct {
	keys []Key // highest first
	byID map[KeyID]*Key
	send *Key
}

// NewKeyring makes a snapshot of the keys of each group. It refuses a key whose id
// is not its commitment's, and with [ErrCollision] two keys with one id.
func NewKeyring(groups map[string][]Key) (*Keyring, error) {
	r := &Keyring{groups: make(map[string]*groupKeys, len(groups))}
	for name, keys := range groups {
		g, err := newGroupKeys(name, keys)
		if err != nil {
			return nil, fmt.Errorf("keys of group %q: %w", name, err)
		}
		r.groups[name] = g
		r.names = append(r.names, name)
	}
	slices.Sort(r.names)
	return r, nil
}

func newGroupKeys(name string, keys []Key) (*groupKeys, error) {
	if err := checkText("group", name, MaxGroup); err != nil {
		return nil, err
	}
	g := &groupKeys{keys: slices.Clone(keys), byID: make(map[KeyID]*Key, len(keys))}
	slices.SortFunc(g.keys, func(a, b Key) int { return b.Compare(&a) })
	for i := range g.keys {
		k := &g.keys[i]
		if _, err := k.Secret.key(); err != nil {
			return nil, fmt.Errorf("key %v: %w", k.ID, err)
		}
		if k.ID != KeyIDOf(k.Secret, name) {
			return nil, fmt.Errorf("key %v: its secret has the id %v: it belongs to another group, or the key's record is damaged", k.ID, KeyIDOf(k.Secret, name))
		}
		if g.byID[k.ID] != nil {
			return nil, fmt.Errorf("key %v: %w", k.ID, ErrCollision)
		}
		g.byID[k.ID] = k
		if k.Send && g.send == nil {
			g.send = k
		}
	}
	return g, nil
}

// WithTopicKey is a snapshot of the same keys and of the fleet's topic key; nil: none is known.
func (r *Keyring) WithTopicKey(k *TopicKey) *Keyring {
	with := Keyring{topics: k}
	if r != nil {
		with.groups, with.names = r.groups, r.names
	}
	return &with
}

// TopicKey returns the key that hides topic names, nil if none is known.
func (r *Keyring) TopicKey() *TopicKey {
	if r == nil {
		return nil
	}
	return r.topics
}

// FindHidden returns the key of an envelope that came on a hidden topic, and its group, which is one of groups: that which has a key of
// this id or, if several have, that under whose key it authenticates (spec 17.4). It returns nil if none has, or the topic key is not known.
func (r *Keyring) FindHidden(groups []string, topic string, e *Envelope) (key *Key, group string) {
	if r.TopicKey() == nil {
		return nil, ""
	}
	for _, g := range groups {
		k := r.Find(g, e.Kid.KeyID())
		if k != nil && (key == nil || !authenticates(key, group, topic, e)) {
			key, group = k, g
		}
	}
	return key, group
}

// authenticates tries a key. Key ids are alone in a group only (spec 5.2).
func authenticates(key *Key, group, topic string, e *Envelope) bool {
	s, err := NewOpenStream(key.Secret, group, topic, e.Kid.StreamID())
	if err != nil {
		return false
	}
	_, err = s.Open(nil, e)
	return err == nil
}

// Send returns the highest key of group that may seal, nil if there is none.
func (r *Keyring) Send(group string) *Key {
	if r == nil || r.groups[group] == nil {
		return nil
	}
	return r.groups[group].send
}

// Find returns the key with this id in group, nil if it is not known. It allocates nothing.
func (r *Keyring) Find(group string, id KeyID) *Key {
	if r == nil || r.groups[group] == nil {
		return nil
	}
	return r.groups[group].byID[id]
}

// Groups returns the names of the groups in order. The caller must not change the slice.
func (r *Keyring) Groups() []string {
	if r == nil {
		return nil
	}
	return r.names
}

// Keys returns a group's keys, highest first. The caller must not change the slice.
func (r *Keyring) Keys(group string) []Key {
	if r == nil || r.groups[group] == nil {
		return nil
	}
	return r.groups[group].keys
}
