package policy

import (
	"crypto/sha256"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
)

// MessageType is the type that a signed policy's external_aad carries.
const MessageType = "policy"

// Signed is a verified policy.
type Signed struct {
	Document *Document
	Hash     [32]byte // SHA-256 of Raw: what the next version's Previous holds
	Raw      []byte   // the COSE_Sign1 message, as received
}

// Sign validates the document and signs it with id: the fleet's certificate authority or a
// member with role operator. The result is what policy.cose holds and what is published.
func (d *Document) Sign(id *crypto.Identity) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b := d.Marshal()
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("policy: %d bytes encoded, at most %d allowed: shorten its lists", len(b), MaxEncoded)
	}
	return id.Sign(b, MessageType)
}

// Verify checks that raw is a policy of the trusted fleet, signed by its certificate
// authority or an operator, and that the document holds together. It keeps a copy of raw.
// Whether the version may follow the one in force is the caller's question.
func Verify(t *crypto.Trust, raw []byte, now time.Time) (*Signed, error) {
	payload, _, err := t.VerifyPolicySigner(raw, MessageType, now)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	d, err := Unmarshal(payload)
	if err != nil {
		return nil, err
	}
	if d.Fleet != t.Fleet() {
		return nil, fmt.Errorf("policy: it is for fleet %q, ours is %q", d.Fleet, t.Fleet())
	}
	return &Signed{Document: d, Hash: sha256.Sum256(raw), Raw: append([]byte(nil), raw...)}, nil
}
