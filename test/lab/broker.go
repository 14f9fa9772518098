package lab

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// Broker is a mosquitto process. It keeps its address and files over Kill and Restart.
type Broker struct {
	Proc *Proc
	ns   *Namespace
	path string
	conf string
	addr string
}

// BrokerOptions says where a broker listens. Host is an IP address; "" is every address in a namespace, else 127.0.0.1.
type BrokerOptions struct {
	NS    *Namespace
	Host  string
	TLS   int  // TLS port; 0: none
	Plain int  // cleartext port; 0: none
	Cert  Cert // the broker's own certificate
	CA    *CA  // if set, clients must show a certificate of this authority
	Extra string
}

// Mosquitto starts a mosquitto that stores nothing, refuses nobody and keeps every queued message, and returns when it
// accepts connections.
func Mosquitto(t T, o BrokerOptions) *Broker {
	t.Helper()
	path := NeedTool(t, "mosquitto")
	if o.Host == "" && o.NS == nil {
		o.Host = "127.0.0.1"
	}
	var s strings.Builder
	s.WriteString("user root\nper_listener_settings false\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n" +
		"max_inflight_messages 0\nset_tcp_nodelay true\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information\nlog_type subscribe\n" + o.Extra)
	port := o.TLS
	if o.Plain != 0 {
		fmt.Fprintf(&s, "\nlistener %d %s\n", o.Plain, o.Host)
		port = o.Plain
	}
	if o.TLS != 0 {
		fmt.Fprintf(&s, "\nlistener %d %s\ncertfile %s\nkeyfile %s\n", o.TLS, o.Host, o.Cert.CertFile, o.Cert.KeyFile)
		if o.CA != nil {
			fmt.Fprintf(&s, "cafile %s\nrequire_certificate true\n", o.CA.File)
		}
		port = o.TLS
	}
	b := &Broker{ns: o.NS, path: path, conf: filepath.Join(t.TempDir(), "mosquitto.conf"), addr: net.JoinHostPort(o.Host, strconv.Itoa(port))}
	if err := os.WriteFile(b.conf, []byte(s.String()), 0o600); err != nil {
		t.Fatalf("write the broker's configuration: %v", err)
	}
	b.Restart(t)
	return b
}

// Kill ends the broker with SIGKILL.
func (b *Broker) Kill() { b.Proc.Kill() }

// Restart starts the broker again, and returns when it accepts connections.
func (b *Broker) Restart(t T) {
	t.Helper()
	b.Proc = Start(t, Cmd{NS: b.ns, Path: b.path, Args: []string{"-c", b.conf}})
	if err := b.Proc.AwaitLine(Within(t, 20*time.Second), " running"); err != nil {
		t.Fatalf("start the broker on %s: %v", b.addr, err)
	}
}

// Embedded starts a broker inside the testing process, on machines without mosquitto.
func Embedded(t T, ns *Namespace, addr string, conf *tls.Config) {
	t.Helper()
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen for the broker: %v", err)
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	opts := &mochi.Options{InlineClient: false, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	server := mochi.New(opts)
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatalf("start the broker: %v", err)
	}
	if err := server.AddListener(listeners.NewNet("lab", l)); err != nil {
		t.Fatalf("start the broker: %v", err)
	}
	if err := server.Serve(); err != nil {
		t.Fatalf("start the broker: %v", err)
	}
	t.Cleanup(func() { server.Close() })
}
