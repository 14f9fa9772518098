package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file speaks rtnetlink(7): the few requests about interfaces, rules, routes and tc filters that steering needs,
// and no more. A request is a fixed header (struct ifinfomsg, fib_rule_hdr, rtmsg or tcmsg, in the machine's byte order)
// and attributes after it. Errors are the kernel's plain error numbers.
//
// Rules and routes are deleted by sending back what the kernel listed, as iproute2's flush does: that deletes exactly
// the one meant, whatever it carries.

const (
	sizeIfInfo  = unix.SizeofIfInfomsg
	sizeRoute   = unix.SizeofRtMsg // struct rtmsg, and fib_rule_hdr
	sizeTraffic = 20               // struct tcmsg

	// linux/pkt_sched.h, linux/pkt_cls.h
	clsactHandle  = 0xffff0000
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	clsactIngress = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	clsactEgress  = 0xfffffff3 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
	tcaBPFFd      = 6
	tcaBPFName    = 7
	tcaBPFFlags   = 8
	tcaBPFDirect  = 1 // TCA_BPF_FLAG_ACT_DIRECT
)

var errNoInterface = errors.New("no such interface")

// request opens a socket in the network namespace of the calling thread, sends one request and returns the bodies of
// the replies. A list that changed while the kernel wrote it is asked for again.
func request(typ uint16, flags netlink.HeaderFlags, header []byte, attributes *netlink.AttributeEncoder) ([][]byte, error) {
	body := header
	if attributes != nil {
		encoded, err := attributes.Encode()
		if err != nil {
			return nil, err
		}
		body = append(body, encoded...)
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, plainError(err)
	}
	defer c.Close()
	const tries = 10
	for range tries {
		replies, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags},
			Data:   body,
		})
		if err != nil {
			return nil, plainError(err)
		}
		if bodies, whole := bodiesOf(replies); whole {
			return bodies, nil
		}
	}
	return nil, unix.EINTR
}

// bodiesOf also tells whether the list is whole.
func bodiesOf(replies []netlink.Message) (bodies [][]byte, whole bool) {
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, false
		}
		bodies = append(bodies, m.Data)
	}
	return bodies, true
}

func change(typ uint16, flags netlink.HeaderFlags, header []byte, attributes *netlink.AttributeEncoder) error {
	_, err := request(typ, flags|netlink.Acknowledge, header, attributes)
	return err
}

// plainError leaves out what the library says around the kernel's error number.
func plainError(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

// attributesOf calls f for each attribute behind a header of the size given.
func attributesOf(body []byte, size int, f func(typ uint16, d *netlink.AttributeDecoder)) error {
	if len(body) < size {
		return fmt.Errorf("the kernel's message has %d bytes; its header alone takes %d", len(body), size)
	}
	d, err := netlink.NewAttributeDecoder(body[size:])
	if err != nil {
		return err
	}
	for d.Next() {
		f(d.Type(), d)
	}
	return d.Err()
}

// iface is what steering needs to know of an interface.
type iface struct {
	index  int
	name   string
	kind   string // "bridge", "vlan", ...; "" for hardware
	master int    // index of the bridge or bond that it is a port of, or 0
	lower  int    // index of the interface that a VLAN is on top of, or 0
	mac    [6]byte

	spanning  bool // a bridge: spanning tree is on
	filtering bool // a bridge: VLAN filtering is on
	isolated  bool // a port of a bridge: the bridge passes nothing on to other isolated ports
}

func interfaceHeader(index int, flags, mask uint32) []byte {
	b := make([]byte, 4, sizeIfInfo)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, mask)
}

func parseInterface(body []byte) (i iface, err error) {
	err = attributesOf(body, sizeIfInfo, func(typ uint16, d *netlink.AttributeDecoder) {
		switch typ {
		case unix.IFLA_IFNAME:
			i.name = d.String()
		case unix.IFLA_MASTER:
			i.master = int(d.Uint32())
		case unix.IFLA_LINK:
			i.lower = int(d.Uint32())
		case unix.IFLA_ADDRESS:
			copy(i.mac[:], d.Bytes())
		case unix.IFLA_LINKINFO:
			d.Nested(i.parseKind)
		}
	})
	if err == nil {
		i.index = int(binary.NativeEndian.Uint32(body[4:]))
	}
	return i, err
}

