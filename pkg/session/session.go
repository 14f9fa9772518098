// Package session keeps one MQTT session with a broker alive, in version 3.1.1 over
// paho.mqtt.golang or in version 5 with the packets of paho.golang: it dials with TLS verification, hands each live connection to
// its owner, and after a loss tries again with growing, jittered pauses. What
// goes wrong is reported as one line that says what to do, once for each change,
// however often it happens.
//
// The broker is not trusted. Everything it sends passes a guard that ends the
// connection on packets that are larger than agreed or that no MQTT server
// may send in that shape, before any of it reaches an MQTT library.
package session

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/big"
	"sync/atomic"
	"time"
)

// Bounds of a session.
const (
	DefaultMaxPacket = 1 << 20          // bytes of one packet from the broker
	connectTimeout   = 10 * time.Second // TCP, TLS and CONNACK together
	writeTimeout     = 20 * time.Second // a broker that reads nothing for this long is gone
	keepAlive        = 30 * time.Second
	firstPause       = 500 * time.Millisecond
	longestPause     = 30 * time.Second
	refusedSoon      = 2 * time.Minute // in which a cluster grants what it has refused for want of a node
	refusedPause     = 3 * time.Second // the longest between two refusals until then
)

// Message is a PUBLISH from the broker.
type Message struct {
	Topic   string
	Payload []byte // the receiver's to keep
	QoS     byte
	Retain  bool
	Dup     bool
	ack     func()

	Properties Properties // as they came, in the clear; with MQTT 3.1.1 there are none
}

// Ack tells the broker that the message was processed (PUBACK or PUBREC). It must be
// called once for each message; QoS 0 and lost connections make it do nothing.
func (m *Message) Ack() {
	if m.ack != nil {
		m.ack()
	}
}

// Config describes a session. The callbacks run on the session's goroutines.
type Config struct {
	Brokers      []Broker    // in order of preference
	Protocol     Protocol    // nil: MQTT311
	TLS          *tls.Config // for the mqtts ones; nil: the system's CAs
	Username     string
	Password     string
	ClientID     string // empty: a random one for every connection
	CleanSession bool
	MaxPacket    int              // bytes; 0: DefaultMaxPacket
	Now          func() time.Time // for certificate validity; nil: time.Now
	Log          *slog.Logger     // nil: slog.Default()
	Name         string           // what the session is for, in log lines

	// Up is called with each new connection, after CONNACK. It may not block.
	Up func(*Conn)
	// Down is called when a connection attempt failed or a connection was lost.
	Down func(error)
	// Message is called for every PUBLISH, one at a time. While it blocks, nothing more is read
	// from the broker.
	Message func(*Message)
}

// Session is a running session.
type Session struct {
	cfg    Config
	cancel context.CancelFunc
	done   chan struct{}
	told   string // the last problem logged; owned by run
	begin  int    // the broker to try first; owned by run
	live   atomic.Bool
}

// Start checks cfg and starts the session, which runs until ctx ends or Close is called.
func Start(ctx context.Context, cfg Config) (*Session, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no broker given; want mqtt://host or mqtts://host")
	}
	if cfg.TLS != nil && cfg.TLS.InsecureSkipVerify {
		return nil, errors.New("TLS configuration: InsecureSkipVerify is not supported; give the broker's CA instead")
	}
	if cfg.Password != "" && cfg.Username == "" {
		return nil, errors.New("broker password without a user name: MQTT 3.1.1 carries both or none")
	}
	if !cfg.CleanSession && cfg.ClientID == "" {
		return nil, errors.New("a persistent session needs a client id, so that the broker finds it again")
	}
	if cfg.Protocol == nil {
		cfg.Protocol = MQTT311
	}
	if cfg.MaxPacket == 0 {
		cfg.MaxPacket = DefaultMaxPacket
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	go s.run(ctx)
	return s, nil
}

// Close says goodbye to the broker, and returns when the session has ended.
func (s *Session) Close() {
	s.cancel()
	<-s.done
}

// Live reports whether a connection stands.
func (s *Session) Live() bool { return s.live.Load() }

func (s *Session) run(ctx context.Context) {
	defer close(s.done)
	var pauses backoff
	for ctx.Err() == nil {
		started := time.Now()
		if err := s.once(ctx); ctx.Err() == nil {
			s.problem(err)
		}
		if time.Since(started) > longestPause {
			pauses = backoff{}
		}
		select {
		case <-time.After(pauses.next()):
		case <-ctx.Done():
		}
	}
}

// once lives one connection from dial to loss. After a short one the next broker of the list has its
// turn first: one that takes connections and does not keep them must not stand in its way.
func (s *Session) once(ctx context.Context) error {
	c, which, err := s.connect(ctx)
	s.begin = 0
	if err != nil {
		return err
	}
	started := time.Now()
	defer func() {
		if time.Since(started) < longestPause {
			s.begin = (which + 1) % len(s.cfg.Brokers)
		}
	}()
	s.live.Store(true)
	defer s.live.Store(false)
	s.told = ""
	s.cfg.Log.Info("connected", "session", s.cfg.Name, "broker", c.broker.String())
	s.cfg.Up(c)
	select {
	case <-c.done:
		return explain(c.broker, c.lossReason())
	case <-ctx.Done():
		c.goodbye()
		return nil
	}
}

// problem reports err to the owner every time, to the log only when it is news.
func (s *Session) problem(err error) {
	if text := err.Error(); text != s.told {
		s.told = text
		s.cfg.Log.Warn(text, "session", s.cfg.Name)
	}
	if s.cfg.Down != nil {
		s.cfg.Down(err)
	}
}

// connect tries each broker once, in order, and returns the first connection with its broker's place
// in the list, or the last error.
func (s *Session) connect(ctx context.Context) (c *Conn, which int, err error) {
	for i := range s.cfg.Brokers {
		which = (s.begin + i) % len(s.cfg.Brokers)
		if c, err = dial(ctx, &s.cfg, s.cfg.Brokers[which]); err == nil {
			return c, which, nil
		}
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
	}
	return nil, 0, err
}

// backoff yields pauses that double up to longestPause, each drawn from the upper
// half of its range, so that a fleet does not come back in step.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, firstPause), longestPause)
	half := int64(b.last / 2)
	n, err := rand.Int(rand.Reader, big.NewInt(half))
	if err != nil {
		return b.last
	}
	return time.Duration(half + n.Int64())
}

// randomClientID returns an id that says nothing of who connects: 22 characters that every
// broker must accept [MQTT-3.1.3-5].
func randomClientID() string {
	return "s" + rand.Text()[:21]
}
