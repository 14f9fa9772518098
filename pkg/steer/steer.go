// Package steer brings the devices' connections to gatewayd, and makes sure that what it does not bring there goes
// nowhere.
//
// Setup installs what must stand whether or not a daemon runs: a guard (an nftables table that drops forwarded TCP to
// the steered ports) and a policy route (which turns the same packets towards the local host, where nothing answers).
// Both stay when gatewayd dies; Teardown removes them. Listen opens the listener, loads the tc classifier and attaches
// it to every LAN interface; the classifier hands each packet of a steered connection to the listener or, where there
// is none, drops it. Where a kernel cannot run it, nftables does as much, by its tproxy or its redirect. The local
// address of an accepted connection is the address that the device dialled.
//
// Between the ports of a bridge (Options.Bridge) it is the same, but that the classifier stands at every port and sends
// across what is not steered, because Setup has the bridge itself send nothing across.
//
// Mode "listen" is an ordinary TCP listener: Setup and Teardown have nothing to do and no privilege is needed.
//
// All of it concerns the network namespace of the calling process.
package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"sealgate/pkg/steer/inpath"
)

// The steering modes, as in the configuration key steer.mode.
const (
	ModeTC       = "tc"
	ModeTProxy   = "tproxy"
	ModeRedirect = "redirect"
	ModeNFQueue  = "nfqueue"
	ModeListen   = "listen"
)

// Options is the [steer] section of the configuration and the one fact of [uplink] that steering depends on.
type Options struct {
	Mode        string   // one of the Mode constants
	LAN         []string // names of the interfaces that devices are behind; they need not exist yet
	Uplink      []string // names of the interfaces towards the broker; used in a bridge only
	Bridge      string   // set: stand between the ports LAN and Uplink of this bridge
	Ethertypes  []uint16 // kinds of frame that may cross the bridge beside ARP, IPv4 and IPv6, at most MaxEthertypes
	Ports       []uint16 // TCP destination ports to steer, at most MaxPorts
	Listen      string   // mode listen: host:port
	SpoofSource bool     // in a bridge: gatewayd's connections to the broker come from the devices' addresses
	FixedBroker bool     // uplink.broker is set: connections to the gateway's own addresses may be accepted
	Devices     DeviceRules
	Attach      string // "" chooses; AttachTCX or AttachClsact forces one
	ConfigFile  string // only for error messages that name the command to run

	Inherit *net.TCPListener // the Socket of the process that this one takes over from; nil: Listen opens one
}

// The ways to attach the classifier to an interface.
const (
	AttachTCX    = "tcx"    // a link pinned in bpffs; kernel 6.6 or newer
	AttachClsact = "clsact" // a filter of the clsact qdisc; any kernel, no bpffs
)

// ErrNotSetUp is wrapped by Listen's error when the guard or the policy route is missing.
var ErrNotSetUp = errors.New("the guard and the policy route are not installed")

// Setup installs the guard and the policy routes. It may be repeated, needs no running daemon, and what it installs
// stays. In mode listen there is nothing to install.
func Setup(o Options) error {
	if err := o.check(); err != nil || o.Mode == ModeListen {
		return err
	}
	if err := needCapabilities("install the guard and the policy route", capNetAdmin); err != nil {
		return err
	}
	if o.Mode == ModeNFQueue {
		return errors.Join(installGuard(o.Ports, o.LAN), removeRoutes(), relaxConntrack())
	}
	if err := installGuard(o.Ports, nil); err != nil { // first: from here on nothing crosses
		return err
	}
	bridge := removeBridgeGuard
	if o.bridged() {
		bridge = func() error { return setupBridge(o) }
	}
	err := errors.Join(bridge(), installRoutes(o.wantedRules()))
	if o.SpoofSource {
		err = errors.Join(err, checkReversePath(o.Bridge))
	}
	return err
}

// Teardown removes all that Setup and Listen left behind in this network namespace, whatever interfaces and ports they
// were given. The guard goes last. It may be repeated.
func Teardown(o Options) error {
	if o.Mode == ModeListen {
		return nil
	}
	if err := needCapabilities("remove the guard and the policy route", capNetAdmin); err != nil {
		return err
	}
	return errors.Join(detachAll(), removeInterception(), removeRoutes(), teardownBridge(o), removeGuard())
}

// Steering is a running redirection.
type Steering struct {
	Listener net.Listener // accepted connections have the dialled address as their LocalAddr

	socket   *net.TCPListener // below Listener; nil in mode nfqueue
	devices  *devices
	kernel   *kernelDevices  // mode tc, else nil
	unhear   func()          // likewise; ends what listens to the classifier
	queue    *inpath.Queue   // mode nfqueue, else nil
	carrier  *inpath.Carrier // likewise
	acceptor *acceptor       // modes tc, tproxy and redirect, else nil
	program  *program        // mode tc, else nil, like the next
	attacher *attacher
	stop     context.CancelFunc
	done     chan struct{} // closed when the watcher has ended
}

// Listen opens the listener and leads the connections of the LAN interfaces to it: in mode tc by the classifier, in the
// modes tproxy and redirect by an nftables table of its own. It refuses to steer when Setup has not been run. When ctx
// ends the listener closes; Close releases the rest.
func Listen(ctx context.Context, o Options, log *slog.Logger) (*Steering, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := o.Devices.check(o.Mode); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := listen(ctx, o, log)
	if err != nil {
		return nil, err
	}
	s.guardDevices(&o, log)
	return s, nil
}

func listen(ctx context.Context, o Options, log *slog.Logger) (*Steering, error) {
	switch o.Mode {
	case ModeListen:
		return listenPlain(ctx, o)
	case ModeNFQueue:
		return listenInPath(ctx, o, log)
	}
	return listenSteered(ctx, o, log)
}

func listenPlain(ctx context.Context, o Options) (*Steering, error) {
	l, err := o.Inherit, error(nil)
	if l == nil {
		l, err = openPlain(ctx, o.Listen)
	}
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	return &Steering{Listener: l, socket: l}, nil
}

func listenSteered(ctx context.Context, o Options, log *slog.Logger) (*Steering, error) {
	need := []capability{capNetAdmin}
	if o.Mode == ModeTC {
		need = append(need, capBPF)
	}
	if err := needCapabilities("steer in mode "+o.Mode, need...); err != nil {
		return nil, err
	}
	if err := checkSetup(o); err != nil {
		return nil, err
	}
	l, err := o.Inherit, error(nil)
	if l == nil {
		l, err = o.openListener(ctx)
	}
	if err != nil {
		return nil, err
	}
	s := &Steering{socket: l, acceptor: newAcceptor(l, o, log), done: make(chan struct{})}
	s.Listener = s.acceptor
	begin := s.intercept
	if o.Mode == ModeTC {
		begin = s.begin
	}
	w, err := begin(l, o, log)
	if err != nil {
		s.release()
		return nil, err
	}
	if err := clearOthers(o.Mode); err != nil {
		log.Warn("cannot remove what another mode has left; it may keep devices cut off", "error", err.Error())
	}
	ctx, s.stop = context.WithCancel(ctx)
	go func() { defer close(s.done); w.run(ctx) }()
	context.AfterFunc(ctx, func() { s.acceptor.Close() })
	return s, nil
}

