package gateway

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"sealgate/pkg/mqttparse"
)

// modelDevice is a client of MQTT that mostly keeps to the standard. Where it does not it is said to be rogue.
type modelDevice struct {
	w    *world
	id   string
	line *modelLine // nil: not connected
	v    mqttparse.Version

	out     []*modelOut // QoS 1 and 2, in flight
	lost    []*modelOut // those of a session that it has ended itself
	in2     map[uint16]bool
	nextID  uint16
	pending [][]byte // acknowledgements that it has not sent yet
	buf     []byte
	greeted bool
	ended   bool // it has sent DISCONNECT
	aliases []string
}

// modelOut is a message in flight.
type modelOut struct {
	p   mqttparse.Publish
	rel bool
}

const refusedByBroker = "s/refused"

var (
	modelTopics  = []string{"s/a", "s/b", "s/a/x", "k/a", "p/a", "plain/a", "s/a", "s/b", refusedByBroker}
	modelFilters = []string{"s/a", "s/#", "s/+", "#", "k/a", "p/#", "plain/#", "s/b", "$share/g/s/#", "$share/g/p/a"}
)

// payload makes one that nobody else makes, of a length that is now and then more than a buffer holds.
func (w *world) payload(r *rand.Rand) []byte {
	w.uid++
	n := r.IntN(40)
	switch r.IntN(60) {
	case 0:
		n = chunk + r.IntN(chunk)
	case 1, 2, 3:
		n = 200 + r.IntN(1000)
	}
	return []byte(fmt.Sprintf("u%08d", w.uid) + strings.Repeat("x", n))
}

// uidOf finds it again; 0: there is none.
func uidOf(payload []byte) (uid int) {
	if len(payload) >= 9 {
		_, _ = fmt.Sscanf(string(payload[:9]), "u%d", &uid)
	}
	return uid
}

// properties are drawn for MQTT 5.
func properties(r *rand.Rand, v mqttparse.Version) (block []byte) {
	if v != mqttparse.V5 || r.IntN(2) == 0 {
		return nil
	}
	for _, p := range [][]byte{
		{mqttparse.PropPayloadFormat, 1}, u32Prop(mqttparse.PropMessageExpiry, 1000), {mqttparse.PropContentType, 0, 1, 't'},
		{mqttparse.PropResponseTopic, 0, 3, 's', '/', 'r'}, {mqttparse.PropCorrelationData, 0, 2, 0, 255}, user("a", "b"), user("a", "c"),
	} {
		if r.IntN(3) == 0 {
			block = append(block, p...)
		}
	}
	return block
}

// connect opens a connection, while another may still be open.
func (d *modelDevice) connect(r *rand.Rand, clean bool) {
	if r.IntN(4) > 0 {
		d.v = []mqttparse.Version{mqttparse.V311, mqttparse.V5}[r.IntN(2)]
	}
	con := &mqttparse.Connect{Version: d.v, ClientID: []byte(d.id), CleanStart: clean, KeepAlive: 60}
	if d.v == mqttparse.V5 {
		con.Properties = u16Prop(mqttparse.PropTopicAliasMaximum, uint16(r.IntN(4)))
		if r.IntN(4) > 0 {
			con.Properties = join(con.Properties, u32Prop(mqttparse.PropSessionExpiry, 1000))
		}
		if r.IntN(8) == 0 {
			con.Properties = join(con.Properties, u32Prop(mqttparse.PropMaximumPacketSize, 150))
		}
	}
	if r.IntN(3) == 0 {
		con.HasWill = true
		con.Will = mqttparse.Will{Topic: []byte(modelTopics[r.IntN(6)]), Payload: d.w.payload(r), QoS: byte(r.IntN(3)), Retain: r.IntN(4) == 0, Properties: properties(r, d.v)}
	}
	if clean {
		d.lost = d.out
		d.forget()
	}
	d.buf, d.pending, d.greeted, d.ended, d.aliases = nil, nil, false, false, nil
	d.line = d.w.open(d, r.IntN(len(d.w.gateways)), con)
	switch r.IntN(20) { // it need not wait for CONNACK
	case 0:
		d.publish(r)
	case 1:
		if len(d.out) > 0 {
			d.resend(r, d.out[r.IntN(len(d.out))], true)
		}
	}
}

// forget drops the session, of which the broker may not hear.
func (d *modelDevice) forget() {
	d.out, d.in2 = nil, map[uint16]bool{}
	if s := d.w.broker.sessions[d.id]; s != nil {
		s.forgot = true
	}
}

// left says that a line is gone.
func (d *modelDevice) left(l *modelLine) {
	if d.line == l {
		d.line, d.pending, d.buf = nil, nil, nil
	}
}

func (d *modelDevice) can() bool { return d.line != nil && !d.ended && !d.line.upOver }

// send puts a packet on its way.
func (d *modelDevice) send(packet []byte) {
	d.line.expectUp(packet)
	d.line.toGateway = append(d.line.toGateway, packet...)
}

