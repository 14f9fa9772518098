// Package subscriber is the library with which a Go program reads (and, where the
// fleet policy lets it, writes) topics that Sealgate seals. A [Client] is a member of the fleet:
// it gets its keys over MQTT, opens what the broker delivers, and tells of each
// message whether it is new, repeated, forged or late, and which ones are missing.
//
//	client, err := subscriber.Connect(ctx, subscriber.Options{
//		Identity: "/etc/plant/identity", // made by `sealctl fleet add`
//		Broker:   "mqtts://broker.example",
//		Handler:  func(m *subscriber.Message) { ... },
//	})
//	...
//	err = client.Subscribe(ctx, 1, "plant/#")
//
// The client keeps two connections: one for keys (package member) and one for messages. Losing
// either is repaired in the background; subscriptions are made again.
//
// receiver.go and stream.go judge messages and do no I/O; client.go wires them to the
// connections; publish.go is the sending side.
package subscriber

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
	"sealgate/pkg/topic"
)

// DefaultMaxMessage is the size of the largest message taken from the broker, in bytes.
const DefaultMaxMessage = 16 << 20

// maxPending is how many messages wait between the connection and the handler. When it is
// reached, nothing more is read from the broker.
const maxPending = 256

// Options configure a [Client]. Identity and Broker are required.
type Options struct {
	Identity      string // identity directory; or leave it empty and set Member
	Member        *Loaded
	Broker        string // of the messages: mqtt://host[:port] or mqtts://host[:port]; several, separated by commas, are tried in order
	ControlBroker string // of the keys, likewise; empty: Broker

	CAFile   string      // PEM file of the brokers' CA; empty: the system's CAs
	TLS      *tls.Config // instead of CAFile, for client certificates and the like
	Username string
	Password string
	Prefix   string // topic prefix of control messages; empty: "sealgate"

	// Version of MQTT for messages: 5, or 3.1.1, which is 4 or 0. Keys always travel by 3.1.1.
	Version byte

	// SessionExpiry and ReceiveMaximum are what an MQTT 5 client asks of the broker: how long to keep the session of ClientID (0: for
	// ever), and how many messages to send before the first is acknowledged (0: session.DefaultReceiveMaximum).
	SessionExpiry  time.Duration
	ReceiveMaximum uint16

	// ClientID names a persistent session, for which the broker keeps QoS 1 and 2 messages while the
	// client is away. Empty: a clean session under a random id.
	ClientID string

	StateDir   string // where the policy and the clock floor are kept; empty: nothing is kept
	MaxMessage int    // bytes; 0: DefaultMaxMessage
	MaxStreams int    // replay windows held; 0: DefaultStreams
	ReadOnly   bool   // never publish; spares the fleet a confirmation at every rotation
	Retry      bool   // Connect keeps trying while a broker cannot be reached

	Log *slog.Logger // nil: slog.Default()

	// Handler is called for every message and report, one at a time. The message is acknowledged
	// to the broker when it returns. While it runs, no other message is handled.
	Handler func(*Message)
}

// Loaded is an identity that the program loaded itself, by [member.LoadIdentity], or by [crypto.NewIdentity] around a
// signer that keeps its private key, such as a TPM.
type Loaded struct {
	Identity *crypto.Identity
	Trust    *crypto.Trust
	Policy   *policy.Signed // may be nil
}

// Client is a connected client. Its methods may be called from any goroutine.
type Client struct {
	opts   Options
	log    *slog.Logger
	member *member.Member
	data   *session.Session
	ctx    context.Context
	cancel context.CancelFunc

	incoming chan *session.Message
	acks     ackQueue // owned by run
	ledgers  ledgers  // owned by run

	checkpoints chan []control.ReceivedCheckpoint
	interrupted chan struct{} // capacity 1: a session began or ended, or checkpoints were lost
	refiltered  chan struct{} // capacity 1: filters has changed
	controlUp   atomic.Bool
	controlLost atomic.Uint64 // how often it was lost
	lostBefore  uint64        // what run has seen of it

	mu      sync.Mutex
	conn    *session.Conn // guarded by mu; nil while disconnected
	joined  chan struct{} // guarded by mu; closed when conn is set next
	filters []filter      // guarded by mu
	firsts  map[string]chan error

	out     publisher
	streams atomic.Int64
}

type filter struct {
	name  string
	qos   byte
	wires []string // what the broker gets of it; guarded by Client.mu
}

