package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// PKI is a works' own certificate hierarchy: a root that certifies an intermediate for each member.
type PKI struct {
	Root []byte // certificate, PEM
	cert *x509.Certificate
	key  crypto.Signer
}

// NewPKI makes a hierarchy with a root on P-384, which no member could have.
func NewPKI(t T) *PKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	root := caTemplate(t, "Works Root CA", time.Now().AddDate(10, 0, 0))
	p := &PKI{key: key}
	p.cert = p.certify(t, root, root, key.Public(), key)
	p.Root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
	return p
}

// PKIOf is a hierarchy below a CA that exists, PEM.
func PKIOf(t T, keyPEM, certPEM []byte) *PKI {
	t.Helper()
	keyBlock, _ := pem.Decode(keyPEM)
	certBlock, _ := pem.Decode(certPEM)
	if keyBlock == nil || certBlock == nil {
		t.Fatalf("a CA that is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatalf("read the CA's key: %v", err)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		t.Fatalf("read the CA's certificate: %v", err)
	}
	return &PKI{Root: certPEM, cert: cert, key: key.(crypto.Signer)}
}

func caTemplate(t T, name string, end time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

func (p *PKI) certify(t T, c, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	if err != nil {
		t.Fatalf("certify %s: %v", c.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("certify %s: %v", c.Subject, err)
	}
	return cert
}

// Certify certifies a member's key, under an intermediate "Devices CA". The certificate bears the URI uri and is valid until
// end, the intermediate until middleEnd. It returns the member's certificate and the intermediate.
func (p *PKI) Certify(t T, pub crypto.PublicKey, uri string, end, middleEnd time.Time) (leaf, middle *x509.Certificate) {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatalf("%v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	middle = p.certify(t, caTemplate(t, "Devices CA", middleEnd), p.cert, key.Public(), p.key)
	leaf = p.certify(t, &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: "member"}, NotBefore: time.Now().AddDate(0, 0, -2),
		NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{u}}, middle, pub, key)
	return leaf, middle
}

// Enrol makes a P-256 key, has it certified, and writes identity.key, identity.crt and ca.crt into dir.
func (p *PKI) Enrol(t T, dir, uri string, end, middleEnd time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	leaf, middle := p.Certify(t, key.Public(), uri, end, middleEnd)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encode a key: %v", err)
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: middle.Raw})...)
	for name, b := range map[string][]byte{"identity.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "identity.crt": chain, "ca.crt": p.Root} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
	}
}
