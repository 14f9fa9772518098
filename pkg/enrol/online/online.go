// Package online carries enrolment over MQTT: a [enrol.Joiner] that waits for its operator, and an
// [enrol.Desk] that serves joiners, each on a session with a broker. Who joins has no identity yet and who serves needs none
// towards the broker: to it both are ordinary clients.
package online

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sealgate/pkg/enrol"
	"sealgate/pkg/session"
)

const (
	grantWait = 20 * time.Second // for the broker's answer to a SUBSCRIBE
	byeWait   = 2 * time.Second  // for the broker to take the offer back
	reOffer   = time.Minute      // between two publications of the same offer
	notice    = 30 * time.Second // between two lines that say what is still waited for
	backlog   = 64               // messages that wait for their turn; the broker waits beyond
)

// Broker is how to reach the broker.
type Broker struct {
	URLs     []string    // mqtt:// or mqtts://, tried in this order
	TLS      *tls.Config // nil: the system's CAs
	Username string
	Password string
	Clock    func() enrol.Time
	Log      *slog.Logger
}

// line is a session with its events as channels.
type line struct {
	session *session.Session
	links   chan link
	inbox   chan *session.Message
	cancel  context.CancelFunc
}

// link is a change of the connection: conn, or nil with the reason.
type link struct {
	conn *session.Conn
	err  error
}

func (b *Broker) open(maxPacket int, name string) (*line, error) {
	var brokers []session.Broker
	for _, u := range b.URLs {
		broker, err := session.ParseBroker(u)
		if err != nil {
			return nil, err
		}
		brokers = append(brokers, broker)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &line{links: make(chan link, 4), inbox: make(chan *session.Message, backlog), cancel: cancel}
	change := func(e link) {
		select {
		case l.links <- e:
		case <-ctx.Done():
		}
	}
	var err error
	l.session, err = session.Start(ctx, session.Config{
		Brokers: brokers, TLS: b.TLS, Username: b.Username, Password: b.Password, CleanSession: true,
		MaxPacket: maxPacket, Log: b.Log, Name: name,
		Now:  func() time.Time { return b.Clock().Wall },
		Up:   func(c *session.Conn) { change(link{conn: c}) },
		Down: func(err error) { change(link{err: err}) },
		Message: func(m *session.Message) {
			select {
			case l.inbox <- m:
			case <-ctx.Done():
			}
		},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return l, nil
}

func (l *line) close() {
	l.cancel()
	l.session.Close()
}

// permanent reports whether somebody must change something before err can go away.
func permanent(err error) bool {
	e, ok := errors.AsType[*session.Error](err)
	return ok && e.Permanent
}

// carry subscribes and publishes on a connection. A connection on which that fails is of no use: it is dropped.
func carry(ctx context.Context, c *session.Conn, subscribe []string, publish []enrol.Publish) error {
	ctx, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	for _, filter := range subscribe {
		if err := c.Subscribe(ctx, filter, 1); err != nil {
			c.Drop()
			return err
		}
	}
	for _, p := range publish {
		c.Publish(p.Topic, p.Payload, p.QoS, p.Retain)
	}
	return nil
}

// ServeConfig says what to serve, and where.
type ServeConfig struct {
	Broker
	Desk *enrol.Desk
	// Report, if set, is told of each request.
	Report func(enrol.Report)
	// Link, if set, is told when a connection stands (nil), and why one does not.
	Link func(error)
	// Outbox, if set, is asked after each request for more to publish.
	Outbox func() []enrol.Publish
}

// Serve answers joiners until ctx ends, which is no error. It returns early if the broker refuses for good.
func Serve(ctx context.Context, cfg ServeConfig) error {
	l, err := cfg.open(enrol.MaxRequest+16<<10, "enrolment")
	if err != nil {
		return err
	}
	defer l.close()
	again := time.NewTicker(reOffer)
	defer again.Stop()
	var conn *session.Conn
	ever := false
	for {
		select {
		case <-ctx.Done():
			cfg.goodbye(conn)
			return nil
		case e := <-l.links:
			conn = e.conn
			if conn != nil {
				ever = true
				e.err = carry(ctx, conn, []string{cfg.Desk.RequestTopic()}, []enrol.Publish{cfg.Desk.Offer()})
			} else if permanent(e.err) && !ever {
				return e.err
			}
			if cfg.Link != nil && ctx.Err() == nil {
				cfg.Link(e.err)
			}
		case <-again.C:
			cfg.send(conn, cfg.Desk.Offer())
		case m := <-l.inbox:
			cfg.serve(conn, m)
		}
	}
}

func (cfg *ServeConfig) send(conn *session.Conn, p enrol.Publish) {
	if conn != nil {
		conn.Publish(p.Topic, p.Payload, p.QoS, p.Retain)
	}
}

func (cfg *ServeConfig) serve(conn *session.Conn, m *session.Message) {
	defer m.Ack()
	if m.Topic != cfg.Desk.RequestTopic() {
		return
	}
	r := cfg.Desk.Receive(cfg.Clock(), m.Payload)
	if r.Answer != nil {
		cfg.send(conn, *r.Answer)
	}
	if cfg.Report != nil {
		cfg.Report(r)
	}
	if cfg.Outbox != nil {
		for _, p := range cfg.Outbox() {
			cfg.send(conn, p)
		}
	}
}

// goodbye takes the offer off the broker, so that joiners see that nobody serves.
func (cfg *ServeConfig) goodbye(conn *session.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), byeWait)
	defer cancel()
	_ = conn.Publish(cfg.Desk.Offer().Topic, nil, 1, true).Wait(ctx) // without it joiners wait a little longer
}

// JoinConfig says what to join with, and where.
type JoinConfig struct {
	Broker
	Joiner   *enrol.Joiner
	Progress func(string) // lines for a person
}

// ErrNoAnswer is wrapped when ctx ended before an operator answered.
var ErrNoAnswer = errors.New("no operator has answered")

// Join waits until the operator has answered, or ctx ends. The error is an [enrol.Verdict] if the operator refused,
// wraps [ErrNoAnswer] if none answered, or says why the broker cannot be used.
func Join(ctx context.Context, cfg JoinConfig) (*enrol.Enrolled, error) {
	l, err := cfg.open(enrol.MaxAnswer+16<<10, "enrolment")
	if err != nil {
		return nil, err
	}
	defer l.close()
	j := &joining{JoinConfig: &cfg, started: cfg.Clock().Mono, doubt: errNoBroker}
	still := time.NewTicker(notice)
	defer still.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNoAnswer, j.doubt)
		case e := <-l.links:
			err = j.changed(ctx, e)
		case m := <-l.inbox:
			err = cfg.Joiner.Receive(cfg.Clock(), m.Topic, m.Payload)
			m.Ack()
		case <-j.due():
			cfg.Joiner.Advance(cfg.Clock())
		case <-still.C:
			cfg.Progress(fmt.Sprintf("still waiting, for %d s: %v", int((cfg.Clock().Mono - j.started).Seconds()), j.doubt))
		}
		if err != nil {
			return nil, err
		}
		j.act(ctx)
		if e, err := cfg.Joiner.Done(); e != nil || err != nil {
			return e, err
		}
	}
}

