// Package httpd serves a few read-only pages over HTTP/1.1 (RFC 9112): one GET a connection,
// no request body, everything bounded in size and time. It stands in for net/http, which would
// add more than a megabyte to a program that lives in a router's flash and shows two pages.
package httpd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Bounds of the server.
const (
	maxConns = 32
	maxHead  = 8 << 10          // bytes of request line and header
	timeout  = 10 * time.Second // for a whole request and its answer
	pause    = 100 * time.Millisecond
)

// Page is what a path shows.
type Page struct {
	ContentType string
	Write       func(io.Writer)
}

// Server serves pages. Make one with New.
type Server struct {
	listener net.Listener
	pages    map[string]Page
	free     chan struct{} // a token for each connection that may be open
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool                  // guarded by mu
	conns  map[net.Conn]struct{} // guarded by mu
}

// New makes a server of pages, by path, on l, which it owns from then on.
func New(l net.Listener, pages map[string]Page) *Server {
	return &Server{listener: l, pages: pages, free: make(chan struct{}, maxConns), conns: make(map[net.Conn]struct{})}
}

// Serve answers until Close. More connections than are allowed at once wait in the kernel.
func (s *Server) Serve() {
	for {
		s.free <- struct{}{}
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of file descriptors, most likely
			<-s.free
			time.Sleep(pause)
			continue
		}
		if !s.add(c) {
			_ = c.Close()
			return
		}
		go func() {
			defer func() {
				_ = recover() // a page that cannot be made must not end the program
				s.remove(c)
				<-s.free
			}()
			s.answer(c)
		}()
	}
}

// Close ends the server and every connection, and waits for them.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// add counts a connection, under the lock that Close sets closed under: nothing is added once that waits.
func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[c] = struct{}{}
		s.wg.Add(1)
	}
	return !s.closed
}

func (s *Server) remove(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.wg.Done()
}

// answer reads one request and answers it. What is no HTTP gets no answer.
func (s *Server) answer(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	method, path, err := readRequest(c)
	if err == errTooLarge {
		write(c, true, "431 Request Header Fields Too Large", "text/plain", []byte("too large\n"))
		return
	}
	if err != nil {
		return
	}
	page, found := s.pages[path]
	switch {
	case !found:
		write(c, method != "HEAD", "404 Not Found", "text/plain", []byte("not found\n"))
	case method != "GET" && method != "HEAD":
		write(c, true, "405 Method Not Allowed\r\nAllow: GET, HEAD", "text/plain", []byte("GET only\n"))
	default:
		var body bytes.Buffer
		page.Write(&body)
		write(c, method != "HEAD", "200 OK", page.ContentType, body.Bytes())
	}
}

func write(w io.Writer, withBody bool, status, contentType string, body []byte) {
	b := fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n", status, contentType, len(body))
	if withBody {
		b = append(b, body...)
	}
	_, _ = w.Write(b)
}

var (
	errTooLarge = errors.New("request head too large")
	errNoHTTP   = errors.New("not an HTTP/1 request")
)

// readRequest reads a request's head and returns its method and path, without a query. Header
// fields mean nothing to this server.
func readRequest(r io.Reader) (method, path string, err error) {
	limited := &io.LimitedReader{R: r, N: maxHead}
	in := bufio.NewReaderSize(limited, 1024)
	line, err := in.ReadString('\n')
	if err == nil {
		method, path, err = parseLine(strings.TrimRight(line, "\r\n"))
		if err != nil {
			return "", "", err
		}
	}
	for err == nil && strings.TrimRight(line, "\r\n") != "" {
		line, err = in.ReadString('\n')
	}
	if err != nil && limited.N <= 0 {
		return "", "", errTooLarge
	}
	return method, path, err
}

func parseLine(line string) (method, path string, err error) {
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || method == "" || !strings.HasPrefix(target, "/") || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return "", "", errNoHTTP
	}
	path, _, _ = strings.Cut(target, "?")
	return method, path, nil
}
