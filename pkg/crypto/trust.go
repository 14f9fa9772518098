package crypto

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxVerified bounds the chains that a Trust remembers. Only chains that verified are, so
// nobody without a certificate of the fleet can fill it.
const maxVerified = 256

// Trust verifies the messages of a fleet's members against its CA. It is
// safe for concurrent use.
type Trust struct {
	fleet string
	ca    *x509.Certificate

	mu       sync.Mutex // guards verified
	verified map[[32]byte]*chainResult
}

// chainResult is what was found out about a chain. It holds for ever, between its times.
type chainResult struct {
	member              Member
	pub                 crypto.PublicKey
	notBefore, notAfter time.Time
}

// NewTrust trusts the CA in caPEM, a single self-signed certificate, for members of fleet.
func NewTrust(fleet string, caPEM []byte) (*Trust, error) {
	if !ValidName(fleet) {
		return nil, fmt.Errorf("%w: %.200q as a fleet's name: a-z, 0-9, and after the first also . _ - are allowed, 63 at most", ErrName, fleet)
	}
	ca, err := parseCA(caPEM)
	if err != nil {
		return nil, err
	}
	return &Trust{fleet: fleet, ca: ca, verified: make(map[[32]byte]*chainResult)}, nil
}

// Fleet returns the fleet's name.
func (t *Trust) Fleet() string { return t.fleet }

// CAHash returns the SHA-256 of the CA's certificate, DER.
func (t *Trust) CAHash() [32]byte { return sha256.Sum256(t.ca.Raw) }

// Verify verifies a message of type typ that a member signed, at time now: the encoding, the
// chain up to the CA, the fleet, the signature (spec 12.4). The payload is a view into msg.
// Whether the member's role and name allow it to send typ is for the caller to
// check, as is revocation.
//
// Errors wrap [ErrMessage], [ErrUntrusted] or [ErrSignature]. Nothing of the message is
// returned with an error.
func (t *Trust) Verify(msg []byte, typ string, now time.Time) (payload []byte, from Member, err error) {
	m, err := parseSign1(msg)
	if err != nil {
		return nil, Member{}, err
	}
	return t.verify(m, typ, now)
}

func (t *Trust) verify(m *sign1, typ string, now time.Time) ([]byte, Member, error) {
	chain, err := t.chain(m, now)
	if err != nil {
		return nil, Member{}, err
	}
	if err := m.verify(chain.pub, t.fleet, typ); err != nil {
		return nil, Member{}, fmt.Errorf("a %s message of %s: %w", typ, chain.member.Name, err)
	}
	return m.payload, chain.member, nil
}

// VerifyPolicySigner is Verify for what only the fleet's CA itself or a member with role
// operator may sign: policies.
func (t *Trust) VerifyPolicySigner(msg []byte, typ string, now time.Time) (payload []byte, from Member, err error) {
	m, err := parseSign1(msg)
	if err != nil {
		return nil, Member{}, err
	}
	if len(m.chain) == 1 && bytes.Equal(m.chain[0], t.ca.Raw) {
		return t.verifyAuthority(m, typ, now)
	}
	payload, from, err = t.verify(m, typ, now)
	if err != nil {
		return nil, Member{}, err
	}
	if from.Role != RoleOperator {
		return nil, Member{}, untrusted("%s signed a %s message, which only the CA and operators may", from, typ)
	}
	return payload, from, nil
}

func (t *Trust) verifyAuthority(m *sign1, typ string, now time.Time) ([]byte, Member, error) {
	from := Member{Fleet: t.fleet, Role: RoleAuthority, Name: "ca", CertHash: t.CAHash()}
	if m.hash != from.CertHash {
		return nil, Member{}, untrusted("the hash in the protected header is not the CA certificate's")
	}
	if err := checkTime(t.ca.NotBefore, t.ca.NotAfter, now, "the CA"); err != nil {
		return nil, Member{}, err
	}
	if err := m.verify(t.ca.PublicKey, t.fleet, typ); err != nil {
		return nil, Member{}, fmt.Errorf("a %s message of the CA: %w", typ, err)
	}
	return m.payload, from, nil
}

// chain checks the certificates of a message, or remembers that it did.
func (t *Trust) chain(m *sign1, now time.Time) (*chainResult, error) {
	if sha256.Sum256(m.chain[0]) != m.hash {
		return nil, untrusted("the hash in the protected header is not the first certificate's")
	}
	all := sha256.New()
	for _, der := range m.chain {
		all.Write(der) // DER delimits itself: no two chains concatenate alike
	}
	key := [32]byte(all.Sum(nil))
	t.mu.Lock()
	known := t.verified[key]
	t.mu.Unlock()
	if known == nil {
		var err error
		if known, err = t.verifyChain(m.chain, now); err != nil {
			return nil, err
		}
		t.remember(key, known)
	}
	if err := checkTime(known.notBefore, known.notAfter, now, known.member.String()); err != nil {
		return nil, err
	}
	return known, nil
}

func (t *Trust) remember(key [32]byte, r *chainResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.verified) >= maxVerified {
		for k := range t.verified { // any will do: a forgotten chain is verified again
			delete(t.verified, k)
			break
		}
	}
	t.verified[key] = r
}

func (t *Trust) verifyChain(ders [][]byte, now time.Time) (*chainResult, error) {
	chain := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, untrusted("certificate %d of the chain: %v", i+1, err)
		}
		chain[i] = c
	}
	m, err := memberOf(chain[0])
	if err != nil {
		return nil, err
	}
	if m.Fleet != t.fleet {
		return nil, untrusted("%s is of fleet %q, ours is %q", m, m.Fleet, t.fleet)
	}
	if _, err := algorithmOf(chain[0].PublicKey); err != nil {
		return nil, err
	}
	if err := verifyPath(chain, t.ca, now); err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	r := &chainResult{member: m, pub: chain[0].PublicKey, notBefore: latestStart(chain, t.ca), notAfter: t.ca.NotAfter}
	for _, c := range chain {
		if c.NotAfter.Before(r.notAfter) {
			r.notAfter = c.NotAfter
		}
	}
	return r, nil
}

// verifyPath checks that chain leads to ca link by link in the order given, with
// nothing superfluous, at time now.
func verifyPath(chain []*x509.Certificate, ca *x509.Certificate, now time.Time) error {
	if now.IsZero() {
		return untrusted("no time was given to check its validity at")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return untrusted("%v: renew the certificate, or set the clock, which says %s", err, now.UTC().Format(time.RFC3339))
		}
		return untrusted("%v", err)
	}
	for _, p := range paths {
		if samePath(p, chain, ca) {
			return nil
		}
	}
	return untrusted("the chain's certificates are not in order, or more than needed")
}

func samePath(p, chain []*x509.Certificate, ca *x509.Certificate) bool {
	if len(p) != len(chain)+1 || !p[len(p)-1].Equal(ca) {
		return false
	}
	for i, c := range chain {
		if !p[i].Equal(c) {
			return false
		}
	}
	return true
}

func checkTime(notBefore, notAfter, now time.Time, who string) error {
	switch {
	case now.IsZero():
		return untrusted("no time was given to check the validity of %s at", who)
	case now.Before(notBefore):
		return untrusted("%s is not valid before %s, and the clock says %s", who, notBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(notAfter):
		return untrusted("%s expired at %s: renew the certificate", who, notAfter.UTC().Format(time.RFC3339))
	}
	return nil
}
