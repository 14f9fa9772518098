// Package control is the key exchange of a Sealgate fleet: who holds which
// payload keys, and when a gateway may seal under them.
//
// A [Machine] is one member's whole control protocol with the input and output
// taken out: it is given messages and the time, and gives back messages to publish,
// topics to subscribe to, a keyring when the keys have changed, and the moment at
// which it wants to be called again. It opens no socket, reads no clock and
// starts no goroutine, so every rule of docs/spec/control.md can be tested in virtual time.
// There is one Machine for every kind of member. What it does follows from its identity
// and the fleet policy: a subscriber asks for keys, a gateway also has its sending
// epoch confirmed, the leading keeper of a group mints and hands out the keys.
//
// The files follow the protocol: topics.go and message.go say where and how
// messages travel; hello.go, grant.go, epoch.go and confirm.go hold one format
// each; member.go is the asking side, keeper.go the answering side, leader.go the
// minting side; policy.go applies a fleet policy; keyring.go turns what is known into
// what the data plane may use. Every bound is a constant in limits.go.
package control

import (
	"io"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Time is a moment as a member knows it. Mono only grows, also while the machine
// sleeps (CLOCK_BOOTTIME); every timer runs on it. Wall is the best known civil
// time, never below the caller's clock floor; only certificates are held against it.
type Time struct {
	Mono time.Duration
	Wall time.Time
}

// Floor is the highest policy that this member has ever followed. Nothing older is
// accepted again, whatever the broker retains (F2). The zero Floor allows every version.
type Floor struct {
	Version uint64
	Hash    [32]byte
}

// Config is what a Machine is made from.
type Config struct {
	Identity *crypto.Identity // signs what this member says
	Trust    *crypto.Trust    // the fleet's certificate authority
	Policy   *policy.Signed   // the policy to start from; nil: wait for the broker's copy
	Floor    Floor            // the highest policy of earlier runs; an older Policy is not used
	Prefix   string           // first levels of every control topic, for example "sealgate"
	Rand     io.Reader        // secrets, nonces and jitter; crypto/rand.Reader outside tests

	// Keyless members follow and republish the policy but ask for no keys: `sealctl policy publish`.
	Keyless bool
	// ReadOnly members never seal, so they need no confirmation of an epoch; set it
	// for a subscriber that only listens, to keep rotation free of its messages.
	ReadOnly bool
}

// Publish is one message to send. Retain is set on the epoch and policy topics only.
type Publish struct {
	Topic   string
	Payload []byte
	Retain  bool
	QoS     byte
}

// Output is everything a Machine wants done since the last [Machine.Take]. Do it
// in this order: Unsubscribe, Subscribe (at QoS 1, waiting for the broker's
// acknowledgement), then Publish.
type Output struct {
	Unsubscribe []string
	Subscribe   []string
	Publish     []Publish
	Keyring     *crypto.Keyring // the new snapshot; nil if it has not changed
	Policy      *policy.Signed  // the policy now in force, to be persisted with its hash; nil if it has not changed
	Events      []Event
}

// Machine is one member's control protocol. It is not safe for concurrent use: its
// owner calls one method at a time and, after each, looks at [Machine.Take] and
// [Machine.Deadline].
type Machine struct{}

// New makes a Machine. It reports what is wrong with cfg, if anything.
func New(cfg Config) (*Machine, error) { return nil, nil }

// Connected tells that a session with the broker has begun. Take then names the
// topics to subscribe to, with a new inbox.
func (m *Machine) Connected(now Time) {}

// Disconnected tells that the session has ended.
func (m *Machine) Disconnected(now Time) {}

// Receive gives the machine a message that arrived. retained is the RETAIN flag it came with.
// The machine keeps no reference to payload.
func (m *Machine) Receive(now Time, topic string, payload []byte, retained bool) {}

// Advance tells the time; call it when [Machine.Deadline] has come.
func (m *Machine) Advance(now Time) {}

// Rotate starts a new epoch of group. Only the group's leader can, and only
// while it is connected.
func (m *Machine) Rotate(now Time, group string) error { return nil }

// UnknownKey tells that a message of group came under a key id that the keyring
// does not have.
func (m *Machine) UnknownKey(now Time, group string, id crypto.KeyID) {}

// ReportEpoch tells the highest epoch of group that this member's data plane holds
// keys of: after a restart of a keeper it is how the keeper knows where to go on.
func (m *Machine) ReportEpoch(now Time, group string, e crypto.Epoch) {}

// Deadline is the Mono time at which Advance wants to be called; false: no timer runs.
func (m *Machine) Deadline() (time.Duration, bool) { return 0, false }

// Take returns what has gathered since the last Take.
func (m *Machine) Take() Output { return Output{} }

// Status describes the machine at now.
func (m *Machine) Status(now Time) Status { return Status{} }
