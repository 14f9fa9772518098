package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// deadlineReader reads from the broker, which has something to say at least once in two intervals.
type deadlineReader struct{ l *v5 }

func (r deadlineReader) Read(p []byte) (int, error) {
	r.l.raw.SetReadDeadline(time.Now().Add(2 * r.l.interval))
	return r.l.raw.Read(p)
}

// read takes what the broker sends until the connection ends.
func (l *v5) read() {
	for {
		kind, body, err := l.frame()
		if err == nil {
			err = l.take(kind, body)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("it has said nothing for %s, though it was asked to", 2*l.interval)
		}
		if err != nil {
			l.end(err)
			return
		}
	}
}

// frame reads one packet. It refuses what no server may send, and what is larger than agreed, before it takes
// memory for it. kind is the first byte's upper half; of a PUBLISH, the whole first byte.
func (l *v5) frame() (kind byte, body []byte, err error) {
	first, err := l.in.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	kind = first >> 4
	switch kind {
	case packets.PUBLISH:
		kind = first
		if first&6 == 6 {
			return 0, nil, errors.New("the broker sent a PUBLISH with QoS 3 [MQTT-3.3.1-4]")
		}
	case packets.CONNACK, packets.PUBACK, packets.PUBREC, packets.PUBREL, packets.PUBCOMP, packets.SUBACK, packets.UNSUBACK,
		packets.PINGRESP, packets.DISCONNECT:
	default: // AUTH belongs to an authentication that was not asked for
		return 0, nil, fmt.Errorf("the broker sent packet type %d, which was not asked for or which a server may not send [MQTT 5 2.1.2]", kind)
	}
	length, err := l.remainingLength()
	if err != nil {
		return 0, nil, err
	}
	if length > l.limit {
		return 0, nil, fmt.Errorf("the broker sent a packet of %d bytes; the limit is %d [MQTT-3.1.2-24]", length, l.limit)
	}
	body = make([]byte, length)
	_, err = io.ReadFull(l.in, body)
	return kind, body, err
}

func (l *v5) remainingLength() (n int, err error) {
	for shift := 0; shift < 28; shift += 7 {
		c, err := l.in.ReadByte()
		if err != nil {
			return 0, err
		}
		if n |= int(c&0x7f) << shift; c < 0x80 {
			return n, nil
		}
	}
	return 0, errors.New("the broker sent a Remaining Length of more than four bytes [MQTT-1.5.5-1]")
}

// take handles one packet.
func (l *v5) take(kind byte, body []byte) error {
	if kind>>4 == packets.PUBLISH {
		return l.publishArrived(kind, body)
	}
	r := bytes.NewBuffer(body)
	props := &packets.Properties{}
	var err error
	switch kind {
	case packets.PUBACK:
		p := &packets.Puback{Properties: props}
		if err = p.Unpack(r); err == nil {
			l.acknowledged(p.PacketID, 1, p.ReasonCode, props.ReasonString)
		}
	case packets.PUBREC:
		p := &packets.Pubrec{Properties: props}
		if err = p.Unpack(r); err == nil {
			return l.recorded(p.PacketID, p.ReasonCode, props.ReasonString)
		}
	case packets.PUBCOMP:
		p := &packets.Pubcomp{Properties: props}
		if err = p.Unpack(r); err == nil {
			l.acknowledged(p.PacketID, 2, p.ReasonCode, props.ReasonString)
		}
	case packets.PUBREL:
		p := &packets.Pubrel{Properties: props}
		if err = p.Unpack(r); err == nil {
			return l.released(p.PacketID)
		}
	case packets.SUBACK:
		p := &packets.Suback{Properties: props}
		if err = p.Unpack(r); err == nil {
			return l.granted(packets.SUBSCRIBE, "SUBSCRIBE", p.PacketID, p.Reasons, props.ReasonString)
		}
	case packets.UNSUBACK:
		p := &packets.Unsuback{Properties: props}
		if err = p.Unpack(r); err == nil {
			return l.granted(packets.UNSUBSCRIBE, "UNSUBSCRIBE", p.PacketID, p.Reasons, props.ReasonString)
		}
	case packets.DISCONNECT:
		p := &packets.Disconnect{Properties: props}
		if len(body) > 0 {
			err = p.Unpack(r)
		}
		if err == nil {
			return &ReasonError{What: connectionEnded, Code: p.ReasonCode, Text: props.ReasonString}
		}
	case packets.CONNACK:
		return errors.New("the broker sent a second CONNACK [MQTT 5 3.2]")
	}
	if err != nil {
		return fmt.Errorf("the broker sent a packet of type %d that does not parse: %v", kind, err)
	}
	return nil
}

// acknowledged takes the last answer to a PUBLISH of this QoS.
func (l *v5) acknowledged(id uint16, qos, code byte, text string) {
	l.mu.Lock()
	a := l.waiting[id]
	fits := a != nil && a.kind == packets.PUBLISH && a.qos == qos && a.received == (qos == 2)
	l.mu.Unlock()
	if fits {
		l.settle(id, packets.PUBLISH, refusal("PUBLISH", code, text))
	}
}

