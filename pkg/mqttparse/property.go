package mqttparse

import (
	"bytes"
	"encoding/binary"
)

// Property identifiers, MQTT 5 table 2-4.
const (
	PropPayloadFormat        = 0x01
	PropMessageExpiry        = 0x02
	PropContentType          = 0x03
	PropResponseTopic        = 0x08
	PropCorrelationData      = 0x09
	PropSubscriptionID       = 0x0b
	PropSessionExpiry        = 0x11
	PropAssignedClientID     = 0x12
	PropServerKeepAlive      = 0x13
	PropAuthMethod           = 0x15
	PropAuthData             = 0x16
	PropRequestProblemInfo   = 0x17
	PropWillDelay            = 0x18
	PropRequestResponseInfo  = 0x19
	PropResponseInfo         = 0x1a
	PropServerReference      = 0x1c
	PropReasonString         = 0x1f
	PropReceiveMaximum       = 0x21
	PropTopicAliasMaximum    = 0x22
	PropTopicAlias           = 0x23
	PropMaximumQoS           = 0x24
	PropRetainAvailable      = 0x25
	PropUserProperty         = 0x26
	PropMaximumPacketSize    = 0x27
	PropWildcardSubAvailable = 0x28
	PropSubIDAvailable       = 0x29
	PropSharedSubAvailable   = 0x2a
)

// kind is a property's data type, MQTT 5 section 2.2.2.2.
type kind byte

const (
	kindNone   kind = iota // no such property
	kindBool               // one byte, 0 or 1
	kindU16                // Two Byte Integer
	kindU32                // Four Byte Integer
	kindVarint             // Variable Byte Integer
	kindText               // UTF-8 Encoded String
	kindBinary             // Binary Data
	kindPair               // UTF-8 String Pair
)

// placement is a set of packet types, one bit each.
type placement uint16

const (
	inWill        placement = 1 << WILL
	inConnect     placement = 1 << CONNECT
	inConnAck     placement = 1 << CONNACK
	inPublish     placement = 1 << PUBLISH
	inSubscribe   placement = 1 << SUBSCRIBE
	inUnsubscribe placement = 1 << UNSUBSCRIBE
	inDisconnect  placement = 1 << DISCONNECT
	inAuth        placement = 1 << AUTH
	inAcks        placement = 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBACK | 1<<UNSUBACK
	inMessage               = inPublish | inWill
	inHandshake             = inConnect | inConnAck
	anywhere                = inMessage | inHandshake | inSubscribe | inUnsubscribe | inDisconnect | inAuth | inAcks
)

type property struct {
	kind    kind
	in      placement
	nonzero bool // 0 is a protocol error
}

// table is MQTT 5 table 2-4. It is never written.
var table = [...]property{
	PropPayloadFormat:        {kind: kindBool, in: inMessage},
	PropMessageExpiry:        {kind: kindU32, in: inMessage},
	PropContentType:          {kind: kindText, in: inMessage},
	PropResponseTopic:        {kind: kindText, in: inMessage},
	PropCorrelationData:      {kind: kindBinary, in: inMessage},
	PropSubscriptionID:       {kind: kindVarint, in: inPublish | inSubscribe, nonzero: true},
	PropSessionExpiry:        {kind: kindU32, in: inHandshake | inDisconnect},
	PropAssignedClientID:     {kind: kindText, in: inConnAck},
	PropServerKeepAlive:      {kind: kindU16, in: inConnAck},
	PropAuthMethod:           {kind: kindText, in: inHandshake | inAuth},
	PropAuthData:             {kind: kindBinary, in: inHandshake | inAuth},
	PropRequestProblemInfo:   {kind: kindBool, in: inConnect},
	PropWillDelay:            {kind: kindU32, in: inWill},
	PropRequestResponseInfo:  {kind: kindBool, in: inConnect},
	PropResponseInfo:         {kind: kindText, in: inConnAck},
	PropServerReference:      {kind: kindText, in: inConnAck | inDisconnect},
	PropReasonString:         {kind: kindText, in: inConnAck | inAcks | inDisconnect | inAuth},
	PropReceiveMaximum:       {kind: kindU16, in: inHandshake, nonzero: true},
	PropTopicAliasMaximum:    {kind: kindU16, in: inHandshake},
	PropTopicAlias:           {kind: kindU16, in: inPublish, nonzero: true},
	PropMaximumQoS:           {kind: kindBool, in: inConnAck},
	PropRetainAvailable:      {kind: kindBool, in: inConnAck},
	PropUserProperty:         {kind: kindPair, in: anywhere},
	PropMaximumPacketSize:    {kind: kindU32, in: inHandshake, nonzero: true},
	PropWildcardSubAvailable: {kind: kindBool, in: inConnAck},
	PropSubIDAvailable:       {kind: kindBool, in: inConnAck},
	PropSharedSubAvailable:   {kind: kindBool, in: inConnAck},
}

