package cli

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sealgate/pkg/atomicfile"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
)

// Files of a fleet directory, which the operator keeps.
const (
	caKeyFile    = "ca.key"
	caCertFile   = "ca.crt"
	policyText   = "policy.toml" // what the operator edits
	policySigned = "policy.cose" // what the fleet obeys
	ledgerFile   = "members.txt" // who was enrolled, one a line, oldest first
	membersDir   = "members"
)

// fleetDir is an open fleet directory.
type fleetDir struct {
	dir           string
	caKey, caCert []byte
	authority     *crypto.Identity
	trust         *crypto.Trust
	members       []enrolled
	ownPKI        bool // no CA's key: an operator signs, and certificates come from elsewhere
}

// enrolled is a line of the ledger.
type enrolled struct {
	name string
	role crypto.Role
	cert [32]byte // SHA-256 of the certificate
	day  string
}

func (f *fleetDir) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fleetDir) name() string { return f.trust.Fleet() }

// createFleet makes a fleet directory with a CA and a first policy.toml.
func createFleet(dir, name string, now time.Time) (*fleetDir, error) {
	if !crypto.ValidName(name) {
		return nil, usagef("--name %q: want 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit", name)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("%s is not empty; name a new directory, an existing fleet is never overwritten", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	key, cert, err := crypto.NewCA(name, rand.Reader, now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, membersDir), 0o700); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		name string
		b    []byte
		perm os.FileMode
	}{{caKeyFile, key, 0o600}, {caCertFile, cert, 0o644}, {ledgerFile, nil, 0o644}, {policyText, firstPolicy(name), 0o644}} {
		if err := atomicfile.Write(filepath.Join(dir, file.name), file.b, file.perm); err != nil {
			return nil, err
		}
	}
	return openFleet(dir)
}

// openFleet reads a fleet directory.
func openFleet(dir string) (*fleetDir, error) {
	if own, ok, err := openOwnPKI(dir); ok {
		return own, err
	}
	f := &fleetDir{dir: dir}
	var err error
	for _, file := range []struct {
		name string
		to   *[]byte
	}{{caKeyFile, &f.caKey}, {caCertFile, &f.caCert}} {
		*file.to, err = os.ReadFile(f.path(file.name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not a fleet directory: it has no %s; make one with `sealctl fleet init %s --name NAME`", dir, file.name, dir)
		} else if err != nil {
			return nil, err
		}
	}
	if info, err := os.Stat(f.path(caKeyFile)); err != nil {
		return nil, err
	} else if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o), and who has it owns the fleet; run: chmod 600 %s", f.path(caKeyFile), mode, f.path(caKeyFile))
	}
	if f.authority, err = crypto.ParseAuthority(f.caKey, f.caCert); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if f.trust, err = crypto.NewTrust(f.authority.Member().Fleet, f.caCert); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	ledger, err := os.ReadFile(f.path(ledgerFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; it lists who was enrolled: restore it from a backup", dir, err)
	}
	if f.members, err = parseLedger(string(ledger)); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(ledgerFile), err)
	}
	return f, nil
}

func parseLedger(text string) (list []enrolled, err error) {
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if line == "" {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 4 || len(fields[2]) != 64 {
			return nil, fmt.Errorf("line %d is damaged; want: name role sha256 date", i+1)
		}
		e := enrolled{name: fields[0], role: crypto.Role(fields[1]), day: fields[3]}
		if _, err := hex.Decode(e.cert[:], []byte(fields[2])); err != nil {
			return nil, fmt.Errorf("line %d is damaged: %w", i+1, err)
		}
		list = append(list, e)
	}
	return list, nil
}

func formatLedger(list []enrolled) []byte {
	var b bytes.Buffer
	for _, e := range list {
		fmt.Fprintf(&b, "%s %s %x %s\n", e.name, e.role, e.cert, e.day)
	}
	return b.Bytes()
}

// find returns the member of that name.
func (f *fleetDir) find(name string) (enrolled, bool) {
	i := slices.IndexFunc(f.members, func(e enrolled) bool { return e.name == name })
	if i < 0 {
		return enrolled{}, false
	}
	return f.members[i], true
}

