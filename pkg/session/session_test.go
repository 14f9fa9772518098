package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/session"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

func TestParseBroker(t *testing.T) {
	for _, c := range []struct{ in, want, bad string }{
		{in: "mqtt://plant", want: "mqtt://plant:1883"},
		{in: "mqtts://plant", want: "mqtts://plant:8883"},
		{in: "mqtts://10.0.0.1:1234/", want: "mqtts://10.0.0.1:1234"},
		{in: "mqtt://[::1]", want: "mqtt://[::1]:1883"},
		{in: "", bad: "want mqtt://"},
		{in: "plant:1883", bad: "want mqtt://"},
		{in: "tcp://plant", bad: "want mqtt://"},
		{in: "mqtt://", bad: "want mqtt://"},
		{in: "mqtt://plant/topic", bad: "only a host"},
		{in: "mqtt://plant:0", bad: "1 to 65535"},
		{in: "mqtt://plant:99999", bad: "1 to 65535"},
		{in: "mqtt://user:hunter2@plant", bad: "own option"},
	} {
		b, err := session.ParseBroker(c.in)
		switch {
		case c.bad == "" && (err != nil || b.String() != c.want):
			t.Errorf("%q: got %v, %v; want %s", c.in, b, err, c.want)
		case c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)):
			t.Errorf("%q: got error %v; want one with %q", c.in, err, c.bad)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%q: the error shows the password", c.in)
		}
	}
}

// events collects what a session's callbacks report.
type events struct {
	ups   chan *session.Conn
	downs chan error
	msgs  chan *session.Message
}

func start(t *testing.T, cfg session.Config) (*session.Session, events) {
	t.Helper()
	e := events{make(chan *session.Conn, 16), make(chan error, 64), make(chan *session.Message, 64)}
	cfg.Up = func(c *session.Conn) { e.ups <- c }
	cfg.Down = func(err error) {
		select {
		case e.downs <- err:
		default:
		}
	}
	cfg.Message = func(m *session.Message) { e.msgs <- m }
	if cfg.ClientID == "" {
		cfg.CleanSession = true
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := session.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, e
}

func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s came", what)
		panic("unreachable")
	}
}

func broker(t *testing.T, url string) []session.Broker {
	t.Helper()
	b, err := session.ParseBroker(url)
	if err != nil {
		t.Fatal(err)
	}
	return []session.Broker{b}
}

func TestSessionComesBack(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	_, e := start(t, session.Config{Brokers: broker(t, b.URL())})
	c := next(t, "connection", e.ups)
	if err := c.Subscribe(t.Context(), "a/+", 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish("a/b", []byte("one"), 1, false).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := next(t, "message", e.msgs)
	if m.Topic != "a/b" || string(m.Payload) != "one" || m.QoS != 1 {
		t.Errorf("got %+v", m)
	}
	m.Ack()
	b.Stop()
	next(t, "loss", e.downs)
	<-c.Done()
	if err := c.Publish("a/b", []byte("two"), 1, false).Wait(t.Context()); !errors.Is(err, session.ErrLost) {
		t.Errorf("publish on a lost connection: got %v, want ErrLost", err)
	}
	b.Restart()
	next(t, "second connection", e.ups)
}

func TestTwoSessionsDifferInClientID(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	_, one := start(t, session.Config{Brokers: broker(t, b.URL())})
	_, two := start(t, session.Config{Brokers: broker(t, b.URL())})
	a, z := next(t, "connection", one.ups), next(t, "connection", two.ups)
	for _, c := range []*session.Conn{a, z} {
		if err := c.Publish("x", nil, 1, false).Wait(t.Context()); err != nil {
			t.Errorf("a session took over the other: %v", err)
		}
	}
}

// record is a slog handler that keeps the lines.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) Enabled(context.Context, slog.Level) bool { return true }
func (r *record) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *record) WithGroup(string) slog.Handler            { return r }
func (r *record) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, rec.Message)
	return nil
}

func TestProblemIsLoggedOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "mqtt://" + l.Addr().String()
	l.Close()
	var log record
	_, e := start(t, session.Config{Brokers: broker(t, url), Log: slog.New(&log)})
	for range 3 {
		if err := next(t, "failure", e.downs); !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.lines) != 1 {
		t.Errorf("three equal failures made %d log lines: %q", len(log.lines), log.lines)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	ca, other := lab.NewCA(t, "broker CA"), lab.NewCA(t, "other CA")
	good := ca.Issue(t, "good", time.Time{}, "127.0.0.1")
	expired := ca.Issue(t, "expired", time.Now().Add(-time.Hour), "127.0.0.1")
	misnamed := ca.Issue(t, "misnamed", time.Time{}, "elsewhere.example")
	server := func(c lab.Cert) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c.Pair}} }
	mutual := server(good)
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	trust := &tls.Config{RootCAs: ca.Pool()}
	for _, c := range []struct {
		name      string
		broker    embedded.Options
		cfg       session.Config
		plain     bool // speak mqtt:// to it
		secure    bool // speak mqtts:// to it
		want      string
		permanent bool
	}{
		{name: "wrong CA", broker: embedded.Options{TLS: server(good)}, cfg: session.Config{TLS: &tls.Config{RootCAs: other.Pool()}}, want: "--cafile", permanent: true},
		{name: "expired", broker: embedded.Options{TLS: server(expired)}, cfg: session.Config{TLS: trust}, want: "not valid now", permanent: true},
		{name: "misnamed", broker: embedded.Options{TLS: server(misnamed)}, cfg: session.Config{TLS: trust}, want: `not for "127.0.0.1"`, permanent: true},
		{name: "client certificate", broker: embedded.Options{TLS: mutual}, cfg: session.Config{TLS: trust}, want: "client certificate", permanent: true},
		{name: "password", broker: embedded.Options{Username: "u", Password: "p"}, cfg: session.Config{Username: "u", Password: "q"}, want: "right user name", permanent: true},
		{name: "not TLS", secure: true, want: "is this its TLS port"},
		{name: "TLS expected", broker: embedded.Options{TLS: server(good)}, plain: true, want: "use mqtts://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := embedded.Start(t, c.broker)
			url := b.URL()
			if c.plain {
				url = "mqtt://" + b.Addr
			}
			if c.secure {
				url = "mqtts://" + b.Addr
			}
			c.cfg.Brokers = broker(t, url)
			_, e := start(t, c.cfg)
			err := next(t, "failure", e.downs)
			problem, ok := errors.AsType[*session.Error](err)
			if !ok || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %q; want one line with %q", err, c.want)
			}
			if problem.Permanent != c.permanent {
				t.Errorf("permanent is %t, want %t: %v", problem.Permanent, c.permanent, err)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	b := []session.Broker{{Addr: "127.0.0.1:1", Host: "127.0.0.1"}}
	for _, c := range []struct {
		cfg  session.Config
		want string
	}{
		{session.Config{CleanSession: true}, "no broker"},
		{session.Config{Brokers: b, CleanSession: true, TLS: &tls.Config{InsecureSkipVerify: true}}, "InsecureSkipVerify"},
		{session.Config{Brokers: b, CleanSession: true, Password: "p"}, "without a user name"},
		{session.Config{Brokers: b}, "client id"},
	} {
		if _, err := session.Start(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}

// TestHostileServer feeds a session what no server may send; the session must end the
// connection, say why, and stay alive.
func TestHostileServer(t *testing.T) {
	connack := []byte{0x20, 2, 0, 0}
	for _, c := range []struct {
		name string
		send []byte
		want string
	}{
		{"garbage", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "PUBREL|packet type|bytes"},
		{"long suback", append(connack[:4:4], 0x90, 200, 1), "want 3"},
		{"huge packet", append(connack[:4:4], 0x30, 0xff, 0xff, 0xff, 0x7f), "limit"},
		{"five length bytes", append(connack[:4:4], 0x30, 0xff, 0xff, 0xff, 0xff, 0x01), "four bytes"},
		{"QoS 3", append(connack[:4:4], 0x36, 10), "QoS 3"},
		{"client packet", append(connack[:4:4], 0x82, 10), "packet type 8"},
		{"unknown return code", []byte{0x20, 2, 0, 99}, "return code 99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					conn.Write(c.send)
					go func() { conn.Read(make([]byte, 4096)); conn.Read(make([]byte, 4096)); conn.Close() }()
				}
			}()
			_, e := start(t, session.Config{Brokers: broker(t, "mqtt://"+l.Addr().String())})
			err = next(t, "failure", e.downs)
			found := false
			for _, w := range strings.Split(c.want, "|") {
				found = found || strings.Contains(err.Error(), w)
			}
			if !found {
				t.Errorf("got %q; want %q", err, c.want)
			}
		})
	}
}

func TestGuardSeesEveryBoundary(t *testing.T) {
	// A PUBLISH that arrives byte by byte passes as one that arrives whole.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	payload := strings.Repeat("x", 300)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		packet := append([]byte{0x20, 2, 0, 0, 0x30, 0xaf, 0x02, 0, 1, 't'}, payload...)
		for _, c := range packet {
			conn.Write([]byte{c})
		}
	}()
	_, e := start(t, session.Config{Brokers: broker(t, fmt.Sprintf("mqtt://%s", l.Addr()))})
	if m := next(t, "message", e.msgs); m.Topic != "t" || string(m.Payload) != payload {
		t.Errorf("got topic %q and %d bytes", m.Topic, len(m.Payload))
	}
}

func TestParseBrokers(t *testing.T) {
	all, err := session.ParseBrokers("mqtts://one.example, mqtt://two.example:1884")
	if err != nil || len(all) != 2 || all[0].String() != "mqtts://one.example:8883" || all[1].String() != "mqtt://two.example:1884" {
		t.Errorf("got %v, %v", all, err)
	}
	for _, bad := range []string{"", "mqtt://one,", "mqtt://one mqtt://two"} {
		if all, err := session.ParseBrokers(bad); err == nil {
			t.Errorf("%q gave %v", bad, all)
		}
	}
}

// The list is tried in order, and a broker that does not keep its connections is followed by the next.
func TestListOfBrokers(t *testing.T) {
	gone, one, two := embedded.Start(t, embedded.Options{}), embedded.Start(t, embedded.Options{}), embedded.Start(t, embedded.Options{})
	gone.Stop()
	list := slices.Concat(broker(t, gone.URL()), broker(t, one.URL()), broker(t, two.URL()))
	_, e := start(t, session.Config{Brokers: list})
	for i, want := range []*embedded.Broker{one, two, one, two} {
		c := next(t, "connection", e.ups)
		if err := c.Publish("turn", []byte{byte(i)}, 1, false).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if seen := want.Seen(); len(seen) == 0 || seen[len(seen)-1].Payload[0] != byte(i) {
			t.Fatalf("connection %d went to another broker", i)
		}
		c.Drop()
	}
}
