package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/boottime"
	"sealgate/pkg/config"
	"sealgate/pkg/gateway"
	"sealgate/pkg/keylink"
	"sealgate/pkg/steer"
)

// drainTime is how long connections may finish what is under way after SIGTERM.
const drainTime = 3 * time.Second

// firstKeys is how long devices wait in the kernel's queue for a gatewayd that has just started to have policy and keys. From a controld
// that runs they come within milliseconds; without one, devices are told to come back.
const firstKeys = 500 * time.Millisecond

// memoryShare is the part of the machine's memory, in percent, that the Go runtime tries to
// stay within unless GOMEMLIMIT says otherwise. Buffers are bounded besides.
const memoryShare = 50

// daemon is a running gatewayd.
type daemon struct {
	log     *slog.Logger
	gateway *gateway.Gateway
	uplink  *uplinks
	link    *keylink.Client
	keys    *keyState
	renewed chan struct{} // capacity 1: the pipeline has got another state

	steering  atomic.Pointer[steer.Steering] // nil until it has begun
	perDevice atomic.Bool                    // devices.metrics

	untoldMu sync.Mutex
	untold   []keylink.Stream // guarded by untoldMu; heads that no report has taken yet

	stateMu sync.Mutex // held from finding out what the pipeline's state is to be until it is

	mu  sync.Mutex
	cfg *config.Config // guarded by mu; replaced by a reload
}

func run(env cmdenv.Env, cfg *config.Config, log *slog.Logger, takeover bool) (err error) {
	hangups := env.Hangups() // before anything else: an early SIGHUP must not end the program
	cmdenv.LimitMemory(env.Getenv, memoryShare)
	d, err := assemble(env, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.gateway.Close()) }()
	in, err := inherit(cfg, takeover)
	if err != nil {
		return err
	}
	defer in.close()
	if in.metrics, err = listenMetrics(cfg.Metrics.Listen, in.metrics); err != nil {
		return err
	}
	// Its own context: at SIGTERM the drain decides when connections end, not the signal.
	options := steerOptions(cfg)
	options.Inherit = in.devices
	steering, err := steer.Listen(context.WithoutCancel(env.Ctx), options, log)
	if err != nil {
		if cfg.Steer.Mode == config.ModeListen {
			return err
		}
		return cmp.Or(refuseMode(cfg.Steer.Mode, steer.Modes(steer.Abilities()), log), err)
	}
	defer steering.Close()
	d.steering.Store(steering)
	sayModes(cfg, log)
	if err := d.confine(env); err != nil {
		return err
	}
	return d.work(env, hangups, in, steering)
}

// work runs what a gatewayd consists of, once its sockets are open, until env.Ctx ends or another gatewayd takes over.
func (d *daemon) work(env cmdenv.Env, hangups <-chan os.Signal, in *inheritance, steering *steer.Steering) error {
	ctx, cancel := context.WithCancel(env.Ctx)
	// What draining connections send is told to controld after ctx has ended.
	linked, unlink := context.WithCancel(context.WithoutCancel(ctx))
	telling, told := context.WithCancel(linked)
	defer told()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer unlink()
	defer cancel()
	var defect atomic.Bool
	help := func(helper func()) {
		helpers.Go(func() {
			defer env.Recover(func() { defect.Store(true); cancel() })
			helper()
		})
	}
	help(func() { _ = d.link.Run(linked) })
	help(func() { d.tellStreams(telling) })
	help(func() { d.watchAuthority(ctx) })
	help(func() { d.gateway.Watch(ctx) })
	help(func() { d.reloads(ctx, hangups) })
	if err := d.takeOver(ctx, in, steering); err != nil {
		return err
	}
	d.awaitKeys(ctx, firstKeys)
	closeMetrics := d.serveMetrics(in.metrics)
	defer closeMetrics()
	o := offer{d, in.name, steering, in.metrics, make(chan parting, 1)}
	help(func() { o.serve(ctx) })
	d.advise()
	d.log.Info("gatewayd runs", "mode", d.cfg.Steer.Mode, "listen", steering.Listener.Addr().String(), "keylink", d.cfg.Keylink, "version", cmdenv.Version())
	err := d.serve(ctx, steering, o.parting, closeMetrics)
	told()
	d.tellLast()
	if err != nil || !defect.Load() {
		return err
	}
	return errDefect
}

