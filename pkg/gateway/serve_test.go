package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway/uplink"
	"sealgate/pkg/mqttparse"
)

// TestMain fails when goroutines are left behind by all tests together.
func TestMain(m *testing.M) {
	if arg := os.Getenv(idlePeers); arg != "" {
		if err := playIdlePeers(arg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	end := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+2 && time.Now().Before(end) { // the fuzzer keeps one or two
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); code == 0 && n > before+2 {
		var b bytes.Buffer
		buf := make([]byte, 1<<20)
		b.Write(buf[:runtime.Stack(buf, true)])
		fmt.Printf("%d goroutines before the tests, %d after:\n%s\n", before, n, b.String())
		code = 1
	}
	os.Exit(code)
}

func TestMessagesCrossBothWays(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	dev.send(publishPacket(dev.v, message("s/a", "secret value", 1, 1)))
	m := broker.publish()
	if _, _, payload := f.unseal("default", m); string(payload) != "secret value" {
		t.Errorf("%q", payload)
	}
	ack := mqttparse.AppendAck(nil, dev.v, mqttparse.PUBACK, 1, 0)
	broker.send(ack)
	if got := dev.next(); !bytes.Equal(got.Raw, ack) {
		t.Errorf("% x", got.Raw)
	}
	broker.send(publishPacket(dev.v, f.sealer("default", "s/b").next("for you", 0, 0)))
	if got := dev.publish(); string(got.Payload) != "for you" {
		t.Errorf("%q", got.Payload)
	}
	dev.send([]byte{0xe0, 0})
	if got := broker.next(); got.Type() != mqttparse.DISCONNECT {
		t.Errorf("%v", got.Type())
	}
	dev.Close()
	broker.ended()
	eventually(t, "connection off the books", func() bool { return ts.g.Status().Connections == 0 })
	s := ts.g.Status()
	if s.Messages["up"]["seal"] != 1 || s.Messages["down"]["open"] != 1 || s.Streams != 2 || !s.Ready {
		t.Errorf("%+v", s)
	}
}

func TestAbruptEndReachesTheBrokerWithoutDisconnect(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{linger: time.Hour}, nil) // the end must come at once, not with the clock
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	dev.Close()
	broker.ended()
	eventually(t, "off the books", func() bool { return ts.g.Status().Connections == 0 })
}

func TestMessagesBeforeAnAbruptEndArrive(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	for range 200 {
		dev.send(publishPacket(dev.v, message("s/a", string(make([]byte, 1000)), 0, 0)))
	}
	_ = dev.Conn.(*net.TCPConn).CloseWrite()
	for range 200 {
		broker.publish()
		broker.send([]byte{0xd0, 0}) // it answers still: closing must not reset the connection
	}
	broker.ended()
}

func TestBrokerDies(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{linger: time.Hour}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	broker.Close()
	dev.ended()
	eventually(t, "off the books", func() bool { return ts.g.Status().Connections == 0 })
}

func TestWillIsSealed(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t)
		ts := newTester(t, f.rotate(1), Config{}, nil)
		dev := ts.dial()
		con := &mqttparse.Connect{Version: v, CleanStart: true, ClientID: []byte("dev1"), HasWill: true, HasUsername: true,
			Username: []byte("user"), KeepAlive: 30, Will: mqttparse.Will{Topic: []byte("s/will"), Payload: []byte("gone"), QoS: 1, Retain: true}}
		delay := []byte{mqttparse.PropWillDelay, 0, 0, 0, 5}
		ctype := []byte{mqttparse.PropContentType, 0, 1, 't'}
		if v == mqttparse.V5 {
			con.Will.Properties = append(append([]byte{}, ctype...), delay...)
			con.Properties = []byte{mqttparse.PropTopicAliasMaximum, 1, 0}
		}
		dev.send(mqttparse.AppendConnect(nil, con))
		broker := ts.accept()
		var got mqttparse.Connect
		if err := mqttparse.ParseConnect(broker.next(), &got); err != nil {
			t.Fatal(err)
		}
		env, props, payload := f.unseal("default", mqttparse.Publish{Topic: got.Will.Topic, Payload: got.Will.Payload})
		if string(payload) != "gone" || !env.Kid.StreamID().Will() {
			t.Errorf("will %q, marked %v", payload, env.Kid.StreamID().Will())
		}
		if got.Will.QoS != 1 || !got.Will.Retain || string(got.Username) != "user" || got.KeepAlive != 30 {
			t.Errorf("%+v", got)
		}
		if v == mqttparse.V5 && (!bytes.Equal(props, ctype) || !bytes.Equal(got.Will.Properties, delay) || limitsOf(got.Properties).aliases != maxAliases) {
			t.Errorf("%v: inside % x, outside % x, connection % x", v, props, got.Will.Properties, got.Properties)
		}
	}
}

