package crypto

import (
	"bytes"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"sealgate/test/fixedhpke"
	"sealgate/test/spec"
)

// mlkemVector is an encapsulation to the key of a seed d || z, and what decapsulation makes
// of the ciphertext.
type mlkemVector struct {
	Comment    string `json:"comment"`
	Spec       string `json:"spec"`
	Expect     string `json:"expect"` // ok | reject: another secret comes out | public: no such public key
	Seed       octets `json:"seed,omitempty"`
	Public     octets `json:"public"`
	Random     octets `json:"random,omitempty"`
	Ciphertext octets `json:"ciphertext,omitempty"`
	Shared     octets `json:"shared,omitempty"` // what decapsulation returns
}

func mlkemVectors(t *testing.T) map[string]any {
	all := make(map[string]any)
	base := func(comment string, first byte) *mlkemVector {
		v := &mlkemVector{Comment: comment, Spec: "FIPS 203 7", Expect: "ok", Seed: append(seq32(first), seq32(first+0x20)...), Random: seq32(first + 0x40)}
		dk := must(mlkem.NewDecapsulationKey768(v.Seed))(t)
		shared, ciphertext, err := mlkemtest.Encapsulate768(dk.EncapsulationKey(), v.Random)
		if err != nil {
			t.Fatal(err)
		}
		v.Public, v.Ciphertext, v.Shared = dk.EncapsulationKey().Bytes(), ciphertext, shared
		return v
	}
	all["ok-1"], all["ok-2"], all["ok-3"] = base("a key pair and an encapsulation", 0), base("another", 0x11), base("and another", 0xe5)
	for name, at := range map[string]int{"first": 0, "middle": 700, "v": 960, "last": mlkem.CiphertextSize768 - 1} {
		v := base("one bit of the ciphertext: implicit rejection", 0)
		v.Expect, v.Random = "reject", nil
		v.Ciphertext[at] ^= 1
		v.Shared = must(must(mlkem.NewDecapsulationKey768(v.Seed))(t).Decapsulate(v.Ciphertext))(t)
		all["reject-"+name] = v
	}
	public := func(name, comment string, change func(b []byte) []byte) {
		v := base(comment, 0)
		all["public-"+name] = &mlkemVector{Comment: comment, Spec: "FIPS 203 7.2", Expect: "public", Public: change(v.Public), Random: v.Random}
	}
	public("unreduced", "the first coefficient is 3329", func(b []byte) []byte { b[0], b[1] = 0x01, b[1]&0xf0|0x0d; return b })
	public("unreduced-last", "the last coefficient is 4095", func(b []byte) []byte { b[1151], b[1150] = 0xff, b[1150]|0xf0; return b })
	public("short", "a byte short", func(b []byte) []byte { return b[1:] })
	return all
}

func TestVectorsMLKEM(t *testing.T) {
	spec.Each(t, vectorDir("mlkem"), func(t *testing.T, v *mlkemVector) {
		if v.Expect == "public" {
			if _, err := mlkem.NewEncapsulationKey768(v.Public); err == nil {
				t.Error("the public key was accepted")
			}
			return
		}
		dk := must(mlkem.NewDecapsulationKey768(v.Seed))(t)
		if !bytes.Equal(dk.EncapsulationKey().Bytes(), v.Public) {
			t.Error("another public key")
		}
		if shared := must(dk.Decapsulate(v.Ciphertext))(t); !bytes.Equal(shared, v.Shared) {
			t.Errorf("shared secret %x", shared)
		}
	})
}

// hpkeVector is a message to an inbox. AAD is only in vectors from elsewhere: Sealgate uses none.
type hpkeVector struct {
	Comment   string `json:"comment"`
	Spec      string `json:"spec"`
	Expect    string `json:"expect"` // ok | open | public
	Seed      octets `json:"seed,omitempty"`
	Public    octets `json:"public,omitempty"`
	Random    octets `json:"random,omitempty"`
	Info      octets `json:"info"`
	AAD       octets `json:"aad,omitempty"`
	Plaintext octets `json:"plaintext,omitempty"`
	Sealed    octets `json:"sealed,omitempty"`
}

func (v *hpkeVector) seal(t *testing.T) {
	t.Helper()
	v.Public = must(InboxKeyFrom(v.Seed))(t).Public()
	v.Sealed = must(fixedhpke.Seal(v.Public, v.Random, v.Info, v.AAD, v.Plaintext))(t)
}

// The suite's case in the vectors of draft-ietf-hpke-pq, its first message. Public key and message
// follow from these; their digests below are of the draft's.
const (
	draftSeed      = "b3f98b03126a431ccecc62ae0f68e102c2d8e1cc7b21ba85d821d8e31761e0f8"
	draftRandom    = "a3a869097e0241158eca5dc6c9e695f9e0d2ee5db51c09c435aab69d56509a43d94ff76d7d47cf79ecf75394261236cec024bd849cc782e14f7f0738af83daed"
	draftInfo      = "34663634363532303666366532303631323034373732363536333639363136653230353537323665"
	draftAAD       = "436f756e742d30"
	draftPlaintext = "34323635363137353734373932303639373332303734373237353734363832633230373437323735373436383230363236353631373537343739"
	draftPublicSHA = "120b60e0ae3c00c1c9def1c61aeb12de710bfa49646ae6f99a7e564b25ace493"
	draftSealedSHA = "578cbf0ed281aac161eca1d7fbc8ce76c6604c3b3f29bcfdbbb16bf2902b14db"
)

