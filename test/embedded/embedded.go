// Package embedded is a broker inside the testing process: one that can be stopped and
// started again on its address, refuse users, and do to messages what a hostile broker would.
package embedded

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"sealgate/test/lab"
)

// Options of a broker. The zero Options listen in the clear and let everybody in.
type Options struct {
	TLS      *tls.Config
	Username string // if set, the only user let in, with Password
	Password string

	// Meddle, if set, sees every PUBLISH from a client and may change its topic, payload and
	// flags, or return false to drop it (it is acknowledged all the same).
	Meddle func(topic string, payload []byte) (out []byte, forward bool)

	// Refuse, if set, is asked for every filter of a SUBSCRIBE (and every topic that is delivered), and
	// returns true to refuse it.
	Refuse func(filter string) bool

	// Hook, if set, is asked behind the broker's own.
	Hook mochi.Hook
}

// Broker is a running broker.
type Broker struct {
	Addr string // host:port
	t    lab.T
	opts Options

	mu     sync.Mutex
	server *mochi.Server
	seen   []Publish
	subs   map[string]chan struct{} // closed when the filter is subscribed to
}

// Publish is a PUBLISH that the broker saw from a client.
type Publish struct {
	Topic   string
	Payload []byte
	Retain  bool
}

// Start starts a broker on a free port of 127.0.0.1; the test's end stops it.
func Start(t lab.T, o Options) *Broker {
	t.Helper()
	b := &Broker{t: t, opts: o, Addr: "127.0.0.1:0"}
	b.Restart()
	t.Cleanup(b.Stop)
	return b
}

// URL is the broker's URL.
func (b *Broker) URL() string {
	if b.opts.TLS != nil {
		return "mqtts://" + b.Addr
	}
	return "mqtt://" + b.Addr
}

// Restart starts the broker, on the address it had, with nothing retained.
func (b *Broker) Restart() {
	b.t.Helper()
	l, err := net.Listen("tcp", b.Addr)
	if err != nil {
		b.t.Fatalf("listen for the broker: %v", err)
	}
	b.Addr = l.Addr().String()
	if b.opts.TLS != nil {
		l = tls.NewListener(l, b.opts.TLS)
	}
	server := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := server.AddHook(&hook{b: b}, nil); err != nil {
		b.t.Fatalf("start the broker: %v", err)
	}
	if b.opts.Hook != nil {
		if err := server.AddHook(b.opts.Hook, nil); err != nil {
			b.t.Fatalf("start the broker: %v", err)
		}
	}
	if err := server.AddListener(newListener(l)); err != nil {
		b.t.Fatalf("start the broker: %v", err)
	}
	if err := server.Serve(); err != nil {
		b.t.Fatalf("start the broker: %v", err)
	}
	b.mu.Lock()
	b.server = server
	b.mu.Unlock()
}

// Stop ends the broker and every connection.
func (b *Broker) Stop() {
	b.mu.Lock()
	server := b.server
	b.server = nil
	b.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// Gone reports whether the broker has finished with a client's last connection. Before that it still writes messages to it.
func (b *Broker) Gone(clientID string) bool {
	b.mu.Lock()
	server := b.server
	b.mu.Unlock()
	cl, known := server.Clients.Get(clientID)
	return !known || cl.Closed()
}

// Inject publishes as the broker itself.
func (b *Broker) Inject(topic string, payload []byte, qos byte, retain bool) {
	b.t.Helper()
	b.mu.Lock()
	server := b.server
	b.mu.Unlock()
	if err := server.Publish(topic, payload, retain, qos); err != nil {
		b.t.Fatalf("publish as the broker: %v", err)
	}
}

// Seen returns every PUBLISH that clients have sent.
func (b *Broker) Seen() []Publish {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Publish(nil), b.seen...)
}

// Subscribed returns a channel that is closed once a client has subscribed to filter.
func (b *Broker) Subscribed(filter string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sub(filter)
}

// sub is the channel of a filter; b.mu is held.
func (b *Broker) sub(filter string) chan struct{} {
	if b.subs == nil {
		b.subs = make(map[string]chan struct{})
	}
	if b.subs[filter] == nil {
		b.subs[filter] = make(chan struct{})
	}
	return b.subs[filter]
}

type hook struct {
	mochi.HookBase
	b *Broker
}

func (h *hook) ID() string { return "embedded" }

func (h *hook) Provides(what byte) bool {
	switch what {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublish, mochi.OnSubscribed:
		return true
	}
	return false
}

func (h *hook) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	o := &h.b.opts
	return o.Username == "" || string(pk.Connect.Username) == o.Username && string(pk.Connect.Password) == o.Password
}

func (h *hook) OnACLCheck(_ *mochi.Client, topic string, write bool) bool {
	return write || h.b.opts.Refuse == nil || !h.b.opts.Refuse(topic)
}

func (h *hook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	h.b.mu.Lock()
	h.b.seen = append(h.b.seen, Publish{pk.TopicName, append([]byte(nil), pk.Payload...), pk.FixedHeader.Retain})
	h.b.mu.Unlock()
	if h.b.opts.Meddle != nil {
		out, forward := h.b.opts.Meddle(pk.TopicName, pk.Payload)
		if !forward {
			return pk, packets.CodeSuccessIgnore
		}
		pk.Payload = out
	}
	return pk, nil
}

func (h *hook) OnSubscribed(_ *mochi.Client, pk packets.Packet, _ []byte) {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	for _, f := range pk.Filters {
		c := h.b.sub(f.Filter)
		select {
		case <-c:
		default:
			close(c)
		}
	}
}
