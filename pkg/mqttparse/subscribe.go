package mqttparse

// Bits of [FilterIter.Options] in MQTT 5.
const (
	NoLocal           = 1 << 2
	RetainAsPublished = 1 << 3
)

// ParseSubAck parses a SUBACK packet: the packet identifier of the SUBSCRIBE that it answers, and a code for each filter there; below
// 0x80 the subscription stands. The error is always an [*Error].
func ParseSubAck(f Frame, v Version) (id uint16, codes []byte, err error) {
	c := cursor{rest: f.Body, v: v}
	if id = c.u16(); c.err == nil && id == 0 {
		c.fail(errSubIDZero)
	}
	c.properties(SUBACK)
	codes = c.take(len(c.rest))
	return id, codes, c.done()
}
