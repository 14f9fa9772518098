package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// fleet makes policies and keys for tests: groups "default" on "#" under "s/", "clears" and
// "keeps" for retained clears, topics under "plain/" pass, "no/" is denied.
type fleet struct {
	tb    testing.TB
	table *policy.Table
	keys  map[string][]crypto.Key
	epoch uint64
	doc   *policy.Document // of a fleet that hides topics
	names *crypto.TopicKey // likewise
}

func newFleet(tb testing.TB) *fleet {
	tb.Helper()
	group := func(name, clear string, topics ...string) policy.Group {
		g := policy.DefaultGroup(name)
		g.Topics, g.Keepers, g.ClearRetained = topics, []string{"gw1"}, clear
		return g
	}
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: "pass", Groups: []policy.Group{
		group("default", "pass", "s/#"), group("keeps", "deny", "k/#"), group("other", "pass", "o/#"),
	}}
	table, err := doc.Table()
	if err != nil {
		tb.Fatal(err)
	}
	return &fleet{tb: tb, table: table, keys: map[string][]crypto.Key{}}
}

// denying is a table that denies whatever no group covers.
func (f *fleet) denying() *fleet {
	f.tb.Helper()
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers = []string{"s/#"}, []string{"gw1"}
	table, err := (&policy.Document{Fleet: "plant", Version: 1, Unmatched: "deny", Groups: []policy.Group{g}}).Table()
	if err != nil {
		f.tb.Fatal(err)
	}
	f.table = table
	return f
}

// rotate adds a new epoch to the groups named, all if none is; older ones only open from now on.
func (f *fleet) rotate(generation uint64, groups ...string) *State {
	f.tb.Helper()
	if len(groups) == 0 {
		groups = []string{"default", "keeps", "other"}
	}
	f.epoch++
	for _, g := range groups {
		secret, err := crypto.NewPayloadSecret(rand.Reader)
		if err != nil {
			f.tb.Fatal(err)
		}
		for i := range f.keys[g] {
			f.keys[g][i].Send = false
		}
		f.keys[g] = append(f.keys[g], crypto.Key{
			ID: crypto.KeyIDOf(secret, g), Secret: secret, Send: true,
			Epoch: crypto.Epoch{PolicyVersion: 1, Generation: generation, Number: f.epoch},
		})
	}
	return f.state()
}

func (f *fleet) state() *State {
	f.tb.Helper()
	ring, err := crypto.NewKeyring(f.keys)
	if err != nil {
		f.tb.Fatal(err)
	}
	return &State{Table: f.table, Keys: ring.WithTopicKey(f.names)}
}

// logs collects log lines.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// nullConn is a connection that swallows what is written.
type nullConn struct{ net.Conn }

func (nullConn) Write(p []byte) (int, error)      { return len(p), nil }
func (nullConn) Close() error                     { return nil }
func (nullConn) SetDeadline(time.Time) error      { return nil }
func (nullConn) SetReadDeadline(time.Time) error  { return nil }
func (nullConn) SetWriteDeadline(time.Time) error { return nil }
func (nullConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (nullConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (nullConn) Read(p []byte) (int, error)       { return 0, io.EOF }

// bench is a connection without goroutines: bytes in, bytes out, step by step.
type bench struct {
	g        *Gateway
	c        *conn
	dev, upl *recorder
}

// recorder keeps what is written.
type recorder struct {
	nullConn
	b []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.b = append(r.b, p...)
	return len(p), nil
}

func newBench(tb testing.TB, state *State, v mqttparse.Version, cfg Config) *bench {
	tb.Helper()
	g := New(cfg)
	g.SetState(state)
	b := &bench{g: g}
	b.reconnect(tb, v, "dev1", true)
	return b
}

// reconnect starts another connection; the one before gives its session back.
func (b *bench) reconnect(tb testing.TB, v mqttparse.Version, client string, clean bool) {
	tb.Helper()
	if b.c != nil {
		b.c.deafens()
		b.g.store.put(b.c.sess)
	}
	b.dev, b.upl = &recorder{}, &recorder{}
	c := b.g.newConn(b.dev)
	c.upl, c.version, c.client, c.key = b.upl, v, client, newSessionKey(c.dst, []byte(client))
	con := mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: v, CleanStart: clean, ClientID: []byte(client)})
	if _, n, err := c.up.scan.Next(con); n != len(con) || err != nil {
		tb.Fatal(n, err)
	}
	c.deviceMax, c.naming = maxAliases, b.g.state.Load().naming
	c.start(clean)
	b.c = c
}

// connack lets the broker accept the connection.
func (b *bench) connack(tb testing.TB, present bool) {
	tb.Helper()
	b.fromBroker(tb, mqttparse.AppendConnAck(nil, b.c.version, present, 0))
}

