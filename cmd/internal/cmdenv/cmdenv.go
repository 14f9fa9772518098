// Package cmdenv is what a Sealgate program may touch of the process it runs in: its
// arguments, streams, environment, signals and exit code, as one value that is handed to
// it. A program written against an [Env] also runs inside a test, or as one name of a
// multi-call binary.
package cmdenv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"sealgate/pkg/confine"
)

// Exit codes of every program.
const (
	OK     = 0 // done
	Failed = 1 // tried, and it did not work
	Usage  = 2 // wrong arguments or a wrong configuration file: trying again changes nothing
)

// Env is a program's surroundings.
type Env struct {
	Ctx    context.Context // ends at SIGINT or SIGTERM
	Args   []string        // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string

	// Confine is [confine.Process]; nil: the process has other work besides, as a test's has.
	Confine func(confine.Options) (missing []string, err error)

	// Reload replaces SIGHUP, for tests; nil: the process's own signal. See Hangups.
	Reload <-chan os.Signal
}

// Exec runs main in the environment of this process and exits with its code. The first SIGINT or
// SIGTERM ends Ctx, so that main can finish properly; the second one ends the process.
func Exec(main func(Env) int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(Run(main, Env{
		Ctx: ctx, Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
	}))
}

// Confined is main for a process that has no other work: it may give up what the process may do.
func Confined(main func(Env) int) func(Env) int {
	return func(env Env) int {
		env.Confine = confine.Process
		return main(env)
	}
}

// Run runs main and returns its exit code. A panic becomes one line and [Failed]; with
// SEALGATE_DEBUG=1 in the environment the stack is printed too. Panics of other goroutines
// cannot be caught here: those use [Env.Recover].
func Run(main func(Env) int, env Env) (code int) {
	defer env.Recover(func() { code = Failed })
	return main(env)
}

// Recover turns a panic, when deferred, into one line on Stderr and calls then.
func (e Env) Recover(then func()) {
	r := recover()
	if r == nil {
		return
	}
	text := strings.ReplaceAll(fmt.Sprint(r), "\n", " ")
	e.Errorf("internal error: %s: this is a defect of the program; run it with SEALGATE_DEBUG=1 to see where, and report it", text)
	if e.Getenv != nil && e.Getenv("SEALGATE_DEBUG") == "1" {
		_, _ = e.Stderr.Write(debug.Stack())
	}
	then()
}

// Errorf prints one line to Stderr.
func (e Env) Errorf(format string, args ...any) {
	fmt.Fprintln(e.Stderr, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// Hangups delivers each SIGHUP until Ctx ends. Calling it keeps SIGHUP from ending the process.
func (e Env) Hangups() <-chan os.Signal {
	if e.Reload != nil {
		return e.Reload
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	context.AfterFunc(e.Ctx, func() { signal.Stop(c) })
	return c
}

// Logger makes the program's log on Stderr in the format text or json. SEALGATE_DEBUG=1
// turns debug messages on.
func (e Env) Logger(format string) (*slog.Logger, error) {
	opt := &slog.HandlerOptions{}
	if e.Getenv != nil && e.Getenv("SEALGATE_DEBUG") == "1" {
		opt.Level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(e.Stderr, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(e.Stderr, opt)), nil
	}
	return nil, fmt.Errorf("-log-format %q: use text or json", format)
}

// Flags makes a flag set that prints to Stderr and does not exit.
func (e Env) Flags(name, usage string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(e.Stderr)
	fs.Usage = func() {
		fmt.Fprintln(e.Stderr, usage)
		fs.PrintDefaults()
	}
	return fs
}

// Parse parses Args with fs, which takes flags only. done says that the program is to exit
// with code: after a request for help, or because of a mistake that has been printed.
func (e Env) Parse(fs *flag.FlagSet) (code int, done bool) {
	var mistake strings.Builder
	usage, out := fs.Usage, fs.Output()
	fs.SetOutput(&mistake)
	fs.Usage = func() {}
	err := fs.Parse(e.Args)
	fs.SetOutput(out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return OK, true
	case err != nil:
		e.Errorf("%s: %v; -help lists the flags", fs.Name(), err)
		return Usage, true
	case fs.NArg() > 0:
		e.Errorf("%s: unexpected argument %q: this program takes flags only; -help lists them", fs.Name(), fs.Arg(0))
		return Usage, true
	}
	return OK, false
}

// Ability is a line that `gatewayd -abilities` prints and `sealctl doctor` reads: one thing that the kernel can do for
// steering, or cannot and why.
type Ability struct {
	Name   string `json:"name,omitempty"`
	Mode   string `json:"mode,omitempty"` // in place of Name: all of what this steering mode needs
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Version is the version of this build: that of the module, or its revision.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value[:min(len(s.Value), 12)]
		}
	}
	if info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
