package uplink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority is a CA made for a test.
type authority struct {
	tb   testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb}
	t := template("test CA")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	a.key = newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	if err != nil {
		tb.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.pem = encode("CERTIFICATE", der)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func template(name string) *x509.Certificate {
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue makes a certificate; change adapts the template.
func (a *authority) issue(change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	a.tb.Helper()
	t := template("broker")
	t.DNSNames, t.IPAddresses = []string{"broker.test"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	if change != nil {
		change(t)
	}
	key := newKey(a.tb)
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", k)
}

// listen accepts connections on loopback and hands each to serve, in a goroutine.
func listen(tb testing.TB, serve func(net.Conn)) netip.AddrPort {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// broker listens with TLS; serve may be nil to close after the handshake.
func (a *authority) broker(config *tls.Config, change func(*x509.Certificate), serve func(*tls.Conn)) netip.AddrPort {
	a.tb.Helper()
	certPEM, keyPEM := a.issue(change)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.tb.Fatal(err)
	}
	if config == nil {
		config = &tls.Config{}
	}
	config.Certificates = []tls.Certificate{pair}
	return listen(a.tb, func(c net.Conn) {
		t := tls.Server(c, config)
		defer t.Close()
		if t.Handshake() == nil && serve != nil {
			serve(t)
		}
	})
}

func (a *authority) dialer(addr netip.AddrPort, change func(*Config)) *Dialer {
	a.tb.Helper()
	cfg := Config{TLS: true, Port: addr.Port(), CA: a.pem, CAFile: "ca.pem"}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		a.tb.Fatal(err)
	}
	return d
}

func TestDialFailuresSayWhatToDo(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	closed := listen(t, func(c net.Conn) { c.Close() })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	silent := listen(t, func(c net.Conn) { <-done; c.Close() })
	plain := listen(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); <-done; c.Close() })
	good := ca.broker(nil, nil, nil)
	for _, tt := range []struct {
		name, reason, text string
		addr               netip.AddrPort
		change             func(*Config)
	}{
		{"wrong CA", ReasonUntrusted, "not signed by uplink.ca ca.pem", good, func(c *Config) { c.CA = other.pem }},
		{"system's CAs", ReasonUntrusted, "system's certificates", good, func(c *Config) { c.CA, c.CAFile = nil, "" }},
		{"expired", ReasonExpired, "renew it, or set this gateway's clock", ca.broker(nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil), nil},
		{"not valid yet", ReasonExpired, "not valid now", ca.broker(nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, nil), nil},
		{"another name", ReasonMismatch, `not for "wrong.test"; set uplink.server_name to the name it carries (broker.test, 127.0.0.1)`, good, func(c *Config) { c.ServerName = "wrong.test" }},
		{"another address", ReasonMismatch, "(broker.test)", ca.broker(nil, func(c *x509.Certificate) { c.IPAddresses = nil }, nil), nil},
		{"refused", ReasonRefused, "check that the broker runs", nobody, nil},
		{"closed", ReasonClosed, "closed during the TLS handshake", closed, nil},
		{"silent", ReasonTimeout, "did not end in time", silent, func(c *Config) { c.Timeout = 50 * time.Millisecond }},
		{"not TLS", ReasonNotTLS, "uplink.tls = false", plain, nil},
		{"no such name", ReasonName, "cannot resolve", nobody, func(c *Config) { c.Broker = "no-such-host.invalid:8883"; c.Timeout = 2 * time.Second }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ca.dialer(tt.addr, tt.change).Dial(context.Background(), tt.addr)
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			if tt.name == "no such name" && Reason(err) != ReasonName {
				t.Skipf("no resolver here: %v", err)
			}
			if Reason(err) != tt.reason || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", Reason(err), err)
			}
			if errors.Unwrap(err) == nil {
				t.Error("the cause is lost")
			}
		})
	}
	if Reason(io.EOF) != ReasonOther {
		t.Error("an error of someone else")
	}
}

func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	hello := func(c *tls.Conn) { _, _ = c.Write([]byte("hello")) }
	addr := ca.broker(&tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: tls.VersionTLS12}, nil, hello)
	if _, err := ca.dialer(addr, nil).Dial(context.Background(), addr); Reason(err) != ReasonRejected {
		t.Errorf("without one: %v", err)
	}
	cert, key := ca.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	c, err := ca.dialer(addr, func(c *Config) { c.Cert, c.Key = cert, key }).Dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestNewRefusesBadConfig(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(nil)
	_, otherKey := ca.issue(nil)
	for name, cfg := range map[string]Config{
		"uplink.broker \"broker\"": {Broker: "broker"},
		"want host:port":           {Broker: ":1883"},
		"from 1 to 65535":          {Broker: "broker:0"},
		"uplink.ca ca.pem":         {TLS: true, CA: []byte("nothing"), CAFile: "ca.pem"},
		"set both or neither":      {TLS: true, Cert: cert},
		"not a certificate and":    {TLS: true, Cert: cert, Key: otherKey},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{TLS: true, Cert: cert, Key: key}); err != nil {
		t.Error(err)
	}
}

