package crypto

import (
	"fmt"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// The benchmarks set sealing and opening beside the bare AEAD over the same plaintext with the
// same additional data, in the same run.

var benchSizes = []int{20, 100, 1000, 10000}

func benchStreams(tb testing.TB) (*SealStream, *OpenStream) {
	tb.Helper()
	secret, err := PayloadSecretFrom(make([]byte, SecretSize))
	if err != nil {
		tb.Fatal(err)
	}
	id := NewStreamID("gw1", [16]byte{1}, [16]byte{2}, false)
	s, err := NewSealStream(secret, "default", "plant/hall3/press7/temperature", id)
	if err != nil {
		tb.Fatal(err)
	}
	o, err := NewOpenStream(secret, "default", "plant/hall3/press7/temperature", id)
	if err != nil {
		tb.Fatal(err)
	}
	return s, o
}

func BenchmarkSeal(b *testing.B) {
	for _, n := range benchSizes {
		s, _ := benchStreams(b)
		payload, dst := make([]byte, n), make([]byte, 0, n+MaxOverhead+8)
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			nonce := make([]byte, chacha20poly1305.NonceSize)
			inner := make([]byte, InnerLen(0, n))
			for b.Loop() {
				nonce[0]++
				s.aead.Seal(dst[:0], nonce, inner, s.aad)
			}
		})
		b.Run(fmt.Sprintf("sealed/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, _, err := s.Seal(dst[:0], nil, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("recorded/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, _, err := s.SealRecorded(dst[:0], nil, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range benchSizes {
		s, o := benchStreams(b)
		sealed, _, err := s.Seal(nil, nil, make([]byte, n))
		if err != nil {
			b.Fatal(err)
		}
		e, err := ParseEnvelope(sealed)
		if err != nil {
			b.Fatal(err)
		}
		dst := make([]byte, 0, n+MaxOverhead)
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			nonce := append([]byte(nil), o.at(0)...)
			for b.Loop() {
				if _, err := o.aead.Open(dst[:0], nonce, e.Ciphertext, o.aad); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("sealed/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				e, err := ParseEnvelope(sealed)
				if err != nil {
					b.Fatal(err)
				}
				out, err := o.Open(dst[:0], &e)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := SplitInner(out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewSealStream(b *testing.B) {
	secret, err := PayloadSecretFrom(make([]byte, SecretSize))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := NewSealStream(secret, "default", "plant/hall3/press7/temperature", StreamID{}); err != nil {
			b.Fatal(err)
		}
	}
}
