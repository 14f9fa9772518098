package openwrt

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

// shell is a shell in a router whose procd starts what it is told to. It stays, and with it the daemons; /var and /tmp are in memory, as
// OpenWrt has them.
type shell struct {
	t    *testing.T
	in   io.Writer
	said chan string
}

func (r *router) shell(t *testing.T, flags uintptr) *shell {
	t.Helper()
	r.put(t, "/live", "")
	cmd := exec.CommandContext(lab.Within(t, 5*time.Minute), "/bin/sh")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.root, Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS | flags, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := r.ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, in: in, said: make(chan string)}
	go func() {
		defer close(s.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.said <- lines.Text() + "\n"
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range s.said {
		}
		cmd.Wait()
	})
	s.do("/bin/busybox mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /var && mkdir /var/run && mount -t tmpfs tmpfs /tmp && chmod 1777 /tmp")
	return s
}

// do runs a script and returns what it says.
func (s *shell) do(script string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.in, "( . /lib/functions.sh; . /lib/live.sh\n"+script+"\n) </dev/null 2>&1; echo \"exit: $?\"\n"); err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for line := range s.said {
		if line == "exit: 0\n" {
			return out.String()
		}
		if strings.HasPrefix(line, "exit: ") {
			s.t.Fatalf("%s%s", line, out.String())
		}
		out.WriteString(line)
	}
	s.t.Fatalf("the shell has ended\n%s", out.String())
	return ""
}

// await runs a condition of the shell's until it holds; if it never does, the daemons' words are shown.
func (s *shell) await(condition string) string {
	s.t.Helper()
	return s.do(`left=1200
until said=$(` + condition + `); do
	left=$((left - 1))
	[ $left -gt 0 ] || { echo "never: $said"; tail -n 20 /tmp/*.log; exit 1; }
	usleep 100000
done
echo "$said"`)
}
