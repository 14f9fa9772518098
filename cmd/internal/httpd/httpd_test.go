package httpd

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(l, map[string]Page{
		"/x":   {"text/x", func(w io.Writer) { io.WriteString(w, "hello\n") }},
		"/bad": {"text/x", func(io.Writer) { panic("a defect") }},
	})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve() }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// An ordinary client understands the answers.
func TestWithNetHTTP(t *testing.T) {
	base := "http://" + serve(t)
	client := http.Client{Timeout: 20 * time.Second}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/x", "hello\n", 200},
		{"GET", "/x?y=1", "hello\n", 200},
		{"HEAD", "/x", "", 200},
		{"GET", "/", "not found\n", 404},
		{"GET", "/x/../x", "not found\n", 404},
		{"POST", "/x", "GET only\n", 405},
		{"DELETE", "/x", "GET only\n", 405},
	} {
		req, err := http.NewRequest(tt.method, base+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || string(b) != tt.body {
			t.Errorf("%s %s: %s %q %v", tt.method, tt.path, resp.Status, b, err)
		}
		if tt.status == 200 && resp.Header.Get("Content-Type") != "text/x" {
			t.Errorf("content type %q", resp.Header.Get("Content-Type"))
		}
	}
}

func ask(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, request)
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestWhatIsNoRequestGetsNoPage(t *testing.T) {
	addr := serve(t)
	for _, request := range []string{"GET /bad HTTP/1.1\r\n\r\n", "\r\n\r\n", "GET\r\n\r\n", "GET /x\r\n\r\n", "GET /x HTTP/2\r\n\r\n", "GET http://a/x HTTP/1.1\r\n\r\n", "\x10\x0e\x00\x04MQTT\x04\n"} {
		if got := ask(t, addr, request); got != "" {
			t.Errorf("%q was answered with %q", request, got)
		}
	}
	if got := ask(t, addr, "GET /x HTTP/1.1\r\n"+strings.Repeat("a: b\r\n", maxHead)); !strings.Contains(got, "431") && got != "" {
		t.Errorf("a large head was answered with %q", got)
	}
	if got := ask(t, addr, "GET /x HTTP/1.0\n\n"); !strings.HasSuffix(got, "hello\n") {
		t.Errorf("after all that: %q", got)
	}
}

func TestIdleConnectionsDoNotShutOthersOut(t *testing.T) {
	addr := serve(t)
	for range maxConns - 1 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := ask(t, addr, "GET /x HTTP/1.1\r\n\r\n"); !strings.Contains(got, "200 OK") {
		t.Errorf("got %q", got)
	}
}

func TestCloseEndsWaitingConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(l, nil)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = s.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("Serve goes on after Close")
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", "GET /x?a HTTP/1.0\n\n", "GET /", "\r\n", "A B C\r\nD: E\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		method, path, err := readRequest(bytes.NewReader(b))
		if err == nil && (method == "" || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "? ")) {
			t.Errorf("method %q, path %q", method, path)
		}
	})
}
