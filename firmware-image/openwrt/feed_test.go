package openwrt

import (
	"debug/buildinfo"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// makes runs GNU make in a feed's package folder, with the stand-in for OpenWrt's build system around it.
func makes(t *testing.T, dir, out string, args ...string) string {
	t.Helper()
	top, err := filepath.Abs("testdata/sdk")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lab.NeedTool(t, "make"), append([]string{"-s", "--no-print-directory", "-C", dir, "TOPDIR=" + top, "OUT=" + out, "ARCH=mipsel"}, args...)...)
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make %v in %s: %v\n%s", args, dir, err, b)
	}
	return string(b)
}

// committed is the time of the newest commit; without git's history, as in an archive of the sources, there is no feed to test.
func committed(t *testing.T) time.Time {
	t.Helper()
	out, err := exec.Command("git", "log", "-1", "--format=%cd", "--date=unix").Output()
	lab.Require(t, err == nil, "needs the history in git, which the version is made of")
	at, err := time.ParseDuration(strings.TrimSpace(string(out)) + "s")
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(int64(at.Seconds()), 0).UTC()
}

// Both feeds' packages are the ipk: the same files in the same places, accounts, dependencies and version.
func TestFeeds(t *testing.T) {
	want, err := Daemons(".", "mipsel_24kc", []byte("binary"), committed(t))
	if err != nil {
		t.Fatal(err)
	}
	for feed, goes := range map[string]string{"24.10": "   ", "25.12": "no-mips16 golang/host sealgate sealgate/cmd/sealgate"} {
		t.Run(feed, func(t *testing.T) {
			out := t.TempDir()
			dir := filepath.Join("feed", feed, "sealgate")
			depends := "@(aarch64||arm||mips||mipsel||x86_64) +" + strings.ReplaceAll(strings.TrimPrefix(field(want.Control, "Depends"), "libc, "), ", ", " +")
			facts := strings.Join([]string{"sealgate " + want.Version, field(want.Control, "Require-User"), depends, "/etc/config/sealgate", goes}, "\n") + "\n"
			if got := makes(t, dir, out, "facts"); got != facts {
				t.Errorf("says\n%s\nwant\n%s", got, facts)
			}
			binary := filepath.Join(out, "bin/sealgate")
			if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(binary, []byte("binary"), 0o644); err != nil {
				t.Fatal(err)
			}
			makes(t, dir, out, "install", "SEALGATE_BINARY="+binary)
			if got := installed(t, filepath.Join(out, "root")); !maps.Equal(got, modes(want)) {
				t.Errorf("installs\n%v\nwant\n%v", got, modes(want))
			}
			if got := read(t, filepath.Join(out, "root/usr/sbin/sealgate")); feed == "24.10" && got != "binary" {
				t.Errorf("the binary became %q", got)
			}
			luci := makes(t, filepath.Join("feed", feed, "luci-app-sealgate"), out, "facts")
			if luci != want.Version+" all +luci-base +sealgate\n" {
				t.Errorf("luci-app-sealgate says %q", luci)
			}
		})
	}
}

// What the newer feed builds from source is no program of cgo, which would refuse to run (pkg/confine), and is made with the compiler's
// flags of `make dist`; here with one of them, for all would have most of the standard library compiled anew.
func TestFeedBuilds(t *testing.T) {
	committed(t)
	out := t.TempDir()
	if got := makes(t, "feed/25.12/sealgate", out, "flags"); !strings.HasPrefix(got, "-gcflags=github.com/...=-l -gcflags=fmt=-l ") {
		t.Errorf("the compiler's flags are %q", got)
	}
	const flag = "-gcflags=sealgate/cmd/sealgate=-l"
	makes(t, "feed/25.12/sealgate", out, "compile", "SEALGATE_GCFLAGS="+flag)
	info, err := buildinfo.ReadFile(filepath.Join(out, "bin/sealgate"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "0"}) || slices.Contains(info.Settings, debug.BuildSetting{Key: "-buildmode", Value: "pie"}) {
		t.Errorf("built with %v", info.Settings)
	}
	if !slices.Contains(info.Settings, debug.BuildSetting{Key: "-gcflags", Value: strings.TrimPrefix(flag, "-gcflags=")}) {
		t.Errorf("built without %s: %v", flag, info.Settings)
	}
}