// fromDevice runs bytes of the device through and returns what reaches the broker.
func (b *bench) fromDevice(tb testing.TB, p []byte) []byte {
	tb.Helper()
	b.upl.b = nil
	b.c.up.in.acquire()
	b.c.up.in.b = append(b.c.up.in.b, p...)
	if err := b.c.up.transform(); err != nil {
		tb.Fatalf("device -> broker: %v", err)
	}
	if err := b.c.up.flush(); err != nil {
		tb.Fatal(err)
	}
	if err := b.c.up.in.settle(1 << 20); err != nil {
		tb.Fatal(err)
	}
	return b.upl.b
}

// fromBroker runs bytes of the broker through and returns what reaches the device.
func (b *bench) fromBroker(tb testing.TB, p []byte) []byte {
	tb.Helper()
	b.dev.b, b.upl.b = nil, nil
	b.c.down.in.acquire()
	b.c.down.in.b = append(b.c.down.in.b, p...)
	if err := b.c.down.transform(); err != nil {
		tb.Fatalf("broker -> device: %v", err)
	}
	if err := b.c.down.flush(); err != nil {
		tb.Fatal(err)
	}
	if err := b.c.down.in.settle(1 << 20); err != nil {
		tb.Fatal(err)
	}
	return b.dev.b
}

func (b *bench) count(v verdict) uint64 { return b.g.metrics.messages[v].Get() }

func publishPacket(v mqttparse.Version, p mqttparse.Publish) []byte {
	return append(mqttparse.AppendPublishHeader(nil, v, &p, len(p.Payload)), p.Payload...)
}

func message(topic, payload string, qos byte, id uint16) mqttparse.Publish {
	return mqttparse.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id}
}