// parseKind reads what an interface is, as a bridge and as a port of one.
func (i *iface) parseKind(info *netlink.AttributeDecoder) error {
	above := ""
	for info.Next() {
		switch info.Type() {
		case unix.IFLA_INFO_KIND:
			i.kind = info.String()
		case unix.IFLA_INFO_SLAVE_KIND:
			above = info.String()
		case unix.IFLA_INFO_DATA:
			if i.kind == "bridge" {
				info.Nested(i.parseBridge)
			}
		case unix.IFLA_INFO_SLAVE_DATA:
			if above == "bridge" {
				info.Nested(i.parsePort)
			}
		}
	}
	return nil
}

func (i *iface) parseBridge(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_BR_STP_STATE:
			i.spanning = d.Uint32() != 0
		case unix.IFLA_BR_VLAN_FILTERING:
			i.filtering = d.Uint8() != 0
		}
	}
	return nil
}

func (i *iface) parsePort(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() == unix.IFLA_BRPORT_ISOLATED {
			i.isolated = d.Uint8() != 0
		}
	}
	return nil
}

// setIsolated changes a port of a bridge.
func setIsolated(i iface, isolated bool) error {
	header := interfaceHeader(i.index, 0, 0)
	header[0] = unix.AF_BRIDGE
	a := netlink.NewAttributeEncoder()
	a.Nested(unix.IFLA_PROTINFO, func(port *netlink.AttributeEncoder) error {
		value := uint8(0)
		if isolated {
			value = 1
		}
		port.Uint8(unix.IFLA_BRPORT_ISOLATED, value)
		return nil
	})
	return change(unix.RTM_SETLINK, 0, header, a)
}

// interfaceByName returns errNoInterface for one that does not exist.
func interfaceByName(name string) (iface, error) {
	a := netlink.NewAttributeEncoder()
	a.String(unix.IFLA_IFNAME, name)
	return oneInterface(request(unix.RTM_GETLINK, 0, interfaceHeader(0, 0, 0), a))
}

func interfaceByIndex(index int) (iface, error) {
	return oneInterface(request(unix.RTM_GETLINK, 0, interfaceHeader(index, 0, 0), nil))
}

func oneInterface(replies [][]byte, err error) (iface, error) {
	if errors.Is(err, unix.ENODEV) || err == nil && len(replies) == 0 {
		return iface{}, errNoInterface
	}
	if err != nil {
		return iface{}, err
	}
	return parseInterface(replies[0])
}

