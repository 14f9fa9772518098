package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"sealgate/pkg/gateway/uplink"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// connect reads CONNECT, seals its will, opens the uplink and sends it on. Nothing is dialled
// for whoever does not say CONNECT first.
func (c *conn) connect() error {
	deadline := time.Now().Add(c.g.connectTimeout())
	_ = c.dev.SetReadDeadline(deadline)
	f, err := c.readConnect()
	if err != nil {
		c.version = c.up.scan.Version()
		return err
	}
	var con mqttparse.Connect
	box := c.g.state.Load()
	packet, err := c.outgoing(f, &con, box.State)
	if err != nil {
		return err
	}
	if err := c.dial(); err != nil {
		return err
	}
	if refuses := c.g.cfg.Refuses; refuses != nil && refuses(c.from.Addr()) {
		return errStopped
	}
	if now := c.g.state.Load(); now != box { // dialling took its time
		box = now
		if packet, err = c.outgoing(f, &con, box.State); err != nil {
			return err
		}
	}
	c.naming = box.naming
	if _, err := c.upl.Write(packet); err != nil {
		return c.uplinkFailed(err)
	}
	c.up.in.from += len(f.Raw)
	c.start(con.CleanStart)
	return nil
}

// outgoing parses CONNECT into con and gives the packet that the broker is to get: with the will
// sealed, and the device's limits adjusted.
func (c *conn) outgoing(f mqttparse.Frame, con *mqttparse.Connect, state *State) ([]byte, error) {
	if err := mqttparse.ParseConnect(f, con); err != nil {
		return nil, malformed(err)
	}
	c.version, c.client, c.key = con.Version, clip(con.ClientID), newSessionKey(c.dst, con.ClientID)
	if !state.ready() {
		return nil, refuse(refusedNotReady, serverUnavailable, "no policy or no keys yet: devices are told to come back; see sealctl status")
	}
	changed, err := c.sealWill(con, state)
	if err != nil {
		return nil, err
	}
	if con.Version == mqttparse.V5 {
		own := limitsOf(con.Properties)
		c.deviceMax, c.devicePacket = own.kept().aliases, own.packet
		con.Properties, changed = own.forBroker(state.growth()).replace(con.Properties), true
	}
	if !changed {
		return f.Raw, nil
	}
	packet := mqttparse.AppendConnect(nil, con)
	if packet == nil {
		return nil, refuse(refusedTooLarge, 0x95, "the will does not fit CONNECT once it is sealed: it may have 65535 bytes")
	}
	return packet, nil
}

// start makes the connection ready for its two goroutines.
func (c *conn) start(clean bool) {
	_ = c.dev.SetReadDeadline(time.Time{})
	c.answered, c.deaf = make(chan struct{}), make(chan struct{})
	c.sess = c.takeSession()
	if clean {
		c.sess.forget(c.g)
	}
	c.mustWait.Store(c.sess.resumed())
	c.uplSource = newSource(c.upl)
	c.down = &downPath{c: c}
	c.down.in.budget = &c.g.memory
	c.down.scan.Init(mqttparse.FromServer, c.down.most())
	c.down.scan.SetVersion(c.version)
}

// takeSession gets the client's session. CONNECT has reached the broker, which ends an older
// connection of the client, if nothing else has: its session, with the records and the replay
// windows, is worth a moment.
func (c *conn) takeSession() *session {
	s, owner, left := c.g.store.take(c.key, c, false)
	if s != nil {
		return s
	}
	if owner != nil {
		owner.hurry()
	}
	timer := time.NewTimer(c.g.cfg.linger)
	defer timer.Stop()
	select {
	case <-left:
	case <-timer.C:
	case <-c.g.ctx.Done():
	}
	s, _, _ = c.g.store.take(c.key, c, true)
	return s
}

const (
	serverUnavailable = 0x88 // of CONNACK alone; DISCONNECT has serverBusy
	serverBusy        = 0x89
	notAuthorized     = 0x87
	badVersion        = 0x84
	badClientID       = 0x85
	noSubscription    = 0x11
	filterInvalid     = 0x8F
	packetTooLarge    = 0x95
	quotaExceeded     = 0x97
)

// readConnect reads until CONNECT is whole. What follows it stays in the buffer.
func (c *conn) readConnect() (mqttparse.Frame, error) {
	in := &c.up.in
	for {
		f, n, err := c.up.scan.Next(in.unread())
		if err != nil {
			return f, malformed(err)
		}
		if n > 0 {
			in.compact()
			f.Raw = in.unread()[:n]
			f.Body = f.Raw[n-len(f.Body):]
			return f, nil
		}
		if err := in.settle(c.g.maxPacket()); err != nil {
			return f, refuse(refusedMemory, 0x97, err.Error())
		}
		err = c.devSource.fill(in, func() {})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && c.g.ctx.Err() == nil:
			text := fmt.Sprintf("no CONNECT within limits.connect_timeout (%v)", c.g.connectTimeout())
			if n := len(in.unread()); n > 0 {
				text = fmt.Sprintf("only %d bytes of CONNECT within limits.connect_timeout (%v)", n, c.g.connectTimeout())
			}
			return f, refuse(refusedTimeout, 0, text)
		case err != nil && len(in.unread()) > 0:
			return f, refuse(refusedMalformed, 0, fmt.Sprintf("the connection ended after %d bytes of CONNECT", len(in.unread())))
		case err != nil:
			return f, endOfStream{err}
		}
	}
}