// publish sends a message of its own.
func (d *modelDevice) publish(r *rand.Rand) {
	if !d.can() || len(d.out) > 60 {
		return
	}
	p := mqttparse.Publish{Topic: []byte(modelTopics[r.IntN(len(modelTopics))]), QoS: byte(r.IntN(3)), Retain: r.IntN(7) == 0, Payload: d.w.payload(r), Properties: properties(r, d.v)}
	switch {
	case p.Retain && r.IntN(4) == 0:
		p.Payload = nil
	case d.greeted && r.IntN(100) == 0:
		p.Topic = []byte("sealgate/x")
	}
	if p.QoS > 0 {
		p.PacketID = d.freeID()
		d.out = append(d.out, &modelOut{p: p})
	}
	d.transmit(r, p)
}

func (d *modelDevice) freeID() uint16 {
	for {
		if d.nextID++; d.nextID > 40 { // soon again, so that numbers meet those of messages in flight elsewhere
			d.nextID = 1
		}
		if !slices.ContainsFunc(d.out, func(o *modelOut) bool { return o.p.PacketID == d.nextID }) {
			return d.nextID
		}
	}
}

// transmit writes PUBLISH, in MQTT 5 with an alias now and then.
func (d *modelDevice) transmit(r *rand.Rand, p mqttparse.Publish) {
	if d.v != mqttparse.V5 {
		p.Properties = nil
	} else if d.greeted && r.IntN(2) == 0 {
		at := slices.Index(d.aliases, string(p.Topic))
		switch {
		case at >= 0:
			p.Topic = nil
		case len(d.aliases) < 3:
			d.aliases = append(d.aliases, string(p.Topic))
			at = len(d.aliases) - 1
		case r.IntN(3) == 0: // another topic for an alias
			at = r.IntN(3)
			d.aliases[at] = string(p.Topic)
		}
		if at >= 0 {
			p.Properties = join(p.Properties, u16Prop(mqttparse.PropTopicAlias, uint16(at+1)))
		}
	}
	d.send(publishPacket(d.v, p))
}

// again sends a message that is in flight once more.
func (d *modelDevice) again(r *rand.Rand) {
	if d.can() && d.greeted && len(d.out) > 0 {
		d.resend(r, d.out[r.IntN(len(d.out))], r.IntN(5) > 0)
	}
}

func (d *modelDevice) resend(r *rand.Rand, o *modelOut, dup bool) {
	if o.rel {
		d.send(mqttparse.AppendAck(nil, d.v, mqttparse.PUBREL, o.p.PacketID, 0))
		return
	}
	p := o.p
	p.Dup = dup
	d.transmit(r, p)
}

// subscribe or unsubscribe, with a packet identifier that may be that of a message in flight.
func (d *modelDevice) subscribe(r *rand.Rand, un bool) {
	if !d.can() {
		return
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(1+r.IntN(40)))
	if d.v == mqttparse.V5 {
		body = append(body, 0)
	}
	for range 1 + r.IntN(2) {
		filter := modelFilters[r.IntN(len(modelFilters))]
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(filter))), filter...)
		if un {
			continue
		}
		options := byte(r.IntN(3))
		if d.v == mqttparse.V5 && !strings.HasPrefix(filter, "$share") {
			options |= byte(r.IntN(4))<<2 | byte(r.IntN(3))<<4
		}
		body = append(body, options)
	}
	t := mqttparse.SUBSCRIBE
	if un {
		t = mqttparse.UNSUBSCRIBE
	}
	d.send(append([]byte{byte(t)<<4 | 2, byte(len(body))}, body...))
}

// rogue does what no device should.
func (d *modelDevice) rogue(r *rand.Rand) {
	if !d.can() || !d.greeted {
		return
	}
	id := uint16(1 + r.IntN(40))
	switch r.IntN(6) {
	case 0: // an identifier in flight, for another message
		if len(d.out) > 0 {
			o := d.out[r.IntN(len(d.out))]
			o.p.Topic, o.p.Payload, o.rel = []byte(modelTopics[r.IntN(4)]), d.w.payload(r), false
			d.transmit(r, o.p)
		}
	case 1: // an identifier in flight, with a changed flag, QoS or properties
		if len(d.out) > 0 {
			o := d.out[r.IntN(len(d.out))]
			o.p.Retain, o.p.QoS, o.rel = !o.p.Retain || len(o.p.Payload) == 0, byte(1+r.IntN(2)), false
			if r.IntN(2) == 0 {
				o.p.Properties = properties(r, d.v)
			}
			d.transmit(r, o.p)
		}
	case 2: // an identifier that it does not remember
		d.transmit(r, mqttparse.Publish{Topic: []byte("s/a"), QoS: byte(1 + r.IntN(2)), PacketID: id, Payload: d.w.payload(r), Dup: r.IntN(2) == 0})
	default: // an acknowledgement of what nobody sent, or of another kind
		t := []mqttparse.Type{mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBREL, mqttparse.PUBCOMP}[r.IntN(4)]
		if t != mqttparse.PUBREL {
			d.w.oracle.excuseID(d.line, id)
		}
		if t == mqttparse.PUBCOMP { // the broker may free an identifier that the device still takes for one in use
			d.line.session.stuck[id] = true
		}
		d.send(mqttparse.AppendAck(nil, d.v, t, id, 0))
	}
}

