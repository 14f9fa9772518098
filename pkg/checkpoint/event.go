package checkpoint

import (
	"errors"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
)

// What is an [Event].
type What uint8

// The events. Dropped, Silent, Withheld, Unattributed and Disputed are what an honest fleet with an
// honest broker and no lost QoS 0 message does not cause.
const (
	Dropped      What = iota + 1 // From to To of Stream were sent and have not arrived an interval later
	Recovered                    // From to To of what was reported as dropped has arrived after all
	Burned                       // From to To of Stream were never sent: not a gap
	Silent                       // Gateway has not been heard of for two intervals
	Heard                        // Gateway is heard of again
	Withheld                     // checkpoints From to To of Gateway are missing
	Unattributed                 // messages up to number To of Stream came, and no gateway says that it sent them
	Disputed                     // Gateway claims Stream, which Other has claimed, or which came on another topic
	Crowded                      // more streams or gateways than the ledger has room for; those longest unused are forgotten
)

// String names the event as status and logs do.
func (w What) String() string {
	names := [...]string{"dropped", "recovered", "burned", "silent", "heard", "withheld", "unattributed", "disputed", "crowded"}
	if w == 0 || int(w) > len(names) {
		return "unknown"
	}
	return names[w-1]
}

// Alarm reports whether an operator should look.
func (w What) Alarm() bool {
	return w == Dropped || w == Silent || w == Withheld || w == Unattributed || w == Disputed
}

// Event is something that a ledger found out. Fields that do not apply are zero.
type Event struct {
	At      time.Duration
	What    What
	Gateway string     // the member that claims the stream, or that the event is about
	Other   string     // of Disputed
	Kid     crypto.Kid // key id and stream id
	Topic   [32]byte   // SHA-256 of the stream's topic, once a message of it has arrived
	From    uint64
	To      uint64
}

// String describes the event for people.
func (e Event) String() string {
	switch e.What {
	case Silent, Heard, Crowded:
		return fmt.Sprintf("%s %s", e.Gateway, e.What)
	case Withheld:
		return fmt.Sprintf("%s: checkpoints %d to %d withheld", e.Gateway, e.From, e.To)
	case Disputed:
		return fmt.Sprintf("stream %v: claimed by %s and by %s", e.Kid.StreamID(), e.Other, e.Gateway)
	}
	return fmt.Sprintf("stream %v of %q: %d to %d %s", e.Kid.StreamID(), e.Gateway, e.From, e.To, e.What)
}

// ErrReplay refuses a checkpoint that is not newer than one already taken from its sender.
var ErrReplay = errors.New("checkpoint is not newer than one already taken from its sender: a replay")

// ErrCrowded refuses checkpoints of more senders than a ledger has room for.
var ErrCrowded = errors.New("too many senders of checkpoints in one group")
