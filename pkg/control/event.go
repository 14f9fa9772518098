package control

import (
	"log/slog"
	"time"

	"sealgate/pkg/checkpoint"
)

// Kind is the kind of a control message, as metrics and logs name it.
type Kind string

// The kinds of control messages.
const (
	KindHello      Kind = "hello"
	KindGrant      Kind = "grant"
	KindEpoch      Kind = "epoch"
	KindConfirm    Kind = "confirm"
	KindLease      Kind = "lease"
	KindCheckpoint Kind = checkpoint.Kind
	KindPolicy     Kind = "policy"
	KindUnknown    Kind = "unknown" // on no topic of ours, or of no readable kind
)

// Result is what became of a message.
type Result string

// The results. Sent, accepted and refused ones are counted in
// sealgate_control_messages_total{type,result}.
const (
	ResultSent     Result = "sent"
	ResultAccepted Result = "accepted"
	ResultRefused  Result = "refused"  // Event.Err says by which rule
	ResultIgnored  Result = "ignored"  // valid, and nothing new: an echo, a repeat, not ours to answer
	ResultDeferred Result = "deferred" // waits for the policy that it names
	ResultNote     Result = "note"     // not a message: something the operator should know, such as a new epoch or an alarm
)

// Event is one thing that happened, for logs.
type Event struct {
	At     time.Duration // Time.Mono
	Kind   Kind
	Result Result
	Group  string // "" if it is about none
	From   string // "role/name" of the sender, once verified
	Detail string // for people
	Err    error  // of a refusal: wraps one of this package's sentinels, or is the parser's or verifier's
	Alarm  bool   // an honest fleet with an honest broker does not cause it
}

// LogValue groups the event's set fields.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("type", string(e.Kind)), slog.String("result", string(e.Result))}
	for _, f := range []struct{ key, value string }{{"group", e.Group}, {"from", e.From}, {"detail", e.Detail}} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.key, f.value))
		}
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	return slog.GroupValue(attrs...)
}

// Counter is one series of sealgate_control_messages_total.
type Counter struct {
	Kind   Kind
	Result Result
}
