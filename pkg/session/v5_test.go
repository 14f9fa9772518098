package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"sealgate/pkg/session"
	"sealgate/test/embedded"
)

func v5(o session.V5) session.Config { return session.Config{Protocol: session.MQTT5(o)} }

func TestV5ComesBack(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	cfg := v5(session.V5{})
	cfg.Brokers = broker(t, b.URL())
	_, e := start(t, cfg)
	c := next(t, "connection", e.ups)
	if err := c.Subscribe(t.Context(), "a/+", 2); err != nil {
		t.Fatal(err)
	}
	want := session.Properties{PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r/1", CorrelationData: []byte{0, 1},
		User: []session.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}}
	for qos := range byte(3) {
		p := &session.Publication{Topic: "a/b", Payload: []byte{'0' + qos}, QoS: qos, Expiry: time.Minute, Properties: want}
		if err := c.Send(t.Context(), p).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		m := next(t, "message", e.msgs)
		if m.Topic != "a/b" || string(m.Payload) != string(p.Payload) || m.QoS != qos || !reflect.DeepEqual(m.Properties, want) {
			t.Errorf("got %+v", m)
		}
		m.Ack()
	}
	if err := c.Unsubscribe(t.Context(), "a/+"); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	next(t, "loss", e.downs)
	<-c.Done()
	for qos := range byte(3) {
		if err := c.Publish("a/b", []byte("two"), qos, false).Wait(t.Context()); !errors.Is(err, session.ErrLost) {
			t.Errorf("publish on a lost connection: got %v, want ErrLost", err)
		}
	}
	if err := c.Subscribe(t.Context(), "x", 0); !errors.Is(err, session.ErrLost) {
		t.Errorf("subscribe on a lost connection: got %v, want ErrLost", err)
	}
	b.Restart()
	next(t, "second connection", e.ups)
}

// script is a server that says what a test wants. Each connection is given to the test after its CONNECT has come.
type script struct {
	t     *testing.T
	url   string
	conns chan *scripted
}

type scripted struct {
	net.Conn
	t       *testing.T
	in      *bufio.Reader
	connect *packets.Connect
}

func newScript(t *testing.T) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, url: "mqtt://" + l.Addr().String(), conns: make(chan *scripted, 16)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			c := &scripted{Conn: raw, t: t, in: bufio.NewReader(raw)}
			t.Cleanup(func() { raw.Close() })
			if p, err := packets.ReadPacket(c.in); err == nil {
				if c.connect, _ = p.Content.(*packets.Connect); c.connect != nil {
					s.conns <- c
				}
			}
		}
	}()
	return s
}

func (c *scripted) say(list ...io.WriterTo) {
	c.t.Helper()
	var b bytes.Buffer
	for _, p := range list {
		p.WriteTo(&b)
	}
	c.Write(b.Bytes())
}

// hear returns the next packet that is no PINGREQ.
func (c *scripted) hear() *packets.ControlPacket {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		p, err := packets.ReadPacket(c.in)
		if err != nil {
			c.t.Fatalf("the client says no more: %v", err)
		}
		if p.Type != packets.PINGREQ {
			return p
		}
	}
}

func props() *packets.Properties { return &packets.Properties{} }

func message(id uint16, qos byte, topic string, alias uint16) *packets.Publish {
	p := &packets.Publish{Topic: topic, QoS: qos, PacketID: id, Payload: []byte{byte(id)}, Properties: props()}
	if alias > 0 {
		p.Properties.TopicAlias = &alias
	}
	return p
}

// open starts a session with a scripted server that accepts it.
func open5(t *testing.T, o session.V5, change func(*session.Config), ack *packets.Connack) (*scripted, *session.Conn, events) {
	t.Helper()
	s := newScript(t)
	cfg := v5(o)
	cfg.Brokers = broker(t, s.url)
	if change != nil {
		change(&cfg)
	}
	_, e := start(t, cfg)
	c := next(t, "CONNECT", s.conns)
	if ack.Properties == nil {
		ack.Properties = props()
	}
	c.say(ack)
	return c, next(t, "connection", e.ups), e
}

