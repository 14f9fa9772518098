package gateway

import "sealgate/pkg/mqttparse"

// propertySplit sorts an MQTT 5 property block: the five properties that describe the content
// travel inside the envelope (spec 3), the others stay outside, where brokers act on them. The slices are valid
// until the next split.
type propertySplit struct{ inner, outer []byte }

// split sorts block, which has been validated.
func (s *propertySplit) split(block []byte) {
	s.inner, s.outer = mqttparse.SplitProperties(block, s.inner[:0], s.outer[:0])
}

// of sorts the properties of p as it was parsed, and gives both kinds.
func (s *propertySplit) of(p *mqttparse.Publish) (inner, outer []byte) {
	inner, outer, copied := p.SplitContent(s.inner[:0], s.outer[:0])
	if copied {
		s.inner, s.outer = inner, outer
	}
	return inner, outer
}

// release gives scratch memory back that grew beyond the usual.
func (s *propertySplit) release() { *s = propertySplit{} }
