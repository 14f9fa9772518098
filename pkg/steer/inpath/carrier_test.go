package inpath

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"sealgate/pkg/rewrite"
)

var (
	device = netip.MustParseAddrPort("192.0.2.1:40000")
	broker = netip.MustParseAddrPort("198.51.100.1:1883")
)

// road is a Carrier between two ends that the test plays.
type road struct {
	*testing.T
	c    *Carrier
	sent chan rewrite.Packet
	now  time.Time
	mtu  map[netip.Addr]int // of the paths; not there: not known
}

func newRoad(t *testing.T, flows int) *road {
	r := &road{T: t, sent: make(chan rewrite.Packet, 1000), now: time.Now()}
	r.c = New(Config{Ports: []uint16{1883}, MaxFlows: flows, Clock: func() time.Time { return r.now }, Send: func(ip []byte) {
		var p rewrite.Packet
		if err := rewrite.Parse(bytes.Clone(ip), &p); err != nil {
			t.Error(err)
		}
		r.sent <- p
	}})
	r.c.cfg.MTU = func(to netip.Addr) int { return r.mtu[to] }
	t.Cleanup(func() { r.c.Close() })
	return r
}

// from has an end send a segment.
func (r *road) from(src, dst netip.AddrPort, s rewrite.Segment) {
	if s.Flags&rewrite.SYN == 0 {
		s.WindowScale = -1
	}
	s.Window = 65535
	p := rewrite.Packet{Src: src, Dst: dst, TTL: 60, Segment: s}
	r.c.Packet(p.Append(nil), true)
}

// want waits for a packet to an end that has all the flags.
func (r *road) want(to netip.AddrPort, flags uint8) rewrite.Packet {
	r.Helper()
	for timeout := time.After(10 * time.Second); ; {
		select {
		case p := <-r.sent:
			if p.Dst == to && p.Segment.Flags&flags == flags {
				return p
			}
		case <-timeout:
			r.Fatalf("no packet to %v with flags %x", to, flags)
		}
	}
}

// open opens a connection; the device's bytes begin at 101, the broker's at 501.
func (r *road) open() *Conn {
	r.Helper()
	r.from(device, broker, rewrite.Segment{Flags: rewrite.SYN, Seq: 100, MSS: 1000, WindowScale: 2})
	if p := r.want(broker, rewrite.SYN); p.Src != device || p.TTL != 60 {
		r.Errorf("%+v", p)
	}
	r.from(broker, device, rewrite.Segment{Flags: rewrite.SYN | rewrite.ACK, Seq: 500, Ack: 101, MSS: 1000, WindowScale: 2})
	r.want(device, rewrite.SYN|rewrite.ACK)
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 501})
	conn, err := r.c.Accept()
	if err != nil {
		r.Fatal(err)
	}
	return conn.(*Conn)
}

func (r *road) reads(c net.Conn, want string) {
	r.Helper()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		r.Errorf("read %q, %v; not %q", b[:n], err, want)
	}
}

// A connection as its server sees it: addresses, bytes, the end in both directions.
func TestConn(t *testing.T) {
	r := newRoad(t, 10)
	dev := r.open()
	upl := dev.Uplink()
	for _, a := range []struct {
		got  net.Addr
		want netip.AddrPort
	}{{dev.RemoteAddr(), device}, {dev.LocalAddr(), broker}, {upl.RemoteAddr(), broker}, {upl.LocalAddr(), device}} {
		if a.got.String() != a.want.String() {
			t.Errorf("address %v, not %v", a.got, a.want)
		}
	}
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 501, Data: []byte("up")})
	r.reads(dev, "up")
	if _, err := upl.Write([]byte("longer")); err != nil {
		t.Fatal(err)
	}
	dev.Unread(0)
	if p := r.want(broker, rewrite.PSH); string(p.Segment.Data) != "longer" || p.Segment.Seq != 101 {
		t.Errorf("%+v", p.Segment)
	}
	r.from(broker, device, rewrite.Segment{Flags: rewrite.ACK, Seq: 501, Ack: 107, Data: []byte("answer")})
	if p := r.want(device, rewrite.ACK); p.Segment.Ack != 103 {
		t.Errorf("the device is told %d, not that its 2 bytes have arrived", p.Segment.Ack)
	}
	r.reads(upl, "answer")

	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK | rewrite.FIN, Seq: 103, Ack: 501})
	if _, err := dev.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read after FIN: %v", err)
	}
	upl.(*Conn).CloseWrite()
	if p := r.want(broker, rewrite.FIN); p.Segment.Seq != 107 {
		t.Errorf("FIN at %d, not 107", p.Segment.Seq)
	}
	if _, err := upl.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	r := newRoad(t, 10)
	dev := r.open()
	dev.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := dev.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	dev.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := dev.Write(make([]byte, rewrite.MaxOut+1)); !errors.Is(err, os.ErrDeadlineExceeded) || n != rewrite.MaxOut {
		t.Errorf("write: %d, %v", n, err)
	}
	done := make(chan error)
	dev.SetDeadline(time.Time{})
	go func() { _, err := dev.Read(make([]byte, 1)); done <- err }()
	dev.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read while closing: %v", err)
	}
}