func TestV5AsksForWhatItIsTold(t *testing.T) {
	c, _, _ := open5(t, session.V5{SessionExpiry: 90 * time.Second, ReceiveMaximum: 7}, func(cfg *session.Config) { cfg.ClientID = "me" }, &packets.Connack{})
	p := c.connect.Properties
	if c.connect.ClientID != "me" || c.connect.CleanStart || *p.SessionExpiryInterval != 90 || *p.ReceiveMaximum != 7 || *p.MaximumPacketSize != session.DefaultMaxPacket || *p.TopicAliasMaximum != 0 {
		t.Errorf("got %s", c.connect)
	}
	c, _, _ = open5(t, session.V5{}, func(cfg *session.Config) { cfg.ClientID = "me" }, &packets.Connack{})
	if *c.connect.Properties.SessionExpiryInterval != 1<<32-1 {
		t.Errorf("a session without expiry is kept for %d s", *c.connect.Properties.SessionExpiryInterval)
	}
	c, _, _ = open5(t, session.V5{}, nil, &packets.Connack{})
	if !c.connect.CleanStart || c.connect.Properties.SessionExpiryInterval != nil || *c.connect.Properties.TopicAliasMaximum == 0 {
		t.Errorf("a clean session: %s", c.connect)
	}
}

// Nothing is acknowledged before Ack, and QoS 2 is delivered once however often it is sent.
func TestV5Acknowledges(t *testing.T) {
	c, _, e := open5(t, session.V5{}, nil, &packets.Connack{})
	c.say(message(2, 2, "a", 0), message(2, 2, "a", 0), message(1, 1, "a", 0))
	two, one := next(t, "message", e.msgs), next(t, "message", e.msgs) // so the second copy has been read
	two.Ack()
	if p := c.hear(); p.Type != packets.PUBREC || p.PacketID() != 2 {
		t.Fatalf("got %s, want PUBREC of 2", p)
	}
	c.say(message(2, 2, "a", 0)) // the PUBREC did not arrive
	if p := c.hear(); p.Type != packets.PUBREC || p.PacketID() != 2 {
		t.Fatalf("got %s, want PUBREC of 2 again", p)
	}
	c.say(&packets.Pubrel{PacketID: 2, Properties: props()}, &packets.Pubrel{PacketID: 77, Properties: props()}, message(3, 1, "a", 0))
	for _, id := range []uint16{2, 77} { // 77 is from an earlier connection
		if p := c.hear(); p.Type != packets.PUBCOMP || p.PacketID() != id {
			t.Fatalf("got %s, want PUBCOMP of %d", p, id)
		}
	}
	if m := next(t, "message", e.msgs); m.Payload[0] != 3 {
		t.Errorf("message 2 was delivered again: %v", m.Payload)
	}
	one.Ack()
	if p := c.hear(); p.Type != packets.PUBACK || p.PacketID() != 1 {
		t.Fatalf("got %s, want PUBACK of 1", p)
	}
}

func TestV5ResolvesAliases(t *testing.T) {
	c, _, e := open5(t, session.V5{}, nil, &packets.Connack{})
	c.say(message(1, 1, "a", 5), message(2, 1, "", 5), message(3, 1, "b", 5), message(4, 1, "", 5))
	for _, want := range []string{"a", "a", "b", "b"} {
		if m := next(t, "message", e.msgs); m.Topic != want {
			t.Errorf("message %d is on %q, want %q", m.Payload[0], m.Topic, want)
		}
	}
}

