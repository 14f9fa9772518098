package lab

import (
	"bytes"
	"io"
	"net"
	"sync"
)

// Wire is a record of what crossed a wire: a Capture, or without root a Tap.
type Wire interface {
	Contains(needle []byte) bool
	Frames() (frames, bytes int)
}

// Tap is a TCP relay that records both directions: the wire to look at where no frames can be captured.
type Tap struct {
	Addr string // where it listens

	mu     sync.Mutex
	stream [][]byte // one for each direction of each connection
	reads  int
}

// NewTap listens on 127.0.0.1 and relays each connection to addr, which need not answer yet.
func NewTap(t T, addr string) *Tap {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the tap: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	tap := &Tap{Addr: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go tap.relay(conn, addr)
		}
	}()
	return tap
}

func (p *Tap) relay(near net.Conn, addr string) {
	defer near.Close()
	far, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer far.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{far, near}, {near, far}} {
		both.Go(func() {
			io.Copy(io.MultiWriter(p.recorder(), way[0]), way[1])
			way[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}

// recorder returns a writer that appends to a stream of its own.
func (p *Tap) recorder() io.Writer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream = append(p.stream, nil)
	return recorder{p, len(p.stream) - 1}
}

type recorder struct {
	tap *Tap
	i   int
}

func (r recorder) Write(b []byte) (int, error) {
	r.tap.mu.Lock()
	defer r.tap.mu.Unlock()
	r.tap.stream[r.i] = append(r.tap.stream[r.i], b...)
	r.tap.reads++
	return len(b), nil
}

// Contains reports whether any stream recorded by now contains the needle.
func (p *Tap) Contains(needle []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stream {
		if bytes.Contains(s, needle) {
			return true
		}
	}
	return false
}

// Frames returns how many pieces and bytes were recorded by now.
func (p *Tap) Frames() (pieces, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stream {
		n += len(s)
	}
	return p.reads, n
}
