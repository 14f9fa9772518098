package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"

	"sealgate/test/lab"
)

// sink is the least that publishers take for a broker: CONNACK, PUBACK, PINGRESP, and it forgets every message.
type sink struct {
	addr   string
	mu     sync.Mutex
	suites map[string]bool // TLS versions and cipher suites seen
}

func newSink(t lab.T, cert lab.Cert) *sink {
	conf := &tls.Config{Certificates: []tls.Certificate{cert.Pair}, MinVersion: tls.VersionTLS13}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatalf("listen for the sink: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	s := &sink{addr: l.Addr().String(), suites: map[string]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn.(*tls.Conn))
		}
	}()
	return s
}

// plainSink is a sink without TLS at an address in a namespace.
func plainSink(t lab.T, ns *lab.Namespace, addr string) {
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen for the sink: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
}

func (s *sink) serve(conn *tls.Conn) {
	defer conn.Close()
	if conn.Handshake() != nil {
		return
	}
	state := conn.ConnectionState()
	s.mu.Lock()
	s.suites[fmt.Sprintf("%s %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))] = true
	s.mu.Unlock()
	answer(conn)
}

// answer speaks for the broker until the connection ends. Acknowledgements go out together, when no whole packet is left of
// what one read brought.
func answer(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 1<<16)
	var out []byte
	for {
		if in.Buffered() == 0 && len(out) > 0 {
			if _, err := conn.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		first, err := in.ReadByte()
		if err != nil {
			return
		}
		length, shift := 0, 0
		for {
			b, err := in.ReadByte()
			if err != nil || shift > 21 {
				return
			}
			length |= int(b&127) << shift
			if b < 128 {
				break
			}
			shift += 7
		}
		if out, err = reply(in, out, first, length); err != nil {
			return
		}
	}
}

// reply reads the rest of a packet and appends what a broker says to it.
func reply(in *bufio.Reader, out []byte, first byte, length int) ([]byte, error) {
	switch first >> 4 {
	case 1:
		out = append(out, 0x20, 2, 0, 0)
	case 12:
		out = append(out, 0xd0, 0)
	case 14:
		return out, io.EOF
	case 3:
		if first&6 == 0 {
			break
		}
		head, err := in.Peek(2)
		if err != nil {
			return out, err
		}
		at := 2 + int(head[0])<<8 + int(head[1])
		if head, err = in.Peek(at + 2); err != nil {
			return out, err
		}
		out = append(out, 0x40, 2, head[at], head[at+1])
	}
	_, err := in.Discard(length)
	return out, err
}