// The broker's limits bind the client; what it refuses has a reason.
func TestV5KeepsToLimits(t *testing.T) {
	zero, one, size, two := byte(0), byte(1), uint32(64), uint16(2)
	c, conn, _ := open5(t, session.V5{}, nil, &packets.Connack{Properties: &packets.Properties{
		MaximumQOS: &one, MaximumPacketSize: &size, ReceiveMaximum: &two, RetainAvailable: &zero, SharedSubAvailable: &zero, WildcardSubAvailable: &zero}})
	refused := func(what string, err error, code byte) {
		t.Helper()
		r, ok := errors.AsType[*session.ReasonError](err)
		if !ok || r.Code != code || !errors.Is(err, session.ErrRefused) || errors.Is(err, session.ErrLost) {
			t.Errorf("%s: got %v, want reason 0x%02X", what, err, code)
		}
	}
	publish := func(qos byte, retain bool, payload []byte) error {
		return conn.Publish("a", payload, qos, retain).Wait(t.Context())
	}
	refused("QoS 2", publish(2, false, nil), 0x9b)
	refused("RETAIN", publish(1, true, nil), 0x9a)
	refused("size", publish(1, false, make([]byte, 64)), 0x95)
	refused("shared", conn.Subscribe(t.Context(), "$share/g/a", 1), 0x9e)
	refused("wildcard", conn.Subscribe(t.Context(), "a/#", 1), 0xa2)

	// Two messages may be in flight; the third waits for an answer to one of them.
	first, second := conn.Publish("a", []byte("1"), 1, false), conn.Publish("a", []byte("2"), 1, false)
	third := make(chan *session.Delivery, 1)
	go func() { third <- conn.Publish("a", []byte("3"), 1, false) }()
	a, b := c.hear(), c.hear()
	select {
	case <-third:
		t.Error("a third message left before an answer to one of two")
	default:
	}
	c.say(&packets.Puback{PacketID: b.PacketID(), ReasonCode: 0x97, Properties: &packets.Properties{ReasonString: "too much"}})
	err := second.Wait(t.Context())
	refused("quota", err, 0x97)
	if !strings.Contains(err.Error(), "quota exceeded") || !strings.Contains(err.Error(), `"too much"`) {
		t.Errorf("got %v", err)
	}
	d := next(t, "third message", third)
	c.say(&packets.Puback{PacketID: a.PacketID(), Properties: props()}, &packets.Puback{PacketID: c.hear().PacketID(), Properties: props()})
	for _, x := range []*session.Delivery{first, d} {
		if err := x.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	go func() {
		c.say(&packets.Suback{PacketID: c.hear().PacketID(), Reasons: []byte{0x87}, Properties: props()})
	}()
	refused("subscription", conn.Subscribe(t.Context(), "a", 1), 0x87)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	conn.Publish("a", nil, 1, false)
	conn.Publish("a", nil, 1, false)
	if err := conn.Send(ctx, &session.Publication{Topic: "a", QoS: 1}).Wait(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from a Send that was called off", err)
	}
}

// TestV5RefusedPubrec ends a QoS 2 message at the PUBREC that refuses it; an answer that is out of turn settles nothing.
func TestV5RefusedPubrec(t *testing.T) {
	c, conn, _ := open5(t, session.V5{}, nil, &packets.Connack{})
	d := conn.Publish("a", nil, 2, false)
	id := c.hear().PacketID()
	c.say(&packets.Pubcomp{PacketID: id, Properties: props()}, &packets.Puback{PacketID: id, Properties: props()}, &packets.Suback{PacketID: id, Reasons: []byte{0}, Properties: props()})
	c.say(&packets.Pubrec{PacketID: 999, Properties: props()})
	if p := c.hear(); p.Type != packets.PUBREL || p.Content.(*packets.Pubrel).ReasonCode != 0x92 {
		t.Errorf("an unknown PUBREC is answered with %s", p)
	}
	if !d.Pending() {
		t.Error("answers that were out of turn ended the delivery")
	}
	c.say(&packets.Pubrec{PacketID: id, ReasonCode: 0x87, Properties: props()})
	if r, ok := errors.AsType[*session.ReasonError](d.Wait(t.Context())); !ok || r.Code != 0x87 {
		t.Errorf("got %v", d.Wait(t.Context()))
	}
}

func TestV5SaysWhyItEnded(t *testing.T) {
	for _, c := range []struct {
		name string
		ack  []byte
		say  []byte
		want string
	}{
		{"3.1.1 only", []byte{0x20, 2, 0, 1}, nil, "does not speak MQTT 5"},
		{"bad password", []byte{0x20, 3, 0, 0x86, 0}, nil, "user name or password"},
		{"not authorised", []byte{0x20, 3, 0, 0x87, 0}, nil, "right user name"},
		{"banned", []byte{0x20, 3, 0, 0x8a, 0}, nil, "banned (reason code 0x8A)"},
		{"no CONNACK", []byte{0xd0, 0}, nil, "no CONNACK"},
		{"taken over", []byte{0x20, 3, 0, 0, 0}, []byte{0xe0, 2, 0x8e, 0}, "session taken over (reason code 0x8E)"},
		{"authentication", []byte{0x20, 3, 0, 0, 0}, []byte{0xf0, 2, 0x18, 0}, "packet type 15"},
		{"method not asked for", []byte{0x20, 7, 0, 0, 4, 0x15, 0, 1, 'x'}, []byte{0xe0, 0}, "normal disconnection"},
		{"no receive maximum", []byte{0x20, 6, 0, 0, 3, 0x21, 0, 0}, nil, "of zero"},
		{"huge packet", []byte{0x20, 3, 0, 0, 0}, []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "limit"},
		{"five length bytes", []byte{0x20, 3, 0, 0, 0}, []byte{0x30, 0xff, 0xff, 0xff, 0xff, 1}, "four bytes"},
		{"QoS 3", []byte{0x20, 3, 0, 0, 0}, []byte{0x36, 10}, "QoS 3"},
		{"client packet", []byte{0x20, 3, 0, 0, 0}, []byte{0x82, 10}, "packet type 8"},
		{"second CONNACK", []byte{0x20, 3, 0, 0, 0}, []byte{0x20, 3, 0, 0, 0}, "second CONNACK"},
		{"unknown alias", []byte{0x20, 3, 0, 0, 0}, []byte{0x30, 6, 0, 0, 3, 0x23, 0, 9}, "topic alias 9"},
		{"alias out of range", []byte{0x20, 3, 0, 0, 0}, []byte{0x30, 7, 0, 1, 'a', 3, 0x23, 1, 0}, "topic alias 256"},
		{"no topic", []byte{0x20, 3, 0, 0, 0}, []byte{0x30, 3, 0, 0, 0}, "without topic"},
		{"identifier 0", []byte{0x20, 3, 0, 0, 0}, []byte{0x32, 6, 0, 1, 'a', 0, 0, 0}, "identifier 0"},
		{"empty PUBACK", []byte{0x20, 3, 0, 0, 0}, []byte{0x40, 0}, "does not parse"},
		{"two grants", []byte{0x20, 3, 0, 0, 0}, []byte{0x90, 5, 0, 1, 0, 0, 0}, "2 reason codes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			cfg := v5(session.V5{})
			cfg.Brokers = broker(t, s.url)
			_, e := start(t, cfg)
			conn := next(t, "CONNECT", s.conns)
			conn.Write(append(c.ack, c.say...))
			if err := next(t, "failure", e.downs); !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q; want one line with %q", err, c.want)
			}
		})
	}
}

