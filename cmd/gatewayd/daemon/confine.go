package daemon

import (
	"fmt"
	"os"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/confine"
)

// confine gives up what is not needed from here on. What a reload reads is read once more, so that the account that has become too
// small for it shows now and not months later.
func (d *daemon) confine(env cmdenv.Env) error {
	if env.Confine == nil {
		return nil
	}
	steering := steerOptions(d.cfg)
	needs, err := steering.Needs()
	if err != nil {
		return err
	}
	missing, err := env.Confine(confine.Options{User: d.cfg.User, Keep: needs.Capabilities, Read: d.cfg.Reads(), Write: needs.Write, BPF: needs.BPF})
	if err != nil {
		return err
	}
	if err := d.cfg.CheckFiles(config.Gateway); err != nil {
		return fmt.Errorf("as user %d, who gatewayd has become: %w", os.Geteuid(), err)
	}
	d.log.Info("confined", "uid", os.Geteuid(), "missing", strings.Join(missing, "; "))
	return nil
}
