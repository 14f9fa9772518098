package member_test

import (
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/test/lab"
)

// fleet is a fleet made in memory.
type fleet struct {
	t             *testing.T
	name          string
	caKey, caCert []byte
	trust         *crypto.Trust
}

func newFleet(t *testing.T, name string) *fleet {
	t.Helper()
	f := &fleet{t: t, name: name}
	var err error
	if f.caKey, f.caCert, err = crypto.NewCA(name, rand.Reader, time.Now().AddDate(-8, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if f.trust, err = crypto.NewTrust(name, f.caCert); err != nil {
		t.Fatal(err)
	}
	return f
}

// policy signs a version with group plant kept by gw1.
func (f *fleet) policy(version uint64) *policy.Signed {
	f.t.Helper()
	g := policy.DefaultGroup("plant")
	g.Topics, g.Keepers, g.ActivateAfter = []string{"plant/#"}, []string{"gw1"}, 0
	doc := &policy.Document{Fleet: f.name, Version: version, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}
	authority, err := crypto.ParseAuthority(f.caKey, f.caCert)
	if err != nil {
		f.t.Fatal(err)
	}
	raw, err := doc.Sign(authority)
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := policy.Verify(f.trust, raw, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// issue returns a member's key and certificate, issued at the given time.
func (f *fleet) issue(role crypto.Role, name string, at time.Time) (key, cert []byte) {
	f.t.Helper()
	key, cert, err := crypto.IssueMember(f.caKey, f.caCert, role, name, rand.Reader, at)
	if err != nil {
		f.t.Fatal(err)
	}
	return key, cert
}

// directory writes an identity directory.
func (f *fleet) directory(role crypto.Role, name string, at time.Time) string {
	f.t.Helper()
	dir := f.t.TempDir()
	key, cert := f.issue(role, name, at)
	for file, b := range map[string][]byte{member.KeyFile: key, member.CertFile: cert, member.CAFile: f.caCert, member.PolicyFile: f.policy(1).Raw} {
		write(f.t, filepath.Join(dir, file), b)
	}
	return dir
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadIdentity(t *testing.T) {
	f := newFleet(t, "f")
	id, trust, signed, err := member.LoadIdentity(f.directory(crypto.RoleGateway, "gw1", time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if m := id.Member(); m.Name != "gw1" || m.Role != crypto.RoleGateway || m.Fleet != "f" || trust.Fleet() != "f" || signed.Document.Version != 1 {
		t.Errorf("got %+v of %s, policy %d", m, trust.Fleet(), signed.Document.Version)
	}
}

func TestLoadIdentityWithoutPolicy(t *testing.T) {
	dir := newFleet(t, "f").directory(crypto.RoleGateway, "gw1", time.Now())
	os.Remove(filepath.Join(dir, member.PolicyFile))
	if _, _, signed, err := member.LoadIdentity(dir); err != nil || signed != nil {
		t.Errorf("got %v, %v", signed, err)
	}
}

// A router without a battery starts in the past. That its identity has been issued shows better what time it is, and
// the member goes by that.
func TestClockBehindTheIdentity(t *testing.T) {
	f := newFleet(t, "f")
	issued := time.Now().AddDate(0, 1, 0)
	id, trust, signed, err := member.LoadIdentity(f.directory(crypto.RoleGateway, "gw1", issued))
	if err != nil || signed == nil {
		t.Fatalf("policy %v, %v", signed, err)
	}
	m, err := member.Start(t.Context(), member.Config{
		Identity: id, Trust: trust, Policy: signed, Broker: []string{"mqtt://127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if now := m.Now().Wall; now.Before(id.NotBefore()) {
		t.Errorf("the member believes that it is %v, before its identity's %v", now, id.NotBefore())
	}
}

func TestLoadIdentityRefuses(t *testing.T) {
	f, other := newFleet(t, "f"), newFleet(t, "other")
	otherKey, otherCert := f.issue(crypto.RoleGateway, "gw2", time.Now())
	for _, c := range []struct {
		name  string
		at    time.Time
		spoil func(t *testing.T, dir string)
		want  string // part of the one line
	}{
		{"no directory", time.Now(), func(t *testing.T, dir string) { os.RemoveAll(dir) }, "no such directory"},
		{"a file", time.Now(), func(t *testing.T, dir string) { os.RemoveAll(dir); write(t, dir, nil) }, "not a directory"},
		{"no key", time.Now(), func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, member.KeyFile)) }, "identity.key is missing"},
		{"no certificate", time.Now(), func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, member.CertFile)) }, "identity.crt is missing"},
		{"no CA", time.Now(), func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, member.CAFile)) }, "ca.crt is missing"},
		{"open key", time.Now(), func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, member.KeyFile), 0o644) }, "chmod 600"},
		{"key of another", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.KeyFile), otherKey) }, "key"},
		{"certificate of another", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.CertFile), otherCert) }, "key"},
		{"CA of another fleet", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.CAFile), other.caCert) }, "CA"},
		{"not PEM", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.CertFile), []byte("hello")) }, "want PEM"},
		{"huge", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.KeyFile), make([]byte, 3<<20)) }, "not a file of an identity"},
		{"damaged policy", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.PolicyFile), []byte("hello")) }, "policy.cose"},
		{"policy of another fleet", time.Now(), func(t *testing.T, dir string) { write(t, filepath.Join(dir, member.PolicyFile), other.policy(1).Raw) }, "policy.cose"},
		{"expired", time.Now().AddDate(-6, 0, 0), func(*testing.T, string) {}, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			dir := f.directory(crypto.RoleGateway, "gw1", c.at)
			c.spoil(t, dir)
			_, _, _, err := member.LoadIdentity(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v; want one line with %q and the directory", err, c.want)
			}
		})
	}
}

