package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sealgate/pkg/boottime"
	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/keylink"
	"sealgate/pkg/policy"
)

// keyState is what gatewayd knows from controld. controld may restart at any time and begin
// with nothing; what gatewayd holds stays in force until controld has something newer to say.
type keyState struct {
	name string // of this gateway

	mu        sync.Mutex // guards all below
	connected bool
	encoded   []byte // the policy document in force; nil: none yet
	document  *policy.Document
	table     *policy.Table
	keys      map[string][]crypto.Key // by group, highest first
	topics    *crypto.TopicKey        // nil: none known
	authority map[string]*authority   // by group, how long those that may seal may do so
	epochs    map[string]keylink.EpochInfo
	epochsAt  time.Duration // boot time at which epochs came
	control   map[keylink.Counter]uint64
	refused   bool // the newest snapshot was: what renews it renews nothing here
}

func newKeyState(name string) *keyState {
	return &keyState{name: name, keys: make(map[string][]crypto.Key), authority: make(map[string]*authority)}
}

// note is something that an operator should know.
type note struct {
	level slog.Level
	text  string
	args  []any
}

func (k *keyState) setConnected(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.connected = yes
}

// stats keeps what gauges and counters are made of.
func (k *keyState) stats(s keylink.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epochs, k.epochsAt, k.control = s.Epochs, boottime.Now(), s.Control
}

// merge takes a snapshot over and returns the state for the pipeline. Under the policy
// already in force, keys that controld does not mention stay: to open with until their
// history ends, and to seal with until controld has a send key for their group or the authority to seal lapses. A new
// policy replaces all keys. A policy older than the one in force is refused. Beside an error there is a
// state if the one before must not go on: a new policy came with keys that are worth nothing.
func (k *keyState) merge(s keylink.Snapshot, now time.Duration) (_ *gateway.State, _ []note, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { k.refused = err != nil }()
	if s.Gateway != k.name {
		return nil, nil, fmt.Errorf("it is for %q, this gateway is %q: let keylink and identity name the same member for both daemons", s.Gateway, k.name)
	}
	var notes []note
	before := k.table
	switch {
	case len(s.Policy) == 0:
		if k.document == nil {
			return &gateway.State{}, nil, nil
		}
		notes = append(notes, note{slog.LevelWarn, "controld has no policy yet; the one at hand stays in force", []any{"version", k.document.Version}})
	case !bytes.Equal(s.Policy, k.encoded):
		if err := k.follow(s.Policy); err != nil {
			return nil, nil, err
		}
	}
	for group, keys := range s.Keys {
		if k.keys[group] = mergeKeys(k.keys[group], keys); len(keys) == 0 {
			delete(k.authority, group)
		}
	}
	if s.Topics != nil {
		k.topics = s.Topics
	}
	k.authorize(s.Authority)
	for group, keys := range k.keys {
		keys = slices.DeleteFunc(keys, func(key crypto.Key) bool { return key.Expired(now) })
		if k.keys[group] = keys; len(keys) == 0 {
			delete(k.keys, group)
		}
	}
	ring, err := crypto.NewKeyring(k.sealing(now))
	if err != nil {
		k.keys = make(map[string][]crypto.Key) // keys that contradict one another are worth nothing
		err = fmt.Errorf("keys refused: %w", err)
		if k.table != before {
			return &gateway.State{Table: k.table, Policy: k.document}, notes, err
		}
		return nil, notes, err
	}
	ring = ring.WithTopicKey(k.topics)
	if len(k.keys) == 0 {
		ring = nil // not ready: devices are told to come back
	}
	return &gateway.State{Table: k.table, Keys: ring, Policy: k.document}, notes, nil
}

// follow puts another policy in force. The keys of the one before go with it.
func (k *keyState) follow(encoded []byte) error {
	d, err := policy.Unmarshal(encoded)
	if err != nil {
		return err
	}
	if k.document != nil && d.Version < k.document.Version {
		return fmt.Errorf("policy version %d is older than version %d in force", d.Version, k.document.Version)
	}
	table, err := d.Table()
	if err != nil {
		return errors.Join(errors.New("policy refused"), err)
	}
	k.encoded, k.document, k.table = encoded, d, table
	k.topics = nil
	k.keys, k.authority = make(map[string][]crypto.Key), make(map[string]*authority)
	return nil
}

// mergeKeys is next and those of old that next does not have. Of these the send keys seal on
// until next has one of its own: a controld that has just started holds keys that nobody has
// confirmed to it yet. An empty next takes all away.
func mergeKeys(old, next []crypto.Key) []crypto.Key {
	if len(next) == 0 {
		return nil
	}
	merged := slices.Clone(next)
	sending := slices.ContainsFunc(next, func(k crypto.Key) bool { return k.Send })
	for _, key := range old {
		if slices.ContainsFunc(next, func(n crypto.Key) bool { return n.ID == key.ID }) {
			continue
		}
		key.Send = key.Send && !sending
		merged = append(merged, key)
	}
	slices.SortFunc(merged, func(a, b crypto.Key) int { return b.Compare(&a) })
	return merged[:min(len(merged), keylink.MaxKeys)]
}

// report is what controld is told about this gateway.
func (k *keyState) report(ready bool) keylink.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := keylink.Report{Ready: ready, Held: make(map[string]crypto.Epoch)}
	for group, keys := range k.keys {
		r.Held[group] = keys[0].Epoch
	}
	return r
}