// Connect makes the client a member of the fleet and connects to the brokers. It returns when both
// connections stand and the fleet policy is known, or when ctx ends. A broker that cannot be
// reached is an error (a [session.Error]) unless Options.Retry is set. The client runs until Close is called.
func Connect(ctx context.Context, opts Options) (*Client, error) {
	c, err := start(opts)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := c.await(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	go c.run()
	return c, nil
}

func start(opts Options) (*Client, error) {
	if opts.Member == nil {
		id, trust, signed, err := member.LoadIdentity(opts.Identity)
		if err != nil {
			return nil, err
		}
		opts.Member = &Loaded{id, trust, signed}
	}
	if opts.TLS == nil {
		var err error
		if opts.TLS, err = session.TLSFiles(opts.CAFile, "", ""); err != nil {
			return nil, err
		}
	}
	if opts.Handler == nil {
		opts.Handler = func(*Message) {}
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.ControlBroker == "" {
		opts.ControlBroker = opts.Broker
	}
	if opts.Prefix == "" {
		opts.Prefix = member.DefaultPrefix
	}
	if opts.Version != 0 && opts.Version != 4 && opts.Version != 5 {
		return nil, fmt.Errorf("MQTT version %d; want 5, or 4 for 3.1.1", opts.Version)
	}
	if opts.MaxMessage <= 0 {
		opts.MaxMessage = DefaultMaxMessage
	}
	brokers, err := session.ParseBrokers(opts.Broker)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts: opts, log: opts.Log,
		incoming: make(chan *session.Message, maxPending), joined: make(chan struct{}),
		checkpoints: make(chan []control.ReceivedCheckpoint, maxCheckpoints),
		interrupted: make(chan struct{}, 1), refiltered: make(chan struct{}, 1),
		firsts: map[string]chan error{"control": make(chan error, 1), "data": make(chan error, 1)},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.startSessions(brokers); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

// startSessions starts the member and then the connection for messages.
func (c *Client) startSessions(brokers []session.Broker) (err error) {
	o := &c.opts
	// It ends with its Close, which has last words to say, and not with ctx.
	c.member, err = member.Start(context.WithoutCancel(c.ctx), member.Config{
		Identity: o.Member.Identity, Trust: o.Member.Trust, Policy: o.Member.Policy,
		Broker: strings.Split(o.ControlBroker, ","), TLS: o.TLS, Username: o.Username, Password: o.Password,
		Prefix: o.Prefix, StateDir: o.StateDir, Log: o.Log, ReadOnly: o.ReadOnly,
		Checkpoints: c.checkpointsArrived,
		OnBroker: func(err error) {
			if was := c.controlUp.Swap(err == nil); was && err != nil {
				c.controlLost.Add(1)
			}
			note(c.interrupted)
			c.first("control", err)
		},
	})
	if err != nil {
		return err
	}
	if err = c.out.init(c.member.Identity().Name); err != nil {
		return errors.Join(err, c.member.Close())
	}
	protocol := session.Protocol(session.MQTT311)
	if o.Version == 5 {
		protocol = session.MQTT5(session.V5{SessionExpiry: o.SessionExpiry, ReceiveMaximum: o.ReceiveMaximum})
	}
	c.data, err = session.Start(c.ctx, session.Config{
		Brokers: brokers, Protocol: protocol, TLS: o.TLS, Username: o.Username, Password: o.Password,
		ClientID: o.ClientID, CleanSession: o.ClientID == "", MaxPacket: o.MaxMessage + crypto.MaxPad + crypto.MaxOverhead + 2*65536 + 16,
		Log: o.Log, Name: "messages", Now: func() time.Time { return c.member.Now().Wall },
		Up: c.up, Down: c.down, Message: c.arrived,
	})
	if err != nil {
		return errors.Join(err, c.member.Close())
	}
	return nil
}

// first reports the outcome of connection attempts to await.
func (c *Client) first(which string, err error) {
	select {
	case c.firsts[which] <- err:
	default:
	}
}

// await returns when both connections stand and the policy is known.
func (c *Client) await(ctx context.Context) error {
	for _, which := range []string{"control", "data"} {
		for stands := false; !stands; {
			select {
			case err := <-c.firsts[which]:
				if stands = err == nil; !stands && !c.opts.Retry {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return c.waitFor(ctx, func(s *member.State) bool { return s.Table != nil })
}

// waitFor returns when the member's state satisfies ok.
func (c *Client) waitFor(ctx context.Context, ok func(*member.State) bool) error {
	for {
		changed := c.member.Changed()
		if ok(c.member.State()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return errClosed
		}
	}
}

// errClosed is returned by calls on a client after Close.
var errClosed = errors.New("the client has been closed")

// Ready waits until keys have arrived for at least one group. It returns at once when the policy
// gives this member none.
func (c *Client) Ready(ctx context.Context) error {
	me, doc := c.member.Identity(), c.member.State().Policy.Document
	if doc.Revoked(me) {
		return fmt.Errorf("the fleet policy (version %d) has revoked %q", doc.Version, me.Name)
	}
	if !slices.ContainsFunc(doc.Groups, func(g policy.Group) bool { return g.MayRead(me) }) {
		return fmt.Errorf("the fleet policy (version %d) lets %s %q read no group; add its name to a group's read list", doc.Version, me.Role, me.Name)
	}
	err := c.waitFor(ctx, func(s *member.State) bool {
		for _, g := range s.Keys.Groups() {
			if len(s.Keys.Keys(g)) > 0 {
				return true
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("no keys yet; does a keeper's controld run, on this control broker? (%w)", err)
	}
	return nil
}

// Subscribe subscribes to topic filters, now and after every reconnection. It returns when the broker has
// granted all of them.
func (c *Client) Subscribe(ctx context.Context, qos byte, filters ...string) error {
	if qos > 2 {
		return fmt.Errorf("subscribe: QoS %d; want 0, 1 or 2", qos)
	}
	for _, f := range filters {
		if err := topic.ValidateFilter(f); err != nil {
			return fmt.Errorf("subscribe to %q: %w", f, err)
		}
	}
	for _, f := range filters {
		wires, err := c.subscriptionOf(ctx, f)
		if err != nil {
			return fmt.Errorf("subscribe to %q: %w", f, err)
		}
		conn, err := c.connection(ctx)
		if err != nil {
			return fmt.Errorf("subscribe to %q: %w", f, err)
		}
		c.mu.Lock()
		c.filters = append(c.filters, filter{f, qos, wires})
		c.mu.Unlock()
		note(c.refiltered)
		for _, w := range wires {
			if err := c.subscribe(ctx, conn, w, qos); err != nil {
				return err
			}
		}
	}
	return nil
}

// subscribe asks the broker for one filter, on another connection where conn is lost.
func (c *Client) subscribe(ctx context.Context, conn *session.Conn, wire string, qos byte) error {
	for {
		err := conn.Subscribe(ctx, wire, qos)
		if !errors.Is(err, session.ErrLost) {
			return err
		}
		if conn, err = c.nextConnection(ctx, conn); err != nil {
			return err
		}
	}
}

// connection returns the live connection, waiting for one.
func (c *Client) connection(ctx context.Context) (*session.Conn, error) {
	return c.nextConnection(ctx, nil)
}

// nextConnection returns a live connection other than old.
func (c *Client) nextConnection(ctx context.Context, old *session.Conn) (*session.Conn, error) {
	for {
		c.mu.Lock()
		conn, joined := c.conn, c.joined
		c.mu.Unlock()
		if conn != nil && conn != old {
			return conn, nil
		}
		select {
		case <-joined:
		case <-ctx.Done():
			return nil, fmt.Errorf("no connection to the broker: %w", ctx.Err())
		case <-c.ctx.Done():
			return nil, errClosed
		}
	}
}

// up takes a new connection into use and makes the subscriptions again.
func (c *Client) up(conn *session.Conn) {
	c.mu.Lock()
	c.conn = conn
	close(c.joined)
	c.joined = make(chan struct{})
	var again []filter
	for _, f := range c.filters {
		for _, w := range f.wires {
			again = append(again, filter{name: w, qos: f.qos})
		}
	}
	c.mu.Unlock()
	note(c.interrupted)
	c.first("data", nil)
	if len(again) == 0 {
		return
	}
	go func() {
		for _, f := range again {
			c.again(conn, f)
		}
	}()
}

func (c *Client) down(err error) {
	c.mu.Lock()
	c.conn = nil
	c.mu.Unlock()
	note(c.interrupted)
	c.first("data", err)
}

// arrived hands a message over to run. While the handler is busy and the queue is full it
// blocks, and TCP holds the broker back.
func (c *Client) arrived(m *session.Message) {
	select {
	case c.incoming <- m:
	case <-c.ctx.Done():
	}
}

// isControl reports whether a topic carries control messages.
func (c *Client) isControl(name string) bool { return strings.HasPrefix(name, c.opts.Prefix+"/") }

// run owns the receiver and calls the handler.
func (c *Client) run() {
	r := NewReceiver(c.opts.MaxStreams, c.deliver, c.member.UnknownKey)
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed := c.adopt(r)
	for {
		if lost := c.controlLost.Load(); lost != c.lostBefore || lost > 0 && !c.controlUp.Load() {
			c.lostBefore = lost
			r.Interrupted(c.now())
		}
		select {
		case <-c.ctx.Done():
			return
		case <-changed:
			changed = c.adopt(r)
		case <-c.refiltered:
			changed = c.adopt(r)
		case <-c.interrupted:
			c.ledgers.interrupted(c.now())
		case m := <-c.incoming:
			c.take(r, m)
		case list := <-c.checkpoints:
			c.drain(r)
			for _, p := range list {
				c.ledgers.checkpoint(c.now(), p, c.whole())
			}
		case <-timer.C:
			c.drain(r)
			r.Advance(c.now())
		}
		for _, m := range c.ledgers.advance(c.now(), c.whole()) {
			c.opts.Handler(m)
		}
		c.streams.Store(int64(r.Streams()))
		timer.Reset(c.nap(r))
	}
}

// maxCheckpoints is how many batches of checkpoints wait for run.
const maxCheckpoints = 256

// longestNap is how long run sleeps at most: Go's timers stop while a machine sleeps.
const longestNap = 30 * time.Second

// nap is how long there is nothing to do unless something arrives.
func (c *Client) nap(r *Receiver) time.Duration {
	nap := longestNap
	if at, ok := r.Deadline(); ok {
		nap = min(nap, at-c.now())
	}
	if at, ok := c.ledgers.deadline(); ok && c.whole() {
		nap = min(nap, at-c.now())
	}
	return max(nap, 0)
}

// note makes a channel of capacity 1 ready.
func note(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// whole reports whether both connections stand, so that what does not arrive is missed.
func (c *Client) whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil && c.controlUp.Load()
}

// checkpointsArrived hands checkpoints over to run. It does not block: those for which there is no room count as an interruption.
func (c *Client) checkpointsArrived(list []control.ReceivedCheckpoint) {
	select {
	case c.checkpoints <- list:
	default:
		note(c.interrupted)
	}
}

// drain takes the messages that wait, before a checkpoint is held against them.
func (c *Client) drain(r *Receiver) {
	for range maxPending {
		select {
		case m := <-c.incoming:
			c.take(r, m)
		default:
			return
		}
	}
}

// deliver tells the ledger of a message and hands it to the program.
func (c *Client) deliver(m *Message) {
	c.ledgers.received(c.now(), m)
	c.opts.Handler(m)
}

// take gives the receiver a message. What a wide filter such as "#" brings of the fleet's own control
// messages is no message of an application: it is acknowledged in its turn, and that is all.
func (c *Client) take(r *Receiver, m *session.Message) {
	done := c.acks.add(m)
	if !c.isControl(m.Topic) {
		r.Receive(c.now(), Incoming{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Properties: m.Properties, Done: done})
	} else if done != nil {
		done()
	}
}

// adopt gives the receiver the newest state and returns the channel of the next one.
func (c *Client) adopt(r *Receiver) <-chan struct{} {
	changed := c.member.Changed()
	s := c.member.State()
	c.mu.Lock()
	var filters []string
	for _, f := range c.filters {
		filters = append(filters, f.name)
	}
	c.mu.Unlock()
	c.ledgers.adopt(c.now(), s, c.member.Identity(), filters)
	r.SetState(c.now(), s.Table, s.Keys)
	c.renamed(s)
	return changed
}

func (c *Client) now() time.Duration { return c.member.Now().Mono }

// Status is what the client's control machine says of itself.
func (c *Client) Status() control.Status { return c.member.Status() }

// State is the policy and the keys that the client goes by now; the policy may be nil.
func (c *Client) State() *member.State { return c.member.State() }

// Connected reports which of the two connections stand: that for keys, and that for messages.
func (c *Client) Connected() (keys, messages bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.controlUp.Load(), c.conn != nil
}

// Streams is the number of streams that have a replay window now.
func (c *Client) Streams() int { return int(c.streams.Load()) }

// Close ends both connections. Messages that were not handled yet are not acknowledged. A handler that
// is running may still be when Close returns, so it may call Close itself.
func (c *Client) Close() error {
	c.cancel()
	c.data.Close()
	return c.member.Close()
}

// ackQueue acknowledges messages in the order of their arrival [MQTT-4.6.0-2], although held ones
// are done later than others.
type ackQueue struct{ waiting []*pendingAck }

type pendingAck struct {
	m    *session.Message
	done bool
}

func (q *ackQueue) add(m *session.Message) (done func()) {
	if m.QoS == 0 {
		return nil
	}
	p := &pendingAck{m: m}
	q.waiting = append(q.waiting, p)
	return func() {
		p.done = true
		for len(q.waiting) > 0 && q.waiting[0].done {
			q.waiting[0].m.Ack()
			q.waiting = q.waiting[1:]
		}
	}
}
