package confine

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// TestProcess confines a real process and has it try what it must not be able to do.
func TestProcess(t *testing.T) {
	lab.NeedRoot(t)
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, user := range []string{"", "nobody"} {
		t.Run("user="+user, func(t *testing.T) {
			top := t.TempDir()
			dir, file := filepath.Join(top, "state"), filepath.Join(top, "in", "file")
			if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, filepath.Join(top, "secret")} {
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for path := top; path != os.TempDir() && len(path) > 1; path = filepath.Dir(path) {
				if err := os.Chmod(path, 0o777); err != nil { // files are Landlock's matter here
					t.Fatal(err)
				}
			}
			out, err := exec.Command(probe, user, dir, file).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			landlock := !strings.Contains(string(out), "missing: Landlock")
			for what, want := range map[string]string{
				"write elsewhere": "permission denied", "write": "<nil>", "read": "<nil>", "read elsewhere": "permission denied", "exec": "not permitted",
				"mount": "not permitted", "bpf": "not permitted", "listen": "<nil>", "resolve": "<nil>",
			} {
				if n := strings.Count(string(out), "\n"+what+": "); n == 0 && !strings.HasPrefix(string(out), what+": ") {
					t.Errorf("%s was not tried", what)
				}
				if strings.HasSuffix(what, "elsewhere") && !landlock {
					continue
				}
				for line := range strings.Lines(string(out)) {
					if tried, got, _ := strings.Cut(line, ": "); tried == what && !strings.Contains(got, want) {
						t.Errorf("%s: got %q, %q expected", what, got, want)
					}
				}
			}
			if user != "" && !strings.Contains(string(out), "setuid: operation not permitted") {
				t.Error("it can become root again")
			}
			if strings.Contains(string(out), "missing") {
				t.Logf("%s", out)
			}
		})
	}
	out, err := exec.Command(probe, "no-such-user", "/nowhere", "/nowhere").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `user = "no-such-user": no such account`) {
		t.Errorf("got %v: %s", err, out)
	}
}

// TestFilter runs the filter of each architecture over system calls. The virtual machine of package bpf loads big-endian, as the
// kernel loads in its own order.
func TestFilter(t *testing.T) {
	for name, arch := range arches {
		var program []bpf.Instruction
		for _, f := range filter(arch, []uint32{4059, 7}) {
			program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ nr, arch, want uint32 }{
			{1, arch, answerAllow}, {0, arch, answerAllow}, {8, arch, answerAllow}, {7, arch, answerRefuse}, {4059, arch, answerRefuse},
			{1, arch ^ 2, answerKill}, {7, unix.AUDIT_ARCH_I386, answerKill},
		} {
			b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, c.nr), c.arch)
			got, err := vm.Run(append(b, make([]byte, 56)...))
			if err != nil || uint32(got) != c.want {
				t.Errorf("%s: call %d of %#x: %#x, %v; %#x expected", name, c.nr, c.arch, got, err, c.want)
			}
		}
		if b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, x32|7), arch); arch == unix.AUDIT_ARCH_X86_64 {
			if got, err := vm.Run(append(b, make([]byte, 56)...)); err != nil || uint32(got) != answerKill {
				t.Errorf("x32: %#x, %v", got, err)
			}
		}
	}
}