func TestRefusedConnects(t *testing.T) {
	ready := newFleet(t)
	state := ready.rotate(1)
	keyless := newFleet(t)
	keyless.rotate(1, "other")
	refusing := func(context.Context, netip.AddrPort) (net.Conn, error) {
		return nil, &uplink.Error{Reason: uplink.ReasonRefused, Text: "broker x: connection refused; check it", Err: syscall.ECONNREFUSED}
	}
	panicking := func(context.Context, netip.AddrPort) (net.Conn, error) { panic("boom") }
	will := func(topic string) []byte {
		return mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: mqttparse.V311, CleanStart: true, ClientID: []byte("d"), HasWill: true,
			Will: mqttparse.Will{Topic: []byte(topic), Payload: []byte("gone")}})
	}
	for _, tt := range []struct {
		name   string
		state  *State
		dial   func(context.Context, netip.AddrPort) (net.Conn, error)
		in     []byte
		answer []byte
		reason string
		log    string
	}{
		{"no policy", &State{}, nil, connectPacket(mqttparse.V311, "d", true), []byte{0x20, 2, 0, 3}, refusedNotReady, "no policy or no keys"},
		{"no keys, 5", &State{Table: state.Table}, nil, connectPacket(mqttparse.V5, "d", true), []byte{0x20, 3, 0, 0x88, 0}, refusedNotReady, ""},
		{"broker refuses", state, refusing, connectPacket(mqttparse.V311, "d", true), []byte{0x20, 2, 0, 3}, refusedUplink, "connection refused; check it"},
		{"a defect while dialling", state, panicking, connectPacket(mqttparse.V311, "d", true), []byte{0x20, 2, 0, 3}, refusedUplink, "please report it: boom at sealgate/pkg/gateway.TestRefusedConnects"},
		{"will on a denied topic", state, nil, will("sealgate/policy"), []byte{0x20, 2, 0, 5}, refusedDenied, "will's topic"},
		{"no key for the will", keyless.state(), nil, will("s/w"), []byte{0x20, 2, 0, 3}, refusedNotReady, "seal a will"},
		{"garbage", state, nil, []byte("GET / HTTP/1.1\r\n\r\n"), nil, refusedMalformed, "MQTT-3.1.0-1"},
		{"PUBLISH first", state, nil, publishPacket(mqttparse.V311, message("s/a", "x", 0, 0)), nil, refusedMalformed, "not CONNECT"},
		{"a mosquitto bridge's version 0x84", state, nil, []byte("\x10\x0d\x00\x04MQTT\x84\x02\x00\x3c\x00\x01d"), []byte{0x20, 2, 0, 1}, refusedMalformed, "MQTT-3.1.2-2"},
		{"no client id, session kept", state, nil, []byte("\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"), []byte{0x20, 2, 0, 2}, refusedMalformed, "MQTT-3.1.3-8"},
		{"reserved flag, 3.1.1", state, nil, []byte("\x10\x0d\x00\x04MQTT\x04\x03\x00\x3c\x00\x01d"), nil, refusedMalformed, "MQTT-3.1.2-3"},
		{"reserved flag, 5", state, nil, []byte("\x10\x0e\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01d"), []byte{0x20, 3, 0, 0x81, 0}, refusedMalformed, "MQTT-3.1.2-3"},
		{"receive maximum 0", state, nil, []byte("\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x01d"), []byte{0x20, 3, 0, 0x82, 0}, refusedMalformed, "2.2.2.2"},
		{"declared too long", state, nil, []byte{0x10, 0xff, 0xff, 0xff, 0x7f}, nil, refusedTooLarge, "max_message"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dialled := atomic.Bool{}
			dial := func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
				dialled.Store(true)
				if tt.dial == nil {
					return nil, errors.New("must not dial")
				}
				return tt.dial(ctx, dst)
			}
			ts := newTester(t, tt.state, Config{}, dial)
			dev := ts.dial()
			dev.send(tt.in)
			got, _ := io.ReadAll(dev)
			if !bytes.Equal(got, tt.answer) {
				t.Errorf("answer % x, want % x", got, tt.answer)
			}
			dev.Close()
			eventually(t, "counted", func() bool { return ts.metric(fmt.Sprintf("sealgate_refused_total{reason=%q} 1", tt.reason)) })
			if dialled.Load() != (tt.dial != nil) {
				t.Error("dialled, or not")
			}
			if !strings.Contains(ts.logs.String(), tt.log) || strings.Count(ts.logs.String(), "\n") != 1 {
				t.Errorf("log: %s", ts.logs)
			}
		})
	}
}

