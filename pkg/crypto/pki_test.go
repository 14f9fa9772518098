package crypto

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
)

// Identities out of an existing PKI: intermediates, P-256, roots of other kinds, signers that keep
// their key.

func keyPEM(t *testing.T, key any) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))(t)})
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

// The fleet's CA and the intermediates may have keys that members may not.
func TestRootsOfAnyKind(t *testing.T) {
	root := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	key := p256(t)
	ca := testCert(t, root, root.Public(), nil, nil, asCA("Works Root CA"))
	mid := testCert(t, root, p384.Public(), ca, nil, asCA("Works Issuing CA 1"))
	low := testCert(t, p384, edKey(0x44).Public(), mid, nil, asCA("Works Devices CA"))
	leaf := testCert(t, edKey(0x44), key.Public(), low, []string{MemberURI("plant", RoleOperator, "alice")}, nil)
	id := must(ParseIdentity(keyPEM(t, key), pemOf(leaf, low, mid), pemOf(ca)))(t)
	msg := must(id.Sign([]byte("policy"), "policy"))(t)
	trust := must(NewTrust("plant", pemOf(ca)))(t)
	if payload, from, err := trust.VerifyPolicySigner(msg, "policy", vectorNow); err != nil || string(payload) != "policy" || from != id.Member() {
		t.Errorf("%q from %v, %v", payload, from, err)
	}
	if id.NotAfter() != leaf.NotAfter || id.Member().Role != RoleOperator {
		t.Errorf("%v until %v", id.Member(), id.NotAfter())
	}
	otherRoot := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	other := must(NewTrust("plant", pemOf(testCert(t, otherRoot, otherRoot.Public(), nil, nil, asCA("Works Root CA")))))(t)
	if _, _, err := other.VerifyPolicySigner(msg, "policy", vectorNow); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another root of the same name: %v", err)
	}
}

func TestChainsThatAreRefused(t *testing.T) {
	p := newPKI(t)
	gw := []string{MemberURI("plant", RoleGateway, "gw1")}
	under := func(mid *x509.Certificate) *x509.Certificate {
		return testCert(t, p.midKey, p.gwKey.Public(), mid, gw, nil)
	}
	noCA := testCert(t, p.caKey, p.midKey.Public(), p.ca, nil, nil)
	depth0 := testCert(t, p.caKey, p.midKey.Public(), p.ca, nil, func(c *x509.Certificate) { asCA("works")(c); c.MaxPathLenZero = true })
	low := testCert(t, p.midKey, p.midKey.Public(), depth0, nil, asCA("low"))
	expired := testCert(t, p.caKey, p.midKey.Public(), p.ca, nil, func(c *x509.Certificate) { asCA("works")(c); c.NotAfter = vectorNow.AddDate(0, -1, 0) })
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		says  string
	}{
		"intermediate first":      {[]*x509.Certificate{p.mid, p.midGW}, "put the member's own first"},
		"with the root":           {[]*x509.Certificate{p.midGW, p.mid, p.ca}, "take it out"},
		"no intermediate":         {[]*x509.Certificate{p.midGW}, "not of the fleet's CA"},
		"intermediate twice":      {[]*x509.Certificate{p.midGW, p.mid, p.mid}, "more than needed"},
		"a member as issuer":      {[]*x509.Certificate{under(noCA), noCA}, "not of the fleet's CA"},
		"deeper than the CA lets": {[]*x509.Certificate{under(low), low, depth0}, "not of the fleet's CA"},
	} {
		if _, err := ParseIdentity(keyPEM(t, p.gwKey), pemOf(c.chain...), pemOf(p.ca)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whether an intermediate has expired is for the time of a message to tell.
	id := must(ParseIdentity(keyPEM(t, p.gwKey), pemOf(under(expired), expired), pemOf(p.ca)))(t)
	if id.NotAfter() != expired.NotAfter {
		t.Errorf("valid until %v", id.NotAfter())
	}
	msg := must(id.Sign(nil, "hello"))(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	if _, _, err := trust.Verify(msg, "hello", vectorNow); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an expired intermediate: %v", err)
	}
}

// A chain that would make the fleet refuse its bearer's messages is refused at once.
func TestChainsAreBounded(t *testing.T) {
	p := newPKI(t)
	fat := func(bytes int) *x509.Certificate {
		return testCert(t, p.caKey, p.gwKey.Public(), p.ca, []string{MemberURI("plant", RoleGateway, "gw1")}, func(c *x509.Certificate) {
			for range bytes / 256 {
				c.DNSNames = append(c.DNSNames, strings.Repeat("x", 60)+"."+strings.Repeat("x", 60)+"."+strings.Repeat("x", 60)+"."+strings.Repeat("x", 60)+".example")
			}
		})
	}
	if _, err := NewIdentity(p.gwKey, fat(4<<10)); err != nil {
		t.Error(err)
	}
	if _, err := NewIdentity(p.gwKey, fat(9<<10)); err == nil || !strings.Contains(err.Error(), "at most 8192") {
		t.Error(err)
	}
	if _, err := NewIdentity(p.gwKey, fat(5<<10), fat(5<<10), fat(5<<10)); err == nil || !strings.Contains(err.Error(), "fewer intermediates") {
		t.Error(err)
	}
}

// token is a signer like a TPM's or an HSM's: it has the key, shows the public half, and its
// signatures are whatever answer makes of them.
type token struct {
	key    crypto.Signer
	answer func(sig []byte, err error) ([]byte, error)
	asked  []crypto.Hash
}

func (k *token) Public() crypto.PublicKey { return k.key.Public() }

func (k *token) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.asked = append(k.asked, opts.HashFunc())
	sig, err := k.key.Sign(rand, digest, opts)
	if k.answer == nil {
		return sig, err
	}
	return k.answer(sig, err)
}

