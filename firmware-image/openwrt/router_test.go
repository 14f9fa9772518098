package openwrt

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

var at = time.Unix(1_767_323_045, 0)

// program is the path of `sealgate` for this machine.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sealgate-openwrt-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/sealgate", "sealgate/cmd/sealgate")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir + "/sealgate", nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	lab.Clean()
	os.Exit(code)
}

// router is a root directory with the package unpacked into it by tar, busybox for all tools, the real nft, and stand-ins for what
// OpenWrt has besides.
type router struct {
	root string
	ns   *lab.Namespace // the network that it is in; nil: the machine's
}

func newRouter(t *testing.T) *router {
	t.Helper()
	lab.NeedRoot(t)
	r := &router{root: t.TempDir()}
	// TempDir's parents are for root alone; the daemons' accounts must get through, and see no more than the root.
	if err := os.Chmod(r.root, 0o755); err != nil {
		t.Fatal(err)
	}
	r.unpack(t)
	r.tools(t)
	err := fs.WalkDir(os.DirFS("testdata/router"), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			r.copy(t, filepath.Join("testdata/router", name), "/"+name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"proc", "sys", "dev", "var/run", "tmp", "uci", "sys/class/net"} {
		if err := os.MkdirAll(filepath.Join(r.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.put(t, "/etc/passwd", "root:x:0:0:root:/root:/bin/ash\n")
	r.put(t, "/etc/group", "root:x:0:\n")
	r.put(t, "/log", "")
	r.put(t, "/dev/null", "")
	return r
}

// unpack installs the package, but runs none of its scripts.
func (r *router) unpack(t *testing.T) {
	t.Helper()
	p, err := Daemons(".", "x86_64", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	r.install(t, write(t, p))
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r.copy(t, binary, "/usr/sbin/sealgate") // in place of the empty one: it need not be packed for each test
}

// install unpacks a package as opkg does, with tar.
func (r *router) install(t *testing.T, ipk []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.ipk")
	if err := os.WriteFile(file, ipk, 0o600); err != nil {
		t.Fatal(err)
	}
	script := `tar -xzOf "$1" ./data.tar.gz | tar -xzpf - -C "$2" && mkdir -p "$2/usr/lib/opkg/info" && cd "$2/usr/lib/opkg/info" &&
tar -xzOf "$1" ./control.tar.gz | tar -xzf - && for f in control conffiles postinst prerm; do mv "$f" "sealgate.$f"; done &&
tar -xzOf "$1" ./data.tar.gz | tar -tzf - | sed -n 's,^\.\(/.*[^/]\)$,\1,p' >sealgate.list`
	if out, err := exec.Command("/bin/sh", "-c", script, "sh", file, r.root).CombinedOutput(); err != nil {
		t.Fatalf("unpacking: %v\n%s", err, out)
	}
}

// tools puts busybox and nft into the root.
func (r *router) tools(t *testing.T) {
	t.Helper()
	r.copy(t, lab.NeedTool(t, "busybox"), "/bin/busybox")
	if err := os.Symlink("busybox", filepath.Join(r.root, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	nft := lab.NeedTool(t, "nft")
	r.copy(t, nft, "/usr/sbin/nft")
	libraries, err := exec.Command("ldd", nft).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", nft, err)
	}
	for _, word := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			r.copy(t, word, word)
		}
	}
}

func (r *router) copy(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, to, string(b))
	if err := os.Chmod(filepath.Join(r.root, to), info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

func (r *router) put(t *testing.T, name, content string) {
	t.Helper()
	name = filepath.Join(r.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read returns a file, empty if it is not there.
func (r *router) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(r.root, name))
	return string(b)
}

// uci sets options: "sealgate/main/fleet" to a value, "sealgate/steer/lan.1" to the first of a list.
func (r *router) uci(t *testing.T, options map[string]string) {
	t.Helper()
	for option, value := range options {
		r.put(t, "/uci/"+option, value)
	}
}

// run runs a shell script in the root and returns what it prints. flags are the namespaces that it gets besides its own mounts:
// CLONE_NEWNET for a network.
func (r *router) run(t *testing.T, flags uintptr, script string, stdin ...string) (out string, code int) {
	t.Helper()
	mounts := "/bin/busybox mount -t proc proc /proc || exit 99\n"
	if flags&syscall.CLONE_NEWNET != 0 {
		mounts += "/bin/busybox mount -t sysfs sysfs /sys || exit 99\n"
	}
	cmd := exec.CommandContext(lab.Within(t, 3*time.Minute), "/bin/sh", "-c", mounts+script)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin = strings.NewReader(strings.Join(stdin, ""))
	// The script is the first of processes of its own: when it ends, all have ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.root, Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS | flags, Pdeathsig: syscall.SIGKILL}
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := r.ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if cmd.ProcessState == nil {
		t.Fatalf("the script did not start: %v", err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// must is run for a script that succeeds.
func (r *router) must(t *testing.T, flags uintptr, script string, stdin ...string) string {
	t.Helper()
	out, code := r.run(t, flags, script, stdin...)
	if code != 0 {
		t.Fatalf("exit %d\n%s\nlog:\n%s", code, out, r.read("/log"))
	}
	return out
}
