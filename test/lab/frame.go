package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Layer is a part of a crafted frame: a header that is given the bytes which follow it, and returns both.
type Layer func(inner []byte) []byte

// Frame puts layers together, outermost first: Frame(Eth(...), IPv4(...), TCP(...), Raw(payload)).
func Frame(layers ...Layer) []byte {
	var b []byte
	for _, l := range slices.Backward(layers) {
		b = l(b)
	}
	return b
}

// Raw is bytes as they are.
func Raw(b []byte) Layer {
	return func(inner []byte) []byte { return append(slices.Clone(b), inner...) }
}

// Cut keeps the first n bytes of what follows it.
func Cut(n int) Layer { return func(inner []byte) []byte { return inner[:min(n, len(inner))] } }

// Eth is an Ethernet header.
func Eth(dst, src net.HardwareAddr, proto uint16) Layer {
	return Raw(binary.BigEndian.AppendUint16(append(slices.Clone(dst), src...), proto))
}

// VLAN is the rest of a VLAN tag, whose type stands at the end of the layer before: tag control and the inner type.
func VLAN(id, proto uint16) Layer {
	return Raw(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), proto))
}

// IPHeader is what Layers of IPv4 and IPv6 say of a packet.
type IPHeader struct {
	Src, Dst string // addresses of the version's family
	Proto    byte   // of what follows; IPv6: the next header
	TTL      byte   // 0: 64
	Fragment uint16 // IPv4: flags and offset, the 16 bits as they are
	ID       uint16 // IPv4: what a packet's fragments have in common
	Options  []byte // IPv4: a multiple of four bytes
}

// IPv4 is a header with lengths and checksum right.
func IPv4(o IPHeader) Layer {
	return func(inner []byte) []byte {
		h := []byte{0x45 + byte(len(o.Options)/4), 0, 0, 0, byte(o.ID >> 8), byte(o.ID), 0, 0, o.ttl(), o.Proto, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(o.Options)+len(inner)))
		binary.BigEndian.PutUint16(h[6:], o.Fragment)
		h = append(append(h, netip.MustParseAddr(o.Src).AsSlice()...), netip.MustParseAddr(o.Dst).AsSlice()...)
		h = append(h, o.Options...)
		binary.BigEndian.PutUint16(h[10:], internetChecksum(0, h))
		return append(h, inner...)
	}
}

// IPv6 is a header with its length right.
func IPv6(o IPHeader) Layer {
	return func(inner []byte) []byte {
		h := []byte{0x60, 0, 0, 0, 0, 0, o.Proto, o.ttl()}
		binary.BigEndian.PutUint16(h[4:], uint16(len(inner)))
		h = append(append(h, netip.MustParseAddr(o.Src).AsSlice()...), netip.MustParseAddr(o.Dst).AsSlice()...)
		return append(h, inner...)
	}
}

func (o IPHeader) ttl() byte {
	if o.TTL == 0 {
		return 64
	}
	return o.TTL
}

// DstOpts is n IPv6 destination options headers of 8 bytes, each filled with one PadN option, in front of next.
func DstOpts(n int, next byte) Layer {
	return func(inner []byte) []byte {
		follows := next
		for range n {
			inner, follows = append([]byte{follows, 0, 1, 4, 0, 0, 0, 0}, inner...), unix.IPPROTO_DSTOPTS
		}
		return inner
	}
}

// FragmentHeader is that of IPv6; offset is in bytes, a multiple of 8, and id what a packet's fragments have in common.
func FragmentHeader(next byte, offset uint16, more bool, id uint16) Layer {
	field := offset &^ 7
	if more {
		field |= 1
	}
	return Raw([]byte{next, 0, byte(field >> 8), byte(field), 0, 0, byte(id >> 8), byte(id)})
}

// The bits of TCPHeader.Flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// TCPHeader is what a Layer of TCP says of a segment.
type TCPHeader struct {
	Src, Dst         string // addresses, for the checksum
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            byte
	Urgent           uint16
	Options          []byte // a multiple of four bytes
	Offset           byte   // 0: what is right, in words of four bytes
	Spoilt           bool   // the checksum is wrong
}

// TCP is a header with its checksum right unless spoilt.
func TCP(o TCPHeader) Layer {
	return func(inner []byte) []byte {
		h := make([]byte, 20, 20+len(o.Options)+len(inner))
		binary.BigEndian.PutUint16(h, o.SrcPort)
		binary.BigEndian.PutUint16(h[2:], o.DstPort)
		binary.BigEndian.PutUint32(h[4:], o.Seq)
		binary.BigEndian.PutUint32(h[8:], o.Ack)
		h[12], h[13] = (5+byte(len(o.Options)/4))<<4, o.Flags
		if o.Offset != 0 {
			h[12] = o.Offset << 4
		}
		binary.BigEndian.PutUint16(h[14:], 65000)
		binary.BigEndian.PutUint16(h[18:], o.Urgent)
		h = append(append(h, o.Options...), inner...)
		pseudo := append(netip.MustParseAddr(o.Src).AsSlice(), netip.MustParseAddr(o.Dst).AsSlice()...)
		pseudo = append(pseudo, 0, unix.IPPROTO_TCP, byte(len(h)>>8), byte(len(h)))
		sum := internetChecksum(sumWords(0, pseudo), h)
		if o.Spoilt {
			sum ^= 0x5555
		}
		binary.BigEndian.PutUint16(h[16:], sum)
		return h
	}
}

func sumWords(start uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	return start
}

// internetChecksum is that of RFC 1071.
func internetChecksum(start uint32, b []byte) uint16 {
	s := sumWords(start, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// Send puts frames on an interface's wire as they are.
func (ns *Namespace) Send(t T, ifname string, frames ...[]byte) {
	t.Helper()
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
				return fmt.Errorf("send %x: %w", f, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("send frames from namespace %s: %v", ns.Name, err)
	}
}

// MAC returns an interface's Ethernet address.
func (ns *Namespace) MAC(t T, ifname string) (mac net.HardwareAddr) {
	t.Helper()
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err == nil {
			mac = slices.Clone(ifi.HardwareAddr)
		}
		return err
	})
	if err != nil {
		t.Fatalf("read the address of %s in namespace %s: %v", ifname, ns.Name, err)
	}
	return mac
}
