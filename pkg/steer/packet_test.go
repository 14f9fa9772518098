package steer

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Frames are put together from layers, innermost last: frame(eth(...), ipv4(...), tcp(...)). A layer is given the bytes
// that follow it.
type layer func(inner []byte) []byte

func frame(layers ...layer) []byte {
	var b []byte
	for _, l := range slices.Backward(layers) {
		b = l(b)
	}
	return b
}

func raw(b []byte) layer {
	return func(inner []byte) []byte { return append(slices.Clone(b), inner...) }
}

// cut keeps the first n bytes of what follows it.
func cut(n int) layer { return func(inner []byte) []byte { return inner[:min(n, len(inner))] } }

func eth(dst, src []byte, proto uint16) layer {
	return raw(binary.BigEndian.AppendUint16(append(slices.Clone(dst), src...), proto))
}

func vlan(id, proto uint16) layer {
	return raw(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), proto))
}

// ipv4 makes a header; fragment is the 16-bit field of flags and offset.
func ipv4(src, dst string, proto byte, fragment uint16, options ...byte) layer {
	return func(inner []byte) []byte {
		h := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(options)+len(inner)))
		binary.BigEndian.PutUint16(h[6:], fragment)
		h = append(append(h, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
		h = append(h, options...)
		binary.BigEndian.PutUint16(h[10:], checksum(0, h))
		return append(h, inner...)
	}
}

func ipv6(src, dst string, next byte) layer {
	return func(inner []byte) []byte {
		h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
		binary.BigEndian.PutUint16(h[4:], uint16(len(inner)))
		h = append(append(h, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
		return append(h, inner...)
	}
}

// extension is an IPv6 destination options header of 8 bytes, filled with one PadN option.
func extension(next byte) layer { return raw([]byte{next, 0, 1, 4, 0, 0, 0, 0}) }

// extensions is n of them in front of next.
func extensions(n int, next byte) layer {
	return func(inner []byte) []byte {
		for range n {
			inner, next = extension(next)(inner), protoDstOpts
		}
		return inner
	}
}

func fragmentHeader(next byte, offset uint16, more bool) layer {
	field := offset &^ 7
	if more {
		field |= 1
	}
	return raw([]byte{next, 0, byte(field >> 8), byte(field), 1, 2, 3, 4})
}

const (
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoDstOpts  = 60

	flagFIN = 1
	flagSYN = 2
	flagACK = 16
)

// tcp makes a header with a right checksum over the pseudo header of src and dst.
func tcp(src, dst string, sport, dport uint16, flags byte) layer {
	return func(inner []byte) []byte {
		h := make([]byte, 20, 20+len(inner))
		binary.BigEndian.PutUint16(h, sport)
		binary.BigEndian.PutUint16(h[2:], dport)
		binary.BigEndian.PutUint32(h[4:], 1000)
		h[12], h[13] = 5<<4, flags
		binary.BigEndian.PutUint16(h[14:], 65000)
		h = append(h, inner...)
		pseudo := append(netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()...)
		pseudo = append(pseudo, 0, protoTCP, byte(len(h)>>8), byte(len(h)))
		binary.BigEndian.PutUint16(h[16:], checksum(sum(0, pseudo), h))
		return h
	}
}

func sum(start uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	return start
}

// checksum is the Internet checksum of RFC 1071.
func checksum(start uint32, b []byte) uint16 {
	s := sum(start, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
