package gateway

import (
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// downPath is the direction broker -> device. One goroutine owns it.
type downPath struct {
	c    *conn
	in   buffer
	out  output // towards the device
	acks output // towards the broker: for messages that the device does not get

	scan    mqttparse.Scanner
	aliases aliasTable
	pub     mqttparse.Publish // scratch
	head    mqttparse.Publish // scratch: the header of an opened message
	named   named             // how its topic goes on
	props   propertySplit     // scratch
	marks   []byte            // scratch: the properties of a message that is marked
	state   *State            // of this message
	box     *stateBox
	tally   tally
	gaps    uint64        // missing messages seen in this batch
	now     time.Duration // of this batch, on the clock of Key.NotAfter; 0: not looked at yet
	hold    holder
	ear     *ear // nil before CONNACK
	greeted bool // CONNACK has come
	skip    int  // bytes to come of a message that is too large
}

// run carries packets until the direction ends, and says why.
func (d *downPath) run() error {
	for {
		err := d.transform()
		if werr := d.flush(); werr != nil && err == nil {
			err = werr
		}
		if err != nil {
			return err
		}
		if err := d.in.settle(d.limit()); err != nil {
			return refuse(refusedMemory, 0, err.Error())
		}
		if err := d.c.uplSource.fill(&d.in, d.release); err != nil {
			return endOfStream{err}
		}
	}
}

func (d *downPath) limit() int { return d.c.g.maxPacket() + chunk }

// release gives back what is not needed while the broker is silent.
func (d *downPath) release() {
	d.out.drop()
	d.acks.drop()
	d.props.release()
	d.marks = nil
}

// end gives everything back.
func (d *downPath) end() {
	d.in.drop()
	d.release()
}

// discard reads until the end or the deadline set before.
func (d *downPath) discard() {
	for {
		d.in.drop()
		if d.c.uplSource.fill(&d.in, func() {}) != nil {
			return
		}
	}
}

// transform moves all whole packets from the input to the output.
func (d *downPath) transform() error {
	d.now = 0
	for {
		if d.skip > 0 && !d.skipTooLarge() {
			return nil
		}
		if whole, err := d.tooLarge(); err != nil || !whole {
			return err
		}
		f, n, err := d.scan.Next(d.in.unread())
		if err != nil {
			return brokerBroke(err)
		}
		if n == 0 {
			return nil
		}
		if err := d.packet(f); err != nil {
			return err
		}
		d.in.from += n
	}
}

// packet handles one packet of the broker.
func (d *downPath) packet(f mqttparse.Frame) error {
	switch f.Type() {
	case mqttparse.PUBLISH:
		return d.publish(f)
	case mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBCOMP:
		if err := d.c.brokerAck(f); err != nil {
			return err
		}
	case mqttparse.PUBREL:
		if ours, err := d.release2(f); ours || err != nil {
			return err
		}
	case mqttparse.CONNACK:
		return d.connAck(f)
	case mqttparse.SUBACK, mqttparse.UNSUBACK:
		return d.passCodes(f)
	}
	return d.pass(f)
}

// most is the longest packet taken from the broker: as long as one taken from a device, padded and sealed, with its topic hidden.
func (d *downPath) most() int {
	return d.c.g.maxPacket() + crypto.MaxPad + crypto.MaxOverhead + hideGrowth
}

// tooLarge looks for a PUBLISH that is longer than that. Anybody may have published it, and the broker would send
// it with each connection anew if it ended this one: it is refused like a forged one, without being read
// in full. It reports false to wait for more of it.
func (d *downPath) tooLarge() (whole bool, err error) {
	b := d.in.unread()
	if !d.greeted || len(b) < 2 || mqttparse.Type(b[0]>>4) != mqttparse.PUBLISH {
		return true, nil
	}
	size, width := mqttparse.Varint(b[1:])
	total := 1 + width + size
	switch {
	case width <= 0 || total <= d.most():
		return true, nil
	case len(b) < d.most():
		return false, nil
	}
	p := &d.pub
	if err := mqttparse.ParsePublish(mqttparse.Frame{Raw: b, Body: b[1+width:]}, d.c.version, p); err != nil {
		return false, brokerBroke(err)
	}
	if err := d.resolve(p); err != nil {
		return false, err
	}
	d.skip = total
	d.skipTooLarge()
	return d.skip == 0, d.refuse(p, downTooLarge)
}

// skipTooLarge reads over what is left of a message that is too large, and reports whether that is all.
func (d *downPath) skipTooLarge() bool {
	n := min(d.skip, len(d.in.unread()))
	d.in.from += n
	d.skip -= n
	return d.skip == 0
}

// resolve gives p its full topic.
func (d *downPath) resolve(p *mqttparse.Publish) (err error) {
	if p.Topic, d.named, err = d.aliases.resolve(p, d.c.deviceMax); err != nil {
		return refuse(refusedBroker, 0, "the broker's "+err.Error())
	}
	return nil
}

// pass forwards a packet as it is, if the device takes as much.
func (d *downPath) pass(f mqttparse.Frame) error {
	if d.overDevice(len(f.Raw)) {
		return d.shorten(f)
	}
	return d.passRaw(f.Raw)
}

func (d *downPath) passRaw(raw []byte) error {
	if err := d.reserve(len(raw)); err != nil {
		return err
	}
	d.out.b = append(d.out.b, raw...)
	return nil
}

// connAck learns what the broker says of the session and of its limits, lowers the latter to what holds with a
// gateway between, and tells the device before anybody else tells it anything.
func (d *downPath) connAck(f mqttparse.Frame) error {
	var ack mqttparse.ConnAck
	if err := mqttparse.ParseConnAck(f, d.c.version, &ack); err != nil {
		return brokerBroke(err)
	}
	if d.greeted {
		return refuse(refusedBroker, 0, "the broker sent a second CONNACK")
	}
	d.greeted = true
	packet := f.Raw
	if ack.Code == 0 {
		if d.c.version == mqttparse.V5 {
			packet = d.limit5(&ack)
		}
		d.c.g.store.claim(d.c.sess)
		d.listens(ack.SessionPresent)
	}
	// MQTT 3.1 does not say whether a session is present: then it counts as present.
	if ack.Code == 0 && !ack.SessionPresent && d.c.version != mqttparse.V31 {
		d.c.sess.lost(d.c.g)
	}
	d.c.answering.Store(true)
	if err := d.pass(frameOf(packet)); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return err
	}
	close(d.c.answered)
	return nil
}

