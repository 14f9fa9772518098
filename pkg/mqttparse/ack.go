package mqttparse

import (
	"encoding/binary"
	"strings"
)

// Reason codes by packet, MQTT 5 section 2.4.
const (
	pubAckReasons     = "\x00\x10\x80\x83\x87\x90\x91\x97\x99"
	pubRelReasons     = "\x00\x92"
	subAckCodes3      = "\x00\x01\x02\x80"
	subAckReasons     = "\x00\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2"
	unsubAckReasons   = "\x00\x11\x80\x83\x87\x8f\x91"
	authReasons       = "\x00\x18\x19"
	disconnectReasons = "\x00\x04\x80\x81\x82\x83\x87\x89\x8b\x8d\x8e\x8f\x90" +
		"\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f\xa0\xa1\xa2"
)

// ParseAck parses a PUBACK, PUBREC, PUBREL or PUBCOMP packet: the packet identifier it acknowledges
// and its reason code, 0 before MQTT 5. It also takes SUBACK and UNSUBACK, whose codes it checks but
// does not return: reason is then 0. The error is always an [*Error].
func ParseAck(f Frame, v Version) (id uint16, reason byte, err error) {
	c := cursor{rest: f.Body, v: v}
	id = c.u16()
	switch f.Type() {
	case SUBACK, UNSUBACK:
		if c.err == nil && id == 0 {
			c.fail(errSubIDZero)
		}
		c.codes(f.Type())
		return id, 0, c.done()
	}
	if c.err == nil && id == 0 {
		c.fail(errAckIDZero)
	}
	if v != V5 || len(c.rest) == 0 {
		return id, 0, c.done()
	}
	reason = c.u8()
	if valid, r := ackReasons(f.Type()); strings.IndexByte(valid, reason) < 0 {
		c.fail(r)
	}
	if len(c.rest) > 0 { // sections 3.4.2.2.1 and so on: short packets have no property length
		c.properties(f.Type())
	}
	return id, reason, c.done()
}

func ackReasons(t Type) (valid string, r *refusal) {
	switch t {
	case PUBACK:
		return pubAckReasons, errPubAckReason
	case PUBREC:
		return pubAckReasons, errPubRecReason
	case PUBREL:
		return pubRelReasons, errPubRelReason
	}
	return pubRelReasons, errPubCompReason
}

// codes checks what follows the packet identifier of SUBACK and UNSUBACK.
func (c *cursor) codes(t Type) {
	c.properties(t)
	valid, r := subAckReasons, errSubAckReason
	switch {
	case c.err != nil || t == UNSUBACK && c.v != V5:
		return // UNSUBACK has no payload before MQTT 5
	case t == UNSUBACK:
		valid, r = unsubAckReasons, errUnsubAckReason
	case c.v != V5:
		valid = subAckCodes3
	}
	if len(c.rest) == 0 {
		c.fail(errNoCodes)
	}
	for len(c.rest) > 0 {
		if strings.IndexByte(valid, c.u8()) < 0 {
			c.fail(r)
		}
	}
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP packet in its shortest form. Before MQTT 5 there
// are no reason codes: reason must be 0, and is not sent.
func AppendAck(dst []byte, v Version, t Type, id uint16, reason byte) []byte {
	first := byte(t) << 4
	if t == PUBREL {
		first |= 2
	}
	if v != V5 || reason == 0 {
		return binary.BigEndian.AppendUint16(append(dst, first, 2), id)
	}
	return append(binary.BigEndian.AppendUint16(append(dst, first, 3), id), reason)
}

// ParseDisconnect parses a DISCONNECT packet and returns its reason code, 0 before
// MQTT 5. The error is always an [*Error].
func ParseDisconnect(f Frame, v Version) (reason byte, err error) {
	c := cursor{rest: f.Body, v: v}
	if v != V5 || len(c.rest) == 0 {
		return 0, c.done()
	}
	reason = c.u8()
	if strings.IndexByte(disconnectReasons, reason) < 0 {
		c.fail(errEndReason)
	}
	if len(c.rest) > 0 {
		_, found := c.properties(DISCONNECT)
		if f.from == FromServer && found.has(PropSessionExpiry) {
			c.fail(errEndExpiry)
		}
	}
	return reason, c.done()
}

// AppendDisconnect appends a DISCONNECT packet in its shortest form. Before MQTT 5 it has no reason
// code, and only a client may send it.
func AppendDisconnect(dst []byte, v Version, reason byte) []byte {
	if v != V5 || reason == 0 {
		return append(dst, byte(DISCONNECT)<<4, 0)
	}
	return append(dst, byte(DISCONNECT)<<4, 1, reason)
}

// checkBody checks the packets that a gateway only hands on.
func checkBody(f Frame, v Version) error {
	c := cursor{rest: f.Body, v: v}
	switch f.Type() {
	case PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK:
		_, _, err := ParseAck(f, v)
		return err
	case SUBSCRIBE, UNSUBSCRIBE:
		c.filters(f.Type())
	case PINGREQ:
		if len(f.Body) != 0 {
			c.fail(errPingReq)
		}
	case PINGRESP:
		if len(f.Body) != 0 {
			c.fail(errPingResp)
		}
	case AUTH:
		c.auth()
	}
	return c.done()
}

// filters checks the body of SUBSCRIBE or UNSUBSCRIBE. Where wildcards stand in a
// filter is left to the server.
func (c *cursor) filters(t Type) {
	if id := c.u16(); c.err == nil && id == 0 {
		c.fail(errIDZero)
	}
	c.properties(t)
	if c.err == nil && len(c.rest) == 0 {
		if t == SUBSCRIBE {
			c.fail(errSubFilter)
		} else {
			c.fail(errUnsubFilter)
		}
	}
	for len(c.rest) > 0 {
		if filter := c.text(); c.err == nil && len(filter) == 0 {
			c.fail(errTopicEmpty)
		}
		if t == SUBSCRIBE {
			c.options(c.u8())
		}
	}
}

// options checks the byte behind a topic filter: QoS alone before MQTT 5.
func (c *cursor) options(o byte) {
	switch {
	case c.v == V5 && o&0xc0 != 0, c.v != V5 && o&0xfc != 0:
		c.fail(errSubOptions)
	case o&3 == 3, o&0x30 == 0x30:
		c.fail(errSubQoS)
	}
}

func (c *cursor) auth() {
	if len(c.rest) == 0 {
		return // success without properties, section 3.15.2.1
	}
	if strings.IndexByte(authReasons, c.u8()) < 0 {
		c.fail(errAuthReason)
	}
	c.properties(AUTH)
}
