package netns

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// nobody is an account that each system has.
const nobody = 65534

// TestConfined runs a gateway whose daemons have no more than they need: controld is started as nobody, gatewayd becomes nobody. Each
// thread of both is asked of the kernel. Devices are served, after a reload and after their interface was made again too.
func TestConfined(t *testing.T) {
	for _, c := range []struct {
		mode  string
		user  string
		uid   int
		keeps uint64
	}{
		{"tc", "", 0, 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF},
		{"tc", "nobody", nobody, 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF},
		{"tproxy", "nobody", nobody, 0},
		{"redirect", "nobody", nobody, 0},
		{"nfqueue", "nobody", nobody, 1 << unix.CAP_NET_ADMIN},
	} {
		t.Run(c.mode+" "+c.user, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			if p.Conf.Set("steer", "mode", c.mode); c.mode == "nfqueue" {
				passes(t, p)
			}
			if c.user != "" {
				p.Conf.Set("", "user", c.user)
			}
			p.WriteConf(t)
			p.Setup(t)
			giveAway(t, filepath.Dir(t.TempDir()), c.uid)
			startControldAs(t, p, uint32(c.uid))
			p.StartGatewayd(t)
			p.AwaitReady(t)
			checkThreads(t, p.Controld, c.uid, 0)
			checkThreads(t, p.Gatewayd, c.uid, c.keeps)

			d := startDevices(t, p.Topo.Sensor, 2, "start", p.DeviceAddr())
			d.awaitAcked(t, "start", 20)
			p.Gatewayd.Signal(syscall.SIGHUP)
			p.Controld.Signal(syscall.SIGHUP)
			for _, daemon := range []*lab.Proc{p.Gatewayd, p.Controld} {
				if err := daemon.AwaitLine(lab.Within(t, 20*time.Second), "reload:"); err != nil {
					t.Errorf("a reload while confined: %v", err)
				}
			}
			p.Topo.CutLAN(t)
			p.Topo.LayLAN(t)
			d.enter("interface-made-again")
			d.awaitAcked(t, "interface-made-again", 20)
		})
	}
}

// giveAway gives all files below dir, and the way to them, to a user.
func giveAway(t *testing.T, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, uid, uid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// startControldAs starts a copy of controld from where its user can reach it.
func startControldAs(t *testing.T, p *lab.Plant, uid uint32) {
	t.Helper()
	path := filepath.Join(filepath.Dir(p.ConfFile), "controld")
	// Copied by another process: a file that a child of this one may still have open for writing cannot be started.
	lab.MustRun(t, lab.Within(t, 20*time.Second), lab.Cmd{Path: lab.NeedTool(t, "cp"), Args: []string{p.Programs.Controld, path}})
	p.Controld = lab.Start(t, lab.Cmd{NS: p.GatewayNS(), Path: path, Args: []string{"-config", p.ConfFile}, User: uid})
	if err := p.Controld.AwaitLine(lab.Within(t, 20*time.Second), "controld runs"); err != nil {
		t.Fatal(err)
	}
}

// checkThreads asks the kernel what each thread of a process may do.
func checkThreads(t *testing.T, proc *lab.Proc, uid int, caps uint64) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", proc.Pid()))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		has := map[string]string{}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			has[key] = strings.Join(strings.Fields(value), " ")
		}
		for key, want := range map[string]string{
			"Uid": fmt.Sprintf("%[1]d %[1]d %[1]d %[1]d", uid), "Gid": fmt.Sprintf("%[1]d %[1]d %[1]d %[1]d", uid),
			"CapEff": fmt.Sprintf("%016x", caps), "CapPrm": fmt.Sprintf("%016x", caps), "CapInh": fmt.Sprintf("%016x", 0),
			"NoNewPrivs": "1", "Seccomp": "2",
		} {
			if has[key] != want {
				t.Errorf("%s, %s: %s is %q, %q expected", proc.Name, task, key, has[key], want)
			}
		}
	}
}
