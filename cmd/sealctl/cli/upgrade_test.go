package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/slots"
	"sealgate/pkg/config"
)

// What a gateway must show so that a slot on trial is kept.
func TestAwaitSealing(t *testing.T) {
	const wait = 2 * time.Minute
	report := func(gatewayd, controld string, errs ...string) statusReport {
		return statusReport{Gatewayd: json.RawMessage(gatewayd), Controld: json.RawMessage(controld), Errors: errs}
	}
	sealed := report(`{"ready":true,"traffic":{"messages":{"up":{"seal":1}}}}`, ``, "controld: away")
	quiet := report(`{"ready":true,"traffic":{}}`, `{"connected":true}`)
	away := report(`{"ready":true,"traffic":{}}`, `{"connected":false}`)
	gone := report(``, ``, "gatewayd: no answer")
	for _, c := range []struct {
		name, why string
		at        func(time.Duration) statusReport
	}{
		{"sealed late", "", func(at time.Duration) statusReport { return after(at, wait-2*time.Second, gone, sealed) }},
		{"no device", "", func(time.Duration) statusReport { return quiet }},
		{"no device, ready late", "", func(at time.Duration) statusReport { return after(at, wait/2, gone, quiet) }},
		{"never an answer", "gatewayd: no answer", func(time.Duration) statusReport { return gone }},
		{"no keys", "no policy and keys", func(time.Duration) statusReport { return report(`{"ready":false}`, `{"connected":true}`) }},
		{"no network", "control broker", func(time.Duration) statusReport { return away }},
		{"uplink fails", "refused 1", func(time.Duration) statusReport {
			return report(`{"ready":true,"traffic":{"uplink_errors":{"refused":1}}}`, `{"connected":true}`)
		}},
		{"gatewayd ends", "gatewayd: no answer", func(at time.Duration) statusReport { return after(at, wait/2, quiet, gone) }},
		{"gatewayd ends again and again", "", func(at time.Duration) statusReport {
			return after(at%(10*time.Second), 8*time.Second, quiet, gone)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				began := time.Now()
				err := awaitSealing(ctx, wait, time.Second, func(ctx context.Context) statusReport {
					time.Sleep(time.Millisecond)
					if ctx.Err() != nil {
						return gone
					}
					return c.at(time.Since(began))
				})
				keep := c.why == "" && !strings.Contains(c.name, "again")
				if (err == nil) != keep || err != nil && !strings.Contains(err.Error(), c.why) {
					t.Errorf("%v; want %q", err, c.why)
				}
			})
		})
	}
}

func after(at, change time.Duration, before, then statusReport) statusReport {
	if at < change {
		return before
	}
	return then
}

// Whose signature an appliance believes: an operator of its fleet, as long as the policy does not revoke him, and the vendor's.
func TestVerifyImage(t *testing.T) {
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		if code := Main(cmdenv.Env{Ctx: t.Context(), Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}); code != cmdenv.OK {
			t.Fatalf("sealctl %v: %s", args, errs.String())
		}
	}
	sign := func(name, identity string) string {
		t.Helper()
		write(name, "hsqs")
		run("upgrade", "sign", at(name), "-i", at(identity))
		return at(name) + ".sig"
	}
	for _, fleet := range []string{"plant", "vendor", "other"} {
		run("fleet", "init", at(fleet), "--name", fleet)
		run("fleet", "add", at(fleet), "--role", "operator", "--name", "ops")
	}
	run("fleet", "add", at("plant"), "--role", "gateway", "--name", "gw1")
	write("gw.toml", fmt.Sprintf("fleet = \"plant\"\nidentity = %q\nstate = %q\n[steer]\nmode = \"listen\"\n[uplink]\nbroker = \"127.0.0.1:1\"\n[control]\nbroker = \"mqtts://127.0.0.1:1\"\n", at("plant/members/gw1"), at("state")))
	cfg, err := config.Load(at("gw.toml"))
	if err != nil {
		t.Fatal(err)
	}
	ours, vendors, others := sign("ours", "plant/members/ops"), sign("vendors", "vendor/members/ops"), sign("others", "other/members/ops")
	write("empty.sig", "")
	vendor := at("vendor/members/ops/ca.crt")
	check := func(name, vendor, signature, why string) {
		t.Helper()
		r, from, err := verifyImage(cfg, vendor, signature)
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v; want %q", name, err, why)
		}
		if err == nil && (r.Size != 4 || from.Name != "ops") {
			t.Errorf("%s: %+v by %v", name, r, from)
		}
	}
	check("our operator", at("none"), ours, "")
	check("our operator, with a vendor", vendor, ours, "")
	check("vendor", vendor, vendors, "")
	check("vendor that this image does not know", at("none"), vendors, "the image's signature")
	check("another fleet", vendor, others, "nor is it the vendor's")
	check("another fleet as vendor", at("other/members/ops/ca.crt"), others, "ours is \"vendor\"")
	check("no signature", vendor, at("none"), "sealctl upgrade sign")
	check("empty signature", vendor, at("empty.sig"), "the image's signature")

	run("fleet", "revoke", at("plant"), "--name", "ops")
	check("operator that the identity's policy revokes", vendor, ours, "revokes")
	if err := os.Remove(at("plant/members/gw1/policy.cose")); err != nil {
		t.Fatal(err)
	}
	check("no policy is known", vendor, ours, "")
	policy, err := os.ReadFile(at("plant/policy.cose"))
	if err == nil {
		err = os.Mkdir(at("state"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	write("state/policy.cose", string(policy))
	check("operator that the kept policy revokes", vendor, ours, "revokes")
}

func TestOpenBoth(t *testing.T) {
	image, slot := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "slot")
	content := bytes.Repeat([]byte("hsqs"), 4096)
	for _, f := range []struct {
		name string
		b    []byte
	}{{image, content}, {slot, make([]byte, len(content))}} {
		if err := os.WriteFile(f.name, f.b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := slots.Measure(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := openBoth(image, slot, r)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	if err := slots.Write(out, in, r, func(int64) {}); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		image, slot, why string
	}{"exchanged": {slot + "x", slot, "not what was signed"}, "too large": {image, slot + "x", "room for 1"}} {
		if err := os.WriteFile(slot+"x", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := openBoth(c.image, c.slot, r); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is read back after Sync comes from the disk, where there is one.
func TestPartitionSync(t *testing.T) {
	f, err := os.CreateTemp(".", ".slot-*") // not on a tmpfs
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const size = 1 << 20
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skipf("a file system in memory: %v", err)
	}
	if err := (partition{f}).Sync(); err != nil {
		t.Fatal(err)
	}
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: size}, &stat, 0); err != nil {
		t.Skipf("the kernel does not tell what it has in memory: %v", err)
	}
	if stat.Cache != 0 {
		t.Errorf("%d pages of it are still in memory", stat.Cache)
	}
}
