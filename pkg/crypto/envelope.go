package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"sealgate/pkg/dcbor"
)

// Limits of use, spec 8. The declarations below them fail to compile when their order is wrong.
const (
	MaxSequence  = 1<<40 - 1 // the last number of a stream
	MaxForgeries = 1 << 36   // failed openings after which a stream's key is given up
	MaxInner     = 1<<28 - 1 // bytes of inner plaintext: no MQTT packet is longer

	maxPIV          = 5          // bytes of Partial IV
	maxAEADMessages = 1 << 96    // nonces of AEAD_CHACHA20_POLY1305, RFC 8439 2.8
	maxAEADBytes    = 1<<38 - 64 // plaintext it takes, RFC 8439 2.8
	integrityBound  = 1 << 103   // RFC 9001 appendix B.4: forgeries * blocks stay far below it
	integrityBlocks = MaxInner/16 + MaxTopic
)

const (
	_ = uint64(MaxSequence - MaxForgeries)                            // a stream's numbers outlast its forgeries
	_ = uint64(1<<(8*maxPIV) - 1 - MaxSequence)                       // every number fits the Partial IV
	_ = uint64(maxAEADMessages>>40 - MaxSequence>>40 - 1)             // nonces never wrap
	_ = uint64(maxAEADBytes - MaxInner - tagSize)                     // one message fits the AEAD
	_ = uint64(integrityBound/(MaxForgeries*integrityBlocks)>>40 - 1) // an attacker is left less than 2^-40
)

const (
	tagSize   = 16
	prefixLen = 23 // up to and including the label of the Partial IV
	minLen    = prefixLen + 2 + 1 + tagSize + 1
)

// MaxOverhead is the most that an envelope is longer than its inner plaintext:
// 23 bytes of head, 6 of Partial IV, 5 of ciphertext length, 16 of tag (spec 9).
const MaxOverhead = prefixLen + 1 + maxPIV + 5 + tagSize

// What callers tell apart. Every error of this package's envelope functions wraps one of
// them; none is allocated when it occurs.
var (
	ErrEnvelope     = errors.New("not an envelope")                                                          // spec 4: parse
	ErrKid          = errors.New("the envelope is of another stream")                                        // spec 7.2: kid
	ErrForged       = errors.New("the envelope does not authenticate: forged, damaged, or of another topic") // spec 7.3: auth
	ErrInner        = errors.New("the inner plaintext is malformed")                                         // spec 3: inner
	ErrExhausted    = errors.New("the stream has used all its numbers: start a new stream")                  // spec 8: exhausted
	ErrTooLarge     = errors.New("the message is longer than an MQTT packet can be")                         // spec 8
	ErrNotIdentical = errors.New("not the message that was sealed under this number: seal it afresh")        // spec 6.3
)

// Envelope is a parsed envelope. Ciphertext, tag included, is a view into the parsed bytes.
type Envelope struct {
	Kid        Kid
	Seq        uint64
	Ciphertext []byte
}

// Tag returns the last 4 bytes of the authentication tag, by which a receiver tells a
// repeated message from another one under the same number (spec 7.5).
func (e *Envelope) Tag() uint32 {
	if len(e.Ciphertext) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(e.Ciphertext[len(e.Ciphertext)-4:])
}

// envelopeStart is what every envelope begins with: tag 16, array of 3, protected
// header {1: 24} in a byte string, map of 2, label 4, head of a 12-byte string (spec 4.1).
const envelopeStart = "\xd0\x83\x44\xa1\x01\x18\x18\xa2\x04\x4c"

// LooksSealed reports whether b begins as COSE_Encrypt0 does. It tells a damaged or
// forged envelope from a message that never was one; it proves nothing.
func LooksSealed(b []byte) bool { return len(b) >= 2 && b[0] == 0xd0 && b[1] == 0x83 }

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEnvelope, fmt.Sprintf(format, args...))
}

var (
	errShort     = refuse("shorter than the %d bytes of the shortest one", minLen)
	errTag       = refuse("does not begin with tag 16 (COSE_Encrypt0) in one byte, spec 4.1")
	errArray     = refuse("no array of 3 items after the tag, spec 4.1")
	errProtected = refuse("the protected header is not {1: 24} (ChaCha20/Poly1305), spec 4.2")
	errMap       = refuse("the unprotected header is not a map of 2 entries, spec 4.3")
	errKid       = refuse("the unprotected header does not start with label 4 (kid) and 12 bytes, spec 4.3")
	errPIVLabel  = refuse("the unprotected header's second label is not 6 (Partial IV), spec 4.3")
	errPIVLen    = refuse("the Partial IV has not 1 to 5 bytes, spec 4.3")
	errPIVZero   = refuse("the Partial IV is not in its shortest form, spec 4.3")
	errText      = refuse("the ciphertext is not a byte string of definite length, spec 4.4")
	errTextForm  = refuse("the ciphertext's length is not in its shortest form, spec 4.4")
	errTextShort = refuse("the ciphertext is shorter than a tag and one byte, spec 4.4")
	errTextLong  = refuse("the ciphertext is longer than an MQTT packet can be, spec 4.4")
	errCut       = refuse("the ciphertext is cut off, spec 4.4")
	errTrailing  = refuse("bytes follow the ciphertext, spec 4.1")
)

