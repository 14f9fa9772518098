// Command mkipk makes the OpenWrt packages of the binaries that `make dist` built: `sealgate` for each architecture of OpenWrt that
// one of them runs on, and `luci-app-sealgate` for all. The version is the commit's time, so a later commit is a higher version.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sealgate/firmware-image/ipk"
	"sealgate/firmware-image/openwrt"
)

func main() {
	sources := flag.String("sources", "firmware-image/openwrt", "`directory` with what the packages hold beside the binary")
	dist := flag.String("dist", "dist", "`directory` with the binaries sealgate-OS-ARCH")
	out := flag.String("out", "dist/openwrt", "`directory` for the packages")
	at := flag.Int64("time", 0, "the commit's time, in Unix `seconds`")
	flag.Parse()
	if err := run(*sources, *dist, *out, time.Unix(*at, 0).UTC()); err != nil {
		fmt.Fprintln(os.Stderr, "mkipk:", err)
		os.Exit(1)
	}
}

func run(sources, dist, out string, at time.Time) error {
	if at.Unix() <= 0 {
		return errors.New("-time: give the commit's time, as `git log -1 --format=%ct` says it")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(dist, "sealgate-linux-*"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no binaries in %s: run `make dist`", dist)
	}
	for _, name := range names {
		if err := daemons(sources, name, out, at); err != nil {
			return err
		}
	}
	luci, err := openwrt.Luci(sources, at)
	if err != nil {
		return err
	}
	return write(luci, out, at)
}

// daemons writes the package for each architecture that the binary runs on.
func daemons(sources, binary, out string, at time.Time) error {
	body, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	platform := strings.TrimPrefix(filepath.Base(binary), "sealgate-")
	if len(openwrt.Architectures[platform]) == 0 {
		return fmt.Errorf("%s: OpenWrt has no architecture for %s", binary, platform)
	}
	for _, arch := range openwrt.Architectures[platform] {
		p, err := openwrt.Daemons(sources, arch, body, at)
		if err != nil {
			return err
		}
		if err := write(p, out, at); err != nil {
			return err
		}
	}
	return nil
}

func write(p *ipk.Package, out string, at time.Time) error {
	var b bytes.Buffer
	if err := p.Write(&b, at); err != nil {
		return err
	}
	name := filepath.Join(out, p.FileName())
	fmt.Printf("%s %d bytes\n", name, b.Len())
	return os.WriteFile(name, b.Bytes(), 0o644)
}
