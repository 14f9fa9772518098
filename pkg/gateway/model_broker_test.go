package gateway

import (
	"bytes"
	"slices"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/topic"
)

// modelBroker is a broker that keeps to MQTT, in memory and without goroutines: bytes in, bytes out. It tolerates what devices may do
// with packet identifiers.
type modelBroker struct {
	w        *world
	sessions map[string]*modelSession
	order    []string // client ids, in the order in which they came: routing must not depend on a map
	retained map[string]*modelMessage
	topics   []string // of retained, in order
	perSub   bool     // overlapping subscriptions bring a copy each
	turn     int      // of shared subscriptions
}

// modelMessage is one message as a publisher sent it.
type modelMessage struct {
	topic, payload string
	outer          string // properties
	qos            byte
	retain         bool
	from           string
}

// modelSend is a message on its way to one session.
type modelSend struct {
	*modelMessage
	qos    byte
	retain bool
	id     uint16
	rel    bool // QoS 2: PUBREC has come
}

type modelSub struct {
	filter  string
	options byte
}

// modelSession is a session of MQTT. What it was sent is counted for the end-to-end check.
type modelSession struct {
	client   string
	subs     []modelSub
	queue    []*modelSend
	inFlight []*modelSend
	in2      map[uint16]bool
	keeps    bool // outlives the connection
	line     *brokerEnd
	due      map[int]*owed // by uid
	forgot   bool          // the device has lost its memory while this session lived
	stuck    map[uint16]bool
	seen     bool // the device knows that this session has begun
}

// brokerEnd is the broker's end of a connection.
type brokerEnd struct {
	l       *modelLine
	buf     []byte
	scan    mqttparse.Scanner
	v       mqttparse.Version
	s       *modelSession
	will    *modelMessage
	aliases map[uint16]string
	told    map[string]uint16 // aliases towards the device
	most    int               // aliases that the device takes
	window  int               // Receive Maximum
	limit   int               // Maximum Packet Size
	closed  bool
}

func newModelBroker(w *world) *modelBroker {
	return &modelBroker{w: w, sessions: map[string]*modelSession{}, retained: map[string]*modelMessage{}}
}

func (b *modelBroker) end(l *modelLine) *brokerEnd {
	e := &brokerEnd{l: l, aliases: map[uint16]string{}, told: map[string]uint16{}, window: 16, limit: 1 << 20}
	e.scan.Init(mqttparse.FromClient, 1<<20)
	return e
}

// read takes bytes of a connection.
func (b *modelBroker) read(e *brokerEnd, p []byte) {
	e.buf = append(e.buf, p...)
	for !e.closed {
		f, n, err := e.scan.Next(e.buf)
		if err != nil {
			b.w.fail("%s: the broker got what is not MQTT: %v", e.l, err)
		}
		if n == 0 {
			return
		}
		f.Body = bytes.Clone(f.Body)
		e.buf = e.buf[n:]
		b.packet(e, f)
	}
}

func (b *modelBroker) packet(e *brokerEnd, f mqttparse.Frame) {
	switch f.Type() {
	case mqttparse.CONNECT:
		b.connect(e, f)
	case mqttparse.PUBLISH:
		b.publish(e, f)
	case mqttparse.PUBACK, mqttparse.PUBREC, mqttparse.PUBREL, mqttparse.PUBCOMP:
		id, reason, err := mqttparse.ParseAck(f, e.v)
		if err != nil {
			b.w.fail("%s: %v", e.l, err)
		}
		b.ack(e, f.Type(), id, reason)
	case mqttparse.SUBSCRIBE, mqttparse.UNSUBSCRIBE:
		b.subscribe(e, f)
	case mqttparse.PINGREQ:
		e.l.fromBroker([]byte{0xd0, 0}, nil)
	case mqttparse.DISCONNECT:
		e.will = nil
		b.closed(e)
	}
}

func (b *modelBroker) connect(e *brokerEnd, f mqttparse.Frame) {
	var con mqttparse.Connect
	if err := mqttparse.ParseConnect(f, &con); err != nil {
		b.w.fail("%s: %v", e.l, err)
	}
	e.v = con.Version
	id := string(con.ClientID)
	s := b.sessions[id]
	if s != nil && s.line != nil {
		if old := s.line; old.v == mqttparse.V5 {
			old.l.fromBroker(mqttparse.AppendDisconnect(nil, old.v, 0x8e), nil)
		}
		b.closed(s.line)
		s = b.sessions[id]
	}
	present := s != nil && !con.CleanStart
	if !present {
		if s != nil {
			b.drop(id)
		}
		s = &modelSession{client: id, in2: map[uint16]bool{}, stuck: map[uint16]bool{}, due: map[int]*owed{}}
		b.sessions[id] = s
		b.order = append(b.order, id)
	}
	s.line, e.s, e.l.session = e, s, s
	s.keeps = !con.CleanStart
	answer := mqttparse.ConnAck{SessionPresent: present}
	if e.v == mqttparse.V5 {
		s.keeps = false
		l := limitsOf(con.Properties)
		e.most, e.window = l.aliases, min(l.inFlight, 16)
		if l.packet > 0 {
			e.limit = l.packet
		}
		for it := mqttparse.Properties(con.Properties); it.Next(); {
			if it.ID() == mqttparse.PropSessionExpiry {
				s.keeps = it.Uint() > 0
			}
		}
		answer.Properties = join(u16Prop(mqttparse.PropTopicAliasMaximum, 5), u16Prop(mqttparse.PropReceiveMaximum, 100))
	}
	if con.HasWill {
		e.will = &modelMessage{topic: string(con.Will.Topic), payload: string(con.Will.Payload), outer: outerOf(con.Will.Properties), qos: con.Will.QoS, retain: con.Will.Retain, from: id}
	}
	e.l.fromBroker(answer.Append(nil, e.v), nil)
	for _, m := range slices.Clone(s.inFlight) {
		if m.rel {
			e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBREL, m.id, 0), nil)
		} else {
			b.transmit(e, m, true)
		}
	}
	b.advance(s)
}

