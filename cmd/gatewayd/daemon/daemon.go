// Package daemon is gatewayd: the wiring of steering, pipeline, uplink, keylink and metrics.
// It holds payload secrets and nothing else: no identity key, no key-encryption key, and no
// code of the control protocol.
package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/steer"
)

const usage = `gatewayd: the data plane of a Sealgate gateway
Usage: gatewayd -config FILE [-check | -setup | -teardown | -abilities | -takeover] [-log-format text|json] [-version]`

// flags are the command line.
type flags struct {
	config, format                  string
	check, setup, teardown, version bool
	abilities, takeover             bool
}

// Main runs gatewayd until env.Ctx ends and returns the exit code.
func Main(env cmdenv.Env) int {
	var f flags
	fs := env.Flags("gatewayd", usage)
	fs.StringVar(&f.config, "config", config.DefaultPath, "configuration `file`")
	fs.BoolVar(&f.check, "check", false, "check the configuration and the files it names, and exit")
	fs.BoolVar(&f.setup, "setup", false, "install the guard and the policy route, which stay, and exit")
	fs.BoolVar(&f.teardown, "teardown", false, "remove the guard and the policy route, and exit")
	fs.BoolVar(&f.abilities, "abilities", false, "print what this kernel can do for steering, one JSON object a line, and exit")
	fs.BoolVar(&f.takeover, "takeover", false, "if a gatewayd runs already, go on with its sockets once all is ready, and have it end")
	fs.StringVar(&f.format, "log-format", "text", "log as text or json")
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	if code, done := env.Parse(fs); done {
		return code
	}
	if f.version {
		fmt.Fprintln(env.Stdout, "gatewayd", cmdenv.Version())
		return cmdenv.OK
	}
	if f.abilities {
		return abilities(env)
	}
	log, err := env.Logger(f.format)
	if err != nil {
		env.Errorf("gatewayd: %v", err)
		return cmdenv.Usage
	}
	if one(f.check)+one(f.setup)+one(f.teardown)+one(f.takeover) > 1 {
		env.Errorf("gatewayd: -check, -setup, -teardown and -takeover exclude one another")
		return cmdenv.Usage
	}
	cfg, err := config.Load(f.config, config.Gateway)
	if err != nil {
		env.Errorf("%v", err)
		return cmdenv.Usage
	}
	return f.dispatch(env, cfg, log)
}

func (f *flags) dispatch(env cmdenv.Env, cfg *config.Config, log *slog.Logger) int {
	switch {
	case f.check:
		if err := cfg.CheckFiles(config.Gateway); err != nil {
			env.Errorf("%v", err)
			return cmdenv.Usage
		}
		fmt.Fprintf(env.Stdout, "%s: ok\n", cfg.File)
		return cmdenv.OK
	case f.setup:
		return report(env, setup(env, cfg))
	case f.teardown:
		return report(env, teardown(env, cfg))
	}
	return report(env, run(env, cfg, log, f.takeover))
}