// publish decides about one message.
func (d *downPath) publish(f mqttparse.Frame) error {
	p := &d.pub
	if err := mqttparse.ParsePublish(f, d.c.version, p); err != nil {
		return brokerBroke(err)
	}
	if err := d.resolve(p); err != nil {
		return err
	}
	if err := d.refresh(); err != nil {
		return err
	}
	sealed, err := d.open(p)
	if sealed || err != nil {
		return err
	}
	if underPrefix(p.Topic, d.c.g.cfg.ControlPrefix) {
		return d.refuse(p, downControl)
	}
	if d.state.Table == nil || d.state.Table.Receive(p.Topic).Verdict != policy.Pass {
		return d.refuse(p, downDeny)
	}
	d.unmark(p)
	size := len(f.Raw)
	if d.named == expanded {
		size = mqttparse.PublishLen(d.c.version, p, len(p.Payload))
	}
	if d.overDevice(size) {
		return d.refuse(p, downOversize)
	}
	d.tally.add(downPass)
	d.forget(p)
	return d.forward(f, p)
}

// refresh takes the newest State; see that of upPath.
func (d *downPath) refresh() error {
	d.box = d.c.g.state.Load()
	d.state = d.box.State
	if d.box.naming != d.c.naming {
		return errRenamed
	}
	return nil
}

// forget drops what is still remembered of p's packet id: a new message reuses it.
func (d *downPath) forget(p *mqttparse.Publish) {
	s := d.c.sess
	if p.QoS == 0 || !s.hasDue.Load() {
		return
	}
	s.mu.Lock()
	s.due.remove(p.PacketID)
	s.hasDue.Store(s.due.n > 0)
	s.mu.Unlock()
}

