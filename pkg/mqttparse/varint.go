package mqttparse

// MaxVarint is the largest Variable Byte Integer, and so the largest Remaining Length.
const MaxVarint = 1<<28 - 1

// VarintLen is the number of bytes that [AppendVarint] appends for n.
func VarintLen(n int) int {
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

// AppendVarint appends n as a Variable Byte Integer in its shortest form, MQTT 5
// section 1.5.5. n must lie in 0..[MaxVarint].
func AppendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// Varint reads a Variable Byte Integer at the front of b and returns it with the
// number of bytes it takes. n is 0 when b ends inside the integer, and -1
// when the integer is not in its shortest form or goes on after four bytes
// (MQTT-2.2.3-1 in 3.1.1's section 2.2.3; MQTT-1.5.5-1 in 5).
func Varint(b []byte) (v, n int) {
	for i, c := range b {
		v |= int(c&0x7f) << (7 * i)
		switch {
		case c >= 0x80 && i == 3:
			return 0, -1
		case c >= 0x80:
			continue
		case c == 0 && i > 0:
			return 0, -1
		}
		return v, i + 1
	}
	return 0, 0
}
