package crypto

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"sealgate/pkg/dcbor"
)

// Labels of the derivations, spec 5.1: no two uses of a secret share one.
const (
	labelCommitment = "sealgate v1 commitment"
	labelStream     = "sealgate v1 stream"
	labelStreamID   = "sealgate v1 stream id"
	labelRatchet    = "sealgate v1 ratchet"
	labelWrap       = "sealgate v1 wrap"
)

// Bounds on names, spec 2: what is derived or authenticated from a name has a bounded size.
const (
	MaxGroup = 255   // bytes of a group's name
	MaxTopic = 65535 // bytes of a topic name, MQTT 1.5.4
)

// ErrName is wrapped when a group, topic or member name is out of bounds.
var ErrName = errors.New("name refused")

// KeyID names a payload secret within its group: the first 4 bytes of its commitment (spec 5.2).
type KeyID [4]byte

// String returns the id in hex.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// StreamID names a stream within an epoch (spec 5.3).
type StreamID [8]byte

// String returns the id in hex.
func (s StreamID) String() string { return hex.EncodeToString(s[:]) }

// Will reports whether the stream carries wills: such streams make no gaps.
func (s StreamID) Will() bool { return s[0]&0x80 != 0 }

// Kid is the key identifier of an envelope: KeyID, then StreamID.
type Kid [12]byte

// NewKid joins a key id and a stream id.
func NewKid(k KeyID, s StreamID) (kid Kid) {
	copy(kid[:4], k[:])
	copy(kid[4:], s[:])
	return kid
}

// KeyID returns the first 4 bytes.
func (k Kid) KeyID() KeyID { return KeyID(k[:4]) }

// StreamID returns the last 8 bytes.
func (k Kid) StreamID() StreamID { return StreamID(k[4:]) }

// String returns the kid in hex.
func (k Kid) String() string { return hex.EncodeToString(k[:]) }

// Commitment binds a payload secret to its group (spec 5.2). It tells nothing
// about the secret and no other secret has the same one. A secret that was erased has
// the zero commitment, which no live secret has.
func Commitment(s *PayloadSecret, group string) (c [32]byte) {
	info := dcbor.AppendText(dcbor.AppendText(dcbor.AppendArray(nil, 2), labelCommitment), group)
	if s == nil {
		return c
	}
	out, err := derive(&s.secret, nil, info, len(c))
	if err != nil {
		return c
	}
	copy(c[:], out)
	return c
}

// KeyIDOf returns the key id of a payload secret in its group.
func KeyIDOf(s *PayloadSecret, group string) KeyID {
	c := Commitment(s, group)
	return KeyID(c[:4])
}

// NewStreamID makes the id of a new stream from the gateway's name, its boot id
// and 16 bytes that were never used before (spec 5.3).
func NewStreamID(gateway string, boot, random [16]byte, will bool) (id StreamID) {
	b := dcbor.AppendText(dcbor.AppendArray(nil, 4), labelStreamID)
	b = dcbor.AppendText(b, gateway)
	b = dcbor.AppendBytes(dcbor.AppendBytes(b, boot[:]), random[:])
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	id[0] &^= 0x80
	if will {
		id[0] |= 0x80
	}
	return id
}

// derive is HKDF-SHA256 (RFC 5869) of a secret.
func derive(s *secret, salt, info []byte, n int) ([]byte, error) {
	k, err := s.key()
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, k, salt, string(info), n)
}

// streamKeys derives the key and Base IV of a stream (spec 5.4).
func streamKeys(s *PayloadSecret, group, topic string, id StreamID) (key [32]byte, iv [12]byte, err error) {
	if err := checkNames(group, topic); err != nil {
		return key, iv, err
	}
	if s == nil {
		return key, iv, ErrErased
	}
	info := dcbor.AppendText(dcbor.AppendArray(nil, 4), labelStream)
	info = dcbor.AppendText(dcbor.AppendText(info, group), topic)
	info = dcbor.AppendBytes(info, id[:])
	out, err := derive(&s.secret, nil, info, len(key)+len(iv))
	if err != nil {
		return key, iv, err
	}
	copy(key[:], out)
	copy(iv[:], out[len(key):])
	clear(out)
	return key, iv, nil
}

func checkNames(group, topic string) error {
	if err := checkText("group", group, MaxGroup); err != nil {
		return err
	}
	return checkText("topic", topic, MaxTopic)
}

func checkText(what, v string, limit int) error {
	switch {
	case v == "":
		return fmt.Errorf("%w: the %s is empty", ErrName, what)
	case len(v) > limit:
		return fmt.Errorf("%w: the %s has %d bytes, at most %d are allowed", ErrName, what, len(v), limit)
	case !utf8.ValidString(v):
		return fmt.Errorf("%w: the %s is not UTF-8", ErrName, what)
	}
	return nil
}
