package cli_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/cli"
	"sealgate/pkg/crypto"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sealctl": func() { cmdenv.Exec(cli.Main) }})
}

// TestScripts runs testdata/script. Beside testscript's own commands there are:
//
//	exits CODE COMMAND...     the command must exit with this code
//	broker [tls] [user PASS]  starts a broker; sets BROKER, and CAFILE with tls
//	keeper DIR                runs the member of an identity directory until the script ends
//	subscribed FILTER         waits until somebody has subscribed
//	inject TOPIC TEXT         publishes as the broker itself
//	unseen TEXT               no PUBLISH that the broker saw may contain this, in its topic or its payload
//	daemons                   starts what answers as gatewayd (ADDR) and controld (KEYLINK)
//	mode FILE PERM            the file must have this mode
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/script",
		Deadline: time.Now().Add(2 * time.Minute),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "broker": startBroker, "keeper": startKeeper, "subscribed": awaitSubscribed,
			"inject": inject, "unseen": unseen, "daemons": startDaemons, "mode": mode,
		},
		Setup: func(e *testscript.Env) error {
			e.Values[brokerKey{}] = new(holder)
			return nil
		},
	})
}

type brokerKey struct{}

// scriptT makes a script's T serve the workbench, which wants a temporary directory and more.
type scriptT struct {
	*testscript.TestScript
}

func (scriptT) Helper()                     {}
func (s scriptT) Name() string              { return s.TestScript.Name() }
func (s scriptT) Errorf(f string, a ...any) { s.Fatalf(f, a...) }
func (s scriptT) Skipf(f string, a ...any)  { s.Fatalf(f, a...) }
func (s scriptT) Failed() bool              { return false }
func (s scriptT) Cleanup(f func())          { s.Defer(f) }
func (s scriptT) TempDir() string {
	dir, err := os.MkdirTemp(s.Getenv("WORK"), "lab-*")
	s.Check(err)
	return dir
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func startBroker(ts *testscript.TestScript, _ bool, args []string) {
	t := scriptT{ts}
	var o embedded.Options
	if len(args) > 0 && args[0] == "tls" {
		args = args[1:]
		ca := lab.NewCA(t, "broker CA")
		o.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "broker", time.Time{}, "127.0.0.1").Pair}}
		ts.Setenv("CAFILE", ca.File)
	}
	if len(args) == 2 {
		o.Username, o.Password = args[0], args[1]
	}
	b := embedded.Start(t, o)
	ts.Setenv("BROKER", b.URL())
	ts.Value(brokerKey{}).(*holder).broker = b
}

// holder is what a script keeps between its commands.
type holder struct{ broker *embedded.Broker }

func brokerOf(ts *testscript.TestScript) *embedded.Broker {
	b := ts.Value(brokerKey{}).(*holder).broker
	if b == nil {
		ts.Fatalf("no broker was started")
	}
	return b
}

func startKeeper(ts *testscript.TestScript, _ bool, args []string) {
	id, trust, signed, err := member.LoadIdentity(ts.MkAbs(args[0]))
	ts.Check(err)
	topics, err := member.LoadTopicSecret(ts.MkAbs(args[0]))
	ts.Check(err)
	t, err := session.TLSFiles(ts.Getenv("CAFILE"), "", "")
	ts.Check(err)
	m, err := member.Start(context.Background(), member.Config{
		Identity: id, Trust: trust, Policy: signed, Topics: topics, Broker: []string{ts.Getenv("BROKER")}, TLS: t, Log: slog.New(slog.DiscardHandler),
	})
	ts.Check(err)
	ts.Defer(func() { m.Close() })
}

func awaitSubscribed(ts *testscript.TestScript, _ bool, args []string) {
	select {
	case <-brokerOf(ts).Subscribed(args[0]):
	case <-time.After(30 * time.Second):
		ts.Fatalf("nobody has subscribed to %q", args[0])
	}
}

func inject(ts *testscript.TestScript, _ bool, args []string) {
	brokerOf(ts).Inject(args[0], []byte(args[1]), 1, false)
}

func unseen(ts *testscript.TestScript, neg bool, args []string) {
	for _, p := range brokerOf(ts).Seen() {
		if strings.Contains(p.Topic+" "+string(p.Payload), args[0]) {
			if !neg {
				ts.Fatalf("the broker saw %q on %s", args[0], p.Topic)
			}
			return
		}
	}
	if neg {
		ts.Fatalf("the broker never saw %q", args[0])
	}
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func startDaemons(ts *testscript.TestScript, _ bool, _ []string) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"gateway":"gw1","ready":true,"controld_connected":true,"policy_version":4,"groups":[{"name":"default","epoch":"4.1.2","sending":"4.1.2","keys":2,"age_seconds":90,"fresh_seconds":85800}],`+
			`"traffic":{"connections":1,"streams":3,"messages":{"up":{"seal":17}},"devices":[{"client":"pump-7","device":"10.0.0.7:4711","broker":"10.1.0.1:1883","seconds":61,"up":17,"down":0,"refused":0}]}}`)
	}))
	ts.Defer(web.Close)
	ts.Setenv("ADDR", strings.TrimPrefix(web.URL, "http://"))
	dir, err := os.MkdirTemp("", "keylink") // short: a unix socket's path has 107 bytes
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	server, err := keylink.Listen(path, keylink.ServerOptions{
		Log: slog.New(slog.DiscardHandler),
		OnRotate: func(_ context.Context, group string) (crypto.Epoch, error) {
			if group != "default" {
				return crypto.Epoch{}, fmt.Errorf("no group is called %q", group)
			}
			return crypto.Epoch{PolicyVersion: 4, Generation: 1, Number: 3}, nil
		},
		OnStatus: func() ([]byte, error) {
			return []byte(`{"fleet":"plant","member":"gw1","role":"gateway","connected":true,"policy":{"version":4},"groups":[{"name":"default","leader":"gw1","epoch":"4.1.2","confirmed":true,"keys":2,"granted":5,"age_seconds":90,"fresh_seconds":3600,"stale":true}],"alarms":0}`), nil
		},
	})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ctx) }()
	ts.Defer(func() { cancel(); <-done })
	ts.Setenv("KEYLINK", path)
}
