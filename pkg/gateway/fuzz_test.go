package gateway

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// scriptConn plays one side: its bytes come in pieces, what it is told is kept.
type scriptConn struct {
	recorder
	in   []byte
	step int
}

func (c *scriptConn) Read(p []byte) (int, error) {
	n := min(len(p), len(c.in), c.step)
	if n == 0 {
		return 0, io.EOF
	}
	copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}

// fixedFleet has the same keys in every run, so that a corpus keeps its meaning.
func fixedFleet(tb testing.TB) *fleet {
	f := newFleet(tb)
	for i, g := range []string{"default", "keeps", "other"} {
		secret, err := crypto.PayloadSecretFrom(bytes.Repeat([]byte{byte(i + 1)}, crypto.SecretSize))
		if err != nil {
			tb.Fatal(err)
		}
		f.keys[g] = []crypto.Key{{ID: crypto.KeyIDOf(secret, g), Secret: secret, Send: true, Epoch: crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: 1}}}
	}
	return f
}

// opened begins every payload that the fuzzed broker has in sealed form: nothing else may
// be delivered on a sealed topic.
const opened = "opened "

// FuzzProxy runs bytes of a device and bytes of a broker through a connection. Whatever they
// are: no panic, what reaches the broker is valid MQTT in which every PUBLISH and will on a sealed
// topic is an envelope that opens, and what reaches the device on such a topic was sealed.
func FuzzProxy(f *testing.F) {
	fl := fixedFleet(f)
	for _, s := range seeds(fl) {
		f.Add(s.device, s.broker, s.step)
	}
	state := fl.state()
	f.Fuzz(func(t *testing.T, device, broker []byte, step byte) {
		proxy(t, state, device, broker, step)
	})
}

// TestSeedsReachEverything: a corpus that is refused at the first byte would prove nothing.
func TestSeedsReachEverything(t *testing.T) {
	fl := fixedFleet(t)
	var sum [verdicts]uint64
	for _, s := range seeds(fl) {
		g := proxy(t, fl.state(), s.device, s.broker, s.step)
		for v := range sum {
			sum[v] += g.metrics.messages[v].Get()
		}
	}
	for _, v := range []verdict{upSeal, upResend, upPass, upClear, downOpen, downPass, downPlaintext, downDuplicate} {
		if sum[v] == 0 {
			t.Errorf("no seed gets to %s %s", verdictWords[v].direction, verdictWords[v].verdict)
		}
	}
}

// proxy carries one connection to its end and checks what came of it.
func proxy(t *testing.T, state *State, device, broker []byte, step byte) *Gateway {
	t.Helper()
	g, c, up, down := carry(t, state, device, broker, step)
	checkUplink(t, state, up)
	checkDevice(t, state, c.version, down)
	return g
}

// carry carries one connection to its end, and gives what the broker and the device got.
func carry(t *testing.T, state *State, device, broker []byte, step byte) (g *Gateway, c *conn, up, down []byte) {
	t.Helper()
	dev := &scriptConn{in: device, step: int(step)*3 + 1}
	upl := &scriptConn{in: broker, step: int(step)*5 + 1}
	g = New(Config{MaxMessage: 4096, Now: func() time.Duration { return 1 },
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return upl, nil }})
	g.SetState(state)
	c = g.newConn(dev)
	if err := c.connect(); err == nil {
		c.down.hold.since, c.down.hold.spent = time.Now(), holdTime
		_ = c.down.run()
		_ = c.up.run()
		c.down.end()
	}
	c.up.end()
	if left := g.memory.left.Load() + int64(kept(g, c)); left != DefaultMaxBuffered {
		t.Errorf("%d bytes of the buffer budget are lost", DefaultMaxBuffered-left)
	}
	return g, c, upl.b, dev.b
}

// kept is what a session is charged for when its connection has ended: its tables in any case, its streams while it waits for its client.
func kept(g *Gateway, c *conn) int {
	if c.sess == nil {
		return 0
	}
	n := c.sess.sent.size + c.sess.due.size + c.sess.subs.bytes
	if g.store.len() > 0 {
		n += c.sess.seals.bytes + c.sess.opens.bytes + len(c.sess.opens.floors)*floorCost
	}
	return n
}

type seed struct {
	device, broker []byte
	step           byte
}

func seeds(fl *fleet) (all []seed) {
	for _, v := range []mqttparse.Version{mqttparse.V31, mqttparse.V311, mqttparse.V5} {
		device, broker := seedBytes(fl, v)
		all = append(all, seed{device, broker, 255}, seed{device, broker, 1}, seed{device[:len(device)-5], broker[:len(broker)-3], 0})
	}
	return all
}

