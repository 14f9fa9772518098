package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// V5 is what a client asks of a broker that speaks MQTT 5.
type V5 struct {
	// SessionExpiry is how long the broker keeps the session of a lost connection, to the second. With CleanSession it is not
	// used; 0: for ever, as MQTT 3.1.1 does.
	SessionExpiry time.Duration

	// ReceiveMaximum is how many messages of QoS 1 and 2 the broker may send before the first of them is
	// acknowledged. 0: [DefaultReceiveMaximum].
	ReceiveMaximum uint16
}

// DefaultReceiveMaximum is how many unacknowledged messages an MQTT 5 client takes at a time.
const DefaultReceiveMaximum = 256

// maxAliases is how many topic aliases the broker may use in a session that ends with its connection. In one that lives on it may use none:
// aliases end with the connection [MQTT 5 3.3.2.3.4], and there are brokers (mochi-mqtt 2.7) that send what was in flight again under the
// aliases of the connection before, so that such a session could never go on.
const maxAliases = 64

// MQTT5 makes connections of MQTT 5. Of paho.golang it uses the packets only: that library's client would crash over an Authentication
// Method that was not asked for, or over a PUBREC that races with the connection's end, and a broker decides on both.
func MQTT5(o V5) Protocol {
	return func(ctx context.Context, cfg *Config, raw net.Conn, c *Conn) (link, error) {
		if o.ReceiveMaximum == 0 {
			o.ReceiveMaximum = DefaultReceiveMaximum
		}
		l := &v5{
			conn: c, raw: raw, limit: cfg.MaxPacket, window: int(o.ReceiveMaximum), deliver: cfg.Message,
			waiting: make(map[uint16]*answer), arrived: make(map[uint16]bool), interval: keepAlive,
		}
		l.in = bufio.NewReaderSize(deadlineReader{l}, 4096)
		stop := context.AfterFunc(ctx, func() { raw.Close() })
		err := l.connect(cfg, o)
		if !stop() {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		go l.read()
		go l.ping()
		return l, nil
	}
}

// v5 is one connection that speaks MQTT 5.
type v5 struct {
	conn     *Conn
	raw      net.Conn
	deliver  func(*Message)
	limit    int           // bytes of a packet from the broker
	window   int           // our Receive Maximum
	interval time.Duration // between two PINGREQ

	server serverLimits
	quota  chan struct{} // one token for each message that may be in flight to the broker

	write sync.Mutex // held while a packet is written to raw

	mu      sync.Mutex
	waiting map[uint16]*answer // guarded by mu: by packet identifier
	last    uint16             // guarded by mu: the packet identifier given last
	arrived map[uint16]bool    // guarded by mu: messages in flight from the broker; true: QoS 2, PUBREC sent

	in      *bufio.Reader          // owned by connect, then read
	aliases [maxAliases + 1]string // owned by read
}

// serverLimits are what CONNACK says the broker takes [MQTT 5 3.2.2.3].
type serverLimits struct {
	maxPacket          uint32
	maxQoS             byte
	noRetain, noShared bool
	noWildcards        bool
}

// connect sends CONNECT and reads CONNACK.
func (l *v5) connect(cfg *Config, o V5) error {
	most, aliases := uint32(cfg.MaxPacket), uint16(maxAliases)
	p := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: orDefault(cfg.ClientID, randomClientID()), CleanStart: cfg.CleanSession,
		KeepAlive: uint16(keepAlive / time.Second), Username: cfg.Username, UsernameFlag: cfg.Username != "",
		Password: []byte(cfg.Password), PasswordFlag: cfg.Password != "",
		Properties: &packets.Properties{ReceiveMaximum: &o.ReceiveMaximum, MaximumPacketSize: &most, TopicAliasMaximum: &aliases},
	}
	if !cfg.CleanSession {
		aliases = 0
		expiry := uint32(math.MaxUint32) // for ever
		if o.SessionExpiry > 0 {
			expiry = uint32(min(int64((o.SessionExpiry+time.Second-1)/time.Second), int64(math.MaxUint32)-1))
		}
		p.Properties.SessionExpiryInterval = &expiry
	}
	if err := l.send(p); err != nil {
		return err
	}
	kind, body, err := l.frame()
	if err != nil {
		return err
	}
	if kind == packets.CONNACK && len(body) == 2 && body[1] != 0 { // MQTT 3.1.1's form, from a broker that knows nothing else
		return &ReasonError{What: "CONNECT", Code: packets.ConnackUnsupportedProtocolVersion}
	}
	ack := &packets.Connack{Properties: &packets.Properties{}}
	if kind != packets.CONNACK || ack.Unpack(bytes.NewBuffer(body)) != nil {
		return errors.New("the broker answered CONNECT with something that is no CONNACK of MQTT 5 [MQTT-3.2.0-1]")
	}
	if ack.ReasonCode >= 0x80 {
		return &ReasonError{What: "CONNECT", Code: ack.ReasonCode, Text: ack.Properties.ReasonString}
	}
	return l.adopt(ack.Properties)
}

