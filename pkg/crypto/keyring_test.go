package crypto

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func testKey(t testing.TB, group string, first byte, e Epoch, send bool) Key {
	t.Helper()
	s, err := PayloadSecretFrom(seq32(first))
	if err != nil {
		t.Fatal(err)
	}
	return Key{ID: KeyIDOf(s, group), Epoch: e, Secret: s, Send: send}
}

func TestKeyringFindsAndOrders(t *testing.T) {
	old := testKey(t, "a", 1, Epoch{1, 9, 99}, true)
	current := testKey(t, "a", 2, Epoch{2, 1, 7}, true)
	next := testKey(t, "a", 3, Epoch{2, 1, 8}, false)
	other := testKey(t, "b", 1, Epoch{2, 1, 8}, false)
	r := must(NewKeyring(map[string][]Key{"a": {old, next, current}, "b": {other}}))(t)
	if k := r.Send("a"); k == nil || k.ID != current.ID {
		t.Errorf("sends under %v", k)
	}
	if k := r.Send("b"); k != nil {
		t.Errorf("group b sends under %v", k)
	}
	if k := r.Find("a", old.ID); k == nil || k.Epoch != old.Epoch {
		t.Errorf("found %v", k)
	}
	if r.Find("b", old.ID) != nil || r.Find("c", old.ID) != nil || r.Find("a", KeyID{}) != nil {
		t.Error("found a key of another group")
	}
	if got := r.Keys("a"); len(got) != 3 || got[0].ID != next.ID || got[2].ID != old.ID {
		t.Errorf("keys are %v", got)
	}
	if !slices.Equal(r.Groups(), []string{"a", "b"}) {
		t.Errorf("groups are %v", r.Groups())
	}
	var empty *Keyring
	if empty.Send("a") != nil || empty.Find("a", old.ID) != nil || empty.Groups() != nil || empty.Keys("a") != nil || r.Keys("c") != nil {
		t.Error("a nil keyring is not empty")
	}
}

func TestKeyringIsASnapshot(t *testing.T) {
	keys := []Key{testKey(t, "a", 1, Epoch{1, 1, 1}, true)}
	groups := map[string][]Key{"a": keys}
	r := must(NewKeyring(groups))(t)
	keys[0] = Key{}
	delete(groups, "a")
	if k := r.Send("a"); k == nil || k.Epoch.Number != 1 {
		t.Errorf("the snapshot changed to %v", k)
	}
}

func TestKeyringRefuses(t *testing.T) {
	good := testKey(t, "a", 1, Epoch{1, 1, 1}, true)
	twin := testKey(t, "a", 1, Epoch{1, 1, 2}, true)
	if _, err := NewKeyring(map[string][]Key{"a": {good, twin}}); !errors.Is(err, ErrCollision) {
		t.Errorf("one id twice: %v", err)
	}
	if _, err := NewKeyring(map[string][]Key{"b": {good}}); err == nil || !strings.Contains(err.Error(), "another group") {
		t.Errorf("a key of another group: %v", err)
	}
	if _, err := NewKeyring(map[string][]Key{"a": {{ID: good.ID}}}); !errors.Is(err, ErrErased) {
		t.Errorf("a key without a secret: %v", err)
	}
	if _, err := NewKeyring(map[string][]Key{"": {good}}); !errors.Is(err, ErrName) {
		t.Errorf("a group without a name: %v", err)
	}
}

func TestEpochOrder(t *testing.T) {
	var keys []Key
	for _, e := range []Epoch{{1, 1, 1}, {1, 1, 2}, {1, 2, 1}, {1, 2, 9}, {2, 1, 1}} {
		keys = append(keys, Key{ID: KeyID{1}, Epoch: e}, Key{ID: KeyID{2}, Epoch: e})
	}
	want := slices.Clone(keys)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	slices.SortFunc(keys, func(a, b Key) int { return a.Compare(&b) })
	if !slices.Equal(keys, want) {
		t.Errorf("ordered %v", keys)
	}
	if s := (Epoch{2, 3, 4}).String(); s != "2.3.4" {
		t.Errorf("printed %s", s)
	}
}

func TestKeyExpires(t *testing.T) {
	k := Key{NotAfter: time.Hour}
	if k.Expired(time.Hour) || !k.Expired(time.Hour+1) || (&Key{}).Expired(1<<62) {
		t.Error("the end of a key's history is wrong")
	}
}

func TestRatchetGoesOneWay(t *testing.T) {
	k := must(KEKFrom(seq32(0)))(t)
	next := k.Ratchet("g")
	if next.Equal(k) || !next.Equal(k.Ratchet("g")) || next.Equal(k.Ratchet("h")) || next.Ratchet("g").Equal(next) {
		t.Error("the ratchet is not a function of KEK and group")
	}
	k.Erase()
	if next.Bytes() == nil {
		t.Error("erasing a KEK erased the next")
	}
}

func TestWrapIsSalted(t *testing.T) {
	k, s := must(KEKFrom(seq32(0)))(t), must(PayloadSecretFrom(seq32(1)))(t)
	c := WrapContext{Fleet: "plant", Group: "g", Generation: 1, Number: 2, Keeper: "gw1"}
	a := must(k.Wrap(bytes.NewReader(seq32(1)), s, c))(t)
	b := must(k.Wrap(bytes.NewReader(seq32(2)), s, c))(t)
	if a.Ciphertext == b.Ciphertext || a.Commitment != b.Commitment || a.ID() != KeyIDOf(s, "g") {
		t.Error("the salt changes nothing, or the commitment")
	}
	if _, err := k.Wrap(bytes.NewReader(nil), s, c); err == nil {
		t.Error("wrapped without a salt")
	}
	c.Keeper = ""
	if _, err := k.Wrap(bytes.NewReader(seq32(1)), s, c); !errors.Is(err, ErrName) {
		t.Errorf("wrapped without a keeper: %v", err)
	}
}

func TestHPKE(t *testing.T) {
	k := must(NewInboxKey())(t)
	if len(k.Public()) != InboxPublicSize {
		t.Errorf("the public key has %d bytes", len(k.Public()))
	}
	plain, info := []byte("a grant"), []byte("hello, keeper, policy")
	sealed := must(HPKESeal(k.Public(), info, plain))(t)
	if len(sealed) != len(plain)+HPKEOverhead || bytes.Contains(sealed, plain) {
		t.Errorf("sealed to %d bytes", len(sealed))
	}
	for range 2 { // several keepers may answer one Hello
		if got := must(k.Open(info, sealed))(t); !bytes.Equal(got, plain) {
			t.Errorf("opened to %q", got)
		}
	}
	flipped := bytes.Clone(sealed)
	flipped[0] ^= 1
	other := must(NewInboxKey())(t)
	for name, f := range map[string]func() ([]byte, error){
		"info": func() ([]byte, error) { return k.Open([]byte("another"), sealed) }, "flipped": func() ([]byte, error) { return k.Open(info, flipped) },
		"short": func() ([]byte, error) { return k.Open(info, sealed[:HPKEOverhead-1]) }, "other key": func() ([]byte, error) { return other.Open(info, sealed) },
		"empty": func() ([]byte, error) { return k.Open(info, nil) },
	} {
		if got, err := f(); !errors.Is(err, ErrHPKE) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := HPKESeal(k.Public()[1:], info, plain); err == nil {
		t.Error("sealed to a short key")
	}
	k.Erase()
	if _, err := k.Open(info, sealed); !errors.Is(err, ErrErased) {
		t.Errorf("opened after Erase: %v", err)
	}
}
