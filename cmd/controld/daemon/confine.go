package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/confine"
)

// confined gives up every privilege before the first byte from outside is read: controld needs none. It goes on writing its state, the
// socket's directory, and what is kept of a keeper's keys.
func confined(env cmdenv.Env, cfg *config.Config, log *slog.Logger) error {
	if env.Confine == nil {
		return nil
	}
	o := confine.Options{Read: cfg.Reads(), Write: []string{stateDir(cfg), filepath.Dir(cfg.Keylink)}}
	if keep, _ := keepDir(cfg); keep != "" && cfg.Keep != config.KeepAuto { // else it is beside the socket
		o.Write = append(o.Write, keep)
	}
	missing, err := env.Confine(o)
	if err != nil {
		return err
	}
	log.Info("confined", "uid", os.Geteuid(), "missing", strings.Join(missing, "; "))
	return nil
}
