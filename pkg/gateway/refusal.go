package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"sealgate/pkg/mqttparse"
)

// The words of sealgate_refused_total{reason}.
const (
	refusedConnections = "connections"     // limits.max_connections reached
	refusedAccept      = "accept"          // accept failed
	refusedTimeout     = "connect-timeout" // no whole CONNECT in time
	refusedMalformed   = "malformed"       // breaks the standard
	refusedTooLarge    = "too-large"       // over limits.max_message
	refusedNotReady    = "not-ready"       // no policy or no keys
	refusedRush        = "rush"            // no turn to open the uplink in time
	refusedUplink      = "uplink"          // the broker cannot be reached
	refusedConnAck     = "no-connack"      // the broker does not answer CONNECT
	refusedDenied      = "denied"          // by policy
	refusedNoKey       = "no-key"          // of a sealed topic's group
	refusedAlias       = "alias"           // topic alias out of range or unset
	refusedMemory      = "memory"          // too many large messages at once
	refusedBroker      = "broker"          // the broker breaks the standard
	refusedStalled     = "stalled"         // stopped sending in the middle of a large packet
	refusedRenamed     = "renamed"         // topics are hidden in another way than when the connection began
	refusedInternal    = "internal"        // a defect of ours, or no randomness
)

// refusal ends a connection for a reason that is counted, logged and, where MQTT can say it,
// told to the device.
type refusal struct {
	reason string // one of the refused words
	code   byte   // MQTT 5 reason code; 0: say nothing
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(reason string, code byte, text string) error {
	return &refusal{reason: reason, code: code, text: text}
}

// malformed wraps what mqttparse refuses of a device's bytes.
func malformed(err error) error {
	r := &refusal{reason: refusedMalformed, code: 0x81, text: err.Error()}
	var e *mqttparse.Error
	if errors.As(err, &e) {
		r.code = e.ReasonCode
	}
	if r.code == 0x95 {
		r.reason = refusedTooLarge
		r.text = "a packet is longer than limits.max_message allows: " + r.text
	}
	return r
}

func internalError(err error) error {
	return &refusal{reason: refusedInternal, code: 0x83, text: err.Error()}
}

// refused gives a refusal as it is, and makes any other error one of ours.
func refused(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		return err
	}
	return internalError(err)
}

// Ends of a direction that are nobody's fault.
var (
	errPeerGone = errors.New("the other side of the connection has gone")
	errStopped  = errors.New("the gateway is closing")
)

// endOfStream is the end of what a direction reads: io.EOF, a reset, a deadline.
type endOfStream struct{ err error }

func (e endOfStream) Error() string { return "connection ended: " + e.err.Error() }
func (e endOfStream) Unwrap() error { return e.err }

// ordinary reports whether a connection's end needs no log line.
func ordinary(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT)
}

// panicked turns a recovered panic into the one line that is logged of it.
func panicked(p any, where string) error {
	return &refusal{reason: refusedInternal, code: 0x83,
		text: fmt.Sprintf("defect in the gateway, please report it: %v at %s", p, where)}
}