// forward passes a message: byte for byte, unless it came by an alias that the device does not know.
func (d *downPath) forward(f mqttparse.Frame, p *mqttparse.Publish) error {
	d.aliases.tell(p)
	if d.named != expanded {
		return d.passRaw(f.Raw)
	}
	if err := d.reserve(mqttparse.PublishLen(d.c.version, p, len(p.Payload))); err != nil {
		return err
	}
	d.out.b = mqttparse.AppendPublishHeader(d.out.b, d.c.version, p, len(p.Payload))
	d.out.b = append(d.out.b, p.Payload...)
	return nil
}

// refuse drops a message and acknowledges it to the broker as a success: no oracle for who
// forges, and no message that blocks the in-flight window for ever (F8).
func (d *downPath) refuse(p *mqttparse.Publish, v verdict) error {
	d.tally.add(v)
	if v != downClear {
		d.c.g.report.warn("refused "+verdictWords[v].verdict, "a message from the broker is not delivered: "+verdictWords[v].why,
			"topic", clip(p.Topic), "client", d.c.client)
	}
	if p.QoS == 0 {
		return nil
	}
	ack := mqttparse.PUBACK
	if p.QoS == 2 {
		ack = mqttparse.PUBREC
		// With DUP the device may have got it through another gateway, or before this one was restarted: it must see PUBREL, or
		// it takes the next message of this packet id for the same.
		if !d.deviceHas(p.PacketID) && !d.expect(p.PacketID, dueRecord{asks: p.Dup}) {
			return refuse(refusedBroker, 0, "the broker has too many refused messages in flight")
		}
	}
	return d.acknowledge(ack, p.PacketID)
}

// deviceHas reports whether the device may have a message of this packet id whose handshake is not over. It
// answers PUBREL itself then.
func (d *downPath) deviceHas(id uint16) bool {
	s := d.c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.due.get(id)
	return r != nil && r.stream != nil
}

// release2 answers PUBREL of a QoS 2 message that was refused: the device never heard of it.
func (d *downPath) release2(f mqttparse.Frame) (ours bool, err error) {
	s := d.c.sess
	if !s.hasDue.Load() {
		return false, nil
	}
	id, _, err := mqttparse.ParseAck(f, d.c.version)
	if err != nil {
		return false, brokerBroke(err)
	}
	s.mu.Lock()
	r := s.due.get(id)
	if ours = r != nil && r.stream == nil && !r.asks; ours {
		s.due.remove(id)
		s.hasDue.Store(s.due.n > 0)
	}
	s.mu.Unlock()
	if !ours {
		return false, nil
	}
	return true, d.acknowledge(mqttparse.PUBCOMP, id)
}

// expect remembers a QoS 1 or 2 message until its handshake is over.
func (d *downPath) expect(id uint16, r dueRecord) bool {
	s := d.c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := s.due.put(id, r, &d.c.g.memory, dueSize)
	s.hasDue.Store(s.due.n > 0)
	return ok
}

func (d *downPath) acknowledge(t mqttparse.Type, id uint16) error {
	if !d.acks.fits(8) {
		if err := d.flushAcks(); err != nil {
			return err
		}
	}
	d.acks.room(8)
	d.acks.b = mqttparse.AppendAck(d.acks.b, d.c.version, t, id, 0)
	return nil
}

// reserve makes room for n bytes of output, writing what is there when it gets too much.
func (d *downPath) reserve(n int) error {
	if !d.out.fits(n) {
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.out.room(n)
	return nil
}

// flush writes what has been transformed, in both directions, and counts it.
func (d *downPath) flush() error {
	d.tally.flush(d.c, 1, len(d.out.b))
	if d.gaps > 0 {
		d.c.g.metrics.gaps.AddInt64(int64(d.gaps))
		d.gaps = 0
	}
	if err := d.flushAcks(); err != nil {
		return err
	}
	if len(d.out.b) == 0 {
		return nil
	}
	_, err := d.c.dev.Write(d.out.b)
	d.out.sent()
	d.now = 0 // the device may have taken its time
	if err != nil {
		return errPeerGone
	}
	return nil
}

func (d *downPath) flushAcks() error {
	if len(d.acks.b) == 0 {
		return nil
	}
	_, err := d.c.upl.Write(d.acks.b)
	d.acks.sent()
	if err != nil {
		return endOfStream{err}
	}
	return nil
}
