// Package control is the key exchange of a Sealgate fleet: who holds which
// payload keys, and when a gateway may seal under them.
//
// A [Machine] is one member's whole control protocol with the input and output
// taken out: it is given messages and the time, and gives back messages to publish,
// topics to subscribe to, a keyring when the keys have changed, and the moment at
// which it wants to be called again. It opens no socket, reads no clock and
// starts no goroutine, so every rule of docs/spec/control.md can be tested in virtual time.
// There is one Machine for every kind of member. What it does follows from its identity
// and the fleet policy: a subscriber asks for keys, a gateway also has it
// confirmed now and then that what it seals under is current, the leading keeper of a group mints and hands out the keys.
//
// The files follow the protocol: topics.go and message.go say where and how
// messages travel; hello.go, grant.go, epoch.go and confirm.go hold one format
// each; member.go is the asking side, keeper.go the answering side, leader.go the
// minting side; unwrap.go opens what was announced; keep.go hands a keeper's keys to its next run; policy.go applies a fleet policy; keyring.go turns what is known into
// what the data plane may use; observer.go looks on without taking part. Every
// bound is a constant in limits.go.
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
	Identity *crypto.Identity    // signs what this member says
	Trust    *crypto.Trust       // the fleet's certificate authority
	Policy   *policy.Signed      // the policy to start from; nil: wait for the broker's copy
	Floor    Floor               // the highest policy of earlier runs; an older Policy is not used
	Topics   *crypto.TopicSecret // of a keeper of groups that hide their topics, which derives the topic key from it; nil: it has none
	Prefix   string              // first levels of every control topic, for example "sealgate"
	Rand     io.Reader           // secrets, nonces and jitter; crypto/rand.Reader outside tests

	// Keyless members follow the policy but ask for no keys and keep none: an operator's tool.
	Keyless bool
	// ReadOnly members never seal, so they need no confirmation of an epoch; set it
	// for a subscriber that only listens, to keep rotation free of its messages.
	ReadOnly bool
	// Checkpoints has the machine receive the checkpoints of the groups that this member may read: for a program that
	// receives data.
	Checkpoints bool
	// Keep has the machine put out, in Output.Keep, what a keeper of groups must be given again after a restart of its program; Kept
	// is what the run before on this machine put out last, by group. The machine clears nothing of it.
	Keep bool
	Kept map[string][]byte
	// GrantRate bounds a keeper's HPKE operations a second; 0 means [GrantRate]. A keeper on
	// a server that serves a large fleet takes more.
	GrantRate int
}

// Publish is one message to send. Retain is set on the epoch and policy topics only.
type Publish struct {
	Topic   string
	Payload []byte
	Retain  bool
	QoS     byte
}

// Output is everything a Machine wants done since the last [Machine.Take]. Do it
// in this order: store Keep, Unsubscribe, Subscribe (at QoS 1, waiting for the broker's
// acknowledgement), then Publish.
type Output struct {
	Unsubscribe []string
	Subscribe   []string
	Publish     []Publish
	Keep        []Kept          // to be stored before anything is published, else an epoch could be lost that others use
	Keyring     *crypto.Keyring // the new snapshot; nil if it has not changed
	Policy      *policy.Signed  // the policy now in force, to be persisted with its hash; nil if it has not changed
	Events      []Event
	Checkpoints []ReceivedCheckpoint // verified, in the order of their arrival; see Config.Checkpoints
}