// What a joiner may be waiting for.
var (
	errNoBroker = errors.New("the broker has not let us in yet")
	errNoOffer  = errors.New("nobody serves this fleet on this broker; on the operator's machine run `sealctl fleet serve DIR -b URL`, with the same broker and prefix")
	errNoWord   = errors.New("an operator's offer is on the broker, but nobody answers; is `sealctl fleet serve` still running, and may it and this machine publish and subscribe below the prefix?")
)

// joining is a Join that goes on.
type joining struct {
	*JoinConfig
	conn    *session.Conn
	ever    bool
	started time.Duration
	doubt   error  // what is waited for
	said    string // the last problem reported
}

func (j *joining) changed(ctx context.Context, e link) error {
	if j.conn = e.conn; e.conn != nil {
		if !j.ever {
			j.Progress("connected to the broker, waiting for the operator")
		}
		j.ever, j.doubt, j.said = true, errNoOffer, ""
		return j.Joiner.Connected(j.Clock())
	}
	j.Joiner.Disconnected()
	if permanent(e.err) && !j.ever {
		return e.err
	}
	j.problem(e.err)
	return nil
}

func (j *joining) problem(err error) {
	j.doubt = err
	if text := err.Error(); text != j.said {
		j.said = text
		j.Progress(text)
	}
}

// due is when the joiner wants to be woken.
func (j *joining) due() <-chan time.Time {
	at, ok := j.Joiner.Deadline()
	if !ok {
		return nil
	}
	return time.After(max(0, at-j.Clock().Mono))
}

// act does what the joiner wants.
func (j *joining) act(ctx context.Context) {
	out := j.Joiner.Take()
	for _, text := range out.Progress {
		j.Progress(text)
	}
	if j.conn == nil {
		return
	}
	if j.Joiner.Found() {
		j.doubt = errNoWord
	}
	if err := carry(ctx, j.conn, out.Subscribe, out.Publish); err != nil && ctx.Err() == nil && !errors.Is(err, session.ErrLost) {
		j.problem(err) // a loss is reported with its reason, by the session
	}
}
