package config

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/test/lab"
)

// enrolled makes an identity directory and returns it.
func enrolled(t *testing.T, role crypto.Role) string {
	t.Helper()
	caKey, caCert, err := crypto.NewCA("plant", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, cert, err := crypto.IssueMember(caKey, caCert, role, "gw1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{identityKey: key, identityCert: cert, identityCA: caCert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheckFiles(t *testing.T) {
	ca := lab.NewCA(t, "x")
	client, old := ca.Issue(t, "client", time.Time{}), ca.Issue(t, "old", time.Now().Add(-time.Hour))
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("secret\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"in order", func(*Config) {}, ""},
		{"no identity", func(c *Config) { c.Identity = "/nonexistent" }, "f: identity: /nonexistent: no such file or directory; name the directory"},
		{"identity is a file", func(c *Config) { c.Identity = text }, "is not a directory"},
		{"another fleet", func(c *Config) { c.Fleet = "other" }, `belongs to fleet "plant", but fleet = "other"`},
		{"no certificate", func(c *Config) { os.Remove(filepath.Join(c.Identity, identityCert)) }, "identity.crt: no such file"},
		{"no CA", func(c *Config) { os.Remove(filepath.Join(c.Identity, identityCA)) }, "ca.crt: no such file"},
		{"CA is no certificate", func(c *Config) { os.WriteFile(filepath.Join(c.Identity, identityCA), nil, 0o600) }, "ca.crt: no certificate in it"},
		{"a broker's certificate", func(c *Config) {
			b, _ := os.ReadFile(client.CertFile)
			os.WriteFile(filepath.Join(c.Identity, identityCert), b, 0o600)
		}, "not a member's certificate"},
		{"key open to others", func(c *Config) { os.Chmod(filepath.Join(c.Identity, identityKey), 0o640) }, "may be read by others (mode 0640); run: chmod 600"},
		{"key not readable for us", func(c *Config) { os.Remove(filepath.Join(c.Identity, identityKey)) }, ""}, // gatewayd need not see it
		{"uplink CA", func(c *Config) { c.Uplink.CA = "/nonexistent.pem" }, "f: uplink.ca: /nonexistent.pem: no such file"},
		{"uplink CA without TLS", func(c *Config) { c.Uplink.TLS, c.Uplink.CA = false, "/nonexistent.pem" }, ""},
		{"uplink CA is text", func(c *Config) { c.Uplink.CA = text }, "f: uplink.ca: " + text + ": no certificate in it"},
		{"client certificate", func(c *Config) { c.Uplink.Cert, c.Uplink.Key = client.CertFile, client.KeyFile }, ""},
		{"another's key", func(c *Config) { c.Uplink.Cert, c.Uplink.Key = client.CertFile, old.KeyFile }, "f: uplink.cert:"},
		{"expired", func(c *Config) { c.Control.Cert, c.Control.Key = old.CertFile, old.KeyFile }, "expired on"},
		{"control CA", func(c *Config) { c.Control.CA = "/nonexistent.pem" }, "f: control.ca:"},
		{"password", func(c *Config) { c.Control.PasswordFile = text }, ""},
		{"no password", func(c *Config) { c.Control.PasswordFile = "/nonexistent" }, "f: control.password_file: /nonexistent: no such file"},
		{"state is a file", func(c *Config) { c.State = text }, "f: state: " + text + " is not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Config{File: "f", Fleet: "plant", Identity: enrolled(t, crypto.RoleGateway), State: "/nonexistent/state"}
			c.Uplink.TLS, c.Uplink.CA = true, ca.File
			tt.change(c)
			err := c.CheckFiles(Gateway, Controller)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestMemberAndPassword(t *testing.T) {
	c := &Config{Fleet: "plant", Identity: enrolled(t, crypto.RoleKeeper)}
	if m, err := c.Member(); err != nil || m.Role != crypto.RoleKeeper || m.Name != "gw1" || m.Fleet != "plant" {
		t.Errorf("member %v, %v", m, err)
	}
	file := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(file, []byte("pass word\r\nrest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := (&Control{PasswordFile: file}).Password(); err != nil || p != "pass word" {
		t.Errorf("password %q, %v", p, err)
	}
	if p, err := (&Control{}).Password(); err != nil || p != "" {
		t.Errorf("no password file: %q, %v", p, err)
	}
}
