// Package lab is the workbench of the tests that need more than one process: network namespaces joined by virtual cables,
// captures of everything that crosses a wire, brokers with throw-away certificates, the built programs and fleets for them.
//
// Nothing in it outlives the process that made it. A namespace is an open file descriptor and not a name under /run/netns,
// children die with their parent, and temporary directories carry the process id, so that the next run removes what a
// killed one left. The package serves test/demo as well, so it asks for T and not for *testing.T.
package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// T is what the workbench needs of a test. *testing.T, *testing.B and the demo's own runner provide it. Fatalf and Skipf do
// not return.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// Require skips the test when cond is false: the machine lacks what the test needs, and why says what. With
// SEALGATE_REQUIRE=1, as in continuous integration, the test fails instead, so that no test is lost unnoticed.
func Require(t T, cond bool, why string) {
	t.Helper()
	if cond {
		return
	}
	if os.Getenv("SEALGATE_REQUIRE") == "1" {
		t.Fatalf("%s (SEALGATE_REQUIRE=1 forbids skipping)", why)
	}
	t.Skipf("%s", why)
}

// NeedRoot requires root with the right to make network namespaces.
func NeedRoot(t T) {
	t.Helper()
	Require(t, os.Geteuid() == 0, "needs root")
	Require(t, canUnshare(), "needs the right to make network namespaces (CAP_SYS_ADMIN)")
}

// NeedTool requires a program on PATH (or in /usr/sbin) and returns its path.
func NeedTool(t T, name string) string {
	t.Helper()
	path, ok := FindTool(name)
	Require(t, ok, fmt.Sprintf("needs the program %s; make setup installs it", name))
	return path
}

// FindTool looks a program up on PATH and in the directories Debian keeps off a user's PATH.
func FindTool(name string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		return path, true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, true
		}
	}
	return "", false
}

// CanNamespace reports whether this process may make network namespaces.
func CanNamespace() bool { return os.Geteuid() == 0 && canUnshare() }

// canUnshare tries to make a network namespace. The thread must live on: it may be the one that started another test's programs, and
// they end with it (see Start).
func canUnshare() bool {
	return onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }) == nil
}

// FreePort returns a TCP port on 127.0.0.1 that was free a moment ago.
func FreePort(t T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Root returns the top directory of the source tree.
func Root(t T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find the source tree: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatalf("find the source tree: no go.mod above the working directory")
		}
		dir = parent
	}
}

// builds holds the one build of the programs that a process makes.
type builds struct {
	once sync.Once
	dir  string
	err  error
}

var built builds

// Programs are the paths of the built binaries.
type Programs struct {
	Gatewayd, Controld, Sealctl string
}

// Build returns the three programs, built once a process. SEALGATE_BIN names a directory that holds them already.
func Build(t T) Programs {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatalf("build the programs: %v", built.err)
	}
	return Programs{
		Gatewayd: filepath.Join(built.dir, "gatewayd"),
		Controld: filepath.Join(built.dir, "controld"),
		Sealctl:  filepath.Join(built.dir, "sealctl"),
	}
}

// build finds the programs' module by its name, so that a test in a module of its own builds them too.
func build() (string, error) {
	if dir := os.Getenv("SEALGATE_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	sweep()
	dir := filepath.Join(os.TempDir(), tempPrefix+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sealgate").Output()
	if err != nil {
		return "", fmt.Errorf("find the module sealgate: %w", err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/gatewayd", "./cmd/controld", "./cmd/sealctl")
	cmd.Dir = strings.TrimSpace(string(root))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
}

const tempPrefix = "sealgate-lab-"

// sweep removes the build directories of processes that are gone.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), tempPrefix))
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(dir)
		}
	}
}

// Main runs a package's tests and removes the programs that Build made: func TestMain(m *testing.M) { lab.Main(m) }.
func Main(m interface{ Run() int }) {
	code := m.Run()
	Clean()
	os.Exit(code)
}

// Clean removes what Build made.
func Clean() {
	if built.dir != "" && os.Getenv("SEALGATE_BIN") == "" {
		os.RemoveAll(built.dir)
	}
}
