package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Error is a broker that cannot be used, in one line: what was tried, what is wrong, what to do.
type Error struct {
	Broker    Broker
	Problem   string // what is wrong, and what to do
	Permanent bool   // trying again will not help until somebody changes something
	Err       error
}

func (e *Error) Error() string { return fmt.Sprintf("broker %s: %s", e.Broker, e.Problem) }
func (e *Error) Unwrap() error { return e.Err }

// explain turns what a dial, a handshake, CONNACK or a read returned into an [Error].
func explain(b Broker, err error) error {
	if already, ok := errors.AsType[*Error](err); ok {
		return already
	}
	e := &Error{Broker: b, Err: err}
	for _, f := range []func(Broker, error) (string, bool){explainCertificate, explainConnack, explainReason, explainAlert} {
		if text, ok := f(b, err); ok {
			e.Problem, e.Permanent = text, true
			return e
		}
	}
	e.Problem = explainNetwork(b, err)
	return e
}

func explainCertificate(b Broker, err error) (string, bool) {
	var (
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		hostname x509.HostnameError
		record   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknown):
		return "its certificate is not signed by a CA that is trusted here; give the broker's CA file (sealctl: --cafile, sealgate.toml: ca)", true
	case errors.As(err, &hostname):
		return fmt.Sprintf("its certificate is not for %q; connect by a name the certificate carries, or issue one for this name", b.Host), true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("its certificate is not valid now (from %s to %s); renew it, or set this machine's clock",
			invalid.Cert.NotBefore.UTC().Format("2006-01-02 15:04"), invalid.Cert.NotAfter.UTC().Format("2006-01-02 15:04 MST")), true
	case errors.As(err, &invalid):
		return "its certificate cannot be used: " + invalid.Error(), true
	case errors.As(err, &record):
		return "it does not speak TLS on this port; use mqtt:// or the port of its TLS listener", true
	}
	return "", false
}

func explainConnack(_ Broker, err error) (string, bool) {
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword):
		return "it refused the user name or password; check them", true
	case errors.Is(err, packets.ErrorRefusedNotAuthorised):
		return "it does not authorise this user; give the right user name and password, or allow it in the broker's access list", true
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return "it refused the client id", true
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return "it does not speak MQTT 3.1.1", true
	}
	return "", false
}

// explainReason handles what MQTT 5 has reason codes for [MQTT 5 2.4].
func explainReason(_ Broker, err error) (string, bool) {
	r, ok := errors.AsType[*ReasonError](err)
	if !ok {
		return "", false
	}
	switch r.Code {
	case 0x84:
		return "it does not speak MQTT 5; use version 3.1.1 (sealctl: -V 311)", true
	case 0x85:
		return "it refused the client id", true
	case 0x86:
		return "it refused the user name or password; check them", true
	case 0x87:
		return "it does not authorise this user; give the right user name and password, or allow it in the broker's access list", true
	}
	return "", false
}

// explainAlert handles TLS alerts, with which the broker says what it holds against us.
func explainAlert(_ Broker, err error) (string, bool) {
	alert, ok := errors.AsType[tls.AlertError](err)
	text := err.Error()
	switch {
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"), strings.Contains(text, "unknown certificate"):
		return "it wants a TLS client certificate that it trusts; give one (sealctl: --cert and --key)", true
	case ok:
		return "it refused the TLS connection: " + alert.Error(), true
	case strings.Contains(text, "remote error: tls:"):
		return "it refused the TLS connection: " + text[strings.Index(text, "tls:"):], true
	}
	return "", false
}

func explainNetwork(b Broker, err error) string {
	var dns *net.DNSError
	var reason *ReasonError
	switch {
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %q cannot be resolved; check its spelling and this machine's DNS", b.Host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused; is the broker running, and is this its port?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to it; check this machine's network"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer within %s; check address, port and firewall", connectTimeout)
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "it answers that it is unavailable; it may still be starting"
	case errors.As(err, &reason) && reason.What == connectionEnded:
		return "it ended the connection: " + reason.why()
	case errors.As(err, &reason):
		return "it refused the connection: " + reason.why()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		if errors.Is(err, errHandshake) {
			return "it closed the connection during the TLS handshake; is this its TLS port? (mqtt:// speaks without TLS)"
		}
		if !b.TLS && !errors.Is(err, ErrLost) {
			return "it closed the connection before answering; if this is its TLS port, use mqtts://"
		}
		return "it closed the connection"
	}
	return "connection failed: " + strings.ReplaceAll(err.Error(), "\n", ": ")
}