func lookup(id byte) property {
	if int(id) < len(table) {
		return table[id]
	}
	return property{}
}

// PropertyIter walks a property block:
//
//	for it := mqttparse.Properties(block); it.Next(); {
//		dst = append(dst, it.Raw()...)
//	}
//
// It checks that identifiers are known and that lengths fit, no more; [ValidateProperties]
// and the parse functions check the rest. Everything it returns is a view.
type PropertyIter struct {
	rest, raw []byte
	err       *Error
}

// Properties starts a walk over a property block without its length.
func Properties(b []byte) PropertyIter { return PropertyIter{rest: b} }

// Next moves on to the next property. It returns false at the end of the block and
// at the first defect, which Err then reports.
func (it *PropertyIter) Next() bool {
	it.raw = nil
	if len(it.rest) == 0 || it.err != nil {
		return false
	}
	n, r := propertyLen(it.rest)
	if r != nil {
		it.err = r.at(V5)
		return false
	}
	it.raw, it.rest = it.rest[:n:n], it.rest[n:]
	return true
}

// propertyLen is the length of the property at the front of b, identifier included.
func propertyLen(b []byte) (n int, r *refusal) {
	switch lookup(b[0]).kind {
	case kindBool:
		n = 2
	case kindU16:
		n = 3
	case kindU32:
		n = 5
	case kindVarint:
		_, width := Varint(b[1:])
		switch {
		case width < 0:
			return 0, errVarint
		case width == 0:
			return 0, errPropShort
		}
		n = 1 + width
	case kindText, kindBinary:
		n = fieldEnd(b, 1)
	case kindPair:
		n = fieldEnd(b, fieldEnd(b, 1))
	default:
		return 0, errPropUnknown
	}
	if n > len(b) {
		return 0, errPropShort
	}
	return n, nil
}

// fieldEnd is where the length-prefixed field at b[at:] ends: beyond b if it is cut off.
func fieldEnd(b []byte, at int) int {
	if at+2 > len(b) {
		return len(b) + 1
	}
	return at + 2 + int(binary.BigEndian.Uint16(b[at:]))
}

// ID is the current property's identifier, one of the Prop constants.
func (it *PropertyIter) ID() byte {
	if len(it.raw) == 0 {
		return 0
	}
	return it.raw[0]
}

// Raw is the current property as encoded, identifier and value.
func (it *PropertyIter) Raw() []byte { return it.raw }

// Value is the current property's value: the text or binary data without its length, and
// for integers and string pairs all the bytes after the identifier.
func (it *PropertyIter) Value() []byte {
	if len(it.raw) == 0 {
		return nil
	}
	switch lookup(it.raw[0]).kind {
	case kindText, kindBinary:
		return it.raw[3:]
	}
	return it.raw[1:]
}

// Uint is the current property's value if that is an integer of any width, otherwise 0.
func (it *PropertyIter) Uint() uint32 {
	if len(it.raw) == 0 {
		return 0
	}
	value := it.raw[1:]
	switch lookup(it.raw[0]).kind {
	case kindBool:
		return uint32(value[0])
	case kindU16:
		return uint32(binary.BigEndian.Uint16(value))
	case kindU32:
		return binary.BigEndian.Uint32(value)
	case kindVarint:
		v, _ := Varint(value)
		return uint32(v)
	}
	return 0
}

// Pair is the current user property's name and value; nil for any other property.
func (it *PropertyIter) Pair() (key, value []byte) {
	if it.ID() != PropUserProperty {
		return nil, nil
	}
	end := fieldEnd(it.raw, 1)
	return it.raw[3:end:end], it.raw[end+2:]
}

