package crypto

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"sealgate/pkg/dcbor"
)

// Bounds on signed messages, spec 12.4.
const (
	MaxSigned = 1<<20 + 64<<10 // bytes of a whole message: the largest is a policy of 1 MiB
	MaxChain  = 4              // certificates beside it

	// MaxChainBytes bounds the certificates of a sender, so that every kind of message has room beside them.
	MaxChainBytes = 12 << 10
	MaxType       = 64 // bytes of a type's name

	maxCert       = 8 << 10
	signatureSize = 64
)

// COSE's numbers: RFC 9053 2.1 and 2.2, RFC 9054, RFC 9360.
const (
	tagSign1    = 18
	labelAlg    = 1
	labelChain  = 33
	labelX5T    = 34
	algES256    = -7
	algEdDSA    = -8
	algSHA256   = -16
	sign1Reason = "spec 12.2"
)

// What a receiver of signed messages tells apart. Every error of [Trust.Verify] wraps one of them.
var (
	ErrMessage   = errors.New("malformed signed message")                                                    // parse
	ErrUntrusted = errors.New("certificate refused")                                                         // chain
	ErrSignature = errors.New("the signature does not verify: forged, damaged, or of another type or fleet") // signature
)

func untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUntrusted, fmt.Sprintf(format, args...))
}

// sign1 is a parsed COSE_Sign1, all views.
type sign1 struct {
	protected []byte
	alg       int64
	hash      [32]byte // x5t
	chain     [][]byte // DER, leaf first
	payload   []byte
	signature []byte
}

// Sign signs payload as a message of type typ: a COSE_Sign1 with the certificate chain
// beside it (spec 12). typ is bound by the signature but not sent. A signer that fails is asked once more at once: a TPM wants
// that when it answers TPM_RC_RETRY, and a member that waits for a Grant cannot afford a lost answer.
func (id *Identity) Sign(payload []byte, typ string) ([]byte, error) {
	if err := checkText("type", typ, MaxType); err != nil {
		return nil, err
	}
	protected := encodeProtected(id.alg, id.member.CertHash)
	tbs := sigStructure(protected, id.member.Fleet, typ, payload)
	sig, err := id.signature(tbs)
	if err != nil {
		sig, err = id.signature(tbs)
	}
	if err != nil {
		return nil, fmt.Errorf("signing a %s message as %s: %w", typ, id.member.Name, err)
	}
	b := dcbor.AppendArray(dcbor.AppendTag(nil, tagSign1), 4)
	b = dcbor.AppendBytes(b, protected)
	b = dcbor.AppendUint(dcbor.AppendMap(b, 1), labelChain)
	if len(id.chain) > 1 {
		b = dcbor.AppendArray(b, len(id.chain))
	}
	for _, c := range id.chain {
		b = dcbor.AppendBytes(b, c.Raw)
	}
	b = dcbor.AppendBytes(dcbor.AppendBytes(b, payload), sig)
	if len(b) > MaxSigned {
		return nil, fmt.Errorf("signing a %s message: it has %d bytes, at most %d are allowed", typ, len(b), MaxSigned)
	}
	return b, nil
}

func encodeProtected(alg int64, hash [32]byte) []byte {
	p := dcbor.AppendInt(dcbor.AppendUint(dcbor.AppendMap(nil, 2), labelAlg), alg)
	p = dcbor.AppendArray(dcbor.AppendUint(p, labelX5T), 2)
	return dcbor.AppendBytes(dcbor.AppendInt(p, algSHA256), hash[:])
}

// sigStructure is what is signed, RFC 9052 4.4 and spec 12.3.
func sigStructure(protected []byte, fleet, typ string, payload []byte) []byte {
	ext := dcbor.AppendUint(dcbor.AppendArray(nil, 3), 1)
	ext = dcbor.AppendText(dcbor.AppendText(ext, fleet), typ)
	b := make([]byte, 0, len(protected)+len(ext)+len(payload)+32)
	b = dcbor.AppendText(dcbor.AppendArray(b, 4), "Signature1")
	b = dcbor.AppendBytes(dcbor.AppendBytes(b, protected), ext)
	return dcbor.AppendBytes(b, payload)
}

func (id *Identity) signature(msg []byte) ([]byte, error) {
	if id.alg == algEdDSA {
		sig, err := (*id.signer).Sign(rand.Reader, msg, crypto.Hash(0))
		if err == nil && len(sig) != signatureSize {
			err = fmt.Errorf("the signer returned %d bytes, an Ed25519 signature has %d", len(sig), signatureSize)
		}
		return sig, err
	}
	sum := sha256.Sum256(msg)
	der, err := (*id.signer).Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return rawES256(der)
}

