package crypto

import (
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"time"
)

// Role is what a member may be.
type Role string

// The roles.
const (
	RoleGateway    Role = "gateway"
	RoleSubscriber Role = "subscriber"
	RoleKeeper     Role = "keeper"
	RoleOperator   Role = "operator"
	RoleAuthority  Role = "authority" // the fleet's CA itself; never in a member's certificate
)

// Member is who signed a message.
type Member struct {
	Fleet    string
	Role     Role
	Name     string
	CertHash [32]byte // SHA-256 of the certificate, DER
}

var errTODO = errors.New("not built yet")

// Identity is a member's private key with its certificate chain.
type Identity struct{ redacted }

// ParseIdentity reads an identity from PEM.
func ParseIdentity(keyPEM, certPEM, caPEM []byte) (*Identity, error) { return nil, errTODO }

// NewIdentity makes an identity of a signer and its chain, leaf first, without the CA.
func NewIdentity(signer crypto.Signer, chain ...*x509.Certificate) (*Identity, error) {
	return nil, errTODO
}

// Member returns who the identity is.
func (id *Identity) Member() Member { return Member{} }

// Sign signs payload as a message of type typ.
func (id *Identity) Sign(payload []byte, typ string) ([]byte, error) { return nil, errTODO }

// Trust verifies messages of a fleet's members.
type Trust struct{}

// NewTrust trusts the fleet's CA.
func NewTrust(fleet string, caPEM []byte) (*Trust, error) { return nil, errTODO }

// Fleet returns the fleet's name.
func (t *Trust) Fleet() string { return "" }

// Verify verifies a member's message of type typ at time now.
func (t *Trust) Verify(msg []byte, typ string, now time.Time) (payload []byte, from Member, err error) {
	return nil, Member{}, errTODO
}

// VerifyPolicySigner is Verify for policies: signed by the CA itself or by an operator.
func (t *Trust) VerifyPolicySigner(msg []byte, typ string, now time.Time) (payload []byte, from Member, err error) {
	return nil, Member{}, errTODO
}

// NewCA makes a fleet's CA: Ed25519 key (PKCS#8 PEM) and self-signed certificate (PEM).
func NewCA(fleet string, rand io.Reader, now time.Time) (keyPEM, certPEM []byte, err error) {
	return nil, nil, errTODO
}

// IssueMember makes a member's key and certificate.
func IssueMember(caKeyPEM, caCertPEM []byte, role Role, name string, rand io.Reader, now time.Time) (keyPEM, certPEM []byte, err error) {
	return nil, nil, errTODO
}
