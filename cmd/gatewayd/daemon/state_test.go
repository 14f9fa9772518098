package daemon

import (
	"crypto/rand"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/keylink"
	"sealgate/pkg/policy"
)

func testPolicy(version uint64) []byte {
	a, b := policy.DefaultGroup("a"), policy.DefaultGroup("b")
	a.Topics, a.Keepers = []string{"a/#"}, []string{"gw1"}
	b.Topics, b.Keepers = []string{"b/#"}, []string{"gw1"}
	d := policy.Document{Fleet: "plant", Version: version, Unmatched: policy.WordDeny, Groups: []policy.Group{a, b}}
	return d.Marshal()
}

func testKey(t *testing.T, group string, number uint64, send bool) crypto.Key {
	t.Helper()
	s, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return crypto.Key{ID: crypto.KeyIDOf(s, group), Epoch: crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: number}, Secret: s, Send: send}
}

func snap(version uint64, keys map[string][]crypto.Key) keylink.Snapshot {
	s := keylink.Snapshot{Gateway: "gw1", Keys: keys}
	if version > 0 {
		s.Policy = testPolicy(version)
	}
	s.Authority = make(map[string]keylink.Authority)
	for group, list := range keys {
		if len(list) > 0 {
			s.Authority[group] = keylink.Authority{Warn: 15 * time.Minute, Lapse: time.Hour}
		}
	}
	return s
}