// What cannot be carried is refused, and nothing of it passes.
func TestRefused(t *testing.T) {
	r := newRoad(t, 1)
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 7, Ack: 9, Data: []byte("older than the gateway")})
	if p := r.want(device, rewrite.RST); p.Segment.Seq != 9 || p.Src != broker {
		t.Errorf("%+v", p)
	}
	r.from(broker, device, rewrite.Segment{Flags: rewrite.SYN | rewrite.ACK, Seq: 7, Ack: 9})
	r.want(broker, rewrite.RST)
	r.from(device, broker, rewrite.Segment{Flags: rewrite.RST, Seq: 7})
	r.c.Packet([]byte{0x45}, false)
	r.open()
	other := netip.MustParseAddrPort("192.0.2.1:40001")
	r.from(other, broker, rewrite.Segment{Flags: rewrite.SYN, Seq: 1})
	counts, flows := r.c.Counts()
	if want := (Counts{Opened: 1, Strangers: 3, Malformed: 1, Full: 1}); counts != want || flows != 1 {
		t.Errorf("%+v with %d flows, not %+v", counts, flows, want)
	}
	if len(r.sent) > 0 {
		if p := <-r.sent; p.Dst == broker && len(p.Segment.Data) > 0 {
			t.Errorf("sent: %+v", p)
		}
	}
}

// A reset by either end reaches the other, and whoever reads and writes.
func TestReset(t *testing.T) {
	for _, by := range []netip.AddrPort{device, broker} {
		r := newRoad(t, 10)
		dev := r.open()
		to, seq := broker, uint32(101)
		if by == broker {
			to, seq = device, 501
		}
		r.from(by, to, rewrite.Segment{Flags: rewrite.RST, Seq: seq + rewrite.Room*2}) // a guess
		r.from(by, to, rewrite.Segment{Flags: rewrite.RST, Seq: seq})
		if p := r.want(to, rewrite.RST); p.Segment.Seq != seq {
			t.Errorf("reset at %d, not %d", p.Segment.Seq, seq)
		}
		for _, c := range []net.Conn{dev, dev.Uplink()} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v", err)
			}
		}
	}
}

// A server that gives a connection up, and one that never asked for its other end.
func TestGivenUp(t *testing.T) {
	r := newRoad(t, 10)
	dev := r.open()
	if _, err := dev.Write([]byte("no")); err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if p := r.want(device, rewrite.FIN); string(p.Segment.Data) != "no" && p.Segment.Seq != 503 {
		t.Errorf("%+v", p.Segment)
	}
	r.want(broker, rewrite.FIN)
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 504, Data: []byte("too late")})
	r.want(device, rewrite.RST)
	r.want(broker, rewrite.RST)
	r.now = r.now.Add(2 * endedTime)
	r.from(device, broker, rewrite.Segment{Flags: rewrite.RST, Seq: 1})
	if _, flows := r.c.Counts(); flows != 0 {
		t.Errorf("%d flows are remembered", flows)
	}
}

// Segments of a big write respect the segment size that the end has given, in order.
func TestSegments(t *testing.T) {
	r := newRoad(t, 10)
	upl := r.open().Uplink()
	want := bytes.Repeat([]byte("0123456789"), 450)
	if _, err := upl.Write(want); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for len(got) < len(want) {
		p := r.want(broker, rewrite.ACK)
		if len(p.Segment.Data) > 1000 {
			t.Fatalf("a segment of %d bytes", len(p.Segment.Data))
		}
		got = slices.Concat(got, p.Segment.Data)
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes")
	}
}

// What the paths take bounds what either end is told of the other, and what it is sent.
func TestPathsAreNarrow(t *testing.T) {
	r := newRoad(t, 10)
	r.mtu = map[netip.Addr]int{device.Addr(): 540, broker.Addr(): 440}
	r.from(device, broker, rewrite.Segment{Flags: rewrite.SYN, Seq: 100, MSS: 1000, WindowScale: 2})
	if p := r.want(broker, rewrite.SYN); p.Segment.MSS != 400 {
		t.Errorf("the broker is told of segments of %d bytes", p.Segment.MSS)
	}
	r.from(broker, device, rewrite.Segment{Flags: rewrite.SYN | rewrite.ACK, Seq: 500, Ack: 101, MSS: 1000, WindowScale: 2})
	if p := r.want(device, rewrite.SYN); p.Segment.MSS != 500 {
		t.Errorf("the device is told of segments of %d bytes", p.Segment.MSS)
	}
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 501})
	conn, err := r.c.Accept()
	if err != nil {
		t.Fatal(err)
	}
	dev := conn.(*Conn)
	for _, way := range []struct {
		to   netip.AddrPort
		conn net.Conn
		most int
	}{{device, dev, 500}, {broker, dev.Uplink(), 400}} {
		if _, err := way.conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if p := r.want(way.to, rewrite.PSH); len(p.Segment.Data) != way.most {
			t.Errorf("a segment of %d bytes to %v, whose path takes %d", len(p.Segment.Data), way.to, way.most)
		}
	}
}

// A segment that was damaged on its way counts for nothing, unless the kernel says that its checksum has not been computed.
func TestDamaged(t *testing.T) {
	r := newRoad(t, 10)
	dev := r.open()
	packet := func(data string) []byte {
		p := rewrite.Packet{Src: device, Dst: broker, TTL: 60, Segment: rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 501, WindowScale: -1, Data: []byte(data)}}
		b := p.Append(nil)
		b[len(b)-1]++
		return b
	}
	r.c.Packet(packet("damagec"), true)
	if counts, _ := r.c.Counts(); counts.Damaged != 1 {
		t.Errorf("%+v", counts)
	}
	r.c.Packet(packet("joinec"), false)
	r.reads(dev, "joined")
}

// Shut lets go on what is open; Close ends it.
func TestShut(t *testing.T) {
	r := newRoad(t, 10)
	dev := r.open()
	r.c.Shut()
	if _, err := r.c.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	r.from(device, broker, rewrite.Segment{Flags: rewrite.ACK, Seq: 101, Ack: 501, Data: []byte("still")})
	r.reads(dev, "still")
	r.c.Close()
	r.want(device, rewrite.RST)
	if _, err := dev.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}
