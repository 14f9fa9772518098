package bypass

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// Values of net.ipv4.tcp_fastopen.
const (
	bothEnds     = "3"                   // what is recommended: where a program asks for it, by cookie
	withoutAsk   = 1 | 4                 // a client sends data in every SYN, cookie or none
	acceptsBlind = 1 | 2 | 0x200 | 0x400 // a server takes data from every SYN, on every listener
)

// TestFastOpen has devices send their first messages in the SYN (RFC 7413), with and without a cookie, to gateways and a
// broker that take it. They are served, and without a gatewayd nothing of it passes.
func TestFastOpen(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.NeedTool(t, "mosquitto")
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, m)
			s.fastOpens()
		})
	}
}

func (s *site) fastOpens() {
	s.t.Helper()
	knob := func(ns *lab.Namespace, value string) { s.t.Helper(); ns.Sysctl(s.t, "net/ipv4/tcp_fastopen", value) }
	device, gateway := s.SensorNS(), s.GatewayNS()
	wire := lab.NewCapture(s.t, device, "eth0")
	knob(device, strconv.Itoa(withoutAsk))
	s.where = "undefended"
	s.settle()
	s.mustServe()
	if s.opened(s.wire, 0) == 0 {
		s.t.Error("undefended: no SYN with a payload crosses: this test proves nothing")
	}
	s.state = 1
	s.Setup(s.t)
	s.StartControld(s.t)
	for _, value := range []string{bothEnds, strconv.Itoa(acceptsBlind)} {
		knob(gateway, value)
		s.mode.start(s)
		s.AwaitReady(s.t)
		for _, asks := range []string{bothEnds, strconv.Itoa(withoutAsk)} {
			s.where = fmt.Sprintf("tcp_fastopen = %s at the device, %s at the gateway", asks, value)
			knob(device, asks)
			s.mustServe()
			s.mustServe() // with the cookie that it has now
		}
		s.Gatewayd.Kill()
		s.where += ", gatewayd killed"
		for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
			if conn, err := s.fastOpen(addr, 300*time.Millisecond); err == nil {
				if n, _ := conn.Read(make([]byte, 4)); n > 0 {
					s.t.Errorf("%s: %s answers", s.where, addr)
				}
				conn.Close()
			}
		}
	}
	s.settle()
	if n := s.opened(wire, 1); n < 8 { // two rounds of two connections in two families, at the least
		s.t.Errorf("%d SYNs with a payload were sent at the gateway: this test proves nothing", n)
	}
	if found := s.wire.Find([]byte("|01.")); len(found) > 0 {
		s.t.Errorf("payload crosses in clear: %x", found[0])
	}
}

// opened counts the SYNs on a wire that have a payload of a state.
func (s *site) opened(wire *lab.Capture, state int) (n int) {
	s.settle()
	for _, f := range wire.Find(fmt.Appendf(nil, "|%02d.", state)) {
		for _, ports := range []int{14 + 20, 14 + 40} {
			if len(f) > ports+13 && binary.BigEndian.Uint16(f[ports+2:]) == steered && f[ports+13]&lab.SYN != 0 {
				n++
			}
		}
	}
	return n
}

// mustServe connects, with CONNECT and a PUBLISH as the first bytes, and expects CONNACK.
func (s *site) mustServe() {
	s.t.Helper()
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		conn, err := s.fastOpen(addr, 20*time.Second)
		if err != nil {
			s.t.Errorf("%s: connect to %s: %v", s.where, addr, err)
			continue
		}
		var ack [4]byte
		if _, err := io.ReadFull(conn, ack[:]); err != nil || !bytes.Equal(ack[:], []byte{0x20, 2, 0, 0}) {
			s.t.Errorf("%s: %s answers % x, %v", s.where, addr, ack, err)
		}
		conn.Close()
	}
}

// fastOpen connects, with a CONNECT and a PUBLISH in the SYN where the device may send them so early, else after the handshake.
func (s *site) fastOpen(addr string, patience time.Duration) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		outer := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
		return errors.Join(err, outer)
	}}
	dialer.SetMultipathTCP(false)
	err = s.at.ns.Do(func() error {
		conn, err = dialer.Dial("tcp", net.JoinHostPort(addr, strconv.Itoa(steered)))
		return err
	})
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append(s.connectPacket(), s.payload(999)...)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
