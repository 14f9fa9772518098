package daemon_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	controld "sealgate/cmd/controld/daemon"
	gatewayd "sealgate/cmd/gatewayd/daemon"
	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/test/lab"
)

// patience bounds how long a test waits for an event: much longer than any takes.
const patience = 30 * time.Second

// logs collects what a program writes to stderr, a line at a time, and lets a test wait.
type logs struct {
	mu    sync.Mutex
	text  bytes.Buffer
	mark  int           // await looks at what was written after it
	grown chan struct{} // closed at the next write
}

func newLogs() *logs { return &logs{grown: make(chan struct{})} }

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await returns the first line after the mark that holds all words, waiting for it.
func (l *logs) await(t testing.TB, words ...string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		grown, text := l.grown, l.text.String()[l.mark:]
		l.mu.Unlock()
	lines:
		for line := range strings.Lines(text) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return line
		}
		select {
		case <-grown:
		case <-timeout:
			t.Fatalf("no line with %q in the log:\n%s", words, l)
		}
	}
}

// value is the field of a JSON log line.
func value(t testing.TB, line, field string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("log line %q: %v", line, err)
	}
	return fmt.Sprint(m[field])
}

// program is a daemon that runs in this process.
type program struct {
	t      testing.TB
	log    *logs
	hup    chan os.Signal
	cancel context.CancelFunc
	code   chan int
	once   sync.Once
}

func start(t testing.TB, main func(cmdenv.Env) int, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{t: t, log: newLogs(), hup: make(chan os.Signal), cancel: cancel, code: make(chan int, 1)}
	env := cmdenv.Env{
		Ctx: ctx, Args: append(args, "-log-format", "json"), Stdout: p.log, Stderr: p.log, Reload: p.hup,
		Getenv: func(string) string { return "" },
	}
	go func() { p.code <- cmdenv.Run(main, env) }()
	t.Cleanup(p.stop)
	return p
}

// hangup does what SIGHUP does. The log is read from here on.
func (p *program) hangup() {
	p.log.mu.Lock()
	p.log.mark = p.log.text.Len()
	p.log.mu.Unlock()
	p.hup <- syscall.SIGHUP
}

// stop ends the program as SIGTERM does, and expects it to say that all went well.
func (p *program) stop() {
	p.once.Do(func() {
		p.cancel()
		select {
		case code := <-p.code:
			if code != cmdenv.OK {
				p.t.Errorf("exit code %d:\n%s", code, p.log)
			}
		case <-time.After(patience):
			p.t.Errorf("it does not end:\n%s", p.log)
		}
	})
}

// plant is a broker, a fleet of one gateway and the gateway's files.
type plant struct {
	dir, conf, keylink, brokerAddr string
	deviceAddr                     string
	ca                             *lab.CA
	gatewayd, controld             *program
	known                          []crypto.Key // of group default, see keysOf
}

const plantPolicy = `[[group]]
name = "default"
topics = ["plant/#"]
keepers = ["gw1"]
rotate = "1h"
activate_after = "0s"
checkpoint = "1s"
`

func newPlant(t testing.TB, hooks ...mochi.Hook) *plant {
	t.Helper()
	dir, err := os.MkdirTemp("", "plant") // short: sockets' names are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &plant{dir: dir, conf: filepath.Join(dir, "sealgate.toml"), keylink: filepath.Join(dir, "k.sock"), ca: lab.NewCA(t, "broker CA")}
	p.brokerAddr = startBroker(t, p.ca, hooks...)
	if err := enrol(p.identity()); err != nil {
		t.Fatal(err)
	}
	p.write(t, p.text())
	return p
}

func (p *plant) write(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(p.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *plant) text() string {
	return fmt.Sprintf(`fleet = "plant"
identity = %q
state = %q
keylink = %q
[steer]
mode = "listen"
listen = "127.0.0.1:0"
[uplink]
broker = %q
ca = %q
[limits]
connect_timeout = "5s"
[metrics]
listen = "127.0.0.1:0"
`, p.identity(), filepath.Join(p.dir, "state"), p.keylink, p.brokerAddr, p.ca.File)
}

func (p *plant) identity() string { return filepath.Join(p.dir, "identity") }

// startBroker runs a broker with TLS in this process, in which hooks have their say, and returns its address.
func startBroker(t testing.TB, ca *lab.CA, hooks ...mochi.Hook) string {
	t.Helper()
	cert := ca.Issue(t, "broker", time.Time{}, "127.0.0.1")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.Pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	for _, hook := range append(hooks, new(auth.AllowHook)) {
		if err := server.AddHook(hook, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.AddListener(listeners.NewNet("tls", l)); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// enrol makes a fleet of one gateway and the gateway's identity directory.
func enrol(dir string) error {
	now := time.Now()
	caKey, caCert, err := crypto.NewCA("plant", rand.Reader, now)
	if err != nil {
		return err
	}
	key, cert, err := crypto.IssueMember(caKey, caCert, crypto.RoleGateway, "gw1", rand.Reader, now)
	if err != nil {
		return err
	}
	authority, err := crypto.ParseAuthority(caKey, caCert)
	if err != nil {
		return err
	}
	doc, err := policy.ParseTOML([]byte(plantPolicy))
	if err != nil {
		return err
	}
	doc.Fleet, doc.Version = "plant", 1
	signed, err := doc.Sign(authority)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, b := range map[string][]byte{"identity.key": key, "identity.crt": cert, "ca.crt": caCert, "policy.cose": signed} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (p *plant) startGatewayd(t testing.TB) { p.gatewayd = start(t, gatewayd.Main, "-config", p.conf) }
func (p *plant) startControld(t testing.TB) { p.controld = start(t, controld.Main, "-config", p.conf) }

// device is the address that devices dial.
func (p *plant) device(t testing.TB) string {
	if p.deviceAddr == "" {
		p.deviceAddr = value(t, p.gatewayd.log.await(t, "gatewayd runs"), "listen")
	}
	return p.deviceAddr
}

// awaitReady waits until a device is served, trying as a device does.
func (p *plant) awaitReady(t testing.TB) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if code := connack(t, p.device(t)); code == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("no device is served\ngatewayd:\n%s\ncontrold:\n%s", p.gatewayd.log, p.controld.log)
		}
	}
}

// connack connects and returns the broker's (or the gateway's) return code, -1 for none.
func connack(t testing.TB, addr string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ok")
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return -1
	}
	return int(ack[3])
}

// mqttClient connects a client that gives up on nothing by itself.
func mqttClient(t testing.TB, url, id string, conf *tls.Config) mqtt.Client {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID(id).SetTLSConfig(conf).SetConnectTimeout(patience))
	done(t, c.Connect(), "connect "+id)
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func done(t testing.TB, token mqtt.Token, what string) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatalf("%s: no answer", what)
	}
	if err := token.Error(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func await[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}