// recorded answers a PUBREC, which may be a refusal, with PUBREL.
func (l *v5) recorded(id uint16, code byte, text string) error {
	l.mu.Lock()
	a := l.waiting[id]
	fits := a != nil && a.kind == packets.PUBLISH && a.qos == 2
	if fits && code < 0x80 {
		a.received = true
	}
	l.mu.Unlock()
	switch {
	case fits && code >= 0x80:
		l.settle(id, packets.PUBLISH, refusal("PUBLISH", code, text))
		return nil
	case fits:
		return l.send(&packets.Pubrel{PacketID: id, Properties: &packets.Properties{}})
	case code >= 0x80:
		return nil
	}
	return l.send(&packets.Pubrel{PacketID: id, ReasonCode: 0x92, Properties: &packets.Properties{}})
}

// granted takes the answer to a SUBSCRIBE or UNSUBSCRIBE of one filter.
func (l *v5) granted(kind byte, what string, id uint16, reasons []byte, text string) error {
	if len(reasons) != 1 {
		return fmt.Errorf("the broker answered a %s of one filter with %d reason codes [MQTT 5 3.9.3]", what, len(reasons))
	}
	l.settle(id, kind, refusal(what, reasons[0], text))
	return nil
}

func refusal(what string, code byte, text string) error {
	if code < 0x80 {
		return nil
	}
	return &ReasonError{What: what, Code: code, Text: text}
}

// publishArrived delivers a PUBLISH. A QoS 2 message that is in flight already is not delivered again [MQTT-4.3.3-10].
func (l *v5) publishArrived(first byte, body []byte) error {
	p := &packets.Publish{QoS: first >> 1 & 3, Duplicate: first&8 != 0, Retain: first&1 != 0, Properties: &packets.Properties{}}
	if err := p.Unpack(bytes.NewBuffer(body)); err != nil {
		return fmt.Errorf("the broker sent a PUBLISH that does not parse: %v", err)
	}
	if err := l.resolve(p); err != nil {
		return err
	}
	m := &Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain, Dup: p.Duplicate, Properties: contentOf(p.Properties)}
	if p.QoS > 0 {
		again, err := l.inFlight(p)
		if again || err != nil {
			return err
		}
		m.ack = func() { l.ack(p.PacketID, p.QoS) }
	}
	l.deliver(m)
	return nil
}

// resolve puts the topic into a message that has only its alias [MQTT 5 3.3.2.3.4].
func (l *v5) resolve(p *packets.Publish) error {
	if p.Properties.TopicAlias == nil {
		if p.Topic == "" {
			return errors.New("the broker sent a PUBLISH without topic and topic alias [MQTT 5 3.3.2.1]")
		}
		return nil
	}
	alias := int(*p.Properties.TopicAlias)
	if alias == 0 || alias > maxAliases {
		return fmt.Errorf("the broker sent topic alias %d; 1 to %d are allowed [MQTT-3.1.2-26]", alias, maxAliases)
	}
	if p.Topic != "" {
		l.aliases[alias] = p.Topic
	} else if p.Topic = l.aliases[alias]; p.Topic == "" {
		return fmt.Errorf("the broker sent topic alias %d before it gave it a meaning [MQTT 5 3.3.4]", alias)
	}
	return nil
}

// contentOf are the properties that describe content.
func contentOf(p *packets.Properties) Properties {
	out := Properties{ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData}
	if p.PayloadFormat != nil {
		out.PayloadFormat = *p.PayloadFormat
	}
	for _, u := range p.User {
		out.User = append(out.User, UserProperty{u.Key, u.Value})
	}
	return out
}

// inFlight counts a message in, and says whether it is a QoS 2 message that was there before.
func (l *v5) inFlight(p *packets.Publish) (again bool, err error) {
	if p.PacketID == 0 {
		return false, errors.New("the broker sent a PUBLISH of QoS 1 or 2 with packet identifier 0 [MQTT-2.2.1-4]")
	}
	l.mu.Lock()
	recorded, known := l.arrived[p.PacketID]
	full := !known && len(l.arrived) >= l.window
	if !known && !full {
		l.arrived[p.PacketID] = false
	}
	l.mu.Unlock()
	switch {
	case full:
		return false, fmt.Errorf("the broker sent more than %d messages before the first was acknowledged [MQTT-3.3.4-9]", l.window)
	case recorded:
		return true, l.send(&packets.Pubrec{PacketID: p.PacketID, Properties: &packets.Properties{}})
	}
	return known && p.QoS == 2, nil
}

// ack acknowledges a message. Of a QoS 2 message, PUBREL ends what PUBREC begins here.
func (l *v5) ack(id uint16, qos byte) {
	l.mu.Lock()
	if qos == 1 {
		delete(l.arrived, id)
	} else {
		l.arrived[id] = true
	}
	l.mu.Unlock()
	if qos == 1 {
		_ = l.send(&packets.Puback{PacketID: id, Properties: &packets.Properties{}})
	} else {
		_ = l.send(&packets.Pubrec{PacketID: id, Properties: &packets.Properties{}})
	}
}

// released answers a PUBREL, also one for a message of an earlier connection.
func (l *v5) released(id uint16) error {
	l.mu.Lock()
	if l.arrived[id] {
		delete(l.arrived, id)
	}
	l.mu.Unlock()
	return l.send(&packets.Pubcomp{PacketID: id, Properties: &packets.Properties{}})
}
