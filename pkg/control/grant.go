package control

import (
	"crypto/sha256"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// Grant answers one Hello with keys (spec 4.2). Its signed part is public; the keys are
// in Sealed, which only the Hello's inbox key opens.
type Grant struct {
	Nonce         [16]byte // of the Hello
	PolicyVersion uint64
	PolicyHash    [32]byte
	Sealed        []byte // HPKE: encapsulated key, then the encrypted GrantBody
}

// GrantBody is what a Grant seals: the keys, group by group, by name ascending.
type GrantBody []GrantGroup

// GrantGroup is one group's keys.
type GrantGroup struct {
	Name       string
	Generation uint64
	Founder    string           // the keeper that began the generation
	Next       uint64           // number of the epoch that KEK wraps: one above the newest in Keys
	KEK        *crypto.KEK      // never the one that wrapped an epoch already announced (F9)
	Keys       []GrantKey       // newest first
	Topics     *crypto.TopicKey // of a group that hides its topics; nil: it does not
}

// GrantKey is one payload secret with its age.
type GrantKey struct {
	Epoch        crypto.Epoch
	Keeper       string        // who minted it
	Certificate  [32]byte      // its minter's, by SHA-256
	ActiveIn     time.Duration // until senders may use it; 0: they may now
	SupersededBy time.Duration // how long ago a newer epoch took over; 0 for the newest
	Secret       *crypto.PayloadSecret
}

const (
	grantItems      = 5
	grantGroupItems = 6 // one more with a topic key
	grantKeyItems   = 8
	labelGrant      = "sealgate v1 grant"
	maxSuperseded   = 2 * 366 * 24 * time.Hour
)

// GrantInfo is the HPKE info of a Grant (F15): it binds the keys to the whole signed
// Hello they answer, to the keeper's certificate and to the policy that both follow.
func GrantInfo(hello []byte, keeper, policyHash [32]byte) []byte {
	sum := sha256.Sum256(hello)
	b := dcbor.AppendText(dcbor.AppendArray(nil, 4), labelGrant)
	b = dcbor.AppendBytes(b, sum[:])
	b = dcbor.AppendBytes(b, keeper[:])
	return dcbor.AppendBytes(b, policyHash[:])
}

// Marshal encodes g as the payload of a message of kind grant.
func (g *Grant) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, grantItems), KindGrant)
	b = dcbor.AppendBytes(b, g.Nonce[:])
	b = dcbor.AppendUint(b, g.PolicyVersion)
	b = dcbor.AppendBytes(b, g.PolicyHash[:])
	return dcbor.AppendBytes(b, g.Sealed)
}

// ParseGrant decodes a Grant. Sealed is a view into b.
func ParseGrant(b []byte) (*Grant, error) {
	r := dcbor.NewReader(b)
	g := new(Grant)
	readHead(r, KindGrant, grantItems)
	r.BytesExact(g.Nonce[:])
	g.PolicyVersion = r.Uint()
	r.BytesExact(g.PolicyHash[:])
	g.Sealed = r.Bytes(MaxMessage)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	return g, nil
}

// Marshal encodes the keys, which the caller seals at once.
func (g GrantBody) Marshal() []byte {
	b := dcbor.AppendArray(nil, len(g))
	for i := range g {
		b = g[i].append(b)
	}
	return b
}

