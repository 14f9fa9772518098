package crypto

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"sealgate/pkg/dcbor"
)

// stream is what sealing and opening share: all that is constant in a stream, computed once.
type stream struct {
	redacted
	aead   cipher.AEAD
	aad    []byte
	iv     [chacha20poly1305.NonceSize]byte
	nonce  [chacha20poly1305.NonceSize]byte // scratch
	kid    Kid
	prefix [prefixLen]byte
}

func newStream(secret *PayloadSecret, group, topic string, id StreamID) (stream, error) {
	key, iv, err := streamKeys(secret, group, topic, id)
	if err != nil {
		return stream{}, fmt.Errorf("deriving a stream key: %w", err)
	}
	aead, err := chacha20poly1305.New(key[:])
	clear(key[:])
	if err != nil {
		return stream{}, fmt.Errorf("setting up ChaCha20-Poly1305: %w", err)
	}
	kid := NewKid(KeyIDOf(secret, group), id)
	return stream{aead: aead, aad: encStructure(group, topic, kid), iv: iv, nonce: iv, kid: kid, prefix: envelopePrefix(kid)}, nil
}

// encStructure is the AEAD's additional data, RFC 9052 5.3 and spec 4.5.
func encStructure(group, topic string, kid Kid) []byte {
	ext := dcbor.AppendUint(dcbor.AppendArray(nil, 4), 1)
	ext = dcbor.AppendText(dcbor.AppendText(ext, group), topic)
	ext = dcbor.AppendBytes(ext, kid[:])
	aad := dcbor.AppendText(dcbor.AppendArray(nil, 3), "Encrypt0")
	aad = dcbor.AppendBytes(aad, []byte(envelopeStart[3:7]))
	return dcbor.AppendBytes(aad, ext)
}

// at sets the nonce of a number: Base IV xor left-padded Partial IV, RFC 9052 3.1.
func (s *stream) at(seq uint64) []byte {
	for i := 0; i < maxPIV; i++ {
		s.nonce[11-i] = s.iv[11-i] ^ byte(seq>>(8*i))
	}
	return s.nonce[:]
}

// Kid returns the stream's key identifier.
func (s *stream) Kid() Kid { return s.kid }

// SealStream seals the messages of one stream, numbering them from 0 on
// (spec 6). It belongs to one goroutine. It prints as "[redacted]".
type SealStream struct {
	stream
	next uint64
	pad  int
	name []byte // with its length: the topic name that inner begins with where the stream's topic is hidden
}

// NewSealStream starts the stream id of topic in group. id must be new: one
// from [NewStreamID] with 16 fresh random bytes.
func NewSealStream(secret *PayloadSecret, group, topic string, id StreamID) (*SealStream, error) {
	s, err := newStream(secret, group, topic, id)
	if err != nil {
		return nil, err
	}
	return &SealStream{stream: s}, nil
}

// SetPad pads the inner plaintext of every message from now on to a multiple of pad bytes, at most
// [MaxPad]; 0, as at the beginning, is no padding (spec 3.1).
func (s *SealStream) SetPad(pad int) { s.pad = min(max(pad, 0), MaxPad) }

// SetName begins the inner plaintext of every message with the topic name that the stream's topic hides, of at most
// [MaxTopic] bytes (spec 17.3). Call it before the first message.
func (s *SealStream) SetName(name string) {
	s.name = append(binary.BigEndian.AppendUint16(nil, uint16(len(name))), name...)
}

// Next returns the number that the next Seal will burn.
func (s *SealStream) Next() uint64 { return s.next }

// Len is the length of the envelope that the next Seal makes of innerLen bytes
// of inner plaintext (see [InnerLen]), which it pads.
func (s *SealStream) Len(innerLen int) int { return s.LenAt(s.next, innerLen) }

// LenAt is Len for the number seq.
func (s *SealStream) LenAt(seq uint64, innerLen int) int {
	return envelopeLen(seq, s.paddedLen(innerLen))
}