// amnesia is a device that restarts without its memory and comes back to the session.
func (d *modelDevice) amnesia(r *rand.Rand) {
	if d.line != nil {
		d.line.finish(r)
	}
	d.forget()
}

// read takes bytes of the gateway.
func (d *modelDevice) read(p []byte) {
	d.buf = append(d.buf, p...)
	for {
		raw, n := firstFrame(d.buf)
		if n == 0 {
			return
		}
		d.buf = d.buf[n:]
		d.packet(frameOf(raw))
	}
}

func (d *modelDevice) packet(f mqttparse.Frame) {
	switch f.Type() {
	case mqttparse.CONNACK:
		d.greet(f)
	case mqttparse.PUBLISH:
		d.take(f)
	case mqttparse.PUBREL:
		id, _, _ := mqttparse.ParseAck(f, d.v)
		code := byte(0)
		if d.v == mqttparse.V5 && !d.in2[id] {
			code = 0x92
		}
		delete(d.in2, id)
		d.pending = append(d.pending, mqttparse.AppendAck(nil, d.v, mqttparse.PUBCOMP, id, code))
	case mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBCOMP:
		id, reason, err := mqttparse.ParseAck(f, d.v)
		if err != nil {
			d.w.fail("%s: %v", d.line, err)
		}
		d.acked(f.Type(), id, reason)
	}
}

// greet begins or resumes the session: what is in flight is sent again, in order.
func (d *modelDevice) greet(f mqttparse.Frame) {
	var ack mqttparse.ConnAck
	if err := mqttparse.ParseConnAck(f, d.v, &ack); err != nil || ack.Code != 0 {
		d.w.fail("%s: CONNACK %+v, %v", d.line, ack, err)
	}
	d.greeted = true
	r := d.w.r
	// Who never got the CONNACK that began a session takes it for the one before. MQTT has no means against that; the model has.
	present := ack.SessionPresent && d.line.session.seen
	d.line.session.seen = true
	if !present {
		out := append(d.out, d.lost...)
		early := d.line.checks.early
		d.out, d.lost, d.in2 = nil, nil, map[uint16]bool{}
		for _, o := range out {
			if early[o.p.PacketID] { // sent on this connection, before CONNACK
				d.out = append(d.out, o)
			}
		}
		for _, o := range out {
			if !early[o.p.PacketID] && !o.rel && r.IntN(2) == 0 && d.can() { // a client may publish it anew
				p := o.p
				if r.IntN(2) == 0 || slices.ContainsFunc(d.out, func(o *modelOut) bool { return o.p.PacketID == p.PacketID }) {
					p.PacketID = d.freeID()
				}
				d.out = append(d.out, &modelOut{p: p})
				d.transmit(r, p)
			}
		}
		return
	}
	out := slices.Clone(d.out)
	if r.IntN(10) == 0 {
		r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	for _, o := range out {
		if d.can() && r.IntN(30) > 0 {
			d.resend(r, o, r.IntN(20) > 0)
		}
	}
}

// take takes a message.
func (d *modelDevice) take(f mqttparse.Frame) {
	var p mqttparse.Publish
	if err := mqttparse.ParsePublish(f, d.v, &p); err != nil {
		d.w.fail("%s: %v", d.line, err)
	}
	switch p.QoS {
	case 1:
		d.pending = append(d.pending, mqttparse.AppendAck(nil, d.v, mqttparse.PUBACK, p.PacketID, 0))
	case 2:
		d.pending = append(d.pending, mqttparse.AppendAck(nil, d.v, mqttparse.PUBREC, p.PacketID, 0))
		if d.in2[p.PacketID] {
			return
		}
		d.in2[p.PacketID] = true
	}
	d.w.oracle.delivered(d.line, uidOf(p.Payload))
}

// acked takes the answer to a message of its own.
func (d *modelDevice) acked(t mqttparse.Type, id uint16, reason byte) {
	at := slices.IndexFunc(d.out, func(o *modelOut) bool { return o.p.PacketID == id })
	if at < 0 {
		return
	}
	o := d.out[at]
	switch {
	case t == mqttparse.PUBREC && reason < 0x80:
		if o.p.QoS == 2 && d.can() {
			o.rel = true
			d.send(mqttparse.AppendAck(nil, d.v, mqttparse.PUBREL, id, 0))
		}
	case t == mqttparse.PUBACK && o.p.QoS == 1, t == mqttparse.PUBREC, t == mqttparse.PUBCOMP && o.rel:
		d.out = slices.Delete(d.out, at, at+1)
	}
}

// answer sends acknowledgements, in any order.
func (d *modelDevice) answer(r *rand.Rand, all bool) {
	for d.can() && len(d.pending) > 0 {
		i := 0
		if r.IntN(3) == 0 {
			i = r.IntN(len(d.pending))
		}
		ack := d.pending[i]
		d.pending = slices.Delete(d.pending, i, i+1)
		d.send(ack)
		if !all && r.IntN(3) == 0 {
			return
		}
	}
}