func (g *GrantGroup) append(b []byte) []byte {
	items := grantGroupItems
	if g.Topics != nil {
		items++
	}
	b = dcbor.AppendText(dcbor.AppendArray(b, items), g.Name)
	b = dcbor.AppendText(dcbor.AppendUint(b, g.Generation), g.Founder)
	b = dcbor.AppendUint(b, g.Next)
	b = dcbor.AppendBytes(b, g.KEK.Bytes())
	b = dcbor.AppendArray(b, len(g.Keys))
	for i := range g.Keys {
		k := &g.Keys[i]
		b = dcbor.AppendUint(dcbor.AppendArray(b, grantKeyItems), k.Epoch.PolicyVersion)
		b = dcbor.AppendUint(dcbor.AppendUint(b, k.Epoch.Generation), k.Epoch.Number)
		b = dcbor.AppendText(b, k.Keeper)
		b = dcbor.AppendBytes(b, k.Certificate[:])
		b = appendMillis(appendMillis(b, k.ActiveIn), k.SupersededBy)
		b = dcbor.AppendBytes(b, k.Secret.Bytes())
	}
	if g.Topics != nil {
		b = dcbor.AppendBytes(b, g.Topics.Bytes())
	}
	return b
}

// ParseGrantBody decodes what a Grant sealed. It copies the keys out of b.
func ParseGrantBody(b []byte) (GrantBody, error) {
	r := dcbor.NewReader(b)
	n := r.Array(MaxHelloGroups)
	left := MaxGrantKeys
	var body GrantBody
	for i := 0; i < n && r.Err() == nil; i++ {
		g := readGrantGroup(r, &left)
		if i > 0 && g.Name <= body[i-1].Name {
			r.Fail(fmt.Errorf("%w: groups are not in ascending order", dcbor.ErrMalformed))
		}
		body = append(body, g)
	}
	if n == 0 {
		r.Fail(fmt.Errorf("%w: no group", dcbor.ErrMalformed))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("grant's keys: %w", err)
	}
	return body, nil
}

func readGrantGroup(r *dcbor.Reader, left *int) (g GrantGroup) {
	items := r.Array(grantGroupItems + 1)
	if r.Err() == nil && items < grantGroupItems {
		r.Fail(fmt.Errorf("%w: %d items in a group", dcbor.ErrMalformed, items))
	}
	g.Name, g.Generation, g.Founder, g.Next = readGroup(r), readEpochValue(r), readName(r), readEpochValue(r)
	var kek [crypto.SecretSize]byte
	r.BytesExact(kek[:])
	g.KEK, _ = crypto.KEKFrom(kek[:])
	clear(kek[:])
	n := r.Array(min(*left, MaxKeysPerGroup))
	*left -= n
	for i := 0; i < n && r.Err() == nil; i++ {
		k := readGrantKey(r)
		if i > 0 && k.Epoch.Compare(g.Keys[i-1].Epoch) > 0 {
			r.Fail(fmt.Errorf("%w: epochs are not in falling order", dcbor.ErrMalformed))
		}
		g.Keys = append(g.Keys, k)
	}
	if items > grantGroupItems {
		g.Topics = readTopicKey(r)
	}
	if r.Err() != nil {
		return g
	}
	if n == 0 || g.Keys[0].Epoch.Generation != g.Generation || g.Keys[0].Epoch.Number+1 != g.Next {
		r.Fail(fmt.Errorf("%w: the KEK's epoch does not follow the newest one", dcbor.ErrMalformed))
	}
	return g
}

func readTopicKey(r *dcbor.Reader) *crypto.TopicKey {
	var b [crypto.SecretSize]byte
	r.BytesExact(b[:])
	k, _ := crypto.TopicKeyFrom(b[:])
	clear(b[:])
	return k
}

func readGrantKey(r *dcbor.Reader) (k GrantKey) {
	r.ArrayExact(grantKeyItems)
	k.Epoch.PolicyVersion = r.Uint()
	k.Epoch.Generation, k.Epoch.Number = readEpochValue(r), readEpochValue(r)
	k.Keeper = readName(r)
	r.BytesExact(k.Certificate[:])
	k.ActiveIn = readMillis(r, MaxDelay)
	k.SupersededBy = readMillis(r, maxSuperseded)
	var s [crypto.SecretSize]byte
	r.BytesExact(s[:])
	k.Secret, _ = crypto.PayloadSecretFrom(s[:])
	clear(s[:])
	return k
}
