package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// redirected is a connection whose address the kernel translated.
type redirected struct {
	*net.TCPConn
	dialled net.Addr
}

// LocalAddr is the address that the device dialled.
func (r *redirected) LocalAddr() net.Addr { return r.dialled }

// sockOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h.
const sockOriginalDst = 80

// originalDestination asks the kernel where a connection went before it was redirected.
func originalDestination(conn *net.TCPConn) (dst netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return dst, err
	}
	ipv4 := conn.RemoteAddr().(*net.TCPAddr).IP.To4() != nil
	var optErr error
	err = raw.Control(func(fd uintptr) {
		if ipv4 {
			dst, optErr = originalIPv4(int(fd))
		} else {
			dst, optErr = originalIPv6(int(fd))
		}
	})
	if err = errors.Join(err, optErr); err != nil {
		return dst, fmt.Errorf("ask for the address that was dialled: %w", err)
	}
	return dst, nil
}

// originalIPv4 reads a struct sockaddr_in, which is shorter than the structure that it is read as.
func originalIPv4(fd int) (netip.AddrPort, error) {
	b, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, sockOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom4([4]byte(b.Multiaddr[4:8]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b.Multiaddr[2:])), nil
}

// originalIPv6 reads a struct sockaddr_in6, with which the structure that it is read as begins.
func originalIPv6(fd int) (netip.AddrPort, error) {
	b, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, sockOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, b.Addr.Port))
	return netip.AddrPortFrom(netip.AddrFrom16(b.Addr.Addr), port), nil
}