// ParseEnvelope parses exactly the bytes that a [SealStream] makes, spec 4.
// Errors wrap [ErrEnvelope] and name what was refused.
func ParseEnvelope(b []byte) (Envelope, error) {
	if len(b) < minLen {
		if len(b) > 0 && b[0] != 0xd0 {
			return Envelope{}, errTag
		}
		return Envelope{}, errShort
	}
	if err := checkHead(b); err != nil {
		return Envelope{}, err
	}
	e := Envelope{Kid: Kid(b[len(envelopeStart):])}
	n := int(b[prefixLen]) - 0x40
	if n < 1 || n > maxPIV {
		return Envelope{}, errPIVLen
	}
	piv := b[prefixLen+1 : prefixLen+1+n]
	if n > 1 && piv[0] == 0 {
		return Envelope{}, errPIVZero
	}
	for _, c := range piv {
		e.Seq = e.Seq<<8 | uint64(c)
	}
	ct, err := parseCiphertext(b[prefixLen+1+n:])
	if err != nil {
		return Envelope{}, err
	}
	e.Ciphertext = ct
	return e, nil
}

func checkHead(b []byte) error {
	const s = len(envelopeStart)
	if string(b[:s]) == envelopeStart && b[s+12] == 0x06 {
		return nil
	}
	switch {
	case b[0] != 0xd0:
		return errTag
	case b[1] != 0x83:
		return errArray
	case !bytes.Equal(b[2:7], []byte(envelopeStart[2:7])):
		return errProtected
	case b[7] != 0xa2:
		return errMap
	case b[8] != 0x04 || b[9] != 0x4c:
		return errKid
	}
	return errPIVLabel
}

func parseCiphertext(b []byte) ([]byte, error) {
	first := b[0]
	if first < 0x40 || first > 0x5a {
		return nil, errText
	}
	size, n := 1, uint64(first&0x1f)
	if n >= 24 {
		size = 1 + 1<<(n-24)
		if len(b) < size {
			return nil, errCut
		}
		n = 0
		for _, c := range b[1:size] {
			n = n<<8 | uint64(c)
		}
		if dcbor.HeadLen(n) != size {
			return nil, errTextForm
		}
	}
	switch rest := uint64(len(b) - size); {
	case n < tagSize+1:
		return nil, errTextShort
	case n > MaxInner+tagSize:
		return nil, errTextLong
	case n > rest:
		return nil, errCut
	case n < rest:
		return nil, errTrailing
	}
	return b[size:], nil
}

// appendHeader appends all of an envelope but the ciphertext.
func appendHeader(dst []byte, prefix *[prefixLen]byte, seq uint64, inner int) []byte {
	dst = append(dst, prefix[:]...)
	switch n := pivLen(seq); n {
	case 1:
		dst = append(dst, 0x41, byte(seq))
	case 2:
		dst = append(dst, 0x42, byte(seq>>8), byte(seq))
	default:
		dst = append(dst, 0x40|byte(n))
		for i := n - 1; i >= 0; i-- {
			dst = append(dst, byte(seq>>(8*i)))
		}
	}
	return dcbor.AppendBytesHead(dst, inner+tagSize)
}

// AppendEnvelope appends the encoding of e: what ParseEnvelope took, byte for byte.
func AppendEnvelope(dst []byte, e *Envelope) []byte {
	prefix := envelopePrefix(e.Kid)
	return append(appendHeader(dst, &prefix, e.Seq, len(e.Ciphertext)-tagSize), e.Ciphertext...)
}

func envelopePrefix(kid Kid) (p [prefixLen]byte) {
	copy(p[:], envelopeStart)
	copy(p[len(envelopeStart):], kid[:])
	p[prefixLen-1] = 0x06
	return p
}

// pivLen is the number of bytes of a sequence number's shortest form, at least 1.
func pivLen(seq uint64) int {
	switch {
	case seq <= math.MaxUint8:
		return 1
	case seq <= math.MaxUint16:
		return 2
	case seq < 1<<24:
		return 3
	case seq <= math.MaxUint32:
		return 4
	}
	return 5
}

func envelopeLen(seq uint64, inner int) int {
	return prefixLen + 1 + pivLen(seq) + dcbor.HeadLen(uint64(inner+tagSize)) + inner + tagSize
}
