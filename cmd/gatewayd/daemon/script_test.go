package daemon_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	controld "sealgate/cmd/controld/daemon"
	gatewayd "sealgate/cmd/gatewayd/daemon"
	"sealgate/cmd/internal/cmdenv"
	sealctl "sealgate/cmd/sealctl/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gatewayd": func() { command(gatewayd.Main) },
		"controld": func() { command(controld.Main) },
		"sealctl":  func() { cmdenv.Exec(sealctl.Main) },
		"panics":   func() { cmdenv.Exec(func(cmdenv.Env) int { panic("two\nlines") }) },
	})
}

// command runs a program in a process of its own, without any capability if the script
// says so: to root without them, the modes of files apply.
func command(main func(cmdenv.Env) int) {
	if os.Getenv("NO_CAPABILITIES") == "1" {
		withoutCapabilities()
	}
	cmdenv.Exec(main)
}

// withoutCapabilities runs this process anew with an empty bounding set, from which even
// root gets nothing. It returns in the new process only.
func withoutCapabilities() {
	runtime.LockOSThread() // exec takes the credentials of the thread that calls it
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	_ = os.Setenv("NO_CAPABILITIES", "done")
	self, err := os.Executable()
	if err == nil {
		err = syscall.Exec(self, os.Args, os.Environ())
	}
	panic(err)
}

// TestScripts: what a user sees of wrong calls, files and surroundings.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { l.Close() })
			env.Setenv("TAKEN", l.Addr().String())
			return enrol(filepath.Join(env.WorkDir, "identity"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fails": fails},
	})
}

// fails CODE LINES PROGRAM ARG...: the program exits with that code, having said so in that
// many lines, and shows no stack.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fails CODE LINES PROGRAM ARG...")
	}
	err := ts.Exec(args[2], args[3:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v, want exit code %s", err, args[0])
	}
	text := ts.ReadFile("stderr")
	var said []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "level=") { // the log is not the message
			said = append(said, line)
		}
	}
	if strconv.Itoa(len(said)) != args[1] {
		ts.Fatalf("%d lines, want %s:\n%s", len(said), args[1], text)
	}
	if strings.Contains(text, "goroutine ") || strings.Contains(text, ".go:") {
		ts.Fatalf("a stack trace:\n%s", text)
	}
}
