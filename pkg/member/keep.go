package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sealgate/pkg/control"
	"sealgate/pkg/policy"
)

// keep stores what a keeper of groups hands to its next run: one file a group, in a directory in memory that only this
// user may enter. It outlives the program and not the machine. Whoever can read it can read the identity's key and this
// program's memory as well.
type keep struct {
	dir  string // "": nothing is kept
	boot string // of the machine: the times in the files are those of its boot clock
	log  *slog.Logger
}

const (
	keptSuffix = ".kept"
	bootFile   = "/proc/sys/kernel/random/boot_id"
)

// errNotInMemory says that a directory's file system keeps what it is given.
var errNotInMemory = errors.New("is not in memory")

// openKeep makes the directory. Why nothing can be kept is said in the log and is no reason not to start: only a
// restart of a keeper that is alone is the poorer for it.
func openKeep(dir string, anywhere bool, log *slog.Logger) *keep {
	k := &keep{log: log}
	if dir == "" {
		return k
	}
	boot, err := os.ReadFile(bootFile)
	if err == nil {
		err = prepareKeep(dir, anywhere)
	}
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, errNotInMemory) {
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, "the keys of groups that this member keeps do not outlive a restart of this program", "directory", dir, "error", err)
		return k
	}
	k.dir, k.boot = dir, strings.TrimSpace(string(boot))
	return k
}

// prepareKeep makes dir and refuses one that others may enter, or that is not in memory.
func prepareKeep(dir string, anywhere bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is no directory that belongs to this user alone; run: rm -r %s", dir, dir)
	}
	if in, err := inMemory(dir); err != nil || in || anywhere {
		return err
	}
	return fmt.Errorf("%s %w: put the keylink socket's directory onto a tmpfs, as /run is, or name a directory with keep", dir, errNotInMemory)
}

// inMemory reports whether dir is on a file system that loses its contents with the power.
func inMemory(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return uint32(st.Type) == unix.TMPFS_MAGIC || uint32(st.Type) == unix.RAMFS_MAGIC, nil
}

func (k *keep) path(group string) string { return filepath.Join(k.dir, group+keptSuffix) }

// load reads what the run before has kept, of this boot of the machine, and removes what nobody can use.
func (k *keep) load() map[string][]byte {
	if k.dir == "" {
		return nil
	}
	files, err := os.ReadDir(k.dir)
	if err != nil {
		k.log.Warn("kept keys cannot be read", "error", err)
		return nil
	}
	all := make(map[string][]byte)
	for _, f := range files {
		group, ok := strings.CutSuffix(f.Name(), keptSuffix)
		state, err := k.read(f.Name())
		switch {
		case err != nil:
			k.log.Warn("kept keys are not used", "file", filepath.Join(k.dir, f.Name()), "error", err)
		case ok && policy.ValidName(group) && len(all) < policy.MaxGroups && state != nil:
			all[group] = state
			continue
		}
		os.Remove(filepath.Join(k.dir, f.Name())) // also what a kill left half written
	}
	return all
}

// read returns a file's state: nil, if it is of an earlier boot of the machine.
func (k *keep) read(name string) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(k.dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0) {
		err = fmt.Errorf("mode %v: a file that others may not read is expected", info.Mode())
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, control.MaxKept+256))
	if err != nil {
		return nil, err
	}
	boot, state, ok := bytes.Cut(b, []byte("\n"))
	if !ok || string(boot) != k.boot {
		clear(b)
		return nil, nil
	}
	return state, nil
}

// save stores what has changed, and clears it.
func (k *keep) save(all []control.Kept) {
	for _, g := range all {
		if k.dir != "" {
			if err := k.write(g); err != nil {
				k.log.Error("keys cannot be kept over a restart of this program", "group", g.Group, "error", err)
			}
		}
		clear(g.State)
	}
}

// write replaces one group's file, whole or not at all. It is not synced: there is no disk below, and a crash of the machine
// loses all of it.
func (k *keep) write(g control.Kept) error {
	if g.State == nil {
		if err := os.Remove(k.path(g.Group)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	half := filepath.Join(k.dir, "."+g.Group)
	f, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(k.boot + "\n")
	if err == nil {
		_, err = f.Write(g.State)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(half, k.path(g.Group))
	}
	if err != nil {
		os.Remove(half)
	}
	return err
}
