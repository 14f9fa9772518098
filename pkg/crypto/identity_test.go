package crypto

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func newFleet(t *testing.T) (caKey, caCert []byte) {
	t.Helper()
	key, cert, err := NewCA("plant", rand.Reader, t0)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func TestFleetFromNothing(t *testing.T) {
	caKey, caCert := newFleet(t)
	trust := must(NewTrust("plant", caCert))(t)
	for _, role := range []Role{RoleGateway, RoleSubscriber, RoleKeeper, RoleOperator} {
		key, cert, err := IssueMember(caKey, caCert, role, "gw-1.a_b", rand.Reader, t0)
		if err != nil {
			t.Fatal(err)
		}
		id := must(ParseIdentity(key, cert, caCert))(t)
		msg := must(id.Sign([]byte("payload"), "hello"))(t)
		payload, from, err := trust.Verify(msg, "hello", t0.AddDate(4, 11, 0))
		if err != nil || string(payload) != "payload" || from != id.Member() || from.Role != role || from.Name != "gw-1.a_b" || from.Fleet != "plant" {
			t.Errorf("%q from %v, %v", payload, from, err)
		}
		for _, now := range []time.Time{t0.Add(-2 * time.Hour), t0.AddDate(5, 0, 1), {}} {
			if _, _, err := trust.Verify(msg, "hello", now); !errors.Is(err, ErrUntrusted) {
				t.Errorf("at %v: %v", now, err)
			}
		}
		if !id.NotBefore().Before(t0) || id.NotAfter() != t0.AddDate(5, 0, 0) {
			t.Errorf("valid from %v to %v", id.NotBefore(), id.NotAfter())
		}
		_, _, err = trust.VerifyPolicySigner(msg, "hello", t0)
		if (err == nil) != (role == RoleOperator) {
			t.Errorf("%s as signer of a policy: %v", role, err)
		}
	}
	authority := must(ParseAuthority(caKey, caCert))(t)
	msg := must(authority.Sign([]byte("p"), "policy"))(t)
	if _, from, err := trust.VerifyPolicySigner(msg, "policy", t0); err != nil || from != authority.Member() {
		t.Errorf("the authority's policy: %v, %v", from, err)
	}
	if _, _, err := trust.VerifyPolicySigner(msg, "policy", t0.AddDate(10, 0, 1)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the authority's policy after its time: %v", err)
	}
}

func TestMemberNeverOutlivesItsCA(t *testing.T) {
	caKey, caCert := newFleet(t)
	_, cert, err := IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0.AddDate(9, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if end := must(parseCerts(cert, "x"))(t)[0].NotAfter; end != t0.AddDate(10, 0, 0) {
		t.Errorf("it ends %v", end)
	}
	_, cert, err = IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0.Add(-backdate/2))
	if err != nil {
		t.Fatal(err)
	}
	if start := must(parseCerts(cert, "x"))(t)[0].NotBefore; start != t0.Add(-backdate) {
		t.Errorf("it starts %v", start)
	}
	if _, _, err := IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0.AddDate(11, 0, 0)); err == nil {
		t.Error("an expired CA issued a certificate")
	}
}

