package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"sealgate/pkg/gateway/uplink"
	"sealgate/test/lab"
)

// realBroker is an embedded mochi-mqtt behind TLS that keeps every payload it sees.
type realBroker struct {
	mochi.HookBase
	server *mochi.Server
	addr   string
	ca     []byte

	mu   sync.Mutex
	seen [][]byte
}

func (b *realBroker) ID() string { return "witness" }

func (b *realBroker) Provides(what byte) bool { return what == mochi.OnPacketRead }

// OnPacketRead keeps what clients say: all of a PUBLISH, and the wills of CONNECT.
func (b *realBroker) OnPacketRead(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, bytes.Clone(pk.Payload), bytes.Clone(pk.Connect.WillPayload))
	return pk, nil
}

func (b *realBroker) saw(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.seen {
		if bytes.Contains(p, []byte(what)) {
			return true
		}
	}
	return false
}

func startBroker(t testing.TB) *realBroker {
	t.Helper()
	authority := lab.NewCA(t, "brokers")
	cert := authority.Issue(t, "broker", time.Time{}, "127.0.0.1")
	b := &realBroker{}
	var err error
	if b.ca, err = os.ReadFile(authority.File); err != nil {
		t.Fatal(err)
	}
	ln := listen(t)
	b.addr = ln.Addr().String()
	b.server = mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for _, err := range []error{
		b.server.AddHook(new(auth.AllowHook), nil),
		b.server.AddHook(b, nil),
		b.server.AddListener(listeners.NewNet("tls", tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert.Pair}}))),
		b.server.Serve(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { b.server.Close() })
	return b
}

