package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// upPath is the direction device -> broker. One goroutine owns it.
type upPath struct {
	c     *conn
	in    buffer
	out   output // towards the broker
	reply output // towards the device: acknowledgements that a message was refused

	scan    mqttparse.Scanner
	aliases aliasTable
	pub     mqttparse.Publish // scratch
	named   named             // how its topic goes on
	props   propertySplit     // scratch
	state   *State            // of this message
	box     *stateBox
	tally   tally
	seals   uint32 // counts to the next timed one

	unwritten *sealStream // streams of which something is in out; see heads.go
}

// run carries packets until the direction ends, and says why.
func (u *upPath) run() error {
	for {
		err := u.transform()
		if werr := u.flush(); werr != nil && (err == nil || errors.Is(err, errStopped)) {
			err = werr
		}
		if err != nil {
			return err
		}
		if err := u.in.settle(u.c.g.maxPacket()); err != nil {
			return refuse(refusedMemory, 0x97, err.Error())
		}
		if err := u.fill(); err != nil {
			return err
		}
	}
}

// fill waits for more of the device. Part of a large packet holds memory that others may need:
// then the device has to go on sending.
func (u *upPath) fill() error {
	if u.in.taken == 0 {
		if err := u.c.devSource.fill(&u.in, u.release); err != nil {
			return endOfStream{err}
		}
		return nil
	}
	var stalled atomic.Bool
	timer := time.AfterFunc(u.c.g.cfg.stall, func() {
		stalled.Store(true)
		_ = u.c.dev.SetReadDeadline(time.Unix(1, 0)) // wakes the read below
	})
	err := u.c.devSource.fill(&u.in, u.release)
	timer.Stop()
	switch {
	case stalled.Load():
		return refuse(refusedStalled, 0, fmt.Sprintf("the device stopped in the middle of a large packet, after %d bytes, for %v", len(u.in.unread()), u.c.g.cfg.stall))
	case err != nil:
		return endOfStream{err}
	}
	return nil
}

// release gives back what is not needed while the device is silent.
func (u *upPath) release() {
	u.out.drop()
	u.reply.drop()
	u.props.release()
}

// end gives everything back.
func (u *upPath) end() {
	u.written(false)
	u.in.drop()
	u.release()
}

// transform moves all whole packets from the input to the output.
func (u *upPath) transform() error {
	for {
		f, n, err := u.scan.Next(u.in.unread())
		if err != nil {
			return malformed(err)
		}
		if n == 0 {
			return nil
		}
		if err := u.packet(f); err != nil {
			return err
		}
		u.in.from += n
	}
}

// packet handles one packet of the device after CONNECT.
func (u *upPath) packet(f mqttparse.Frame) error {
	switch f.Type() {
	case mqttparse.PUBLISH:
		err := u.publish(f)
		if err == errOverBroker {
			return u.tooLarge(f)
		}
		return err
	case mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBCOMP:
		ack, err := u.c.deviceAck(f)
		if err != nil {
			return err
		}
		return u.pass(ack)
	case mqttparse.SUBSCRIBE, mqttparse.UNSUBSCRIBE:
		u.c.note(f)
		return u.passFilters(f)
	}
	return u.pass(f.Raw)
}

// pass forwards bytes as they are.
func (u *upPath) pass(raw []byte) error {
	if err := u.reserve(len(raw)); err != nil {
		return err
	}
	u.out.b = append(u.out.b, raw...)
	return nil
}

// publish decides about one message and seals it.
func (u *upPath) publish(f mqttparse.Frame) error {
	p := &u.pub
	if err := mqttparse.ParsePublish(f, u.c.version, p); err != nil {
		return malformed(err)
	}
	var err error
	if p.Topic, u.named, err = u.aliases.resolve(p, int(u.c.aliasMax.Load())); err != nil {
		return err
	}
	// A device of MQTT 5 has been told how long a packet may be.
	if len(p.Payload) > u.c.g.cfg.MaxMessage && u.c.version != mqttparse.V5 {
		return refuse(refusedTooLarge, 0x95, "a message is longer than limits.max_message")
	}
	if p.QoS > 0 && u.c.mustWait.Load() {
		if err := u.waitConnAck(); err != nil {
			return err
		}
	}
	// Room first: making it may wait for the broker, and the State is to be of after that.
	if err := u.reserve(len(f.Raw) + len(p.Topic) + u.c.g.state.Load().grows); err != nil {
		return err
	}
	if err := u.refresh(); err != nil {
		return err
	}
	s := u.c.sess.seals.get(p.Topic)
	if s == nil || s.state != u.state {
		var err error
		if s, err = u.decide(p); err != nil {
			return err
		}
		if s == nil { // no stream: it passes, or is denied
			return u.unsealed(f, p)
		}
	}
	if s.wire != nil {
		p.Topic = s.wire
	}
	if len(p.Payload) == 0 && p.Retain {
		if !s.clear {
			return u.deny(p)
		}
		return u.clear(s, p)
	}
	return u.sealTimed(s, p)
}

