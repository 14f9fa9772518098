// Package member runs one member's side of the control protocol: it puts a
// [control.Machine], which does no I/O, onto an MQTT connection, a clock and a state
// directory, and publishes what the machine learns (the fleet policy and the
// keys) as an immutable [State] that others read without a lock.
//
// One goroutine owns the machine. Messages from the broker, the timer and
// requests of the program reach it through channels; what it wants published or
// subscribed goes to the current connection in order. Losing the broker
// loses nothing: the keys stay, the connection comes back by itself after a
// jittered pause, and the machine is told of both.
package member

import (
	"context"
	"crypto/tls"
	"log/slog"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Config says who the member is and which broker carries its control messages.
type Config struct {
	Identity *crypto.Identity // the member's key and certificate
	Trust    *crypto.Trust    // the fleet's CA
	Policy   *policy.Signed   // the newest policy known, from the enrolment bundle; nil: wait for the broker's

	Broker   []string    // mqtt:// or mqtts:// URLs, tried in this order
	TLS      *tls.Config // for mqtts; nil: the system's CAs. Verification cannot be switched off
	Username string
	Password string
	Prefix   string // topic prefix of the control messages; empty: "sealgate"

	StateDir string              // where version, hash and policy are kept, 0700; empty: nothing is kept
	Log      *slog.Logger        // nil: slog.Default()
	Clock    func() control.Time // nil: CLOCK_BOOTTIME and the wall clock, see [Clock]
}

// State is what the data plane needs, immutable once published.
type State struct {
	Policy *policy.Signed  // nil until a policy is known
	Table  *policy.Table   // of Policy; nil with it
	Keys   *crypto.Keyring // never nil; empty until keys arrive
}

// Member is a running member. Its methods may be called from any goroutine.
type Member struct{}

// Start checks cfg, starts the member and returns at once; the broker need not
// be reachable. The member runs until ctx ends or Close is called.
func Start(ctx context.Context, cfg Config) (*Member, error) { return &Member{}, nil }

// State returns the newest state. It is never nil.
func (m *Member) State() *State { return nil }

// Changed returns a channel that is closed when the state changes next. Take the channel
// first and read State after, so that no change is missed.
func (m *Member) Changed() <-chan struct{} { return nil }

// UnknownKey asks the keepers for a key that was met in an envelope and is not
// in the keyring. It never blocks; queries are limited by the machine.
func (m *Member) UnknownKey(group string, id crypto.KeyID) {}

// Rotate mints a new epoch of a group now and returns it, if this member leads the group.
func (m *Member) Rotate(ctx context.Context, group string) (crypto.Epoch, error) {
	return crypto.Epoch{}, nil
}

// Status returns the machine's own account of itself.
func (m *Member) Status() control.Status { return control.Status{} }

// Close ends the member, says goodbye to the broker and waits until both are done.
func (m *Member) Close() error { return nil }

// LoadIdentity reads the directory that `sealctl fleet add` made.
func LoadIdentity(dir string) (*crypto.Identity, *crypto.Trust, *policy.Signed, error) {
	return nil, nil, nil, nil
}
