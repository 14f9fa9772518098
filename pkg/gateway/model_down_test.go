package gateway

import (
	"bytes"
	"fmt"
	"slices"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// expectDown notes what the broker sends.
func (l *modelLine) expectDown(packet []byte, m *modelSend) {
	l.checks.sent += len(packet)
	e := downExpected{f: frameOf(packet), m: m, end: l.checks.sent}
	if m != nil {
		if err := mqttparse.ParsePublish(e.f, l.v, &e.p); err != nil || !resolve(&e.p, l.checks.aliases.broker) {
			l.w.fail("%s: a defect of the model: %v", l, err)
		}
		e.p.Topic = l.w.plain(e.p.Topic)
		l.w.oracle.transmitted(l, m)
	}
	l.tell("broker sends", e.f)
	l.checks.down = append(l.checks.down, e)
}

// checkDown looks at what the gateway writes to the device: what the broker has sent, in order, opened; and no more.
func (l *modelLine) checkDown(b []byte) {
	for _, f := range l.frames(b) {
		l.tell("to the device", f)
		if !l.fits(f) && !l.refuses(f) {
			l.w.fail("%s: the device gets % x, which the broker has not sent", l, f.Raw[:min(len(f.Raw), 60)])
		}
	}
}

// fits finds the packet that f is, past those that the gateway had a reason to refuse.
func (l *modelLine) fits(f mqttparse.Frame) bool {
	c := &l.checks
	for i := 0; i < len(c.down); i++ {
		e := c.down[i]
		switch {
		case f.Type() == mqttparse.CONNACK && e.f.Type() == mqttparse.CONNACK:
			l.accepted(f, e.f)
		case f.Type() == mqttparse.PUBLISH && e.m != nil && l.opens(f, e):
		case e.m == nil && f.Type() == e.f.Type() && bytes.Equal(f.Raw, e.f.Raw):
			l.brokerAcks(f)
		default:
			if l.skips(f) || !l.swallow(e) {
				return false
			}
			c.down = c.down[1:]
			i--
			continue
		}
		c.down = c.down[1:]
		return true
	}
	return false
}

// skips reports whether f can only be the gateway's own: then nothing was swallowed before it.
func (l *modelLine) skips(f mqttparse.Frame) bool {
	return len(f.Body) == 3 && f.Body[2] == notAuthorized && !slices.ContainsFunc(l.checks.down, func(e downExpected) bool { return bytes.Equal(e.f.Raw, f.Raw) })
}

// refuses reports whether f tells the device of a refusal by policy.
func (l *modelLine) refuses(f mqttparse.Frame) bool {
	id, reason, err := mqttparse.ParseAck(f, l.v)
	if err != nil || reason != notAuthorized {
		return false
	}
	k := ackKey{f.Type(), id}
	l.checks.refusals[k]--
	return l.checks.refusals[k] >= 0
}

// accepted mirrors what CONNACK says of the session.
func (l *modelLine) accepted(f, sent mqttparse.Frame) {
	var got, want mqttparse.ConnAck
	if mqttparse.ParseConnAck(f, l.v, &got) != nil || mqttparse.ParseConnAck(sent, l.v, &want) != nil || got.SessionPresent != want.SessionPresent || got.Code != want.Code {
		l.w.fail("%s: CONNACK became %+v of %+v", l, got, want)
	}
	s := l.checks.site
	l.w.oracle.sites[l.siteKey()] = s
	if !want.SessionPresent {
		for id, r := range s.records {
			if r.old {
				delete(s.records, id)
			}
		}
		clear(s.refused)
		for filter, by := range s.filters {
			if by != l {
				delete(s.filters, filter)
			}
		}
		for _, w := range s.forwarded {
			clear(w.under)
		}
	}
}

// brokerAcks frees the record of what the broker has acknowledged.
func (l *modelLine) brokerAcks(f mqttparse.Frame) {
	switch t := f.Type(); t {
	case mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBCOMP:
		if id, reason, _ := mqttparse.ParseAck(f, l.v); t != mqttparse.PUBREC || reason >= 0x80 {
			delete(l.checks.site.records, id)
		}
	}
}

// opens reports whether f is e as the device is to get it, and notes that it has been forwarded.
func (l *modelLine) opens(f mqttparse.Frame, e downExpected) bool {
	var p mqttparse.Publish
	if err := mqttparse.ParsePublish(f, l.v, &p); err != nil {
		l.w.fail("%s: PUBLISH for the device: %v", l, err)
	}
	topic := string(p.Topic)
	if topic == "" {
		topic = l.checks.aliases.downlink[p.TopicAlias]
	}
	want := l.plainOf(e)
	same := topic == string(e.p.Topic) && p.QoS == e.p.QoS && p.Dup == e.p.Dup && p.Retain == e.p.Retain && p.PacketID == e.p.PacketID &&
		string(p.Payload) == want.payload && (l.v != mqttparse.V5 || sorted(p.Properties) == sorted([]byte(want.props)))
	if !same || l.had(e) {
		return false
	}
	if p.TopicAlias != 0 {
		l.checks.aliases.downlink[p.TopicAlias] = topic
	}
	l.forwards(e)
	return true
}

// sorted puts the properties of a content before the others: their order among each other is all that matters.
func sorted(block []byte) string {
	inner, outer := mqttparse.SplitProperties(block, nil, nil)
	return string(inner) + "|" + string(outer)
}

// plainOf is what the device is to read: the opened message with the properties of both sides.
func (l *modelLine) plainOf(e downExpected) sealedAs {
	props := e.p.Properties
	if l.w.table.Receive(e.p.Topic).Verdict != policy.Seal {
		return sealedAs{props: string(props), payload: string(e.p.Payload)}
	}
	s, known := l.w.oracle.plain[string(e.p.Payload)]
	if !known {
		return sealedAs{payload: "\x00 not sealed"}
	}
	_, outer := mqttparse.SplitProperties(props, nil, nil)
	s.props += string(outer)
	return s
}

// had reports whether the device has had a message, so that it must not come again, but for another subscription of the device's or as
// under an identifier that it has not acknowledged.
func (l *modelLine) had(e downExpected) bool {
	s := l.checks.site
	w := s.forwarded[string(e.p.Payload)]
	if w == nil {
		return false
	}
	_, pending := w.under[e.p.PacketID]
	if e.p.Retain || e.p.QoS > 0 && pending || s.copies(string(e.p.Topic)) > 1 {
		return false
	}
	return w.acknowledged || w.atMostOnce
}

func (l *modelLine) forwards(e downExpected) {
	s := l.checks.site
	if e.p.QoS > 0 {
		delete(s.refused, e.p.PacketID)
		for _, w := range s.forwarded {
			delete(w.under, e.p.PacketID)
		}
	}
	plain, sealed := l.w.oracle.plain[string(e.p.Payload)]
	if !sealed {
		return
	}
	w := s.forwarded[string(e.p.Payload)]
	if w == nil {
		w = &forwarded{under: map[uint16]bool{}}
		s.forwarded[string(e.p.Payload)] = w
	}
	if e.p.QoS > 0 {
		w.under[e.p.PacketID] = !e.p.Retain
	}
	if e.p.Retain { // which is not authenticated: the window stays where it is
		return
	}
	uid := uidOf([]byte(plain.payload))
	s.told[uid]++
	s.learn(uid, string(e.p.Payload))
	w.live = true
	if e.p.QoS == 0 {
		w.atMostOnce, s.atMostOnce[uid] = true, true
	}
	s.highest[plain.kid] = max(s.highest[plain.kid], plain.seq)
}

// swallow reports whether the gateway may keep a packet from the device, and notes the answer that it then owes the broker.
func (l *modelLine) swallow(e downExpected) bool {
	s := l.checks.site
	if e.m == nil {
		id, _, _ := mqttparse.ParseAck(e.f, l.v)
		if e.f.Type() != mqttparse.PUBREL || !s.refused[id] {
			return false
		}
		delete(s.refused, id)
		l.checks.acks[ackKey{mqttparse.PUBCOMP, id}]++
		return true
	}
	if !l.mayRefuse(e) {
		return false
	}
	l.w.refusals++
	switch e.p.QoS {
	case 1:
		l.checks.acks[ackKey{mqttparse.PUBACK, e.p.PacketID}]++
	case 2:
		l.checks.acks[ackKey{mqttparse.PUBREC, e.p.PacketID}]++
		s.refused[e.p.PacketID] = !e.p.Dup // with DUP, PUBREL is for the device, which may have the message from elsewhere
	}
	return true
}

// mayRefuse says why a message may be kept from the device: it is too long for it; it has no payload on a topic that is sealed; it is
// older than one that the device has; or the device has it.
func (l *modelLine) mayRefuse(e downExpected) bool {
	o, s := l.w.oracle, l.checks.site
	if l.tooLong(e) { // counts as delivered (MQTT-3.1.2-25), also on a connection without that limit
		o.excuse(l.session, e.m.modelMessage)
		e.p.QoS = 0
		l.forwards(e)
		return true
	}
	if l.w.table.Receive(e.p.Topic).Verdict != policy.Seal {
		return false
	}
	if len(e.p.Payload) == 0 {
		return true
	}
	plain := o.plain[string(e.p.Payload)]
	if highest, any := s.highest[plain.kid]; e.p.Retain && any && plain.seq < highest {
		o.excuse(l.session, e.m.modelMessage)
		return true
	}
	w, uid := s.forwarded[string(e.p.Payload)], uidOf([]byte(plain.payload))
	elsewhere := false
	if w != nil {
		for id := range w.under {
			elsewhere = elsewhere || id != e.p.PacketID
		}
	}
	if e.p.Retain || !elsewhere && (w == nil || !w.live) && s.told[uid] < s.learn(uid, string(e.p.Payload)) {
		return false
	}
	debt := o.debt(l.session, e.m.modelMessage)
	delete(debt.envelopes, string(e.p.Payload))
	switch {
	case uid == 0, o.ever[l.d.id][uid], s.atMostOnce[uid], debt.excused, elsewhere:
		return true
	default:
		l.w.fail("%s: message u%08d is refused as one that the device has, and it has not", l, uid)
		return false
	}
}

// tooLong reports whether a message is longer, once opened, than the device takes.
func (l *modelLine) tooLong(e downExpected) bool {
	if l.checks.limit == 0 {
		return false
	}
	p, plain := e.p, l.plainOf(e)
	p.Properties = []byte(plain.props)
	return mqttparse.PublishLen(l.v, &p, len(plain.payload))+4 > l.checks.limit // an alias may be shorter than its topic
}

// What follows counts messages from end to end: by session of the broker's, and by the number in their payload.

func (o *oracle) debt(s *modelSession, m *modelMessage) *owed {
	uid := uidOf([]byte(m.payload))
	if plain, sealed := o.plain[m.payload]; sealed {
		uid = uidOf([]byte(plain.payload))
	}
	d := s.due[uid]
	if d == nil {
		d = &owed{envelopes: map[string]bool{}}
		s.due[uid] = d
	}
	return d
}

func (o *oracle) queued(s *modelSession, m *modelSend) {
	d := o.debt(s, m.modelMessage)
	if m.qos > 0 && m.payload != "" {
		d.envelopes[m.payload] = true
	}
	if m.qos == 2 {
		d.most++
	}
}

func (o *oracle) transmitted(l *modelLine, m *modelSend) {
	d := o.debt(l.session, m.modelMessage)
	if m.qos < 2 || l.session.forgot {
		d.most++
	}
	if m.qos > 0 && (l.checks.rogue[m.id] || l.session.stuck[m.id]) {
		d.excused = true
	}
}

func (o *oracle) excuse(s *modelSession, m *modelMessage) { o.debt(s, m).excused = true }

// excuseID excuses what the device acknowledges without having read it.
func (o *oracle) excuseID(l *modelLine, id uint16) {
	l.checks.rogue[id] = true
	if l.session == nil {
		return
	}
	for _, m := range l.session.inFlight {
		if m.id == id {
			o.excuse(l.session, m.modelMessage)
		}
	}
}

// delivered notes what a device's application gets.
func (o *oracle) delivered(l *modelLine, uid int) {
	if uid == 0 {
		return
	}
	if o.ever[l.d.id] == nil {
		o.ever[l.d.id] = map[int]bool{}
	}
	o.ever[l.d.id][uid] = true
	o.w.deliveries++
	d := l.session.due[uid]
	if d == nil {
		o.w.fail("%s: u%08d is delivered, and the broker has not sent it in this session", l, uid)
	}
	if d.got++; d.got > d.most {
		o.w.fail("%s: u%08d is delivered %d times, MQTT permits %d", l, uid, d.got, d.most)
	}
}

// settled holds at rest that nothing which the broker had for a session is missing.
func (o *oracle) settled(s *modelSession, l *modelLine) {
	if len(l.checks.down) > 0 {
		o.w.fail("%s: at rest the broker has more for it", l)
	}
	for _, u := range l.checks.up {
		if !u.denied {
			o.w.fail("%s: at rest the broker has not got % x", l, u.f.Raw[:min(len(u.f.Raw), 60)])
		}
	}
	if len(s.queue) > 0 || len(s.inFlight) > 0 && len(l.checks.rogue) == 0 {
		o.w.fail("%s: at rest the broker still has %d and %d messages for it", l, len(s.queue), len(s.inFlight))
	}
	for uid, d := range s.due {
		if uid > 0 && !d.excused && d.got < len(d.envelopes) {
			o.w.fail("%s: LOST: u%08d was delivered %d times of %s", l, uid, d.got, fmt.Sprint(len(d.envelopes)))
		}
	}
}
