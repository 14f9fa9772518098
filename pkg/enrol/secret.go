package enrol

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"

	"sealgate/pkg/dcbor"
)

// Labels: no two uses of a key or a signature share one.
const (
	labelTicket  = "sealgate v1 ticket"
	labelID      = "sealgate v1 ticket id"
	labelMAC     = "sealgate v1 enrol mac"
	labelRequest = "sealgate v1 enrol request"
	labelProof   = "sealgate v1 enrol proof"
	labelAnswer  = "sealgate v1 enrol answer"
)

const redactedText = "[redacted]"

// Secret is a ticket's secret. Whoever has it may enrol as the ticket's member, once. It prints as "[redacted]".
type Secret struct {
	b **[SecretSize]byte // two pointers: fmt follows one
}

// SecretFrom copies a secret from its 32 bytes.
func SecretFrom(b []byte) (Secret, error) {
	if len(b) != SecretSize {
		return Secret{}, fmt.Errorf("a ticket's secret has %d bytes, found %d", SecretSize, len(b))
	}
	p := (*[SecretSize]byte)(append([]byte(nil), b...))
	return Secret{&p}, nil
}

func newSecret(rand io.Reader) (Secret, error) {
	b := make([]byte, SecretSize)
	if _, err := io.ReadFull(rand, b); err != nil {
		return Secret{}, fmt.Errorf("drawing a ticket's secret: %w", err)
	}
	return SecretFrom(b)
}

// bytes is a view; nil of the zero Secret.
func (s Secret) bytes() []byte {
	if s.b == nil {
		return nil
	}
	return (*s.b)[:]
}

// String returns "[redacted]".
func (Secret) String() string { return redactedText }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redactedText }

// Format writes "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedText) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redactedText) }

// TicketID names a ticket without giving its secret away (spec 3.2).
type TicketID [16]byte

// keys are what a ticket's secret is for. Every field of the ticket is in their derivation: a ticket that was
// altered anywhere is another ticket, which nobody knows.
type keys struct {
	id  TicketID
	mac [32]byte
}

func (t *Ticket) keys() (k keys, err error) {
	if err := t.derive(labelID, k.id[:]); err != nil {
		return k, err
	}
	return k, t.derive(labelMAC, k.mac[:])
}

// derive fills out by HKDF-SHA256 of the secret.
func (t *Ticket) derive(label string, out []byte) error {
	info := dcbor.AppendText(dcbor.AppendArray(nil, 6), label)
	info = t.appendPublic(info)
	b, err := hkdf.Key(sha256.New, t.Secret.bytes(), nil, string(info), len(out))
	copy(out, b)
	return err
}

// seal is the MAC over everything of a request that is before it (spec 4.2).
func (k *keys) seal(r *Request) (mac [32]byte) {
	h := hmac.New(sha256.New, k.mac[:])
	h.Write(r.authenticated())
	h.Sum(mac[:0])
	return mac
}

// wrote reports whether a holder of the ticket made the request, in constant time.
func (k *keys) wrote(r *Request) bool {
	want := k.seal(r)
	return hmac.Equal(want[:], r.MAC[:])
}
