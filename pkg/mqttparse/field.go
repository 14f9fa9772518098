package mqttparse

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// MaxField is the longest string or binary field, in bytes: its length prefix has two.
const MaxField = 1<<16 - 1

// cursor reads fields from the front of a packet's body. The first defect sticks:
// later reads return zero values.
type cursor struct {
	rest []byte
	v    Version
	err  *Error
}

func (c *cursor) fail(r *refusal) {
	if c.err == nil {
		c.err = r.at(c.v)
	}
	c.rest = nil
}

// result turns the sticky defect into an error, which is nil if there is none.
func (c *cursor) result() error {
	if c.err != nil {
		return c.err
	}
	return nil
}

// done is result, and refuses bytes that are left over.
func (c *cursor) done() error {
	if len(c.rest) != 0 {
		c.fail(errTrailing)
	}
	return c.result()
}

func (c *cursor) u8() byte {
	if len(c.rest) < 1 {
		c.fail(errShort)
		return 0
	}
	v := c.rest[0]
	c.rest = c.rest[1:]
	return v
}

func (c *cursor) u16() uint16 {
	if len(c.rest) < 2 {
		c.fail(errShort)
		return 0
	}
	v := binary.BigEndian.Uint16(c.rest)
	c.rest = c.rest[2:]
	return v
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.fail(errShort)
		return nil
	}
	v := c.rest[:n:n]
	c.rest = c.rest[n:]
	return v
}

// binary reads a field with a two-byte length.
func (c *cursor) binary() []byte { return c.take(int(c.u16())) }

// text reads a UTF-8 string with a two-byte length.
func (c *cursor) text() []byte {
	b := c.binary()
	if r := checkText(b); r != nil {
		c.fail(r)
	}
	return b
}

// block reads the length of a property block and the block, without looking inside.
func (c *cursor) block() []byte {
	n, size := Varint(c.rest)
	switch {
	case size < 0:
		c.fail(errVarint)
		return nil
	case size == 0:
		c.fail(errShort)
		return nil
	}
	c.rest = c.rest[size:]
	return c.take(n)
}

// properties reads and validates packet t's property block; before MQTT 5 there is none.
func (c *cursor) properties(t Type) (block []byte, found properties) {
	if c.v != V5 {
		return nil, found
	}
	block = c.block()
	if c.err == nil {
		found, c.err = scanProperties(t, block)
	}
	return block, found
}

// checkText holds a UTF-8 Encoded String to MQTT-1.5.3-1 and -2 (MQTT 5: 1.5.4).
// Control characters other than U+0000 pass: the standard only advises against them, and brokers accept them.
func checkText(b []byte) *refusal {
	if ascii(b) {
		return nil
	}
	if !utf8.Valid(b) {
		return errUTF8
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return errNUL
	}
	return nil
}

// validText reports whether checkText finds nothing.
func validText(b []byte) bool { return ascii(b) || checkText(b) == nil }

// checkName holds a topic name to section 4.7, but for its length.
func checkName(b []byte) *refusal {
	if plain(b) {
		return nil
	}
	if r := checkText(b); r != nil {
		return r
	}
	if bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0 {
		return errTopicWild
	}
	return nil
}

const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// plain reports that b is all ASCII without U+0000, '+' and '#', the common case of a
// topic name, looking at eight bytes at once. When false, the slow checks decide.
func plain(b []byte) bool {
	if len(b) < 8 {
		return plainWord(shortWord(b))
	}
	last := binary.LittleEndian.Uint64(b[len(b)-8:]) // some of it perhaps for the second time
	for len(b) > 8 {
		if !plainWord(binary.LittleEndian.Uint64(b)) {
			return false
		}
		b = b[8:]
	}
	return plainWord(last)
}

// plainWord is plain for the eight bytes of w.
func plainWord(w uint64) bool {
	plus, hash := w^'+'*ones, w^'#'*ones
	// x-ones sets the top bit of the lowest zero byte of x, &^x clears it for bytes that had theirs set.
	return (w|(w-ones)|(plus-ones)&^plus|(hash-ones)&^hash)&tops == 0
}

// ascii is plain for text in which '+' and '#' are nothing special.
func ascii(b []byte) bool {
	if len(b) < 8 {
		w := shortWord(b)
		return (w|(w-ones))&tops == 0
	}
	w := binary.LittleEndian.Uint64(b[len(b)-8:])
	found := w | (w - ones)
	for len(b) > 8 {
		w = binary.LittleEndian.Uint64(b)
		found |= w | (w - ones)
		b = b[8:]
	}
	return found&tops == 0
}

// shortWord fills a word with the bytes of b, fewer than eight, some of them twice, and with letters.
func shortWord(b []byte) uint64 {
	const letters = 0x6161616161616161
	switch n := len(b); {
	case n >= 4:
		return uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<32
	case n > 0:
		return letters&^0xffffff | uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16
	}
	return letters
}
