package crypto

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/url"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/dcbor"
	"sealgate/test/spec"
)

// sign1Vector is a signed message and what a receiver of fleet that trusts ca makes of it at now.
type sign1Vector struct {
	Comment string      `json:"comment"`
	Spec    string      `json:"spec"`
	Expect  string      `json:"expect"` // ok | parse | chain | signature
	Fleet   string      `json:"fleet"`
	CA      octets      `json:"ca"` // DER
	Now     time.Time   `json:"now"`
	Type    string      `json:"type"`
	Policy  bool        `json:"policy,omitempty"` // only the CA and operators may sign it
	Message octets      `json:"message"`
	Payload octets      `json:"payload,omitempty"`
	Member  *memberJSON `json:"member,omitempty"`
}

type memberJSON struct {
	Role     Role   `json:"role"`
	Name     string `json:"name"`
	CertHash octets `json:"cert_hash"`
}

var vectorNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// deterministic is a signer whose ECDSA signatures are those of RFC 6979.
type deterministic struct{ crypto.Signer }

func (d deterministic) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return d.Signer.Sign(nil, digest, opts)
}

func edKey(first byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seq32(first)) }

func ecKey(t *testing.T, curve elliptic.Curve, first byte) deterministic {
	t.Helper()
	raw := make([]byte, (curve.Params().BitSize+7)/8)
	copy(raw[len(raw)-32:], seq32(first))
	return deterministic{must(ecdsa.ParseRawPrivateKey(curve, raw))(t)}
}

// testCert makes a certificate of template's deviations from a sound one.
func testCert(t *testing.T, signer crypto.Signer, pub crypto.PublicKey, parent *x509.Certificate, uris []string, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: vectorNow.AddDate(0, -5, 0), NotAfter: vectorNow.AddDate(5, 0, 0),
		Subject: pkix.Name{CommonName: "member"}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, u := range uris {
		c.URIs = append(c.URIs, must(url.Parse(u))(t))
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent = c
	}
	der := must(x509.CreateCertificate(rand.Reader, c, parent, pub, signer))(t)
	return must(x509.ParseCertificate(der))(t)
}

func asCA(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid = name, true, true
		c.KeyUsage |= x509.KeyUsageCertSign
		c.NotAfter = vectorNow.AddDate(10, 0, 0)
	}
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// rawSign1 is a message in parts, each of which a test can replace.
type rawSign1 struct {
	head, protected, unprotected, payload, tail []byte
	fleet, typ                                  string
	sign                                        func(tbs []byte) []byte
}

func (r *rawSign1) encode() []byte {
	sig := r.sign(sigStructure(r.protected, r.fleet, r.typ, r.payload))
	b := dcbor.AppendBytes(slices.Clone(r.head), r.protected)
	b = dcbor.AppendBytes(append(b, r.unprotected...), r.payload)
	return append(dcbor.AppendBytes(b, sig), r.tail...)
}

func chainHeader(chain ...*x509.Certificate) []byte {
	b := dcbor.AppendUint(dcbor.AppendMap(nil, 1), labelChain)
	if len(chain) > 1 {
		b = dcbor.AppendArray(b, len(chain))
	}
	for _, c := range chain {
		b = dcbor.AppendBytes(b, c.Raw)
	}
	return b
}

func rawOf(key ed25519.PrivateKey, chain ...*x509.Certificate) *rawSign1 {
	return &rawSign1{
		head: []byte{0xd2, 0x84}, protected: encodeProtected(algEdDSA, sha256.Sum256(chain[0].Raw)),
		unprotected: chainHeader(chain...), payload: []byte("\x82\x01\x65hello"), fleet: "plant", typ: "hello",
		sign: func(tbs []byte) []byte { return ed25519.Sign(key, tbs) },
	}
}

// pki is the certificates that the vectors and the identity tests share.
type pki struct {
	caKey, midKey, gwKey      ed25519.PrivateKey
	ecGateway                 deterministic
	ca, mid, gw, ecGW, midGW  *x509.Certificate
	operator, keeper, otherCA *x509.Certificate
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{caKey: edKey(0x10), midKey: edKey(0x11), gwKey: edKey(0x12), ecGateway: ecKey(t, elliptic.P256(), 0x13)}
	gw := []string{MemberURI("plant", RoleGateway, "gw1")}
	p.ca = testCert(t, p.caKey, p.caKey.Public(), nil, nil, asCA("plant"))
	p.otherCA = testCert(t, edKey(0x20), edKey(0x20).Public(), nil, nil, asCA("plant"))
	p.mid = testCert(t, p.caKey, p.midKey.Public(), p.ca, nil, asCA("works"))
	p.gw = testCert(t, p.caKey, p.gwKey.Public(), p.ca, gw, nil)
	p.midGW = testCert(t, p.midKey, p.gwKey.Public(), p.mid, gw, nil)
	p.ecGW = testCert(t, p.caKey, p.ecGateway.Public(), p.ca, []string{MemberURI("plant", RoleGateway, "gw2")}, nil)
	p.operator = testCert(t, p.caKey, p.gwKey.Public(), p.ca, []string{MemberURI("plant", RoleOperator, "alice")}, nil)
	p.keeper = testCert(t, p.caKey, p.gwKey.Public(), p.ca, []string{MemberURI("plant", RoleKeeper, "server")}, nil)
	return p
}