func TestSlowConnect(t *testing.T) {
	f := newFleet(t)
	for name, sent := range map[string][]byte{"nothing": nil, "half": connectPacket(mqttparse.V311, "d", true)[:6]} {
		ts := newTester(t, f.rotate(1), Config{ConnectTimeout: 50 * time.Millisecond}, nil)
		dev := ts.dial()
		dev.send(sent)
		dev.ended()
		eventually(t, name+" counted", func() bool { return ts.metric(`sealgate_refused_total{reason="connect-timeout"} 1`) })
		if !strings.Contains(ts.logs.String(), "limits.connect_timeout") {
			t.Errorf("%s: %s", name, ts.logs)
		}
	}
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev := ts.dial()
	dev.send(connectPacket(mqttparse.V311, "d", true)[:6])
	dev.Close()
	eventually(t, "half a CONNECT counted", func() bool { return ts.metric(`sealgate_refused_total{reason="malformed"} 1`) })
}

func TestConnectByteByByte(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev := ts.dial()
	in := append(connectPacket(mqttparse.V311, "d", true), publishPacket(mqttparse.V311, message("s/a", "x", 0, 0))...)
	for i := range in {
		dev.send(in[i : i+1])
	}
	broker := ts.accept()
	if broker.next().Type() != mqttparse.CONNECT {
		t.Fatal("no CONNECT")
	}
	broker.publish()
}

func TestTooManyConnections(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{MaxConnections: 2}, nil)
	first, broker := ts.connected(mqttparse.V311, "a", true, false)
	ts.connected(mqttparse.V311, "b", true, false)
	const more = 20
	for range more {
		ts.dial().ended()
	}
	eventually(t, "counted", func() bool { return ts.metric(`sealgate_refused_total{reason="connections"} 20`) })
	if n := strings.Count(ts.logs.String(), "limits.max_connections (2)"); n != 1 {
		t.Errorf("%d log lines for %d connections", n, more)
	}
	first.send(publishPacket(first.v, message("s/a", "undisturbed", 0, 0)))
	broker.publish()
	first.Close()
	broker.ended()
	eventually(t, "a place is free", func() bool { return ts.g.Status().Connections == 1 })
	ts.connected(mqttparse.V311, "c", true, false)
}

func TestPublishWaitsForAKey(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1, "other"), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	dev.send(append(publishPacket(dev.v, message("o/a", "first", 0, 0)), publishPacket(dev.v, message("s/a", "waits", 0, 0))...))
	if m := broker.publish(); string(m.Topic) != "o/a" {
		t.Fatalf("%s", m.Topic) // what came before does not wait
	}
	ts.g.SetState(f.rotate(1, "default"))
	if _, _, payload := f.unseal("default", broker.publish()); string(payload) != "waits" {
		t.Errorf("%q", payload)
	}
}