// ownPKI is a directory as an operator's PKI would fill it: a P-256 key under an intermediate, valid
// until the times given.
func ownPKI(t *testing.T, leafEnd, midEnd time.Time) string {
	t.Helper()
	dir := t.TempDir()
	lab.NewPKI(t).Enrol(t, dir, crypto.MemberURI("plant", crypto.RoleGateway, "gw1"), leafEnd, midEnd)
	return dir
}

func TestLoadIdentityOfAnotherPKI(t *testing.T) {
	year := time.Now().AddDate(1, 0, 0)
	id, trust, signed, err := member.LoadIdentity(ownPKI(t, year, year))
	if err != nil || signed != nil {
		t.Fatal(signed, err)
	}
	msg, err := id.Sign([]byte("x"), "hello")
	if err != nil {
		t.Fatal(err)
	}
	if _, from, err := trust.Verify(msg, "hello", time.Now()); err != nil || from.Name != "gw1" || from.Fleet != "plant" {
		t.Errorf("from %v, %v", from, err)
	}
	yesterday := time.Now().AddDate(0, 0, -1)
	for name, c := range map[string]struct {
		leaf, mid time.Time
		says      string
	}{"member expired": {yesterday, year, "identity.crt expired"}, "intermediate expired": {year, yesterday, "certificate 2 of identity.crt (CN=Devices CA) expired"}} {
		if _, _, _, err := member.LoadIdentity(ownPKI(t, c.leaf, c.mid)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A topic secret is read as it was written, by its user only.
func TestTopicSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, member.TopicFile)
	if s, err := member.LoadTopicSecret(dir); s != nil || err != nil {
		t.Errorf("without a file: %v, %v", s, err)
	}
	want, err := crypto.NewTopicSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.WriteTopicSecret(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := member.LoadTopicSecret(dir); err != nil || string(got.Bytes()) != string(want.Bytes()) {
		t.Errorf("read back: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := member.LoadTopicSecret(dir); err == nil || !strings.Contains(err.Error(), "topic.key") {
		t.Errorf("readable by all: %v", err)
	}
	for _, text := range []string{"", "0123", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil || os.Chmod(path, 0o600) != nil {
			t.Fatal(err)
		}
		if _, err := member.LoadTopicSecret(dir); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
