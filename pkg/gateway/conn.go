package gateway

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sealgate/pkg/mqttparse"
)

// conn is one device's connection and its uplink. Two goroutines carry it: up owns c.up,
// down owns c.down. What crosses between them is
//
//   - the session's tables of messages in flight and of accepted messages, under
//     session.mu (session.go);
//   - expanded, which has a lock of its own;
//   - aliasMax, brokerPacket, toldPacket, assigned, mustWait, answering and answered, which CONNACK sets;
//   - writes: each side writes to both connections, always whole packets in one Write, which
//     net.Conn keeps whole.
//
// Everything else here is set before the two start and not changed after.
type conn struct {
	g         *Gateway
	dev, upl  net.Conn
	devSource source
	uplSource source
	from      netip.AddrPort // the device
	dst       netip.AddrPort // that it dialled
	since     time.Time
	version   mqttparse.Version
	client    string                 // the id, cut to what fits a log line
	assigned  atomic.Pointer[string] // the id that the broker gave a client without one
	key       sessionKey
	sess      *session
	up        *upPath
	down      *downPath
	deviceMax int          // Topic Alias Maximum of the device, as lowered by us
	aliasMax  atomic.Int32 // Topic Alias Maximum of the broker, as lowered by us
	// Maximum Packet Size: the device's, the broker's, and what the device was told of the latter; 0: no limit
	devicePacket             int
	brokerPacket, toldPacket atomic.Int32
	naming                   uint64        // of hidden topics, as CONNECT found it; see hide.go
	expanded                 expansions    // SUBSCRIBE and UNSUBSCRIBE that went out with other filters; see hidesub.go
	mustWait                 atomic.Bool   // QoS 1 and 2 wait for CONNACK: the session has old records
	answering                atomic.Bool   // CONNACK is about to be sent to the device
	answered                 chan struct{} // closed when the device has been sent CONNACK
	deaf                     chan struct{} // closed when the direction broker -> device has ended
	open                     atomic.Int32  // directions that run
	running                  atomic.Bool   // client, version and sess can be read by Status
	messages                 [2]atomic.Uint64
	refusedMsg               atomic.Uint64
}

func (g *Gateway) newConn(dev net.Conn) *conn {
	c := &conn{g: g, dev: dev, devSource: newSource(dev), since: time.Now()}
	c.from, c.dst = addrPort(dev.RemoteAddr()), addrPort(dev.LocalAddr())
	c.up = &upPath{c: c}
	c.up.in.budget = &g.memory
	c.up.scan.Init(mqttparse.FromClient, g.maxPacket())
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// serve carries one connection until it has an uplink and two goroutines, or has ended.
// Its own goroutine ends here, and with it the stack that the handshake grew.
func (c *conn) serve() {
	started := false
	defer func() {
		if p := recover(); p != nil {
			c.fail(panicked(p, panicPlace()))
		}
		if !started {
			c.ended()
		}
	}()
	if err := c.connect(); err != nil {
		c.fail(err)
		c.refuseConnect(err)
		return
	}
	if c.g.ctx.Err() != nil {
		return // closing; whoever closes after this aborts both connections
	}
	started = true
	c.open.Store(2)
	c.running.Store(true)
	c.g.changed()
	go c.carry(c.up.run, c.upEnded)
	go c.carry(c.down.run, c.downEnded)
}

// carry runs one direction. The last of the two ends the connection.
func (c *conn) carry(run func() error, ended func(error)) {
	defer func() {
		if c.open.Add(-1) == 0 {
			c.ended()
		}
	}()
	ended(c.protect(run))
}

// protect turns a panic into an error: a defect that one connection finds must not end
// the others.
func (c *conn) protect(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p, panicPlace())
		}
	}()
	return run()
}

// fail counts and logs why a connection ends, unless it is an ordinary end.
func (c *conn) fail(err error) {
	var r *refusal
	var u *uplinkRefusal
	switch {
	case errors.As(err, &u): // done where it happened
	case errors.As(err, &r):
		c.g.metrics.refuse(r.reason)
		c.g.report.warn(r.reason, r.text, "device", c.from, "client", c.name())
	case err != errPeerGone && err != errStopped && !ordinary(err):
		c.g.report.warn("io", "connection ended: "+err.Error(), "device", c.from, "client", c.name())
	}
}

// upEnded ends the direction device -> broker: the broker sees the end at once, with DISCONNECT
// before it only if the device sent one, so that wills are published as MQTT says.
func (c *conn) upEnded(err error) {
	c.fail(err)
	deadline := time.Now().Add(c.g.cfg.linger)
	_ = c.upl.SetWriteDeadline(deadline)
	_ = c.dev.SetWriteDeadline(deadline)
	_ = c.upl.SetReadDeadline(deadline)
	var r *refusal
	if errors.As(err, &r) && r.code != 0 && c.version == mqttparse.V5 && c.greetedAtLast() { // MQTT-3.14.0-1
		_, _ = c.dev.Write(mqttparse.AppendDisconnect(nil, c.version, r.code))
	}
	closeWrite(c.upl)
	var eof endOfStream
	if !errors.As(err, &eof) {
		closeWrite(c.dev)
		discard(c.dev, deadline)
	}
}

