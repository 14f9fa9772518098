// Package daemon is controld: one member of the fleet on the control broker, and the socket
// on which gatewayd gets its policy and payload secrets. It holds the identity key and
// the key-encryption keys, and meets no device's traffic. Without a gatewayd it is a keeper
// that runs alone.
package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

const usage = `controld: the control plane of a Sealgate gateway, or a keeper that runs alone
Usage: controld -config FILE [-check | -forget-clock] [-log-format text|json] [-version]
       controld -join TICKET [-config FILE] [-broker URL] [-cafile FILE] [-identity DIR] [-wait TIME] [-force]`

// Main runs controld until env.Ctx ends and returns the exit code.
func Main(env cmdenv.Env) int {
	fs := env.Flags("controld", usage)
	file := fs.String("config", config.DefaultPath, "configuration `file`")
	check := fs.Bool("check", false, "check the configuration and the files it names, and exit")
	forget := fs.Bool("forget-clock", false, "forget the time that earlier runs noted in state, and exit: for a clock that was ahead then")
	format := fs.String("log-format", "text", "log as text or json")
	version := fs.Bool("version", false, "print the version and exit")
	var join joinFlags
	join.register(fs)
	if code, done := env.Parse(fs); done {
		return code
	}
	if *version {
		fmt.Fprintln(env.Stdout, "controld", cmdenv.Version())
		return cmdenv.OK
	}
	log, err := env.Logger(*format)
	if err != nil {
		env.Errorf("controld: %v", err)
		return cmdenv.Usage
	}
	named, joins := given(fs, "config"), given(fs, "join")
	if other := join.alone(fs); other != "" && !joins {
		env.Errorf("controld: -%s means nothing without -join", other)
		return cmdenv.Usage
	}
	if joins {
		return runJoin(env, join, *file, named, log)
	}
	cfg, err := config.Load(*file, config.Controller)
	if err != nil {
		env.Errorf("%v", err)
		return cmdenv.Usage
	}
	switch {
	case *check:
		return runCheck(env, cfg)
	case *forget:
		return runForgetClock(env, cfg)
	}
	if err := run(env, cfg, log); err != nil {
		env.Errorf("controld: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return cmdenv.Failed
	}
	return cmdenv.OK
}

// given reports whether a flag was set.
func given(fs *flag.FlagSet, name string) (yes bool) {
	fs.Visit(func(f *flag.Flag) { yes = yes || f.Name == name })
	return yes
}

func runCheck(env cmdenv.Env, cfg *config.Config) int {
	err := cfg.CheckFiles(config.Controller)
	if err == nil {
		_, err = load(cfg)
	}
	if err != nil {
		env.Errorf("%v", err)
		return cmdenv.Usage
	}
	fmt.Fprintf(env.Stdout, "%s: ok\n", cfg.File)
	return cmdenv.OK
}

// load reads everything that the member needs from the files that cfg names.
func load(cfg *config.Config) (member.Config, error) {
	id, trust, signed, err := member.LoadIdentity(cfg.Identity)
	if err != nil {
		return member.Config{}, err
	}
	self := id.Member()
	if self.Fleet != cfg.Fleet {
		return member.Config{}, fmt.Errorf("identity %s belongs to fleet %q, but fleet = %q in %s: correct one of them", cfg.Identity, self.Fleet, cfg.Fleet, cfg.File)
	}
	if self.Role != crypto.RoleGateway && self.Role != crypto.RoleKeeper {
		return member.Config{}, fmt.Errorf("identity %s has role %s; controld runs as gateway or keeper: enrol one with `sealctl fleet add --role gateway`", cfg.Identity, self.Role)
	}
	topics, err := member.LoadTopicSecret(cfg.Identity)
	if err != nil {
		return member.Config{}, err
	}
	conf, err := tlsConfig(cfg)
	if err != nil {
		return member.Config{}, err
	}
	password, err := cfg.Control.Password()
	if err != nil {
		return member.Config{}, fmt.Errorf("control.password_file: %w", err)
	}
	keep, anywhere := keepDir(cfg)
	return member.Config{
		Identity: id, Trust: trust, Policy: signed, Topics: topics,
		Broker: cfg.Control.Broker, TLS: conf, Username: cfg.Control.Username, Password: password,
		Prefix: cfg.Control.Prefix, StateDir: stateDir(cfg), RareClock: cfg.RareClock, KeepDir: keep, KeepAnywhere: anywhere,
	}, nil
}

func stateDir(cfg *config.Config) string { return filepath.Join(cfg.State, "controld") }

// keepDir is where a keeper's keys outlive this program: beside the socket, where that is in memory; or where the operator
// wants them, whatever is below.
func keepDir(cfg *config.Config) (dir string, anywhere bool) {
	switch cfg.Keep {
	case config.KeepAuto:
		return strings.TrimSuffix(cfg.Keylink, ".sock") + ".keys", false
	case config.KeepNone:
		return "", false
	}
	return cfg.Keep, true
}

func tlsConfig(cfg *config.Config) (*tls.Config, error) {
	conf, err := session.TLSFiles(cfg.Control.CA, cfg.Control.Cert, cfg.Control.Key)
	if err != nil {
		return nil, fmt.Errorf("[control] in %s: %w", cfg.File, err)
	}
	conf.ServerName = cfg.Control.ServerName
	return conf, nil
}

// daemon is a running controld.
type daemon struct {
	cfg    *config.Config
	log    *slog.Logger
	trust  *crypto.Trust
	member *member.Member
	server *keylink.Server
	gate   gatewayReport
	wants  wants
}

// memoryShare is the part of the machine's memory, in percent, that the Go runtime tries to
// stay within unless GOMEMLIMIT says otherwise.
const memoryShare = 25

func run(env cmdenv.Env, cfg *config.Config, log *slog.Logger) error {
	hangups := env.Hangups() // before anything else: an early SIGHUP must not end the program
	cmdenv.LimitMemory(env.Getenv, memoryShare)
	mc, err := load(cfg)
	if err != nil {
		return err
	}
	mc.Log = log
	d := &daemon{cfg: cfg, log: log, trust: mc.Trust}
	mc.Choosy, mc.Checkpoints = true, d.passCheckpoints
	mc.OnBroker = func(err error) { d.server.Heard(err == nil) }
	ctx, cancel := context.WithCancel(env.Ctx)
	defer cancel()
	d.server, err = keylink.Listen(cfg.Keylink, d.options())
	if err != nil {
		return err
	}
	defer d.server.Close()
	if err := confined(env, cfg, log); err != nil {
		return err
	}
	// Nobody is answered before Serve, so what answers may count on the member.
	// It ends with Close, which has last words to say, and not with ctx.
	if d.member, err = member.Start(context.WithoutCancel(ctx), mc); err != nil {
		return err
	}
	log.Info("controld runs", "member", mc.Identity.Member().String(), "broker", cfg.Control.Broker, "keylink", cfg.Keylink, "version", cmdenv.Version())
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(ctx) }()
	go d.reloads(ctx, hangups)
	go watchExpiry(ctx, log, mc.Identity, func() time.Time { return d.member.Now().Wall })
	d.publish(ctx)
	cancel()
	err = errors.Join(<-served, d.member.Close())
	log.Info("controld ended")
	return err
}

// reloads follows SIGHUP: a newer policy.cose in the identity directory is followed. All
// else in the configuration needs a restart, which costs gatewayd nothing.
func (d *daemon) reloads(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			if err := d.reload(ctx); err != nil {
				d.log.Error("reload refused, going on as before", "error", err)
			}
		}
	}
}

func (d *daemon) reload(ctx context.Context) error {
	if _, err := config.Load(d.cfg.File, config.Controller); err != nil {
		return err
	}
	path := filepath.Join(d.cfg.Identity, member.PolicyFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	signed, err := policy.Verify(d.trust, raw, d.member.Now().Wall)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var version uint64
	if now := d.member.State().Policy; now != nil {
		version = now.Document.Version
	}
	if signed.Document.Version <= version {
		d.log.Info("reload: the policy in force is not older; other changes of the configuration need a restart", "file", path, "version", signed.Document.Version, "in_force", version)
		return nil
	}
	d.log.Info("reload: following a newer policy", "file", path, "version", signed.Document.Version)
	return d.member.OfferPolicy(ctx, raw)
}
