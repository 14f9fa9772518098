package crypto

import "encoding/binary"

// The inner plaintext is the tail of an MQTT 5 PUBLISH: length of the properties as a
// variable byte integer (MQTT 5 1.5.5), properties, payload (spec 3). Padding may stand before it: bytes 80,
// then 00, which no length in its shortest form begins with (spec 3.1).

// MaxProps is the most bytes of properties that a variable byte integer can announce.
const MaxProps = 1<<28 - 1

// MaxPad is the largest multiple that inner plaintexts are padded to, in bytes (spec 3.1).
const MaxPad = 1 << 16

// minPadding is the shortest padding.
const minPadding = 2

// InnerLen is the length of the inner plaintext for so many bytes of properties and payload.
func InnerLen(props, payload int) int { return varintLen(props) + props + payload }

func varintLen(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

func appendVarint(dst []byte, n int) []byte {
	for n >= 1<<7 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// paddedLen is the length of an inner plaintext of n bytes with its padding to a multiple of pad; pad 0 is none.
func paddedLen(n, pad int) int {
	if pad == 0 {
		return n
	}
	n += minPadding
	return n + (pad-n%pad)%pad
}

// appendPadding appends n bytes of padding, 0 or at least minPadding.
func appendPadding(dst []byte, n int) []byte {
	if n == 0 {
		return dst
	}
	for range n - 1 {
		dst = append(dst, 0x80)
	}
	return append(dst, 0)
}

// unpad returns what follows the padding of b; b itself if there is none.
func unpad(b []byte) []byte {
	n := 0
	for n < len(b) && b[n] == 0x80 {
		n++
	}
	if n == 0 || n == len(b) || b[n] != 0 {
		return b
	}
	return b[n+1:]
}

// SplitName splits the inner plaintext of a hidden topic's message into the topic name and what [SplitInner] takes, both views
// into b (spec 17.3). Errors are [ErrInner].
func SplitName(b []byte) (name, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, ErrInner
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > len(b)-2 {
		return nil, nil, ErrInner
	}
	return b[2 : 2+n], b[2+n:], nil
}

// SplitInner splits an inner plaintext into properties (without their length) and
// payload, both views into b. Errors are [ErrInner].
func SplitInner(b []byte) (props, payload []byte, err error) {
	if len(b) > 0 && b[0] < 0x80 { // no padding, and a length of one byte, as mostly
		n := int(b[0])
		if n > len(b)-1 {
			return nil, nil, ErrInner
		}
		return b[1 : 1+n : 1+n], b[1+n:], nil
	}
	b = unpad(b)
	n := 0
	for i := 0; i < 4 && i < len(b); i++ {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 != 0 {
			continue
		}
		if i > 0 && b[i] == 0 || n > len(b)-i-1 {
			return nil, nil, ErrInner // longer form than needed, or properties that overrun
		}
		return b[i+1 : i+1+n : i+1+n], b[i+1+n:], nil
	}
	return nil, nil, ErrInner
}
