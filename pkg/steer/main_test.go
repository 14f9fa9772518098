package steer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// daemonEnv makes the test binary a steering daemon instead: a process of its own, in a namespace of its own, that can
// be killed. Its value is the Options as JSON.
const (
	daemonEnv = "SEALGATE_STEER_TEST_DAEMON"
	dropEnv   = "SEALGATE_STEER_TEST_DROP"  // dropAll or dropMost: drop capabilities first
	closeEnv  = "SEALGATE_STEER_TEST_CLOSE" // set: close each connection after the greeting
	spoofEnv  = "SEALGATE_STEER_TEST_SPOOF" // a port of the broker: relay to it from the devices' addresses
)

// relay connects to the other port of the broker that the device dialled, from the device's address, and copies.
func relay(conn net.Conn, port string, out io.Writer) {
	device, broker := conn.RemoteAddr().(*net.TCPAddr), conn.LocalAddr().(*net.TCPAddr)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: device.IP}, Control: SpoofControl, Timeout: 30 * time.Second}
	up, err := d.Dial("tcp", net.JoinHostPort(broker.IP.String(), port))
	if err != nil {
		fmt.Fprintf(out, "relay: %v\n", err)
		return
	}
	defer up.Close()
	go func() { io.Copy(up, conn); up.(*net.TCPConn).CloseWrite() }()
	io.Copy(conn, up)
}

const (
	dropAll  = "all"
	dropMost = "most" // all but those that the documentation asks for
)

func TestMain(m *testing.M) {
	if o := os.Getenv(daemonEnv); o != "" {
		os.Exit(daemon(o, os.Stdin, os.Stdout, os.Stderr))
	}
	lab.Main(m)
}

// daemon steers, greets each connection with its local address and echoes what it sends. It obeys lines on its standard
// input: "counters" prints them, "close" closes the steering but not the connections.
func daemon(options string, in io.Reader, out, errs io.Writer) int {
	runtime.LockOSThread()
	if err := dropCapabilities(os.Getenv(dropEnv)); err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	var o Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	s, err := Listen(context.Background(), o, slog.New(slog.NewTextHandler(errs, nil)))
	if err != nil {
		fmt.Fprintln(errs, "error:", err)
		return 1
	}
	attached, _ := json.Marshal(s.Attached())
	fmt.Fprintf(out, "ready %s\n", attached)
	go accept(s.Listener, out)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		switch lines.Text() {
		case "counters":
			c, err := s.Counters()
			b, _ := json.Marshal(c)
			fmt.Fprintf(out, "counters %s %v\n", b, err)
		case "close":
			fmt.Fprintf(out, "closed %v\n", s.Close())
		}
	}
	return 0
}

// dropCapabilities changes the calling thread only, which must be locked.
func dropCapabilities(which string) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var keep [2]unix.CapUserData
	switch which {
	case "":
		return nil
	case dropMost:
		for _, n := range []uint{unix.CAP_NET_ADMIN, unix.CAP_BPF} {
			keep[n/32].Effective |= 1 << (n % 32)
		}
		keep[0].Permitted, keep[1].Permitted = keep[0].Effective, keep[1].Effective
	}
	return unix.Capset(&header, &keep[0])
}

func accept(l net.Listener, out io.Writer) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(out, "accepted %s\n", conn.LocalAddr())
		go func() {
			defer conn.Close()
			if port := os.Getenv(spoofEnv); port != "" {
				relay(conn, port, out)
				return
			}
			fmt.Fprintf(conn, "%s\n", conn.LocalAddr())
			if os.Getenv(closeEnv) == "" {
				io.Copy(conn, conn)
			}
		}()
	}
}
