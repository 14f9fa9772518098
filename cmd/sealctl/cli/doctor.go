package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
)

func doctorCommand() *command {
	return &command{
		name: "doctor", args: "[flags]", short: "check this machine: configuration, identity, kernel, brokers, clock", run: runDoctor,
		long: `
Check what a gateway or keeper needs on this machine and say what to do about each thing that is
missing. Exit code 1 if anything is.`,
	}
}

// findings collects what the doctor has found, and prints it as it comes.
type findings struct {
	env cmdenv.Env
	bad int
}

func (f *findings) ok(what, detail string) {
	fmt.Fprintf(f.env.Stdout, "ok    %-18s %s\n", what, detail)
}

func (f *findings) fail(what string, err error) {
	f.bad++
	for i, line := range strings.Split(err.Error(), "\n") {
		if i > 0 {
			what = ""
		}
		fmt.Fprintf(f.env.Stdout, "FAIL  %-18s %s\n", what, line)
	}
}

func (f *findings) note(what, detail string) {
	fmt.Fprintf(f.env.Stdout, "note  %-18s %s\n", what, detail)
}

// check reports detail if err is nil.
func (f *findings) check(what, detail string, err error) bool {
	if err != nil {
		f.fail(what, err)
		return false
	}
	f.ok(what, detail)
	return true
}

func runDoctor(env cmdenv.Env, c *command, args []string) error {
	var path string
	o := newOptions(c)
	o.text(&path, "config", config.DefaultPath, "FILE", "sealgate.toml of the daemons (default "+config.DefaultPath+")")
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	f := &findings{env: env}
	cfg, err := config.Load(path)
	if f.check("configuration", path, err) {
		f.check("its files", "all there", cfg.CheckFiles(config.Gateway, config.Controller))
		f.identity(cfg)
		f.brokers(env.Ctx, cfg)
	} else {
		f.clock(time.Time{})
	}
	switch {
	case cfg == nil:
		f.kernel(env.Ctx, config.ModeTC)
	case cfg.Steer.Mode == config.ModeListen:
		f.note("kernel", fmt.Sprintf("steering mode %q needs nothing special", cfg.Steer.Mode))
	default:
		f.kernel(env.Ctx, cfg.Steer.Mode)
	}
	if f.bad > 0 {
		fmt.Fprintf(env.Stdout, "\n%d of these need attention.\n", f.bad)
		return errSilent
	}
	return nil
}

// identity checks the identity directory, which only its owner may be able to read.
func (f *findings) identity(cfg *config.Config) {
	id, _, signed, err := member.LoadIdentity(cfg.Identity)
	if errors.Is(err, os.ErrPermission) {
		f.note("identity", fmt.Sprintf("%v; run this as root to check it", err))
		f.clock(time.Time{})
		return
	}
	if f.check("identity", cfg.Identity, err) {
		m := id.Member()
		if m.Fleet != cfg.Fleet {
			f.fail("fleet", fmt.Errorf("the configuration says %q, the identity is of fleet %q; correct one of them", cfg.Fleet, m.Fleet))
		}
		f.note("member", fmt.Sprintf("%s %q of fleet %q, until %s", m.Role, m.Name, m.Fleet, id.NotAfter().Format(time.DateOnly)))
		if signed != nil {
			f.note("policy", fmt.Sprintf("enrolled with version %d", signed.Document.Version))
		}
		f.clock(id.NotBefore())
		return
	}
	f.clock(time.Time{})
}

// clock finds a clock that cannot be right: before the identity was issued, or before this program's time.
func (f *findings) clock(issued time.Time) {
	now := time.Now()
	if now.Before(issued) || now.Year() < 2025 {
		f.fail("clock", fmt.Errorf("it says %s, which is past; set it, or let NTP do so", now.UTC().Format(time.RFC3339)))
		return
	}
	f.ok("clock", now.UTC().Format(time.RFC3339))
}

// brokers connects to every broker that the configuration names, with TLS verified.
func (f *findings) brokers(ctx context.Context, cfg *config.Config) {
	t, err := session.TLSFiles(cfg.Control.CA, cfg.Control.Cert, cfg.Control.Key)
	if err != nil {
		f.fail("control broker", err)
	} else {
		t.ServerName = cfg.Control.ServerName
		for _, u := range cfg.Control.Broker {
			b, err := session.ParseBroker(u)
			if err == nil {
				err = session.Reach(ctx, b, t)
			}
			f.check("control broker", u, err)
		}
	}
	if len(cfg.Uplink.Broker) == 0 {
		f.note("uplink", "goes to whatever broker a device dials")
		return
	}
	if t, err = session.TLSFiles(cfg.Uplink.CA, cfg.Uplink.Cert, cfg.Uplink.Key); err != nil {
		f.fail("uplink", err)
		return
	}
	t.ServerName = cfg.Uplink.ServerName
	for _, addr := range cfg.Uplink.Broker {
		host, _, err := net.SplitHostPort(addr)
		b := session.Broker{Addr: addr, Host: host, TLS: cfg.Uplink.TLS}
		if err == nil {
			err = session.Reach(ctx, b, t)
		}
		f.check("uplink", b.String(), err)
	}
}

// kernel asks gatewayd what steering needs, and has: the code that tries it is gatewayd's alone. That a mode is not
// possible is a fault only of the configured one.
func (f *findings) kernel(ctx context.Context, mode string) {
	program, err := findBeside("gatewayd")
	if err != nil {
		f.note("kernel", "not checked: gatewayd is not installed here, beside sealctl or on PATH")
		return
	}
	out, err := exec.CommandContext(ctx, program, "-abilities").Output()
	shown := 0
	for lines := json.NewDecoder(bytes.NewReader(out)); ; shown++ {
		var a cmdenv.Ability
		if lines.Decode(&a) != nil {
			break
		}
		what := "kernel " + a.Name
		if a.Mode != "" {
			what = "steering mode " + a.Mode
		}
		switch {
		case a.OK:
			f.ok(what, a.Detail)
		case a.Mode == mode:
			f.fail(what, errors.New(a.Detail))
		default:
			f.note(what, a.Detail)
		}
	}
	if shown == 0 {
		f.fail("kernel", fmt.Errorf("%s -abilities tells nothing (%v); is it of the same version as sealctl?", program, err))
	}
}

// findBeside returns the program of that name beside this one, else the one on PATH.
func findBeside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	return exec.LookPath(name)
}
