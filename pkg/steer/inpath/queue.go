package inpath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
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
	q := &Queue{raw4: -1, raw6: -1, number: num, log: log}
	var err error
	if q.raw4, err = openRaw(unix.AF_INET, mark); err == nil {
		q.raw6, err = openRaw(unix.AF_INET6, mark)
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

func openRaw(family, mark int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Run gives the queue's packets to take until ctx ends.
func (q *Queue) Run(ctx context.Context, take func(ip []byte)) error {
	const readBuffer = 4 << 20
	_ = q.nf.Con.SetReadBuffer(readBuffer) // best effort: a small one loses packets under load, which come again
	packet := func(a nfqueue.Attribute) int {
		if a.PacketID == nil {
			return 0
		}
		if a.Payload != nil {
			take(*a.Payload)
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
	for _, fd := range []int{q.raw4, q.raw6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return err
}
