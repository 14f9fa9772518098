package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/strictoml"
)

// Files of the identity directory, as `sealctl fleet add` names them.
const (
	identityKey  = "identity.key"
	identityCert = "identity.crt"
	identityCA   = "ca.crt"
)

// Reads are the directories of the files that the configuration names, and of itself: a file that is replaced is a new one in the same
// directory. The identity's is among them.
func (c *Config) Reads() []string {
	dirs := []string{c.Identity}
	for _, file := range []string{c.File, c.Uplink.CA, c.Uplink.Cert, c.Uplink.Key, c.Control.CA, c.Control.Cert, c.Control.Key, c.Control.PasswordFile} {
		if file != "" {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	return dirs
}

// CheckFiles checks that the files and directories that the configuration names are there,
// readable and of the kind they should be, as far as the given roles use them. It reads no
// private key of the identity. The error is a [strictoml.Problems] with all that is wrong.
func (c *Config) CheckFiles(roles ...Role) error {
	var p strictoml.Problems
	add := func(key string, err error) {
		if err != nil {
			p = append(p, strictoml.Problem{File: c.File, Key: key, Text: err.Error()})
		}
	}
	_, err := c.Member()
	add("identity", err)
	for _, r := range roles {
		switch r {
		case Gateway:
			if c.Uplink.TLS {
				add("uplink.ca", checkCA(c.Uplink.CA))
				add("uplink.cert", checkPair(c.Uplink.Cert, c.Uplink.Key))
			}
		case Controller:
			add("control.ca", checkCA(c.Control.CA))
			add("control.cert", checkPair(c.Control.Cert, c.Control.Key))
			if c.Control.PasswordFile != "" {
				_, err := c.Control.Password()
				add("control.password_file", err)
			}
			add("state", checkStateDir(c.State))
		}
	}
	if len(p) == 0 {
		return nil
	}
	return p
}

// Member reads who this machine is from the certificate in the identity directory. The
// private key is not touched: gatewayd may not be able to read it, and need not.
func (c *Config) Member() (crypto.Member, error) {
	info, err := os.Stat(c.Identity)
	switch {
	case err != nil:
		return crypto.Member{}, fmt.Errorf("%s: %w; name the directory that `sealctl fleet add` made", c.Identity, unwrap(err))
	case !info.IsDir():
		return crypto.Member{}, fmt.Errorf("%s is not a directory; name the one that `sealctl fleet add` made", c.Identity)
	}
	if _, err := certificate(filepath.Join(c.Identity, identityCA)); err != nil {
		return crypto.Member{}, err
	}
	cert, err := certificate(filepath.Join(c.Identity, identityCert))
	if err != nil {
		return crypto.Member{}, err
	}
	key := filepath.Join(c.Identity, identityKey)
	if info, err := os.Stat(key); err == nil && info.Mode().Perm()&0o077 != 0 {
		return crypto.Member{}, fmt.Errorf("%s may be read by others (mode %04o); run: chmod 600 %s", key, info.Mode().Perm(), key)
	}
	m, err := memberOf(cert)
	if err != nil {
		return crypto.Member{}, fmt.Errorf("%s: %w", filepath.Join(c.Identity, identityCert), err)
	}
	if m.Fleet != c.Fleet {
		return crypto.Member{}, fmt.Errorf("%s belongs to fleet %q, but fleet = %q: correct one of them", c.Identity, m.Fleet, c.Fleet)
	}
	return m, nil
}

// memberOf reads the one URI of a member's certificate, sealgate:<fleet>/<role>/<name>.
// Whether the certificate is genuine is decided where signatures are.
func memberOf(cert *x509.Certificate) (crypto.Member, error) {
	if len(cert.URIs) == 1 {
		rest, ok := strings.CutPrefix(cert.URIs[0].String(), "sealgate:")
		if part := strings.Split(rest, "/"); ok && len(part) == 3 && crypto.Role(part[1]).Valid() && crypto.ValidName(part[2]) {
			return crypto.Member{Fleet: part[0], Role: crypto.Role(part[1]), Name: part[2]}, nil
		}
	}
	return crypto.Member{}, errors.New("not a member's certificate: it has no single URI sealgate:<fleet>/<role>/<name>; use the one that `sealctl fleet add` made")
}

func certificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; copy the whole directory that `sealctl fleet add` made", path, unwrap(err))
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no certificate in it; PEM (-----BEGIN CERTIFICATE-----) is needed", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// Password reads the password for the control broker: the first line of its file; empty if
// no file is set.
func (c *Control) Password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.PasswordFile, unwrap(err))
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func checkCA(path string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w; name the PEM file of the CA that signed the broker's certificate", path, unwrap(err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return fmt.Errorf("%s: no certificate in it; PEM (-----BEGIN CERTIFICATE-----) is needed", path)
	}
	return nil
}

func checkPair(cert, key string) error {
	if cert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s with key %s: %w", cert, key, unwrap(err))
	}
	if pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("%s expired on %s: renew it", cert, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}

// checkStateDir accepts a directory that is missing: it is made at start.
func checkStateDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", path, unwrap(err))
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	}
	return nil
}

// unwrap is the reason alone: the message names the path.
func unwrap(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