// The order of P-256 and half of it, rounded down (FIPS 186-5, SP 800-186 3.2.1.3).
const (
	orderP256     = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"
	halfOrderP256 = "7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8"
)

func hexInt(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 16)
	return n
}

// rawES256 turns an ASN.1 signature into r and s of 32 bytes each (RFC 9053 2.1), s in the lower
// half: (r, s) and (r, order-s) verify alike, and a message should have one encoding only.
func rawES256(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		return nil, errors.New("the signer did not return an ASN.1 ECDSA signature")
	}
	order := hexInt(orderP256)
	if sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.Cmp(order) >= 0 || sig.S.Cmp(order) >= 0 {
		return nil, errors.New("the signer returned an ECDSA signature out of range")
	}
	if sig.S.Cmp(hexInt(halfOrderP256)) > 0 {
		sig.S.Sub(order, sig.S)
	}
	out := make([]byte, signatureSize)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

// parseSign1 parses exactly what Sign makes.
func parseSign1(msg []byte) (*sign1, error) {
	if len(msg) > MaxSigned {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrMessage, len(msg), MaxSigned)
	}
	var m sign1
	r := dcbor.NewReader(msg)
	r.Tag(tagSign1)
	r.ArrayExact(4)
	m.protected = r.Bytes(64)
	m.readChain(r, msg)
	m.payload = r.Bytes(MaxSigned)
	m.signature = r.Bytes(signatureSize)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w (%s): %w", ErrMessage, sign1Reason, err)
	}
	if len(m.signature) != signatureSize {
		return nil, fmt.Errorf("%w: the signature has %d bytes, not %d (%s)", ErrMessage, len(m.signature), signatureSize, sign1Reason)
	}
	p := dcbor.NewReader(m.protected)
	m.readProtected(p)
	if err := p.Done(); err != nil {
		return nil, fmt.Errorf("%w: protected header (%s): %w", ErrMessage, sign1Reason, err)
	}
	return &m, nil
}

func (m *sign1) readProtected(p *dcbor.Reader) {
	if n := p.Map(2); n != 2 {
		p.Fail(errors.New("exactly the labels 1 (alg) and 34 (x5t) are needed"))
	}
	expect(p, labelAlg)
	if m.alg = p.Int(); m.alg != algEdDSA && m.alg != algES256 {
		p.Fail(fmt.Errorf("algorithm %d: only EdDSA (-8) and ES256 (-7) are allowed", m.alg))
	}
	expect(p, labelX5T)
	p.ArrayExact(2)
	if h := p.Int(); h != algSHA256 {
		p.Fail(fmt.Errorf("certificate hash algorithm %d: only SHA-256 (-16) is allowed", h))
	}
	p.BytesExact(m.hash[:])
}

// readChain reads the unprotected header. A single certificate stands alone, not in an
// array of one (RFC 9360 2).
func (m *sign1) readChain(r *dcbor.Reader, msg []byte) {
	if n := r.Map(1); n != 1 {
		r.Fail(errors.New("the unprotected header has exactly the label 33 (x5chain)"))
	}
	expect(r, labelChain)
	n := 1
	if rest := msg[len(msg)-r.Len():]; len(rest) > 0 && rest[0]&0xe0 == 0x80 { // an array comes
		if n = r.Array(MaxChain); n < 2 {
			r.Fail(errors.New("an x5chain array has at least 2 certificates"))
		}
	}
	for i := 0; i < n && r.Err() == nil; i++ {
		m.chain = append(m.chain, r.Bytes(maxCert))
	}
}

func expect(r *dcbor.Reader, label uint64) {
	if got := r.Uint(); got != label {
		r.Fail(fmt.Errorf("label %d expected, found %d", label, got))
	}
}

// verify checks the signature of a parsed message with a key that fits m.alg.
func (m *sign1) verify(pub crypto.PublicKey, fleet, typ string) error {
	alg, err := algorithmOf(pub)
	if err != nil {
		return err
	}
	if alg != m.alg {
		return fmt.Errorf("%w (the algorithm is not the certificate's)", ErrSignature)
	}
	tbs := sigStructure(m.protected, fleet, typ, m.payload)
	if !verifyRaw(pub, tbs, m.signature) {
		return ErrSignature
	}
	return nil
}

func verifyRaw(pub crypto.PublicKey, tbs, sig []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, tbs, sig)
	case *ecdsa.PublicKey:
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		sum := sha256.Sum256(tbs)
		return s.Cmp(hexInt(halfOrderP256)) <= 0 && ecdsa.Verify(k, sum[:], r, s)
	}
	return false
}