// sealWill makes the will what the broker is to get of it, and reports whether con has changed.
func (c *conn) sealWill(con *mqttparse.Connect, state *State) (changed bool, err error) {
	if !con.HasWill {
		return false, nil
	}
	w := &con.Will
	d := c.g.decide(state, w.Topic)
	clears := len(w.Payload) == 0 && w.Retain
	switch {
	case d.Verdict == policy.Pass:
		w.Properties, changed = c.g.hideResponse(state, w.Properties)
		return changed, nil
	case d.Verdict != policy.Seal || clears && !d.ClearRetained:
		return false, refuse(refusedDenied, notAuthorized, "policy denies the will's topic "+clip(w.Topic)+" to devices")
	}
	return true, c.sealWillAs(w, d, state, clears)
}

// sealWillAs seals a will in a stream of its own, as decided. One that clears its topic has no payload to seal; see upPath.clear.
func (c *conn) sealWillAs(w *mqttparse.Will, d policy.Decision, state *State, clears bool) error {
	topic, key, names := string(w.Topic), state.Keys.Send(d.Group), state.Keys.TopicKey()
	if key == nil && !clears || d.Hide && names == nil {
		return refuse(refusedNotReady, serverUnavailable, "no key of group "+d.Group+" yet to seal a will under: the device is told to come back")
	}
	if d.Hide {
		wire, err := hideName(names, topic)
		if err != nil {
			return err
		}
		w.Topic = wire
	}
	var inner []byte
	inner, w.Properties = mqttparse.SplitProperties(w.Properties, nil, nil)
	if clears {
		return nil
	}
	s, err := c.g.newSealStream(topic, d, key, names, true)
	if err != nil {
		return refused(err)
	}
	if w.Payload, _, err = s.seal.Seal(nil, inner, w.Payload); err != nil {
		return internalError(err)
	}
	return nil
}

// dial opens the uplink. The TLS handshake runs on a goroutine of its own, whose stack goes
// with it.
func (c *conn) dial() error {
	if p, ok := c.dev.(passing); ok {
		c.setUplink(p.Uplink())
		return nil
	}
	ended, err := c.turn()
	if err != nil {
		return err
	}
	defer ended()
	ctx, cancel := context.WithTimeout(uplink.From(c.g.ctx, c.from), c.g.connectTimeout())
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = c.protect(func() (err error) {
			r.conn, err = c.g.cfg.Dial(ctx, c.dst)
			return err
		})
		done <- r
	}()
	r := <-done
	if r.err != nil {
		return c.uplinkFailed(r.err)
	}
	c.setUplink(r.conn)
	return nil
}

func (c *conn) setUplink(upl net.Conn) {
	c.g.mu.Lock()
	c.upl = upl
	c.g.mu.Unlock()
}

// uplinkFailed counts why the broker cannot be reached and tells the device to come back.
func (c *conn) uplinkFailed(err error) error {
	if c.g.ctx.Err() != nil {
		return errStopped
	}
	reason := uplink.Reason(err)
	c.g.metrics.uplinkError(reason)
	c.g.metrics.refuse(refusedUplink)
	c.g.report.warn("uplink "+reason, err.Error(), "device", c.from)
	return &uplinkRefusal{err}
}

// uplinkRefusal is an uplink error that has been counted and logged.
type uplinkRefusal struct{ error }

// refuseConnect answers CONNECT in the broker's place, where there is something to say, and
// closes so that the device can read it.
func (c *conn) refuseConnect(err error) {
	deadline := time.Now().Add(c.g.cfg.linger)
	_ = c.dev.SetDeadline(deadline)
	if answer := c.connAckFor(err); answer != nil {
		_, _ = c.dev.Write(answer)
	}
	if isEnd(err) || err == errStopped {
		return
	}
	closeWrite(c.dev)
	c.up.in.drop()
	discard(c.dev, deadline)
}

// connAckFor gives the CONNACK that refuses for err; nil where there is none to give.
func (c *conn) connAckFor(err error) []byte {
	var r *refusal
	var u *uplinkRefusal
	code := byte(0)
	switch {
	case errors.As(err, &r):
		code = r.code
	case errors.As(err, &u):
		code = serverUnavailable
	}
	v := c.version
	if v == 0 {
		v = mqttparse.V311 // MQTT-3.1.2-2: a version that nobody knows is refused in a form that everybody reads
		if code != badVersion {
			return nil
		}
	}
	if v != mqttparse.V5 {
		code = oldReturnCode(code)
	}
	if code == 0 {
		return nil
	}
	return mqttparse.AppendConnAck(nil, v, false, code)
}

// oldReturnCode is the return code of MQTT 3.1.1, table 3.1, for a reason code of MQTT 5; 0 where that version
// has none, and only closes.
func oldReturnCode(code byte) byte {
	switch code {
	case badVersion:
		return 1
	case badClientID: // MQTT-3.1.3-8
		return 2
	case serverUnavailable, quotaExceeded:
		return 3
	case notAuthorized:
		return 5
	}
	return 0
}