func sign1Vectors(t *testing.T) map[string]any {
	p, all := newPKI(t), make(map[string]any)
	add := func(name, class, spec, comment string, msg []byte, change func(*sign1Vector)) {
		v := &sign1Vector{Comment: comment, Spec: spec, Expect: class, Fleet: "plant", CA: p.ca.Raw, Now: vectorNow, Type: "hello", Message: msg}
		if change != nil {
			change(v)
		}
		if class == "ok" && v.Member == nil {
			v.Member = &memberJSON{Role: RoleGateway, Name: "gw1", CertHash: digest(p.gw.Raw)}
		}
		if class == "ok" {
			v.Payload = octets("\x82\x01\x65hello")
		}
		if all[class+"-"+name] != nil {
			t.Fatalf("two vectors %s-%s", class, name)
		}
		all[class+"-"+name] = v
	}
	p.okVectors(t, add)
	p.parseVectors(add)
	p.chainVectors(t, add)
	p.signatureVectors(t, add)
	return all
}

type addSign1 func(name, class, spec, comment string, msg []byte, change func(*sign1Vector))

func (p *pki) okVectors(t *testing.T, add addSign1) {
	member := func(role Role, name string, c *x509.Certificate) func(*sign1Vector) {
		return func(v *sign1Vector) {
			v.Member = &memberJSON{Role: role, Name: name, CertHash: digest(c.Raw)}
			v.Policy = role == RoleOperator || role == RoleAuthority
		}
	}
	ec := must(NewIdentity(p.ecGateway, p.ecGW))(t)
	payload := []byte("\x82\x01\x65hello")
	add("ed25519", "ok", "12.2", "Ed25519", rawOf(p.gwKey, p.gw).encode(), nil)
	add("es256", "ok", "12.2", "ECDSA P-256", must(ec.Sign(payload, "hello"))(t), member(RoleGateway, "gw2", p.ecGW))
	add("intermediate", "ok", "12.4", "an intermediate CA between member and fleet CA", rawOf(p.gwKey, p.midGW, p.mid).encode(), member(RoleGateway, "gw1", p.midGW))
	add("keeper", "ok", "12.1", "another role", rawOf(p.gwKey, p.keeper).encode(), member(RoleKeeper, "server", p.keeper))
	add("policy-authority", "ok", "12.4", "a policy, signed by the CA itself", rawOf(p.caKey, p.ca).encode(), member(RoleAuthority, "ca", p.ca))
	add("policy-operator", "ok", "12.4", "a policy, signed by an operator", rawOf(p.gwKey, p.operator).encode(), member(RoleOperator, "alice", p.operator))
}

