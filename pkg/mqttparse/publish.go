package mqttparse

import "encoding/binary"

// Flags of PUBLISH, MQTT 3.1.1 and 5 section 3.3.1.
const (
	flagRetain = 1 << 0
	flagDup    = 1 << 3
)

// Publish is a PUBLISH packet. Its slices are views into the frame it was parsed from.
type Publish struct {
	Dup, Retain bool
	QoS         byte   // 0, 1 or 2
	PacketID    uint16 // 0 exactly if QoS is 0
	// TopicAlias is what the topic alias property says, 0 if there is none. It is a copy
	// for convenience: the property itself stands in Properties, and appending ignores this field.
	TopicAlias uint16
	Topic      []byte // empty only in MQTT 5 with a topic alias
	Properties []byte // MQTT 5: the property block without its length; nil before
	Payload    []byte

	found properties // in Properties
}

// SplitContent sorts p.Properties, as [ParsePublish] has set them: those that describe the content (see
// [DescribesContent]) and the rest. Where each kind stands together it gives views; what does not is copied to
// scratch, which is overwritten and comes back as used, perhaps grown.
func (p *Publish) SplitContent(scratch []byte) (content, rest, used []byte) {
	return p.found.runs.split(p.Properties, scratch[:0])
}

func checkPublishFlags(flags byte) *refusal {
	switch {
	case flags&6 == 6:
		return errQoS3
	case flags&(flagDup|6) == flagDup:
		return errDupQoS0
	}
	return nil
}

// ParsePublish parses the PUBLISH packet in f at version v into p, all of whose
// fields it sets. The error is always an [*Error].
func ParsePublish(f Frame, v Version, p *Publish) error {
	flags := f.Flags()
	if r := checkPublishFlags(flags); r != nil {
		return r.at(v)
	}
	b := f.Body
	if len(b) < 2 {
		return errShort.at(v)
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if n > len(b) {
		return errShort.at(v)
	}
	p.Topic, b = b[2:n:n], b[n:]
	if r := checkName(p.Topic); r != nil {
		return r.at(v)
	}
	p.Dup, p.Retain, p.QoS = flags&flagDup != 0, flags&flagRetain != 0, flags>>1&3
	p.PacketID, p.TopicAlias, p.Properties, p.found.runs.n = 0, 0, nil, 0
	if p.QoS > 0 {
		if len(b) < 2 {
			return errShort.at(v)
		}
		p.PacketID, b = binary.BigEndian.Uint16(b), b[2:]
		if p.PacketID == 0 {
			return idZero(f.from).at(v)
		}
	}
	p.Payload = b
	if v == V5 {
		if len(b) > 0 && b[0] == 0 { // none, as in most messages
			p.Properties, p.Payload = b[1:1], b[1:]
		} else if err := p.parseProperties(f.from); err != nil {
			return err
		}
	}
	if n == 2 && p.TopicAlias == 0 {
		return errTopicAlias.at(v)
	}
	return nil
}

// parseProperties cuts the property block off the front of Payload.
func (p *Publish) parseProperties(from Direction) error {
	n, width := Varint(p.Payload)
	end := width + n
	switch {
	case width < 0:
		return errVarint.at(V5)
	case width == 0 || end > len(p.Payload):
		return errShort.at(V5)
	}
	block := p.Payload[width:end:end]
	if err := p.found.scanPublish(block); err != nil {
		return err
	}
	if from == FromClient && p.found.has(PropSubscriptionID) {
		return errSubIDClient.at(V5)
	}
	p.Properties, p.Payload, p.TopicAlias = block, p.Payload[end:], p.found.alias
	return nil
}

func idZero(from Direction) *refusal {
	if from == FromServer {
		return errIDZeroDown
	}
	return errIDZero
}

// publishBody is the Remaining Length of p with more properties and a payload of so many bytes.
func publishBody(v Version, p *Publish, moreProps, payloadLen int) int {
	n := 2 + len(p.Topic) + payloadLen
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		props := len(p.Properties) + moreProps
		n += VarintLen(props) + props
	}
	return n
}

// PublishLen is the size in bytes of the whole packet that [AppendPublishHeader] begins
// when payloadLen bytes of payload follow.
func PublishLen(v Version, p *Publish, payloadLen int) int {
	n := publishBody(v, p, 0, payloadLen)
	return 1 + VarintLen(n) + n
}

// HeaderLen is the number of bytes that [AppendPublishHeader] appends.
func HeaderLen(v Version, p *Publish, payloadLen int) int {
	n := publishBody(v, p, 0, payloadLen)
	return 1 + VarintLen(n) + n - payloadLen
}

// AppendPublishHeader appends everything of the PUBLISH packet p but its payload: the caller
// appends payloadLen bytes right behind. p.Payload is not looked at; before MQTT 5 p.Properties
// is not either. The topic is at most [MaxField] bytes, and [PublishLen] at most [MaxPacket];
// for anything longer nil is returned, which no caller can mistake for a packet.
func AppendPublishHeader(dst []byte, v Version, p *Publish, payloadLen int) []byte {
	body := publishBody(v, p, 0, payloadLen)
	if len(p.Topic) > MaxField || body > MaxVarint {
		return nil
	}
	return appendHeader(dst, v, p, body, len(p.Properties))
}

// InsertPublishHeader makes the packet p of the end of b: moreProps bytes of properties beside p's, none before MQTT 5, and payloadLen of
// payload. They move to the end of the header that is put at b[start:], if they do not stand there, and b is returned up to their end. b has
// capacity for it. For what is too long nil is returned, as by [AppendPublishHeader].
func InsertPublishHeader(b []byte, start int, v Version, p *Publish, moreProps, payloadLen int) []byte {
	body := publishBody(v, p, moreProps, payloadLen)
	if len(p.Topic) > MaxField || body > MaxVarint {
		return nil
	}
	size := moreProps + payloadLen
	at, end := len(b)-size, start+1+VarintLen(body)+body
	if end-size != at {
		b = b[:max(end, len(b))]
		copy(b[end-size:end], b[at:at+size])
	}
	appendHeader(b[:start], v, p, body, len(p.Properties)+moreProps)
	return b[:end]
}

// appendHeader appends the header of p, whose Remaining Length is body and whose properties have props bytes.
func appendHeader(dst []byte, v Version, p *Publish, body, props int) []byte {
	first := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup {
		first |= flagDup
	}
	if p.Retain {
		first |= flagRetain
	}
	dst = AppendVarint(append(dst, first), body)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.Topic)))
	dst = append(dst, p.Topic...)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	if v == V5 {
		dst = AppendVarint(dst, props)
		dst = append(dst, p.Properties...)
	}
	return dst
}