// The binary that the older feed looks for is the one of `make dist`.
func TestFeedFindsBinary(t *testing.T) {
	for arch, goarch := range map[string]string{"mipsel": "mipsle", "mips": "mips", "aarch64": "arm64", "arm": "arm", "x86_64": "amd64"} {
		cmd := exec.Command(lab.NeedTool(t, "make"), "-s", "-C", "feed/24.10/sealgate", "TOPDIR="+abs(t, "testdata/sdk"), "OUT="+t.TempDir(), "ARCH="+arch, "SEALGATE_DIR=/nowhere", "prepare")
		cmd.Env = append(os.Environ(), "MAKEFLAGS=")
		out, err := cmd.CombinedOutput()
		if want := "/nowhere/dist/sealgate-linux-" + goarch + " is missing: run make dist"; err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, says %q, want %q", arch, err, out, want)
		}
		if len(Architectures["linux-"+goarch]) == 0 {
			t.Errorf("%s: no package is made for linux-%s", arch, goarch)
		}
	}
}

func abs(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func field(control, name string) string {
	for line := range strings.Lines(control) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// installed lists the files below root as modes does for a package.
func installed(t *testing.T, root string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(name, root)
		m[path] = info.Mode().String()
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(name)
			m[path] = "-> " + target
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// builder makes a stand-in for an unpacked ImageBuilder, and packages for it to take.
func builder(t *testing.T, arch string, files ...string) (dir, packages string) {
	t.Helper()
	dir, packages = t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"Makefile": read(t, "testdata/imagebuilder/Makefile"), "packages/.keep": "", ".config": "CONFIG_TARGET_ARCH_PACKAGES=\"" + arch + "\"\n"} {
		put(t, filepath.Join(dir, name), content)
	}
	for _, name := range files {
		put(t, filepath.Join(packages, name), "")
	}
	return dir, packages
}

func put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What the ImageBuilder is told for each profile; every profile is for an architecture that a package is made for.
func TestImageBuilder(t *testing.T) {
	profiles, err := os.ReadDir("profiles")
	if err != nil || len(profiles) != 3 {
		t.Fatalf("profiles %v, %v", profiles, err)
	}
	for _, profile := range profiles {
		arch := ""
		for line := range strings.Lines(read(t, "profiles/"+profile.Name())) {
			if value, ok := strings.CutPrefix(line, "ARCH="); ok {
				arch = strings.TrimSpace(value)
			}
		}
		if !known(arch) {
			t.Errorf("%s: no package is made for %q", profile.Name(), arch)
		}
		dir, packages := builder(t, arch, "sealgate_1-r1_"+arch+".ipk", "luci-app-sealgate_1-r1_all.ipk", "sealgate_1-r1_other.ipk", "sealgate-1-r1."+arch+".apk")
		extra, out := t.TempDir(), t.TempDir()
		put(t, filepath.Join(extra, "etc/sealgate/broker-ca.pem"), "x")
		cmd := exec.Command("./imagebuilder.sh", profile.Name(), dir, "a-device")
		cmd.Env = append(os.Environ(), "MAKEFLAGS=--no-print-directory", "PACKAGES_DIR="+packages, "OUT="+out, "FILES="+extra, "EXTRA=tcpdump")
		got, err := cmd.CombinedOutput()
		want := "PROFILE=a-device\nPACKAGES=sealgate luci luci-app-sealgate procd-ujail tcpdump\nBIN_DIR=" + out + "\npackage luci-app-sealgate_1-r1_all.ipk\npackage sealgate_1-r1_" + arch +
			".ipk\nfile ./etc/sealgate/broker-ca.pem\nfile ./etc/uci-defaults/90-sealgate-image\n"
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", profile.Name(), err, got, want)
		}
	}
}

func known(arch string) bool {
	for _, names := range Architectures {
		for _, name := range names {
			if name == arch {
				return true
			}
		}
	}
	return false
}

func TestImageBuilderRefuses(t *testing.T) {
	dir, packages := builder(t, "mipsel_24kc", "luci-app-sealgate_1-r1_all.ipk")
	other, _ := builder(t, "x86_64")
	newer, _ := builder(t, "mipsel_24kc")
	put(t, filepath.Join(newer, "repositories"), "")
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"mt7621"}, "usage: imagebuilder.sh PROFILE DIRECTORY [DEVICE]; profiles: filogic mt7621 x86-64"},
		{[]string{"mt7620", dir}, "no profile mt7620"},
		{[]string{"mt7621", packages, "d"}, "is not an unpacked ImageBuilder"},
		{[]string{"mt7621", dir}, "profile mt7621 needs a DEVICE"},
		{[]string{"mt7621", other, "d"}, "is not for ramips/mt7621 (mipsel_24kc)"},
		{[]string{"mt7621", dir, "d"}, "/sealgate_*_mipsel_24kc.ipk: run make ipk"},
		{[]string{"mt7621", newer, "d"}, "/mipsel_24kc/sealgate-[0-9]*.apk: run make ipk"},
	} {
		cmd := exec.Command("./imagebuilder.sh", test.args...)
		cmd.Env = append(os.Environ(), "PACKAGES_DIR="+packages, "OUT="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), test.says) {
			t.Errorf("%v: %v, says %q, want %q", test.args, err, out, test.says)
		}
	}
}