// abilities prints what steering needs of this kernel, for `sealctl doctor`, which is spared the code that
// tries it.
func abilities(env cmdenv.Env) int {
	code := cmdenv.OK
	out := json.NewEncoder(env.Stdout)
	list := steer.Abilities()
	for i, a := range append(list, steer.Modes(list)...) {
		if !a.OK {
			code = cmdenv.Failed
		}
		line := cmdenv.Ability{Name: a.Name, OK: a.OK, Detail: a.Detail}
		if i >= len(list) {
			line.Name, line.Mode = "", a.Name
		}
		if err := out.Encode(line); err != nil {
			return report(env, err)
		}
	}
	return code
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// report prints a failure as one line.
func report(env cmdenv.Env, err error) int {
	if err == nil {
		return cmdenv.OK
	}
	env.Errorf("gatewayd: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	return cmdenv.Failed
}

func steerOptions(cfg *config.Config) steer.Options {
	s, attach := &cfg.Steer, ""
	if cfg.User != "" {
		attach = steer.AttachClsact // links are pinned where only root may
	}
	return steer.Options{
		Mode: s.Mode, LAN: s.LAN, Uplink: s.Uplink, Bridge: s.Bridge, Ethertypes: s.Ethertypes, Ports: s.Ports, Listen: s.Listen,
		SpoofSource: s.SpoofSource, FixedBroker: len(cfg.Uplink.Broker) > 0, ConfigFile: cfg.File, Attach: attach,
		Devices: deviceRules(&cfg.Devices),
	}
}

func setup(env cmdenv.Env, cfg *config.Config) error {
	o := steerOptions(cfg)
	guarded := steer.Guarded(o)
	if err := steer.Setup(o); err != nil {
		return err
	}
	if cfg.Steer.Mode == config.ModeListen {
		fmt.Fprintln(env.Stdout, "mode listen: nothing to install")
		return nil
	}
	fmt.Fprintf(env.Stdout, "guard installed: forwarded TCP to %s is dropped\n", portList(cfg.Steer.Ports))
	if !guarded {
		forget(env, o)
	}
	sayWay(env, cfg)
	modes := steer.Modes(steer.Abilities())
	for _, m := range modes {
		fmt.Fprintf(env.Stdout, "mode %s: %s\n", m.Name, m.Detail)
	}
	t, err := here()
	if t.Modes = modes; err == nil {
		err = t.keep(trialFile(cfg))
	}
	if err != nil {
		fmt.Fprintf(env.Stdout, "a start will not say so, for it cannot be kept: %v\n", err)
	}
	return refuseMode(cfg.Steer.Mode, modes, slog.New(slog.DiscardHandler))
}

// forget ends what was forwarded before there was a guard.
func forget(env cmdenv.Env, o steer.Options) {
	if n, err := steer.Forget(o); err != nil {
		fmt.Fprintf(env.Stdout, "connections from before may go on past the guard where a flow table carries them: %v\n", err)
	} else if n > 0 {
		fmt.Fprintf(env.Stdout, "connections from before forgotten by the kernel: %d\n", n)
	}
}

// sayWay says how devices' packets come to gatewayd from now on.
func sayWay(env cmdenv.Env, cfg *config.Config) {
	if cfg.Steer.Mode == config.ModeNFQueue {
		fmt.Fprintf(env.Stdout, "queue installed: TCP to and from %s behind %s goes to gatewayd\n", portList(cfg.Steer.Ports), strings.Join(cfg.Steer.LAN, ", "))
		return
	}
	from := strings.Join(cfg.Steer.LAN, ", ")
	if cfg.Steer.Bridge != "" {
		fmt.Fprintf(env.Stdout, "bridge %s closed: by %s nothing crosses until gatewayd has been started\n", cfg.Steer.Bridge, strings.Join(slices.Concat(cfg.Steer.LAN, cfg.Steer.Uplink), ", "))
		from = cfg.Steer.Bridge
	}
	fmt.Fprintf(env.Stdout, "policy route installed: TCP to %s from %s goes to gatewayd\n", portList(cfg.Steer.Ports), from)
}

func teardown(env cmdenv.Env, cfg *config.Config) error {
	if err := steer.Teardown(steerOptions(cfg)); err != nil {
		return err
	}
	if cfg.Steer.Mode == config.ModeListen {
		fmt.Fprintln(env.Stdout, "mode listen: nothing to remove")
		return nil
	}
	_ = os.Remove(trialFile(cfg)) // a missing one is as good
	fmt.Fprintln(env.Stdout, "classifier detached, redirection removed")
	fmt.Fprintln(env.Stdout, "policy route removed")
	fmt.Fprintf(env.Stdout, "guard removed: TCP to %s is forwarded in clear from now on\n", portList(cfg.Steer.Ports))
	return nil
}

func portList(ports []uint16) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprint(p)
	}
	if len(ports) == 1 {
		return "port " + words[0]
	}
	return "ports " + strings.Join(words, ", ")
}

// whoami is the member that the identity directory is for. gatewayd needs the name only.
func whoami(cfg *config.Config) (crypto.Member, error) {
	m, err := cfg.Member()
	if err != nil {
		return m, fmt.Errorf("identity: %w", err)
	}
	if m.Role != crypto.RoleGateway {
		return m, errors.New("identity: " + cfg.Identity + " has role " + string(m.Role) + "; gatewayd needs a gateway: enrol one with `sealctl fleet add --role gateway`")
	}
	return m, nil
}
