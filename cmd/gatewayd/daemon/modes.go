package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sealgate/pkg/atomicfile"
	"sealgate/pkg/config"
	"sealgate/pkg/steer"
)

// Which modes a kernel can steer in is found out by -setup, which tries them, and said by every start, which does not: that would take
// longer than all else until devices are served. Between the two there is a file beside the keylink socket.

// maxTrial bounds the file, in bytes.
const maxTrial = 8 << 10

// trial is what trying the modes came to. The file holds it as the one JSON text that it is encoded to, and nothing else.
type trial struct {
	Kernel string          `json:"kernel"` // release
	Boot   string          `json:"boot"`   // boot_id: of another boot, modules may be missing
	Modes  []steer.Ability `json:"modes"`  // of steer.Modes, all of them, in order
}

func trialFile(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.Keylink), "modes.json")
}

// here is a trial on the running kernel that has found nothing yet.
func here() (trial, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return trial{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return trial{Kernel: unix.ByteSliceToString(name.Release[:]), Boot: strings.TrimSpace(string(boot))}, err
}

// keep replaces the file at once. Its directory may belong to controld, which can do there what it likes: nothing in it is followed.
func (t trial) keep(path string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, b, 0o644)
}

// readTrial reads what -setup kept on this kernel since it booted.
func readTrial(path string) (trial, error) {
	t, err := here()
	if err != nil {
		return t, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return t, err
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return t, err
	}
	if s.Mode&unix.S_IFMT != unix.S_IFREG || s.Mode&0o022 != 0 || s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return t, fmt.Errorf("%s is not a file of root's that root alone can write", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTrial+1))
	if err != nil {
		return t, err
	}
	return t.parse(b)
}

// parse reads a kept trial, which must be of t's kernel and boot.
func (t trial) parse(b []byte) (trial, error) {
	var kept trial
	if len(b) > maxTrial {
		return t, fmt.Errorf("what was kept has more than %d bytes", maxTrial)
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		return t, fmt.Errorf("what was kept: %w", err)
	}
	if again, err := json.Marshal(kept); err != nil || !bytes.Equal(again, b) {
		return t, errors.New("what was kept is not as `gatewayd -setup` writes it")
	}
	if kept.Kernel != t.Kernel || kept.Boot != t.Boot {
		return t, errors.New("what was kept is from before this machine was started")
	}
	if !slices.EqualFunc(kept.Modes, steer.Modes(nil), func(a, b steer.Ability) bool { return a.Name == b.Name }) {
		return t, errors.New("what was kept is of other modes than this gatewayd has")
	}
	return kept, nil
}

// sayModes logs in one line what -setup has found.
func sayModes(cfg *config.Config, log *slog.Logger) {
	if cfg.Steer.Mode == config.ModeListen {
		return
	}
	t, err := readTrial(trialFile(cfg))
	if err != nil {
		log.Info("in which modes this kernel can steer is not known here; `gatewayd -setup` finds out, and so does `sealctl doctor`", "why", err)
		return
	}
	var can, cannot []string
	for _, m := range t.Modes {
		if m.OK {
			can = append(can, m.Name)
		} else {
			cannot = append(cannot, m.Name+": "+m.Detail)
		}
	}
	log.Info("modes in which this kernel can steer, as -setup found", "can", strings.Join(can, " "), "cannot", strings.Join(cannot, "; "))
}
