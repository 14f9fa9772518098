package mqttparse

import (
	"encoding/binary"
	"strings"
)

// Will is the message that CONNECT leaves with the server. Its slices are views.
type Will struct {
	QoS        byte
	Retain     bool
	Topic      []byte
	Payload    []byte
	Properties []byte // MQTT 5: the will's property block without its length; nil before
}

// Connect is a CONNECT packet. Its slices are views into the frame it was parsed from.
type Connect struct {
	Version      Version
	ProtocolName []byte // "MQIsdp" at 3.1, otherwise "MQTT"; appending derives it from Version
	CleanStart   bool   // Clean Session before MQTT 5
	HasWill      bool
	HasUsername  bool
	HasPassword  bool
	KeepAlive    uint16 // seconds
	Properties   []byte // MQTT 5: the property block without its length; nil before
	ClientID     []byte
	Will         Will   // valid iff HasWill
	Username     []byte // valid iff HasUsername
	Password     []byte // valid iff HasPassword
}

// Connect flags, section 3.1.2.3.
const (
	connReserved   = 1 << 0
	connClean      = 1 << 1
	connWill       = 1 << 2
	connWillQoS    = 3 << 3
	connWillRetain = 1 << 5
	connPassword   = 1 << 6
	connUsername   = 1 << 7
)

func protocolName(v Version) string {
	if v == V31 {
		return "MQIsdp"
	}
	return "MQTT"
}

// ParseConnect parses the CONNECT packet in f into c, all of whose fields it sets.
// The error is always an [*Error]. Where 3.1 is stricter or laxer than its successors the
// behaviour of common brokers decides: a client identifier may be longer than 23
// bytes, and the user name may be missing at the packet's end though its flag is set.
func ParseConnect(f Frame, c *Connect) error {
	*c = Connect{}
	r := cursor{rest: f.Body}
	c.ProtocolName = r.binary()
	level := Version(r.u8())
	if r.err == nil {
		r.checkProtocol(string(c.ProtocolName), level)
	}
	r.v, c.Version = level, level
	flags := r.u8()
	r.checkConnectFlags(flags)
	c.CleanStart = flags&connClean != 0
	c.KeepAlive = r.u16()
	c.Properties, _ = r.properties(CONNECT)
	c.ClientID = r.text()
	if len(c.ClientID) == 0 && (level == V31 || level == V311 && !c.CleanStart) {
		r.fail(errClientID)
	}
	if c.HasWill = flags&connWill != 0; c.HasWill {
		r.will(flags, &c.Will)
	}
	c.HasUsername = flags&connUsername != 0
	if c.HasUsername && level == V31 && len(r.rest) == 0 {
		c.HasUsername = false // MQTT 3.1 section 3.1: Remaining Length takes precedence over the flag
	}
	if c.HasUsername {
		c.Username = r.text()
	}
	if c.HasPassword = flags&connPassword != 0; c.HasPassword {
		c.Password = r.binary()
	}
	return r.done()
}

func (c *cursor) checkProtocol(name string, level Version) {
	switch {
	case name != "MQTT" && name != "MQIsdp":
		c.fail(errProtocolName)
	case name == "MQIsdp" && level != V31, name == "MQTT" && level != V311 && level != V5:
		c.fail(errProtocolLevel)
	}
}

func (c *cursor) checkConnectFlags(flags byte) {
	will := flags&connWill != 0
	switch {
	case flags&connReserved != 0:
		c.fail(errConnectFlag)
	case will && flags&connWillQoS == connWillQoS:
		c.fail(errWillQoS3)
	case !will && flags&connWillQoS != 0:
		c.fail(errWillQoS)
	case !will && flags&connWillRetain != 0:
		c.fail(errWillRetain)
	case c.v != V5 && flags&(connPassword|connUsername) == connPassword:
		c.fail(errPassword)
	}
}

func (c *cursor) will(flags byte, w *Will) {
	w.QoS, w.Retain = flags&connWillQoS>>3, flags&connWillRetain != 0
	w.Properties, _ = c.properties(WILL)
	w.Topic = c.binary()
	switch r := checkName(w.Topic); {
	case r == errTopicWild:
		c.fail(errWillTopicWild)
	case r != nil:
		c.fail(r)
	case len(w.Topic) == 0:
		c.fail(errTopicEmpty)
	}
	w.Payload = c.binary()
}

func (c *Connect) flags() byte {
	var flags byte
	if c.CleanStart {
		flags |= connClean
	}
	if c.HasWill {
		flags |= connWill | c.Will.QoS<<3
		if c.Will.Retain {
			flags |= connWillRetain
		}
	}
	if c.HasUsername {
		flags |= connUsername
	}
	if c.HasPassword {
		flags |= connPassword
	}
	return flags
}

