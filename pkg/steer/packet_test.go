package steer

import "sealgate/test/lab"

// Short forms of the workbench's layers, so that a crafted frame fits on a line.
type layer = lab.Layer

func frame(layers ...layer) []byte { return lab.Frame(layers...) }
func raw(b []byte) layer           { return lab.Raw(b) }
func cut(n int) layer              { return lab.Cut(n) }
func vlan(id, proto uint16) layer  { return lab.VLAN(id, proto) }

func eth(dst, src []byte, proto uint16) layer { return lab.Eth(dst, src, proto) }

// ipv4 makes a header; fragment is the 16-bit field of flags and offset.
func ipv4(src, dst string, proto byte, fragment uint16, options ...byte) layer {
	return lab.IPv4(lab.IPHeader{Src: src, Dst: dst, Proto: proto, Fragment: fragment, Options: options})
}

func ipv6(src, dst string, next byte) layer {
	return lab.IPv6(lab.IPHeader{Src: src, Dst: dst, Proto: next})
}

func extensions(n int, next byte) layer { return lab.DstOpts(n, next) }

func fragmentHeader(next byte, offset uint16, more bool) layer {
	return lab.FragmentHeader(next, offset, more, 1)
}

func tcp(src, dst string, sport, dport uint16, flags byte) layer {
	return lab.TCP(lab.TCPHeader{Src: src, Dst: dst, SrcPort: sport, DstPort: dport, Seq: 1000, Flags: flags})
}

const (
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoDstOpts  = 60

	flagFIN = lab.FIN
	flagSYN = lab.SYN
	flagACK = lab.ACK
)
