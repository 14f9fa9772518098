package daemon

import (
	"fmt"
	"os"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/confine"
	"sealgate/pkg/steer"
)

// bpffs is where classifiers stay attached while no daemon runs.
const bpffs = "/sys/fs/bpf"

// confine gives up what is not needed from here on. What a reload reads is read once more, so that the account that has become too
// small for it shows now and not months later.
func (d *daemon) confine(env cmdenv.Env) error {
	if env.Confine == nil {
		return nil
	}
	keep, err := steer.Capabilities(d.cfg.Steer.Mode)
	if err != nil {
		return err
	}
	o := confine.Options{User: d.cfg.User, Keep: keep, Read: d.cfg.Reads(), BPF: d.cfg.Steer.Mode == config.ModeTC}
	if _, err := os.Stat(bpffs); o.BPF && o.User == "" && err == nil {
		o.Write = []string{bpffs}
	}
	missing, err := env.Confine(o)
	if err != nil {
		return err
	}
	if err := d.cfg.CheckFiles(config.Gateway); err != nil {
		return fmt.Errorf("as user %d, who gatewayd has become: %w", os.Geteuid(), err)
	}
	d.log.Info("confined", "uid", os.Geteuid(), "missing", strings.Join(missing, "; "))
	return nil
}
