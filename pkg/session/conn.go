package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// ErrLost says that the connection ended before what was asked for was acknowledged.
var ErrLost = errors.New("connection to the broker lost")

// ErrRefused says that the broker answered a SUBSCRIBE with a failure code.
var ErrRefused = errors.New("the broker refused it")

// Conn is one live connection. Its methods may be called from any goroutine.
type Conn struct {
	client mqtt.Client
	broker Broker
	guard  *guard
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex
	loss   error // why, once done is closed
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
	c := &Conn{broker: b, guard: &guard{Conn: raw, limit: cfg.MaxPacket}, done: make(chan struct{})}
	c.client = mqtt.NewClient(c.options(cfg))
	token := c.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		raw.Close()
		<-token.Done()
	}
	if err := token.Error(); err != nil {
		raw.Close()
		if seen := c.guard.err(); seen != nil {
			err = errors.Join(seen, err)
		}
		return nil, explain(b, err)
	}
	return c, nil
}

func (c *Conn) options(cfg *Config) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions()
	o.Servers = []*url.URL{{Scheme: "tcp", Host: c.broker.Addr}}
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return c.guard, nil })
	o.SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false)
	o.SetCleanSession(cfg.CleanSession).SetKeepAlive(keepAlive).SetPingTimeout(keepAlive)
	o.SetConnectTimeout(connectTimeout).SetWriteTimeout(writeTimeout)
	o.SetUsername(cfg.Username).SetPassword(cfg.Password)
	o.SetClientID(orDefault(cfg.ClientID, randomClientID()))
	o.SetOrderMatters(true).SetAutoAckDisabled(true)
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.lost(err) })
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		cfg.Message(&Message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained(), Dup: m.Duplicate(), ack: m.Ack})
	})
	return o
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
	if seen := c.guard.err(); seen != nil {
		return errors.Join(ErrLost, seen)
	}
	return errors.Join(ErrLost, c.loss)
}

// goodbye sends DISCONNECT and closes.
func (c *Conn) goodbye() {
	c.client.Disconnect(250)
	c.lost(nil)
}

// Delivery is a message on its way to the broker.
type Delivery struct {
	token mqtt.Token
	conn  *Conn
}

// Wait returns nil when the broker has acknowledged the message (QoS 0: when it was
// written), [ErrLost] when the connection ended first.
func (d *Delivery) Wait(ctx context.Context) error {
	select {
	case <-d.token.Done():
		if err := d.token.Error(); err != nil {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
		return nil
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

// Publish hands a message to the connection. Messages leave in the order of the calls.
// payload must not be changed afterwards.
func (c *Conn) Publish(topic string, payload []byte, qos byte, retain bool) *Delivery {
	return &Delivery{token: c.client.Publish(topic, qos, retain, payload), conn: c}
}

// Subscribe subscribes to one filter and returns when the broker has granted it.
func (c *Conn) Subscribe(ctx context.Context, filter string, qos byte) error {
	token := c.client.Subscribe(filter, qos, nil)
	if err := (&Delivery{token: token, conn: c}).Wait(ctx); err != nil {
		return fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	if t, ok := token.(*mqtt.SubscribeToken); ok {
		for _, code := range t.Result() {
			if code > 2 {
				return fmt.Errorf("subscribe to %q: %w; allow this user to read it in the broker's access list", filter, ErrRefused)
			}
		}
	}
	return nil
}

// Insist subscribes like Subscribe, again and again as long as the broker refuses: a cluster that has
// just lost a node refuses what it will grant some seconds later. Other errors end it.
func (c *Conn) Insist(ctx context.Context, filter string, qos byte) error {
	var pauses backoff
	for {
		err := c.Subscribe(ctx, filter, qos)
		if !errors.Is(err, ErrRefused) {
			return err
		}
		select {
		case <-time.After(pauses.next()):
		case <-c.done:
			return ErrLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unsubscribe ends a subscription and returns when the broker has acknowledged it.
func (c *Conn) Unsubscribe(ctx context.Context, filter string) error {
	if err := (&Delivery{token: c.client.Unsubscribe(filter), conn: c}).Wait(ctx); err != nil {
		return fmt.Errorf("unsubscribe from %q: %w", filter, err)
	}
	return nil
}

// Drop ends the connection; the session makes a new one. It is for an owner that can no
// longer follow what came over this one.
func (c *Conn) Drop() {
	c.guard.Close()
	c.lost(errDropped)
	go c.client.Disconnect(0) // paho does not notice a close from this side
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
