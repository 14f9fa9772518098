package bypass

import (
	"encoding/binary"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// steered is the port that devices dial.
const steered = 1883

// aim is what a frame is made for.
type aim struct {
	dst, src net.HardwareAddr
	v6       bool
	from, to string // IP addresses
	port     uint16 // the device's
	seq, ack uint32 // where a connection is; of no meaning without one
	id       uint16 // of fragments
}

// shape is a way to carry a payload, which is a whole MQTT PUBLISH, to the steered port.
type shape struct {
	name   string
	family int  // 4 or 6; 0: both
	bridge bool // crosses an undefended bridge and no router: the router takes it for somebody else's
	stream bool // belongs to a connection
	frames func(a aim, payload []byte) [][]byte
}

// row is a shape in one family: a line of the matrix.
type row struct {
	*shape
	v6 bool
}

func (r row) String() string {
	if r.v6 {
		return "IPv6 " + r.name
	}
	return "IPv4 " + r.name
}

// rows lists all shapes in all their families, and last what devices' kernels do by themselves.
func rows() (all []row) {
	for _, v6 := range []bool{false, true} {
		for i := range shapes {
			s := &shapes[i]
			if s.family == 0 || s.family == 6 == v6 {
				all = append(all, row{s, v6})
			}
		}
	}
	return all
}

// ip puts inner into a packet of the aim's family, from device to broker.
func (a aim) ip(h lab.IPHeader, inner ...lab.Layer) lab.Layer {
	h.ID = a.id
	h.Src, h.Dst = a.from, a.to
	outer := lab.IPv4
	if a.v6 {
		outer = lab.IPv6
	}
	return func(after []byte) []byte { return append(outer(h)(lab.Frame(inner...)), after...) }
}

func (a aim) tcp(h lab.TCPHeader) lab.Layer {
	h.Src, h.Dst, h.DstPort = a.from, a.to, steered
	if h.SrcPort == 0 {
		h.SrcPort = a.port
	}
	h.Seq += a.seq
	if h.Flags&lab.ACK != 0 {
		h.Ack += a.ack
	}
	return lab.TCP(h)
}

// etherType is that of the aim's family.
func (a aim) etherType() uint16 {
	if a.v6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

func (a aim) eth(inner ...lab.Layer) []byte {
	return lab.Frame(append([]lab.Layer{lab.Eth(a.dst, a.src, a.etherType())}, inner...)...)
}

// segment is a shape of one ordinary packet with an unusual TCP header.
func segment(h lab.TCPHeader) func(aim, []byte) [][]byte {
	return packet(lab.IPHeader{}, h)
}

func packet(ip lab.IPHeader, h lab.TCPHeader) func(aim, []byte) [][]byte {
	ip.Proto = unix.IPPROTO_TCP
	return func(a aim, payload []byte) [][]byte {
		return [][]byte{a.eth(a.ip(ip, a.tcp(h), lab.Raw(payload)))}
	}
}

// under is a shape of one ordinary segment below an unusual link layer.
func under(proto uint16, layers ...func(a aim) lab.Layer) func(aim, []byte) [][]byte {
	return func(a aim, payload []byte) [][]byte {
		all := []lab.Layer{lab.Eth(a.dst, a.src, proto)}
		for _, l := range layers {
			all = append(all, l(a))
		}
		return [][]byte{lab.Frame(append(all, a.ip(lab.IPHeader{Proto: unix.IPPROTO_TCP}, a.tcp(lab.TCPHeader{Flags: data}), lab.Raw(payload)))...)}
	}
}

// tag is a VLAN tag in front of another one of the type inner, or of the packet.
func tag(id, inner uint16) func(aim) lab.Layer {
	return func(a aim) lab.Layer {
		if inner == 0 {
			return lab.VLAN(id, a.etherType())
		}
		return lab.VLAN(id, inner)
	}
}

// fixed is a header that differs between the families in its last bytes only.
func fixed(four, six string) func(aim) lab.Layer {
	return func(a aim) lab.Layer {
		if a.v6 {
			return lab.Raw([]byte(six))
		}
		return lab.Raw([]byte(four))
	}
}

// headers is a shape of one ordinary segment behind headers, the first of which is next, as IPv6 extension headers are.
func headers(next byte, chain ...lab.Layer) func(aim, []byte) [][]byte {
	return func(a aim, payload []byte) [][]byte {
		inner := append(slices.Clone(chain), a.tcp(lab.TCPHeader{Flags: data}), lab.Raw(payload))
		return [][]byte{a.eth(a.ip(lab.IPHeader{Proto: next}, inner...))}
	}
}

// piece is a part of a packet's bytes behind the IP header, in bytes; to 0 is the end.
type piece struct{ from, to int }

// pieces is a shape of a segment in fragments.
func pieces(list ...piece) func(aim, []byte) [][]byte {
	return func(a aim, payload []byte) (frames [][]byte) {
		whole := lab.Frame(a.tcp(lab.TCPHeader{Flags: data}), lab.Raw(payload))
		for _, p := range list {
			frames = append(frames, a.fragment(whole, p))
		}
		return frames
	}
}

func (a aim) fragment(whole []byte, p piece) []byte {
	end, more := p.to, true
	if end == 0 {
		end, more = len(whole), false
	}
	part := lab.Raw(whole[p.from:end])
	if a.v6 {
		return a.eth(a.ip(lab.IPHeader{Proto: unix.IPPROTO_FRAGMENT},
			lab.FragmentHeader(unix.IPPROTO_TCP, uint16(p.from), more, a.id), part))
	}
	field := uint16(p.from / 8)
	if more {
		field |= 0x2000
	}
	return a.eth(a.ip(lab.IPHeader{Proto: unix.IPPROTO_TCP, Fragment: field}, part))
}

// everySixteen cuts a segment into fragments of sixteen bytes, the first of which end within the TCP header.
func everySixteen(a aim, payload []byte) (frames [][]byte) {
	whole := lab.Frame(a.tcp(lab.TCPHeader{Flags: data}), lab.Raw(payload))
	for at := 0; at < len(whole); at += 16 {
		p := piece{at, at + 16}
		if p.to >= len(whole) {
			p.to = 0
		}
		frames = append(frames, a.fragment(whole, p))
	}
	return frames
}

// disguised shows another port in the first fragment, and the steered one in a second that lies over it. What belongs
// to the other port is not the payload.
func disguised(a aim, payload []byte) [][]byte {
	whole := lab.Frame(a.tcp(lab.TCPHeader{Flags: data}), lab.Raw(payload))
	decoy := make([]byte, len(whole))
	copy(decoy, whole[:20])
	binary.BigEndian.PutUint16(decoy[2:], 8080)
	return [][]byte{a.fragment(decoy, piece{0, 48}), a.fragment(whole, piece{0, 48}), a.fragment(decoy, piece{48, 0})}
}

// behindTheEnd has the payload where the packet is over by its own account.
func behindTheEnd(a aim, payload []byte) [][]byte {
	return [][]byte{a.eth(a.ip(lab.IPHeader{Proto: unix.IPPROTO_TCP}, a.tcp(lab.TCPHeader{Flags: data})), lab.Raw(payload))}
}

// toAll is an ordinary segment whose Ethernet frame goes to everybody.
func toAll(a aim, payload []byte) [][]byte {
	a.dst = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	return segment(lab.TCPHeader{Flags: data})(a, payload)
}

// stranger is an ordinary segment from an address that nobody has.
func stranger(a aim, payload []byte) [][]byte {
	a.from = "10.99.9.9"
	if a.v6 {
		a.from = "fd99::9"
	}
	return segment(lab.TCPHeader{Flags: data})(a, payload)
}

const data = lab.ACK | lab.PSH

var shapes = []shape{
	{name: "SYN with data", frames: segment(lab.TCPHeader{Flags: lab.SYN})},
	{name: "SYN with a Fast Open cookie and data", frames: segment(lab.TCPHeader{Flags: lab.SYN, Options: []byte("\x22\x0asealgate\x01\x01")})},
	{name: "SYN of multipath TCP with data", frames: segment(lab.TCPHeader{Flags: lab.SYN, Options: []byte("\x1e\x0c\x01\x81sealgate")})},
	{name: "SYN+FIN", frames: segment(lab.TCPHeader{Flags: lab.SYN | lab.FIN})},
	{name: "SYN+RST", frames: segment(lab.TCPHeader{Flags: lab.SYN | lab.RST})},
	{name: "no flag", frames: segment(lab.TCPHeader{})},
	{name: "every flag", frames: segment(lab.TCPHeader{Flags: 63, Urgent: 1})},
	{name: "data of no connection", frames: segment(lab.TCPHeader{Flags: data})},
	{name: "RST with data", frames: segment(lab.TCPHeader{Flags: lab.RST})},
	{name: "FIN with data", frames: segment(lab.TCPHeader{Flags: data | lab.FIN})},
	{name: "urgent data", frames: segment(lab.TCPHeader{Flags: data | lab.URG, Urgent: 64})},
	{name: "wrong checksum", frames: segment(lab.TCPHeader{Flags: data, Spoilt: true})},
	{name: "40 bytes of TCP options", frames: segment(lab.TCPHeader{Flags: data, Options: slices.Repeat([]byte{1}, 40)})},
	{name: "TCP header too short by its own account", frames: segment(lab.TCPHeader{Flags: data, Offset: 4})},
	{name: "from the steered port", frames: segment(lab.TCPHeader{Flags: lab.SYN, SrcPort: steered})},
	{name: "from nobody's address", frames: stranger},
	{name: "TTL 1", bridge: true, frames: packet(lab.IPHeader{TTL: 1}, lab.TCPHeader{Flags: data})},
	{name: "TTL 2", frames: packet(lab.IPHeader{TTL: 2}, lab.TCPHeader{Flags: data})},
	{name: "TTL 255", frames: packet(lab.IPHeader{TTL: 255}, lab.TCPHeader{Flags: data})},
	{name: "payload behind the packet's end", bridge: true, frames: behindTheEnd},

	{name: "two fragments", frames: pieces(piece{0, 48}, piece{48, 0})},
	{name: "two fragments, the last first", frames: pieces(piece{48, 0}, piece{0, 48})},
	{name: "first fragment without the whole TCP header", frames: pieces(piece{0, 8}, piece{8, 0})},
	{name: "fragments of 16 bytes", frames: everySixteen},
	{name: "fragments that lie over each other", frames: pieces(piece{0, 48}, piece{24, 72}, piece{48, 0})},
	{name: "fragment with another port under one with ours", frames: disguised},
	{name: "last fragment alone", frames: pieces(piece{24, 0})},
	{name: "fragment that is all of it", family: 6, frames: pieces(piece{0, 0})},

	{name: "authentication header", frames: headers(unix.IPPROTO_AH, lab.Raw([]byte("\x06\x02\x00\x00spi1seq1icv1")))},
	{name: "options that do nothing", family: 4, frames: packet(lab.IPHeader{Options: []byte{1, 1, 1, 1}}, lab.TCPHeader{Flags: data})},
	{name: "40 bytes of options", family: 4, frames: packet(lab.IPHeader{Options: slices.Repeat([]byte{1}, 40)}, lab.TCPHeader{Flags: data})},
	{name: "record route", family: 4, frames: packet(lab.IPHeader{Options: []byte{7, 7, 4, 0, 0, 0, 0, 0}}, lab.TCPHeader{Flags: data})},
	{name: "reserved fragment flag", family: 4, frames: packet(lab.IPHeader{Fragment: 0x8000}, lab.TCPHeader{Flags: data})},
	{name: "do not fragment", family: 4, frames: packet(lab.IPHeader{Fragment: 0x4000}, lab.TCPHeader{Flags: data})},

	{name: "1 extension header", family: 6, frames: headers(unix.IPPROTO_DSTOPTS, lab.DstOpts(1, unix.IPPROTO_TCP))},
	{name: "6 extension headers", family: 6, frames: headers(unix.IPPROTO_DSTOPTS, lab.DstOpts(6, unix.IPPROTO_TCP))},
	{name: "7 extension headers", family: 6, frames: headers(unix.IPPROTO_DSTOPTS, lab.DstOpts(7, unix.IPPROTO_TCP))},
	{name: "100 extension headers", family: 6, frames: headers(unix.IPPROTO_DSTOPTS, lab.DstOpts(100, unix.IPPROTO_TCP))},
	{name: "hop-by-hop header", family: 6, frames: headers(unix.IPPROTO_HOPOPTS, lab.DstOpts(1, unix.IPPROTO_TCP))},
	{name: "routing header with nothing left", family: 6,
		frames: headers(unix.IPPROTO_ROUTING, lab.Raw([]byte{unix.IPPROTO_TCP, 0, 2, 0, 0, 0, 0, 0}))},
	{name: "extension header of 1,200 bytes", family: 6,
		frames: headers(unix.IPPROTO_DSTOPTS, lab.Raw(append([]byte{unix.IPPROTO_TCP, 149}, make([]byte, 1198)...)))},
	{name: "fragment header behind an extension header", family: 6, frames: headers(unix.IPPROTO_DSTOPTS,
		lab.DstOpts(1, unix.IPPROTO_FRAGMENT), lab.FragmentHeader(unix.IPPROTO_TCP, 0, false, 77))},
	{name: "extension header behind a fragment header", family: 6, frames: headers(unix.IPPROTO_FRAGMENT,
		lab.FragmentHeader(unix.IPPROTO_DSTOPTS, 0, false, 78), lab.DstOpts(1, unix.IPPROTO_TCP))},
	{name: "fragment header twice", family: 6, frames: headers(unix.IPPROTO_FRAGMENT,
		lab.FragmentHeader(unix.IPPROTO_FRAGMENT, 0, false, 79), lab.FragmentHeader(unix.IPPROTO_TCP, 0, false, 80))},

	{name: "priority tag", frames: under(unix.ETH_P_8021Q, tag(0, 0))},
	{name: "two priority tags", frames: under(unix.ETH_P_8021Q, tag(0, unix.ETH_P_8021Q), tag(0, 0))},
	{name: "VLAN tag", bridge: true, frames: under(unix.ETH_P_8021Q, tag(7, 0))},
	{name: "two VLAN tags", bridge: true, frames: under(unix.ETH_P_8021AD, tag(7, unix.ETH_P_8021Q), tag(8, 0))},
	{name: "VLAN tag in a priority tag", bridge: true, frames: under(unix.ETH_P_8021Q, tag(0, unix.ETH_P_8021Q), tag(7, 0))},
	{name: "four VLAN tags", bridge: true,
		frames: under(unix.ETH_P_8021AD, tag(7, unix.ETH_P_8021Q), tag(8, unix.ETH_P_8021Q), tag(9, unix.ETH_P_8021Q), tag(10, 0))},
	{name: "VLAN tag of the old type 9100", bridge: true, frames: under(0x9100, tag(7, 0))},
	{name: "PPPoE", bridge: true, frames: under(unix.ETH_P_PPP_SES, fixed("\x11\x00\x00\x01\x00\xa0\x00\x21", "\x11\x00\x00\x01\x00\xb4\x00\x57"))},
	{name: "MPLS", bridge: true, frames: under(unix.ETH_P_MPLS_UC, fixed("\x00\x01\x01\x40", "\x00\x01\x01\x40"))},
	{name: "LLC and SNAP", bridge: true, frames: under(200, fixed("\xaa\xaa\x03\x00\x00\x00\x08\x00", "\xaa\xaa\x03\x00\x00\x00\x86\xdd"))},
	{name: "to all of the Ethernet", bridge: true, frames: toAll},

	{name: "connection from before, by the device's kernel", stream: true},
	{name: "connection: far behind the window", stream: true, frames: segment(lab.TCPHeader{Seq: 1 << 24, Flags: data})},
	{name: "connection: before the window", stream: true, frames: segment(lab.TCPHeader{Seq: 1<<32 - 5000, Flags: data})},
	{name: "connection: acknowledges what was not sent", stream: true, frames: segment(lab.TCPHeader{Ack: 1 << 20, Flags: data})},
	{name: "connection: in order, with TTL 2", stream: true, frames: packet(lab.IPHeader{TTL: 2}, lab.TCPHeader{Flags: data})},
	{name: "connection: the same bytes again, otherwise", stream: true, frames: segment(lab.TCPHeader{Flags: data})},
	{name: "connection: the second half again, otherwise, and more", stream: true, frames: segment(lab.TCPHeader{Seq: 50, Flags: data})},
	{name: "connection: from one byte before", stream: true, frames: segment(lab.TCPHeader{Seq: 1<<32 - 1, Flags: data})},
	{name: "connection: behind a gap", stream: true, frames: segment(lab.TCPHeader{Seq: 1000, Flags: data})},
	{name: "connection: urgent", stream: true, frames: segment(lab.TCPHeader{Flags: data | lab.URG, Urgent: 50})},
	{name: "connection: in fragments", stream: true, frames: pieces(piece{0, 48}, piece{48, 0})},
	{name: "connection: SYN with data", stream: true, frames: segment(lab.TCPHeader{Flags: lab.SYN})},
	{name: "connection: RST out of place, with data", stream: true, frames: segment(lab.TCPHeader{Seq: 2000, Flags: lab.RST | lab.ACK})},
	{name: "connection: FIN with data", stream: true, frames: segment(lab.TCPHeader{Flags: data | lab.FIN})},
	{name: "connection: data behind FIN", stream: true, frames: segment(lab.TCPHeader{Seq: 300, Flags: data})},
	{name: "connection: RST with data", stream: true, frames: segment(lab.TCPHeader{Flags: lab.RST | lab.ACK})},
	{name: "connection: data behind RST", stream: true, frames: segment(lab.TCPHeader{Flags: data})},
}