func (f *fleetDir) names() string {
	var names []string
	for _, e := range f.members {
		names = append(names, e.name)
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// enrol makes a member's identity and writes its directory.
func (f *fleetDir) enrol(role crypto.Role, name string, now time.Time) error {
	if f.ownPKI {
		return f.errOwnPKI()
	}
	if e, exists := f.find(name); exists {
		return fmt.Errorf("%s %q was enrolled on %s; choose another name, names are never used twice", e.role, name, e.day)
	}
	dir := f.path(membersDir, name)
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%s exists already; move it away or choose another name", dir)
	}
	key, cert, err := crypto.IssueMember(f.caKey, f.caCert, role, name, rand.Reader, now)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return errors.New("the new certificate is not PEM")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(
		atomicfile.Write(filepath.Join(dir, member.KeyFile), key, 0o600),
		atomicfile.Write(filepath.Join(dir, member.CertFile), cert, 0o644),
		atomicfile.Write(filepath.Join(dir, member.CAFile), f.caCert, 0o644),
	); err != nil {
		return err
	}
	f.members = append(f.members, enrolled{name, role, sha256.Sum256(block.Bytes), now.UTC().Format(time.DateOnly)})
	return atomicfile.Write(f.path(ledgerFile), formatLedger(f.members), 0o644)
}

// signed returns the policy signed last, nil if none was.
func (f *fleetDir) signed(now time.Time) (*policy.Signed, error) {
	raw, err := os.ReadFile(f.path(policySigned))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	p, err := policy.Verify(f.trust, raw, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from a backup or from a member's directory: the next version must follow it", f.path(policySigned), err)
	}
	return p, nil
}

// draft reads policy.toml, and fills in the fleet and, where none are named, the keepers. filled lists the groups
// whose keepers were filled in.
func (f *fleetDir) draft() (doc *policy.Document, text []byte, filled []string, err error) {
	path := f.path(policyText)
	if text, err = os.ReadFile(path); err != nil {
		return nil, nil, nil, err
	}
	if doc, err = policy.ParseTOMLFile(path, text); err != nil {
		return nil, nil, nil, err
	}
	if doc.Fleet != "" && doc.Fleet != f.name() {
		return nil, nil, nil, fmt.Errorf("%s: fleet: it says %q, but the fleet of this directory is %q", path, doc.Fleet, f.name())
	}
	doc.Fleet = f.name()
	first := f.firstKeepers(doc)
	for i := range doc.Groups {
		if g := &doc.Groups[i]; len(g.Keepers) == 0 {
			g.Keepers = slices.Clone(first)
			filled = append(filled, g.Name)
		}
	}
	return doc, text, filled, nil
}

// firstKeepers returns the first members enrolled that may mint keys and are not revoked.
func (f *fleetDir) firstKeepers(doc *policy.Document) (names []string) {
	for _, e := range f.members {
		m := crypto.Member{Fleet: f.name(), Role: e.role, Name: e.name, CertHash: e.cert}
		if mints(e.role) && !doc.Revoked(m) && len(names) < policy.DefaultKeepers {
			names = append(names, e.name)
		}
	}
	return names
}

func mints(r crypto.Role) bool { return r == crypto.RoleGateway || r == crypto.RoleKeeper }

// checkKeepers refuses named keepers who could not do the work.
func (f *fleetDir) checkKeepers(doc *policy.Document) error {
	for i := range doc.Groups {
		g := &doc.Groups[i]
		if len(g.Keepers) == 0 && f.ownPKI {
			return fmt.Errorf("group %q names no keepers, and who could be one is known to your own PKI only: list gateways or keepers as its keepers in %s", g.Name, f.path(policyText))
		}
		if len(g.Keepers) == 0 {
			return fmt.Errorf("group %q has no keeper, so nobody would make its keys; enrol a gateway or keeper first: sealctl fleet add %s --role gateway --name gw1", g.Name, f.dir)
		}
		for _, name := range g.Keepers {
			e, known := f.find(name)
			switch {
			case known && !mints(e.role):
				return fmt.Errorf("group %q: keeper %q is enrolled as %s; only a gateway or keeper can make keys", g.Name, name, e.role)
			case slices.Contains(doc.RevokedNames, name):
				return fmt.Errorf("group %q: keeper %q is revoked; take it off the group's keepers in %s", g.Name, name, f.path(policyText))
			case !known && !f.ownPKI:
				return fmt.Errorf("group %q: keeper %q is not enrolled; enrol it with `sealctl fleet add`, or take it off the list (enrolled: %s)", g.Name, name, f.names())
			}
		}
	}
	return nil
}

// sign signs policy.toml as the version after the last one, notes the version in policy.toml, and hands the new
// policy to every member's directory.
func (f *fleetDir) sign(now time.Time) (*policy.Signed, error) {
	doc, text, _, err := f.draft()
	if err != nil {
		return nil, err
	}
	if err := f.checkKeepers(doc); err != nil {
		return nil, err
	}
	if err := f.needTopicSecret(doc); err != nil {
		return nil, err
	}
	last, err := f.signed(now)
	if err != nil {
		return nil, err
	}
	switch {
	case last != nil:
		doc.Version, doc.Previous = last.Document.Version+1, last.Hash
	case doc.Version > 1: // policy.cose was lost: members would refuse a direct successor that does not name it
		doc.Version += 2
	default:
		doc.Version = 1
	}
	raw, err := doc.Sign(f.authority)
	if err != nil {
		return nil, err
	}
	signed, err := policy.Verify(f.trust, raw, now)
	if err != nil {
		return nil, fmt.Errorf("the policy just signed does not verify: %w", err)
	}
	if err := atomicfile.Write(f.path(policySigned), raw, 0o644); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(f.path(policyText), setKey(text, "version", fmt.Sprint(doc.Version)), 0o644); err != nil {
		return nil, err
	}
	return signed, f.distribute(signed)
}

// distribute puts the newest policy into every member's directory that is still here, and the topic secret into those of
// keepers of groups that hide their topics.
func (f *fleetDir) distribute(p *policy.Signed) error {
	for _, e := range f.members {
		dir := f.path(membersDir, e.name)
		if _, err := os.Stat(dir); err != nil {
			continue // handed over and removed
		}
		if err := atomicfile.Write(filepath.Join(dir, member.PolicyFile), p.Raw, 0o644); err != nil {
			return err
		}
		if err := f.handTopicSecret(p.Document, e, dir); err != nil {
			return err
		}
	}
	return nil
}