// size is the Remaining Length of c, and whether every field fits its length prefix.
func (c *Connect) size() (n int, fits bool) {
	fits = true
	field := func(b []byte) {
		n += 2 + len(b)
		fits = fits && len(b) <= MaxField
	}
	block := func(b []byte) {
		if c.Version == V5 {
			n += VarintLen(len(b)) + len(b)
		}
	}
	n = 2 + len(protocolName(c.Version)) + 4
	block(c.Properties)
	field(c.ClientID)
	if c.HasWill {
		block(c.Will.Properties)
		field(c.Will.Topic)
		field(c.Will.Payload)
	}
	if c.HasUsername {
		field(c.Username)
	}
	if c.HasPassword {
		field(c.Password)
	}
	return n, fits && n <= MaxVarint
}

// AppendConnect appends c as a CONNECT packet of c.Version. ProtocolName is not looked at. Strings, payload
// and password are at most [MaxField] bytes each; if one is longer, as a will may become
// by sealing, nil is returned, which no caller can mistake for a packet.
func AppendConnect(dst []byte, c *Connect) []byte {
	n, fits := c.size()
	if !fits {
		return nil
	}
	dst = AppendVarint(append(dst, byte(CONNECT)<<4), n)
	dst = appendField(dst, protocolName(c.Version))
	dst = append(dst, byte(c.Version), c.flags())
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = appendBlock(dst, c.Version, c.Properties)
	dst = appendField(dst, c.ClientID)
	if c.HasWill {
		dst = appendBlock(dst, c.Version, c.Will.Properties)
		dst = appendField(dst, c.Will.Topic)
		dst = appendField(dst, c.Will.Payload)
	}
	if c.HasUsername {
		dst = appendField(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendField(dst, c.Password)
	}
	return dst
}

func appendField[T ~string | ~[]byte](dst []byte, b T) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}

func appendBlock(dst []byte, v Version, b []byte) []byte {
	if v != V5 {
		return dst
	}
	return append(AppendVarint(dst, len(b)), b...)
}

// ConnAck is a CONNACK packet.
type ConnAck struct {
	SessionPresent bool
	Code           byte   // return code before MQTT 5, reason code in it; 0 accepts
	Properties     []byte // MQTT 5: the property block without its length, a view; nil before
}

const connAckReasons = "\x00\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8c\x90\x95\x97\x99\x9a\x9b\x9c\x9d\x9f"

// unacceptable is the body of a CONNACK by which a server that knows no MQTT 5 refuses it: return code 1 of
// MQTT 3.1.1, table 3.1, in that version's form (section 3.1.2.2 there).
const unacceptable = "\x00\x01"

// ParseConnAck parses the CONNACK packet in f at version v into c. The error is always an [*Error]. At MQTT 5 it
// also takes the refusal of a server that does not know it, whose code is 1.
func ParseConnAck(f Frame, v Version, c *ConnAck) error {
	r := cursor{rest: f.Body, v: v}
	flags := r.u8()
	c.Code, c.SessionPresent, c.Properties = r.u8(), flags&1 != 0, nil
	switch {
	case v == V5 && string(f.Body) == unacceptable:
		return nil
	case r.err != nil:
	case flags > 1:
		r.fail(errConnAckFlags)
	case v != V5 && c.Code > 5, v == V5 && strings.IndexByte(connAckReasons, c.Code) < 0:
		r.fail(errConnAckCode)
	case c.SessionPresent && c.Code != 0:
		r.fail(errSessionFlag)
	}
	c.Properties, _ = r.properties(CONNACK)
	return r.done()
}

// Append appends c as a CONNACK packet of version v; before MQTT 5 without its properties.
func (c *ConnAck) Append(dst []byte, v Version) []byte {
	if v != V5 {
		return AppendConnAck(dst, v, c.SessionPresent, c.Code)
	}
	var flags byte
	if c.SessionPresent {
		flags = 1
	}
	n := 2 + VarintLen(len(c.Properties)) + len(c.Properties)
	dst = AppendVarint(append(dst, byte(CONNACK)<<4), n)
	return appendBlock(append(dst, flags, c.Code), v, c.Properties)
}

// AppendConnAck appends a CONNACK packet, in MQTT 5 one without properties.
func AppendConnAck(dst []byte, v Version, sessionPresent bool, code byte) []byte {
	var flags byte
	if sessionPresent {
		flags = 1
	}
	if v == V5 {
		return append(dst, byte(CONNACK)<<4, 3, flags, code, 0)
	}
	return append(dst, byte(CONNACK)<<4, 2, flags, code)
}
