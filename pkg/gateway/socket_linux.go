package gateway

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchPeer makes the kernel notice that a device has vanished: keep-alive probes while it
// is silent, and a limit on unacknowledged data while we send. MQTT's own keep-alive is the
// broker's business. All of it is best effort.
func watchPeer(c net.Conn) {
	tcp, ok := c.(interface { // *net.TCPConn, or one in it
		SetKeepAliveConfig(net.KeepAliveConfig) error
		syscall.Conn
	})
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	const twoMinutes = 120_000 // milliseconds
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, twoMinutes)
	})
}

// hungUp reports whether the peer has ended the connection, and has said nothing that has not been read.
func hungUp(c net.Conn) (is bool) {
	conn, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		is = n == 0 && err == nil || err == unix.ECONNRESET
	})
	return is
}
