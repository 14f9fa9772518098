package rewrite

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Packet is an IP packet that carries a TCP segment, and no fragment of one.
type Packet struct {
	tcp []byte // header and data: a view, as of Parse

	Src, Dst netip.AddrPort
	TTL      uint8 // or hop limit
	Class    uint8 // DSCP in the upper six bits; ECN is not passed on
	Segment  Segment
}

// Errors of Parse. None of such packets belongs to a connection that can be carried.
var (
	ErrNotTCP   = errors.New("not a TCP packet")
	ErrCut      = errors.New("the packet is shorter than its headers say")
	ErrFragment = errors.New("a fragment")
	ErrOptions  = errors.New("TCP options that make no sense")
	ErrSigned   = errors.New("the connection is signed (RFC 2385, RFC 5925): nothing in it can be changed")
)

const (
	protoTCP    = 6
	ipv4Header  = 20
	ipv6Header  = 40
	tcpHeader   = 20
	maxExtended = 6 // IPv6 extension headers
)

// Parse reads an IPv4 or IPv6 packet into p. p.Segment.Data is a view into b. Checksums are not looked at: the kernel
// may not have computed them yet.
func Parse(b []byte, p *Packet) error {
	*p = Packet{}
	if len(b) == 0 {
		return ErrCut
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b, p)
	case 6:
		return parse6(b, p)
	}
	return ErrNotTCP
}

func parse4(b []byte, p *Packet) error {
	if len(b) < ipv4Header {
		return ErrCut
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case head < ipv4Header || total < head || total > len(b):
		return ErrCut
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		return ErrFragment
	case b[9] != protoTCP:
		return ErrNotTCP
	}
	p.TTL, p.Class = b[8], b[1]&^3
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	return p.parseTCP(src, dst, b[head:total])
}

func parse6(b []byte, p *Packet) error {
	if len(b) < ipv6Header {
		return ErrCut
	}
	total := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return ErrCut
	}
	p.TTL, p.Class = b[7], (b[0]<<4|b[1]>>4)&^3
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, rest := b[6], b[ipv6Header:total]
	for range maxExtended {
		const hopByHop, routing, fragment, destination = 0, 43, 44, 60
		switch next {
		case protoTCP:
			return p.parseTCP(src, dst, rest)
		case fragment:
			return ErrFragment
		case hopByHop, routing, destination:
		default:
			return ErrNotTCP
		}
		if len(rest) < 8 || len(rest) < 8+8*int(rest[1]) {
			return ErrCut
		}
		next, rest = rest[0], rest[8+8*int(rest[1]):]
	}
	return ErrNotTCP
}

func (p *Packet) parseTCP(src, dst netip.Addr, b []byte) error {
	if len(b) < tcpHeader {
		return ErrCut
	}
	head := int(b[12]>>4) * 4
	if head < tcpHeader || head > len(b) {
		return ErrCut
	}
	p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	s := &p.Segment
	s.Seq, s.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	s.Flags, s.Window = b[13]&(FIN|SYN|RST|PSH|ACK), binary.BigEndian.Uint16(b[14:])
	p.tcp = b
	s.Data, s.WindowScale = b[head:], -1
	if err := s.parseOptions(b[tcpHeader:head]); err != nil {
		return err
	}
	if s.has(SYN) {
		s.SACKs, s.SACK = 0, [MaxSACK][2]uint32{}
	} else {
		s.MSS, s.WindowScale, s.SACKAllowed = 0, -1, false // they mean nothing here
	}
	return nil
}

// Kinds of TCP options.
const (
	optEnd, optNop, optMSS, optScale, optAllowed, optSACK, optStamps = 0, 1, 2, 3, 4, 5, 8
	optMD5, optAO                                                    = 19, 29
)

func (s *Segment) parseOptions(b []byte) error {
	for len(b) > 0 {
		kind := b[0]
		if kind == optEnd {
			return nil
		}
		if kind == optNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || int(b[1]) < 2 || int(b[1]) > len(b) {
			return ErrOptions
		}
		if err := s.option(kind, b[2:b[1]]); err != nil {
			return err
		}
		b = b[b[1]:]
	}
	return nil
}

