package crypto

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Role is what a member may be. Each control message type has its allowed roles; who may
// send what is the callers' rule.
type Role string

// The roles (spec 12.1).
const (
	RoleGateway    Role = "gateway"
	RoleSubscriber Role = "subscriber"
	RoleKeeper     Role = "keeper"
	RoleOperator   Role = "operator"
	RoleAuthority  Role = "authority" // the fleet's CA itself; never in a member's certificate
)

// Valid reports whether r can stand in a member's certificate.
func (r Role) Valid() bool {
	return r == RoleGateway || r == RoleSubscriber || r == RoleKeeper || r == RoleOperator
}

// Member is an authenticated sender of messages.
type Member struct {
	Fleet    string
	Role     Role
	Name     string
	CertHash [32]byte // SHA-256 of the certificate, DER
}

// String returns the member as "role/name (first 4 bytes of the certificate's hash)".
func (m Member) String() string {
	return fmt.Sprintf("%s/%s (%s)", m.Role, m.Name, hex.EncodeToString(m.CertHash[:4]))
}

// MaxName is the longest name of a fleet or member, in bytes.
const MaxName = 63

// ValidName reports whether s can name a fleet or member: [a-z0-9][a-z0-9._-]{0,62}.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-') {
			continue
		}
		return false
	}
	return true
}

const uriScheme = "sealgate:"

// MemberURI returns the URI of a member's certificate, spec 12.1.
func MemberURI(fleet string, role Role, name string) string {
	return uriScheme + fleet + "/" + string(role) + "/" + name
}

// memberOf reads who a certificate is for, and checks that it may sign messages.
func memberOf(cert *x509.Certificate) (Member, error) {
	if len(cert.URIs) != 1 {
		return Member{}, untrusted("the certificate %q has %d URIs as subject alternative names, exactly one %s<fleet>/<role>/<name> is needed", cert.Subject, len(cert.URIs), uriScheme)
	}
	uri := cert.URIs[0].String()
	rest, ok := strings.CutPrefix(uri, uriScheme)
	part := strings.Split(rest, "/")
	if !ok || len(part) != 3 || !ValidName(part[0]) || !ValidName(part[2]) || !Role(part[1]).Valid() {
		return Member{}, untrusted("the certificate's URI %.200q is not %s<fleet>/<role>/<name>", uri, uriScheme)
	}
	switch {
	case cert.IsCA:
		return Member{}, untrusted("the certificate of %s is a CA's: a member's must not be", rest)
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return Member{}, untrusted("the certificate of %s lacks the key usage digitalSignature", rest)
	}
	return Member{Fleet: part[0], Role: Role(part[1]), Name: part[2], CertHash: sha256.Sum256(cert.Raw)}, nil
}

// Identity is a member's signing key with its certificate chain. It is safe for
// concurrent use if its signer is. It prints as "[redacted]".
type Identity struct {
	redacted
	signer *crypto.Signer
	alg    int64
	member Member
	chain  []*x509.Certificate
}

// ParseIdentity reads an identity: a PKCS#8 private key (Ed25519 or ECDSA P-256), its
// certificate with at most 3 intermediates after it, and the fleet's CA certificate, all PEM.
// It checks that they belong together, but not whether they are valid today: see
// [Identity.NotAfter].
func ParseIdentity(keyPEM, certPEM, caPEM []byte) (*Identity, error) {
	signer, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	chain, err := parseCerts(certPEM, "identity certificate")
	if err != nil {
		return nil, err
	}
	ca, err := parseCA(caPEM)
	if err != nil {
		return nil, err
	}
	switch last := chain[len(chain)-1]; {
	case bytes.Equal(chain[0].Raw, ca.Raw):
		return nil, errors.New("the identity certificate is the fleet's CA certificate: a member needs its own; make one with sealctl fleet add")
	case chain[0].IsCA && len(chain) > 1:
		return nil, fmt.Errorf("the first of the identity's certificates is that of the CA %q: put the member's own first, and each intermediate before its issuer", chain[0].Subject)
	case bytes.Equal(last.Raw, ca.Raw):
		return nil, fmt.Errorf("the identity's certificates end with the fleet's CA %q: take it out, members have that one already", ca.Subject)
	}
	id, err := NewIdentity(signer, chain...)
	if err != nil {
		return nil, err
	}
	if err := verifyPath(chain, ca, latestStart(chain, ca)); err != nil {
		return nil, fmt.Errorf("the certificate of %s is not of the fleet's CA %q: %w", id.member.Name, ca.Subject, err)
	}
	return id, nil
}

// NewIdentity makes an identity of a signer, for example one in a TPM, and its certificate
// chain: the signer's first, intermediates after it, without the CA.
func NewIdentity(signer crypto.Signer, chain ...*x509.Certificate) (*Identity, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return nil, fmt.Errorf("an identity has 1 to %d certificates, found %d", MaxChain, len(chain))
	}
	m, err := memberOf(chain[0])
	if err != nil {
		return nil, err
	}
	return newIdentity(signer, m, chain)
}

