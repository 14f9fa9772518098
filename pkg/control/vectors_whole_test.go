package control

import (
	"bytes"
	stdcrypto "crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
	"sealgate/test/spec"
)

// Whole signed Grants and Epochs, and what a member takes from them (docs/spec/control.md 11). The
// generators are deterministic: HPKE's randomness is given, and signatures need none.
//
//	go test ./pkg/control -run TestWholeVectors -update

const (
	grantDir    spec.Vectors = "../../test/vectors/grant"
	announceDir spec.Vectors = "../../test/vectors/announcement"
)

// wholeVector is what both have in common: the receiver's fleet, time and policy.
type wholeVector struct {
	Comment string       `json:"comment"`
	Spec    string       `json:"spec"`
	Expect  string       `json:"expect"` // ok, or the rule that refuses: a key of wholeClasses
	Fleet   string       `json:"fleet"`
	CA      octets       `json:"ca"` // DER
	Now     time.Time    `json:"now"`
	Policy  vectorPolicy `json:"policy"`
	Message octets       `json:"message"`
}

// vectorPolicy is the part of the policy in force that decides.
type vectorPolicy struct {
	Version uint64              `json:"version"`
	Hash    octets              `json:"hash"`
	Keepers map[string][]string `json:"keepers"`
	Revoked []string            `json:"revoked"`
	Signed  octets              `json:"signed"` // the whole
}

// wholeClasses are the refusals that the vectors tell apart.
var wholeClasses = map[string][]error{
	"parse":     {crypto.ErrMessage, dcbor.ErrMalformed, ErrKind, ErrTooLarge},
	"chain":     {crypto.ErrUntrusted},
	"signature": {crypto.ErrSignature},
	"role":      {ErrRole},
	"revoked":   {ErrRevoked},
	"keeper":    {ErrNotKeeper},
	"nonce":     {ErrNonce},
	"policy":    {ErrPolicyBehind, ErrPolicyAhead, ErrPolicyFork, ErrEpochPolicy},
	"open":      {crypto.ErrHPKE},
	"topic":     {ErrTopic},
	"stale":     {ErrStale},
	"jump":      {ErrJump},
	"unwrap":    {crypto.ErrUnwrap},
}

// vectorFleet is the fleet that the vectors are of: its members, its policy, and the member that
// receives.
type vectorFleet struct {
	*world
	gw1, gw2, gw3, other, mallory, revoked, outsider, works *crypto.Identity
	alice                                                   *node
}

func newVectorFleet(t *testing.T) *vectorFleet {
	t.Helper()
	group := func(name string, keepers ...string) policy.Group {
		g := policy.DefaultGroup(name)
		g.Topics, g.Keepers, g.Publish, g.Read = []string{name + "/#"}, keepers, []string{"gw*"}, []string{"*"}
		return g
	}
	f := &vectorFleet{world: newWorld(t, func(d *policy.Document) {
		d.Version, d.Previous = 3, [32]byte(fill(32, 0x70))
		d.Groups = []policy.Group{group("default", "gw1", "gw2", "gone"), group("hall", "gw2")}
		d.RevokedNames = []string{"gone"}
	})}
	for _, m := range []struct {
		to   **crypto.Identity
		role crypto.Role
		name string
	}{{&f.gw1, crypto.RoleGateway, "gw1"}, {&f.gw2, crypto.RoleKeeper, "gw2"}, {&f.gw3, crypto.RoleGateway, "gw3"}, {&f.other, crypto.RoleGateway, "gw1"},
		{&f.mallory, crypto.RoleSubscriber, "gw1"}, {&f.revoked, crypto.RoleGateway, "gone"}} {
		*m.to = f.identity(m.role, m.name)
	}
	f.outsider = newWorldOf(t, 9).identity(crypto.RoleGateway, "gw1")
	f.works = f.underIntermediate("gw2")
	f.alice = f.add(crypto.RoleSubscriber, "alice")
	return f
}

// newWorldOf is another fleet of the same name.
func newWorldOf(t *testing.T, seed byte) *world {
	t.Helper()
	w := newWorld(t)
	w.rand.Seed([32]byte{seed})
	var err error
	if w.caKey, w.caCert, err = crypto.NewCA("plant", w.rand, testStart); err != nil {
		t.Fatal(err)
	}
	return w
}

// rfc6979 is a signer whose ECDSA signatures need no randomness.
type rfc6979 struct{ stdcrypto.Signer }

func (s rfc6979) Sign(_ io.Reader, digest []byte, opts stdcrypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(nil, digest, opts)
}

