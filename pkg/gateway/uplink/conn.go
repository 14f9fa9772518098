package uplink

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock is what [Conn.Read] returns when nothing has arrived: call [Conn.Wait].
var ErrWouldBlock error = wouldBlock{}

// wouldBlock is a temporary net.Error, the one kind of read error after which crypto/tls
// lets a connection go on.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "uplink: nothing to read yet" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

// Conn is a TLS connection to the broker that holds no buffer while it is idle. Read never
// blocks: it returns what has arrived, or ErrWouldBlock; Wait then blocks until there is
// more, on a shallow stack and with no memory of the caller's at stake. One goroutine reads
// and waits; writes may come from several, each Write going out whole.
type Conn struct {
	*tls.Conn
	raw *readAhead
}

// Wait blocks until Read has something new to look at: bytes, the end or an error.
func (c *Conn) Wait() error { return c.raw.fill() }

// CloseWrite ends the sending direction: close_notify, then FIN, also if the former cannot
// be sent any more.
func (c *Conn) CloseWrite() error {
	err := c.Conn.CloseWrite()
	if tcp, ok := c.raw.Conn.(*net.TCPConn); ok {
		return errors.Join(err, tcp.CloseWrite())
	}
	return err
}

// aheadSize is what one system call reads: TLS records of small messages come many at a time.
const aheadSize = 16 << 10

var aheadPool = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// readAhead is the TCP connection below TLS. All reading from the socket is done by fill;
// Read hands out what fill got. The buffer goes back to the pool as soon as it is empty.
type readAhead struct {
	net.Conn
	sock syscall.RawConn
	wait bool // Read blocks: during the handshake

	buf     *[aheadSize]byte // nil while empty
	from, n int              // buf[from:n] has not been read yet
	err     error            // of the last system call
	ready   func(fd uintptr) bool
}

func newReadAhead(c net.Conn) (*readAhead, error) {
	r := &readAhead{Conn: c, wait: true}
	if sc, ok := c.(syscall.Conn); ok {
		var err error
		if r.sock, err = sc.SyscallConn(); err != nil {
			return nil, err
		}
	}
	r.ready = r.readSocket
	return r, nil
}

// Read returns bytes that fill got, or ErrWouldBlock.
func (r *readAhead) Read(p []byte) (int, error) {
	for r.buf == nil {
		if !r.wait {
			return 0, ErrWouldBlock
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
		if r.buf == nil {
			return 0, net.ErrClosed
		}
	}
	n := copy(p, r.buf[r.from:r.n])
	r.from += n
	if r.from == r.n {
		aheadPool.Put(r.buf)
		r.buf = nil
	}
	return n, nil
}

// fill blocks until the socket gave bytes. With unread bytes left it returns at once.
func (r *readAhead) fill() error {
	if r.buf != nil {
		return nil
	}
	if r.sock == nil { // not a socket: a test's pipe
		r.take()
		n, err := r.Conn.Read(r.buf[:])
		return r.keep(n, err)
	}
	if err := r.sock.Read(r.ready); err != nil {
		return err
	}
	return r.err
}

// readSocket is called by the runtime's poller, until it returns true. The read is tried
// before the first wait, as edge-triggered polling needs.
func (r *readAhead) readSocket(fd uintptr) bool {
	r.take()
	n, err := ReadFD(int(fd), r.buf[:])
	if err == unix.EAGAIN {
		r.keep(0, nil)
		return false
	}
	r.err = r.keep(n, err)
	return true
}

func (r *readAhead) take() {
	r.buf = aheadPool.Get().(*[aheadSize]byte)
}

// keep ends a read: it keeps the n bytes, or gives the buffer back.
func (r *readAhead) keep(n int, err error) error {
	r.from, r.n = 0, n
	if n <= 0 {
		aheadPool.Put(r.buf)
		r.buf = nil
	}
	return err
}

// Abort closes the TCP connection without a word of TLS. It never blocks.
func (c *Conn) Abort() error { return c.raw.Conn.Close() }