// adopt takes over what the broker's CONNACK asks for.
func (l *v5) adopt(p *packets.Properties) error {
	no := func(available *byte) bool { return available != nil && *available == 0 }
	l.server = serverLimits{
		maxPacket: math.MaxUint32, maxQoS: 2,
		noRetain: no(p.RetainAvailable), noShared: no(p.SharedSubAvailable), noWildcards: no(p.WildcardSubAvailable),
	}
	if p.MaximumPacketSize != nil {
		l.server.maxPacket = *p.MaximumPacketSize
	}
	if p.MaximumQOS != nil {
		l.server.maxQoS = *p.MaximumQOS
	}
	if p.ServerKeepAlive != nil && *p.ServerKeepAlive > 0 {
		l.interval = min(l.interval, time.Duration(*p.ServerKeepAlive)*time.Second)
	}
	inflight := uint16(math.MaxUint16)
	if p.ReceiveMaximum != nil {
		inflight = *p.ReceiveMaximum
	}
	if inflight == 0 || l.server.maxPacket == 0 {
		return errors.New("the broker's CONNACK has a Receive Maximum or Maximum Packet Size of zero [MQTT 5 3.2.2.3]")
	}
	l.quota = make(chan struct{}, inflight)
	return nil
}

// send writes one packet, in one piece. A broker that reads nothing ends the connection.
func (l *v5) send(p io.WriterTo) error {
	var b bytes.Buffer
	if _, err := p.WriteTo(&b); err != nil {
		return err
	}
	if limit := l.server.maxPacket; limit > 0 && uint64(b.Len()) > uint64(limit) {
		return &ReasonError{What: fmt.Sprintf("a packet of %d bytes, where the broker takes %d", b.Len(), limit), Code: packets.ConnackPacketTooLarge}
	}
	l.write.Lock()
	defer l.write.Unlock()
	l.raw.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := l.raw.Write(b.Bytes()); err != nil {
		l.end(err)
		return err
	}
	return nil
}

// answer is what the broker says to a packet of ours.
type answer struct {
	kind     byte // of the packet that was sent: PUBLISH, SUBSCRIBE or UNSUBSCRIBE
	qos      byte
	received bool // the PUBREC of a QoS 2 message has come; guarded by v5.mu
	done     chan struct{}
	err      error // valid once done is closed
}

// Done is closed when the broker has answered.
func (a *answer) Done() <-chan struct{} { return a.done }

// Error is why the broker refused; valid once Done is closed.
func (a *answer) Error() error { return a.err }

// answered makes an answer that is known already.
func answered(err error) *answer {
	a := &answer{done: make(chan struct{}), err: err}
	close(a.done)
	return a
}

// register gives a packet of ours an identifier, under which the answer will come.
func (l *v5) register(kind, qos byte) (uint16, *answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range math.MaxUint16 {
		if l.last++; l.last == 0 {
			l.last = 1
		}
		if l.waiting[l.last] == nil {
			a := &answer{kind: kind, qos: qos, done: make(chan struct{})}
			l.waiting[l.last] = a
			return l.last, a, nil
		}
	}
	return 0, nil, errors.New("65535 packets wait for the broker's answer already")
}