func (p *pki) parseVectors(add addSign1) {
	bad := func(name, comment string, change func(r *rawSign1)) {
		r := rawOf(p.gwKey, p.gw)
		change(r)
		add(name, "parse", "12.2", comment, r.encode(), nil)
	}
	hash := sha256.Sum256(p.gw.Raw)
	x5t := func(alg int64, h []byte) []byte {
		return dcbor.AppendBytes(dcbor.AppendInt(dcbor.AppendArray([]byte{0x18, 34}, 2), alg), h)
	}
	bad("untagged", "tag 18 is missing", func(r *rawSign1) { r.head = []byte{0x84} })
	bad("tag-long", "tag 18 in two bytes", func(r *rawSign1) { r.head = []byte{0xd8, 0x12, 0x84} })
	bad("tag-98", "tag 98 (COSE_Sign)", func(r *rawSign1) { r.head = []byte{0xd8, 98, 0x84} })
	bad("indefinite", "array of indefinite length", func(r *rawSign1) { r.head, r.tail = []byte{0xd2, 0x9f}, []byte{0xff} })
	bad("trailing", "a byte follows", func(r *rawSign1) { r.tail = []byte{0} })
	bad("protected-order", "x5t before alg", func(r *rawSign1) {
		r.protected = slices.Concat([]byte{0xa2}, x5t(algSHA256, hash[:]), []byte{0x01, 0x27})
	})
	bad("protected-no-x5t", "no certificate hash", func(r *rawSign1) { r.protected = []byte{0xa1, 0x01, 0x27} })
	bad("protected-extra", "a third label (content type)", func(r *rawSign1) {
		r.protected = slices.Concat([]byte{0xa3, 0x01, 0x27, 0x03, 0x00}, x5t(algSHA256, hash[:]))
	})
	bad("alg-es384", "algorithm -35 (ES384)", func(r *rawSign1) { r.protected = encodeProtected(-35, hash) })
	bad("x5t-sha512", "certificate hash by SHA-512", func(r *rawSign1) {
		r.protected = slices.Concat([]byte{0xa2, 0x01, 0x27}, x5t(-44, hash[:]))
	})
	bad("x5t-short", "certificate hash of 31 bytes", func(r *rawSign1) {
		r.protected = slices.Concat([]byte{0xa2, 0x01, 0x27}, x5t(algSHA256, hash[:31]))
	})
	bad("unprotected-empty", "no certificates", func(r *rawSign1) { r.unprotected = []byte{0xa0} })
	bad("unprotected-extra", "a second label (kid)", func(r *rawSign1) {
		r.unprotected = slices.Concat([]byte{0xa2, 0x04, 0x41, 0x01}, r.unprotected[1:])
	})
	bad("chain-of-one", "an array of one certificate", func(r *rawSign1) {
		r.unprotected = slices.Concat(r.unprotected[:3], []byte{0x81}, r.unprotected[3:])
	})
	bad("chain-of-five", "more than 4 certificates", func(r *rawSign1) { r.unprotected = chainHeader(p.gw, p.mid, p.mid, p.mid, p.mid) })
	bad("signature-63", "a signature of 63 bytes", func(r *rawSign1) { r.sign = func([]byte) []byte { return make([]byte, 63) } })
	bad("signature-65", "a signature of 65 bytes", func(r *rawSign1) { r.sign = func([]byte) []byte { return make([]byte, 65) } })
}

