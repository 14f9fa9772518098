package daemon

import (
	"context"
	gocrypto "crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
	"sealgate/pkg/enrol/online"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
)

const (
	defaultIdentity = "/etc/sealgate/identity"
	defaultWait     = 30 * time.Minute
	clockDoubt      = 5 * time.Minute // a clock that is further from the operator's is worth a line
)

// joinFlags are what -join takes besides the configuration file, which they overrule.
type joinFlags struct {
	ticket, broker, caFile, identity, prefix string
	wait                                     time.Duration
	force                                    bool
}

func (j *joinFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&j.ticket, "join", "", "become a member of a fleet by a `ticket`, and exit; - reads it from standard input")
	fs.StringVar(&j.broker, "broker", "", "with -join: `URL` of the control broker (default: control.broker of the configuration)")
	fs.StringVar(&j.caFile, "cafile", "", "with -join: PEM `file` of the broker's CA (default: control.ca of the configuration)")
	fs.StringVar(&j.identity, "identity", "", "with -join: `directory` for the identity (default: identity of the configuration, else "+defaultIdentity+")")
	fs.StringVar(&j.prefix, "prefix", "", "with -join: first level of the control `topics` (default: control.prefix of the configuration)")
	fs.DurationVar(&j.wait, "wait", defaultWait, "with -join: how long to wait for the operator")
	fs.BoolVar(&j.force, "force", false, "with -join: replace the identity that is there")
}

// alone reports the first flag given that means nothing without -join.
func (j *joinFlags) alone(fs *flag.FlagSet) (name string) {
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "broker", "cafile", "identity", "prefix", "wait", "force":
			name = f.Name
		}
	})
	return name
}

// joining is one -join.
type joining struct {
	joinFlags
	env      cmdenv.Env
	ticket   *enrol.Ticket
	brokers  []string
	tls      *tls.Config
	username string
	password string
}

// runJoin becomes a member. file is the configuration's, which must exist only if it was named.
func runJoin(env cmdenv.Env, flags joinFlags, file string, named bool, log *slog.Logger) int {
	j := &joining{joinFlags: flags, env: env}
	if err := j.prepare(file, named); err != nil {
		env.Errorf("controld: %s", oneLine(err))
		return cmdenv.Usage
	}
	if err := j.run(log); err != nil {
		env.Errorf("controld: %s", oneLine(err))
		return cmdenv.Failed
	}
	fmt.Fprintln(env.Stdout, j.identity)
	return cmdenv.OK
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// prepare reads the ticket and finds out where to ask and where to put what comes.
func (j *joining) prepare(file string, named bool) (err error) {
	text := j.joinFlags.ticket
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(j.env.Stdin, 4*enrol.MaxTicket))
		if err != nil {
			return fmt.Errorf("ticket: %w", err)
		}
		text = string(b)
	}
	if j.ticket, err = enrol.ParseTicket(text); err != nil {
		return err
	}
	if r := j.ticket.Role; r != crypto.RoleGateway && r != crypto.RoleKeeper {
		return fmt.Errorf("the ticket is for a member with role %s; controld runs as gateway or keeper: make one with `sealctl fleet ticket --role gateway`", r)
	}
	cfg, err := config.Load(file)
	if _, missing := os.Stat(file); err != nil && (named || !errors.Is(missing, fs.ErrNotExist)) {
		return err
	}
	if err != nil {
		cfg = &config.Config{Control: config.Control{Prefix: member.DefaultPrefix}, Identity: defaultIdentity, Fleet: j.ticket.Fleet}
	}
	if cfg.Fleet != j.ticket.Fleet {
		return fmt.Errorf("the ticket is for fleet %q, but fleet = %q in %s: correct one of them", j.ticket.Fleet, cfg.Fleet, file)
	}
	return j.settle(cfg, file)
}

// settle lets the flags overrule the configuration.
func (j *joining) settle(cfg *config.Config, file string) (err error) {
	control := cfg.Control
	j.brokers = control.Broker
	if j.broker != "" {
		j.brokers = strings.Split(j.broker, ",")
	}
	if len(j.brokers) == 0 {
		return fmt.Errorf("no control broker is known; give -broker URL, or control.broker in %s", file)
	}
	for i, u := range j.brokers {
		j.brokers[i] = strings.TrimSpace(u)
		if _, err := session.ParseBroker(j.brokers[i]); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		flag *string
		from string
	}{{&j.caFile, control.CA}, {&j.identity, cfg.Identity}, {&j.prefix, control.Prefix}} {
		if *s.flag == "" {
			*s.flag = s.from
		}
	}
	if j.tls, err = session.TLSFiles(j.caFile, control.Cert, control.Key); err != nil {
		return err
	}
	j.tls.ServerName = control.ServerName
	j.username = control.Username
	if j.password, err = control.Password(); err != nil {
		return fmt.Errorf("control.password_file: %w", err)
	}
	return nil
}

func (j *joining) path(name string) string { return filepath.Join(j.identity, name) }

