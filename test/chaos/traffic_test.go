package chaos

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
)

// serve runs the data plane on the node's keys, and returns where devices connect.
func (n *node) serve(edit ...func(*gateway.Config)) (*gateway.Gateway, string) {
	s := n.s
	s.Helper()
	dialer := &tls.Dialer{Config: s.tls}
	cfg := gateway.Config{
		Gateway: n.name, UnknownKey: n.m.UnknownKey, Log: slog.New(n.log), Now: func() time.Duration { return s.clock.now().Mono },
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", s.broker.Addr)
		},
	}
	for _, f := range edit {
		f(&cfg)
	}
	g := gateway.New(cfg)
	m := n.m
	go func() {
		for {
			changed := m.Changed()
			if state := m.State(); state.Table != nil && len(state.Keys.Groups()) > 0 {
				g.SetState(&gateway.State{Table: state.Table, Keys: state.Keys})
			} else {
				g.SetState(nil)
			}
			select {
			case <-changed:
			case <-s.ctx.Done():
				return
			}
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(s.ctx, l) }()
	s.Cleanup(func() { g.Close(); <-served })
	return g, l.Addr().String()
}

// device is an ordinary MQTT client behind a gateway.
func (s *scene) device(name, addr string) mqtt.Client {
	s.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(name).SetUsername(name).SetCleanSession(false)
	o.SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond).SetConnectTimeout(5 * time.Second)
	c := mqtt.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		s.Fatalf("connect device %s: %v", name, token.Error())
	}
	s.Cleanup(func() { c.Disconnect(0) })
	return c
}

// reader is a subscriber's program and what it was delivered.
type reader struct {
	s      *scene
	name   string
	client *subscriber.Client
	log    *journal

	mu       sync.Mutex
	count    map[subscriber.Status]int // guarded by mu
	payloads map[string]int            // opened; guarded by mu
	bad      []string                  // statuses that an honest broker does not cause, with topics; guarded by mu
}

func (s *scene) reader(name string, p *policy.Signed) *reader {
	s.Helper()
	r := &reader{s: s, name: name, log: new(journal), count: make(map[subscriber.Status]int), payloads: make(map[string]int)}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var err error
	r.client, err = subscriber.Connect(ctx, subscriber.Options{
		Member: &subscriber.Loaded{Identity: s.identity(crypto.RoleSubscriber, name), Trust: s.trust, Policy: p},
		Broker: s.broker.URL(), TLS: s.tls, Username: name, Log: slog.New(r.log), ReadOnly: true, Handler: r.take, Retry: true,
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { r.client.Close() })
	if err := r.client.Subscribe(ctx, 1, "plant/#"); err != nil {
		s.Fatal(err)
	}
	if err := r.client.Ready(ctx); err != nil {
		s.Fatal(err)
	}
	return r
}

func (r *reader) take(m *subscriber.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count[m.Status]++
	switch m.Status {
	case subscriber.StatusOK:
		r.payloads[string(m.Payload)]++
	case subscriber.StatusDuplicate:
	default:
		r.bad = append(r.bad, fmt.Sprintf("%s on %s", m.Status, m.Topic))
	}
}

func (r *reader) opened(payload string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.payloads[payload]
}

// holds reports whether the newest epoch that the reader's program knows has this key.
func (r *reader) holds(id crypto.KeyID) bool {
	for _, g := range r.client.Status().Groups {
		if g.KeyID == id {
			return true
		}
	}
	return false
}

func (r *reader) statuses(st subscriber.Status) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[st]
}

// traffic is a device that publishes through a gateway, one message after the other, and a reader that opens them.
type traffic struct {
	s      *scene
	device mqtt.Client
	reader *reader
	acked  []string
	stop   chan struct{}
	done   chan struct{}
	fault  error
}

// traffic starts honest traffic through a node's gateway.
func (s *scene) traffic(n *node) *traffic {
	s.Helper()
	_, addr := n.serve()
	t := &traffic{s: s, reader: s.reader("rita", s.signed), device: s.device("dev-"+n.name, addr), stop: make(chan struct{}), done: make(chan struct{})}
	go t.run()
	return t
}

func (t *traffic) run() {
	defer close(t.done)
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		payload := fmt.Sprintf("%s message %d", needle, i)
		token := t.device.Publish("plant/a", 1, false, payload)
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.fault = fmt.Errorf("%q was not acknowledged: %v", payload, token.Error())
			return
		}
		t.acked = append(t.acked, payload)
		select {
		case <-tick.C:
		case <-t.stop:
			return
		}
	}
}

// check ends the traffic and fails unless every acknowledged message was opened once and nothing else was seen.
func (t *traffic) check() int {
	s := t.s
	s.Helper()
	close(t.stop)
	<-t.done
	if t.fault != nil {
		s.Errorf("honest traffic: %v", t.fault)
	}
	s.await("the last message of honest traffic opened", func() bool {
		return len(t.acked) > 0 && t.reader.opened(t.acked[len(t.acked)-1]) > 0
	})
	for _, payload := range t.acked {
		if n := t.reader.opened(payload); n != 1 {
			s.Errorf("honest traffic: %q was opened %d times", payload, n)
		}
	}
	t.reader.mu.Lock()
	defer t.reader.mu.Unlock()
	if len(t.reader.bad) > 0 {
		s.Errorf("honest traffic: the reader saw %s", strings.Join(t.reader.bad, ", "))
	}
	return len(t.acked)
}

// sealedUnder counts, by key id, what was published on data topics since mark.
func (s *scene) sealedUnder(mark int) map[crypto.KeyID]int {
	s.Helper()
	keys := make(map[crypto.KeyID]int)
	for _, l := range s.broker.Sent(mark) {
		if !strings.HasPrefix(l.Topic, "plant/") {
			continue
		}
		e, err := crypto.ParseEnvelope(l.Payload)
		if err != nil {
			s.Errorf("%s published on %s what is no envelope: %v", l.From, l.Topic, err)
			continue
		}
		keys[e.Kid.KeyID()]++
	}
	return keys
}

// noNonceTwice fails if two different messages were ever sealed under one key and number.
func (s *scene) noNonceTwice() {
	s.Helper()
	type nonce struct {
		topic string
		kid   crypto.Kid
		seq   uint64
	}
	seen := make(map[nonce]string)
	for _, l := range s.broker.Sent(0) {
		e, err := crypto.ParseEnvelope(l.Payload)
		if err != nil || !strings.HasPrefix(l.Topic, "plant/") {
			continue
		}
		n := nonce{l.Topic, e.Kid, e.Seq}
		if old, ok := seen[n]; ok && old != string(l.Payload) {
			s.Errorf("two messages under key %v, number %d", e.Kid, e.Seq)
		}
		seen[n] = string(l.Payload)
	}
}