func TestEpochChangeInMidStream(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	seen := map[crypto.KeyID]int{}
	for i := range 50 {
		if i%10 == 9 {
			ts.g.SetState(f.rotate(1))
		}
		dev.send(publishPacket(dev.v, message("s/a", fmt.Sprint(i), 0, 0)))
		env, _, payload := f.unseal("default", broker.publish())
		if string(payload) != fmt.Sprint(i) || env.Seq != uint64(seen[env.Kid.KeyID()]) {
			t.Fatalf("message %d: %q number %d", i, payload, env.Seq)
		}
		seen[env.Kid.KeyID()]++
	}
	if len(seen) != 6 {
		t.Errorf("%d epochs used", len(seen))
	}
}

func TestResendAfterReconnectWaitsForConnAck(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	m := message("s/a", "one", 1, 7)
	// 127.0.0.1 and one listener: the same broker for the session store
	dev, broker := ts.connected(mqttparse.V311, "dev1", false, false)
	dev.send(publishPacket(dev.v, m))
	first := broker.publish()
	dev.Close()
	broker.ended()
	eventually(t, "session stored", func() bool { return ts.g.Status().IdleSessions == 1 })
	for _, present := range []bool{true, false} {
		dev := ts.dial()
		dup := m
		dup.Dup = true
		dev.send(append(connectPacket(mqttparse.V311, "dev1", false), publishPacket(dev.v, dup)...)) // does not wait for CONNACK
		broker := ts.accept()
		broker.next()
		broker.send(mqttparse.AppendConnAck(nil, broker.v, present, 0))
		if again := broker.publish(); bytes.Equal(again.Payload, first.Payload) != present {
			t.Errorf("session present %v: identical %v", present, !present)
		}
		dev.Close()
		broker.ended()
		eventually(t, "session stored", func() bool { return ts.g.Status().IdleSessions == 1 })
	}
}

func TestReconnectAtOnceFindsTheSession(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{linger: time.Hour}, nil)
	m := message("s/a", "one", 1, 7)
	dev, broker := ts.connected(mqttparse.V311, "dev1", false, false)
	dev.send(publishPacket(dev.v, m))
	first := broker.publish()
	dev.Close()
	if _, err := broker.read(); err == nil {
		t.Fatal("want the end")
	}
	// The broker has not closed its side: the old connection still owns the session.
	again := ts.dial()
	m.Dup = true
	again.send(append(connectPacket(mqttparse.V311, "dev1", false), publishPacket(again.v, m)...))
	second := ts.accept()
	second.next()
	second.send(mqttparse.AppendConnAck(nil, second.v, true, 0))
	broker.Close() // as a broker does on a takeover
	if got := second.publish(); !bytes.Equal(got.Payload, first.Payload) {
		t.Error("the re-sent message is not the same bytes")
	}
}

func TestBigMessages(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V5, "dev1", true, false)
	for _, size := range []int{chunk - 60, chunk, 100_000, DefaultMaxMessage} {
		big := strings.Repeat("x", size)
		go dev.send(publishPacket(dev.v, message("s/a", big, 0, 0)))
		m := broker.publish()
		if _, _, payload := f.unseal("default", m); string(payload) != big {
			t.Errorf("%d bytes: %d arrived", size, len(payload))
		}
		go broker.send(publishPacket(dev.v, f.sealer("default", "s/b").next(big, 0, 0)))
		if got := dev.publish(); string(got.Payload) != big {
			t.Errorf("%d bytes: %d came back", size, len(got.Payload))
		}
	}
	eventually(t, "buffers given back", func() bool { return ts.g.memory.left.Load() == DefaultMaxBuffered })
	go dev.Write(publishPacket(dev.v, message("s/a", strings.Repeat("x", 300<<10), 1, 1)))
	if got := dev.next(); got.Type() != mqttparse.DISCONNECT || got.Body[0] != 0x95 {
		t.Errorf("300 KiB: % x", got.Raw)
	}
	dev.ended()
	broker.ended()
	if !ts.metric(`sealgate_refused_total{reason="too-large"} 1`) {
		t.Error("not counted")
	}
	eventually(t, "buffers given back", func() bool { return ts.g.memory.left.Load() == DefaultMaxBuffered })
}