// ParseAuthority reads the fleet's CA as an identity that signs policies: a PKCS#8 private
// key and the self-signed certificate whose common name is the fleet's, both PEM.
func ParseAuthority(keyPEM, certPEM []byte) (*Identity, error) {
	signer, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	ca, err := parseCA(certPEM)
	if err != nil {
		return nil, err
	}
	m, err := authorityOf(ca)
	if err != nil {
		return nil, err
	}
	return newIdentity(signer, m, []*x509.Certificate{ca})
}

func authorityOf(ca *x509.Certificate) (Member, error) {
	fleet := ca.Subject.CommonName
	if !ValidName(fleet) {
		return Member{}, untrusted("the CA's common name %.200q is not a fleet's name: let a member with role operator sign in its place", fleet)
	}
	return Member{Fleet: fleet, Role: RoleAuthority, Name: "ca", CertHash: sha256.Sum256(ca.Raw)}, nil
}

func newIdentity(signer crypto.Signer, m Member, chain []*x509.Certificate) (*Identity, error) {
	alg, err := algorithmOf(chain[0].PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the certificate of %s: %w", m.Name, err)
	}
	if pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(signer.Public()) {
		return nil, fmt.Errorf("the private key is not that of the certificate of %s: take both files from the same directory", m.Name)
	}
	total := 0
	for _, c := range chain {
		if total += len(c.Raw); len(c.Raw) > maxCert {
			return nil, fmt.Errorf("the certificate of %s has %d bytes, at most %d are allowed", c.Subject, len(c.Raw), maxCert)
		}
	}
	if total > MaxChainBytes {
		return nil, fmt.Errorf("the certificates of %s have %d bytes together, at most %d go beside each message: use fewer intermediates, or smaller ones", m.Name, total, MaxChainBytes)
	}
	return &Identity{signer: &signer, alg: alg, member: m, chain: chain}, nil
}

// Member returns who the identity is.
func (id *Identity) Member() Member { return id.member }

// NotBefore returns when the last certificate of the chain becomes valid.
func (id *Identity) NotBefore() time.Time { return latestStart(id.chain, id.chain[0]) }

// NotAfter returns when the first certificate of the chain expires.
func (id *Identity) NotAfter() time.Time {
	end := id.chain[0].NotAfter
	for _, c := range id.chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// latestStart is a time at which certificates issued soundly are all valid.
func latestStart(chain []*x509.Certificate, ca *x509.Certificate) time.Time {
	start := ca.NotBefore
	for _, c := range chain {
		if c.NotBefore.After(start) {
			start = c.NotBefore
		}
	}
	return start
}

// algorithmOf returns the COSE algorithm that a public key signs with (spec 12.2).
func algorithmOf(pub crypto.PublicKey) (int64, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return algEdDSA, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return algES256, nil
		}
		return 0, untrusted("ECDSA on %s: only Ed25519 and ECDSA P-256 sign messages", k.Curve.Params().Name)
	}
	return 0, untrusted("a key of type %T: only Ed25519 and ECDSA P-256 sign messages", pub)
}

func parseKey(keyPEM []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(keyPEM)
	switch {
	case block == nil:
		return nil, errors.New("the private key is not PEM: a block PRIVATE KEY (PKCS#8) is needed")
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("the private key is a PEM block %.40q, PRIVATE KEY (PKCS#8, not encrypted) is needed: convert it with openssl pkcs8 -topk8 -nocrypt", block.Type)
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, errors.New("bytes follow the private key's PEM block: keep one key in the file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the private key is a %T, which cannot sign: Ed25519 or ECDSA P-256 is needed", key)
	}
	return signer, nil
}

func parseCerts(certPEM []byte, what string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := certPEM; len(bytes.TrimSpace(rest)) != 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the %s is not PEM: only blocks CERTIFICATE are allowed in it", what)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the %s: %w", what, err)
		}
		if certs = append(certs, cert); len(certs) > MaxChain {
			return nil, fmt.Errorf("the %s has more than %d certificates", what, MaxChain)
		}
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("the %s is empty: a PEM block CERTIFICATE is needed", what)
	}
	return certs, nil
}

func parseCA(caPEM []byte) (*x509.Certificate, error) {
	certs, err := parseCerts(caPEM, "CA certificate")
	if err != nil {
		return nil, err
	}
	ca := certs[0]
	switch {
	case len(certs) != 1:
		return nil, fmt.Errorf("the CA file has %d certificates: a fleet has exactly one CA", len(certs))
	case !ca.IsCA || ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("the certificate %q is not a CA's", ca.Subject)
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("the CA certificate %q is not signed by itself: %w", ca.Subject, err)
	}
	return ca, nil
}
