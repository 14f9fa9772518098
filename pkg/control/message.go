package control

import (
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// Every message is a COSE_Sign1 whose payload is a CBOR array that starts with its kind;
// the same word is the type in the signature's external_aad (spec 3).

// roles are the roles that may sign a kind (spec 3.2). A policy's signer is checked by package policy.
func (k Kind) roles() []crypto.Role {
	switch k {
	case KindHello:
		return []crypto.Role{crypto.RoleGateway, crypto.RoleSubscriber, crypto.RoleKeeper}
	case KindGrant, KindEpoch, KindConfirm, KindLease:
		return []crypto.Role{crypto.RoleGateway, crypto.RoleKeeper}
	case KindCheckpoint:
		return []crypto.Role{crypto.RoleGateway, crypto.RoleSubscriber}
	}
	return nil
}

// verify checks who signed a message of a kind and returns its payload, a view into msg.
func (m *Machine) verify(msg []byte, kind Kind) ([]byte, crypto.Member, error) {
	return verify(m.cfg.Trust, m.policy.Document, m.now.Wall, msg, kind)
}

func verify(t *crypto.Trust, d *policy.Document, now time.Time, msg []byte, kind Kind) ([]byte, crypto.Member, error) {
	limit := MaxMessage
	if kind == KindEpoch {
		limit = MaxEpochMessage
	}
	if len(msg) > limit {
		return nil, crypto.Member{}, fmt.Errorf("%d bytes, at most %d: %w", len(msg), limit, ErrTooLarge)
	}
	payload, from, err := t.Verify(msg, string(kind), now)
	switch {
	case err != nil:
		return nil, crypto.Member{}, err
	case !slices.Contains(kind.roles(), from.Role):
		return nil, from, fmt.Errorf("role %s: %w", from.Role, ErrRole)
	case d.Revoked(from):
		return nil, from, ErrRevoked
	}
	return payload, from, nil
}

// Urgent reports whether a message that nobody has verified yet says that it is a lease: a keeper whose queue is full of other
// things must not take its leader for gone.
func Urgent(msg []byte) bool { return kindOf(msg) == KindLease }

// kindOf reads a message's kind before its signature is checked, to know what to
// check it as. It decides nothing: the kind is signed twice, in the payload and beside it.
func kindOf(msg []byte) Kind {
	payload := dcbor.NewReader(peek(msg))
	payload.Array(16)
	kind := Kind(payload.Text(16))
	if payload.Err() != nil || kind.roles() == nil {
		return KindUnknown
	}
	return kind
}

// peek returns the payload of a signed message whose signature nobody has checked, nil if it is none.
func peek(msg []byte) []byte {
	if len(msg) > MaxMessage {
		return nil
	}
	r := dcbor.NewReader(msg)
	r.Tag(18)
	r.ArrayExact(4)
	r.Bytes(MaxMessage)
	for n := r.Map(4); n > 0 && r.Err() == nil; n-- {
		r.Int()
		skipBytes(r)
	}
	payload := r.Bytes(MaxMessage)
	if r.Err() != nil {
		return nil
	}
	return payload
}

// skipBytes passes over a byte string or an array of byte strings: a certificate chain.
func skipBytes(r *dcbor.Reader) {
	one := *r
	if one.Bytes(MaxMessage); one.Err() == nil {
		*r = one
		return
	}
	for n := r.Array(16); n > 0 && r.Err() == nil; n-- {
		r.Bytes(MaxMessage)
	}
}

func readHead(r *dcbor.Reader, kind Kind, items int) {
	r.ArrayExact(items)
	if got := r.Text(16); r.Err() == nil && got != string(kind) {
		r.Fail(fmt.Errorf("%w: kind %q, %q expected", dcbor.ErrMalformed, got, kind))
	}
}

func readGroup(r *dcbor.Reader) string { return readName(r) }

func readName(r *dcbor.Reader) string {
	name := r.Text(63)
	if r.Err() == nil && !policy.ValidName(name) {
		r.Fail(fmt.Errorf("%w: %q is not a name", dcbor.ErrMalformed, name))
	}
	return name
}

// readEpochValue reads a generation or a number: 1 to MaxEpochValue (F4).
func readEpochValue(r *dcbor.Reader) uint64 {
	v := r.UintMax(MaxEpochValue)
	if r.Err() == nil && v == 0 {
		r.Fail(fmt.Errorf("%w: generations and numbers start at 1", dcbor.ErrMalformed))
	}
	return v
}

// appendMillis appends a duration in whole milliseconds, rounded up.
func appendMillis(b []byte, d time.Duration) []byte {
	return dcbor.AppendUint(b, uint64((max(d, 0)+time.Millisecond-1)/time.Millisecond))
}

func readMillis(r *dcbor.Reader, limit time.Duration) time.Duration {
	return time.Duration(r.UintMax(uint64(limit/time.Millisecond))) * time.Millisecond
}
