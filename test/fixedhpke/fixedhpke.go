// Package fixedhpke seals by HPKE with randomness that the caller gives, so that test vectors come out the
// same each time. The standard library does not let anybody choose it, with good reason: this
// package is for test vectors only. It is the sender of RFC 9180 in base mode with KEM MLKEM768-X25519,
// HKDF-SHA256 and ChaCha20Poly1305, once more by hand; crypto/hpke opens what it seals.
package fixedhpke

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// RandomSize is how many bytes of randomness a message takes: 32 for ML-KEM, then an
// ephemeral X25519 private key.
const RandomSize = 64

// suite is "HPKE", then the numbers of KEM, KDF and AEAD.
const suite = "HPKE\x64\x7a\x00\x01\x00\x03"

// Seal seals plaintext to a public key of 1216 bytes: the encapsulated key, then the ciphertext.
func Seal(public, random, info, aad, plaintext []byte) ([]byte, error) {
	shared, enc, err := encapsulate(public, random)
	if err != nil {
		return nil, err
	}
	context := slices.Concat([]byte{0}, extract(nil, "psk_id_hash", nil), extract(nil, "info_hash", info))
	secret := extract(shared, "secret", nil)
	aead, err := chacha20poly1305.New(expand(secret, "key", context, chacha20poly1305.KeySize))
	if err != nil {
		return nil, err
	}
	return aead.Seal(enc, expand(secret, "base_nonce", context, chacha20poly1305.NonceSize), plaintext, aad), nil
}

func encapsulate(public, random []byte) (shared, enc []byte, err error) {
	ek, err := mlkem.NewEncapsulationKey768(public[:mlkem.EncapsulationKeySize768])
	if err != nil {
		return nil, nil, err
	}
	peer, err := ecdh.X25519().NewPublicKey(public[mlkem.EncapsulationKeySize768:])
	if err != nil {
		return nil, nil, err
	}
	ephemeral, err := ecdh.X25519().NewPrivateKey(random[32:])
	if err != nil {
		return nil, nil, err
	}
	ssM, ctM, err := mlkemtest.Encapsulate768(ek, random[:32])
	if err != nil {
		return nil, nil, err
	}
	ssX, err := ephemeral.ECDH(peer)
	if err != nil {
		return nil, nil, err
	}
	ctX := ephemeral.PublicKey().Bytes()
	sum := sha3.Sum256(slices.Concat(ssM, ssX, ctX, peer.Bytes(), []byte(`\.//^\`)))
	return sum[:], slices.Concat(ctM, ctX), nil
}

func extract(salt []byte, label string, ikm []byte) []byte {
	prk, err := hkdf.Extract(sha256.New, slices.Concat([]byte("HPKE-v1"+suite+label), ikm), salt)
	if err != nil {
		panic(err) // HKDF-Extract has no bounds to break
	}
	return prk
}

func expand(prk []byte, label string, info []byte, length int) []byte {
	full := binary.BigEndian.AppendUint16(nil, uint16(length))
	full = slices.Concat(full, []byte("HPKE-v1"+suite+label), info)
	out, err := hkdf.Expand(sha256.New, prk, string(full), length)
	if err != nil {
		panic(err) // length is one of this file's constants
	}
	return out
}
