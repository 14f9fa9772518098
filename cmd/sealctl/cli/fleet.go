package cli

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

func fleetInit() *command {
	return &command{
		name: "fleet init", args: "DIR --name NAME", short: "make a fleet: its certificate authority and a first policy", run: runFleetInit,
		long: `
Make the directory DIR with the fleet's certificate authority (ca.key, ca.crt) and a commented
policy.toml with one group "default" on every topic. Whoever has ca.key can enrol members and
change the policy: keep the directory on a machine that is safe, and a backup of it.`,
	}
}

func runFleetInit(env cmdenv.Env, c *command, args []string) error {
	var name string
	o := newOptions(c)
	o.text(&name, "name", "", "NAME", "the fleet's name: 1 to 63 characters a-z 0-9 . _ -")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if name == "" {
		return usagef("--name NAME is missing: what the fleet is called, for example --name plant")
	}
	f, err := createFleet(o.args[0], name, time.Now())
	if err != nil {
		return err
	}
	env.Errorf("fleet %q is in %s. Next: sealctl fleet add %s --role gateway --name gw1", name, f.dir, f.dir)
	return nil
}

func fleetAdd() *command {
	return &command{
		name: "fleet add", args: "DIR --role ROLE --name NAME", short: "enrol a member", run: runFleetAdd,
		long: `
Enrol a member: make its key and certificate and the newest policy in DIR/members/NAME. Copy
that directory to the member, by a safe way: who has identity.key is the member. Prints the
directory's name.

Where policy.toml names no keepers, the first three gateways or keepers enrolled are keepers;
enrolling one of them signs a new policy version.`,
	}
}

func runFleetAdd(env cmdenv.Env, c *command, args []string) error {
	var role, name string
	o := newOptions(c)
	o.text(&role, "role", "", "ROLE", "gateway | subscriber | keeper | operator")
	o.text(&name, "name", "", "NAME", "the member's name: 1 to 63 characters a-z 0-9 . _ -")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	roles := []crypto.Role{crypto.RoleGateway, crypto.RoleSubscriber, crypto.RoleKeeper, crypto.RoleOperator}
	switch {
	case !slices.Contains(roles, crypto.Role(role)):
		return usagef("--role %q: want gateway, subscriber, keeper or operator", role)
	case !crypto.ValidName(name):
		return usagef("--name %q: want 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit", name)
	}
	f, unlock, err := lockFleet(o.args[0])
	if err != nil {
		return err
	}
	defer unlock()
	now := time.Now()
	if err := f.enrol(crypto.Role(role), name, now); err != nil {
		return err
	}
	if err := f.policyAfterEnrolment(env, crypto.Role(role), name, now); err != nil {
		return fmt.Errorf("%s is enrolled, but the policy needs your attention: %w", name, err)
	}
	fmt.Fprintln(env.Stdout, f.path(membersDir, name))
	return nil
}

// policyAfterEnrolment gives a new member the newest policy. A new version is signed when the member becomes a keeper by
// default, or when it is the first time that one can be signed.
func (f *fleetDir) policyAfterEnrolment(env cmdenv.Env, role crypto.Role, name string, now time.Time) error {
	doc, _, filled, err := f.draft()
	if err != nil {
		return err
	}
	last, err := f.signed(now)
	if err != nil {
		return err
	}
	becomes := slices.ContainsFunc(filled, func(g string) bool { _, ok := doc.Group(g).Rank(name); return ok })
	switch {
	case mints(role) && (becomes || last == nil && f.checkKeepers(doc) == nil):
		signed, err := f.sign(now)
		if err != nil {
			return err
		}
		env.Errorf("%s %q is enrolled; policy version %d is signed. Running members get it by `sealctl policy publish`.", role, name, signed.Document.Version)
		warnOfPairs(env, signed.Document)
	case last == nil:
		env.Errorf("%s %q is enrolled, without a policy yet: one is signed when a gateway or keeper is enrolled.", role, name)
	default:
		env.Errorf("%s %q is enrolled.", role, name)
		return f.distribute(last)
	}
	return nil
}

func fleetRevoke() *command {
	return &command{
		name: "fleet revoke", args: "DIR (--name NAME | --certificate FILE)", short: "revoke a member: a new policy version that shuts it out", run: runFleetRevoke,
		long: `
Put a member's name and certificate on the revoked lists of policy.toml and sign a new policy
version. It takes effect when it is published: sealctl policy publish.

With --certificate only that one is revoked: another one for the same name goes on. That is for a
fleet under your own PKI, when a key was stolen and its machine gets a new one.`,
	}
}

