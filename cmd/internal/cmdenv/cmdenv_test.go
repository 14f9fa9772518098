package cmdenv

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"
)

// env is an Env with buffers; vars are its environment.
func env(vars map[string]string, args ...string) (Env, *bytes.Buffer) {
	var out bytes.Buffer
	return Env{Ctx: context.Background(), Args: args, Stdout: &out, Stderr: &out, Getenv: func(k string) string { return vars[k] }}, &out
}

func TestRunTurnsAPanicIntoOneLine(t *testing.T) {
	e, out := env(nil)
	if code := Run(func(Env) int { panic("a\nb") }, e); code != Failed {
		t.Errorf("exit code %d", code)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "internal error: a b:") {
		t.Errorf("said %q", got)
	}
	e, out = env(map[string]string{"SEALGATE_DEBUG": "1"})
	Run(func(Env) int { panic("a") }, e)
	if !strings.Contains(out.String(), "goroutine") {
		t.Error("no stack with SEALGATE_DEBUG=1")
	}
	if code := Run(func(Env) int { return 7 }, e); code != 7 {
		t.Errorf("exit code %d, want the program's own", code)
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		done bool
		said string
	}{
		{nil, OK, false, ""},
		{[]string{"-x"}, OK, false, ""},
		{[]string{"-y"}, Usage, true, "prog: flag provided but not defined: -y; -help lists the flags\n"},
		{[]string{"-x", "more"}, Usage, true, "prog: unexpected argument \"more\""},
		{[]string{"-h"}, OK, true, "how to use it"},
	} {
		e, out := env(nil, tt.args...)
		fs := e.Flags("prog", "how to use it")
		fs.Bool("x", false, "a flag")
		code, done := e.Parse(fs)
		if code != tt.code || done != tt.done || !strings.HasPrefix(out.String(), tt.said) {
			t.Errorf("%q: code %d, done %v, said %q", tt.args, code, done, out)
		}
	}
}

func TestLogger(t *testing.T) {
	e, out := env(nil)
	for format, want := range map[string]string{"text": "msg=hello", "json": `"msg":"hello"`} {
		out.Reset()
		log, err := e.Logger(format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("quiet")
		log.Info("hello")
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "quiet") {
			t.Errorf("%s: %q", format, out)
		}
	}
	if _, err := e.Logger("xml"); err == nil {
		t.Error("xml was accepted")
	}
	e, _ = env(map[string]string{"SEALGATE_DEBUG": "1"})
	if log, err := e.Logger("text"); err != nil || !log.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("SEALGATE_DEBUG=1 turns no debug messages on")
	}
}

func TestHangups(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e := Env{Ctx: ctx}
	hangups := e.Hangups()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-hangups:
		if s != syscall.SIGHUP {
			t.Errorf("got %v", s)
		}
	case <-time.After(20 * time.Second):
		t.Error("no SIGHUP arrived")
	}
	own := make(chan os.Signal)
	if e.Reload = own; e.Hangups() != (<-chan os.Signal)(own) {
		t.Error("Reload is not used")
	}
}

func TestMemory(t *testing.T) {
	if got := memTotal("MemFree: 1 kB\nMemTotal:         128000 kB\n"); got != 128000<<10 {
		t.Errorf("MemTotal read as %d", got)
	}
	for _, s := range []string{"", "MemTotal: x kB\n", "MemTotal:\n"} {
		if got := memTotal(s); got != 0 {
			t.Errorf("%q read as %d", s, got)
		}
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	LimitMemory(func(string) string { return "1GiB" }, 50)
	if debug.SetMemoryLimit(-1) != before {
		t.Error("GOMEMLIMIT is overruled")
	}
	LimitMemory(func(string) string { return "" }, 50)
	if debug.SetMemoryLimit(-1) == before {
		t.Error("no limit was set")
	}
}

func TestMemoryRules(t *testing.T) {
	for _, tt := range []struct {
		total int64
		env   map[string]string
		limit int64
		gc    int
	}{
		{0, nil, 0, 0},
		{128 << 20, nil, 128 << 20 / 100 * 40, 50},
		{256<<20 + 1, nil, (256<<20 + 1) / 100 * 40, 0},
		{128 << 20, map[string]string{"GOGC": "100"}, 128 << 20 / 100 * 40, 0},
		{128 << 20, map[string]string{"GOMEMLIMIT": "48MiB"}, 0, 50},
	} {
		if limit, gc := memoryRules(tt.total, 40, func(k string) string { return tt.env[k] }); limit != tt.limit || gc != tt.gc {
			t.Errorf("%d bytes, %v: limit %d, GOGC %d", tt.total, tt.env, limit, gc)
		}
	}
}
