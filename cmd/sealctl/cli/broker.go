package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
	"sealgate/pkg/subscriber"
)

// brokerFlags are the flags of the commands that talk to a broker as a member.
type brokerFlags struct {
	identity, broker, control        string
	caFile, cert, key                string
	username, password, passwordFile string
	prefix, clientID                 string
}

func (f *brokerFlags) register(o *options) {
	o.text(&f.identity, "i identity", "", "DIR", "identity directory, as `sealctl fleet add` made it")
	f.registerBroker(o)
}

// registerBroker adds the flags that do not depend on who connects.
func (f *brokerFlags) registerBroker(o *options) {
	o.text(&f.broker, "b broker", "", "URL", "broker, mqtt://host[:1883] or mqtts://host[:8883]; several, separated by commas, are tried in order")
	o.text(&f.caFile, "cafile", "", "FILE", "PEM file of the broker's CA (default: the system's CAs)")
	o.text(&f.cert, "cert", "", "FILE", "TLS client certificate, PEM (default: the identity's, if the broker trusts the fleet's CA)")
	o.text(&f.key, "key", "", "FILE", "private key of --cert, PEM")
	o.text(&f.username, "u username", "", "NAME", "user name for the broker")
	o.text(&f.password, "P pw", "", "PASSWORD", "password; others on this machine can see it: better SEALGATE_PASSWORD or --password-file")
	o.text(&f.passwordFile, "password-file", "", "FILE", "file whose first line is the password")
	o.text(&f.prefix, "prefix", member.DefaultPrefix, "TOPIC", "first level of the fleet's control topics")
}

// registerData adds the flags of commands that also read or write messages.
func (f *brokerFlags) registerData(o *options) {
	o.text(&f.control, "control-broker", "", "URL", "broker of the control messages (default: the same as -b)")
	o.text(&f.clientID, "client-id", "", "ID", "keep a session under this client id over restarts (default: none, a random id)")
}

// check finds what is missing, and fills in the password.
func (f *brokerFlags) check(env cmdenv.Env) error {
	if f.identity == "" {
		return usagef("-i DIR is missing: the identity directory that `sealctl fleet add` made")
	}
	return f.checkBroker(env)
}

// checkBroker is check without an identity.
func (f *brokerFlags) checkBroker(env cmdenv.Env) error {
	if f.broker == "" {
		return usagef("-b URL is missing: the broker, for example -b mqtts://broker.example")
	}
	for _, u := range []string{f.broker, f.control} {
		if _, err := session.ParseBrokers(u); u != "" && err != nil {
			return usagef("%v", err)
		}
	}
	if f.passwordFile != "" {
		b, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return fmt.Errorf("password file: %w", err)
		}
		first, _, _ := bytes.Cut(b, []byte("\n"))
		f.password = strings.TrimRight(string(first), "\r")
	}
	if f.password == "" && env.Getenv != nil {
		f.password = env.Getenv("SEALGATE_PASSWORD")
	}
	if f.password != "" && f.username == "" {
		return usagef("a password needs a user name: -u NAME")
	}
	return nil
}

// tls returns the TLS configuration. A broker that asks for certificates of the fleet's CA gets the identity's.
func (f *brokerFlags) tls() (*tls.Config, error) {
	cfg, err := session.TLSFiles(f.caFile, f.cert, f.key)
	if err != nil || f.cert != "" || f.identity == "" {
		return cfg, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(f.identity, member.CertFile), filepath.Join(f.identity, member.KeyFile))
	if err != nil {
		return cfg, nil // an identity need not be a certificate that TLS can use
	}
	cfg.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(asked.AcceptableCAs) > 0 && asked.SupportsCertificate(&pair) == nil {
			return &pair, nil
		}
		return new(tls.Certificate), nil
	}
	return cfg, nil
}

// connect makes a subscriber client. What its connections report before they stand is in the error only.
func (f *brokerFlags) connect(ctx context.Context, env cmdenv.Env, c *command, change func(*subscriber.Options)) (*subscriber.Client, error) {
	if err := f.check(env); err != nil {
		return nil, err
	}
	id, trust, signed, err := member.LoadIdentity(f.identity)
	if err != nil {
		return nil, err
	}
	t, err := f.tls()
	if err != nil {
		return nil, err
	}
	log, level := newLog(env, c)
	opts := subscriber.Options{
		Member: &subscriber.Loaded{Identity: id, Trust: trust, Policy: signed}, Broker: f.broker, ControlBroker: f.control, TLS: t,
		Username: f.username, Password: f.password, Prefix: f.prefix, ClientID: f.clientID,
		StateDir: stateDir(f.identity), Log: log,
	}
	change(&opts)
	client, err := subscriber.Connect(ctx, opts)
	if err == nil {
		level.Set(min(level.Level(), slog.LevelWarn))
	}
	return client, unwrapOnce(err)
}

// unwrapOnce takes the library's own word off an error: the command's name says as much.
func unwrapOnce(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "connect: ") {
		return inner
	}
	return err
}

// stateDir is where a command-line member keeps the policy's version: beside its identity, if it may write there.
func stateDir(identity string) string {
	dir := filepath.Join(identity, "state")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return ""
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return ""
	}
	probe.Close()
	os.Remove(probe.Name())
	return dir
}

// newLog is a log of one-line warnings on stderr, like the command's own errors. level starts so high that only errors
// are shown; SEALGATE_DEBUG=1 shows everything.
func newLog(env cmdenv.Env, c *command) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(slog.LevelError)
	if env.Getenv != nil && env.Getenv("SEALGATE_DEBUG") == "1" {
		level.Set(slog.LevelDebug)
	}
	return slog.New(&lineLog{env: env, name: "sealctl " + c.name, level: level}), level
}

// lineLog prints records as "command: message key=value".
type lineLog struct {
	env   cmdenv.Env
	name  string
	level slog.Leveler
	attrs []slog.Attr
}

func (l *lineLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level.Level() }

func (l *lineLog) Handle(_ context.Context, r slog.Record) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %s", l.name, r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&s, " %s=%v", a.Key, a.Value.Resolve())
		return true
	}
	for _, a := range l.attrs {
		add(a)
	}
	r.Attrs(add)
	l.env.Errorf("%s", strings.ReplaceAll(s.String(), "\n", " "))
	return nil
}

func (l *lineLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *l
	next.attrs = append(append([]slog.Attr(nil), l.attrs...), attrs...)
	return &next
}

func (l *lineLog) WithGroup(string) slog.Handler { return l }