func mustMerge(t *testing.T, k *keyState, s keylink.Snapshot) *gateway.State {
	t.Helper()
	state, _, err := k.merge(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func sends(s *gateway.State, group string) crypto.KeyID {
	if key := s.Keys.Send(group); key != nil {
		return key.ID
	}
	return crypto.KeyID{}
}

type keys = map[string][]crypto.Key

func TestMerge(t *testing.T) {
	one, two, three := testKey(t, "a", 1, true), testKey(t, "a", 2, true), testKey(t, "a", 3, false)
	other := testKey(t, "b", 1, true)
	tests := []struct {
		name       string
		snapshots  []keylink.Snapshot
		send       crypto.KeyID // of group a after the last one; zero: none
		knows, not []crypto.Key // of group a
	}{
		{"first", []keylink.Snapshot{snap(1, keys{"a": {one}})}, one.ID, []crypto.Key{one}, []crypto.Key{two}},
		{"rotation keeps the old key to open with", []keylink.Snapshot{snap(1, keys{"a": {one}}), snap(1, keys{"a": {two}})}, two.ID, []crypto.Key{one, two}, nil},
		{"a controld that knows no group", []keylink.Snapshot{snap(1, keys{"a": {one}}), snap(1, nil)}, one.ID, []crypto.Key{one}, nil},
		{"a controld without policy", []keylink.Snapshot{snap(1, keys{"a": {one}}), snap(0, nil)}, one.ID, []crypto.Key{one}, nil},
		{"a controld whose key is not confirmed yet", []keylink.Snapshot{snap(1, keys{"a": {one}}), snap(1, keys{"a": {three}})}, one.ID, []crypto.Key{one, three}, nil},
		{"authority to send withdrawn", []keylink.Snapshot{snap(1, keys{"a": {one}}), snap(1, keys{"a": {receiveOnly(one)}})}, crypto.KeyID{}, []crypto.Key{one}, nil},
		{"keys taken away", []keylink.Snapshot{snap(1, keys{"a": {one}, "b": {other}}), snap(1, keys{"a": nil})}, crypto.KeyID{}, nil, []crypto.Key{one}},
		{"a new policy replaces all keys", []keylink.Snapshot{snap(1, keys{"a": {one}, "b": {other}}), snap(2, keys{"a": {two}})}, two.ID, []crypto.Key{two}, []crypto.Key{one}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeyState("gw1")
			var state *gateway.State
			for _, s := range tt.snapshots {
				state = mustMerge(t, k, s)
			}
			if got := sends(state, "a"); got != tt.send {
				t.Errorf("sends under %v, want %v", got, tt.send)
			}
			for _, key := range tt.knows {
				if state.Keys.Find("a", key.ID) == nil {
					t.Errorf("key of epoch %v is lost", key.Epoch)
				}
			}
			for _, key := range tt.not {
				if state.Keys.Find("a", key.ID) != nil {
					t.Errorf("key of epoch %v is still there", key.Epoch)
				}
			}
		})
	}
}

func receiveOnly(k crypto.Key) crypto.Key {
	k.Send = false
	return k
}

func TestMergeIsNotReadyWithoutPolicyOrKeys(t *testing.T) {
	k := newKeyState("gw1")
	if s := mustMerge(t, k, snap(0, nil)); s.Table != nil || s.Keys != nil {
		t.Error("a state of nothing is something")
	}
	if s := mustMerge(t, k, snap(1, nil)); s.Table == nil || s.Keys != nil {
		t.Error("with a policy and no keys there must be a table and no keyring")
	}
}

func TestMergeRefuses(t *testing.T) {
	one := testKey(t, "a", 1, true)
	k := newKeyState("gw1")
	mustMerge(t, k, snap(2, keys{"a": {one}}))
	for name, s := range map[string]keylink.Snapshot{
		"older policy":     snap(1, keys{"a": nil}),
		"another gateway":  {Gateway: "gw2", Policy: testPolicy(3)},
		"policy of no use": {Gateway: "gw1", Policy: []byte{1, 2, 3}},
	} {
		if _, _, err := k.merge(s, 0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if s := mustMerge(t, k, snap(2, nil)); sends(s, "a") != one.ID {
		t.Error("a refused snapshot changed something")
	}
}

func TestMergeRefusesKeyOfAnotherGroup(t *testing.T) {
	if _, _, err := newKeyState("gw1").merge(snap(1, keys{"a": {testKey(t, "b", 1, true)}}), 0); err == nil {
		t.Error("a key that belongs to another group was taken")
	}
}

func TestMergeDropsWhatHasEnded(t *testing.T) {
	old := testKey(t, "a", 1, true)
	old.NotAfter = time.Minute
	k := newKeyState("gw1")
	mustMerge(t, k, snap(1, keys{"a": {old}}))
	state, _, err := k.merge(snap(1, keys{"a": {testKey(t, "a", 2, true)}}), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if state.Keys.Find("a", old.ID) != nil {
		t.Error("a key outlived its history")
	}
	if got := len(state.Keys.Keys("a")); got != 1 {
		t.Errorf("%d keys, want 1", got)
	}
}

func TestReportNamesTheHighestEpochHeld(t *testing.T) {
	k := newKeyState("gw1")
	mustMerge(t, k, snap(1, keys{"a": {testKey(t, "a", 5, true), testKey(t, "a", 4, true)}}))
	if r := k.report(true); !r.Ready || r.Held["a"].Number != 5 || len(r.Held) != 1 {
		t.Errorf("report %+v", r)
	}
}

// A newer policy is in force also when the keys that came with it are worth nothing: sealing on under
// the policy of before would reach readers that it has revoked.
func TestBadKeysDoNotKeepTheOldPolicy(t *testing.T) {
	k := newKeyState("gw1")
	mustMerge(t, k, snap(1, keys{"a": {testKey(t, "a", 1, true)}}))
	bad := testKey(t, "a", 2, true)
	bad.ID[0] ^= 1
	state, _, err := k.merge(snap(1, keys{"a": {bad}}), 0)
	if err == nil || state != nil {
		t.Errorf("under the same policy the keys at hand go on: %v, %v", state, err)
	}
	mustMerge(t, k, snap(1, keys{"a": {testKey(t, "a", 1, true)}}))
	state, _, err = k.merge(snap(2, keys{"a": {bad}}), 0)
	if err == nil || state == nil || state.Table == nil || state.Keys != nil {
		t.Errorf("under another policy nothing goes on: %v, %v", state, err)
	}
}

// The topic key stays as long as its policy, whether controld mentions it or not.
func TestMergeTopicKey(t *testing.T) {
	one, two := testKey(t, "a", 1, true), testKey(t, "a", 2, true)
	topics, err := crypto.TopicKeyFrom(make([]byte, crypto.SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	with := snap(1, keys{"a": {one}})
	with.Topics = topics
	k := newKeyState("gw1")
	for _, step := range []struct {
		why  string
		snap keylink.Snapshot
		want bool
	}{
		{"none", snap(1, keys{"a": {one}}), false},
		{"one", with, true},
		{"a controld that has none", snap(1, keys{"a": {two}}), true},
		{"a controld without policy", snap(0, nil), true},
		{"a new policy", snap(2, keys{"a": {two}}), false},
	} {
		if got := mustMerge(t, k, step.snap).Keys.TopicKey(); (got != nil) != step.want {
			t.Errorf("%s: topic key %v", step.why, got)
		}
	}
	renewed := snap(2, keys{"a": {two}})
	renewed.Topics = topics
	if mustMerge(t, k, renewed).Keys.TopicKey() == nil {
		t.Error("not taken under the new policy")
	}
	if state, _ := k.enforce(0); state != nil && state.Keys.TopicKey() == nil {
		t.Error("lost when authority is looked at")
	}
}
