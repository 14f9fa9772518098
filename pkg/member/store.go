package member

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sealgate/pkg/atomicfile"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Files in the state directory.
const (
	policyFile = "policy.cose" // the policy in force, signed
	floorFile  = "floor"       // one line: version, hash, wall clock
)

// store keeps the policy and the clock over restarts: one write for a change, one a day unless it is rare. The floor file says
// which policy was the highest ever followed, so that a broker cannot bring an older one back (F2), also
// when the policy itself was lost.
type store struct {
	dir   string // "": nothing is kept
	trust *crypto.Trust
	log   *slog.Logger
	floor control.Floor
	wall  time.Time // the latest wall clock of earlier runs
	rare  bool      // the clock is kept with a new policy only
}

// openStore makes the directory if needed and reads the floor.
func openStore(dir string, trust *crypto.Trust, log *slog.Logger) (*store, error) {
	s := &store{dir: dir, trust: trust, log: log}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; make it, writable for this user", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, floorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		s.floor, s.wall, err = parseFloor(string(b))
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w; without it an old policy could come back: restore the file, or remove it if this is intended", dir, err)
	}
	return s, nil
}

// Following returns the policy that the member with this state directory follows, enrolled being that of its identity; nil: none is known. What
// is kept and does not verify counts for nothing. It takes no lock, and a running member need not be stopped.
func Following(dir string, trust *crypto.Trust, enrolled *policy.Signed, now time.Time) *policy.Signed {
	s := store{dir: dir, trust: trust, log: slog.New(slog.DiscardHandler)}
	return newest(enrolled, s.load(now))
}

// ForgetClock takes the noted time out of a state directory that no running program uses, and returns it. The oldest acceptable
// policy stays noted.
func ForgetClock(dir string) (noted time.Time, err error) {
	path := filepath.Join(dir, floorFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("no time is noted: %w", err)
	}
	f, noted, err := parseFloor(string(b))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	return noted, atomicfile.Write(path, formatFloor(f, time.Unix(0, 0)), 0o600)
}

// formatFloor is one line: the version, the hash in hex, the wall clock in Unix seconds.
func formatFloor(f control.Floor, wall time.Time) []byte {
	return fmt.Appendf(nil, "%d %x %d\n", f.Version, f.Hash, wall.Unix())
}

func parseFloor(s string) (f control.Floor, wall time.Time, err error) {
	bad := errors.New("file floor is damaged")
	fields := strings.Fields(s)
	if len(fields) != 3 || len(fields[1]) != 2*len(f.Hash) {
		return control.Floor{}, time.Time{}, bad
	}
	if f.Version, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return control.Floor{}, time.Time{}, bad
	}
	if _, err = hex.Decode(f.Hash[:], []byte(fields[1])); err != nil {
		return control.Floor{}, time.Time{}, bad
	}
	seconds, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return control.Floor{}, time.Time{}, bad
	}
	return f, time.Unix(seconds, 0), nil
}

// load returns the policy kept, nil if there is none that verifies now.
func (s *store) load(now time.Time) *policy.Signed {
	if s.dir == "" {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(s.dir, policyFile))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("kept policy cannot be read; waiting for the broker's", "error", err)
		}
		return nil
	}
	p, err := policy.Verify(s.trust, raw, now)
	if err != nil {
		s.log.Warn("kept policy cannot be used; waiting for the broker's", "file", filepath.Join(s.dir, policyFile), "error", err)
		return nil
	}
	return p
}

// save keeps p, first the policy and then the floor, so that the floor never names a policy that was not kept.
// Another process of the same member may have kept a newer one meanwhile, which stays.
func (s *store) save(p *policy.Signed, wall time.Time) error {
	if s.dir == "" || p.Document.Version == s.floor.Version && p.Hash == s.floor.Hash {
		return nil
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, floorFile)); err == nil {
		if there, _, err := parseFloor(string(b)); err == nil && there.Version > p.Document.Version {
			return nil
		}
	}
	if err := atomicfile.Write(filepath.Join(s.dir, policyFile), p.Raw, 0o600); err != nil {
		return err
	}
	s.floor = control.Floor{Version: p.Document.Version, Hash: p.Hash}
	return s.saveFloor(wall)
}

func (s *store) saveFloor(wall time.Time) error {
	s.wall = latest(wall, s.wall)
	return atomicfile.Write(filepath.Join(s.dir, floorFile), formatFloor(s.floor, s.wall), 0o600)
}

// tick keeps the clock floor.
func (s *store) tick(wall time.Time) {
	if s.dir == "" || s.rare || wall.Sub(s.wall) < time.Hour {
		return
	}
	if err := s.saveFloor(wall); err != nil {
		s.log.Warn("clock cannot be kept over a restart", "error", err)
	}
}

// close keeps the clock floor once more, if it has moved enough to be worth a write.
func (s *store) close(wall time.Time) error {
	s.tick(wall)
	return nil
}
