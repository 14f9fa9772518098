package crypto

import (
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"sealgate/pkg/dcbor"
)

// ErrUnwrap is returned when a wrap does not open under a KEK, or opens to another
// secret than it commits to.
var ErrUnwrap = errors.New("the epoch's wrap does not open with this key: it is of another generation or number, forged, or damaged")

// KEK wraps the payload secrets of a group, one epoch each (spec 10). It prints as
// "[redacted]".
type KEK struct{ secret }

// NewKEK draws the KEK of a new generation from rand.
func NewKEK(rand io.Reader) (*KEK, error) {
	s, err := newSecret(rand, "KEK")
	if err != nil {
		return nil, err
	}
	return &KEK{s}, nil
}

// KEKFrom copies a KEK from its 32 bytes.
func KEKFrom(b []byte) (*KEK, error) {
	s, err := secretFrom(b, "KEK")
	if err != nil {
		return nil, err
	}
	return &KEK{s}, nil
}

// Bytes returns a copy of the 32 bytes, nil after Erase.
func (k *KEK) Bytes() []byte {
	if k == nil {
		return nil
	}
	return k.clone()
}

// Erase overwrites the KEK; it is unusable afterwards.
func (k *KEK) Erase() {
	if k != nil {
		k.erase()
	}
}

// Equal compares two KEKs in constant time. An erased one equals nothing.
func (k *KEK) Equal(o *KEK) bool { return k != nil && o != nil && k.equal(&o.secret) }

// Ratchet derives the KEK of the next epoch (spec 10.1). The caller erases k
// once nothing more arrives under it, and nobody can compute k from the result. The
// KEK that follows an erased one is erased too.
func (k *KEK) Ratchet(group string) *KEK {
	info := dcbor.AppendText(dcbor.AppendText(dcbor.AppendArray(nil, 2), labelRatchet), group)
	if k == nil {
		return &KEK{}
	}
	b, err := derive(&k.secret, nil, info, SecretSize)
	if err != nil {
		return &KEK{}
	}
	return &KEK{hold((*[SecretSize]byte)(b))}
}

// WrapContext is what a wrap is bound to beside its salt: it opens nowhere else.
type WrapContext struct {
	Fleet, Group       string
	Generation, Number uint64
	Keeper             string // name of the member that minted the epoch
}

// Wrap is a payload secret under a KEK (spec 10.2).
type Wrap struct {
	Salt, Commitment [32]byte
	Ciphertext       [SecretSize + tagSize]byte
}

// ID returns the key id of the wrapped secret.
func (w *Wrap) ID() KeyID { return KeyID(w.Commitment[:4]) }

// Wrap wraps s under the epoch's KEK with a salt from rand.
func (k *KEK) Wrap(rand io.Reader, s *PayloadSecret, c WrapContext) (w Wrap, err error) {
	plain, err := s.key()
	if err != nil {
		return Wrap{}, fmt.Errorf("wrapping the payload secret of epoch %d: %w", c.Number, err)
	}
	if _, err := io.ReadFull(rand, w.Salt[:]); err != nil {
		return Wrap{}, fmt.Errorf("drawing the salt of epoch %d: %w", c.Number, err)
	}
	w.Commitment = Commitment(s, c.Group)
	aead, err := k.wrapAEAD(&w.Salt, &c)
	if err != nil {
		return Wrap{}, err
	}
	aead.Seal(w.Ciphertext[:0], make([]byte, chacha20poly1305.NonceSize), plain, nil)
	return w, nil
}

// Unwrap opens w and verifies its commitment. Errors are [ErrUnwrap], or [ErrErased]
// if k is empty, or wrap [ErrName].
func (k *KEK) Unwrap(w *Wrap, c WrapContext) (*PayloadSecret, error) {
	aead, err := k.wrapAEAD(&w.Salt, &c)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), w.Ciphertext[:], nil)
	if err != nil {
		return nil, ErrUnwrap
	}
	defer clear(plain)
	s, err := PayloadSecretFrom(plain)
	if err != nil {
		return nil, ErrUnwrap
	}
	if got := Commitment(s, c.Group); subtle.ConstantTimeCompare(got[:], w.Commitment[:]) != 1 {
		return nil, ErrUnwrap
	}
	return s, nil
}

// wrapAEAD keys the AEAD for one wrap. The key is used once, so that a constant
// nonce does no harm: the salt is 32 random bytes.
func (k *KEK) wrapAEAD(salt *[32]byte, c *WrapContext) (cipher.AEAD, error) {
	if k == nil {
		return nil, fmt.Errorf("using the KEK of generation %d, epoch %d: %w", c.Generation, c.Number, ErrErased)
	}
	for _, n := range []struct{ what, name string }{{"fleet", c.Fleet}, {"group", c.Group}, {"keeper", c.Keeper}} {
		if err := checkText(n.what, n.name, MaxGroup); err != nil {
			return nil, err
		}
	}
	info := dcbor.AppendText(dcbor.AppendArray(nil, 6), labelWrap)
	info = dcbor.AppendText(dcbor.AppendText(info, c.Fleet), c.Group)
	info = dcbor.AppendUint(dcbor.AppendUint(info, c.Generation), c.Number)
	info = dcbor.AppendText(info, c.Keeper)
	key, err := derive(&k.secret, salt[:], info, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("using the KEK of generation %d, epoch %d: %w", c.Generation, c.Number, err)
	}
	defer clear(key)
	return chacha20poly1305.New(key)
}