func (l *v5) publish(ctx context.Context, m *Publication) outcome {
	switch {
	case m.QoS > l.server.maxQoS:
		return answered(&ReasonError{What: fmt.Sprintf("QoS %d", m.QoS), Code: packets.ConnackQoSNotSupported})
	case m.Retain && l.server.noRetain:
		return answered(&ReasonError{What: "RETAIN", Code: packets.ConnackRetainNotSupported})
	}
	p := &packets.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Properties: m.packed()}
	if m.QoS == 0 {
		return answered(l.send(p))
	}
	select {
	case l.quota <- struct{}{}:
	case <-l.conn.done:
		return answered(ErrLost)
	case <-ctx.Done():
		return answered(ctx.Err())
	}
	id, a, err := l.register(packets.PUBLISH, m.QoS)
	if p.PacketID = id; err == nil {
		err = l.send(p)
	}
	if err != nil {
		l.settle(id, packets.PUBLISH, err)
		return answered(err)
	}
	return a
}

// packed are the properties of a message as the codec takes them.
func (m *Publication) packed() *packets.Properties {
	out := &packets.Properties{
		ContentType: m.Properties.ContentType, ResponseTopic: m.Properties.ResponseTopic, CorrelationData: m.Properties.CorrelationData,
	}
	if m.Properties.PayloadFormat != 0 {
		out.PayloadFormat = &m.Properties.PayloadFormat
	}
	if m.Expiry > 0 {
		seconds := uint32(min(int64((m.Expiry+time.Second-1)/time.Second), math.MaxUint32))
		out.MessageExpiry = &seconds
	}
	for _, u := range m.Properties.User {
		out.User = append(out.User, packets.User{Key: u.Name, Value: u.Value})
	}
	return out
}

// settle closes the answer to packet id, if one of this kind is waited for.
func (l *v5) settle(id uint16, kind byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.waiting[id]
	if a == nil || a.kind != kind {
		return
	}
	delete(l.waiting, id)
	if kind == packets.PUBLISH {
		<-l.quota
	}
	a.err = err
	close(a.done)
}

func (l *v5) subscribe(ctx context.Context, filter string, qos byte) error {
	switch {
	case l.server.noShared && strings.HasPrefix(filter, "$share/"):
		return &ReasonError{What: "SUBSCRIBE", Code: packets.SubackSharedSubscriptionnotsupported}
	case l.server.noWildcards && strings.ContainsAny(filter, "+#"):
		return &ReasonError{What: "SUBSCRIBE", Code: packets.SubackWildcardsubscriptionsnotsupported}
	}
	id, a, err := l.register(packets.SUBSCRIBE, 0)
	if err != nil {
		return err
	}
	p := &packets.Subscribe{PacketID: id, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: filter, QoS: qos}}}
	if err := l.send(p); err != nil {
		l.settle(id, packets.SUBSCRIBE, err)
	}
	return (&Delivery{token: a, conn: l.conn}).Wait(ctx)
}

func (l *v5) unsubscribe(ctx context.Context, filter string) error {
	id, a, err := l.register(packets.UNSUBSCRIBE, 0)
	if err != nil {
		return err
	}
	if err := l.send(&packets.Unsubscribe{PacketID: id, Properties: &packets.Properties{}, Topics: []string{filter}}); err != nil {
		l.settle(id, packets.UNSUBSCRIBE, err)
	}
	return (&Delivery{token: a, conn: l.conn}).Wait(ctx)
}

// ping keeps the connection alive: the broker hears from us every interval, and has to answer.
func (l *v5) ping() {
	ticker := time.NewTicker(l.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if l.send(&packets.Pingreq{}) != nil {
				return
			}
		case <-l.conn.done:
			return
		}
	}
}

// goodbye sends DISCONNECT and closes.
func (l *v5) goodbye() {
	_ = l.send(&packets.Disconnect{Properties: &packets.Properties{}})
	l.end(nil)
}

func (l *v5) drop(err error) { l.end(err) }

// end closes the connection, for the first reason given.
func (l *v5) end(err error) {
	l.conn.lost(err)
	l.raw.Close()
}
