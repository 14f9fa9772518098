package member

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sealgate/pkg/control"
)

// lines is a log that remembers what it was told.
func lines(t *testing.T) (*slog.Logger, *strings.Builder) {
	t.Helper()
	var b strings.Builder
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func TestKeepStores(t *testing.T) {
	log, said := lines(t)
	dir := filepath.Join(t.TempDir(), "keys")
	k := openKeep(dir, true, log)
	state := []byte("secret of a")
	k.save([]control.Kept{{Group: "a", State: state}, {Group: "b", State: []byte("of b")}, {Group: "never-there"}})
	if strings.Trim(string(state), "\x00") != "" {
		t.Error("the state is not cleared once it is stored")
	}
	k.save([]control.Kept{{Group: "b"}})
	for _, path := range []string{dir, filepath.Join(dir, "a.kept")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	// A kill in the middle of a write leaves the old state.
	if err := os.WriteFile(filepath.Join(dir, ".a"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := openKeep(dir, true, log).load()
	if len(all) != 1 || string(all["a"]) != "secret of a" {
		t.Errorf("loaded %q", all)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if said.Len() > 0 {
		t.Errorf("log:\n%s", said)
	}
}

func TestKeepRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		say   string // in the log; "": nothing, for it is no fault
	}{
		{"of an earlier boot", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "a.kept"), "0e0b5f0e-0000-4000-8000-000000000000\nold", 0o600)
		}, ""},
		{"no boot at all", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a.kept"), "old", 0o600) }, ""},
		{"a file that others may read", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "a.kept"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "others may not read"},
		{"a symbolic link", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "a.kept"), filepath.Join(dir, "..", "there")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../there", filepath.Join(dir, "a.kept")); err != nil {
				t.Fatal(err)
			}
		}, "not used"},
		{"a FIFO", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "a.kept")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "others may not read"},
		{"a directory that others may enter", func(t *testing.T, dir string) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "to this user alone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log, said := lines(t)
			dir := filepath.Join(t.TempDir(), "keys")
			openKeep(dir, true, log).save([]control.Kept{{Group: "a", State: []byte("secret")}})
			c.spoil(t, dir)
			if all := openKeep(dir, true, log).load(); len(all) != 0 {
				t.Errorf("loaded %q", all)
			}
			if got := said.String(); (c.say == "") != (got == "") || !strings.Contains(got, c.say) {
				t.Errorf("log: %q, want %q in it", got, c.say)
			}
		})
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// TestKeepOnlyInMemory: what a power cut would not take away is not written, unless the operator named the directory.
func TestKeepOnlyInMemory(t *testing.T) {
	log, said := lines(t)
	dir := filepath.Join(t.TempDir(), "keys")
	in, err := inMemory(filepath.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	if in {
		t.Skip("the temporary directory is in memory here")
	}
	k := openKeep(dir, false, log)
	k.save([]control.Kept{{Group: "a", State: []byte("secret")}})
	if left, _ := os.ReadDir(dir); len(left) != 0 || k.load() != nil || !strings.Contains(said.String(), "is not in memory") {
		t.Errorf("%v is there; log: %s", left, said)
	}
	memory, err := os.MkdirTemp("/dev/shm", "sealgate-test-")
	if err != nil {
		t.Skip("there is no /dev/shm to write to: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	if in, err := inMemory(memory); err != nil || !in {
		t.Skip("/dev/shm is no tmpfs here")
	}
	k = openKeep(filepath.Join(memory, "keys"), false, log)
	k.save([]control.Kept{{Group: "a", State: []byte("secret")}})
	if all := k.load(); string(all["a"]) != "secret" {
		t.Errorf("loaded %q from /dev/shm", all)
	}
}
