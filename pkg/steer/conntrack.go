package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file speaks ctnetlink, as far as it takes to have the kernel forget connections: linux/netfilter/nfnetlink.h and
// nfnetlink_conntrack.h. Numbers in attributes are in network byte order.
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctTupleOriginal = 1 // CTA_TUPLE_ORIG, as the first packet went
	ctTupleReply    = 2 // CTA_TUPLE_REPLY
	ctID            = 12
	ctZone          = 18

	sizeNetfilter = 4 // struct nfgenmsg
)

// flow is a connection as the kernel tracks it.
type flow struct {
	family   byte
	protocol byte
	src, dst netip.AddrPort // of the first packet
	replier  netip.AddrPort // who answers it: dst, unless addresses are translated
	name     []netlink.Attribute
}

// Forget has the kernel forget the connections to steered ports that it tracks, and says how many. A flow table, in
// software or hardware, lets go of the packets of a forgotten connection, which then meet guard, policy route and
// listener like all others; a redirection looks at it anew. The gateway's own connections are left alone, and those
// that are redirected to it. A kernel that tracks nothing needs nothing.
func Forget(o Options) (n int, err error) {
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max"); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	own, err := ownAddresses()
	if err != nil {
		return 0, err
	}
	flows, err := trackedFlows(func(f *flow) bool {
		return f.protocol == unix.IPPROTO_TCP && slices.Contains(o.Ports, f.dst.Port()) && !f.endsHere(own)
	})
	if err == nil {
		err = forgetAll(flows)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: this kernel lacks CONFIG_NF_CT_NETLINK (OpenWrt: kmod-nf-conntrack-netlink)", err)
	}
	if err != nil {
		return 0, fmt.Errorf("forget the connections that the kernel tracks: %w", err)
	}
	return len(flows), nil
}

// endsHere tells whether the flow is the gateway's own or translated to an address of its own.
func (f *flow) endsHere(own map[netip.Addr]bool) bool {
	return own[f.src.Addr()] || own[f.replier.Addr()] && f.replier != f.dst
}

// trackedFlows lists those that are wanted, in all families. It keeps no other: a router may track very many.
func trackedFlows(want func(*flow) bool) (list []*flow, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	request := make([]byte, unix.NLMSG_HDRLEN+sizeNetfilter)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], ctGet)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for buffer := make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return list, nil
			case unix.NLMSG_ERROR:
				return nil, errorOf(m.Data)
			}
			f, err := parseFlow(m.Data)
			if err != nil {
				return nil, err
			}
			if want(f) {
				f.name = cloneAttributes(f.name)
				list = append(list, f)
			}
		}
	}
}

// errorOf reads a struct nlmsgerr.
func errorOf(body []byte) error {
	if len(body) < 4 {
		return unix.EBADMSG
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// parseFlow reads an announcement. The flow's name refers to body.
func parseFlow(body []byte) (*flow, error) {
	if len(body) < sizeNetfilter {
		return nil, unix.EBADMSG
	}
	f := &flow{family: body[0]}
	attributes, err := netlink.UnmarshalAttributes(body[sizeNetfilter:])
	if err != nil {
		return nil, err
	}
	for _, a := range attributes {
		switch a.Type &^ netlink.Nested {
		case ctTupleOriginal:
			if f.protocol, f.src, f.dst, err = parseTuple(a.Data); err != nil {
				return nil, err
			}
		case ctTupleReply:
			if _, f.replier, _, err = parseTuple(a.Data); err != nil {
				return nil, err
			}
			continue
		case ctID, ctZone:
		default:
			continue
		}
		f.name = append(f.name, a)
	}
	return f, nil
}

// parseTuple reads CTA_TUPLE_IP (1) and CTA_TUPLE_PROTO (2). Ports are zero in protocols without.
func parseTuple(b []byte) (protocol byte, src, dst netip.AddrPort, err error) {
	var addrs [2]netip.Addr
	var ports [2]uint16
	err = attributesOf(b, 0, func(typ uint16, d *netlink.AttributeDecoder) {
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				switch b := d.Bytes(); {
				case typ == 1: // CTA_IP_V4_SRC and DST are 1 and 2, CTA_IP_V6_SRC and DST 3 and 4
					if addr, ok := netip.AddrFromSlice(b); ok && d.Type() >= 1 && d.Type() <= 4 {
						addrs[(d.Type()-1)%2] = addr
					}
				case typ == 2 && d.Type() == 1 && len(b) == 1: // CTA_PROTO_NUM
					protocol = b[0]
				case typ == 2 && (d.Type() == 2 || d.Type() == 3) && len(b) == 2: // CTA_PROTO_SRC_PORT and DST_PORT
					ports[d.Type()-2] = binary.BigEndian.Uint16(b)
				}
			}
			return nil
		})
	})
	return protocol, netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1]), err
}

func cloneAttributes(list []netlink.Attribute) []netlink.Attribute {
	list = slices.Clone(list)
	for i := range list {
		list[i].Data = slices.Clone(list[i].Data)
	}
	return list
}

// forgetAll deletes exactly these flows; one that is gone is no error.
func forgetAll(flows []*flow) error {
	if len(flows) == 0 {
		return nil
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return plainError(err)
	}
	defer c.Close()
	for _, f := range flows {
		b, err := netlink.MarshalAttributes(f.name)
		if err != nil {
			return err
		}
		_, err = c.Execute(netlink.Message{
			Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{f.family, 0, 0, 0}, b...),
		})
		if err = plainError(err); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// ownAddresses are the gateway's.
func ownAddresses() (map[netip.Addr]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the gateway's own addresses: %w", err)
	}
	own := make(map[netip.Addr]bool, len(addrs))
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
			own[prefix.Addr().Unmap()] = true
		}
	}
	return own, nil
}
