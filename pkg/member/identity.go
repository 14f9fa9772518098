package member

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sealgate/pkg/atomicfile"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Files of an identity directory.
const (
	KeyFile    = "identity.key"
	CertFile   = "identity.crt"
	CAFile     = "ca.crt"
	PolicyFile = policyFile
	TopicFile  = "topic.key" // of keepers of groups that hide their topics
)

// maxFile bounds what is read of an identity directory's files.
const maxFile = 2 << 20

// LoadIdentity reads the directory that `sealctl fleet add` made, or one like it with files from
// another PKI: the member's key, its certificate with the intermediates after it, the fleet's CA, and the policy it was
// enrolled with (nil if there is none). A private key that others may read is refused, and so is a certificate that does not
// fit the key, is of another CA, or is not valid now. Every error is one line that names the file and says what to do.
func LoadIdentity(dir string) (*crypto.Identity, *crypto.Trust, *policy.Signed, error) {
	b, id, trust, err := load(dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	if b.policy == nil {
		return id, trust, nil, nil
	}
	signed, err := policy.Verify(trust, b.policy, now(id))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity %s: %s: %w; copy the fleet's newest %s here, or remove the file to wait for the broker's",
			dir, PolicyFile, err, PolicyFile)
	}
	return id, trust, signed, nil
}

// LoadTopicSecret reads the topic secret in an identity directory, nil if there is none: 64 hexadecimal digits, in a file that
// others must not read.
func LoadTopicSecret(dir string) (*crypto.TopicSecret, error) {
	path := filepath.Join(dir, TopicFile)
	text, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var s *crypto.TopicSecret
	if err == nil {
		err = checkPrivate(path)
	}
	if err == nil {
		s, err = parseTopicSecret(text)
	}
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	return s, nil
}

func parseTopicSecret(text []byte) (*crypto.TopicSecret, error) {
	b, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err == nil {
		defer clear(b)
		var s *crypto.TopicSecret
		if s, err = crypto.TopicSecretFrom(b); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s does not hold 64 hexadecimal digits: copy the one of the fleet's directory", TopicFile)
}

// WriteTopicSecret writes what [LoadTopicSecret] reads.
func WriteTopicSecret(path string, s *crypto.TopicSecret) error {
	b := s.Bytes()
	defer clear(b)
	return atomicfile.Write(path, append([]byte(hex.EncodeToString(b)), '\n'), 0o600)
}

// LoadSigner is LoadIdentity for one who signs the policy and so does not go by the one that
// lies in the directory.
func LoadSigner(dir string) (*crypto.Identity, *crypto.Trust, error) {
	_, id, trust, err := load(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("identity %s: %w", dir, err)
	}
	return id, trust, nil
}

func load(dir string) (b bundle, id *crypto.Identity, trust *crypto.Trust, err error) {
	if b, err = readIdentity(dir); err != nil {
		return b, nil, nil, err
	}
	if err := b.checkValidity(newClock(time.Time{})().Wall); err != nil {
		return b, nil, nil, err
	}
	if id, err = crypto.ParseIdentity(b.key, b.cert, b.ca); err != nil {
		return b, nil, nil, err
	}
	trust, err = crypto.NewTrust(id.Member().Fleet, b.ca)
	return b, id, trust, err
}

// now is the machine's clock, as far as it can be believed: that id was issued shows that its time has come, whatever the
// clock of a router without a battery says.
func now(id *crypto.Identity) time.Time { return newClock(id.NotBefore())().Wall }

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

// checkValidity holds every certificate against the clock: a message is refused by others for any of them. A clock from
// before their time is wrong, and says nothing.
func (b *bundle) checkValidity(now time.Time) error {
	for _, f := range []struct {
		name string
		pem  []byte
	}{{CertFile, b.cert}, {CAFile, b.ca}} {
		certs, err := certificates(f.pem)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for i, cert := range certs {
			what := f.name
			if i > 0 {
				what = fmt.Sprintf("certificate %d of %s (%s)", i+1, f.name, cert.Subject)
			}
			if now.After(cert.NotAfter) {
				return fmt.Errorf("%s expired on %s; renew it: with `sealctl fleet add` under a new name, or in your own PKI", what, day(cert.NotAfter))
			}
		}
	}
	return nil
}

// certificates reads the blocks of a PEM file, at most those that crypto.ParseIdentity takes.
func certificates(b []byte) (certs []*x509.Certificate, err error) {
	for range crypto.MaxChain {
		var block *pem.Block
		block, b = pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block %.40q in it; want CERTIFICATE only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it; want PEM (-----BEGIN CERTIFICATE-----)")
	}
	return certs, nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