func TestES256SignsLow(t *testing.T) {
	p := newPKI(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	cert := testCert(t, p.caKey, key.Public(), p.ca, []string{MemberURI("plant", RoleGateway, "gw2")}, nil)
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(key))(t)
	id := must(ParseIdentity(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pemOf(cert), pemOf(p.ca)))(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	for i := range 40 { // half of them come out high from the signer
		msg := must(id.Sign(fmt.Appendf(nil, "%d", i), "hello"))(t)
		if _, _, err := trust.Verify(msg, "hello", vectorNow); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseIdentityRefuses(t *testing.T) {
	caKey, caCert := newFleet(t)
	key, cert, err := IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0)
	if err != nil {
		t.Fatal(err)
	}
	_, otherCA := newFleet(t)
	otherKey, _, err := IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := must(x509.MarshalPKCS8PrivateKey(must(rsa.GenerateKey(rand.Reader, 2048))(t)))(t)
	for name, c := range map[string]struct {
		key, cert, ca []byte
		says          string
	}{
		"empty key":      {nil, cert, caCert, "not PEM"},
		"cert as key":    {cert, cert, caCert, "CERTIFICATE"},
		"SEC 1 key":      {bytes.ReplaceAll(key, []byte("PRIVATE"), []byte("EC PRIVATE")), cert, caCert, "openssl pkcs8"},
		"two keys":       {append(bytes.Clone(key), key...), cert, caCert, "one key"},
		"garbage key":    {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), cert, caCert, "reading the private key"},
		"RSA key":        {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaKey}), cert, caCert, "not that of the certificate"},
		"another's key":  {otherKey, cert, caCert, "not that of the certificate"},
		"no cert":        {key, nil, caCert, "empty"},
		"key as cert":    {key, key, caCert, "only blocks CERTIFICATE"},
		"garbage cert":   {key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), caCert, "reading the identity certificate"},
		"five certs":     {key, bytes.Repeat(cert, 5), caCert, "more than 4"},
		"superfluous":    {key, append(bytes.Clone(cert), otherCA...), caCert, "not of the fleet's CA"},
		"other CA":       {key, cert, otherCA, "not of the fleet's CA"},
		"member as CA":   {key, cert, cert, "not a CA's"},
		"intermediate":   {key, cert, pemOf(newPKI(t).mid), "not signed by itself"},
		"two CAs":        {key, cert, append(bytes.Clone(caCert), otherCA...), "exactly one CA"},
		"no CA":          {key, cert, []byte(" \n"), "empty"},
		"CA as identity": {caKey, caCert, caCert, "a member needs its own"},
	} {
		if id, err := ParseIdentity(c.key, c.cert, c.ca); err == nil || id != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssuingRefuses(t *testing.T) {
	caKey, caCert := newFleet(t)
	key, cert, err := IssueMember(caKey, caCert, RoleGateway, "gw1", rand.Reader, t0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "GW1", "-a", "a b", "a/b", strings.Repeat("a", 64), "ä"} {
		if _, _, err := IssueMember(caKey, caCert, RoleGateway, name, rand.Reader, t0); !errors.Is(err, ErrName) {
			t.Errorf("member %q: %v", name, err)
		}
		if _, _, err := NewCA(name, rand.Reader, t0); !errors.Is(err, ErrName) {
			t.Errorf("fleet %q: %v", name, err)
		}
		if _, err := NewTrust(name, caCert); !errors.Is(err, ErrName) {
			t.Errorf("trust in %q: %v", name, err)
		}
	}
	for _, role := range []Role{"", "admin", RoleAuthority} {
		if _, _, err := IssueMember(caKey, caCert, role, "gw1", rand.Reader, t0); err == nil {
			t.Errorf("role %q accepted", role)
		}
	}
	if _, _, err := IssueMember(key, cert, RoleGateway, "gw1", rand.Reader, t0); err == nil {
		t.Error("a member issued a certificate")
	}
	if _, _, err := NewCA("plant", bytes.NewReader(nil), t0); err == nil {
		t.Error("a CA without randomness")
	}
	if _, _, err := NewCA("plant", rand.Reader, time.Time{}); err == nil {
		t.Error("a CA without a time")
	}
}

func TestSignRefuses(t *testing.T) {
	id := must(NewIdentity(edKey(0x12), newPKI(t).gw))(t)
	for _, typ := range []string{"", strings.Repeat("t", MaxType+1), "\xff"} {
		if _, err := id.Sign(nil, typ); !errors.Is(err, ErrName) {
			t.Errorf("type %.10q: %v", typ, err)
		}
	}
	if _, err := id.Sign(make([]byte, MaxSigned), "hello"); err == nil {
		t.Error("signed more than a receiver takes")
	}
	trust := must(NewTrust("plant", pemOf(newPKI(t).ca)))(t)
	if _, _, err := trust.Verify(make([]byte, MaxSigned+1), "hello", vectorNow); !errors.Is(err, ErrMessage) {
		t.Errorf("a huge message: %v", err)
	}
	if _, err := NewIdentity(edKey(0x12)); err == nil {
		t.Error("an identity without a certificate")
	}
}

// What a Trust remembers is bounded, and only saves work.
func TestTrustRemembersABoundedNumber(t *testing.T) {
	p := newPKI(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	for i := range maxVerified + 20 {
		cert := testCert(t, p.caKey, p.gwKey.Public(), p.ca, []string{MemberURI("plant", RoleGateway, fmt.Sprintf("gw%d", i))}, nil)
		id := must(NewIdentity(p.gwKey, cert))(t)
		msg := must(id.Sign(nil, "hello"))(t)
		for range 2 {
			if _, from, err := trust.Verify(msg, "hello", vectorNow); err != nil || from != id.Member() {
				t.Fatal(from, err)
			}
		}
	}
	if n := len(trust.verified); n != maxVerified {
		t.Errorf("%d chains remembered", n)
	}
	before := len(trust.verified)
	for _, name := range []string{"a", "b"} { // certificates of another CA must not take places
		cert := testCert(t, edKey(0x20), p.gwKey.Public(), p.otherCA, []string{MemberURI("plant", RoleGateway, name)}, nil)
		msg := must(must(NewIdentity(p.gwKey, cert))(t).Sign(nil, "hello"))(t)
		if _, _, err := trust.Verify(msg, "hello", vectorNow); !errors.Is(err, ErrUntrusted) {
			t.Error(err)
		}
	}
	if len(trust.verified) != before {
		t.Error("a chain that was refused is remembered")
	}
}

func TestTrustIsConcurrent(t *testing.T) {
	p := newPKI(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	msg := must(must(NewIdentity(p.gwKey, p.gw))(t).Sign([]byte("x"), "hello"))(t)
	done := make(chan error)
	for range 4 {
		go func() {
			_, _, err := trust.Verify(msg, "hello", vectorNow)
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	p := newPKI(t)
	trust := must(NewTrust("plant", pemOf(p.ca)))(t)
	msg := must(must(NewIdentity(p.gwKey, p.gw))(t).Sign([]byte("x"), "hello"))(t)
	for _, cached := range []bool{false, true} {
		_, _, err := trust.Verify(msg, "hello", vectorNow.AddDate(20, 0, 0))
		if err == nil || !strings.Contains(err.Error(), "renew the certificate") {
			t.Errorf("expired, cached %v: %v", cached, err)
		}
		if _, _, err := trust.Verify(msg, "hello", vectorNow); err != nil {
			t.Error(err)
		}
	}
}

func TestMemberPrints(t *testing.T) {
	m := Member{Fleet: "plant", Role: RoleGateway, Name: "gw1", CertHash: [32]byte{0xab, 0xcd}}
	if s := m.String(); s != "gateway/gw1 (abcd0000)" {
		t.Error(s)
	}
	if trust := must(NewTrust("plant", pemOf(newPKI(t).ca)))(t); trust.Fleet() != "plant" || trust.CAHash() != [32]byte(digest(newPKI(t).ca.Raw)) {
		t.Error("the trust's fleet or CA is wrong")
	}
	if id := must(NewIdentity(edKey(0x12), newPKI(t).midGW, newPKI(t).mid))(t); id.NotAfter() != id.chain[0].NotAfter {
		t.Error("the chain's end is not that of its shortest certificate")
	}
	if _, err := ParseAuthority(nil, nil); err == nil {
		t.Error("an authority of nothing")
	}
}
