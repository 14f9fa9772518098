package member

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Files of an identity directory.
const (
	KeyFile    = "identity.key"
	CertFile   = "identity.crt"
	CAFile     = "ca.crt"
	PolicyFile = policyFile
)

// maxFile bounds what is read of an identity directory's files.
const maxFile = 2 << 20

// LoadIdentity reads the directory that `sealctl fleet add` made: the member's key, its
// certificate, the fleet's CA, and the policy it was enrolled with (nil if there is none). A
// private key that others may read is refused, and so is a certificate that does not fit the key,
// is of another CA, or is not valid now. Every error is one line that names the file and says what to do.
func LoadIdentity(dir string) (*crypto.Identity, *crypto.Trust, *policy.Signed, error) {
	b, err := readIdentity(dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	now := newClock(time.Time{})().Wall
	if err := b.checkValidity(now); err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	id, err := crypto.ParseIdentity(b.key, b.cert, b.ca)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	trust, err := crypto.NewTrust(id.Member().Fleet, b.ca)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	if b.policy == nil {
		return id, trust, nil, nil
	}
	signed, err := policy.Verify(trust, b.policy, now)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %s: %w; copy the fleet's newest %s here, or remove the file to wait for the broker's",
			dir, PolicyFile, err, PolicyFile)
	}
	return id, trust, signed, nil
}

// bundle is the contents of an identity directory.
type bundle struct{ key, cert, ca, policy []byte }

func readIdentity(dir string) (b bundle, err error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, errors.New("there is no such directory; name the one that `sealctl fleet add` made")
	case err == nil && !info.IsDir():
		return b, errors.New("not a directory; name the one that `sealctl fleet add` made")
	}
	for _, f := range []struct {
		name     string
		to       *[]byte
		optional bool
	}{{KeyFile, &b.key, false}, {CertFile, &b.cert, false}, {CAFile, &b.ca, false}, {PolicyFile, &b.policy, true}} {
		*f.to, err = readBounded(filepath.Join(dir, f.name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && f.optional:
		case errors.Is(err, fs.ErrNotExist):
			return b, fmt.Errorf("%s is missing; copy the whole directory that `sealctl fleet add` made", f.name)
		case err != nil:
			return b, err
		}
	}
	return b, checkPrivate(filepath.Join(dir, KeyFile))
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; that is not a file of an identity", filepath.Base(path), info.Size())
	}
	return os.ReadFile(path)
}

// checkPrivate refuses a key file that others than its owner may read or change.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s may be read by others (mode %04o); run: chmod 600 %s", filepath.Base(path), mode, path)
	}
	return nil
}

func (b *bundle) checkValidity(now time.Time) error {
	cert, err := firstCertificate(b.cert)
	if err != nil {
		return fmt.Errorf("%s: %w", CertFile, err)
	}
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("%s is valid only from %s and this machine's clock says %s; set the clock",
			CertFile, day(cert.NotBefore), day(now))
	case now.After(cert.NotAfter):
		return fmt.Errorf("%s expired on %s; enrol the member again with `sealctl fleet add`", CertFile, day(cert.NotAfter))
	}
	return nil
}

func firstCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in it; want PEM (-----BEGIN CERTIFICATE-----)")
	}
	return x509.ParseCertificate(block.Bytes)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