func runFleetRevoke(env cmdenv.Env, c *command, args []string) error {
	var name, file string
	o := newOptions(c)
	o.text(&name, "name", "", "NAME", "the member to revoke")
	o.text(&file, "certificate", "", "FILE", "PEM file of the one certificate to revoke; its name may go on")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if (name == "") == (file == "") {
		return usagef("give either --name NAME or --certificate FILE: whom to revoke")
	}
	f, unlock, err := lockFleet(o.args[0])
	if err != nil {
		return err
	}
	defer unlock()
	var signed *policy.Signed
	what := fmt.Sprintf("%q", name)
	if file != "" {
		var hash [32]byte
		if hash, name, err = f.certificateOf(file); err != nil {
			return err
		}
		what = fmt.Sprintf("the certificate %x of %q", hash[:4], name)
		signed, err = f.revokeCertificate(hash, time.Now())
	} else {
		signed, err = f.revoke(name, time.Now())
	}
	if err != nil {
		return err
	}
	env.Errorf("%s is revoked in policy version %d. It takes effect with: sealctl policy publish %s -b URL -i IDENTITYDIR", what, signed.Document.Version, f.dir)
	return nil
}

func (f *fleetDir) revoke(name string, now time.Time) (*policy.Signed, error) {
	e, known := f.find(name)
	if !known && !f.ownPKI {
		return nil, fmt.Errorf("no member is called %q; enrolled are: %s", name, f.names())
	}
	return f.signRevocation(now, func(doc *policy.Document) error {
		if slices.Contains(doc.RevokedNames, name) {
			return fmt.Errorf("%q is revoked already; publish the policy with `sealctl policy publish`", name)
		}
		doc.RevokedNames = append(doc.RevokedNames, name)
		if known {
			doc.RevokedCerts = append(doc.RevokedCerts, e.cert)
		}
		return nil
	})
}

func (f *fleetDir) revokeCertificate(hash [32]byte, now time.Time) (*policy.Signed, error) {
	return f.signRevocation(now, func(doc *policy.Document) error {
		if slices.Contains(doc.RevokedCerts, hash) {
			return fmt.Errorf("the certificate %x is revoked already; publish the policy with `sealctl policy publish`", hash[:4])
		}
		doc.RevokedCerts = append(doc.RevokedCerts, hash)
		return nil
	})
}

// certificateOf reads the first certificate of a PEM file: its hash, and the name of the member of this fleet that it is for.
func (f *fleetDir) certificateOf(file string) (hash [32]byte, name string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return hash, "", fmt.Errorf("certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return hash, "", fmt.Errorf("%s: no certificate in it; want PEM (-----BEGIN CERTIFICATE-----)", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return hash, "", fmt.Errorf("%s: %w", file, err)
	}
	for _, u := range cert.URIs {
		if rest, ok := strings.CutPrefix(u.String(), "sealgate:"+f.name()+"/"); ok {
			_, name, _ = strings.Cut(rest, "/")
			return sha256.Sum256(cert.Raw), name, nil
		}
	}
	return hash, "", fmt.Errorf("%s: not the certificate of a member of the fleet %q", file, f.name())
}

// signRevocation adds to the revoked lists of policy.toml and signs the next version, or leaves all as it was.
func (f *fleetDir) signRevocation(now time.Time, add func(*policy.Document) error) (*policy.Signed, error) {
	doc, text, _, err := f.draft()
	if err == nil {
		err = add(doc)
	}
	if err != nil {
		return nil, err
	}
	var certs []string
	for _, h := range doc.RevokedCerts {
		certs = append(certs, hex.EncodeToString(h[:]))
	}
	next := setKey(text, "revoked_certificates", stringArray(certs))
	next = setKey(next, "revoked_names", stringArray(doc.RevokedNames))
	if err := atomicfile.Write(f.path(policyText), next, 0o644); err != nil {
		return nil, err
	}
	signed, err := f.sign(now)
	if err != nil { // leave policy.toml as it was, so that nothing is half done
		if undo := atomicfile.Write(f.path(policyText), text, 0o644); undo != nil {
			return nil, undo
		}
		return nil, err
	}
	return signed, nil
}