// Err is the defect that ended the walk, an [*Error], or nil.
func (it *PropertyIter) Err() error {
	if it.err != nil {
		return it.err
	}
	return nil
}

// properties is what a validated block holds, as far as the parsers ask.
type properties struct {
	seen  uint64 // one bit for each identifier
	alias uint16
	runs  runs
}

func (p properties) has(id byte) bool { return p.seen>>id&1 != 0 }

// contentProps are the properties that describe a message's content, one bit for each identifier. A server
// passes them on unaltered (MQTT-3.3.2-4, -15, -16, -17 and -20) and has no use for them.
const contentProps uint64 = 1<<PropPayloadFormat | 1<<PropContentType | 1<<PropResponseTopic | 1<<PropCorrelationData | 1<<PropUserProperty

// DescribesContent reports whether id is of a property that describes a message's content, which a server passes on
// unaltered: payload format indicator, content type, response topic, correlation data, user property.
func DescribesContent(id byte) bool { return contentProps>>id&1 != 0 }

// runs are where a block changes between properties that describe the content and others.
type runs struct {
	at    [3]uint32 // where each begins
	n     uint8     // how many; len(at)+1: more than fit
	other bool      // the first is of others
}

// add notes a run of properties that begins at b[at:].
func (r *runs) add(at int, content bool) {
	switch {
	case r.n == 0:
		r.other = !content
	case content == ((r.n&1 == 0) == r.other): // as the run before
		return
	}
	if int(r.n) < len(r.at) {
		r.at[r.n] = uint32(at)
		r.n++
	} else {
		r.n = uint8(len(r.at)) + 1
	}
}

// split sorts block, whose runs r are: views where each kind stands together, as it mostly does; otherwise what does not is appended
// to scratch.
func (r *runs) split(block, scratch []byte) (content, rest, used []byte) {
	first, second := block, block[len(block):]
	switch r.n {
	case 0:
		return nil, nil, scratch
	case 1:
	case 2:
		first, second = block[:r.at[1]:r.at[1]], block[r.at[1]:]
	case 3:
		scratch = append(append(scratch, block[:r.at[1]]...), block[r.at[2]:]...)
		first, second = scratch, block[r.at[1]:r.at[2]:r.at[2]]
	default:
		scratch = appendKind(scratch, block, !r.other)
		n := len(scratch)
		scratch = appendKind(scratch, block, r.other)
		first, second = scratch[:n:n], scratch[n:]
	}
	if r.other {
		return second, first, scratch
	}
	return first, second, scratch
}

// appendKind appends those properties of a valid block that describe the content, or the others.
func appendKind(dst, block []byte, content bool) []byte {
	for it := Properties(block); it.Next(); {
		if DescribesContent(it.ID()) == content {
			dst = append(dst, it.Raw()...)
		}
	}
	return dst
}

// SplitProperties sorts a valid property block: it appends those that describe the content to content, the others to
// rest, both in their order.
func SplitProperties(block, content, rest []byte) (c, o []byte) {
	return appendKind(content, block, true), appendKind(rest, block, false)
}

// ValidateProperties checks the property block b, without its length, of a packet of type t, or of
// a will with [WILL]: identifiers known, allowed there and not repeated, strings
// well-formed, values within what the standard allows. The error is always an [*Error].
func ValidateProperties(t Type, b []byte) error {
	if _, err := scanProperties(t, b); err != nil {
		return err
	}
	return nil
}

// ContentOnly reports whether b, without its length, is a valid property block of PUBLISH in which all properties
// describe the content; see [DescribesContent].
func ContentOnly(b []byte) bool {
	var found properties
	return found.scanPublish(b) == nil && found.seen&^contentProps == 0
}

