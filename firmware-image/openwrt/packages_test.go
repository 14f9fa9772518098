package openwrt

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealgate/firmware-image/ipk"
	"sealgate/test/lab"
)

func write(t *testing.T, p *ipk.Package) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b, at); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func modes(p *ipk.Package) map[string]string {
	m := map[string]string{}
	for _, f := range p.Files {
		m[f.Path] = f.Mode.String()
		if f.Link != "" {
			m[f.Path] = "-> " + f.Link
		}
	}
	return m
}

// Every file of the package, where it goes and who may run it; nothing of this folder is forgotten, nothing else comes along.
func TestDaemonsPackage(t *testing.T) {
	p, err := Daemons(".", "mipsel_24kc", []byte("binary"), at)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/etc/config/sealgate":                               "-rw-r--r--",
		"/etc/hotplug.d/iface/50-sealgate":                   "-rw-r--r--",
		"/etc/init.d/sealgate-controld":                      "-rwxr-xr-x",
		"/etc/init.d/sealgate-gatewayd":                      "-rwxr-xr-x",
		"/etc/sealgate/sealgate.toml":                        "-> /var/run/sealgate/sealgate.toml",
		"/etc/uci-defaults/80-sealgate":                      "-rwxr-xr-x",
		"/lib/upgrade/keep.d/sealgate":                       "-rw-r--r--",
		"/usr/lib/sealgate/firewall.sh":                      "-rw-r--r--",
		"/usr/lib/sealgate/functions.sh":                     "-rw-r--r--",
		"/usr/libexec/sealgate/gatewayd":                     "-rwxr-xr-x",
		"/usr/sbin/controld":                                 "-> sealgate",
		"/usr/sbin/gatewayd":                                 "-> sealgate",
		"/usr/sbin/sealctl":                                  "-> sealgate",
		"/usr/sbin/sealgate":                                 "-rwxr-xr-x",
		"/usr/sbin/sealgate-enrol":                           "-rwxr-xr-x",
		"/usr/share/nftables.d/ruleset-post/50-sealgate.nft": "-> /var/run/sealgate/guard.nft",
	}
	for path, mode := range modes(p) {
		if want[path] != mode {
			t.Errorf("%s is %s, want %s", path, mode, want[path])
		}
		delete(want, path)
	}
	for path := range want {
		t.Errorf("%s is not in the package", path)
	}
	if p.FileName() != "sealgate_0.20260102.030405-r1_mipsel_24kc.ipk" || !strings.Contains(p.Control, "Require-User: sealgate=5883:sealgate=5883 sealgatectl=5884:sealgate=5883\n") {
		t.Errorf("%s\n%s", p.FileName(), p.Control)
	}
	if !bytes.Equal(write(t, p), write(t, p)) {
		t.Error("twice the same package is not twice the same bytes")
	}
}

// Once the pages are installed on a router that runs, rpcd is told; in an image nothing runs.
func TestLuciIsShownAtOnce(t *testing.T) {
	p, err := Luci(".", at)
	if err != nil {
		t.Fatal(err)
	}
	for root, want := range map[string]string{"": "-HUP rpcd\n", "/image": ""} {
		cmd := exec.Command(lab.NeedTool(t, "busybox"), "sh", "-c", `killall() { echo "$@"; }; rm() { :; }; eval "$1"`, "sh", p.Postinst)
		cmd.Env = []string{"IPKG_INSTROOT=" + root}
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("in root %q: %q, %v, want %q", root, out, err, want)
		}
	}
}

// Everything that a router's shell runs is without a word of shellcheck's, and so are the stand-ins that it is tested with.
func TestScripts(t *testing.T) {
	check := lab.NeedTool(t, "shellcheck")
	var scripts []string
	for _, pattern := range []string{"sealgate/files/etc/init.d/*", "sealgate/files/etc/uci-defaults/*", "sealgate/files/etc/hotplug.d/*/*", "sealgate/files/usr/lib/sealgate/*.sh",
		"sealgate/files/usr/libexec/sealgate/*", "sealgate/files/usr/sbin/*", "image-files/etc/uci-defaults/*", "testdata/router/lib/*", "testdata/router/etc/*", "*.sh"} {
		found, _ := filepath.Glob(pattern)
		scripts = slices.Concat(scripts, found)
	}
	if len(scripts) < 11 {
		t.Fatalf("only %d scripts found: %v", len(scripts), scripts)
	}
	if out, err := exec.Command(check, scripts...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