func listInterfaces() (list []iface, err error) {
	replies, err := request(unix.RTM_GETLINK, netlink.Dump, interfaceHeader(0, 0, 0), nil)
	for _, body := range replies {
		i, err := parseInterface(body)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, err
}

func setUp(i iface) error {
	return change(unix.RTM_NEWLINK, 0, interfaceHeader(i.index, unix.IFF_UP, unix.IFF_UP), nil)
}

func familyHeader(family int) []byte {
	b := make([]byte, sizeRoute)
	b[0] = byte(family)
	return b
}

// rule is a rule for a table of ours. Ours is what key says when plain is set.
type rule struct {
	key   ruleKey
	plain bool   // it is of our priority, for TCP to the one port or for the mark, and asks for nothing else
	raw   []byte // as the kernel listed it
}

func (r rule) String() string {
	if r.plain {
		return r.key.String()
	}
	return fmt.Sprintf("%s rule lookup %d", familyName(r.key.family), r.key.table())
}

func addRule(k ruleKey) error {
	header := familyHeader(k.family)
	header[7] = unix.FR_ACT_TO_TBL
	a := netlink.NewAttributeEncoder()
	a.Uint32(unix.FRA_TABLE, k.table())
	a.Uint32(unix.FRA_PRIORITY, rulePriority)
	a.String(unix.FRA_IIFNAME, k.lan)
	if k.port == 0 {
		a.Uint32(unix.FRA_FWMARK, listenerMark)
		return change(unix.RTM_NEWRULE, netlink.Create|netlink.Excl, header, a)
	}
	a.Uint8(unix.FRA_IP_PROTO, unix.IPPROTO_TCP)
	ports := binary.NativeEndian.AppendUint16(nil, k.port)
	a.Bytes(unix.FRA_DPORT_RANGE, binary.NativeEndian.AppendUint16(ports, k.port))
	return change(unix.RTM_NEWRULE, netlink.Create|netlink.Excl, header, a)
}

func deleteRule(r rule) error { return change(unix.RTM_DELRULE, 0, r.raw, nil) }

// listRules lists the rules of a family that point at a table of ours.
func listRules(family int) (list []rule, err error) {
	replies, err := request(unix.RTM_GETRULE, netlink.Dump, familyHeader(family), nil)
	for _, body := range replies {
		r, ours, err := parseRule(family, body)
		if err != nil {
			return nil, err
		}
		if ours {
			list = append(list, r)
		}
	}
	return list, err
}

func parseRule(family int, body []byte) (r rule, ours bool, err error) {
	r = rule{key: ruleKey{family: family}, raw: body}
	var table, priority, protocol, selectors, mark, mask uint32
	var ports []byte
	err = attributesOf(body, sizeRoute, func(typ uint16, d *netlink.AttributeDecoder) {
		switch typ {
		case unix.FRA_TABLE:
			table = d.Uint32()
		case unix.FRA_PRIORITY:
			priority = d.Uint32()
		case unix.FRA_IIFNAME:
			r.key.lan = d.String()
		case unix.FRA_IP_PROTO:
			protocol = uint32(d.Uint8())
		case unix.FRA_DPORT_RANGE:
			ports = d.Bytes()
		case unix.FRA_FWMARK:
			mark = d.Uint32()
		case unix.FRA_FWMASK:
			mask = d.Uint32()
		case unix.FRA_SRC, unix.FRA_DST, unix.FRA_OIFNAME, unix.FRA_SPORT_RANGE:
			selectors++
		}
	})
	if err != nil || table != routeTable && table != bridgeTable {
		return rule{}, false, err
	}
	tos, flags := body[3], binary.NativeEndian.Uint32(body[8:])
	if table != r.key.table() || priority != rulePriority || selectors != 0 || tos != 0 || flags&unix.FIB_RULE_INVERT != 0 {
		return r, true, nil
	}
	if len(ports) == 4 && protocol == unix.IPPROTO_TCP && mark == 0 && mask == 0 {
		first, last := binary.NativeEndian.Uint16(ports), binary.NativeEndian.Uint16(ports[2:])
		r.key.port, r.plain = first, first == last && first != 0
	}
	if len(ports) == 0 && protocol == 0 && mark == listenerMark && mask == math.MaxUint32 {
		r.plain = true
	}
	return r, true, nil
}

// replaceLocalRoute installs `local default dev lo table 24225`.
func replaceLocalRoute(family int, lo iface) error {
	b := familyHeader(family) // the destination's length 0 is the default route
	b[5], b[6], b[7] = unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
	a := netlink.NewAttributeEncoder()
	a.Uint32(unix.RTA_TABLE, routeTable)
	a.Uint32(unix.RTA_OIF, uint32(lo.index))
	return change(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, b, a)
}

func deleteRoute(raw []byte) error { return change(unix.RTM_DELROUTE, 0, raw, nil) }

// replaceNextHopRoute installs `default via HOP dev BRIDGE onlink table 24226`.
func replaceNextHopRoute(family int, bridge iface, hop netip.Addr) error {
	b := familyHeader(family)
	b[5], b[6], b[7] = unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
	a := netlink.NewAttributeEncoder()
	a.Uint32(unix.RTA_TABLE, bridgeTable)
	a.Uint32(unix.RTA_OIF, uint32(bridge.index))
	a.Bytes(unix.RTA_GATEWAY, hop.AsSlice())
	return change(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, b, a)
}

func neighbourHeader(family int, i iface, state uint16) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = byte(family)
	binary.NativeEndian.PutUint32(b[4:], uint32(i.index))
	binary.NativeEndian.PutUint16(b[8:], state)
	return b
}

