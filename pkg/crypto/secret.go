package crypto

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// SecretSize is the length of a payload secret and of a KEK, in bytes.
const SecretSize = 32

// ErrErased is returned when a secret is used that was erased or never set.
var ErrErased = errors.New("the secret is empty: it was erased, or never set; ask for a new one")

const redactedText = "[redacted]"

// redacted is embedded by types that hold secrets. Its methods keep fmt, slog,
// encoding/json and text encoders from printing them.
//
// fmt does not call methods on unexported fields, so a type that embeds redacted also keeps
// its secret behind a pointer to a pointer or to an interface. What is printed then is an
// address: fmt follows a single pointer when the verb does not fit, these never.
type redacted struct{}

// String returns "[redacted]".
func (redacted) String() string { return redactedText }

// GoString returns "[redacted]".
func (redacted) GoString() string { return redactedText }

// Format writes "[redacted]" for every verb.
func (redacted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedText) }

// MarshalText returns "[redacted]".
func (redacted) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// MarshalJSON returns "[redacted]" as a JSON string.
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }

// LogValue returns "[redacted]".
func (redacted) LogValue() slog.Value { return slog.StringValue(redactedText) }

// secret is 32 bytes behind a pointer; see redacted.
type secret struct {
	redacted
	b **[SecretSize]byte
}

func hold(b *[SecretSize]byte) secret { return secret{b: &b} }

func newSecret(rand io.Reader, what string) (secret, error) {
	b := new([SecretSize]byte)
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return secret{}, fmt.Errorf("drawing a %s: %w", what, err)
	}
	return hold(b), nil
}

func secretFrom(b []byte, what string) (secret, error) {
	if len(b) != SecretSize {
		return secret{}, fmt.Errorf("a %s has %d bytes, found %d", what, SecretSize, len(b))
	}
	return hold((*[SecretSize]byte)(append([]byte(nil), b...))), nil
}

// key returns the bytes, or ErrErased.
func (s *secret) key() ([]byte, error) {
	if s == nil || s.b == nil {
		return nil, ErrErased
	}
	return (*s.b)[:], nil
}

func (s *secret) clone() []byte {
	if s == nil || s.b == nil {
		return nil
	}
	return append([]byte(nil), (*s.b)[:]...)
}

// erase overwrites the bytes. Copies that the runtime or a cipher made remain: no
// claim is made that memory holds no trace.
func (s *secret) erase() {
	if s != nil && s.b != nil {
		clear((*s.b)[:])
		s.b = nil
	}
}

func (s *secret) equal(o *secret) bool {
	return s != nil && o != nil && s.b != nil && o.b != nil && subtle.ConstantTimeCompare((*s.b)[:], (*o.b)[:]) == 1
}

// PayloadSecret is the secret of one epoch of a group, from which the keys of all
// its streams are derived (spec 5). It prints as "[redacted]". The zero value is
// unusable. It is safe for concurrent use until Erase.
type PayloadSecret struct{ secret }

// NewPayloadSecret draws a payload secret from rand.
func NewPayloadSecret(rand io.Reader) (*PayloadSecret, error) {
	s, err := newSecret(rand, "payload secret")
	if err != nil {
		return nil, err
	}
	return &PayloadSecret{s}, nil
}

// PayloadSecretFrom copies a payload secret from its 32 bytes.
func PayloadSecretFrom(b []byte) (*PayloadSecret, error) {
	s, err := secretFrom(b, "payload secret")
	if err != nil {
		return nil, err
	}
	return &PayloadSecret{s}, nil
}

// Bytes returns a copy of the 32 bytes, nil after Erase.
func (s *PayloadSecret) Bytes() []byte {
	if s == nil {
		return nil
	}
	return s.clone()
}

// Erase overwrites the secret; it is unusable afterwards.
func (s *PayloadSecret) Erase() {
	if s != nil {
		s.erase()
	}
}

// key is the embedded secret's, safe for a nil s.
func (s *PayloadSecret) key() ([]byte, error) {
	if s == nil {
		return nil, ErrErased
	}
	return s.secret.key()
}

// Equal compares two secrets in constant time. An erased one equals nothing.
func (s *PayloadSecret) Equal(o *PayloadSecret) bool {
	return s != nil && o != nil && s.equal(&o.secret)
}