// A message that is too large for the gateway comes from anybody in the fleet. It must not end the
// connection: the broker would send it again with the next one, and so for ever.
func TestTooLargeFromTheBrokerIsDroppedAndAcknowledged(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t)
		ts := newTester(t, f.rotate(1), Config{MaxMessage: 20_000}, nil)
		dev := ts.dial()
		dev.send(mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: v, CleanStart: true, ClientID: []byte("d"),
			Properties: []byte{mqttparse.PropTopicAliasMaximum, 0, 8}}))
		broker := ts.accept()
		dev.v, broker.v = v, v
		broker.next()
		broker.send(mqttparse.AppendConnAck(nil, v, false, 0))
		dev.next()
		s := f.sealer("default", "s/a")
		for qos, ack := range []mqttparse.Type{0, mqttparse.PUBACK, mqttparse.PUBREC} {
			big := s.next(strings.Repeat("x", 100_000), byte(qos), uint16(qos))
			if v == mqttparse.V5 {
				big.Properties = []byte{mqttparse.PropTopicAlias, 0, 1}
			}
			go broker.Write(append(publishPacket(v, big), 0xd0, 0))
			if got := dev.next(); got.Type() != mqttparse.PINGRESP {
				t.Fatalf("%v QoS %d: %v", v, qos, got.Type())
			}
			if ack == 0 {
				continue
			}
			if got := broker.next(); !bytes.Equal(got.Raw, mqttparse.AppendAck(nil, v, ack, uint16(qos), 0)) {
				t.Errorf("%v QoS %d: the broker hears % x", v, qos, got.Raw)
			}
		}
		broker.send(mqttparse.AppendAck(nil, v, mqttparse.PUBREL, 2, 0))
		if got := broker.next(); got.Type() != mqttparse.PUBCOMP {
			t.Errorf("%v: %v", v, got.Type())
		}
		small := s.next("small", 0, 0)
		if v == mqttparse.V5 { // the dropped one has set the alias
			small.Topic, small.Properties = nil, []byte{mqttparse.PropTopicAlias, 0, 1}
		}
		broker.send(publishPacket(v, small))
		if got := dev.publish(); string(got.Payload) != "small" || string(got.Topic) != "s/a" {
			t.Errorf("%v: %q on %q", v, got.Payload, got.Topic)
		}
		if ts.g.metrics.messages[downTooLarge].Get() != 3 {
			t.Errorf("%v: not counted", v)
		}
		eventually(t, "buffers given back", func() bool { return ts.g.memory.left.Load() > DefaultMaxBuffered-4096 }) // but for a table of packet ids
	}
}

func TestLargeMessagesShareABudget(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{MaxBuffered: 100 << 10}, nil)
	dev, broker := ts.connected(mqttparse.V5, "dev1", true, false)
	go dev.Write(publishPacket(dev.v, message("s/a", strings.Repeat("x", 200<<10), 1, 1)))
	if got := dev.next(); got.Type() != mqttparse.DISCONNECT || got.Body[0] != 0x97 {
		t.Errorf("% x", got.Raw)
	}
	broker.ended()
}

func TestSlowReaderIsBackPressure(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	const n = 3000
	s := f.sealer("default", "s/a")
	go func() {
		for range n {
			if _, err := broker.Write(publishPacket(broker.v, s.next(string(make([]byte, 8000)), 0, 0))); err != nil {
				return
			}
		}
	}()
	for range n {
		dev.publish()
	}
}

