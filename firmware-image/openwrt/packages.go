// Package openwrt puts together what this folder has for OpenWrt: the package of the daemons, with what runs them, and that of the
// pages of the web interface.
package openwrt

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"sealgate/firmware-image/ipk"
)

// Architectures are OpenWrt's names for what one binary of `make dist` runs on. On arm that asks for an FPU (VFPv3), which all of
// these have.
var Architectures = map[string][]string{
	"linux-amd64":  {"x86_64"},
	"linux-arm64":  {"aarch64_generic", "aarch64_cortex-a53", "aarch64_cortex-a72"},
	"linux-arm":    {"arm_cortex-a7_neon-vfpv4", "arm_cortex-a9_vfpv3-d16", "arm_cortex-a15_neon-vfpv4"},
	"linux-mipsle": {"mipsel_24kc"},
	"linux-mips":   {"mips_24kc"},
}

// version is a number that grows from commit to commit: opkg and apk compare it part by part.
func version(at time.Time) string { return at.Format("0.20060102.150405") + "-r1" }

// Daemons is the package with the three programs, in one file with a link for each, and what runs them.
func Daemons(sources, arch string, binary []byte, at time.Time) (*ipk.Package, error) {
	p, err := load(filepath.Join(sources, "sealgate"), "sealgate", map[string]string{"files": ""})
	if err != nil {
		return nil, err
	}
	p.Architecture, p.Version = arch, version(at)
	p.Conffiles = []string{"/etc/config/sealgate"}
	p.Files = append(p.Files, ipk.File{Path: "/usr/sbin/sealgate", Mode: 0o755, Body: binary},
		ipk.File{Path: "/etc/sealgate/sealgate.toml", Link: "/var/run/sealgate/sealgate.toml"},
		ipk.File{Path: "/usr/share/nftables.d/ruleset-post/50-sealgate.nft", Link: "/var/run/sealgate/guard.nft"}) // fw4 passes links to nothing over
	for _, name := range []string{"gatewayd", "controld", "sealctl"} {
		p.Files = append(p.Files, ipk.File{Path: "/usr/sbin/" + name, Link: "sealgate"})
	}
	return p, nil
}

// reloadRPC does what luci.mk does for each package of the web interface: rpcd learns what the pages may call, without which the menu
// does not show them. On a router that runs, and not in an image that is made.
const reloadRPC = `[ -n "$IPKG_INSTROOT" ] || {
	rm -rf /tmp/luci-modulecache
	killall -HUP rpcd
} 2>/dev/null
exit 0
`

// Luci is the package with the pages of the web interface.
func Luci(sources string, at time.Time) (*ipk.Package, error) {
	p, err := load(filepath.Join(sources, "luci-app-sealgate"), "luci-app-sealgate", map[string]string{"htdocs": "www", "root": ""})
	if err != nil {
		return nil, err
	}
	p.Architecture, p.Version, p.Postinst = "all", version(at), reloadRPC
	return p, nil
}

// load reads a package's folder: the file `control`, and trees, each to be installed below a path.
func load(dir, name string, trees map[string]string) (*ipk.Package, error) {
	control, err := os.ReadFile(filepath.Join(dir, "control"))
	if err != nil {
		return nil, err
	}
	p := &ipk.Package{Name: name, Control: string(control)}
	for tree, prefix := range trees {
		files, err := ipk.Tree(os.DirFS(filepath.Join(dir, tree)), prefix)
		if err != nil {
			return nil, err
		}
		p.Files = slices.Concat(p.Files, files)
	}
	return p, nil
}