func draftVector(t *testing.T) *hpkeVector {
	t.Helper()
	v := &hpkeVector{Comment: "the suite's case of draft-ietf-hpke-pq, first message", Spec: "11", Expect: "ok"}
	for to, s := range map[*octets]string{&v.Seed: draftSeed, &v.Random: draftRandom, &v.Info: draftInfo, &v.AAD: draftAAD, &v.Plaintext: draftPlaintext} {
		*to = must(hex.DecodeString(s))(t)
	}
	v.seal(t)
	if got := hex.EncodeToString(digest(v.Public)); got != draftPublicSHA {
		t.Errorf("the public key's SHA-256 is %s, the draft's %s", got, draftPublicSHA)
	}
	if got := hex.EncodeToString(digest(v.Sealed)); got != draftSealedSHA {
		t.Errorf("the message's SHA-256 is %s, the draft's %s", got, draftSealedSHA)
	}
	return v
}

func hpkeVectors(t *testing.T) map[string]any {
	all := map[string]any{"ok-draft": draftVector(t)}
	base := func(comment string) *hpkeVector {
		v := &hpkeVector{Comment: comment, Spec: "11", Expect: "ok", Seed: seq32(0x10), Random: append(seq32(0x50), seq32(0x90)...),
			Info: octets("info"), Plaintext: octets("the keys")}
		v.seal(t)
		return v
	}
	all["ok"] = base("a message to an inbox")
	empty := base("nothing, without info")
	empty.Info, empty.Plaintext = octets{}, octets{}
	empty.seal(t)
	all["ok-empty"] = empty
	bad := func(name, comment string, change func(v *hpkeVector)) {
		v := base(comment)
		v.Expect, v.Random, v.Plaintext = "open", nil, nil
		change(v)
		all["open-"+name] = v
	}
	bad("info", "one bit of info", func(v *hpkeVector) { v.Info[0] ^= 1 })
	bad("seed", "another inbox's key", func(v *hpkeVector) { v.Seed[31] ^= 1; v.Public = must(InboxKeyFrom(v.Seed))(t).Public() })
	bad("mlkem", "one bit of ML-KEM's ciphertext", func(v *hpkeVector) { v.Sealed[500] ^= 1 })
	bad("x25519", "one bit of the ephemeral X25519 key", func(v *hpkeVector) { v.Sealed[1088] ^= 1 })
	bad("x25519-zero", "an ephemeral X25519 key of small order", func(v *hpkeVector) { clear(v.Sealed[1088:1120]) })
	bad("ciphertext", "one bit of the ciphertext", func(v *hpkeVector) { v.Sealed[1120] ^= 1 })
	bad("tag", "one bit of the tag", func(v *hpkeVector) { v.Sealed[len(v.Sealed)-1] ^= 1 })
	bad("cut", "the last byte is missing", func(v *hpkeVector) { v.Sealed = v.Sealed[:len(v.Sealed)-1] })
	bad("short", "no tag", func(v *hpkeVector) { v.Sealed = v.Sealed[:HPKEOverhead-1] })
	public := func(name, comment string, change func(b octets) octets) {
		v := base(comment)
		v.Expect, v.Seed, v.Sealed, v.Public = "public", nil, nil, change(slices.Clone(v.Public))
		all["public-"+name] = v
	}
	public("short", "a public key one byte short", func(b octets) octets { return b[:len(b)-1] })
	public("unreduced", "a coefficient of 4095", func(b octets) octets { b[0], b[1] = 0xff, b[1]|0x0f; return b })
	return all
}

func TestVectorsHPKE(t *testing.T) {
	spec.Each(t, vectorDir("hpke"), func(t *testing.T, v *hpkeVector) {
		if v.Expect == "public" {
			if _, err := HPKESeal(v.Public, v.Info, v.Plaintext); err == nil {
				t.Error("sealed to such a key")
			}
			return
		}
		key := must(InboxKeyFrom(v.Seed))(t)
		if !bytes.Equal(key.Public(), v.Public) {
			t.Error("another public key")
		}
		plain, err := v.open(key)
		switch {
		case v.Expect == "ok" && (err != nil || !bytes.Equal(plain, v.Plaintext)):
			t.Errorf("opened to %x, %v", plain, err)
		case v.Expect == "open" && (!errors.Is(err, ErrHPKE) || plain != nil):
			t.Errorf("opened to %x, %v", plain, err)
		}
	})
}

func (v *hpkeVector) open(key *InboxKey) ([]byte, error) {
	if v.AAD == nil {
		return key.Open(v.Info, v.Sealed)
	}
	r, err := hpke.NewRecipient(v.Sealed[:1120], *key.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), v.Info)
	if err != nil {
		return nil, err
	}
	return r.Open(v.AAD, v.Sealed[1120:])
}