// refresh takes the newest State. A connection does not outlive the names that its topics have on the wire.
func (u *upPath) refresh() error {
	u.box = u.c.g.state.Load()
	u.state = u.box.State
	if u.box.naming != u.c.naming {
		return errRenamed
	}
	return nil
}

// decide finds the stream for a message on a topic whose verdict is not known under the
// present State: nil if it is not to be sealed. It waits for a key where there is none.
func (u *upPath) decide(p *mqttparse.Publish) (*sealStream, error) {
	var deadline <-chan time.Time
	for {
		d := u.c.g.decide(u.state, p.Topic)
		if d.Verdict != policy.Seal {
			return nil, nil
		}
		s, err := u.stream(p.Topic, d)
		if err == nil {
			return s, nil
		}
		var r *refusal
		switch {
		case errors.As(err, &r):
			return nil, err
		case !errors.Is(err, errNoKey):
			return nil, internalError(err)
		}
		if deadline == nil {
			timer := time.NewTimer(keyWait)
			defer timer.Stop()
			deadline = timer.C
			if err := u.flush(); err != nil { // what came before does not wait
				return nil, err
			}
		}
		if err := u.waitState(deadline, d.Group); err != nil {
			return nil, err
		}
	}
}

// decide is the verdict for what a device publishes on topic.
func (g *Gateway) decide(s *State, topic []byte) policy.Decision {
	if s.Table == nil || underPrefix(topic, g.cfg.ControlPrefix) {
		return policy.Decision{Verdict: policy.Deny}
	}
	return s.Table.Publish(topic)
}

// underPrefix reports whether topic is the control prefix or below it. Retained control
// messages there are not a device's to overwrite.
func underPrefix(topic []byte, prefix string) bool {
	n := len(prefix)
	return len(topic) >= n && string(topic[:n]) == prefix && (len(topic) == n || topic[n] == '/')
}

// waitState waits for another State.
func (u *upPath) waitState(deadline <-chan time.Time, group string) error {
	select {
	case <-u.box.replaced:
		return u.refresh()
	case <-deadline:
		u.tally.add(upNoKey)
		return refuse(refusedNoKey, serverBusy, "no key of group "+group+" came in time to seal a message under")
	case <-u.c.g.ctx.Done():
		return errStopped
	}
}

// waitConnAck waits until the broker has said whether the session is still present, which
// decides whether the records of earlier connections still mean anything.
func (u *upPath) waitConnAck() error {
	if err := u.flush(); err != nil {
		return err
	}
	timer := time.NewTimer(u.c.g.connectTimeout())
	defer timer.Stop()
	select {
	case <-u.c.answered:
		u.c.mustWait.Store(false)
		return nil
	case <-u.c.deaf:
		return errPeerGone
	case <-timer.C:
		return refuse(refusedConnAck, serverBusy, "the broker did not answer CONNECT")
	case <-u.c.g.ctx.Done():
		return errStopped
	}
}

// unsealed handles a message that no stream is for.
func (u *upPath) unsealed(f mqttparse.Frame, p *mqttparse.Publish) error {
	if u.c.g.decide(u.state, p.Topic).Verdict != policy.Pass {
		return u.deny(p)
	}
	u.tally.add(upPass)
	if props, changed := u.c.g.hideResponse(u.state, p.Properties); changed {
		p.Properties = props
		return u.reassemble(p)
	}
	return u.forward(f, p)
}

// forward passes a message: byte for byte, unless it came by an alias that the broker does not know.
func (u *upPath) forward(f mqttparse.Frame, p *mqttparse.Publish) error {
	if u.named != expanded {
		u.aliases.tell(p)
		return u.pass(f.Raw)
	}
	return u.reassemble(p)
}

