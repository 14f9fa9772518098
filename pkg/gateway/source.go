package gateway

import (
	"errors"
	"io"
	"net"
	"syscall"

	"sealgate/pkg/gateway/uplink"
)

// A source reads what has arrived on a connection.
type source interface {
	// fill waits for bytes and adds them to b, at least one unless it returns an error (io.EOF
	// at the end). While it waits on an empty b it holds no storage; idle is called before
	// such a wait, so that the caller can give back its own. b must have room or no storage.
	fill(b *buffer, idle func()) error
}

// newSource picks the way to read c that holds least while idle.
func newSource(c net.Conn) source {
	switch c := c.(type) {
	case *uplink.Conn:
		return &tlsSource{c}
	case syscall.Conn:
		if raw, err := c.SyscallConn(); err == nil {
			s := &socketSource{raw: raw}
			s.ready = s.read
			return s
		}
	}
	s := &plainSource{conn: c}
	s.passing, _ = c.(passing)
	return s
}

// passing is a connection whose packets pass through the gateway (package inpath). It acknowledges to its sender what
// has been dealt with, and so wants to know what has not.
type passing interface {
	Unread(n int)     // of the last bytes read, those not dealt with
	Uplink() net.Conn // its other end
}

// plainSource reads any connection: it keeps its buffer while it waits.
type plainSource struct {
	conn    net.Conn
	passing passing // nil: it is not
}

func (s *plainSource) fill(b *buffer, idle func()) error {
	if s.passing != nil {
		s.passing.Unread(len(b.unread()))
	}
	b.acquire()
	n, err := s.conn.Read(b.free())
	b.added(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// socketSource reads a socket from inside the runtime's poller: storage is taken for the
// one system call that finds bytes, and given back before the wait when there were none.
type socketSource struct {
	raw   syscall.RawConn
	ready func(fd uintptr) bool // the method read, bound once

	b    *buffer // arguments of the fill that runs
	idle func()
	err  error
}

func (s *socketSource) fill(b *buffer, idle func()) error {
	s.b, s.idle = b, idle
	if err := s.raw.Read(s.ready); err != nil {
		return err
	}
	return s.err
}

// read is tried before the first wait, as edge-triggered polling needs. It returns false
// to wait until the socket is readable and be called again.
func (s *socketSource) read(fd uintptr) bool {
	s.b.acquire()
	n, err := uplink.ReadFD(int(fd), s.b.free())
	if errors.Is(err, syscall.EAGAIN) {
		if s.b.empty() {
			s.b.release()
			s.idle()
		}
		return false
	}
	s.b.added(n)
	s.err = err
	return true
}

// tlsSource reads an uplink: all records that have arrived, then it waits without storage.
type tlsSource struct{ conn *uplink.Conn }

func (s *tlsSource) fill(b *buffer, idle func()) error {
	for {
		b.acquire()
		n, err := s.drain(b)
		if n > 0 {
			return nil // an error comes again with the next call
		}
		if err != uplink.ErrWouldBlock {
			return err
		}
		if b.empty() {
			b.release()
			idle()
		}
		if err := s.conn.Wait(); err != nil {
			return err
		}
	}
}

// drain reads until b is full or nothing is left.
func (s *tlsSource) drain(b *buffer) (total int, err error) {
	for len(b.free()) > 0 {
		n, err := s.conn.Read(b.free())
		b.added(n)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