// run asks until there is an answer, and keeps what it brings.
func (j *joining) run(log *slog.Logger) error {
	if err := j.vacant(); err != nil {
		return err
	}
	clock := member.NewClock(time.Time{})
	now := func() enrol.Time { t := clock(); return enrol.Time{Mono: t.Mono, Wall: t.Wall} }
	if wall := now().Wall; !wall.Before(j.ticket.Expires) {
		return fmt.Errorf("the ticket expired at %s, and this machine's clock says %s; make a new one with `sealctl fleet ticket`, or set the clock",
			minute(j.ticket.Expires), minute(wall))
	}
	key, file, err := j.newKey()
	if err != nil {
		return err
	}
	joiner, err := enrol.NewJoiner(j.ticket, key, j.prefix, rand.Reader)
	if err != nil {
		return err
	}
	j.say(fmt.Sprintf("joining fleet %s as %s %s, over %s", j.ticket.Fleet, j.ticket.Role, j.ticket.Name, strings.Join(j.brokers, ", ")))
	ctx, cancel := context.WithTimeout(j.env.Ctx, j.wait)
	defer cancel()
	e, err := online.Join(ctx, online.JoinConfig{
		Broker: online.Broker{URLs: j.brokers, TLS: j.tls, Username: j.username, Password: j.password, Clock: now, Log: quiet(log)},
		Joiner: joiner, Progress: j.say,
	})
	var refused enrol.Verdict
	switch {
	case errors.As(err, &refused):
		os.Remove(file) // no certificate will come for it
		return fmt.Errorf("the operator refused: %w", refused)
	case errors.Is(err, online.ErrNoAnswer) && j.env.Ctx.Err() != nil:
		return errors.New("interrupted; the ticket is as good as before: run the same command again")
	case errors.Is(err, online.ErrNoAnswer):
		return fmt.Errorf("gave up after %s: %w. The ticket is as good as before: run the same command again", j.wait, err)
	case err != nil:
		return err
	}
	return j.keep(e, file, now().Wall)
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

func (j *joining) say(text string) { j.env.Errorf("controld: %s", text) }

// quiet keeps the session's own lines for debugging: Progress has them in other words.
func quiet(log *slog.Logger) *slog.Logger {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return log
	}
	return slog.New(slog.DiscardHandler)
}

// vacant makes the identity directory, and refuses to touch an identity in it unless forced.
func (j *joining) vacant() error {
	if err := os.MkdirAll(j.identity, 0o700); err != nil {
		return fmt.Errorf("identity directory: %w; make it, writable for this user", err)
	}
	if j.force {
		return nil
	}
	for _, name := range []string{member.KeyFile, member.CertFile} {
		if _, err := os.Lstat(j.path(name)); err == nil {
			return fmt.Errorf("%s exists already, so this machine has an identity; -force replaces it", j.path(name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// newKey makes the key pair and keeps it at once, under a name of the ticket: whatever happens until the answer, the
// same ticket is asked for with the same key, and is not used up in vain.
func (j *joining) newKey() (gocrypto.Signer, string, error) {
	id, err := j.ticket.ID()
	if err != nil {
		return nil, "", err
	}
	file := j.path("joining-" + hex.EncodeToString(id[:4]) + ".key")
	if b, err := os.ReadFile(file); err == nil {
		if key, err := parseJoinKey(b); err == nil {
			return key, file, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	return key, file, atomicfile.Write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func parseJoinKey(b []byte) (gocrypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(gocrypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	return signer, nil
}

// keep writes the identity, its private key last: a directory without one is no identity yet.
func (j *joining) keep(e *enrol.Enrolled, file string, now time.Time) error {
	key, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	err = errors.Join(atomicfile.Write(j.path(member.CAFile), e.CAPEM, 0o644), atomicfile.Write(j.path(member.CertFile), e.CertPEM, 0o644))
	if len(e.Policy) > 0 {
		err = errors.Join(err, atomicfile.Write(j.path(member.PolicyFile), e.Policy, 0o644))
	} else if gone := os.Remove(j.path(member.PolicyFile)); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone) // of another fleet
	}
	if err == nil {
		err = atomicfile.Write(j.path(member.KeyFile), key, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w; what the operator granted could not be kept: make room, and run the same command again", err)
	}
	os.Remove(file)
	j.say(fmt.Sprintf("this machine is %s %s of fleet %s, until %s", e.Member.Role, e.Member.Name, e.Member.Fleet, minute(e.CertificateEnds)))
	switch {
	case len(e.Policy) > 0:
		j.say(fmt.Sprintf("its fleet follows policy version %d", e.PolicyVersion))
	default:
		j.say("its fleet has no policy yet; nothing leaves before the operator signs and publishes one")
	}
	if off := now.Sub(e.OperatorsClock); off > clockDoubt || off < -clockDoubt {
		j.say(fmt.Sprintf("this machine's clock says %s, the operator's %s; set it before controld starts", minute(now), minute(e.OperatorsClock)))
	}
	return nil
}
