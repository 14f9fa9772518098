package gateway

import "sealgate/pkg/mqttparse"

// propertySplit sorts an MQTT 5 property block: the five properties that describe the content
// travel inside the envelope (spec 3), the others stay outside, where brokers act on them.
type propertySplit struct{ scratch []byte }

// of sorts the properties of p as it was parsed, and gives both kinds, valid until the next call.
func (s *propertySplit) of(p *mqttparse.Publish) (inner, outer []byte) {
	inner, outer, s.scratch = p.SplitContent(s.scratch)
	return inner, outer
}

// release gives scratch memory back that grew beyond the usual.
func (s *propertySplit) release() { *s = propertySplit{} }