func (p *pki) chainVectors(t *testing.T, add addSign1) {
	bad := func(name, spec, comment string, msg []byte, change func(*sign1Vector)) {
		add(name, "chain", spec, comment, msg, change)
	}
	gw := MemberURI("plant", RoleGateway, "gw1")
	leaf := func(name, comment string, uris []string, change func(*x509.Certificate)) {
		bad(name, "12.1", comment, rawOf(p.gwKey, testCert(t, p.caKey, p.gwKey.Public(), p.ca, uris, change)).encode(), nil)
	}
	leaf("uri-none", "no URI", nil, nil)
	leaf("uri-two", "two URIs", []string{gw, MemberURI("plant", RoleGateway, "gw2")}, nil)
	leaf("uri-scheme", "another scheme", []string{"spiffe://plant/gateway/gw1"}, nil)
	leaf("uri-role", "a role that does not exist", []string{MemberURI("plant", "admin", "gw1")}, nil)
	leaf("uri-authority", "the authority's role in a member's certificate", []string{MemberURI("plant", RoleAuthority, "ca")}, nil)
	leaf("uri-name", "an upper-case name", []string{MemberURI("plant", RoleGateway, "GW1")}, nil)
	leaf("uri-long", "a name of 64 bytes", []string{MemberURI("plant", RoleGateway, string(bytes.Repeat([]byte("a"), 64)))}, nil)
	leaf("uri-parts", "a fourth part", []string{gw + "/x"}, nil)
	leaf("uri-fleet", "a member of another fleet under the same CA", []string{MemberURI("other", RoleGateway, "gw1")}, nil)
	leaf("is-ca", "a CA's certificate with a member's URI", []string{gw}, asCA("gw1"))
	leaf("key-usage", "no digitalSignature", []string{gw}, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	leaf("expired", "expired the day before", []string{gw}, func(c *x509.Certificate) { c.NotAfter = vectorNow.AddDate(0, 0, -1) })
	leaf("not-yet", "valid from the day after", []string{gw}, func(c *x509.Certificate) { c.NotBefore = vectorNow.AddDate(0, 0, 1) })
	bad("other-ca", "12.4", "another CA with the same name", rawOf(p.gwKey, p.gw).encode(), func(v *sign1Vector) { v.CA = p.otherCA.Raw })
	bad("x5t", "12.4", "the hash is of another certificate", func() []byte {
		r := rawOf(p.gwKey, p.gw)
		r.protected = encodeProtected(algEdDSA, sha256.Sum256(p.keeper.Raw))
		return r.encode()
	}(), nil)
	bad("not-der", "12.4", "not a certificate", func() []byte {
		r := rawOf(p.gwKey, p.gw)
		r.protected = encodeProtected(algEdDSA, sha256.Sum256([]byte("x")))
		r.unprotected = []byte{0xa1, 0x18, 33, 0x41, 'x'}
		return r.encode()
	}(), nil)
	bad("no-intermediate", "12.4", "the intermediate is missing", rawOf(p.gwKey, p.midGW).encode(), nil)
	bad("superfluous", "12.4", "an intermediate that is not needed", rawOf(p.gwKey, p.gw, p.mid).encode(), nil)
	bad("with-ca", "12.4", "the CA's certificate in the chain", rawOf(p.gwKey, p.gw, p.ca).encode(), nil)
	bad("ca-as-member", "12.4", "the CA signs a message that is no policy", rawOf(p.caKey, p.ca).encode(), nil)
	bad("policy-gateway", "12.4", "a gateway signs a policy", rawOf(p.gwKey, p.gw).encode(), func(v *sign1Vector) { v.Policy = true })
	authority := rawOf(p.caKey, p.ca)
	authority.protected = encodeProtected(algEdDSA, sha256.Sum256(p.gw.Raw))
	bad("policy-x5t", "12.4", "a policy of the CA with the hash of another certificate", authority.encode(), func(v *sign1Vector) { v.Policy = true })
	p384 := ecKey(t, elliptic.P384(), 0x14)
	bad("p384", "12.2", "a key on P-384", rawOf(p.gwKey, testCert(t, p.caKey, p384.Public(), p.ca, []string{gw}, nil)).encode(), nil)
}

func (p *pki) signatureVectors(t *testing.T, add addSign1) {
	bad := func(name, spec, comment string, msg []byte, change func(*sign1Vector)) {
		add(name, "signature", spec, comment, msg, change)
	}
	good := rawOf(p.gwKey, p.gw).encode()
	bad("type", "12.3", "a message of another type", good, func(v *sign1Vector) { v.Type = "grant" })
	flipped := slices.Clone(good)
	flipped[len(flipped)-1] ^= 1
	bad("flipped", "12.3", "one bit of the signature", flipped, nil)
	payload := bytes.Replace(good, []byte("hello"), []byte("jello"), 1)
	bad("payload", "12.3", "one letter of the payload", payload, nil)
	r := rawOf(p.gwKey, p.gw)
	r.fleet = "other"
	bad("fleet", "12.3", "signed for another fleet", r.encode(), nil)
	r = rawOf(p.gwKey, p.gw)
	r.protected = encodeProtected(algES256, sha256.Sum256(p.gw.Raw))
	bad("algorithm", "12.2", "ES256 is named, the key is Ed25519", r.encode(), nil)
	ec := must(NewIdentity(p.ecGateway, p.ecGW))(t)
	high := must(ec.Sign([]byte("\x82\x01\x65hello"), "hello"))(t)
	s := new(big.Int).SetBytes(high[len(high)-32:])
	new(big.Int).Sub(hexInt(orderP256), s).FillBytes(high[len(high)-32:])
	bad("high-s", "12.2", "the other ES256 signature, s in the upper half", high, nil)
	zero := must(ec.Sign([]byte("\x82\x01\x65hello"), "hello"))(t)
	clear(zero[len(zero)-64:])
	bad("zero", "12.2", "an ES256 signature of zeros", zero, nil)
	r = rawOf(p.caKey, p.ca)
	r.sign = func([]byte) []byte { return make([]byte, 64) }
	bad("policy-authority", "12.4", "a policy that bears the CA's certificate but not its signature", r.encode(), func(v *sign1Vector) { v.Policy = true })
}

func TestVectorsSign1(t *testing.T) {
	spec.Each(t, vectorDir("sign1"), func(t *testing.T, v *sign1Vector) {
		ca := must(x509.ParseCertificate(v.CA))(t)
		trust := must(NewTrust(v.Fleet, pemOf(ca)))(t)
		verify := trust.Verify
		if v.Policy {
			verify = trust.VerifyPolicySigner
		}
		for range 2 { // the second time from the cache
			payload, from, err := verify(v.Message, v.Type, v.Now)
			class := map[string]error{"parse": ErrMessage, "chain": ErrUntrusted, "signature": ErrSignature}[v.Expect]
			if class != nil {
				if !errors.Is(err, class) || payload != nil || from != (Member{}) {
					t.Fatalf("%s: %s expected, got %x from %v, %v", v.Comment, v.Expect, payload, from, err)
				}
				continue
			}
			want := Member{Fleet: v.Fleet, Role: v.Member.Role, Name: v.Member.Name, CertHash: [32]byte(v.Member.CertHash)}
			if err != nil || !bytes.Equal(payload, v.Payload) || from != want {
				t.Fatalf("verified to %x from %v, %v", payload, from, err)
			}
		}
	})
}
