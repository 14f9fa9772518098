package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
)

// A fleet whose certificates come from the operator's own PKI has no ca.key here. Its directory is the
// identity directory of a member with role operator, and policy.toml beside: that member signs the
// policies, and `sealctl fleet add` has nothing to do.

// openOwnPKI reads such a directory; ok is false if it is none.
func openOwnPKI(dir string) (f *fleetDir, ok bool, err error) {
	f = &fleetDir{dir: dir, ownPKI: true}
	for _, name := range []string{caKeyFile, member.KeyFile} {
		switch _, err := os.Stat(f.path(name)); {
		case err == nil && name == caKeyFile:
			return nil, false, nil
		case errors.Is(err, fs.ErrNotExist) && name == member.KeyFile:
			return nil, false, nil
		}
	}
	// An old policy, or one that is damaged, is looked at when the next one is signed.
	if f.authority, f.trust, err = member.LoadSigner(dir); err != nil {
		return nil, true, err
	}
	if m := f.authority.Member(); m.Role != crypto.RoleOperator {
		return nil, true, fmt.Errorf("%s is the identity of the %s %q, and only an operator signs policies: its certificate must say %s",
			dir, m.Role, m.Name, crypto.MemberURI(m.Fleet, crypto.RoleOperator, m.Name))
	}
	ledger, err := os.ReadFile(f.path(ledgerFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, true, err
	}
	if f.members, err = parseLedger(string(ledger)); err != nil {
		return nil, true, fmt.Errorf("%s: %w", f.path(ledgerFile), err)
	}
	return f, true, nil
}

// errOwnPKI is returned where only a fleet directory with the CA's key will do.
func (f *fleetDir) errOwnPKI() error {
	return fmt.Errorf("%s has no %s: the members of this fleet are certified by your own PKI; give the new certificate the URI %s and put key, chain and CA into a directory",
		f.dir, caKeyFile, crypto.MemberURI(f.name(), "ROLE", "NAME"))
}
