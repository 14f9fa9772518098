package uplink

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadFD reads once from the non-blocking socket fd into p; the end is io.EOF, and syscall.EAGAIN
// says that nothing has arrived.
func ReadFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// setUserTimeout gives up on a peer that has not acknowledged anything for so long: a
// broken path is noticed even when keep-alive probes do not run because data waits.
func setUserTimeout(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Best effort: an old kernel without it still has its own, longer limit.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}