func TestTarget(t *testing.T) {
	dst := netip.MustParseAddrPort("[::ffff:10.0.0.5]:1883")
	for _, tt := range []struct {
		cfg        Config
		addr, name string
	}{
		{Config{TLS: true}, "10.0.0.5:8883", "10.0.0.5"},
		{Config{}, "10.0.0.5:1883", "10.0.0.5"},
		{Config{Port: 99}, "10.0.0.5:99", "10.0.0.5"},
		{Config{TLS: true, ServerName: "b.test"}, "10.0.0.5:8883", "b.test"},
		{Config{TLS: true, Broker: "b.test:1234"}, "b.test:1234", "b.test"},
		{Config{TLS: true, Broker: "[::1]:1234", ServerName: "x.test"}, "[::1]:1234", "x.test"},
	} {
		d, err := New(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if addr, name := d.target(dst); addr != tt.addr || name != tt.name {
			t.Errorf("%+v: %s %s", tt.cfg, addr, name)
		}
	}
}

// readAll reads through Read and Wait, as the pipeline does.
func readAll(c *Conn) (got []byte, waits int, err error) {
	p := make([]byte, 1000)
	for {
		n, err := c.Read(p)
		got = append(got, p[:n]...)
		switch {
		case err == ErrWouldBlock:
			waits++
			if c.raw.buf != nil {
				return got, waits, errors.New("a buffer is held while waiting")
			}
			if err := c.Wait(); err != nil {
				return got, waits, err
			}
		case err == io.EOF:
			return got, waits, nil
		case err != nil:
			return got, waits, err
		}
	}
}

func TestReadNeverBlocksAndHoldsNothing(t *testing.T) {
	ca := newAuthority(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		addr := ca.broker(&tls.Config{MinVersion: version, MaxVersion: version}, nil, func(c *tls.Conn) {
			one := make([]byte, 1)
			for i := 0; i < len(want); i += 40_000 {
				if _, err := io.ReadFull(c, one); err != nil {
					return
				}
				_, _ = c.Write(want[i:min(i+40_000, len(want))])
			}
		})
		conn, err := ca.dialer(addr, nil).Dial(context.Background(), addr)
		if err != nil {
			t.Fatal(err)
		}
		c := conn.(*Conn)
		go func() {
			for range len(want)/40_000 + 1 {
				time.Sleep(time.Millisecond) // so that there is something to wait for
				_, _ = c.Write([]byte("x"))
			}
		}()
		got, waits, err := readAll(c)
		if err != nil || !bytes.Equal(got, want) || waits == 0 {
			t.Errorf("%s: %d of %d bytes, %d waits: %v", tls.VersionName(version), len(got), len(want), waits, err)
		}
		c.Close()
	}
}

// TestPartialRecords feeds the records byte by byte.
func TestPartialRecords(t *testing.T) {
	ca := newAuthority(t)
	certPEM, keyPEM := ca.issue(nil)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	slow, far := net.Pipe()
	go func() { // server -> client one byte at a time
		p := make([]byte, 4096)
		for {
			n, err := far.Read(p)
			for i := range n {
				_, _ = server.Write(p[i : i+1])
			}
			if err != nil {
				server.Close()
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(far, server) }()
	go func() {
		s := tls.Server(slow, &tls.Config{Certificates: []tls.Certificate{pair}})
		_, _ = s.Write([]byte("in small pieces"))
		_ = s.Close()
		_ = slow.Close()
	}()
	d := ca.dialer(netip.AddrPort{}, nil)
	c, err := d.handshake(context.Background(), client, "pipe", "broker.test")
	if err != nil {
		t.Fatal(err)
	}
	got, waits, err := readAll(c.(*Conn))
	if string(got) != "in small pieces" || err != nil || waits < 10 {
		t.Errorf("%q after %d waits: %v", got, waits, err)
	}
	client.Close()
}

// TestFromDevice dials from a device's address, where that is asked for.
func TestFromDevice(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dst := l.Addr().(*net.TCPAddr).AddrPort()
	device := netip.MustParseAddrPort("[::ffff:127.0.0.9]:40000")
	for _, spoof := range []bool{false, true} {
		prepared := false
		cfg := Config{Port: dst.Port()}
		want := netip.MustParseAddr("127.0.0.1")
		if spoof {
			cfg.Spoof = func(string, string, syscall.RawConn) error { prepared = true; return nil }
			want = device.Addr().Unmap()
		}
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := d.Dial(From(t.Context(), device), dst)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.LocalAddr().(*net.TCPAddr).AddrPort(); got.Addr() != want || got.Port() == device.Port() || prepared != spoof {
			t.Errorf("spoof %t: from %s, prepared %t; want %s", spoof, got, prepared, want)
		}
	}
}