// downEnded ends the direction broker -> device.
func (c *conn) downEnded(err error) {
	close(c.deaf)
	c.fail(err)
	deadline := time.Now().Add(c.g.cfg.linger)
	_ = c.upl.SetWriteDeadline(deadline)
	_ = c.dev.SetWriteDeadline(deadline)
	_ = c.dev.SetReadDeadline(deadline)
	if c.sess.wanted.Load() {
		c.hurry()
	}
	closeWrite(c.dev)
	var eof endOfStream
	if !errors.As(err, &eof) {
		closeWrite(c.upl)
		_ = c.upl.SetReadDeadline(deadline)
		c.down.discard()
	}
}

// hurry ends the wait for a device whose broker has gone and who is back on another connection, which
// wants the session. Before the broker has gone it does nothing: downEnded calls again.
func (c *conn) hurry() {
	select {
	case <-c.deaf:
		_ = c.dev.SetReadDeadline(time.Unix(1, 0))
	default:
	}
}

// ended closes what is open and takes the connection off the books.
func (c *conn) ended() {
	c.dev.Close()
	if c.upl != nil {
		c.upl.Close()
	}
	c.up.end()
	if c.down != nil {
		c.down.end()
	}
	c.deafens()
	if c.sess != nil {
		c.g.store.put(c.sess)
	}
	c.g.remove(c)
}

// abort ends the connection now; the directions notice.
func (c *conn) abort() {
	_ = c.dev.Close()
	c.g.mu.Lock()
	upl := c.upl
	c.g.mu.Unlock()
	switch upl := upl.(type) {
	case nil:
	case interface{ Abort() error }:
		_ = upl.Abort()
	default:
		_ = upl.Close()
	}
}

// closeWrite sends FIN, where the connection can close one direction, else closes it.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
		return
	}
	_ = c.Close()
}

// discard reads until the end or the deadline, so that closing does not reset the
// connection before the peer has read what we said last.
func discard(c net.Conn, deadline time.Time) {
	_ = c.SetReadDeadline(deadline)
	p := chunks.Get().(*[chunk]byte)
	defer chunks.Put(p)
	for {
		if _, err := c.Read(p[:]); err != nil {
			return
		}
	}
}

// name is the client's id, its own or the one assigned by the broker.
func (c *conn) name() string {
	if id := c.assigned.Load(); id != nil {
		return *id
	}
	return c.client
}

// adopt takes note of an Assigned Client Identifier (MQTT 5, 3.2.2.3.7): streams and the records of messages in flight
// are kept under it for the client's next connection.
func (c *conn) adopt(connAck []byte) {
	for it := mqttparse.Properties(connAck); it.Next(); {
		if it.ID() == mqttparse.PropAssignedClientID && c.g.store.adopt(c.sess, newSessionKey(c.dst, it.Value())) {
			id := clip(it.Value())
			c.assigned.Store(&id)
		}
	}
}

// deviceAck notes that the device has acknowledged a message from the broker: its window
// commits now, and not before (spec 7.4). It gives what passes: the acknowledgement itself, or, of a message that was refused and
// that the device was asked for, one that says the same whether the device has it or not.
func (c *conn) deviceAck(f mqttparse.Frame) ([]byte, error) {
	s := c.sess
	if !s.hasDue.Load() {
		return f.Raw, nil
	}
	id, reason, err := mqttparse.ParseAck(f, c.version)
	if err != nil {
		return nil, malformed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.due.get(id)
	switch {
	case r == nil || r.stream == nil && (!r.asks || f.Type() != mqttparse.PUBCOMP):
		return f.Raw, nil
	case r.stream == nil:
		s.due.remove(id)
		s.hasDue.Store(s.due.n > 0)
		return mqttparse.AppendAck(nil, c.version, mqttparse.PUBCOMP, id, 0), nil
	}
	failed := reason >= 0x80
	if f.Type() != mqttparse.PUBCOMP && !failed && !r.counted {
		s.accepted = append(s.accepted, acceptance{r.stream, r.seq})
		s.hasAcks.Store(true)
		r.counted = true
	}
	if f.Type() != mqttparse.PUBREC || failed {
		s.due.remove(id)
		s.hasDue.Store(s.due.n > 0)
	}
	return f.Raw, nil
}

// brokerAck frees the record of a message that the broker has acknowledged.
func (c *conn) brokerAck(f mqttparse.Frame) error {
	id, reason, err := mqttparse.ParseAck(f, c.version)
	if err != nil {
		return brokerBroke(err)
	}
	if f.Type() == mqttparse.PUBREC && reason < 0x80 {
		return nil // PUBCOMP ends it
	}
	s := c.sess
	s.mu.Lock()
	s.sent.remove(id)
	s.mu.Unlock()
	return nil
}

func brokerBroke(err error) error {
	return refuse(refusedBroker, 0, "the broker sent what MQTT does not allow: "+err.Error())
}

// greeted reports whether the device has been sent CONNACK.
func (c *conn) greeted() bool {
	select {
	case <-c.answered:
		return true
	default:
		return false
	}
}

// greetedAtLast is greeted at the end of the connection. While the other direction is sending CONNACK it waits: the
// device may have read it before the write has returned there. A write deadline must be set.
func (c *conn) greetedAtLast() bool {
	if !c.answering.Load() {
		return false
	}
	select {
	case <-c.answered:
		return true
	case <-c.deaf:
		return false
	}
}

// isEnd reports an orderly end.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }
