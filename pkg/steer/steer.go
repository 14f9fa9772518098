// Package steer brings the devices' connections to gatewayd, and makes sure that what it does not bring there goes
// nowhere.
//
// Setup installs what must stand whether or not a daemon runs: a guard (an nftables table that drops forwarded TCP to
// the steered ports) and a policy route (which turns the same packets towards the local host, where nothing answers).
// Both stay when gatewayd dies; Teardown removes them. Listen opens the listener, loads the tc classifier and attaches
// it to every LAN interface; the classifier hands each packet of a steered connection to the listener or, where there
// is none, drops it. The local address of an accepted connection is the address that the device dialled.
//
// Mode "listen" is an ordinary TCP listener: Setup and Teardown have nothing to do and no privilege is needed.
package steer

import (
	"context"
	"errors"
	"log/slog"
	"net"
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
	Uplink      []string // names of the interfaces towards the broker; unused in mode tc
	Bridge      string   // must be empty in this version
	Ports       []uint16 // TCP destination ports to steer, at most MaxPorts
	Listen      string   // mode listen: host:port
	SpoofSource bool     // must be false in this version
	FixedBroker bool     // uplink.broker is set: connections to the gateway's own addresses may be accepted
	Attach      string   // "" chooses; AttachTCX or AttachClsact forces one
	ConfigFile  string   // only for error messages that name the command to run
}

// The ways to attach the classifier to an interface.
const (
	AttachTCX    = "tcx"
	AttachClsact = "clsact"
)

// MaxPorts is the largest number of steered ports.
const MaxPorts = 64

// ErrNotSetUp is wrapped by Listen's error when the guard or the policy route is missing.
var ErrNotSetUp = errors.New("the guard and the policy route are not installed")

// Setup installs the guard and the policy routes. It may be repeated, needs no running daemon, and what it installs
// stays. In mode listen there is nothing to install.
func Setup(o Options) error { return errors.New("not built yet") }

// Teardown removes all that Setup and Listen left behind in this network namespace. It may be repeated.
func Teardown(o Options) error { return errors.New("not built yet") }

// Steering is a running redirection.
type Steering struct {
	Listener net.Listener // accepted connections have the dialled address as their LocalAddr
}

// Listen opens the listener and, in mode tc, attaches the classifier to the LAN interfaces. It refuses to steer when
// Setup has not been run. Ending ctx is the same as Close.
func Listen(ctx context.Context, o Options, log *slog.Logger) (*Steering, error) {
	return nil, errors.New("not built yet")
}

// Close closes the listener and stops watching interfaces. The classifier stays attached and drops every steered
// packet, so stopping never opens the way.
func (s *Steering) Close() error { return nil }

// Counters are the classifier's counts of packets since it was loaded.
type Counters struct {
	Assigned   uint64 // packets handed to the listener or to a connection of ours; a packet may hold many segments
	Segments   uint64 // TCP segments in them
	NoListener uint64 // dropped: no listener
	Fragment   uint64 // dropped: fragment of TCP
	Truncated  uint64 // dropped: header cut off
	Extension  uint64 // dropped: more IPv6 extension headers than the classifier follows
	VLAN       uint64 // dropped: steered traffic in an unexpected VLAN tag
	Failed     uint64 // dropped: the kernel refused the assignment
	Foreign    uint64 // packets of a host's own socket on a steered port, sent to our listener instead
	Refused    uint64 // connections closed after accept: to a port that is not steered, or to the gateway itself
}

// Counters reads the counts. In mode listen they are zero.
func (s *Steering) Counters() (Counters, error) { return Counters{}, nil }

// Ability is one thing that this kernel and this process can do, or cannot and why.
type Ability struct {
	Name   string // short, stable: "tcx", "clsact", "sk_assign", "nf_tables", "policy-route", "bpffs"
	OK     bool
	Detail string // what was tried and, when not OK, what is missing
}

// Abilities probes the kernel. It changes nothing that outlives the call.
func Abilities() []Ability { return nil }
