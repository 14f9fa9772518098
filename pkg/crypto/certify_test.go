package crypto

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"
)

// A member whose key the CA never saw is as good as one that the CA made whole.
func TestCertifyMember(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	caKey, caCert, err := NewCA("plant", rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := NewTrust("plant", caCert)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for _, key := range []interface{ Public() any }{anyKey{edKey.Public(), edKey}, anyKey{ecKey.Public(), ecKey}} {
		cert, err := CertifyMember(caKey, caCert, RoleGateway, "gw1", key.Public(), rand.Reader, now)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key.(anyKey).private)
		if err != nil {
			t.Fatal(err)
		}
		id, err := ParseIdentity(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), cert, caCert)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := id.Sign([]byte("x"), "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, from, err := trust.Verify(msg, "test", now); err != nil || from.Name != "gw1" || from.Role != RoleGateway {
			t.Errorf("from %v, %v", from, err)
		}
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := CertifyMember(caKey, caCert, RoleGateway, "gw1", p384.Public(), rand.Reader, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a P-384 key: %v", err)
	}
	for _, bad := range []struct {
		role Role
		name string
		now  time.Time
	}{{"boss", "gw1", now}, {RoleGateway, "GW", now}, {RoleGateway, "gw1", now.AddDate(11, 0, 0)}, {RoleGateway, "gw1", time.Time{}}} {
		if _, err := CertifyMember(caKey, caCert, bad.role, bad.name, edKey.Public(), rand.Reader, bad.now); err == nil {
			t.Errorf("%+v: certified", bad)
		}
	}
}

type anyKey struct{ public, private any }

func (k anyKey) Public() any { return k.public }

func TestInboxKeyIsTheSameAgain(t *testing.T) {
	key, err := NewInboxKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := HPKESeal(key.Public(), []byte("info"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.Private()
	if err != nil || len(private) != 32 {
		t.Fatalf("%d bytes, %v", len(private), err)
	}
	again, err := InboxKeyFrom(private)
	if err != nil || !bytes.Equal(again.Public(), key.Public()) {
		t.Fatalf("another public key, %v", err)
	}
	if text, err := again.Open([]byte("info"), sealed); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := InboxKeyFrom(private[:31]); err == nil {
		t.Error("31 bytes were taken for a key")
	}
	key.Erase()
	if _, err := key.Private(); !errors.Is(err, ErrErased) {
		t.Errorf("after Erase: %v", err)
	}
}
