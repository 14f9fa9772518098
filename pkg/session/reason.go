package session

import "fmt"

// ReasonError is a refusal with the reason code that an MQTT 5 broker gave for it.
type ReasonError struct {
	What string // what was refused
	Code byte   // 0x80 and above [MQTT 5 2.4]
	Text string // the broker's own words; may be empty
}

// Error names the reason in the words of the standard, and repeats the broker's own.
func (e *ReasonError) Error() string {
	if e.What == connectionEnded {
		return e.What + ": " + e.why()
	}
	return "the broker refused " + e.What + ": " + e.why()
}

// why is the reason, with the broker's own words if it gave any.
func (e *ReasonError) why() string {
	s := fmt.Sprintf("%s (reason code 0x%02X)", reasonName(e.Code), e.Code)
	if e.Text != "" {
		s += fmt.Sprintf(": %q", e.Text[:min(len(e.Text), 200)])
	}
	return s
}

// Is makes every reason an [ErrRefused], but for those with which a broker ends a connection.
func (e *ReasonError) Is(target error) bool { return target == ErrRefused && e.What != connectionEnded }

// connectionEnded is the What of a DISCONNECT.
const connectionEnded = "the broker ended the connection"

// reasonNames are the reason codes of MQTT 5 2.4 from 0x80 on.
var reasonNames = [...]string{
	"unspecified error", "malformed packet", "protocol error", "implementation specific error", "unsupported protocol version",
	"client identifier not valid", "bad user name or password", "not authorized", "server unavailable", "server busy", "banned",
	"server shutting down", "bad authentication method", "keep alive timeout", "session taken over", "topic filter invalid",
	"topic name invalid", "packet identifier in use", "packet identifier not found", "receive maximum exceeded", "topic alias invalid",
	"packet too large", "message rate too high", "quota exceeded", "administrative action", "payload format invalid",
	"retain not supported", "QoS not supported", "use another server", "server moved", "shared subscriptions not supported",
	"connection rate exceeded", "maximum connect time", "subscription identifiers not supported", "wildcard subscriptions not supported",
}

func reasonName(code byte) string {
	if i := int(code) - 0x80; i >= 0 && i < len(reasonNames) {
		return reasonNames[i]
	}
	if code == 0 {
		return "normal disconnection"
	}
	return "unknown reason"
}
