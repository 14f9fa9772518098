package inpath

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"sealgate/pkg/rewrite"
)

// Conn is one end of a connection that passes through, as a net.Conn towards that end.
type Conn struct {
	f             *flow
	peer          rewrite.Side
	local, remote net.Addr

	// Guarded by f.mu.
	read, write deadline
	unread      int // of what was read, as Unread has said
	shut        bool
	closed      bool
}

// deadline is that of reading or writing.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set changes the deadline. Caller holds the flow's lock.
func (d *deadline) set(f *flow, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			f.mu.Lock()
			f.moved.Broadcast()
			f.mu.Unlock()
		})
	}
	f.moved.Broadcast()
}

// Uplink is the other end of the connection: what its end sends is read there, and what is written there it gets.
func (c *Conn) Uplink() net.Conn {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.dialled = true
	return c.f.conns[c.peer^1]
}

// Unread says that the last n bytes read have not been dealt with: everything before them has become what was
// written to the other end. Package gateway says so before each Read.
func (c *Conn) Unread(n int) {
	c.f.mu.Lock()
	c.unread = n
	c.f.tcp.Covered(c.peer, n)
	c.f.mu.Unlock()
}

// Read reads what the end has sent.
func (c *Conn) Read(b []byte) (int, error) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case f.tcp.Reset():
			return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.local, Addr: c.remote, Err: syscall.ECONNRESET}
		case c.read.passed():
			return 0, os.ErrDeadlineExceeded
		}
		n, ended := f.tcp.Read(c.peer, b)
		if n > 0 || ended {
			f.tcp.Flush(f.c.now()) // the window has opened
			f.after()
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		}
		f.tcp.Waiting(f.c.now(), c.peer, c.unread)
		f.arm() // and wakes nobody: two that wait would wake each other for ever
		f.moved.Wait()
	}
}

// Write sends to the end. It waits while too much is under way.
func (c *Conn) Write(b []byte) (n int, err error) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case c.closed || c.shut:
			return n, net.ErrClosed
		case f.tcp.Reset():
			return n, &net.OpError{Op: "write", Net: "tcp", Source: c.local, Addr: c.remote, Err: syscall.ECONNRESET}
		case c.write.passed():
			return n, os.ErrDeadlineExceeded
		}
		n += f.tcp.Write(c.peer^1, b[n:])
		f.tcp.Flush(f.c.now())
		f.arm()
		if n == len(b) {
			return n, nil
		}
		f.moved.Wait()
	}
}

// CloseWrite tells the end that nothing more comes.
func (c *Conn) CloseWrite() error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.shutdown()
	return nil
}

// shutdown is CloseWrite for who holds f.mu.
func (c *Conn) shutdown() {
	if !c.shut {
		c.shut = true
		c.f.tcp.CloseWrite(c.f.c.now(), c.peer^1)
		c.f.after()
	}
}

// Close gives up the end: what was written still arrives, what comes is refused once both ends are closed.
func (c *Conn) Close() error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.close()
	if other := c.f.conns[c.peer^1]; !c.f.dialled && !other.closed {
		other.close() // nobody else will
	}
	c.f.after()
	return nil
}

// close is Close for who holds f.mu.
func (c *Conn) close() {
	c.shutdown()
	c.closed = true
	c.f.closed++
	c.read.set(c.f, time.Time{})
	c.write.set(c.f, time.Time{})
}

// Abort resets both ends.
func (c *Conn) Abort() error {
	c.f.abort()
	return c.Close()
}

// LocalAddr is the address of the other end, as this one knows it.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.read.set(c.f, t)
	c.write.set(c.f, t)
	return nil
}

// SetReadDeadline sets that of Read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.read.set(c.f, t)
	return nil
}

// SetWriteDeadline sets that of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.write.set(c.f, t)
	return nil
}