// outerOf leaves out of a block what only the broker needs.
func outerOf(block []byte) string {
	var kept []byte
	for it := mqttparse.Properties(block); it.Next(); {
		if it.ID() != mqttparse.PropTopicAlias && it.ID() != mqttparse.PropWillDelay {
			kept = append(kept, it.Raw()...)
		}
	}
	return string(kept)
}

// closed ends a connection at the broker's side, whose will is published.
func (b *modelBroker) closed(e *brokerEnd) {
	if e.closed {
		return
	}
	e.closed = true
	s := e.s
	if s == nil {
		return
	}
	s.line = nil
	if !s.keeps {
		b.drop(s.client)
	}
	if e.will != nil {
		b.route(e.will)
	}
}

func (b *modelBroker) drop(id string) {
	delete(b.sessions, id)
	b.order = slices.DeleteFunc(b.order, func(s string) bool { return s == id })
}

func (b *modelBroker) publish(e *brokerEnd, f mqttparse.Frame) {
	var p mqttparse.Publish
	if err := mqttparse.ParsePublish(f, e.v, &p); err != nil {
		b.w.fail("%s: %v", e.l, err)
	}
	name := string(p.Topic)
	if p.TopicAlias != 0 {
		if name == "" {
			name = e.aliases[p.TopicAlias]
		}
		e.aliases[p.TopicAlias] = name
	}
	m := &modelMessage{topic: name, payload: string(p.Payload), outer: outerOf(p.Properties), qos: p.QoS, retain: p.Retain, from: e.s.client}
	code := byte(0)
	if name == b.w.wire(refusedByBroker) && e.v == mqttparse.V5 {
		code = notAuthorized
	}
	switch p.QoS {
	case 0:
		b.route(m)
	case 1:
		if code == 0 {
			b.route(m)
		}
		e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBACK, p.PacketID, code), nil)
	case 2:
		if !e.s.in2[p.PacketID] && code == 0 {
			e.s.in2[p.PacketID] = true
			b.route(m)
		}
		e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBREC, p.PacketID, code), nil)
	}
}

// route gives a message to all sessions that subscribed to its topic.
func (b *modelBroker) route(m *modelMessage) {
	if m.retain {
		if b.retained[m.topic] == nil {
			b.topics = append(b.topics, m.topic)
		}
		b.retained[m.topic] = m
		if m.payload == "" {
			delete(b.retained, m.topic)
			b.topics = slices.DeleteFunc(b.topics, func(t string) bool { return t == m.topic })
		}
	}
	type member struct {
		s   *modelSession
		sub modelSub
	}
	shared := map[string][]member{}
	var groups []string
	for _, id := range b.order {
		s := b.sessions[id]
		var own []modelSub
		for _, sub := range s.subs {
			_, inner, isShared := topic.ShareFilter(sub.filter)
			switch {
			case isShared && topic.Match(inner, m.topic):
				if shared[sub.filter] == nil {
					groups = append(groups, sub.filter)
				}
				shared[sub.filter] = append(shared[sub.filter], member{s, sub})
			case !isShared && topic.Match(sub.filter, m.topic) && (sub.options&mqttparse.NoLocal == 0 || id != m.from):
				own = append(own, sub)
			}
		}
		if len(own) > 1 && !b.perSub {
			own[0] = modelSub{own[0].filter, max(own[0].options&3, own[1].options&3) | (own[0].options|own[1].options)&^3}
			own = own[:1]
		}
		for _, sub := range own {
			b.enqueue(s, m, sub.options, m.retain && sub.options&mqttparse.RetainAsPublished != 0)
		}
	}
	for _, g := range groups {
		b.turn++
		to := shared[g][b.turn%len(shared[g])]
		b.enqueue(to.s, m, to.sub.options, false)
	}
}

func (b *modelBroker) enqueue(s *modelSession, m *modelMessage, options byte, retain bool) {
	qos := min(m.qos, options&3)
	if qos == 0 && s.line == nil {
		return
	}
	send := &modelSend{modelMessage: m, qos: qos, retain: retain}
	b.w.oracle.queued(s, send)
	s.queue = append(s.queue, send)
	b.advance(s)
}