func (b *realBroker) dialer(t testing.TB) *uplink.Dialer {
	t.Helper()
	d, err := uplink.New(uplink.Config{Broker: b.addr, TLS: true, CA: b.ca, CAFile: "ca.pem"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (b *realBroker) gateway(t testing.TB, state *State) *tester {
	t.Helper()
	return newTester(t, state, Config{}, b.dialer(t).Dial)
}

// client is an unmodified MQTT client behind a gateway.
func client(t testing.TB, addr, id string, change func(*paho.ClientOptions)) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience)
	if change != nil {
		change(o)
	}
	c := paho.NewClient(o)
	must(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func must(t testing.TB, tok paho.Token) {
	t.Helper()
	if !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatalf("no answer, or %v", tok.Error())
	}
}

func subscribe(t testing.TB, c paho.Client, filter string, qos byte) <-chan paho.Message {
	t.Helper()
	got := make(chan paho.Message, 1024)
	must(t, c.Subscribe(filter, qos, func(_ paho.Client, m paho.Message) { got <- m }))
	return got
}

func receive(t testing.TB, got <-chan paho.Message) paho.Message {
	t.Helper()
	select {
	case m := <-got:
		return m
	case <-time.After(patience):
		t.Fatal("no message")
		return nil
	}
}

// TestEndToEnd runs unmodified clients behind two gateways of one fleet and a real broker
// over TLS: the subscriber gets plaintext, and the broker never saw any.
func TestEndToEnd(t *testing.T) {
	f := newFleet(t)
	broker := startBroker(t)
	here, there := broker.gateway(t, f.rotate(1)), broker.gateway(t, f.state())
	const marker = "temperature is 21.5"
	sub := client(t, there.addr, "sub", nil)
	got := subscribe(t, sub, "s/#", 2)
	own := client(t, here.addr, "pub", func(o *paho.ClientOptions) { o.SetWill("s/will", marker+" last words", 1, false) })
	local := subscribe(t, own, "s/q1", 1)
	for qos := byte(0); qos < 3; qos++ {
		must(t, own.Publish(fmt.Sprintf("s/q%d", qos), qos, qos == 2, marker))
		if m := receive(t, got); string(m.Payload()) != marker || m.Topic() != fmt.Sprintf("s/q%d", qos) {
			t.Errorf("QoS %d: %q on %s", qos, m.Payload(), m.Topic())
		}
	}
	if m := receive(t, local); string(m.Payload()) != marker {
		t.Errorf("behind the same gateway: %q", m.Payload())
	}
	late := subscribe(t, client(t, there.addr, "late", nil), "s/q2", 0)
	if m := receive(t, late); string(m.Payload()) != marker || !m.Retained() {
		t.Errorf("retained: %q %v", m.Payload(), m.Retained())
	}
	here.g.SetState(f.rotate(1)) // the sender switches first; the receiver has to ask
	there.g.SetState(f.state())
	must(t, own.Publish("s/q0", 1, false, marker+" after the rotation"))
	if m := receive(t, got); string(m.Payload()) != marker+" after the rotation" {
		t.Errorf("%q", m.Payload())
	}
	here.g.Close() // the gateway dies: the will fires
	if m := receive(t, got); string(m.Payload()) != marker+" last words" || m.Topic() != "s/will" {
		t.Errorf("will: %q on %s", m.Payload(), m.Topic())
	}
	if broker.saw("temperature") {
		t.Error("the broker saw plaintext")
	}
	if there.g.metrics.gaps.Get() != 0 {
		t.Errorf("%d gaps counted", there.g.metrics.gaps.Get())
	}
}

// TestFlood is 10,000 QoS 1 messages of 20 clients while the key rotates five times.
func TestFlood(t *testing.T) {
	const clients, each, rotations = 20, 500, 5
	f := newFleet(t)
	broker := startBroker(t)
	ts := broker.gateway(t, f.rotate(1))
	sub := client(t, ts.addr, "sub", func(o *paho.ClientOptions) { o.SetOrderMatters(true) })
	seen := make(map[string]int)
	done := make(chan struct{})
	must(t, sub.Subscribe("s/#", 1, func(_ paho.Client, m paho.Message) {
		if seen[m.Topic()+string(m.Payload())]++; len(seen) == clients*each {
			close(done)
		}
	}))
	var wg sync.WaitGroup
	for i := range clients {
		c := client(t, ts.addr, fmt.Sprintf("pub%d", i), nil)
		wg.Go(func() {
			window := make(chan paho.Token, 20)
			for n := range each {
				window <- c.Publish(fmt.Sprintf("s/%d", i), 1, false, fmt.Sprintf("message %d", n))
				if len(window) == cap(window) || n == each-1 {
					for len(window) > 0 {
						if tok := <-window; !tok.WaitTimeout(patience) || tok.Error() != nil {
							t.Errorf("client %d message %d: %v", i, n, tok.Error())
							return
						}
					}
				}
				if i == 0 && n%(each/rotations) == each/rotations-1 {
					ts.g.SetState(f.rotate(1))
				}
			}
		})
	}
	wg.Wait()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("messages are missing")
	}
	for m, n := range seen {
		if n != 1 {
			t.Errorf("%q arrived %d times", m, n)
		}
	}
	if broker.saw("message") {
		t.Error("the broker saw plaintext")
	}
	for _, v := range []verdict{downUnknownKey, downForged, downDuplicate, downReplayed} {
		if n := ts.g.metrics.messages[v].Get(); n != 0 {
			t.Errorf("%d messages %s", n, verdictWords[v].verdict)
		}
	}
	if n := ts.g.metrics.gaps.Get(); n != 0 {
		t.Errorf("%d gaps", n)
	}
}

// TestBrokerIsUnreachable: the device is refused, the reason counted.
func TestBrokerIsUnreachable(t *testing.T) {
	f := newFleet(t)
	d, err := uplink.New(uplink.Config{TLS: true, CA: startBroker(t).ca})
	if err != nil {
		t.Fatal(err)
	}
	ln := listen(t)
	nobody := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	ts := newTester(t, f.rotate(1), Config{}, func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return d.Dial(ctx, nobody)
	})
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + ts.addr).SetClientID("x").SetProtocolVersion(4))
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() == nil {
		t.Fatal("connected")
	}
	if !ts.metric(`sealgate_uplink_errors_total{reason="refused"} 1`) && !ts.metric(`sealgate_uplink_errors_total{reason="refused"} 2`) {
		t.Errorf("%+v", ts.g.Status().UplinkErrors)
	}
}
