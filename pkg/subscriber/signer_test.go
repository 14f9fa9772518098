package subscriber_test

import (
	stdcrypto "crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// chip is a signer that keeps its key, as a TPM does.
type chip struct {
	key  *ecdsa.PrivateKey
	uses atomic.Int64
}

func (c *chip) Public() stdcrypto.PublicKey { return c.key.Public() }

func (c *chip) Sign(rand io.Reader, digest []byte, opts stdcrypto.SignerOpts) ([]byte, error) {
	c.uses.Add(1)
	return c.key.Sign(rand, digest, opts)
}

// TestSignerOfTheApplication: the application's own signer, P-256, certified by an intermediate below the fleet's CA; no file
// and no policy beforehand.
func TestSignerOfTheApplication(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := &chip{key: key}
	year := time.Now().AddDate(1, 0, 0)
	leaf, middle := lab.PKIOf(t, f.caKey, f.caCert).Certify(t, signer.Public(), crypto.MemberURI("f", crypto.RoleSubscriber, "alice"), year, year)
	id, err := crypto.NewIdentity(signer, leaf, middle)
	if err != nil {
		t.Fatal(err)
	}
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: &subscriber.Loaded{Identity: id, Trust: f.trust}, Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if err := alice.Publish(within(t), "plant/1", []byte("x"), 1, false); err != nil {
		t.Fatal(err)
	}
	if m := in.await(t, 1)[0]; m.Status != subscriber.StatusOK || string(m.Payload) != "x" {
		t.Errorf("%+v %q", m, m.Payload)
	}
	if signer.uses.Load() == 0 {
		t.Error("keys came without a signature")
	}
}

// openTPM stands for what a library for the TPM, a smart card or an HSM returns.
func openTPM() (stdcrypto.Signer, error) { return nil, os.ErrNotExist }

// A private key need not be in a file: whatever implements crypto.Signer with an ECDSA P-256 or
// Ed25519 key will do.
func ExampleLoaded() {
	signer, err := openTPM()
	if err != nil {
		log.Fatal(err)
	}
	// The certificate that the fleet's CA, or an intermediate of it, issued for the signer's public key.
	var chain []*x509.Certificate
	certs, err := os.ReadFile("/etc/plant/identity.crt") // the member's own first
	if err != nil {
		log.Fatal(err)
	}
	for block, rest := pem.Decode(certs); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			log.Fatal(err)
		}
		chain = append(chain, cert)
	}
	identity, err := crypto.NewIdentity(signer, chain...)
	if err != nil {
		log.Fatal(err)
	}
	ca, err := os.ReadFile("/etc/plant/ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	trust, err := crypto.NewTrust(identity.Member().Fleet, ca)
	if err != nil {
		log.Fatal(err)
	}
	opts := subscriber.Options{
		Member:   &subscriber.Loaded{Identity: identity, Trust: trust}, // the policy comes from the broker
		Broker:   "mqtts://broker.example",
		StateDir: "/var/lib/plant", // remembers the policy, so that an older one is refused
		Handler:  func(m *subscriber.Message) { fmt.Println(m.Topic, m.Status) },
	}
	_ = opts // for subscriber.Connect
}
