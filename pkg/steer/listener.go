package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// openPlain is mode listen.
func openPlain(ctx context.Context, addr string) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l.(*net.TCPListener), nil
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("steer.listen: %s is taken by another program: stop it (`ss -ltnp` shows which) or choose another port", addr)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("steer.listen: %s: %w: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port", addr, err)
	}
	return nil, fmt.Errorf("steer.listen: %w", err)
}

// openTransparent opens the one listener that the classifier assigns to. It is bound to loopback and a port of the
// kernel's choice: nobody can connect to it from a network, it takes no steered port from another program, and
// assignment does not look at its address. Bound to ::1 it takes IPv4 connections too.
func openTransparent(ctx context.Context) (*net.TCPListener, error) {
	var errs []error
	for _, addr := range []string{"[::1]:0", "127.0.0.1:0"} {
		l, err := listenTransparent(ctx, addr)
		if err == nil {
			return l, nil
		}
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("open the transparent listener: %w: run gatewayd as root or with CAP_NET_ADMIN", err)
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("open the transparent listener: %w", errors.Join(errs...))
}

func listenTransparent(ctx context.Context, addr string) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		return controlTransparent(c, network == "tcp6")
	}}
	lc.SetMultipathTCP(false) // an MPTCP listener cannot be assigned
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

func controlTransparent(c syscall.RawConn, ipv6 bool) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		s := int(fd)
		err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, listenerMark)
		if err == nil {
			err = unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		}
		if err == nil && ipv6 {
			err = errors.Join(
				unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1),
				unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_V6ONLY, 0))
		}
	})
	return errors.Join(ctlErr, err)
}

// acceptor accepts what was steered and nothing else.
type acceptor struct {
	*net.TCPListener
	ports    []uint16
	original bool // mode redirect: ask the kernel what the device dialled
	allowOwn bool // connections to the gateway's own addresses are welcome
	log      *slog.Logger
	own      atomic.Pointer[map[netip.Addr]bool] // set by the watcher
	refused  atomic.Uint64
	warned   seldom
}

func newAcceptor(l *net.TCPListener, o Options, log *slog.Logger) *acceptor {
	a := &acceptor{TCPListener: l, ports: slices.Clone(o.Ports), original: o.Mode == ModeRedirect, allowOwn: o.FixedBroker, log: log}
	a.own.Store(&map[netip.Addr]bool{})
	return a
}

// Accept returns the next steered connection, a *net.TCPConn or one in it. Its LocalAddr is the address that the device
// dialled; an IPv4 address may come in its IPv6 form (netip.Addr.Unmap turns it back).
func (a *acceptor) Accept() (net.Conn, error) {
	for {
		conn, err := a.AcceptTCP()
		if err != nil {
			return nil, err
		}
		accepted, reason := a.judge(conn)
		if reason == "" {
			return accepted, nil
		}
		a.refused.Add(1)
		if a.warned.now() {
			a.log.Warn("connection refused", "from", accepted.RemoteAddr().String(), "to", accepted.LocalAddr().String(), "reason", reason)
		}
		reset(conn)
	}
}

// judge returns the connection with the address that was dialled, or says why it may not be served.
func (a *acceptor) judge(conn *net.TCPConn) (accepted net.Conn, reason string) {
	if !a.original {
		return conn, a.refuse(conn.LocalAddr().(*net.TCPAddr).AddrPort())
	}
	dst, err := originalDestination(conn)
	if err != nil {
		return conn, err.Error()
	}
	return &redirected{conn, net.TCPAddrFromAddrPort(dst)}, a.refuse(dst)
}

// refuse says why a connection to dst may not be served, or nothing. Without a fixed broker gatewayd dials what the
// device dialled; if that is the gateway itself, it would talk to itself.
func (a *acceptor) refuse(dst netip.AddrPort) string {
	if !slices.Contains(a.ports, dst.Port()) {
		return "the port is not steered"
	}
	addr := dst.Addr().Unmap().WithZone("")
	if !a.allowOwn && (addr.IsLoopback() || (*a.own.Load())[addr]) {
		return "it was sent to the gateway's own address: set uplink.broker to serve such devices, or have them dial the broker"
	}
	return ""
}

// refreshOwn reads the gateway's own addresses.
func (a *acceptor) refreshOwn() error {
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	a.own.Store(&own)
	return nil
}
