package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// errDry ends a read for which nothing has arrived yet: whoever drives the connection calls again.
var errDry = errors.New("nothing has arrived yet")

// wire is the gateway's end of a TCP connection.
type wire struct {
	nullConn
	in      []byte
	eof     bool // after in the peer's FIN
	closed  bool
	deliver func([]byte)
}

func (x *wire) Read(p []byte) (int, error) {
	switch {
	case x.closed:
		return 0, net.ErrClosed
	case len(x.in) > 0:
		n := copy(p, x.in)
		x.in = x.in[n:]
		return n, nil
	case x.eof:
		return 0, io.EOF
	}
	return 0, errDry
}

func (x *wire) Write(p []byte) (int, error) {
	if x.closed {
		return 0, net.ErrClosed
	}
	x.deliver(p)
	return len(p), nil
}

func (x *wire) Close() error      { x.closed = true; return nil }
func (x *wire) CloseWrite() error { return nil }

// modelLine is one connection of a device through a gateway to the broker, with the bytes that are under way. What the gateway gets is
// handed to it step by step; its two directions run on the caller's goroutine until nothing is left to read.
type modelLine struct {
	w    *world
	n    int
	d    *modelDevice
	site int // the gateway
	v    mqttparse.Version
	c    *conn
	b    *brokerEnd

	dev, upl                         *wire
	toGateway, toBroker              []byte // up
	brokerToGateway, gatewayToDevice []byte // down
	upOver, downOver, over           bool

	session *modelSession // the broker's
	checks  lineChecks
}

func (l *modelLine) String() string {
	return fmt.Sprintf("line %d (%s, gateway %d)", l.n, l.d.id, l.site+1)
}

// open carries CONNECT through the gateway. The broker has not read it yet.
func (w *world) open(d *modelDevice, site int, con *mqttparse.Connect) *modelLine {
	w.lines++
	l := &modelLine{w: w, n: w.lines, d: d, site: site, v: con.Version}
	l.dev = &wire{in: mqttparse.AppendConnect(nil, con), deliver: func(p []byte) { l.checkDown(p); l.gatewayToDevice = append(l.gatewayToDevice, p...) }}
	l.upl = &wire{deliver: func(p []byte) { l.checkUp(p); l.toBroker = append(l.toBroker, p...) }}
	l.b = w.broker.end(l)
	l.begin(con)
	w.dialled = l.upl
	l.c = w.gateways[site].newConn(l.dev)
	if err := l.c.connect(); err != nil {
		w.fail("%s: CONNECT: %v", l, err)
	}
	w.open_ = append(w.open_, l)
	return l
}

// tell adds packets to the story of a run.
func (l *modelLine) tell(way string, frames ...mqttparse.Frame) {
	if l.w.trace == nil {
		return
	}
	for _, f := range frames {
		var p mqttparse.Publish
		text := fmt.Sprintf("% x", f.Raw[:min(len(f.Raw), 24)])
		if f.Type() == mqttparse.PUBLISH && mqttparse.ParsePublish(f, l.v, &p) == nil {
			payload := p.Payload
			if s, sealed := l.w.oracle.plain[string(payload)]; sealed {
				payload = fmt.Appendf(nil, "%v #%d %s", s.kid.StreamID(), s.seq, s.payload)
			}
			text = fmt.Sprintf("%s alias %d, QoS %d, id %d, DUP %v, RETAIN %v, %.50q", p.Topic, p.TopicAlias, p.QoS, p.PacketID, p.Dup, p.Retain, payload)
		}
		l.w.trace(fmt.Sprintf("      %-24s %s %v %s", way, l, f.Type(), text))
	}
}

// take cuts up to n bytes from the front.
func take(from *[]byte, n int) []byte {
	n = min(n, len(*from))
	p := (*from)[:n:n]
	*from = (*from)[n:]
	return p
}

// mustWait reports whether the direction device -> broker would wait for the broker's CONNACK now, as its goroutine does.
func (l *modelLine) mustWait() bool {
	return !l.c.greeted() && (l.c.mustWait.Load() || l.checks.denied > 0)
}

// up gives the gateway n bytes of the device.
func (l *modelLine) up(n int) {
	if l.over || l.upOver || l.mustWait() {
		return
	}
	l.dev.in = append(l.dev.in, take(&l.toGateway, n)...)
	l.runUp()
}

func (l *modelLine) runUp() {
	if l.upOver {
		return
	}
	if err := l.c.up.run(); !errors.Is(err, errDry) {
		l.upOver = true
		l.ends(err)
		l.c.upEnded(err)
	}
}

// broker gives the broker n bytes of the gateway.
func (l *modelLine) broker(n int) {
	if !l.over {
		l.w.broker.read(l.b, take(&l.toBroker, n))
	}
}

// down gives the gateway n bytes of the broker.
func (l *modelLine) down(n int) {
	if l.over || l.downOver {
		return
	}
	p := take(&l.brokerToGateway, n)
	l.upl.in = append(l.upl.in, p...)
	l.checks.got += len(p)
	l.runDown()
}

