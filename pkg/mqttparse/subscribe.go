package mqttparse

// A Subscription is one topic filter of a SUBSCRIBE packet.
type Subscription struct {
	Filter  []byte // a view into the frame
	Options byte   // behind the filter: QoS, and in MQTT 5 what else section 3.8.3.1 names
}

// Bits of Subscription.Options in MQTT 5.
const (
	NoLocal           = 1 << 2
	RetainAsPublished = 1 << 3
)

// ParseFilters parses a SUBSCRIBE or UNSUBSCRIBE packet and calls each for its topic filters in their order; those of UNSUBSCRIBE
// have no options. The error is always an [*Error]; what each was called for before it is to be forgotten.
func ParseFilters(f Frame, v Version, each func(Subscription)) (id uint16, err error) {
	c := cursor{rest: f.Body, v: v}
	if id = c.u16(); c.err == nil && id == 0 {
		c.fail(errIDZero)
	}
	c.properties(f.Type())
	for len(c.rest) > 0 {
		s := Subscription{Filter: c.text()}
		if f.Type() == SUBSCRIBE {
			s.Options = c.u8()
		}
		if c.err == nil {
			each(s)
		}
	}
	return id, c.done()
}

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