// scanProperties judges the property block of a packet of type t, looking at each property once.
func scanProperties(t Type, b []byte) (found properties, err *Error) {
	if len(b) == 0 && t != AUTH {
		return found, nil
	}
	for at := 0; at < len(b); {
		rest := b[at:]
		n, r := propertyLen(rest)
		if r == nil {
			r = found.place(t, rest[0])
		}
		if r == nil {
			r = checkValue(rest[:n])
		}
		if r != nil {
			return found, r.at(V5)
		}
		if t == PUBLISH {
			found.runs.add(at, DescribesContent(rest[0]))
			if rest[0] == PropTopicAlias {
				found.alias = binary.BigEndian.Uint16(rest[1:])
			}
		}
		at += n
	}
	switch {
	case t == AUTH && !found.has(PropAuthMethod):
		return found, errAuthMethod.at(V5)
	case t == CONNECT && found.has(PropAuthData) && !found.has(PropAuthMethod):
		return found, errAuthData.at(V5)
	}
	return found, nil
}

// scanPublish is scanProperties for PUBLISH, on the way of every message with properties.
func (p *properties) scanPublish(b []byte) (err *Error) {
	if p.scanValid(b) {
		return nil
	}
	*p, err = scanProperties(PUBLISH, b)
	return err
}

// repeatable are the properties that a PUBLISH may hold more than once, one bit for each identifier.
const repeatable uint64 = 1<<PropUserProperty | 1<<PropSubscriptionID

// scanValid finds what scanProperties finds in the block b of a PUBLISH if that is valid. It reports false if not: scanProperties says why.
func (p *properties) scanValid(b []byte) bool {
	p.alias, p.runs.n = 0, 0
	seen, last := uint64(0), false // last: the property before is of the content
	for rest := b; len(rest) > 0; {
		n, id := 0, rest[0]
		switch id {
		case PropUserProperty:
			key := fieldEnd(rest, 1)
			n = fieldEnd(rest, key)
			if n > len(rest) || !validText(rest[3:key]) || !validText(rest[key+2:n]) {
				return false
			}
		case PropContentType:
			if n = fieldEnd(rest, 1); n > len(rest) || !validText(rest[3:n]) {
				return false
			}
		case PropResponseTopic:
			if n = fieldEnd(rest, 1); n > len(rest) || checkName(rest[3:n]) != nil {
				return false
			}
		case PropCorrelationData:
			n = fieldEnd(rest, 1)
		case PropPayloadFormat:
			if n = 2; len(rest) < n || rest[1] > 1 {
				return false
			}
		case PropMessageExpiry:
			n = 5
		case PropTopicAlias:
			if n = 3; len(rest) < n {
				return false
			}
			if p.alias = binary.BigEndian.Uint16(rest[1:]); p.alias == 0 {
				return false
			}
		case PropSubscriptionID:
			value, width := Varint(rest[1:])
			if width <= 0 || value == 0 {
				return false
			}
			n = 1 + width
		default:
			return false
		}
		bit := uint64(1) << (id & 63)
		if n > len(rest) || seen&bit&^repeatable != 0 {
			return false
		}
		if content := contentProps&bit != 0; content != last || seen == 0 {
			p.runs.add(len(b)-len(rest), content)
			last = content
		}
		seen |= bit
		rest = rest[n:]
	}
	p.seen = seen
	return true
}

// place notes that id was met in a packet of type t, if it may be there.
func (p *properties) place(t Type, id byte) *refusal {
	if table[id].in>>t&1 == 0 { // propertyLen knew id
		return errPropPlace
	}
	// Only these two may be repeated, and the latter in PUBLISH alone: section 3.8.2.1.2.
	if p.has(id) && id != PropUserProperty && (id != PropSubscriptionID || t != PUBLISH) {
		return errPropTwice
	}
	p.seen |= 1 << id
	return nil
}

// checkValue checks the value of the one property that raw is.
func checkValue(raw []byte) *refusal {
	id := raw[0]
	switch info := &table[id]; {
	case info.kind == kindText:
		r := checkText(raw[3:])
		if id == PropResponseTopic && r == nil && !plain(raw[3:]) && bytes.ContainsAny(raw[3:], "+#") {
			return errResponseWild
		}
		return r
	case info.kind == kindPair:
		end := fieldEnd(raw, 1)
		if r := checkText(raw[3:end]); r != nil {
			return r
		}
		return checkText(raw[end+2:])
	case info.kind == kindBool && raw[1] > 1:
		return errPropValue
	case info.nonzero && allZero(raw[1:]):
		if id == PropTopicAlias {
			return errAliasZero
		}
		return errPropValue
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