func seedBytes(fl *fleet, v mqttparse.Version) (device, broker []byte) {
	con := &mqttparse.Connect{Version: v, CleanStart: true, ClientID: []byte("dev"), HasWill: true,
		Will: mqttparse.Will{Topic: []byte("s/will"), Payload: []byte("secret"), QoS: 1}}
	if v == mqttparse.V5 {
		con.Properties = []byte{mqttparse.PropTopicAliasMaximum, 0, 9}
		con.Will.Properties = []byte{mqttparse.PropWillDelay, 0, 0, 0, 1, mqttparse.PropContentType, 0, 1, 'x'}
	}
	device = mqttparse.AppendConnect(nil, con)
	broker = mqttparse.AppendConnAck(nil, v, v == mqttparse.V311, 0)
	if v == mqttparse.V5 {
		broker = []byte{0x20, 6, 0, 0, 3, mqttparse.PropTopicAliasMaximum, 0, 9}
	}
	s := fl.sealer("default", "s/a")
	for qos := byte(0); qos < 3; qos++ {
		for _, topic := range []string{"s/a", "k/a", "plain/a", "sealgate/x"} {
			m := message(topic, "secret", qos, uint16(qos)*5)
			m.Dup = qos > 0
			if v == mqttparse.V5 {
				m.Properties = []byte{mqttparse.PropTopicAlias, 0, 2, mqttparse.PropUserProperty, 0, 1, 'a', 0, 1, 'b', mqttparse.PropMessageExpiry, 0, 0, 0, 1}
				device = append(device, publishPacket(v, m)...)
				m.Topic = nil
			}
			device = append(device, publishPacket(v, m)...)
		}
		m := s.withProps([]byte{mqttparse.PropContentType, 0, 1, 'x'}, opened+"x", qos, uint16(qos)*5)
		broker = append(broker, publishPacket(v, m)...)
		broker = append(broker, publishPacket(v, m)...)
		broker = append(broker, publishPacket(v, s.next(opened+"y", qos, uint16(qos)*6))...)
		broker = append(broker, publishPacket(v, message("s/a", "not sealed", qos, uint16(qos)*7))...)
		broker = append(broker, publishPacket(v, message("plain/a", "open", qos, uint16(qos)*8))...)
	}
	clear := message("s/a", "", 0, 0)
	clear.Retain = true
	device = append(device, publishPacket(v, clear)...)
	for _, t := range []mqttparse.Type{mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBREL, mqttparse.PUBCOMP} {
		broker = append(broker, mqttparse.AppendAck(nil, v, t, 5, 0)...)
		device = append(device, mqttparse.AppendAck(nil, v, t, 5, 0)...)
	}
	return append(device, 0xc0, 0, 0xe0, 0), broker
}

// checkUplink walks what the broker got.
func checkUplink(t *testing.T, state *State, b []byte) {
	t.Helper()
	var s mqttparse.Scanner
	s.Init(mqttparse.FromClient, 1<<20)
	topics := map[uint16][]byte{} // by alias
	for len(b) > 0 {
		f, n, err := s.Next(b)
		if err != nil || n == 0 {
			t.Fatalf("the broker got no valid MQTT: %v: % x", err, b)
		}
		b = b[n:]
		switch f.Type() {
		case mqttparse.CONNECT:
			var c mqttparse.Connect
			if err := mqttparse.ParseConnect(f, &c); err != nil {
				t.Fatal(err)
			}
			if c.HasWill {
				checkSealed(t, state, mqttparse.Publish{Topic: c.Will.Topic, Payload: c.Will.Payload, Retain: c.Will.Retain})
			}
		case mqttparse.PUBLISH:
			var p mqttparse.Publish
			if err := mqttparse.ParsePublish(f, s.Version(), &p); err != nil {
				t.Fatal(err)
			}
			if p.TopicAlias != 0 && len(p.Topic) > 0 {
				topics[p.TopicAlias] = p.Topic
			}
			if len(p.Topic) == 0 {
				if p.Topic = topics[p.TopicAlias]; p.Topic == nil {
					t.Fatalf("the broker was never told of alias %d", p.TopicAlias)
				}
			}
			checkSealed(t, state, p)
		}
	}
}

func checkSealed(t *testing.T, state *State, p mqttparse.Publish) {
	t.Helper()
	if underPrefix(p.Topic, "sealgate") {
		t.Fatalf("a message of a device on %s reached the broker", p.Topic)
	}
	d := state.Table.Publish(p.Topic)
	if d.Verdict != policy.Seal || len(p.Payload) == 0 && p.Retain && d.ClearRetained {
		return
	}
	env, err := crypto.ParseEnvelope(p.Payload)
	if err != nil {
		t.Fatalf("unsealed on %s: %q", p.Topic, p.Payload)
	}
	o, err := crypto.NewOpenStream(state.Keys.Send(d.Group).Secret, d.Group, string(p.Topic), env.Kid.StreamID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Open(nil, &env); err != nil {
		t.Fatalf("on %s: %v", p.Topic, err)
	}
}

// checkDevice walks what the device got.
func checkDevice(t *testing.T, state *State, v mqttparse.Version, b []byte) {
	t.Helper()
	topics := map[uint16][]byte{} // by alias
	for _, p := range publishes(t, v, b) {
		if p.TopicAlias != 0 && len(p.Topic) > 0 {
			topics[p.TopicAlias] = p.Topic
		}
		if len(p.Topic) == 0 {
			if p.Topic = topics[p.TopicAlias]; p.Topic == nil {
				t.Fatalf("the device was never told of alias %d", p.TopicAlias)
			}
		}
		if state.Table.Receive(p.Topic).Verdict == policy.Seal && !bytes.HasPrefix(p.Payload, []byte(opened)) {
			t.Fatalf("delivered on %s, but never sealed: %q", p.Topic, p.Payload)
		}
	}
}