// refuseMode logs in which modes this kernel can steer and why not in the others, and is why it cannot in this one; nil if it can, or
// if that could not be tried for want of privilege. It is for a start that has failed: trying all modes takes longer, on a busy
// machine, than all else until devices are served again.
func refuseMode(mode string, modes []steer.Ability, log *slog.Logger) error {
	var can []string
	var refused error
	for _, m := range modes {
		switch {
		case m.OK:
			can = append(can, m.Name)
			continue
		case m.Untried:
			log.Info("not known whether this kernel can steer", "mode", m.Name, "why", m.Detail)
		case m.Name == mode:
			refused = fmt.Errorf("steer.mode = %q: %s", mode, m.Detail)
		default:
			log.Info("this kernel cannot steer", "mode", m.Name, "why", m.Detail)
		}
	}
	if len(can) > 0 {
		log.Info("this kernel can steer", "modes", strings.Join(can, " "))
	}
	if refused != nil && len(can) > 0 {
		return fmt.Errorf("%w; or set steer.mode to one that it can: %s, then run `gatewayd -setup` again", refused, strings.Join(can, ", "))
	}
	return refused
}

// errDefect ends the program after a panic that has been reported.
var errDefect = errors.New("stopped after an internal error")

// advise names what works, and yet may not be meant.
func (d *daemon) advise() {
	if !d.cfg.Uplink.TLS {
		d.log.Warn("uplink.tls = false: payloads are sealed, but everybody on the uplink reads topics, client ids and passwords")
	}
	host, _, err := net.SplitHostPort(d.cfg.Metrics.Listen)
	if addr, parseErr := netip.ParseAddr(host); err == nil && host != "localhost" && (parseErr != nil || !addr.IsLoopback()) {
		d.log.Warn("metrics.listen: whoever reaches it sees device addresses and client ids; it asks for no password", "listen", d.cfg.Metrics.Listen)
	}
}

// assemble makes everything that needs no privilege and listens nowhere.
func assemble(env cmdenv.Env, cfg *config.Config, log *slog.Logger) (*daemon, error) {
	self, err := whoami(cfg)
	if err != nil {
		return nil, err
	}
	d := &daemon{log: log, cfg: cfg, uplink: new(uplinks), keys: newKeyState(self.Name), renewed: make(chan struct{}, 1)}
	if err := d.uplink.configure(cfg); err != nil {
		return nil, err
	}
	d.perDevice.Store(cfg.Devices.Metrics)
	d.link = keylink.NewClient(cfg.Keylink, keylink.ClientOptions{
		Log:         log,
		OnSnapshot:  d.snapshot,
		OnConnected: d.connected,

		OnCheckpoint: d.checkpointArrived,
		OnHeard:      func(yes bool) { d.gateway.Hear(yes) },
	})
	d.gateway = gateway.New(gateway.Config{
		MaxMessage:     cfg.Limits.MaxMessage,
		MaxConnections: cfg.Limits.MaxConnections,
		ConnectTimeout: cfg.Limits.ConnectTimeout,
		Gateway:        self.Name,
		ControlPrefix:  cfg.Control.Prefix,
		TellStatus:     cfg.Downlink.TellStatus,
		Dial:           d.uplink.dial,
		Refuses:        d.refuses,
		UnknownKey:     d.link.ReportUnknown,
		Log:            log,
	})
	return d, nil
}

// serve serves devices until ctx ends or another gatewayd takes over, then lets them finish.
func (d *daemon) serve(ctx context.Context, steering *steer.Steering, takenOver <-chan parting, closeMetrics func()) error {
	served := make(chan error, 1)
	go func() { served <- d.gateway.Serve(context.WithoutCancel(ctx), steering.Listener) }()
	select {
	case err := <-served:
		return err
	case p := <-takenOver:
		return d.part(ctx, p, steering, served, closeMetrics)
	case <-ctx.Done():
	}
	d.log.Info("stopping: no new connections; open ones may finish", "for", drainTime)
	_ = steering.Shut()
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := d.gateway.Drain(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	d.log.Info("gatewayd ended")
	return nil
}

// snapshot applies what controld sent.
func (d *daemon) snapshot(s keylink.Snapshot, renewed bool) {
	d.keys.stats(s)
	if !renewed {
		d.keys.renew(s.Authority)
		d.enforce(boottime.Now())
		return
	}
	d.stateMu.Lock()
	defer d.stateMu.Unlock()
	state, notes, err := d.keys.merge(s, boottime.Now())
	for _, note := range notes {
		d.log.Log(context.Background(), note.level, "keylink: "+note.text, note.args...)
	}
	switch {
	case state == nil:
		d.log.Error("keylink: snapshot refused, going on with the keys at hand", "error", err)
		return
	case err != nil:
		d.log.Error("keylink: a new policy without keys: devices are told to come back", "error", err)
	}
	d.gateway.SetState(state)
	select {
	case d.renewed <- struct{}{}:
	default:
	}
	d.link.Report(d.report())
}

// awaitKeys waits until there are policy and keys: true, or false if they do not come in time.
func (d *daemon) awaitKeys(ctx context.Context, most time.Duration) bool {
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	for !d.gateway.Ready() {
		select {
		case <-d.renewed:
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// reloads follows SIGHUP.
func (d *daemon) reloads(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			d.reload()
		}
	}
}