func (l *modelLine) runDown() {
	if l.downOver {
		return
	}
	if err := l.c.down.run(); !errors.Is(err, errDry) {
		l.downOver = true
		l.ends(err)
		l.c.downEnded(err)
	}
	l.dealtWith()
}

// device gives the device n bytes of the gateway.
func (l *modelLine) device(n int) {
	if p := take(&l.gatewayToDevice, n); l.d.line == l {
		l.d.read(p)
	}
}

// fromBroker is what the broker writes: one packet.
func (l *modelLine) fromBroker(packet []byte, m *modelSend) {
	l.expectDown(packet, m)
	l.brokerToGateway = append(l.brokerToGateway, packet...)
}

// hops moves bytes over all four hops, as many as said.
func (l *modelLine) hops(n int) {
	l.up(n)
	l.broker(n)
	l.down(n)
	l.device(n)
}

// busy reports whether bytes are under way.
func (l *modelLine) busy() bool {
	return !l.over && len(l.toGateway)+len(l.toBroker)+len(l.brokerToGateway)+len(l.gatewayToDevice) > 0
}

// cut loses what a connection had under way from some byte on.
func cut(p *[]byte, r *rand.Rand) { *p = (*p)[:r.IntN(len(*p)+1)] }

// finish ends a line. Which of its hops lose bytes, and how many, is drawn.
func (l *modelLine) finish(r *rand.Rand) {
	if l.over {
		return
	}
	if r.IntN(2) == 0 {
		cut(&l.gatewayToDevice, r)
	}
	l.device(1 << 30)
	l.d.left(l)
	if r.IntN(2) == 0 {
		cut(&l.toGateway, r)
	}
	uplinkBreaks := r.IntN(2) == 0
	if uplinkBreaks {
		cut(&l.brokerToGateway, r)
	}
	l.down(1 << 30)
	l.up(1 << 30)
	if !l.mustWait() {
		l.dev.eof = true
		l.runUp()
	}
	if uplinkBreaks {
		cut(&l.toBroker, r)
	}
	l.broker(1 << 30)
	l.w.broker.closed(l.b)
	if !uplinkBreaks {
		l.down(1 << 30)
	}
	l.upl.eof = true
	l.runDown()
	l.runUp() // waited for CONNACK till now
	l.gone(true)
}

// die ends a line together with its gateway's process.
func (l *modelLine) die(r *rand.Rand) {
	cut(&l.gatewayToDevice, r)
	l.device(1 << 30)
	l.d.left(l)
	cut(&l.toBroker, r)
	l.broker(1 << 30)
	l.w.broker.closed(l.b)
	l.gone(false)
}

// gone takes the line off the books.
func (l *modelLine) gone(orderly bool) {
	l.over = true
	if orderly {
		l.c.ended()
		l.gaveBack()
	}
	for i, o := range l.w.open_ {
		if o == l {
			l.w.open_ = append(l.w.open_[:i], l.w.open_[i+1:]...)
			return
		}
	}
}

// newGateway starts the process of a site anew.
func (w *world) newGateway(site int) *Gateway {
	g := New(Config{
		Gateway: fmt.Sprintf("gw%d", site+1), Rand: w.random, Now: func() time.Duration { return 1 }, linger: 1,
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return w.dialled, nil },
	})
	g.SetState(w.state)
	return g
}

// rotate gives every group a new epoch, of another generation if keys were revoked.
func (w *world) rotate(revoked bool) {
	if revoked {
		w.generation++
	}
	w.epoch++
	for _, def := range w.policy.Groups {
		b := make([]byte, crypto.SecretSize)
		_, _ = w.random.Read(b)
		secret, err := crypto.PayloadSecretFrom(b)
		if err != nil {
			w.fail("%v", err)
		}
		keys := w.keys[def.Name]
		for i := range keys {
			keys[i].Send = false
		}
		w.keys[def.Name] = append(keys, crypto.Key{ID: crypto.KeyIDOf(secret, def.Name), Secret: secret, Send: true,
			Epoch: crypto.Epoch{PolicyVersion: 1, Generation: w.generation, Number: w.epoch}})
	}
	ring, err := crypto.NewKeyring(w.keys)
	if err != nil {
		w.fail("%v", err)
	}
	w.state = &State{Table: w.table, Keys: ring.WithTopicKey(w.names)}
	for _, g := range w.gateways {
		if g != nil {
			g.SetState(w.state)
		}
	}
}

// modelPolicy has one group that clears retained messages, which may hide its topics, one that does not, and one that pads.
func modelPolicy(hide bool) *policy.Document {
	group := func(name, clear, filter string, pad int) policy.Group {
		g := policy.DefaultGroup(name)
		g.Topics, g.Keepers, g.ClearRetained, g.Pad = []string{filter}, []string{"gw1"}, clear, pad
		return g
	}
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: "pass", Groups: []policy.Group{
		group("default", "pass", "s/#", 0), group("keeps", "deny", "k/#", 0), group("padded", "pass", "p/#", 64),
	}}
	if hide {
		doc.Groups[0].HideTopics, doc.TopicKey = true, 1
	}
	return doc
}
