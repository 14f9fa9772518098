package inpath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Queue takes a netfilter queue's packets into a Carrier and sends the Carrier's packets by raw sockets. No packet of the
// queue travels on itself: so the rule that drops forwarded traffic to steered ports can stand behind the queue at
// all times, and where no program listens at the queue, nothing passes.
type Queue struct {
	raw4, raw6 int
	udp4, udp6 int // ask for a path's MTU
	number     uint16
	nf         *nfqueue.Nfqueue
	lost       atomic.Uint64
	failed     atomic.Uint64
	log        *slog.Logger
}

// maxQueue is how many packets may wait in the kernel.
const maxQueue = 4096

// OpenQueue opens netfilter queue number num and the raw sockets, which need CAP_NET_ADMIN and CAP_NET_RAW. What it sends has
// the mark.
func OpenQueue(num uint16, mark int, log *slog.Logger) (*Queue, error) {
	q := &Queue{raw4: -1, raw6: -1, udp4: -1, udp6: -1, number: num, log: log}
	var err error
	for _, s := range []struct {
		fd                     *int
		family, kind, protocol int
	}{
		{&q.raw4, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW}, {&q.udp4, unix.AF_INET, unix.SOCK_DGRAM, 0},
		{&q.raw6, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW}, {&q.udp6, unix.AF_INET6, unix.SOCK_DGRAM, 0},
	} {
		if *s.fd, err = openSocket(s.family, s.kind, s.protocol, mark); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		q.Close()
		return nil, fmt.Errorf("open a raw socket: %w: run gatewayd as root or with CAP_NET_RAW", err)
	}
	q.nf, err = nfqueue.Open(&nfqueue.Config{NfQueue: num, MaxQueueLen: maxQueue,
		Copymode: nfqueue.NfQnlCopyNone, Flags: nfqueue.NfQaCfgFlagGSO, AfFamily: unix.AF_UNSPEC})
	if err != nil {
		q.Close()
		return nil, fmt.Errorf("open netfilter queue %d: %w", num, err)
	}
	return q, nil
}

func openSocket(family, kind, protocol, mark int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// MTU is that of the path to an address as the kernel knows it; 0: it has no route. Only what take of [Queue.Run] calls may call it.
func (q *Queue) MTU(to netip.Addr) int {
	fd, level, option := q.udp6, unix.SOL_IPV6, unix.IPV6_MTU
	var sa unix.Sockaddr
	if to.Is4() {
		fd, level, option = q.udp4, unix.SOL_IP, unix.IP_MTU
		sa = &unix.SockaddrInet4{Port: 1, Addr: to.As4()}
	} else {
		sa = &unix.SockaddrInet6{Port: 1, Addr: to.As16()}
	}
	if unix.Connect(fd, sa) != nil { // which sends nothing
		return 0
	}
	n, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return n
}

// unverified reports that nobody has looked at a packet's checksum yet (NFQA_SKB_INFO in linux/netfilter/nfnetlink_queue.h). Those of packets that
// the kernel has joined were right, and those of its own are not computed yet: such packets hold none to look at.
func unverified(info *[]byte) bool {
	const notReady, joined, notVerified = 1 << 0, 1 << 1, 1 << 2
	return info != nil && len(*info) >= 4 && binary.BigEndian.Uint32(*info)&(notReady|joined|notVerified) == notVerified
}

// Run gives the queue's packets to take until ctx ends, and says whether the checksum is to be looked at.
func (q *Queue) Run(ctx context.Context, take func(ip []byte, verify bool)) error {
	const readBuffer = 4 << 20
	_ = q.nf.Con.SetReadBuffer(readBuffer) // best effort: a small one loses packets under load, which come again
	packet := func(a nfqueue.Attribute) int {
		if a.PacketID == nil {
			return 0
		}
		if a.Payload != nil {
			take(*a.Payload, unverified(a.SkbInfo))
		}
		if err := q.nf.SetVerdict(*a.PacketID, nfqueue.NfDrop); err != nil {
			q.failed.Add(1)
		}
		return 0
	}
	failed := func(err error) int {
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed):
			return 1
		case errors.Is(err, unix.ENOBUFS):
			q.lost.Add(1)
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			q.log.Warn("netfilter queue", "error", err)
		}
		return 0
	}
	if err := q.nf.RegisterWithErrorFunc(ctx, packet, failed); err != nil {
		return fmt.Errorf("listen at the netfilter queue: %w: is another program there already?", err)
	}
	if err := q.begin(); err != nil {
		return fmt.Errorf("begin to listen at the netfilter queue: %w", err)
	}
	return nil
}

// begin has the kernel hand packets out. Until then it drops them: one that came between the commands above would be
// taken for an answer to them. This one asks for no answer.
func (q *Queue) begin() error {
	const config, params = unix.NFNL_SUBSYS_QUEUE<<8 | 2, 2 // NFQNL_MSG_CONFIG, NFQA_CFG_PARAMS
	data := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}
	data = binary.BigEndian.AppendUint16(data, q.number)
	data = binary.NativeEndian.AppendUint16(data, 4+5) // of the attribute: a range of be32 and a mode of u8
	data = binary.NativeEndian.AppendUint16(data, params)
	data = binary.BigEndian.AppendUint32(data, 0xffff)
	data = append(data, nfqueue.NfQnlCopyPacket, 0, 0, 0) // and padding
	_, err := q.nf.Con.Send(netlink.Message{Header: netlink.Header{Type: config, Flags: netlink.Request}, Data: data})
	return err
}

// Send sends an IP packet. What the kernel does not take is lost, like any packet, and comes again.
func (q *Queue) Send(ip []byte) {
	var err error
	if ip[0]>>4 == 4 {
		err = unix.Sendto(q.raw4, ip, 0, &unix.SockaddrInet4{Addr: [4]byte(ip[16:20])})
	} else {
		err = unix.Sendto(q.raw6, ip, 0, &unix.SockaddrInet6{Addr: [16]byte(ip[24:40])})
	}
	if err != nil {
		q.failed.Add(1)
	}
}

// Failures are packets that the kernel did not take, and times that it had no room for those it had for us.
func (q *Queue) Failures() (send, receive uint64) { return q.failed.Load(), q.lost.Load() }

// Close gives everything back. Packets of the queue are dropped from then on.
func (q *Queue) Close() error {
	var err error
	if q.nf != nil {
		err = q.nf.Close()
	}
	for _, fd := range []int{q.raw4, q.raw6, q.udp4, q.udp6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return err
}
