package mqttparse

import "encoding/binary"

// FilterIter walks the topic filters of a SUBSCRIBE or UNSUBSCRIBE packet:
//
//	for it := mqttparse.Filters(f, v); it.Next(); {
//		subscribe(it.Filter(), it.Options())
//	}
//
// What it returns are views.
type FilterIter struct {
	id           uint16
	rest, filter []byte
	width        int // bytes of options behind each filter
	options      byte
}

// Filters starts a walk over f, a SUBSCRIBE or UNSUBSCRIBE that a [Scanner] has passed at version v.
func Filters(f Frame, v Version) FilterIter {
	c := cursor{rest: f.Body, v: v}
	id := c.u16()
	if v == V5 {
		c.block()
	}
	it := FilterIter{id: id, rest: c.rest}
	if f.Type() == SUBSCRIBE {
		it.width = 1
	}
	return it
}

// PacketID is the packet identifier, which SUBACK or UNSUBACK repeats.
func (it *FilterIter) PacketID() uint16 { return it.id }

// Next moves on to the next filter, and returns false at the end.
func (it *FilterIter) Next() bool {
	if len(it.rest) < 2 {
		return false
	}
	n := 2 + int(binary.BigEndian.Uint16(it.rest))
	if n+it.width > len(it.rest) {
		return false
	}
	it.filter, it.options = it.rest[2:n:n], 0
	if it.width > 0 {
		it.options = it.rest[n]
	}
	it.rest = it.rest[n+it.width:]
	return true
}

// Filter is the topic filter, which may be that of a shared subscription.
func (it *FilterIter) Filter() []byte { return it.filter }

// Options are the subscription options behind a filter of SUBSCRIBE (MQTT 5, 3.8.3.1; before, its QoS); 0 in UNSUBSCRIBE.
func (it *FilterIter) Options() byte { return it.options }
