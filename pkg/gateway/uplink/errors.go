package uplink

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
	"time"
)

// The reasons under which failures are counted.
const (
	ReasonRefused     = "refused"     // nothing listens there
	ReasonUnreachable = "unreachable" // no route
	ReasonTimeout     = "timeout"     // no answer in time
	ReasonName        = "name"        // host name cannot be resolved
	ReasonUntrusted   = "untrusted"   // certificate not signed by the configured CA
	ReasonExpired     = "expired"     // certificate not valid now
	ReasonMismatch    = "mismatch"    // certificate is for another name
	ReasonNotTLS      = "not-tls"     // the peer does not speak TLS
	ReasonRejected    = "rejected"    // the broker refused the handshake, usually our certificate
	ReasonClosed      = "closed"      // closed or reset during the handshake
	ReasonOther       = "other"
)

// Reasons lists all of them.
func Reasons() []string {
	return []string{ReasonRefused, ReasonUnreachable, ReasonTimeout, ReasonName, ReasonUntrusted, ReasonExpired, ReasonMismatch, ReasonNotTLS, ReasonRejected, ReasonClosed, ReasonOther}
}

// Error is a failed attempt to reach the broker.
type Error struct {
	Reason string // one of the Reason words
	Text   string // what failed and what to do, one line
	Err    error  // the cause
}

// Error returns the text, without the cause: it says the same in other words.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason gives the word under which err is counted: that of an [*Error] in it, else "other".
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ReasonOther
}

func newError(reason string, err error, format string, args ...any) *Error {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")
	return &Error{Reason: reason, Text: text, Err: err}
}

// dialError explains a failure to open the TCP connection.
func dialError(addr string, err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return newError(ReasonName, err, "broker %s: cannot resolve %q (%s); check uplink.broker and the gateway's DNS", addr, dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return newError(ReasonRefused, err, "broker %s: connection refused; check that the broker runs and listens there (uplink.broker, uplink.port)", addr)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return newError(ReasonUnreachable, err, "broker %s: no route to it; check the uplink interface and routes", addr)
	case isTimeout(err):
		return newError(ReasonTimeout, err, "broker %s: no answer in time; check the address and firewalls on the way", addr)
	}
	return newError(ReasonOther, err, "broker %s: %v", addr, err)
}

// tlsError explains a failed handshake.
func (d *Dialer) tlsError(ctx context.Context, addr, name string, err error) error {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &authority):
		return newError(ReasonUntrusted, err, "broker %s: broker certificate is not signed by uplink.ca %s; put the CA that issued it there", addr, d.caName())
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return newError(ReasonExpired, err, "broker %s: broker certificate is not valid now (%s); renew it, or set this gateway's clock (it says %s)",
			addr, invalid.Detail, time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &invalid):
		return newError(ReasonUntrusted, err, "broker %s: broker certificate cannot be used: %v", addr, invalid)
	case errors.As(err, &host):
		return newError(ReasonMismatch, err, "broker %s: broker certificate is not for %q; set uplink.server_name to the name it carries (%s)", addr, name, certNames(host.Certificate))
	case errors.As(err, &record):
		return newError(ReasonNotTLS, err, "broker %s: does not speak TLS on this port; check uplink.port, or set uplink.tls = false", addr)
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error"):
		return newError(ReasonRejected, err, "broker %s: broker refused the TLS handshake (%v); check uplink.cert and uplink.key", addr, err)
	case isTimeout(err), ctx.Err() != nil:
		return newError(ReasonTimeout, err, "broker %s: TLS handshake did not end in time; check that the port speaks TLS and the broker is not overloaded", addr)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return newError(ReasonClosed, err, "broker %s: connection closed during the TLS handshake; check that the port speaks TLS and the broker accepts this gateway", addr)
	}
	return newError(ReasonOther, err, "broker %s: TLS handshake failed: %v", addr, err)
}

func (d *Dialer) caName() string {
	switch {
	case d.cfg.CAFile != "":
		return d.cfg.CAFile
	case len(d.cfg.CA) == 0:
		return "(empty: the system's certificates are used)"
	}
	return "(given)"
}

func certNames(c *x509.Certificate) string {
	if c == nil {
		return "it names nothing"
	}
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "it names nothing"
	}
	const enough = 8
	if len(names) > enough {
		names = append(names[:enough], "...")
	}
	return strings.Join(names, ", ")
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout()
}
