package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/config"
	"sealgate/pkg/gateway/uplink"
)

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestDialTriesTheBrokersInOrder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dead := closedPort(t)
	cfg := &config.Config{
		Uplink: config.Uplink{Broker: []string{dead, l.Addr().String()}},
		Limits: config.Limits{ConnectTimeout: 20 * time.Second},
	}
	u := new(uplinks)
	if err := u.configure(cfg); err != nil {
		t.Fatal(err)
	}
	c, err := u.dial(context.Background(), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("dialled %v", c.RemoteAddr())
	}
	all, now := *u.dialers.Load(), time.Now()
	if o := order(all, now); o[0] != all[1] || o[1] != all[0] {
		t.Error("a broker that could not be reached is still tried first")
	}
	if o := order(all, now.Add(avoidFor+time.Minute)); o[0] != all[0] {
		t.Error("a broker that could not be reached is avoided for good")
	}
	cfg.Uplink.Broker = []string{dead, closedPort(t)}
	if err := u.configure(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := u.dial(context.Background(), netip.AddrPort{}); err == nil || uplink.Reason(err) != uplink.ReasonRefused || !strings.Contains(err.Error(), dead) {
		t.Errorf("with no broker there: %v", err)
	}
}

// Settings that cannot be used leave those in force.
func TestConfigureChangesNothingOnError(t *testing.T) {
	u := new(uplinks)
	good := &config.Config{Uplink: config.Uplink{Broker: []string{"127.0.0.1:1"}}, Limits: config.Limits{ConnectTimeout: time.Second}}
	if err := u.configure(good); err != nil {
		t.Fatal(err)
	}
	before := u.dialers.Load()
	bad := *good
	bad.Uplink.TLS, bad.Uplink.CA = true, "/nonexistent/ca.pem"
	if err := u.configure(&bad); err == nil || !strings.Contains(err.Error(), "uplink.ca") {
		t.Errorf("a CA that is not there: %v", err)
	}
	if u.dialers.Load() != before {
		t.Error("the dialers have changed")
	}
}

func TestAdvice(t *testing.T) {
	for _, tt := range []struct {
		tls    bool
		listen string
		want   int // warnings
	}{
		{true, "127.0.0.1:9883", 0}, {true, "[::1]:9883", 0}, {true, "localhost:9883", 0}, {true, "", 0},
		{true, ":9883", 1}, {true, "192.0.2.1:9883", 1}, {false, "127.0.0.1:9883", 1},
	} {
		var out bytes.Buffer
		d := &daemon{log: slog.New(slog.NewTextHandler(&out, nil)), cfg: &config.Config{Uplink: config.Uplink{TLS: tt.tls}, Metrics: config.Metrics{Listen: tt.listen}}}
		d.advise()
		if got := strings.Count(out.String(), "level=WARN"); got != tt.want {
			t.Errorf("TLS %v, metrics at %q: %d warnings, want %d", tt.tls, tt.listen, got, tt.want)
		}
	}
}
