package crypto

import (
	"crypto/hpke"
	"errors"
	"fmt"
)

// HPKEOverhead is how much longer a sealed message is than its plaintext: the KEM's
// encapsulated key (1120 bytes) and a tag (16).
const HPKEOverhead = 1120 + tagSize

// InboxPublicSize is the length of an inbox's public key in bytes: ML-KEM-768, then X25519.
const InboxPublicSize = 1216

// ErrHPKE is wrapped when a message to an inbox does not open.
var ErrHPKE = errors.New("the message does not open with this inbox's key: it answers another Hello, or was forged or damaged")

// InboxKey is the HPKE key pair that a member announces in one Hello (spec 11). It
// opens every grant that answers that Hello, for several keepers may answer; the member
// makes a new pair for its next Hello and drops this one. A message that
// does not open uses nothing up. It prints as "[redacted]".
type InboxKey struct {
	redacted
	key    *hpke.PrivateKey
	public []byte
}

// NewInboxKey makes a key pair. The randomness is the Go runtime's: the
// standard library takes no other source.
func NewInboxKey() (*InboxKey, error) {
	key, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making an inbox key: %w", err)
	}
	return &InboxKey{key: &key, public: key.PublicKey().Bytes()}, nil
}

// InboxKeyFrom makes the key pair of a private key that Private returned.
func InboxKeyFrom(private []byte) (*InboxKey, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("reading an inbox key: %w", err)
	}
	return &InboxKey{key: &key, public: key.PublicKey().Bytes()}, nil
}

// Private returns the private key, for a pair that must outlive the process: the seed
// of 32 bytes from which both parts are made. Inboxes of single Hellos are never kept.
func (k *InboxKey) Private() ([]byte, error) {
	if k == nil || k.key == nil {
		return nil, ErrErased
	}
	b, err := (*k.key).Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding an inbox key: %w", err)
	}
	return b, nil
}

// Public returns the public key, [InboxPublicSize] bytes. The caller must not change it.
func (k *InboxKey) Public() []byte { return k.public }

// HPKESeal seals plaintext to an inbox: HPKE base mode, RFC 9180, with KEM
// MLKEM768-X25519, HKDF-SHA256 and ChaCha20Poly1305. The result is the encapsulated key, then
// the ciphertext. info binds the message to its occasion (F15) and is not sent.
func HPKESeal(pub, info, plaintext []byte) ([]byte, error) {
	if len(pub) != InboxPublicSize {
		return nil, fmt.Errorf("an inbox's public key has %d bytes, found %d", InboxPublicSize, len(pub))
	}
	pk, err := hpke.MLKEM768X25519().NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("reading an inbox's public key: %w", err)
	}
	out, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, plaintext)
	if err != nil {
		return nil, fmt.Errorf("sealing to an inbox: %w", err)
	}
	return out, nil
}

// Open opens a message that HPKESeal made for this key with the same info. Errors
// wrap [ErrHPKE], or are [ErrErased].
func (k *InboxKey) Open(info, ciphertext []byte) ([]byte, error) {
	if k == nil || k.key == nil {
		return nil, ErrErased
	}
	if len(ciphertext) < HPKEOverhead {
		return nil, fmt.Errorf("%w: %d bytes are shorter than any", ErrHPKE, len(ciphertext))
	}
	out, err := hpke.Open(*k.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrHPKE, err)
	}
	return out, nil
}

// Erase drops the private key; Open refuses afterwards.
func (k *InboxKey) Erase() { k.key = nil }