// publishes parses the PUBLISH packets in a byte stream of the given direction.
func publishes(tb testing.TB, v mqttparse.Version, b []byte) (out []mqttparse.Publish) {
	tb.Helper()
	for _, f := range frames(tb, v, b) {
		if f.Type() != mqttparse.PUBLISH {
			continue
		}
		var p mqttparse.Publish
		if err := mqttparse.ParsePublish(f, v, &p); err != nil {
			tb.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func frames(tb testing.TB, v mqttparse.Version, b []byte) (out []mqttparse.Frame) {
	tb.Helper()
	for len(b) > 0 {
		n, w := mqttparse.Varint(b[1:])
		if w <= 0 || len(b) < 1+w+n {
			tb.Fatalf("not whole packets: % x", b)
		}
		out = append(out, mqttparse.Frame{Raw: b[:1+w+n], Body: b[1+w : 1+w+n]})
		b = b[1+w+n:]
	}
	return out
}

// unseal opens a PUBLISH of the uplink with the fleet's keys.
func (f *fleet) unseal(group string, p mqttparse.Publish) (env crypto.Envelope, props, payload []byte) {
	f.tb.Helper()
	env, err := crypto.ParseEnvelope(p.Payload)
	if err != nil {
		f.tb.Fatalf("topic %s: %v: %q", p.Topic, err, p.Payload)
	}
	key := f.state().Keys.Find(group, env.Kid.KeyID())
	if key == nil {
		f.tb.Fatalf("sealed under unknown key %v", env.Kid)
	}
	o, err := crypto.NewOpenStream(key.Secret, group, string(p.Topic), env.Kid.StreamID())
	if err != nil {
		f.tb.Fatal(err)
	}
	inner, err := o.Open(nil, &env)
	if err != nil {
		f.tb.Fatal(err)
	}
	if props, payload, err = crypto.SplitInner(inner); err != nil {
		f.tb.Fatal(err)
	}
	return env, props, payload
}

// sealer is a publisher elsewhere in the fleet.
type sealer struct {
	f      *fleet
	topic  string
	stream *crypto.SealStream
}

func (f *fleet) sealer(group, topic string) *sealer {
	f.tb.Helper()
	key := f.state().Keys.Send(group)
	var r [16]byte
	_, _ = rand.Read(r[:])
	s, err := crypto.NewSealStream(key.Secret, group, topic, crypto.NewStreamID("gw2", [16]byte{}, r, false))
	if err != nil {
		f.tb.Fatal(err)
	}
	return &sealer{f, topic, s}
}

func (s *sealer) next(payload string, qos byte, id uint16) mqttparse.Publish {
	s.f.tb.Helper()
	return s.withProps(nil, payload, qos, id)
}

func (s *sealer) withProps(props []byte, payload string, qos byte, id uint16) mqttparse.Publish {
	s.f.tb.Helper()
	env, _, err := s.stream.Seal(nil, props, []byte(payload))
	if err != nil {
		s.f.tb.Fatal(err)
	}
	return message(s.topic, string(env), qos, id)
}

// tester runs a Gateway on loopback before a broker that the test speaks for.
type tester struct {
	tb     testing.TB
	g      *Gateway
	addr   string
	logs   *logs
	broker net.Listener
}

// newTester starts a gateway in state. A broker that is nil gets a listener of its own.
func newTester(tb testing.TB, state *State, cfg Config, dial func(context.Context, netip.AddrPort) (net.Conn, error)) *tester {
	tb.Helper()
	ts := &tester{tb: tb, logs: &logs{}}
	if dial == nil {
		ts.broker = listen(tb)
		dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", ts.broker.Addr().String())
		}
	}
	cfg.Dial, cfg.Gateway = dial, "gw1"
	cfg.Log = slog.New(slog.NewTextHandler(ts.logs, nil))
	ts.g = New(cfg)
	if state != nil {
		ts.g.SetState(state)
	}
	ln := listen(tb)
	ts.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- ts.g.Serve(context.Background(), ln) }()
	tb.Cleanup(func() {
		ts.g.Close()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return ts
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	return ln
}

// peer is one end of a connection that a test plays.
type peer struct {
	tb testing.TB
	net.Conn
	v   mqttparse.Version
	buf []byte
}

const patience = 20 * time.Second

func (ts *tester) dial() *peer {
	ts.tb.Helper()
	return ts.dialFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// dialFrom connects as a device of that address.
func (ts *tester) dialFrom(a netip.Addr) *peer {
	ts.tb.Helper()
	c, err := (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))}).Dial("tcp", ts.addr)
	if err != nil {
		ts.tb.Fatal(err)
	}
	return newPeer(ts.tb, c)
}

func newPeer(tb testing.TB, c net.Conn) *peer {
	tb.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &peer{tb: tb, Conn: c, v: mqttparse.V311}
}

// accept takes the gateway's next uplink.
func (ts *tester) accept() *peer {
	ts.tb.Helper()
	c, err := ts.broker.Accept()
	if err != nil {
		ts.tb.Fatal(err)
	}
	return newPeer(ts.tb, c)
}

func (p *peer) send(b []byte) {
	p.tb.Helper()
	if _, err := p.Write(b); err != nil {
		p.tb.Fatal(err)
	}
}

// next reads one packet.
func (p *peer) next() mqttparse.Frame {
	p.tb.Helper()
	f, err := p.read()
	if err != nil {
		p.tb.Fatalf("no packet: %v", err)
	}
	return f
}

func (p *peer) read() (mqttparse.Frame, error) {
	for {
		if len(p.buf) > 1 {
			n, w := mqttparse.Varint(p.buf[1:])
			if w > 0 && len(p.buf) >= 1+w+n {
				f := mqttparse.Frame{Raw: p.buf[:1+w+n], Body: p.buf[1+w : 1+w+n]}
				p.buf = p.buf[1+w+n:]
				return f, nil
			}
		}
		chunk := make([]byte, 4096)
		n, err := p.Read(chunk)
		if n == 0 && err != nil {
			return mqttparse.Frame{}, err
		}
		p.buf = append(p.buf[:len(p.buf):len(p.buf)], chunk[:n]...)
	}
}

func (p *peer) publish() mqttparse.Publish {
	p.tb.Helper()
	f := p.next()
	var m mqttparse.Publish
	if f.Type() != mqttparse.PUBLISH {
		p.tb.Fatalf("want PUBLISH, got %v: % x", f.Type(), f.Raw)
	}
	if err := mqttparse.ParsePublish(f, p.v, &m); err != nil {
		p.tb.Fatal(err)
	}
	return m
}

// ended waits for the end of the connection.
func (p *peer) ended() {
	p.tb.Helper()
	f, err := p.read()
	if err == nil {
		p.tb.Fatalf("want the end, got %v", f.Type())
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		p.tb.Fatal("the connection stays open")
	}
	p.Close()
}

func connectPacket(v mqttparse.Version, client string, clean bool) []byte {
	return mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: v, CleanStart: clean, ClientID: []byte(client), KeepAlive: 60})
}

// connected opens a device and its uplink, the session present or not.
func (ts *tester) connected(v mqttparse.Version, client string, clean, present bool) (dev, broker *peer) {
	ts.tb.Helper()
	dev = ts.dial()
	dev.send(connectPacket(v, client, clean))
	broker = ts.accept()
	dev.v, broker.v = v, v
	if f := broker.next(); f.Type() != mqttparse.CONNECT {
		ts.tb.Fatalf("want CONNECT, got %v", f.Type())
	}
	broker.send(mqttparse.AppendConnAck(nil, v, present, 0))
	if f := dev.next(); f.Type() != mqttparse.CONNACK {
		ts.tb.Fatalf("want CONNACK, got %v", f.Type())
	}
	return dev, broker
}

// eventually waits until cond holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	end := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(end) {
			tb.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (ts *tester) metric(line string) bool {
	var b bytes.Buffer
	ts.g.Metrics().WritePrometheus(&b)
	return strings.Contains(b.String(), line+"\n")
}
