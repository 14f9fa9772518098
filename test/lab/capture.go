package lab

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Capture records every frame that an interface receives or sends, in memory and in a pcap file that tcpdump reads. It is
// the judge of leaks: what is not in a capture on the broker's side did not leave the gateway.
//
// Payloads that a capture is searched for are a short marker repeated, so that a frame border cannot hide all of it and no
// TCP stream need be put together. See Marker.
type Capture struct {
	File   string // the pcap file, complete after Stop
	fd     int
	stop   int // eventfd that ends the reader
	done   chan struct{}
	out    *bufio.Writer
	closer func() error

	mu     sync.Mutex
	frames [][]byte
	bytes  int
	err    error
}

// Marker returns a payload of n bytes made of the needle repeated: any frame that carries twice the needle's length of it
// shows the needle.
func Marker(needle string, n int) []byte {
	return bytes.Repeat([]byte(needle), n/len(needle)+1)[:n]
}

// NewCapture starts recording an interface in a namespace; the first frame after it returns is in the record. It stops with
// the test, and fails the test when the kernel had to drop a frame, because then the record proves nothing.
func NewCapture(t T, ns *Namespace, ifname string) *Capture {
	t.Helper()
	c := &Capture{File: filepath.Join(t.TempDir(), ifname+".pcap"), done: make(chan struct{})}
	if err := ns.Do(func() error { return c.open(ifname) }); err != nil {
		t.Fatalf("capture %s in namespace %s: %v", ifname, ns.Name, err)
	}
	go c.read()
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("capture %s in namespace %s: %v", ifname, ns.Name, err)
		}
	})
	return c
}

// captureBuffer is the socket's receive buffer in bytes: some seconds of a busy test.
const captureBuffer = 128 << 20

func (c *Capture) open(ifname string) error {
	iface, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: nothing arrives before bind
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
		return err
	}
	if c.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	file, err := os.Create(c.File)
	if err != nil {
		return err
	}
	c.out, c.closer = bufio.NewWriterSize(file, 1<<16), file.Close
	c.writeHeader()
	return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index})
}

// writeHeader writes the header of a pcap file with microseconds and Ethernet frames.
func (c *Capture) writeHeader() {
	h := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	h = binary.LittleEndian.AppendUint16(h, 2)
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...)
	h = binary.LittleEndian.AppendUint32(h, 1<<18)
	h = binary.LittleEndian.AppendUint32(h, 1)
	c.out.Write(h)
}

// read runs until Stop, and then drains what the socket still holds.
func (c *Capture) read() {
	defer close(c.done)
	buf := make([]byte, 1<<18)
	for {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			c.fail(err)
			return
		}
		if fds[0].Revents != 0 {
			n, _, err := unix.Recvfrom(c.fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch {
			case err == unix.EAGAIN || err == unix.EINTR || err == unix.ENETDOWN:
			case err != nil:
				c.fail(err)
				return
			case n > len(buf):
				c.fail(fmt.Errorf("a frame of %d bytes was cut", n))
			default:
				c.add(buf[:n])
			}
			continue
		}
		if fds[1].Revents != 0 {
			return
		}
	}
}

func (c *Capture) add(frame []byte) {
	now := time.Now()
	h := binary.LittleEndian.AppendUint32(nil, uint32(now.Unix()))
	h = binary.LittleEndian.AppendUint32(h, uint32(now.Nanosecond()/1000))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(frame)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(frame)))
	c.out.Write(h)
	c.out.Write(frame)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, bytes.Clone(frame))
	c.bytes += len(frame)
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// Stop ends the record and returns what makes it incomplete, nil if nothing does. Further calls return the same.
func (c *Capture) Stop() error {
	select {
	case <-c.done:
		return c.err
	default:
	}
	unix.Write(c.stop, binary.NativeEndian.AppendUint64(nil, 1))
	<-c.done
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		c.fail(err)
	} else if stats.Drops > 0 {
		c.fail(fmt.Errorf("%d of %d frames were dropped: the record proves nothing", stats.Drops, stats.Packets))
	}
	unix.Close(c.fd)
	unix.Close(c.stop)
	if err := errors.Join(c.out.Flush(), c.closer()); err != nil {
		c.fail(err)
	}
	return c.err
}

// Frames returns how many frames and bytes the record holds by now.
func (c *Capture) Frames() (frames, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames), c.bytes
}

// Find returns the frames recorded by now that contain the needle. They are shared: read only.
func (c *Capture) Find(needle []byte) [][]byte {
	c.mu.Lock()
	frames := c.frames
	c.mu.Unlock()
	var found [][]byte
	for _, f := range frames {
		if bytes.Contains(f, needle) {
			found = append(found, f)
		}
	}
	return found
}

// Contains reports whether any frame recorded by now contains the needle.
func (c *Capture) Contains(needle []byte) bool { return len(c.Find(needle)) > 0 }

// Payloads returns the TCP payloads of the recorded frames to a port, IPv4 or IPv6 without extension headers, in order.
func (c *Capture) Payloads(dstPort uint16) [][]byte {
	var out [][]byte
	for _, f := range c.ToPort(dstPort, 0) {
		tcp := TCPSegment(f)
		if off := int(tcp[12]>>4) * 4; off < len(tcp) {
			out = append(out, tcp[off:])
		}
	}
	return out
}

// ToPort returns the frames recorded by now, leaving out the first few, that carry TCP to a port.
func (c *Capture) ToPort(dstPort uint16, first int) [][]byte {
	c.mu.Lock()
	frames := c.frames[first:]
	c.mu.Unlock()
	var out [][]byte
	for _, f := range frames {
		if tcp := TCPSegment(f); tcp != nil && binary.BigEndian.Uint16(tcp[2:]) == dstPort {
			out = append(out, f)
		}
	}
	return out
}

// TCPSegment returns the TCP header and payload of an Ethernet frame, nil if it has none.
func TCPSegment(f []byte) []byte {
	if len(f) < 14 {
		return nil
	}
	ip := f[14:]
	var tcp []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_IP:
		if len(ip) < 20 || ip[9] != unix.IPPROTO_TCP {
			return nil
		}
		head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if total < head || total > len(ip) {
			return nil
		}
		tcp = ip[head:total]
	case unix.ETH_P_IPV6:
		if len(ip) < 40 || ip[6] != unix.IPPROTO_TCP {
			return nil
		}
		tcp = ip[40:]
	}
	if len(tcp) < 20 {
		return nil
	}
	return tcp
}
