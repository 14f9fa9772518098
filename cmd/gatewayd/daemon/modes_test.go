package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sealgate/pkg/config"
	"sealgate/pkg/steer"
)

// When a start has failed, the log says of each mode what this kernel can do. A configured mode that it cannot do is why,
// with the part that is missing and what to use instead; one that could not be tried is not.
func TestRefuseMode(t *testing.T) {
	modes := []steer.Ability{
		{Name: "tc", Detail: "this kernel cannot: sk_assign: the classifier: none"},
		{Name: "tproxy", OK: true, Detail: "this kernel can"},
		{Name: "redirect", OK: true, Detail: "this kernel can"},
		{Name: "nfqueue", Untried: true, Detail: "this kernel cannot: nfqueue: not tried"},
	}
	for mode, want := range map[string]string{
		"tc":      "steer.mode = \"tc\": this kernel cannot: sk_assign: the classifier: none; or set steer.mode to one that it can: tproxy, redirect, then run `gatewayd -setup` again",
		"tproxy":  "",
		"nfqueue": "",
	} {
		var said strings.Builder
		got := ""
		if err := refuseMode(mode, modes, slog.New(slog.NewTextHandler(&said, nil))); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("mode %s: %q; want %q", mode, got, want)
		}
		for _, line := range []string{`"this kernel can steer" modes="tproxy redirect"`, `"not known whether this kernel can steer" mode=nfqueue`} {
			if !strings.Contains(said.String(), line) {
				t.Errorf("mode %s: the log does not say %s:\n%s", mode, line, said.String())
			}
		}
		if why := `"this kernel cannot steer" mode=tc why="this kernel cannot: sk_assign`; strings.Contains(said.String(), why) == (mode == "tc") {
			t.Errorf("mode %s: the log says:\n%s", mode, said.String())
		}
	}
	nothing := []steer.Ability{{Name: "tc", Detail: "this kernel cannot: nf_tables: none"}}
	if err := refuseMode("tc", nothing, slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "or set") {
		t.Errorf("no mode at all: %v", err)
	}
}

// What -setup found on this kernel since it booted is what a start says, in one line; anything else in its place is refused with the reason.
func TestSayModes(t *testing.T) {
	found, err := here()
	if err != nil {
		t.Fatal(err)
	}
	found.Modes = steer.Modes([]steer.Ability{{Name: "sk_assign", Detail: "the classifier: none"}, {Name: "nfqueue", Detail: "packets in passing: \"none\"\n"}})
	older, elsewhere, fewer := found, found, found
	older.Boot, elsewhere.Kernel, fewer.Modes = "0", "2.4.0", found.Modes[1:]
	kept := func(tr trial) func(path string) error { return tr.keep }
	text := func(edit func(string) string) func(path string) error {
		return func(path string) error {
			if err := found.keep(path); err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(edit(string(b))), 0o644)
		}
	}
	for name, c := range map[string]struct {
		put  func(path string) error
		says string
	}{
		"found":         {kept(found), `can="tproxy redirect" cannot="tc: this kernel cannot: sk_assign: the classifier: none; nfqueue: this kernel cannot: nfqueue: packets in passing: \"none\"\n"`},
		"missing":       {func(string) error { return nil }, "no such file"},
		"another boot":  {kept(older), "before this machine was started"},
		"other kernel":  {kept(elsewhere), "before this machine was started"},
		"a mode less":   {kept(fewer), "other modes"},
		"a byte more":   {text(func(s string) string { return s + " " }), "not as"},
		"a key more":    {text(func(s string) string { return `{"more":1,` + s[1:] }), "not as"},
		"a key twice":   {text(func(s string) string { return `{"kernel":"",` + s[1:] }), "not as"},
		"cut off":       {text(func(s string) string { return s[:len(s)-1] }), "unexpected end"},
		"no end":        {text(func(s string) string { return s + strings.Repeat(" ", maxTrial) }), "more than"},
		"a symlink":     {func(path string) error { return os.Symlink("/proc/self/environ", path) }, "symbolic links"},
		"a pipe":        {func(path string) error { return syscall.Mkfifo(path, 0o644) }, "is not a file of root's"},
		"a group's too": {func(path string) error { return chmodded(found.keep(path), path, 0o664) }, "is not a file of root's"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &config.Config{Keylink: filepath.Join(t.TempDir(), "keylink.sock")}
			cfg.Steer.Mode = config.ModeTC
			if err := c.put(trialFile(cfg)); err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			sayModes(cfg, slog.New(slog.NewTextHandler(&said, nil)))
			if strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), c.says) || (name == "found") == strings.Contains(said.String(), "not known") {
				t.Errorf("want %s; the log says:\n%s", c.says, said.String())
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(cfg.Keylink), ".*")); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
		})
	}
}

func chmodded(err error, path string, mode os.FileMode) error {
	if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