// TestV5BoundsWhatIsInFlight ends a connection on which more is sent than may be unacknowledged.
func TestV5BoundsWhatIsInFlight(t *testing.T) {
	c, _, e := open5(t, session.V5{ReceiveMaximum: 2}, nil, &packets.Connack{})
	c.say(message(1, 1, "a", 0), message(2, 2, "a", 0), message(3, 1, "a", 0))
	if err := next(t, "failure", e.downs); !strings.Contains(err.Error(), "more than 2 messages") {
		t.Errorf("got %v", err)
	}
}

func TestProperties(t *testing.T) {
	p := session.Properties{PayloadFormat: 1, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{}, User: []session.UserProperty{{Name: "n", Value: ""}, {Name: "", Value: "v"}}}
	b, err := p.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := session.ParseProperties(b); err != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("%x gave %+v, %v", b, back, err)
	}
	for i := range b { // no beginning of it is whole, but for those that end with a property
		if back, err := session.ParseProperties(b[:i]); err == nil {
			if again, err := back.AppendTo(nil); err != nil || !bytes.Equal(again, b[:i]) {
				t.Errorf("%x gave %+v", b[:i], back)
			}
		}
	}
	for _, bad := range [][]byte{{1}, {1, 2}, {1, 0, 1, 0}, {2, 0, 0, 0, 1}, {3, 0, 1, 0xff}, {3, 0, 1, 0}, {3, 0, 2, 'a'}, {38, 0, 0}, {0x23, 0, 1}, {200}} {
		if p, err := session.ParseProperties(bad); err == nil {
			t.Errorf("%x gave %+v", bad, p)
		}
	}
	for _, bad := range []session.Properties{{PayloadFormat: 2}, {ContentType: "\xff"}, {ResponseTopic: "a\x00"}, {CorrelationData: make([]byte, 65536)},
		{User: []session.UserProperty{{Name: strings.Repeat("x", 65536)}}}} {
		if _, err := bad.AppendTo(nil); err == nil {
			t.Errorf("%+v was encoded", bad)
		}
	}
}

// FuzzProperties: a block parses to what encodes to an equivalent block, or is refused.
func FuzzProperties(f *testing.F) {
	f.Add([]byte{1, 1, 3, 0, 1, 'c', 8, 0, 1, 'r', 9, 0, 0, 38, 0, 1, 'n', 0, 1, 'v'})
	f.Add([]byte{38, 0, 0, 0, 0, 38, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := session.ParseProperties(b)
		if err != nil {
			return
		}
		again, err := p.AppendTo(nil)
		if err != nil {
			t.Fatalf("%x parses to %+v, which has no encoding: %v", b, p, err)
		}
		if back, err := session.ParseProperties(again); err != nil || !reflect.DeepEqual(back, p) {
			t.Fatalf("%x: %+v, then %+v, %v", b, p, back, err)
		}
	})
}
