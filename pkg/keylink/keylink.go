// Package keylink is the unix socket on which controld and gatewayd meet.
//
// controld ([Listen]) holds the identity and the key-encryption keys; gatewayd
// ([Client]) holds neither. What crosses the socket is the least that the data plane can
// work with: the policy document and the payload secrets of the groups that this gateway
// may write or read, as one [Snapshot] at connect and one at every change. Back come
// unknown key ids, readiness and the heads of streams ([Report]); and what other members
// say, signed, that they have sealed, once controld has verified it, reaches the ledgers of gatewayd
// ([Server.Checkpoint]). A local administrator
// asks on the same socket ([Rotate], [Status]).
//
// Frames are length-prefixed deterministic CBOR arrays of at most [MaxFrame] bytes, as
// docs/spec/keylink.md specifies. The socket has mode 0660, and the kernel's word for who
// is at the other end (SO_PEERCRED) is checked on accept: the server's own user, root, or
// the socket's group.
//
// Either side may restart without the other. The client reconnects by itself, and gatewayd
// goes on with the keys it has.
package keylink

import (
	"time"

	"sealgate/pkg/crypto"
)

// ProtocolVersion is the version that both sides name in their first frame.
const ProtocolVersion = 3

// Snapshot is what controld tells gatewayd. Each one replaces the one before.
type Snapshot struct {
	Policy  []byte // policy.Document CBOR, verified by controld; empty: none yet
	Gateway string // the member name of this gateway

	// Keys holds, by group, the keys that this gateway may seal or open with. A group
	// that is missing is one that controld has no word about yet, as after its own
	// restart: gatewayd keeps what it has. An empty list takes the keys away.
	Keys map[string][]crypto.Key

	// Authority holds, by group, how long the keys that may seal may do so. Of a group that is missing what was said
	// before holds good; of which nothing ever was, nothing may be sealed.
	Authority map[string]Authority

	// Topics is the fleet's topic key; nil: no group that this gateway takes part in hides its topics, or controld has not
	// got it yet: gatewayd keeps what it has.
	Topics *crypto.TopicKey

	Epochs  map[string]EpochInfo // by group, for the gauges
	Control map[Counter]uint64   // control messages since controld started
}

// Authority is how long a group's keys may seal if controld says nothing more (docs/spec/control.md section 6.4). Times are
// on CLOCK_BOOTTIME, to the millisecond.
type Authority struct {
	Warn  time.Duration // when an operator should know
	Lapse time.Duration // when nothing may be sealed any more
}

// EpochInfo is the newest epoch of a group that controld knows.
type EpochInfo struct {
	Epoch crypto.Epoch
	Age   time.Duration // when the snapshot was made, to the millisecond
}

// Counter labels one count of control messages.
type Counter struct {
	Type   string // hello, grant, epoch, policy, confirm, ...
	Result string // sent, accepted, refused, ...
}

// Report is what gatewayd tells controld about itself when it connects and when it changes.
type Report struct {
	Ready   bool                    // it has a policy and keys, and accepts devices
	Held    map[string]crypto.Epoch // by group, the highest epoch it holds keys of
	Streams []Stream                // heads that have changed, at most MaxStreams; sent with Client.ReportStreams
	Listens []string                // groups whose checkpoints it wants, in order, at most MaxGroups
}

// Stream is the head of one stream: what has been used of it since the head before. Checkpoints are made of these.
type Stream struct {
	Group  string
	Topic  [32]byte // SHA-256 of the topic name
	Key    crypto.KeyID
	Stream crypto.StreamID
	From   uint64         // first sequence number since the report before
	Next   uint64         // the number after the last one sealed
	Burned []crypto.Range // of From to Next-1, numbers that never left; at most MaxBurned
	Final  bool           // the stream has ended
}
