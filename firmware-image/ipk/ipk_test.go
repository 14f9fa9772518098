package ipk

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"sealgate/test/lab"
)

func sample() *Package {
	return &Package{
		Name: "sealgate", Version: "0.20260102.030405-r1", Architecture: "mipsel_24kc",
		Control:   "Depends: libc\nRequire-User: sealgate=5883:sealgate=5883\nDescription: two\n lines\n",
		Conffiles: []string{"/etc/config/sealgate"},
		Postinst:  "true\n",
		Files: []File{
			{Path: "/usr/sbin/sealgate", Mode: 0o755, Body: []byte("binary")},
			{Path: "/usr/sbin/gatewayd", Link: "sealgate"},
			{Path: "/etc/config/sealgate", Mode: 0o644, Body: []byte("config\n")},
		},
	}
}

var at = time.Unix(1_767_323_045, 999)

func write(t *testing.T, p *Package, at time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b, at); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack runs tar, another implementation than ours: what it lists and unpacks is what an installer will find.
func unpack(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(lab.NeedTool(t, "tar"), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tar %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestStructure(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.ipk"), write(t, sample(), at), 0o600); err != nil {
		t.Fatal(err)
	}
	const stamp = "2026-01-02 03:04"
	if got, want := unpack(t, dir, "-tzf", "p.ipk"), "./debian-binary\n./data.tar.gz\n./control.tar.gz\n"; got != want {
		t.Errorf("members %q, want %q", got, want)
	}
	unpack(t, dir, "-xzf", "p.ipk")
	if b, _ := os.ReadFile(filepath.Join(dir, "debian-binary")); string(b) != "2.0\n" {
		t.Errorf("debian-binary is %q", b)
	}
	var lines []string
	for line := range strings.Lines(unpack(t, dir, "-tvzf", "data.tar.gz")) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"drwxr-xr-x root/root 0 " + stamp + " ./",
		"drwxr-xr-x root/root 0 " + stamp + " ./etc/",
		"drwxr-xr-x root/root 0 " + stamp + " ./etc/config/",
		"-rw-r--r-- root/root 7 " + stamp + " ./etc/config/sealgate",
		"drwxr-xr-x root/root 0 " + stamp + " ./usr/",
		"drwxr-xr-x root/root 0 " + stamp + " ./usr/sbin/",
		"lrwxrwxrwx root/root 0 " + stamp + " ./usr/sbin/gatewayd -> sealgate",
		"-rwxr-xr-x root/root 6 " + stamp + " ./usr/sbin/sealgate",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("data:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	unpack(t, dir, "-xzf", "control.tar.gz")
	for name, want := range map[string]string{
		"control": "Package: sealgate\nVersion: 0.20260102.030405-r1\nDepends: libc\nRequire-User: sealgate=5883:sealgate=5883\nArchitecture: mipsel_24kc\n" +
			"Installed-Size: 13\nDescription: two\n lines\n",
		"conffiles":    "/etc/config/sealgate\n",
		"postinst-pkg": "true\n",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, want %q (%v)", name, b, want, err)
		}
	}
	for _, script := range []string{"postinst", "postinst-pkg", "prerm"} {
		info, err := os.Stat(filepath.Join(dir, script))
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v; want mode 0755", script, info, err)
		}
	}
}

// The order in which files were given, and fractions of a second, change nothing; what is in the files does.
func TestSameBytes(t *testing.T) {
	one, other := sample(), sample()
	slices.Reverse(other.Files)
	if !bytes.Equal(write(t, one, at), write(t, other, at.Add(500).In(time.FixedZone("east", 3600)))) {
		t.Error("the same files give other bytes")
	}
	other.Files[0].Mode = 0o600
	if bytes.Equal(write(t, one, at), write(t, other, at)) {
		t.Error("another mode gives the same bytes")
	}
}

func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*Package){
		`name "../x"`:                       func(p *Package) { p.Name = "../x" },
		`version "1"`:                       func(p *Package) { p.Version = "1" },
		`architecture ""`:                   func(p *Package) { p.Architecture = "" },
		`neither "Field: text"`:             func(p *Package) { p.Control = "Depends: libc\nevil\n" },
		`file "etc/passwd": not a clean`:    func(p *Package) { p.Files[0].Path = "etc/passwd" },
		`file "/etc/../x": not a clean`:     func(p *Package) { p.Files[0].Path = "/etc/../x" },
		`/usr/sbin/gatewayd is there twice`: func(p *Package) { p.Files[0].Path = "/usr/sbin/gatewayd" },
		`conffile /etc/x is no file`:        func(p *Package) { p.Conffiles = []string{"/etc/x"} },
	} {
		p := sample()
		change(p)
		if err := p.Write(new(bytes.Buffer), at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestTree(t *testing.T) {
	files, err := Tree(fstest.MapFS{"a/run": {Mode: 0o700, Data: []byte("x")}, "b": {Mode: 0o600}}, "www")
	if err != nil || len(files) != 2 || files[0].Path != "/www/a/run" || files[0].Mode != 0o755 || files[1].Path != "/www/b" || files[1].Mode != 0o644 {
		t.Errorf("%+v, %v", files, err)
	}
	if _, err := Tree(fstest.MapFS{"dev": {Mode: fs.ModeDevice}}, ""); err == nil {
		t.Error("a device node was taken for a file")
	}
}
