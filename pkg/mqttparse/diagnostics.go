package mqttparse

// AppendWithoutDiagnostics appends f, an MQTT 5 packet that a [Scanner] has passed, without its Reason String and
// User Properties: a sender must leave them out of a packet that they would make longer than its receiver takes
// (MQTT-3.2.2-19 and its like for each acknowledgement, DISCONNECT and AUTH). Packets that
// carry neither, and PUBLISH, are appended as they are.
func AppendWithoutDiagnostics(dst []byte, f Frame) []byte {
	at := diagnosticsAt(f.Type())
	if at == 0 || len(f.Body) <= at || f.Type() == CONNACK && len(f.Body) == len(unacceptable) {
		return append(dst, f.Raw...)
	}
	c := cursor{rest: f.Body[at:], v: V5}
	block := c.block()
	kept := make([]byte, 0, len(block))
	for it := Properties(block); it.Next(); {
		if id := it.ID(); id != PropReasonString && id != PropUserProperty {
			kept = append(kept, it.Raw()...)
		}
	}
	dst = append(dst, f.Raw[0])
	dst = AppendVarint(dst, at+VarintLen(len(kept))+len(kept)+len(c.rest))
	dst = append(dst, f.Body[:at]...)
	dst = AppendVarint(dst, len(kept))
	return append(append(dst, kept...), c.rest...)
}

// diagnosticsAt is where the property block of an MQTT 5 packet of type t begins in its body; 0 for types that
// may not lose properties.
func diagnosticsAt(t Type) int {
	switch t {
	case DISCONNECT, AUTH:
		return 1 // behind the reason code
	case CONNACK, SUBACK, UNSUBACK:
		return 2 // behind flags and reason code, or the packet identifier
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return 3 // behind packet identifier and reason code
	}
	return 0
}
