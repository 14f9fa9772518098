package session

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Properties are the properties of a PUBLISH that describe its content [MQTT 5 3.3.2.3]. In a sealed message they are part
// of what is encrypted and authenticated.
type Properties struct {
	PayloadFormat   byte   // 0: unspecified bytes, 1: UTF-8 text
	ContentType     string // empty: none
	ResponseTopic   string // empty: none
	CorrelationData []byte // nil: none
	User            []UserProperty
}

// UserProperty is a name with a value. A name may appear more than once, and the order is kept.
type UserProperty struct{ Name, Value string }

// Empty reports whether no property is set.
func (p *Properties) Empty() bool {
	return p.PayloadFormat == 0 && p.ContentType == "" && p.ResponseTopic == "" && p.CorrelationData == nil && len(p.User) == 0
}

// Identifiers of the properties that describe content [MQTT 5 2.2.2.2].
const (
	idPayloadFormat   = 0x01
	idContentType     = 0x03
	idResponseTopic   = 0x08
	idCorrelationData = 0x09
	idUser            = 0x26
)

// maxField is the longest string or binary value, in bytes [MQTT 5 1.5.4].
const maxField = 1<<16 - 1

// AppendTo appends the properties as MQTT 5 encodes them, without the length in front. It refuses values that have no encoding.
func (p *Properties) AppendTo(dst []byte) ([]byte, error) {
	if p.PayloadFormat > 1 {
		return nil, errors.New("the payload format is 0 for bytes or 1 for UTF-8 [MQTT 5 3.3.2.3.2]")
	}
	if p.PayloadFormat == 1 {
		dst = append(dst, idPayloadFormat, 1)
	}
	for _, t := range []struct {
		id    byte
		what  string
		value string
	}{{idContentType, "content type", p.ContentType}, {idResponseTopic, "response topic", p.ResponseTopic}} {
		if t.value == "" {
			continue
		}
		if !validText(t.value) {
			return nil, errors.New("the " + t.what + " is not UTF-8 text of at most 65535 bytes without U+0000 [MQTT-1.5.4-1]")
		}
		dst = appendField(append(dst, t.id), t.value)
	}
	if p.CorrelationData != nil {
		if len(p.CorrelationData) > maxField {
			return nil, errors.New("correlation data has at most 65535 bytes [MQTT 5 1.5.6]")
		}
		dst = appendField(append(dst, idCorrelationData), string(p.CorrelationData))
	}
	for _, u := range p.User {
		if !validText(u.Name) || !validText(u.Value) {
			return nil, errors.New("a user property is not UTF-8 text of at most 65535 bytes without U+0000 [MQTT-1.5.4-1]")
		}
		dst = appendField(appendField(append(dst, idUser), u.Name), u.Value)
	}
	return dst, nil
}

func appendField(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func validText(s string) bool {
	if len(s) > maxField || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] == 0 {
			return false
		}
	}
	return true
}

var errProperties = errors.New("not a block of properties that describe content [MQTT 5 3.3.2.3]")

// ParseProperties reads what AppendTo writes, in any order. Anything else in it is an error: other properties, one that may
// not be repeated twice, a string that is not UTF-8.
func ParseProperties(b []byte) (p Properties, err error) {
	var seen [idUser + 1]bool
	for len(b) > 0 {
		id := b[0]
		if b = b[1:]; id > idUser || seen[id] && id != idUser {
			return Properties{}, errProperties
		}
		seen[id] = true
		if b, err = p.take(id, b); err != nil {
			return Properties{}, err
		}
	}
	return p, nil
}

// take reads the value of property id at the front of b and returns the rest.
func (p *Properties) take(id byte, b []byte) (rest []byte, err error) {
	if id == idPayloadFormat {
		if len(b) == 0 || b[0] > 1 {
			return nil, errProperties
		}
		p.PayloadFormat = b[0]
		return b[1:], nil
	}
	value, rest, ok := cutField(b)
	switch {
	case !ok, id != idCorrelationData && !validText(value):
		return nil, errProperties
	case id == idContentType:
		p.ContentType = value
	case id == idResponseTopic:
		p.ResponseTopic = value
	case id == idCorrelationData:
		p.CorrelationData = append([]byte{}, value...)
	case id == idUser:
		u := UserProperty{Name: value}
		if u.Value, rest, ok = cutField(rest); !ok || !validText(u.Value) {
			return nil, errProperties
		}
		p.User = append(p.User, u)
	default:
		return nil, errProperties
	}
	return rest, nil
}

// cutField takes a value with its length in two bytes off the front of b.
func cutField(b []byte) (value string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if n > len(b) {
		return "", nil, false
	}
	return string(b[2:n]), b[n:], true
}
