package crypto

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"
)

// Validity of what this package issues. Routers have poor clocks and nobody visits
// them: revocation takes a member out, not expiry.
const (
	caYears     = 10
	memberYears = 5
	backdate    = time.Hour // for clocks that are a little behind
)

// NewCA makes a fleet's certificate authority: an Ed25519 key drawn from rand (PKCS#8) and
// a self-signed certificate valid for ten years from now, its common name the fleet's. Both are
// PEM.
func NewCA(fleet string, rand io.Reader, now time.Time) (keyPEM, certPEM []byte, err error) {
	if !ValidName(fleet) {
		return nil, nil, fmt.Errorf("%w: %.200q as a fleet's name: a-z, 0-9, and after the first also . _ - are allowed, 63 at most", ErrName, fleet)
	}
	key, template, err := newTemplate(rand, now, caYears)
	if err != nil {
		return nil, nil, err
	}
	template.Subject = pkix.Name{Organization: []string{"Sealgate fleet"}, CommonName: fleet}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.MaxPathLen = MaxChain - 1
	template.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return finish(rand, template, template, key, key)
}

// IssueMember makes a member's Ed25519 key (PKCS#8) and certificate valid for five years from
// now, but no longer than the CA's own, both PEM. The CA is one that NewCA made: its common name is the
// fleet's.
func IssueMember(caKeyPEM, caCertPEM []byte, role Role, name string, rand io.Reader, now time.Time) (keyPEM, certPEM []byte, err error) {
	ca, err := authorityFor(caKeyPEM, caCertPEM, role, name, now)
	if err != nil {
		return nil, nil, err
	}
	key, template, err := newTemplate(rand, now, memberYears)
	if err != nil {
		return nil, nil, err
	}
	if err := ca.fillMember(template, role, name); err != nil {
		return nil, nil, err
	}
	return finish(rand, template, ca.chain[0], key, *ca.signer)
}

// CertifyMember makes a member's certificate as IssueMember does, for a key pair that the member made
// itself: pub is Ed25519 or ECDSA P-256. That the member has the private key is for the caller to check.
func CertifyMember(caKeyPEM, caCertPEM []byte, role Role, name string, pub crypto.PublicKey, rand io.Reader, now time.Time) (certPEM []byte, err error) {
	ca, err := authorityFor(caKeyPEM, caCertPEM, role, name, now)
	if err != nil {
		return nil, err
	}
	if _, err := algorithmOf(pub); err != nil {
		return nil, err
	}
	template, err := newCertificate(rand, now, memberYears)
	if err != nil {
		return nil, err
	}
	if err := ca.fillMember(template, role, name); err != nil {
		return nil, err
	}
	return certify(rand, template, ca.chain[0], pub, *ca.signer)
}

// authorityFor reads the CA and checks that it can certify a member of that role and name now.
func authorityFor(caKeyPEM, caCertPEM []byte, role Role, name string, now time.Time) (*Identity, error) {
	ca, err := ParseAuthority(caKeyPEM, caCertPEM)
	if err != nil {
		return nil, fmt.Errorf("the fleet's CA: %w", err)
	}
	if !role.Valid() {
		return nil, fmt.Errorf("%.40q is not a role: gateway, subscriber, keeper and operator are", role)
	}
	if !ValidName(name) {
		return nil, fmt.Errorf("%w: %.200q as a member's name: a-z, 0-9, and after the first also . _ - are allowed, 63 at most", ErrName, name)
	}
	return ca, checkTime(ca.NotBefore(), ca.NotAfter(), now, "the fleet's CA")
}

// fillMember says in a certificate who it is for, and keeps it within the CA's validity.
func (id *Identity) fillMember(template *x509.Certificate, role Role, name string) error {
	if template.NotAfter.After(id.NotAfter()) {
		template.NotAfter = id.NotAfter()
	}
	if template.NotBefore.Before(id.NotBefore()) {
		template.NotBefore = id.NotBefore()
	}
	template.Subject = pkix.Name{Organization: []string{"Sealgate fleet"}, OrganizationalUnit: []string{string(role)}, CommonName: name}
	san, err := uriSAN(MemberURI(id.member.Fleet, role, name))
	template.ExtraExtensions = []pkix.Extension{san}
	return err
}

func newTemplate(rand io.Reader, now time.Time, years int) (ed25519.PrivateKey, *x509.Certificate, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, nil, fmt.Errorf("drawing a key: %w", err)
	}
	template, err := newCertificate(rand, now, years)
	return ed25519.NewKeyFromSeed(seed), template, err
}

func newCertificate(rand io.Reader, now time.Time, years int) (*x509.Certificate, error) {
	if now.IsZero() {
		return nil, errors.New("making a certificate: no time was given")
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	serial[0] = serial[0]&0x3f | 0x40 // positive, and always 16 bytes long
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		NotBefore:    now.UTC().Add(-backdate).Truncate(time.Second),
		NotAfter:     now.UTC().AddDate(years, 0, 0).Truncate(time.Second),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

// uriSAN encodes a subject alternative name of one URI (RFC 5280 4.2.1.6).
func uriSAN(uri string) (pkix.Extension, error) {
	names := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}}
	value, err := asn1.Marshal(names)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}, err
}

func finish(rand io.Reader, template, parent *x509.Certificate, key ed25519.PrivateKey, signer crypto.Signer) (keyPEM, certPEM []byte, err error) {
	if certPEM, err = certify(rand, template, parent, key.Public(), signer); err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key of %s: %w", template.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), certPEM, nil
}

func certify(rand io.Reader, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificate(rand, template, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
