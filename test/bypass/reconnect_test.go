package bypass

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// TestReconnect has a device come back from the same port, again and again, after the other side has ended its
// connection and keeps it in TIME_WAIT. It is served each time.
func TestReconnect(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.NeedTool(t, "mosquitto")
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, m)
			s.Setup(t)
			s.StartControld(t)
			s.mode.start(s)
			s.AwaitReady(t)
			for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
				for n := range 4 {
					if err := s.visit(addr); err != nil {
						t.Errorf("connection %d to %s from the same port: %v", n+1, addr, err)
					}
				}
			}
		})
	}
}

// visit connects from a port that is always the same, and has the other side end the connection.
func (s *site) visit(addr string) error {
	const patience = 40 * time.Second
	var conn net.Conn
	err := s.at.ns.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: 45678}, Timeout: patience}
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			conn, err = d.Dial("tcp", net.JoinHostPort(addr, strconv.Itoa(steered)))
			if !errors.Is(err, unix.EADDRINUSE) || time.Since(begin) > patience {
				return err
			} // the end of the connection before is not acknowledged yet
		}
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(s.connectPacket()); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	if _, err := conn.Write(s.connectPacket()); err != nil { // a second CONNECT is against the protocol
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("a connection that is against the protocol goes on: %d bytes, %v", n, err)
	}
	return nil
}