// underIntermediate makes a gateway as a plant's own PKI would: a P-256 key, certified by an
// intermediate CA on P-256.
func (f *vectorFleet) underIntermediate(name string) *crypto.Identity {
	f.t.Helper()
	fatal := func(err error) {
		if err != nil {
			f.t.Helper()
			f.t.Fatal(err)
		}
	}
	block, _ := pem.Decode(f.caKey)
	rootKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	fatal(err)
	midKey, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), fill(32, 0x31))
	fatal(err)
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), fill(32, 0x51))
	fatal(err)
	uri, err := url.Parse(crypto.MemberURI("plant", crypto.RoleGateway, name))
	fatal(err)
	certify := func(c, parent *x509.Certificate, pub stdcrypto.PublicKey, by stdcrypto.Signer) *x509.Certificate {
		c.NotBefore, c.NotAfter = testStart, testStart.AddDate(5, 0, 0)
		der, err := x509.CreateCertificate(nil, c, parent, pub, rfc6979{by})
		fatal(err)
		cert, err := x509.ParseCertificate(der)
		fatal(err)
		return cert
	}
	mid := certify(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "works"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, f.ca(), midKey.Public(), rootKey.(stdcrypto.Signer))
	leaf := certify(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature}, mid, key.Public(), midKey)
	id, err := crypto.NewIdentity(rfc6979{key}, leaf, mid)
	fatal(err)
	return id
}

func (f *vectorFleet) ca() *x509.Certificate {
	f.t.Helper()
	block, _ := pem.Decode(f.caCert)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	return ca
}

func (f *vectorFleet) sign(by *crypto.Identity, kind Kind, payload []byte) []byte {
	f.t.Helper()
	msg, err := by.Sign(payload, string(kind))
	if err != nil {
		f.t.Fatal(err)
	}
	return msg
}

func (f *vectorFleet) common(section, comment, expect string, msg []byte) wholeVector {
	p := vectorPolicy{Version: f.doc.Version, Hash: f.signed.Hash[:], Keepers: make(map[string][]string), Revoked: f.doc.RevokedNames, Signed: f.signed.Raw}
	for _, g := range f.doc.Groups {
		p.Keepers[g.Name] = g.Keepers
	}
	return wholeVector{Comment: comment, Spec: section, Expect: expect, Fleet: "plant", CA: f.ca().Raw, Now: f.now().Wall.UTC(), Policy: p, Message: msg}
}

// TestWholeVectorsAreCurrent compares the files with what the generators make, or writes them.
func TestWholeVectorsAreCurrent(t *testing.T) {
	spec.Current(t, grantDir, grantVectors(t), *update)
	spec.Current(t, announceDir, announceVectors(t), *update)
}

// receiver is a machine of alice's that follows the vector's policy, with a session.
func (v *wholeVector) receiver(t *testing.T) (*node, *Machine) {
	t.Helper()
	f := newVectorFleet(t)
	if !bytes.Equal(f.signed.Raw, v.Policy.Signed) || !bytes.Equal(f.ca().Raw, v.CA) || !f.now().Wall.Equal(v.Now) {
		t.Fatal("the vector is of another fleet than the test's: run TestWholeVectorsAreCurrent with -update")
	}
	n := f.alice.connect()
	return n, n.m
}

// judge holds the events of one message against what the vector expects.
func (v *wholeVector) judge(t *testing.T, events []Event) {
	t.Helper()
	matches := func(e Event) bool {
		switch v.Expect {
		case "ok":
			return e.Result == ResultAccepted
		case "kek":
			return e.Result == ResultIgnored && strings.Contains(e.Detail, "no KEK")
		case "policy":
			return e.Result == ResultDeferred || e.Result == ResultRefused && slices.ContainsFunc(wholeClasses["policy"], func(err error) bool { return errors.Is(e.Err, err) })
		}
		return e.Result == ResultRefused && slices.ContainsFunc(wholeClasses[v.Expect], func(err error) bool { return errors.Is(e.Err, err) })
	}
	if !slices.ContainsFunc(events, matches) {
		t.Errorf("%s: %s expected, events:%s", v.Comment, v.Expect, describe(events))
	}
}

// The second implementation, in Python, takes the same Grants and Epochs.
func TestWholeVectorsInPython(t *testing.T) {
	const python = "/usr/bin/python3" // the distribution's, which sees its packages
	if out, err := exec.Command(python, "-B", "-c", "import cbor2, cryptography").CombinedOutput(); err != nil {
		if os.Getenv("SEALGATE_REQUIRE") == "1" {
			t.Fatalf("%s with python3-cbor2 and python3-cryptography is required: %v\n%s", python, err, out)
		}
		t.Skipf("install python3-cbor2 and python3-cryptography to run the second implementation: %v", err)
	}
	out, err := exec.Command(python, "-B", "../../test/vectors/check.py", "control", "grant", "announcement").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "vectors, 0 failed") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