func replaceNeighbour(family int, i iface, addr netip.Addr, mac [6]byte) error {
	a := netlink.NewAttributeEncoder()
	a.Bytes(unix.NDA_DST, addr.AsSlice())
	a.Bytes(unix.NDA_LLADDR, mac[:])
	return change(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, neighbourHeader(family, i, unix.NUD_PERMANENT), a)
}

func deleteNeighbour(family int, i iface, addr netip.Addr) error {
	a := netlink.NewAttributeEncoder()
	a.Bytes(unix.NDA_DST, addr.AsSlice())
	return change(unix.RTM_DELNEIGH, 0, neighbourHeader(family, i, 0), a)
}

// listOurRoutes lists the routes that we install, local ones in the table of the policy route and others in that of a
// bridge, as the kernel wrote them.
func listOurRoutes(family int) (list [][]byte, err error) {
	replies, err := request(unix.RTM_GETROUTE, netlink.Dump, familyHeader(family), nil)
	for _, body := range replies {
		var table uint32
		err := attributesOf(body, sizeRoute, func(typ uint16, d *netlink.AttributeDecoder) {
			if typ == unix.RTA_TABLE {
				table = d.Uint32()
			}
		})
		if err != nil {
			return nil, err
		}
		cloned := binary.NativeEndian.Uint32(body[8:])&unix.RTM_F_CLONED != 0
		if (table == routeTable && isLocalRoute(body) || table == bridgeTable) && !cloned {
			list = append(list, body)
		}
	}
	return list, err
}

func isLocalRoute(body []byte) bool { return body[7] == unix.RTN_LOCAL }

func trafficHeader(i iface, handle, parent, info uint32) []byte {
	b := make([]byte, 4, sizeTraffic)
	for _, field := range []uint32{uint32(i.index), handle, parent, info} {
		b = binary.NativeEndian.AppendUint32(b, field)
	}
	return b
}

// filterInfo is the preference and the protocol of our filter, the latter in network byte order.
func filterInfo() uint32 {
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	return filterPref<<16 | uint32(protocol)
}

func kindOf(kind string) *netlink.AttributeEncoder {
	a := netlink.NewAttributeEncoder()
	a.String(unix.TCA_KIND, kind)
	return a
}

func addClsact(i iface) error {
	header := trafficHeader(i, clsactHandle, clsactParent, 0)
	return change(unix.RTM_NEWQDISC, netlink.Create|netlink.Excl, header, kindOf("clsact"))
}

// replaceFilter installs the program as our filter, in place of any that is there.
func replaceFilter(i iface, parent uint32, program int) error {
	a := kindOf("bpf")
	a.Nested(unix.TCA_OPTIONS, func(options *netlink.AttributeEncoder) error {
		options.Uint32(tcaBPFFd, uint32(program))
		options.String(tcaBPFName, filterName)
		options.Uint32(tcaBPFFlags, tcaBPFDirect)
		return nil
	})
	return change(unix.RTM_NEWTFILTER, netlink.Create, trafficHeader(i, filterHandle, parent, filterInfo()), a)
}

func deleteFilter(i iface, parent uint32) error {
	return change(unix.RTM_DELTFILTER, 0, trafficHeader(i, filterHandle, parent, filterInfo()), kindOf("bpf"))
}

// listFilters returns the names of the BPF filters at our preference on the way in or out.
func listFilters(i iface, parent uint32) (names []string, err error) {
	replies, err := request(unix.RTM_GETTFILTER, netlink.Dump, trafficHeader(i, 0, parent, 0), nil)
	for _, body := range replies {
		var name string
		err := attributesOf(body, sizeTraffic, func(typ uint16, d *netlink.AttributeDecoder) {
			if typ == unix.TCA_OPTIONS {
				d.Nested(func(options *netlink.AttributeDecoder) error {
					for options.Next() {
						if options.Type() == tcaBPFName {
							name = options.String()
						}
					}
					return nil
				})
			}
		})
		if err != nil {
			return nil, err
		}
		if binary.NativeEndian.Uint32(body[16:])>>16 == filterPref {
			names = append(names, name)
		}
	}
	return names, err
}
