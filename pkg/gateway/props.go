package gateway

import "sealgate/pkg/mqttparse"

// propertySplit sorts an MQTT 5 property block: the five properties that describe the content
// travel inside the envelope, the others stay outside, where brokers act on them. The slices are valid until
// the next split.
type propertySplit struct{ inner, outer []byte }

// content reports whether a property describes the payload (spec 3.1).
func content(id byte) bool {
	switch id {
	case mqttparse.PropPayloadFormat, mqttparse.PropContentType, mqttparse.PropResponseTopic,
		mqttparse.PropCorrelationData, mqttparse.PropUserProperty:
		return true
	}
	return false
}

// split sorts block, which has been validated.
func (s *propertySplit) split(block []byte) {
	s.inner, s.outer = s.inner[:0], s.outer[:0]
	for it := mqttparse.Properties(block); it.Next(); {
		if content(it.ID()) {
			s.inner = append(s.inner, it.Raw()...)
		} else {
			s.outer = append(s.outer, it.Raw()...)
		}
	}
}

// release gives scratch memory back that grew beyond the usual.
func (s *propertySplit) release() { *s = propertySplit{} }

// contentOnly reports whether block is a valid block of content properties and nothing
// else: what may stand in front of an opened payload.
func contentOnly(block []byte) bool {
	it := mqttparse.Properties(block)
	for it.Next() {
		if !content(it.ID()) {
			return false
		}
	}
	return it.Err() == nil && mqttparse.ValidateProperties(mqttparse.PUBLISH, block) == nil
}