func TestDrain(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	drained := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { drained <- ts.g.Drain(ctx) }()
	eventually(t, "no more connections", func() bool {
		c, err := net.Dial("tcp", ts.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	dev.send(publishPacket(dev.v, message("s/a", "still served", 0, 0)))
	broker.publish()
	cancel()
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v", err)
	}
	dev.ended()
	broker.ended()
	if err := ts.g.Serve(context.Background(), listen(t)); err == nil {
		t.Error("Serve after Close")
	}
}

func TestDrainOfAnIdleGatewayIsDoneAtOnce(t *testing.T) {
	if err := New(Config{}).Drain(context.Background()); err != nil {
		t.Error(err)
	}
}

// failingListener fails to accept a few times, as when file descriptors run out.
type failingListener struct {
	net.Listener
	left atomic.Int32
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsBackOff(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	ln := &failingListener{Listener: listen(t)}
	ln.left.Store(4)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ts.g.Serve(ctx, ln) }()
	ts.addr = ln.Addr().String()
	ts.connected(mqttparse.V311, "dev1", true, false)
	if !ts.metric(`sealgate_refused_total{reason="accept"} 4`) {
		t.Error("not counted")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestADefectEndsOneConnection(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{UnknownKey: func(string, crypto.KeyID) { panic("boom") }}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	other, otherBroker := ts.connected(mqttparse.V311, "dev2", true, false)
	s := f.sealer("default", "s/a")
	m := s.next("x", 0, 0)
	m.Payload[12] ^= 1 // a key nobody has
	broker.send(publishPacket(broker.v, m))
	dev.ended()
	broker.ended()
	other.send(publishPacket(other.v, message("s/a", "x", 0, 0)))
	otherBroker.publish()
	if l := ts.logs.String(); !strings.Contains(l, "please report it: boom at") || strings.Count(l, "\n") != 1 {
		t.Errorf("log: %s", l)
	}
}

func TestDenied311EndsTheConnection(t *testing.T) {
	f := newFleet(t).denying()
	ts := newTester(t, f.rotate(1, "default"), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	dev.send(publishPacket(dev.v, message("x/y", "secret", 1, 1)))
	dev.ended()
	broker.ended()
	if !strings.Contains(ts.logs.String(), "x/y") || !ts.metric(`sealgate_refused_total{reason="denied"} 1`) {
		t.Errorf("%s", ts.logs)
	}
}

// A device that lost its power comes back while its old connection still looks alive. The broker ends that
// one, and so the session with its records and replay windows goes over to the new one.
func TestTakeoverOfAHalfOpenConnectionFindsTheSession(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{linger: time.Hour}, nil)
	m := message("s/a", "one", 1, 7)
	dev, broker := ts.connected(mqttparse.V311, "dev1", false, false)
	dev.send(publishPacket(dev.v, m))
	first := broker.publish()
	again := ts.dial()
	m.Dup = true
	again.send(append(connectPacket(mqttparse.V311, "dev1", false), publishPacket(again.v, m)...))
	second := ts.accept()
	second.next()
	second.send(mqttparse.AppendConnAck(nil, second.v, true, 0))
	broker.Close() // the takeover; dev never says anything again
	if got := second.publish(); !bytes.Equal(got.Payload, first.Payload) {
		t.Error("the re-sent message is not the same bytes")
	}
}

// Whoever merely claims to be a client takes nothing from it: only the broker's CONNACK does.
func TestRefusedTakeoverLeavesTheSession(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{linger: 50 * time.Millisecond}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", false, false)
	dev.send(publishPacket(dev.v, message("s/a", "one", 0, 0)))
	first, _, _ := f.unseal("default", broker.publish())
	thief := ts.dial()
	thief.send(connectPacket(mqttparse.V311, "dev1", true))
	refusing := ts.accept()
	refusing.next()
	refusing.send(mqttparse.AppendConnAck(nil, refusing.v, false, 5))
	thief.next()
	refusing.Close()
	thief.ended()
	eventually(t, "the thief is gone", func() bool { return ts.g.connections() == 1 })
	dev.Close()
	broker.ended()
	eventually(t, "the device is gone", func() bool { return ts.g.connections() == 0 })
	dev, broker = ts.connected(mqttparse.V311, "dev1", false, true)
	dev.send(publishPacket(dev.v, message("s/a", "two", 0, 0)))
	if next, _, _ := f.unseal("default", broker.publish()); next.Kid != first.Kid || next.Seq != 1 {
		t.Errorf("stream %v number %d after %v: the session is another", next.Kid, next.Seq, first.Kid)
	}
}
