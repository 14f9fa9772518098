package enrol

import (
	gocrypto "crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"sealgate/pkg/dcbor"
)

// proven is what a joiner signs with its new key (spec 4.2): that it has the private key, for this ticket and this
// request only.
func proven(a Anchor, r *Request, reply []byte) []byte {
	b := dcbor.AppendBytes(dcbor.AppendText(dcbor.AppendArray(nil, 5), labelProof), a[:])
	b = dcbor.AppendBytes(dcbor.AppendBytes(b, r.Ticket[:]), r.Inbox[:])
	return dcbor.AppendBytes(b, reply)
}

func prove(signer gocrypto.Signer, text []byte) ([]byte, error) {
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		return signer.Sign(rand.Reader, text, gocrypto.Hash(0))
	}
	sum := sha256.Sum256(text)
	return signer.Sign(rand.Reader, sum[:], gocrypto.SHA256)
}

var errProof = errors.New("the request's proof does not verify: the joiner does not have the key that it names")

// verifyProof returns the key of a body whose proof is right.
func verifyProof(body *RequestBody, text []byte) (gocrypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(body.Key)
	if err != nil {
		return nil, fmt.Errorf("the joiner's key: %w", err)
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if !ed25519.Verify(k, text, body.Proof) {
			return nil, errProof
		}
		return pub, nil
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		if k.Curve != elliptic.P256() || !ecdsa.VerifyASN1(k, sum[:], body.Proof) {
			return nil, errProof
		}
		return pub, nil
	}
	return nil, fmt.Errorf("the joiner's key is a %T: only Ed25519 and ECDSA P-256 sign messages", pub)
}