func TestIdentityOfASigner(t *testing.T) {
	p := newPKI(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	ec := p256(t)
	for _, c := range []struct {
		key  crypto.Signer
		hash crypto.Hash
	}{{edKey(0x51), 0}, {ec, crypto.SHA256}} {
		leaf := testCert(t, p.midKey, c.key.Public(), p.mid, []string{MemberURI("plant", RoleSubscriber, "alice")}, nil)
		k := &token{key: c.key}
		id := must(NewIdentity(k, leaf, p.mid))(t)
		msg := must(id.Sign([]byte("x"), "hello"))(t)
		if payload, from, err := trust.Verify(msg, "hello", vectorNow); err != nil || string(payload) != "x" || from.Name != "alice" {
			t.Errorf("%T: %q from %v, %v", c.key, payload, from, err)
		}
		if len(k.asked) != 1 || k.asked[0] != c.hash {
			t.Errorf("%T: asked for %v", c.key, k.asked)
		}
	}
	if _, err := NewIdentity(&token{key: ec}, p.gw); err == nil || !strings.Contains(err.Error(), "not that of the certificate") {
		t.Errorf("a signer of another key: %v", err)
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	leaf := testCert(t, p.caKey, p384.Public(), p.ca, []string{MemberURI("plant", RoleGateway, "gw1")}, nil)
	if _, err := NewIdentity(&token{key: p384}, leaf); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("P-384: %v", err)
	}
}

// What a signer returns is not believed to be in form.
func TestSignersThatFail(t *testing.T) {
	p, ec := newPKI(t), p256(t)
	leaf := testCert(t, p.caKey, ec.Public(), p.ca, []string{MemberURI("plant", RoleGateway, "gw1")}, nil)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	encode := func(r, s *big.Int) ([]byte, error) { return asn1.Marshal(struct{ R, S *big.Int }{r, s}) }
	decode := func(sig []byte) (r, s *big.Int) {
		var v struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &v); err != nil {
			t.Fatal(err)
		}
		return v.R, v.S
	}
	locked := errors.New("the token is locked")
	for name, answer := range map[string]func([]byte, error) ([]byte, error){
		"an error":    func([]byte, error) ([]byte, error) { return nil, locked },
		"nothing":     func([]byte, error) ([]byte, error) { return nil, nil },
		"raw r and s": func([]byte, error) ([]byte, error) { return bytes.Repeat([]byte{1}, 64), nil },
		"bytes after": func(sig []byte, err error) ([]byte, error) { return append(sig, 0), err },
		"s of zero":   func(sig []byte, _ error) ([]byte, error) { r, _ := decode(sig); return encode(r, new(big.Int)) },
		"r too large": func(sig []byte, _ error) ([]byte, error) { _, s := decode(sig); return encode(hexInt(orderP256), s) },
		"negative s":  func(sig []byte, _ error) ([]byte, error) { r, s := decode(sig); return encode(r, s.Neg(s)) },
	} {
		id := must(NewIdentity(&token{key: ec, answer: answer}, leaf))(t)
		if msg, err := id.Sign(nil, "hello"); err == nil || msg != nil {
			t.Errorf("%s: signed", name)
		} else if name == "an error" && !errors.Is(err, locked) {
			t.Error(err)
		}
	}
	for _, fails := range []int{1, 2} {
		k := &token{key: ec}
		k.answer = func(sig []byte, err error) ([]byte, error) {
			if len(k.asked) <= fails {
				return nil, locked
			}
			return sig, err
		}
		if _, err := must(NewIdentity(k, leaf))(t).Sign(nil, "hello"); (err == nil) != (fails == 1) || len(k.asked) != 2 {
			t.Errorf("a signer that fails %d times: asked %d times, %v", fails, len(k.asked), err)
		}
	}
	high := func(sig []byte, _ error) ([]byte, error) {
		r, s := decode(sig)
		if s.Cmp(hexInt(halfOrderP256)) <= 0 {
			s.Sub(hexInt(orderP256), s)
		}
		return encode(r, s)
	}
	id := must(NewIdentity(&token{key: ec, answer: high}, leaf))(t)
	if _, _, err := trust.Verify(must(id.Sign(nil, "hello"))(t), "hello", vectorNow); err != nil {
		t.Errorf("a signer whose s is always high: %v", err)
	}
	// An Ed25519 signer that signs a digest instead of the message, or returns another length.
	for name, answer := range map[string]func([]byte, error) ([]byte, error){
		"short": func(sig []byte, err error) ([]byte, error) { return sig[:63], err },
		"empty": func([]byte, error) ([]byte, error) { return nil, nil },
	} {
		id := must(NewIdentity(&token{key: p.gwKey, answer: answer}, p.gw))(t)
		if _, err := id.Sign(nil, "hello"); err == nil {
			t.Errorf("Ed25519, %s: signed", name)
		}
	}
}
