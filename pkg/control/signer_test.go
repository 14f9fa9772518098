package control

import (
	gocrypto "crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/url"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// token is a TPM as seen from here: it signs, shows its public half, and fails when it likes.
type token struct {
	key   *ecdsa.PrivateKey
	fails int // so many of the next signatures
	asked int
}

var errToken = errors.New("TPM_RC_RETRY")

func (k *token) Public() gocrypto.PublicKey { return k.key.Public() }

func (k *token) Sign(rand io.Reader, digest []byte, opts gocrypto.SignerOpts) ([]byte, error) {
	if k.asked++; k.fails > 0 {
		k.fails--
		return nil, errToken
	}
	return k.key.Sign(rand, digest, opts)
}

// withToken gives a node a key in a token, certified under an intermediate of the fleet's CA.
func (w *world) withToken(role crypto.Role, name string) (*token, func(*Config)) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	caKey, caCert := pemBlock(w.caKey), pemBlock(w.caCert)
	root, err := x509.ParseCertificate(caCert)
	must(err)
	rootKey, err := x509.ParsePKCS8PrivateKey(caKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	must(err)
	middleKey, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	must(err)
	uri, err := url.Parse(crypto.MemberURI("plant", role, name))
	must(err)
	certify := func(c, parent *x509.Certificate, pub, by any) *x509.Certificate {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(7), testStart.AddDate(0, 0, -1), testStart.AddDate(2, 0, 0)
		der, err := x509.CreateCertificate(cryptorand.Reader, c, parent, pub, by)
		must(err)
		cert, err := x509.ParseCertificate(der)
		must(err)
		return cert
	}
	middle := certify(&x509.Certificate{Subject: pkix.Name{CommonName: "Devices CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, root, middleKey.Public(), rootKey)
	leaf := certify(&x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{uri}}, middle, key.Public(), middleKey)
	k := &token{key: key}
	id, err := crypto.NewIdentity(k, leaf, middle)
	must(err)
	return k, func(c *Config) { c.Identity = id }
}

func pemBlock(b []byte) []byte {
	block, _ := pem.Decode(b)
	return block.Bytes
}

// TestSignerThatFails: the keeper's token fails while a revocation waits for its epoch. No number is used up, nothing half made is
// left, and it comes as soon as the token signs again; checkpoints that could not be signed are told of with the next one.
func TestSignerThatFails(t *testing.T) {
	w := newWorld(t, lone, func(d *policy.Document) { d.Groups[0].Checkpoint = 10 * time.Second })
	k, use := w.withToken(crypto.RoleGateway, "gw1")
	gw := w.add(crypto.RoleGateway, "gw1", use)
	gw.id = gw.cfg.Identity
	gw.connect()
	sub := w.add(crypto.RoleSubscriber, "alice", func(c *Config) { c.Checkpoints = true }).connect()
	w.run(20 * time.Second)
	before, mark := gw.epoch(), len(w.log)
	k.fails = 3
	w.publishPolicy(w.nextPolicy(revoke("mallory")))
	w.run(20 * time.Millisecond)
	if k := gw.sendKey(); k == nil || k.Epoch != before || gw.epoch() != before {
		t.Fatalf("seals under %v, newest %v, while nothing can be signed:%s", gw.sendKey(), gw.epoch(), describe(gw.events))
	}
	w.run(3*EchoWait + w.doc.Groups[0].ActivateAfter + 5*time.Second)
	w.mustAgree()
	if e := sub.epoch(); e.Generation != before.Generation+1 || e.Number != before.Number+1 || gw.sendKey().Epoch != e || w.count(KindEpoch, mark) != 1 {
		t.Errorf("epoch %v after %v, sealed under %v, %d announcements:%s", e, before, gw.sendKey().Epoch, w.count(KindEpoch, mark), describe(gw.events))
	}
	if s := gw.m.Status(w.now()); s.Alarms == 0 {
		t.Error("no alarm")
	}
	id := gw.sendKey().ID
	gw.m.Checkpoint(w.now(), []StreamHead{{Group: "default", Key: id, Stream: [8]byte{1}, From: 0, Next: 7}})
	gw.flush()
	w.run(10 * time.Second) // the first, of nothing or of this
	gw.m.Checkpoint(w.now(), []StreamHead{{Group: "default", Key: id, Stream: [8]byte{1}, From: 7, Next: 9}})
	k.fails = 2 // a signer is asked twice
	w.run(30 * time.Second)
	told, number := uint64(0), uint64(0)
	for i, c := range sub.checkpoints {
		m := c.Message
		if i > 0 && m.Number != number+1 {
			t.Errorf("checkpoint %d after %d", m.Number, number)
		}
		number = m.Number
		for _, s := range m.Streams {
			if s.From > told {
				t.Errorf("numbers %d to %d are told by nobody", told, s.From-1)
			}
			told = s.Next
		}
		if m.State != checkpoint.Last {
			t.Errorf("checkpoint %d has state %v", m.Number, m.State)
		}
	}
	if told != 9 {
		t.Errorf("told up to %d, 9 expected", told)
	}
}
