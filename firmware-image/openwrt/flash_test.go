package openwrt

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

// notFlash is what is in memory on a router, or belongs to the stand-ins.
var notFlash = []string{"proc", "sys", "dev", "var", "tmp", "uci", "log", "live"}

// flash says of each file on the router's flash when it was changed last: contents, name, owner or rights. Whatever is written there, and
// be it for a moment, shows.
func (r *router) flash(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(r.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(strings.TrimPrefix(name, r.root), "/")
		if path == "" {
			return nil
		}
		if slices.Contains(notFlash, path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		m[path] = fmt.Sprint(st.Ino, st.Ctim, st.Mtim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// written lists what has changed on flash since before, directories with a slash.
func (r *router) written(t *testing.T, before map[string]string) []string {
	t.Helper()
	after := r.flash(t)
	var changed []string
	for path := range before {
		if after[path] == "" {
			changed = append(changed, path+" (gone)")
		}
	}
	for path, state := range after {
		if before[path] == state {
			continue
		}
		if info, err := os.Lstat(filepath.Join(r.root, path)); err == nil && info.IsDir() {
			path += "/"
		}
		changed = append(changed, path)
	}
	slices.Sort(changed)
	return changed
}

// device connects to gatewayd, publishes once with QoS 1 and waits for the answer.
func device(t *testing.T, ns *lab.Namespace, id string) error {
	t.Helper()
	conn, err := ns.Dial(lab.Within(t, 40*time.Second), "tcp", "127.0.0.1:1883")
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(40 * time.Second))
	var ack [8]byte
	if _, err := conn.Write(append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, byte(len(id))}, id...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, ack[:4]); err != nil || ack != [8]byte{0x20, 2, 0, 0} {
		return fmt.Errorf("CONNACK % x, %w", ack[:4], err)
	}
	if _, err := io.Copy(conn, strings.NewReader("\x32\x08\x00\x01a\x00\x01xyz")); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, ack[4:])
	if err == nil && string(ack[4:]) != "\x40\x02\x00\x01" {
		err = fmt.Errorf("PUBACK % x", ack[4:])
	}
	return err
}

// sending waits until gatewayd seals under an epoch other than one, and returns which.
func (s *shell) sending(not string) string {
	s.t.Helper()
	return strings.TrimSpace(s.await(`sealctl status --json 2>/dev/null | tr ',' '\n' | sed -n '/"controld":/q; s/.*"sending": *"\([^"]*\)".*/\1/p' | grep -v '^` + not + `$'`))
}

// Flash is written at the first start, on enrolment and on a change of policy, in these files and no others; by nothing else that happens.
func TestFlashIsWrittenRarely(t *testing.T) {
	t.Parallel()
	r, f := newRouter(t), newFleet(t)
	put(t, filepath.Join(f.dir, "policy.toml"), strings.Replace(read(t, filepath.Join(f.dir, "policy.toml")), `activate_after = "10s"`, `activate_after = "1s"`, 1))
	f.configure(t, r)
	r.ns = f.ns
	s := r.shell(t, 0)
	s.do(accounts)
	state := r.flash(t)
	step := func(what string, want ...string) {
		t.Helper()
		if got := r.written(t, state); !slices.Equal(got, want) {
			t.Errorf("%s has written\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		state = r.flash(t)
	}
	const start = "/etc/init.d/sealgate-gatewayd start; /etc/init.d/sealgate-controld start\n"
	const stop = "/etc/init.d/sealgate-gatewayd stop; /etc/init.d/sealgate-controld stop\n"
	devices := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			if err := device(t, f.ns, fmt.Sprint("d", n)); err != nil {
				t.Fatalf("device %d: %v\n%s", n, err, s.do("tail -n 20 /tmp/*.log"))
			}
		}
	}

	s.do(start)
	step("the first start", "etc/sealgate/", "etc/sealgate/identity/", "etc/sealgate/state/")
	s.do(start + stop + start)
	step("another start")
	ticket := f.ticket(t, "gw1")
	put(t, filepath.Join(r.root, "uci/ticket"), ticket)
	s.do("sealgate-enrol </uci/ticket")
	epoch := s.sending("")
	step("enrolment", "etc/sealgate/identity/", "etc/sealgate/identity/ca.crt", "etc/sealgate/identity/identity.crt", "etc/sealgate/identity/identity.key", "etc/sealgate/identity/policy.cose",
		"etc/sealgate/state/", "etc/sealgate/state/controld/", "etc/sealgate/state/controld/floor", "etc/sealgate/state/controld/policy.cose")
	devices(0, 100)
	step("messages and 100 connections")
	s.do("sealctl status; sealgate-enrol --status; sealctl doctor; /etc/init.d/sealgate-gatewayd check; /etc/init.d/sealgate-gatewayd reload; ACTION=ifup . /etc/hotplug.d/iface/50-sealgate")
	step("looking, and reload")
	for range 3 {
		s.do("sealctl rotate --group default --keylink /var/run/sealgate/link/keylink.sock")
		epoch = s.sending(epoch)
	}
	step("three rotations")
	for range 3 {
		s.do(stop + start)
		s.sending("")
	}
	s.do("for name in gatewayd controld; do kill -9 $(cat /var/run/$name.pid); while alive $name; do usleep 20000; done; live $name; done")
	s.sending("")
	devices(100, 120)
	step("restarts and crashes")
	f.run(t, "fleet", "add", f.dir, "--role", "subscriber", "--name", "bob")
	f.run(t, "policy", "sign", f.dir)
	f.publish(t)
	s.await(`sealctl status --json | grep -o '"policy_version": *2'`)
	step("a change of policy", "etc/sealgate/state/controld/", "etc/sealgate/state/controld/floor", "etc/sealgate/state/controld/policy.cose")
	f.run(t, "fleet", "revoke", f.dir, "--name", "bob")
	f.publish(t)
	s.sending(epoch)
	step("a revocation, and the keys that follow it", "etc/sealgate/state/controld/", "etc/sealgate/state/controld/floor", "etc/sealgate/state/controld/policy.cose")
	s.do(stop)
	step("the end")
}