// paddedLen is the length of an inner plaintext of n bytes with topic name and padding.
func (s *SealStream) paddedLen(n int) int { return paddedLen(len(s.name)+n, s.pad) }

// Seal burns the next number, seals properties and payload under it and
// appends the envelope to dst. props is a property block without its length, empty
// for MQTT before 5. dst must not overlap props or payload; nothing is allocated
// when it has room for Len bytes.
//
// Errors: [ErrExhausted] after number 2^40-1, [ErrTooLarge]. No number is
// burned then and dst is returned as it was.
func (s *SealStream) Seal(dst, props, payload []byte) (out []byte, seq uint64, err error) {
	seq, err = s.burn(props, payload)
	if err != nil {
		return dst, 0, err
	}
	return s.sealAt(dst, seq, props, payload), seq, nil
}

// burn takes the next number out of use. It comes before any keystream byte is made, so
// that nothing that goes wrong later can bring the number back (F1).
func (s *SealStream) burn(props, payload []byte) (uint64, error) {
	if len(props) > MaxProps || len(payload) > MaxInner || s.innerLen(props, payload) > MaxInner {
		return 0, ErrTooLarge
	}
	seq := s.next
	if seq > MaxSequence {
		return 0, ErrExhausted
	}
	s.next = seq + 1
	return seq, nil
}

// innerLen is the length of the inner plaintext, topic name and padding included.
func (s *SealStream) innerLen(props, payload []byte) int {
	return s.paddedLen(InnerLen(len(props), len(payload)))
}

// sealAt builds the envelope in place: header, inner plaintext, and the AEAD over the latter.
func (s *SealStream) sealAt(dst []byte, seq uint64, props, payload []byte) []byte {
	n := s.innerLen(props, payload)
	dst = appendHeader(dst, &s.prefix, seq, n)
	start := len(dst)
	dst = append(dst, s.name...)
	dst = appendPadding(dst, n-len(s.name)-InnerLen(len(props), len(payload)))
	dst = appendVarint(dst, len(props))
	dst = append(dst, props...)
	dst = append(dst, payload...)
	return s.aead.Seal(dst[:start], s.at(seq), dst[start:], s.aad)
}

// Resend is the record of a sealed message by which [SealStream.Reseal] makes the
// same envelope once more (spec 6.3). It holds no plaintext: the number, the length of
// the inner plaintext and the envelope's authentication tag, which stands for the plaintext under
// that number's key. The zero Resend matches nothing.
type Resend struct {
	seq  uint64
	size int // of the inner plaintext, which is never empty
	tag  [tagSize]byte
}

// Seq returns the message's number.
func (r Resend) Seq() uint64 { return r.seq }

// SealRecorded is [SealStream.Seal] that also returns the record needed to re-send
// the message.
func (s *SealStream) SealRecorded(dst, props, payload []byte) (out []byte, r Resend, err error) {
	out, r.seq, err = s.Seal(dst, props, payload)
	if err != nil {
		return dst, Resend{}, err
	}
	r.size = s.innerLen(props, payload)
	copy(r.tag[:], out[len(out)-tagSize:])
	return out, r, nil
}

// Reseal appends the envelope that r records, byte for byte, if props and payload are
// what was sealed then. Otherwise it returns [ErrNotIdentical], and nothing made under the
// number is left in dst: no envelope under one number ever covers two plaintexts (F1).
func (s *SealStream) Reseal(dst []byte, r Resend, props, payload []byte) ([]byte, error) {
	if r.size == 0 || r.seq >= s.next || s.innerLen(props, payload) != r.size {
		return dst, ErrNotIdentical
	}
	out := s.sealAt(dst, r.seq, props, payload)
	if subtle.ConstantTimeCompare(out[len(out)-tagSize:], r.tag[:]) != 1 {
		clear(out[len(dst):])
		return dst, ErrNotIdentical
	}
	return out, nil
}
