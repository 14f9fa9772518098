package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ErrLost says that the connection ended before what was asked for was acknowledged.
var ErrLost = errors.New("connection to the broker lost")

// ErrRefused says that the broker answered a SUBSCRIBE with a failure code.
var ErrRefused = errors.New("the broker refused it")

// Conn is one live connection. Its methods may be called from any goroutine.
type Conn struct {
	link   link
	broker Broker
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex
	loss   error // why, once done is closed
}

// Protocol speaks one version of MQTT over a transport connection: [MQTT311] or [MQTT5].
type Protocol func(ctx context.Context, cfg *Config, raw net.Conn, c *Conn) (link, error)

// link is a connection after CONNACK. It tells its Conn of its end by lost.
type link interface {
	publish(context.Context, *Publication) outcome
	subscribe(ctx context.Context, filter string, qos byte) error
	unsubscribe(ctx context.Context, filter string) error
	goodbye()   // sends DISCONNECT and closes
	drop(error) // closes
}

// outcome is what becomes of a packet that the broker answers.
type outcome interface {
	Done() <-chan struct{}
	Error() error // valid once Done is closed
}

// Done is closed when the connection is lost.
func (c *Conn) Done() <-chan struct{} { return c.done }

// dial connects to b: TCP, TLS, CONNECT, CONNACK.
func dial(ctx context.Context, cfg *Config, b Broker) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := open(ctx, cfg, b)
	if err != nil {
		return nil, explain(b, err)
	}
	c := &Conn{broker: b, done: make(chan struct{})}
	if c.link, err = cfg.Protocol(ctx, cfg, raw, c); err != nil {
		raw.Close()
		return nil, explain(b, err)
	}
	return c, nil
}

// open makes the transport connection, with TLS and verification for mqtts.
func open(ctx context.Context, cfg *Config, b Broker) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.Addr)
	if err != nil || !b.TLS {
		return raw, err
	}
	t := cfg.TLS.Clone()
	if t == nil {
		t = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if t.ServerName == "" {
		t.ServerName = b.Host
	}
	if t.Time == nil {
		t.Time = cfg.Now
	}
	secured := tls.Client(raw, t)
	if err := secured.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return secured, nil
}

// errHandshake marks errors of the TLS handshake.
var errHandshake = errors.New("TLS handshake")

func (c *Conn) lost(err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.loss = err
		c.mu.Unlock()
		close(c.done)
	})
}

func (c *Conn) lossReason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(ErrLost, c.loss)
}

// goodbye sends DISCONNECT and closes.
func (c *Conn) goodbye() {
	c.link.goodbye()
	c.lost(nil)
}

// Delivery is a message on its way to the broker.
type Delivery struct {
	token outcome
	conn  *Conn
}

// Wait returns nil when the broker has acknowledged the message (QoS 0: when it was
// written), a [ReasonError] when it refused it, [ErrLost] when the connection ended first.
func (d *Delivery) Wait(ctx context.Context) error {
	select {
	case <-d.token.Done():
		err := d.token.Error()
		if err == nil || errors.Is(err, ErrRefused) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrLost, err)
	case <-d.conn.done:
		return ErrLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pending reports whether the broker may yet acknowledge the message.
func (d *Delivery) Pending() bool {
	select {
	case <-d.token.Done():
		return false
	case <-d.conn.done:
		return false
	default:
		return true
	}
}

// Publication is a message to be published. Expiry and Properties need MQTT 5.
type Publication struct {
	Topic      string
	Payload    []byte // must not be changed afterwards
	QoS        byte
	Retain     bool
	Expiry     time.Duration // Message Expiry Interval, to the second; 0: none
	Properties Properties    // in the clear: a sealed message has them inside
}

// Publish hands a message to the connection. Messages leave in the order of the calls.
// payload must not be changed afterwards.
func (c *Conn) Publish(topic string, payload []byte, qos byte, retain bool) *Delivery {
	return c.Send(context.Background(), &Publication{Topic: topic, Payload: payload, QoS: qos, Retain: retain})
}

// Send is Publish of all that a message can be. With MQTT 5 it blocks, until ctx ends, while as many messages
// are in flight as the broker takes.
func (c *Conn) Send(ctx context.Context, p *Publication) *Delivery {
	return &Delivery{token: c.link.publish(ctx, p), conn: c}
}

// Subscribe subscribes to one filter and returns when the broker has granted it. A refusal is [ErrRefused], with MQTT 5 a [ReasonError].
func (c *Conn) Subscribe(ctx context.Context, filter string, qos byte) error {
	if err := c.link.subscribe(ctx, filter, qos); err != nil {
		return fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	return nil
}

// Insist subscribes like Subscribe, again and again as long as the broker refuses: a cluster that has
// just lost a node refuses what it will grant some seconds later. Other errors end it.
func (c *Conn) Insist(ctx context.Context, filter string, qos byte) error {
	var pauses backoff
	for started := time.Now(); ; {
		err := c.Subscribe(ctx, filter, qos)
		if !errors.Is(err, ErrRefused) {
			return err
		}
		pause := pauses.next()
		if time.Since(started) < refusedSoon {
			pause = min(pause, refusedPause)
		}
		select {
		case <-time.After(pause):
		case <-c.done:
			return ErrLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unsubscribe ends a subscription and returns when the broker has acknowledged it.
func (c *Conn) Unsubscribe(ctx context.Context, filter string) error {
	if err := c.link.unsubscribe(ctx, filter); err != nil {
		return fmt.Errorf("unsubscribe from %q: %w", filter, err)
	}
	return nil
}

// Drop ends the connection; the session makes a new one. It is for an owner that can no
// longer follow what came over this one.
func (c *Conn) Drop() {
	c.link.drop(errDropped)
}

var errDropped = errors.New("the broker does not read what is sent to it")

// Reach opens a transport connection to b, with TLS and verification for mqtts, and closes it
// again: nothing of MQTT is spoken. The error is an [Error].
func Reach(ctx context.Context, b Broker, t *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := open(ctx, &Config{TLS: t, Now: time.Now}, b)
	if err != nil {
		return explain(b, err)
	}
	return conn.Close()
}