func (s *Segment) option(kind byte, v []byte) error {
	switch {
	case kind == optMSS && len(v) == 2:
		s.MSS = binary.BigEndian.Uint16(v)
	case kind == optScale && len(v) == 1:
		s.WindowScale = int8(min(v[0], 14))
	case kind == optAllowed && len(v) == 0:
		s.SACKAllowed = true
	case kind == optStamps && len(v) == 8:
		s.Timestamps, s.TSVal, s.TSEcr = true, binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])
	case kind == optSACK && len(v)%8 == 0:
		for ; len(v) > 0 && s.SACKs < MaxSACK; v = v[8:] {
			s.SACK[s.SACKs] = [2]uint32{binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])}
			s.SACKs++
		}
	case kind == optMD5 || kind == optAO:
		return ErrSigned
	case kind <= optSACK || kind == optStamps:
		return ErrOptions
	}
	return nil
}

// Intact reports whether the segment's checksum was right in the packet that Parse has read into p, whose bytes are still there. Parse itself
// does not look: the kernel knows which checksums it has verified, or not computed yet.
func (p *Packet) Intact() bool { return fold(p.pseudo(len(p.tcp))+sum(p.tcp)) == 0xffff }

// pseudo is the sum of the pseudo header of a segment of so many bytes (RFC 9293, 3.1).
func (p *Packet) pseudo(size int) uint32 {
	if p.Src.Addr().Is4() {
		src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
		return sum(src[:]) + sum(dst[:]) + protoTCP + uint32(size)
	}
	src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
	return sum(src[:]) + sum(dst[:]) + protoTCP + uint32(size)
}

// Append appends p as an IP packet, with checksums. Both addresses must be of one family.
func (p *Packet) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, zeros[:p.header()]...)
	tcp := len(dst)
	dst = p.Segment.append(dst, p.Src.Port(), p.Dst.Port())
	size := len(dst) - tcp
	ip := dst[start:tcp]
	if p.Src.Addr().Is4() {
		ip[0], ip[1], ip[8], ip[9] = 0x45, p.Class, p.TTL, protoTCP
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+size))
		ip[6] = 0x40 // do not fragment
		copy(ip[12:], p.Src.Addr().AsSlice())
		copy(ip[16:], p.Dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	} else {
		ip[0], ip[1], ip[6], ip[7] = 0x60|p.Class>>4, p.Class<<4, protoTCP, p.TTL
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		copy(ip[8:], p.Src.Addr().AsSlice())
		copy(ip[24:], p.Dst.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(dst[tcp+16:], ^fold(p.pseudo(size)+sum(dst[tcp:])))
	return dst
}

var zeros [ipv6Header]byte

func (p *Packet) header() int {
	if p.Src.Addr().Is4() {
		return ipv4Header
	}
	return ipv6Header
}

// append appends the segment without its checksum.
func (s *Segment) append(dst []byte, from, to uint16) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, from)
	dst = binary.BigEndian.AppendUint16(dst, to)
	dst = binary.BigEndian.AppendUint32(dst, s.Seq)
	dst = binary.BigEndian.AppendUint32(dst, s.Ack)
	dst = append(dst, 0, s.Flags)
	dst = binary.BigEndian.AppendUint16(dst, s.Window)
	dst = append(dst, 0, 0, 0, 0)
	dst = s.appendOptions(dst)
	for (len(dst)-start)%4 != 0 {
		dst = append(dst, optEnd)
	}
	dst[start+12] = byte((len(dst) - start) / 4 << 4)
	return append(dst, s.Data...)
}

func (s *Segment) appendOptions(dst []byte) []byte {
	if s.MSS != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, optMSS, 4), s.MSS)
	}
	if s.WindowScale >= 0 {
		dst = append(dst, optNop, optScale, 3, byte(s.WindowScale))
	}
	if s.SACKAllowed {
		dst = append(dst, optNop, optNop, optAllowed, 2)
	}
	if s.Timestamps {
		dst = append(dst, optNop, optNop, optStamps, 10)
		dst = binary.BigEndian.AppendUint32(dst, s.TSVal)
		dst = binary.BigEndian.AppendUint32(dst, s.TSEcr)
	}
	if s.SACKs > 0 {
		dst = append(dst, optNop, optNop, optSACK, byte(2+8*s.SACKs))
		for _, b := range s.SACK[:s.SACKs] {
			dst = binary.BigEndian.AppendUint32(dst, b[0])
			dst = binary.BigEndian.AppendUint32(dst, b[1])
		}
	}
	return dst
}

// sum adds up b in words of 16 bits (RFC 1071).
func sum(b []byte) uint32 {
	var n uint64
	for ; len(b) >= 4; b = b[4:] {
		n += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		n += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		n += uint64(b[0]) << 8
	}
	for n>>16 != 0 {
		n = n>>16 + n&0xffff
	}
	return uint32(n)
}

func fold(n uint32) uint16 {
	for n>>16 != 0 {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