// reassemble puts a message that is not sealed together anew.
func (u *upPath) reassemble(p *mqttparse.Publish) error {
	if _, err := u.header(p, len(p.Payload)); err != nil {
		return err
	}
	u.out.b = append(u.out.b, p.Payload...)
	return nil
}

// deny refuses a message. The device is never told that it arrived: MQTT 5 has a negative
// acknowledgement, before it only the end of the connection says so.
func (u *upPath) deny(p *mqttparse.Publish) error {
	u.tally.add(upDeny)
	switch {
	case p.QoS == 0:
		u.c.g.report.warn("denied", "policy denies a topic to devices; QoS 0 message dropped",
			"topic", clip(p.Topic), "client", u.c.client, "device", u.c.from)
		return nil
	case u.c.version != mqttparse.V5:
		return refuse(refusedDenied, 0, "policy denies topic "+clip(p.Topic)+" to devices, and MQTT 3.1.1 has no negative acknowledgement")
	}
	return u.reject(p, notAuthorized)
}

// reject answers a message of QoS 1 or 2 in the broker's place, with a reason code of MQTT 5 that says why.
func (u *upPath) reject(p *mqttparse.Publish, code byte) error {
	if !u.c.greeted() { // nothing may come before CONNACK (MQTT-3.2.0-1)
		if err := u.waitConnAck(); err != nil {
			return err
		}
	}
	ack := mqttparse.PUBACK
	if p.QoS == 2 {
		ack = mqttparse.PUBREC
	}
	if !u.reply.fits(8) {
		if err := u.flush(); err != nil {
			return err
		}
	}
	u.reply.room(8)
	u.reply.b = mqttparse.AppendAck(u.reply.b, u.c.version, ack, p.PacketID, code)
	return nil
}

// sealTimed seals a message and takes the time of one in 256: enough for the histogram
// sealgate_seal_seconds, and nothing to be seen in the cost of a message.
func (u *upPath) sealTimed(s *sealStream, p *mqttparse.Publish) error {
	var inner []byte
	if len(p.Properties) > 0 {
		inner, p.Properties = u.props.of(p)
	}
	if u.seals++; u.seals&sampleMask != 0 {
		return u.sealOrRestart(s, p, inner)
	}
	start := time.Now()
	err := u.sealOrRestart(s, p, inner)
	u.c.g.metrics.seal.observe(time.Since(start))
	return err
}

// sealOrRestart seals; a stream that has used all its numbers is replaced by a new one.
func (u *upPath) sealOrRestart(s *sealStream, p *mqttparse.Publish, inner []byte) error {
	err := u.seal(s, p, inner)
	if !errors.Is(err, crypto.ErrExhausted) {
		return err
	}
	d := policy.Decision{Verdict: policy.Seal, Group: s.group, ClearRetained: s.clear, Pad: s.pad, Hide: s.wire != nil}
	fresh, err := u.c.g.newSealStream(s.topic, d, s.key, u.state.Keys.TopicKey(), false)
	if err != nil {
		return internalError(err)
	}
	if err := u.flush(); err != nil {
		return err
	}
	u.c.g.heads.end(s)
	s.seal = fresh.seal // records of the old one match nothing any more, which is safe
	s.head.sent.Store(0)
	u.c.g.heads.begin(s)
	return u.seal(s, p, inner)
}

// reserve makes room for n bytes of output, writing what is there when it gets too much.
func (u *upPath) reserve(n int) error {
	if !u.out.fits(n) {
		if err := u.flush(); err != nil {
			return err
		}
	}
	u.out.room(n)
	return nil
}

// flush writes what has been transformed, in both directions, and counts it.
func (u *upPath) flush() error {
	u.tally.flush(u.c, 0, len(u.out.b))
	if len(u.reply.b) > 0 {
		_, err := u.c.dev.Write(u.reply.b)
		u.reply.sent()
		if err != nil {
			return endOfStream{err}
		}
	}
	if len(u.out.b) == 0 {
		return nil
	}
	n, err := u.c.upl.Write(u.out.b)
	u.out.sent()
	u.written(err == nil || n > 0) // what has left in part counts as sent: nobody knows
	if err != nil {
		return errPeerGone
	}
	return nil
}

// clip makes a topic or a client id fit a log line.
func clip(topic []byte) string {
	const enough = 128
	if len(topic) > enough {
		return string(bytes.ToValidUTF8(topic[:enough], nil)) + "..."
	}
	return string(topic)
}