// advance sends what the window lets through.
func (b *modelBroker) advance(s *modelSession) {
	for s.line != nil && len(s.queue) > 0 {
		m := s.queue[0]
		if m.qos > 0 {
			if len(s.inFlight) >= s.line.window {
				return
			}
			for m.id = 1; slices.ContainsFunc(s.inFlight, func(o *modelSend) bool { return o.id == m.id }); {
				m.id++
			}
			s.inFlight = append(s.inFlight, m)
		}
		s.queue = s.queue[1:]
		b.transmit(s.line, m, false)
	}
}

func (b *modelBroker) transmit(e *brokerEnd, m *modelSend, dup bool) {
	p := mqttparse.Publish{Topic: []byte(m.topic), Payload: []byte(m.payload), QoS: m.qos, PacketID: m.id, Retain: m.retain, Dup: dup && m.qos > 0}
	if e.v == mqttparse.V5 {
		p.Properties = []byte(m.outer)
		b.alias(e, &p)
	}
	packet := publishPacket(e.v, p)
	if len(packet) > e.limit { // MQTT-3.1.2-25: as if it had been delivered
		if len(p.Topic) > 0 {
			delete(e.told, m.topic) // it has not been told
		}
		b.w.oracle.excuse(e.s, m.modelMessage)
		if dup && m.qos == 2 { // the device may have it from a connection without this limit
			m.rel = true
			e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBREL, m.id, 0), nil)
			return
		}
		b.release(e.s, m.id)
		return
	}
	e.l.fromBroker(packet, m)
}

// alias replaces a topic by an alias, or sets one.
func (b *modelBroker) alias(e *brokerEnd, p *mqttparse.Publish) {
	name := string(p.Topic)
	a, known := e.told[name]
	if !known {
		if len(e.told) >= e.most {
			return
		}
		a = uint16(len(e.told) + 1)
		e.told[name] = a
	} else {
		p.Topic = nil
	}
	p.Properties = join(p.Properties, u16Prop(mqttparse.PropTopicAlias, a))
}

// ack takes an acknowledgement. Unknown identifiers are answered or ignored.
func (b *modelBroker) ack(e *brokerEnd, t mqttparse.Type, id uint16, reason byte) {
	at := slices.IndexFunc(e.s.inFlight, func(m *modelSend) bool { return m.id == id })
	var m *modelSend
	if at >= 0 {
		m = e.s.inFlight[at]
	}
	switch t {
	case mqttparse.PUBREL:
		delete(e.s.in2, id)
		e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBCOMP, id, 0), nil)
	case mqttparse.PUBREC:
		if m != nil && m.qos == 2 && reason < 0x80 {
			m.rel = true
			e.l.fromBroker(mqttparse.AppendAck(nil, e.v, mqttparse.PUBREL, id, 0), nil)
		} else if m != nil && m.qos == 2 {
			b.release(e.s, id)
		}
	case mqttparse.PUBACK:
		if m != nil && m.qos == 1 {
			b.release(e.s, id)
		}
	case mqttparse.PUBCOMP:
		if m != nil && m.rel {
			b.release(e.s, id)
		}
	}
	b.advance(e.s)
}

func (b *modelBroker) release(s *modelSession, id uint16) {
	s.inFlight = slices.DeleteFunc(s.inFlight, func(m *modelSend) bool { return m.id == id })
}

func (b *modelBroker) subscribe(e *brokerEnd, f mqttparse.Frame) {
	var asked []modelSub
	for it := mqttparse.Filters(f, e.v); it.Next(); {
		asked = append(asked, modelSub{string(it.Filter()), it.Options()})
	}
	answer := []byte{byte(mqttparse.SUBACK) << 4, 0, f.Body[0], f.Body[1]}
	if f.Type() == mqttparse.UNSUBSCRIBE {
		answer[0] = byte(mqttparse.UNSUBACK) << 4
	}
	if e.v == mqttparse.V5 {
		answer = append(answer, 0)
	}
	var retained []modelSub
	for _, a := range asked {
		known := slices.IndexFunc(e.s.subs, func(s modelSub) bool { return s.filter == a.filter })
		if known >= 0 {
			e.s.subs = slices.Delete(e.s.subs, known, known+1)
		}
		if f.Type() == mqttparse.UNSUBSCRIBE {
			if e.v == mqttparse.V5 {
				answer = append(answer, 0)
			}
			continue
		}
		answer = append(answer, a.options&3)
		e.s.subs = append(e.s.subs, a)
		if _, _, shared := topic.ShareFilter(a.filter); !shared && (a.options>>4 == 0 || a.options>>4 == 1 && known < 0) {
			retained = append(retained, a)
		}
	}
	answer[1] = byte(len(answer) - 2)
	e.l.fromBroker(answer, nil)
	for _, a := range retained {
		for _, name := range b.topics {
			if topic.Match(a.filter, name) {
				b.enqueue(e.s, b.retained[name], a.options, true)
			}
		}
	}
}