// begin loads, configures and attaches the classifier, in this order, and returns the watcher that keeps it attached.
func (s *Steering) begin(l *net.TCPListener, o Options, log *slog.Logger) (w *watcher, err error) {
	if s.program, err = loadProgram(); err != nil {
		return nil, err
	}
	if err = s.program.configure(l, o.Ports); err != nil {
		return nil, err
	}
	if s.kernel, err = newKernelDevices(s.program, o.Devices); err != nil {
		return nil, err
	}
	if s.attacher, err = newAttacher(s.program, o, log); err != nil {
		return nil, err
	}
	if w, err = newWatcher(s.attacher, s.acceptor, log); err != nil {
		return nil, err
	}
	if err = s.attacher.attachAll(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// clearOthers removes what takes packets in other modes. It would drop them before they come to this one.
func clearOthers(mode string) error {
	switch mode {
	case ModeTC:
		return removeInterception()
	case ModeTProxy, ModeRedirect:
		return detachAll()
	}
	return errors.Join(detachAll(), removeInterception())
}

// Shut takes no new connections. Those that are open go on until Close.
func (s *Steering) Shut() error {
	if s.carrier != nil {
		s.carrier.Shut()
		return nil
	}
	return s.Close()
}

// Close closes the listener and stops watching interfaces. The classifier stays attached and drops every steered
// packet that belongs to no connection still open, so stopping never opens the way. It may be repeated.
func (s *Steering) Close() error {
	if s.stop == nil {
		return s.Listener.Close()
	}
	s.stop()
	<-s.done
	if s.unhear != nil {
		s.unhear()
	}
	s.release()
	return nil
}

func (s *Steering) release() {
	if s.queue != nil {
		s.carrier.Close()
		s.queue.Close()
		return
	}
	s.acceptor.Close()
	if s.devices != nil {
		s.devices.close()
	}
	if s.program != nil {
		s.program.close()
	}
}

// Socket is the listener that another process may go on with, as [Options].Inherit. Nil in mode nfqueue, whose connections are
// inside this process.
func (s *Steering) Socket() *net.TCPListener { return s.socket }

// Reclaim attaches the classifier again, in one step, where another process's has taken its place. Both assign to the same
// listener, if that one inherited it, so that no device notices. In other modes there is nothing to do, or no privilege left for it: there a
// process must not take over with another LAN or other ports.
func (s *Steering) Reclaim() error {
	if s.attacher == nil {
		return nil
	}
	return s.attacher.again()
}

// Attached says how the classifier is attached: interface name to AttachTCX or AttachClsact. Interfaces that do not
// exist at the moment are missing. Nil in mode listen.
func (s *Steering) Attached() map[string]string {
	if s.attacher == nil {
		return nil
	}
	return s.attacher.attached()
}

// check refuses what this version cannot steer, naming the configuration key.
func (o *Options) check() error {
	switch o.Mode {
	case ModeListen:
		if o.Listen == "" {
			return errors.New("steer.listen: empty; mode \"listen\" needs host:port, for example 127.0.0.1:1883")
		}
		return nil
	case ModeTC, ModeTProxy, ModeRedirect, ModeNFQueue:
	default:
		return fmt.Errorf("steer.mode: %q is not a mode; use \"tc\" on a routed gateway or \"listen\"", o.Mode)
	}
	if o.SpoofSource && (!o.bridged() || o.FixedBroker) {
		return errors.New("steer.spoof_source: only between the ports of a bridge, and to the broker that the device dialled; remove uplink.broker, or set it to false")
	}
	return errors.Join(o.checkLAN(), o.checkPorts(), o.checkAttach(), o.checkBridge())
}

func (o *Options) checkLAN() error {
	if len(o.LAN) == 0 {
		return fmt.Errorf("steer.lan: empty; mode %q needs the interfaces that devices are behind", o.Mode)
	}
	for _, name := range o.LAN {
		if name == "" || len(name) > maxInterfaceName || !validInterfaceName(name) {
			return fmt.Errorf("steer.lan: %q is not an interface name", name)
		}
		if name == "lo" || slices.Contains(o.Uplink, name) {
			return fmt.Errorf("steer.lan: %q cannot be steered: it is the loopback interface or also in steer.uplink", name)
		}
	}
	return nil
}

const maxInterfaceName = 15 // IFNAMSIZ less the NUL

// validInterfaceName keeps out what the kernel refuses in a name, and what would change the path of a pinned link.
func validInterfaceName(name string) bool {
	if name == "." || name == ".." {
		return false
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || r == '/' || r == ':' {
			return false
		}
	}
	return true
}

func (o *Options) checkPorts() error {
	if len(o.Ports) == 0 || len(o.Ports) > MaxPorts {
		return fmt.Errorf("steer.ports: %d ports; 1 to %d can be steered", len(o.Ports), MaxPorts)
	}
	if slices.Contains(o.Ports, 0) {
		return errors.New("steer.ports: 0 is not a port")
	}
	return nil
}

func (o *Options) checkAttach() error {
	switch o.Attach {
	case "", AttachTCX, AttachClsact:
		return nil
	}
	return fmt.Errorf("attach %q: not a way to attach; use %q, %q or nothing", o.Attach, AttachTCX, AttachClsact)
}

// command is the gatewayd command line that an error message tells the user to run.
func (o *Options) command(flag string) string {
	if o.ConfigFile == "" {
		return "gatewayd " + flag
	}
	return "gatewayd " + flag + " -config " + o.ConfigFile
}
