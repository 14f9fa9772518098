package keylink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/pkg/crypto"
)

// patience bounds how long a test waits for an event: much longer than any event takes.
const patience = 20 * time.Second

func newKey(t testing.TB, group string, number uint64) crypto.Key {
	t.Helper()
	secret, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return crypto.Key{
		ID: crypto.KeyIDOf(secret, group), Epoch: crypto.Epoch{PolicyVersion: 1, Generation: 2, Number: number},
		Secret: secret, Send: true, NotAfter: 90 * time.Second,
	}
}

func newSnapshot(t testing.TB) Snapshot {
	return Snapshot{
		Policy: []byte{1, 2, 3}, Gateway: "gw1",
		Keys:      map[string][]crypto.Key{"a": {newKey(t, "a", 2), newKey(t, "a", 1)}, "b": nil},
		Authority: map[string]Authority{"a": {15 * time.Minute, 24 * time.Hour}},
		Epochs:    map[string]EpochInfo{"a": {crypto.Epoch{PolicyVersion: 1, Generation: 2, Number: 2}, 1500 * time.Millisecond}},
		Control:   map[Counter]uint64{{"hello", "sent"}: 3, {"grant", "accepted"}: 1},
	}
}

// socketPath is short: a test's own directory may be too long for a socket's name.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "k.sock")
}

// serve runs a server until the test or the returned function ends it.
func serve(t testing.TB, path string, opt ServerOptions) (*Server, func()) {
	t.Helper()
	s, err := Listen(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return s, stop
}

type delivery struct {
	Snapshot
	renewed bool
}

// client runs a client and returns what it delivers.
func client(t testing.TB, path string, opt ClientOptions) (*Client, <-chan delivery) {
	t.Helper()
	got := make(chan delivery, 64)
	opt.OnSnapshot = func(s Snapshot, renewed bool) { got <- delivery{s, renewed} }
	c := NewClient(path, opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c, got
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

func sameSnapshot(a, b Snapshot) bool {
	if !a.sameKeys(&b) || len(a.Epochs) != len(b.Epochs) || len(a.Control) != len(b.Control) {
		return false
	}
	for g, e := range a.Epochs {
		if b.Epochs[g] != e {
			return false
		}
	}
	for c, n := range a.Control {
		if b.Control[c] != n {
			return false
		}
	}
	return true
}

func TestSnapshotArrivesAtConnectAndAtChange(t *testing.T) {
	path := socketPath(t)
	s, _ := serve(t, path, ServerOptions{})
	first := newSnapshot(t)
	s.Publish(first)
	_, got := client(t, path, ClientOptions{})
	d := await(t, got, "the first snapshot")
	if !d.renewed || !sameSnapshot(d.Snapshot, first) {
		t.Fatalf("got %+v", d)
	}
	if !d.Keys["a"][0].Secret.Equal(first.Keys["a"][0].Secret) {
		t.Error("the secret changed on its way")
	}
	if keys, there := d.Keys["b"]; !there || len(keys) != 0 {
		t.Error("a group without keys must arrive as such")
	}

	counted := first
	counted.Control = map[Counter]uint64{{"hello", "sent"}: 4}
	s.Publish(counted)
	if d = await(t, got, "new counters"); d.renewed || !sameSnapshot(d.Snapshot, counted) {
		t.Fatalf("counters alone: got %+v", d)
	}

	rotated := newSnapshot(t)
	s.Publish(rotated)
	if d = await(t, got, "new keys"); !d.renewed || !sameSnapshot(d.Snapshot, rotated) {
		t.Fatalf("new keys: got %+v", d)
	}
}

func TestSlowClientGetsTheNewestSnapshotOnly(t *testing.T) {
	path := socketPath(t)
	s, _ := serve(t, path, ServerOptions{})
	var last Snapshot
	for range 100 {
		last = newSnapshot(t)
		s.Publish(last)
	}
	_, got := client(t, path, ClientOptions{})
	if d := await(t, got, "a snapshot"); !sameSnapshot(d.Snapshot, last) {
		t.Error("an old snapshot was delivered")
	}
}

func TestReports(t *testing.T) {
	path := socketPath(t)
	type unknown struct {
		group string
		id    crypto.KeyID
	}
	unknowns, reports := make(chan unknown, 8), make(chan Report, 8)
	s, _ := serve(t, path, ServerOptions{
		OnUnknownKey: func(g string, id crypto.KeyID) { unknowns <- unknown{g, id} },
		OnReport:     func(r Report) { reports <- r },
	})
	s.Publish(Snapshot{Gateway: "gw1"})
	c, got := client(t, path, ClientOptions{})
	want := Report{Ready: true, Held: map[string]crypto.Epoch{"a": {PolicyVersion: 1, Generation: 2, Number: 3}}}
	streams := []Stream{{
		Group: "a", Topic: [32]byte{1}, Key: crypto.KeyID{2}, Stream: crypto.StreamID{3}, From: 4, Next: 9,
		Burned: []crypto.Range{{From: 5, To: 6}}, Final: true,
	}}
	c.Report(want)
	c.ReportUnknown("a", crypto.KeyID{1, 2, 3, 4})
	await(t, got, "the snapshot")
	if r := await(t, reports, "the report"); !r.Ready || r.Held["a"] != want.Held["a"] || len(r.Streams) != 0 {
		t.Errorf("report %+v", r)
	}
	if err := c.ReportStreams(t.Context(), streams); err != nil {
		t.Error(err)
	}
	r := await(t, reports, "the streams")
	for len(r.Streams) == 0 {
		r = await(t, reports, "the streams")
	}
	if !r.Ready || !reflect.DeepEqual(r.Streams, streams) {
		t.Errorf("report %+v", r)
	}
	if err := c.ReportStreams(t.Context(), make([]Stream, MaxStreams+1)); err == nil {
		t.Error("too many streams are no error")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewClient(path+"2", ClientOptions{}).ReportStreams(gone, streams); err == nil {
		t.Error("streams that nobody takes are no error")
	}
	if u := await(t, unknowns, "the unknown key"); u.group != "a" || u.id != (crypto.KeyID{1, 2, 3, 4}) {
		t.Errorf("unknown key %+v", u)
	}
	if s.Gateways() != 1 {
		t.Errorf("%d gateways connected", s.Gateways())
	}
}

// TestReportsTogether holds that while two gatewayds are connected, controld serves what either wants, and what is left when one goes.
func TestReportsTogether(t *testing.T) {
	path := socketPath(t)
	reports := make(chan Report, 8)
	s, _ := serve(t, path, ServerOptions{OnReport: func(r Report) { reports <- r }})
	s.Publish(Snapshot{Gateway: "gw1"})
	first, stopFirst := NewClient(path, ClientOptions{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(stopFirst); _ = first.Run(ctx) }()
	second, _ := client(t, path, ClientOptions{})
	for _, step := range []struct {
		do    func()
		ready bool
		want  []string
	}{
		{func() { first.Report(Report{Ready: true, Listens: []string{"a", "b"}}) }, true, []string{"a", "b"}},
		{func() { second.Report(Report{Listens: []string{"b", "c"}}) }, true, []string{"a", "b", "c"}},
		{func() { first.Report(Report{Ready: true}) }, true, []string{"b", "c"}},
		{func() { cancel(); <-stopFirst }, false, []string{"b", "c"}},
	} {
		step.do()
		for { // a report may be sent twice
			r := await(t, reports, fmt.Sprintf("ready %v, listens to %q", step.ready, step.want))
			if r.Ready == step.ready && slices.Equal(r.Listens, step.want) {
				break
			}
		}
	}
}

func TestReportUnknownNeverBlocks(t *testing.T) {
	c := NewClient(socketPath(t), ClientOptions{}) // not running: nobody takes them
	for range 10 * queueLength {
		c.ReportUnknown("a", crypto.KeyID{})
	}
}

func TestClientReconnects(t *testing.T) {
	path := socketPath(t)
	states, reports := make(chan bool, 8), make(chan Report, 8)
	opt := ServerOptions{OnReport: func(r Report) { reports <- r }}
	s, stop := serve(t, path, opt)
	s.Publish(newSnapshot(t))
	c, got := client(t, path, ClientOptions{OnConnected: func(up bool) { states <- up }})
	c.Report(Report{Ready: true})
	await(t, got, "the snapshot")
	await(t, reports, "the report")
	if !await(t, states, "the connection") {
		t.Error("OnConnected(false) first")
	}
	stop()
	if await(t, states, "the loss of the connection") {
		t.Error("OnConnected(true) when controld went")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	again := newSnapshot(t)
	s, _ = serve(t, path, opt)
	s.Publish(again)
	if d := await(t, got, "the snapshot of the new server"); !d.renewed || !sameSnapshot(d.Snapshot, again) {
		t.Error("not the new server's snapshot")
	}
	if r := await(t, reports, "the report, again"); !r.Ready {
		t.Error("the new server got another report")
	}
}

func TestAdmin(t *testing.T) {
	path := socketPath(t)
	want := crypto.Epoch{PolicyVersion: 3, Generation: 4, Number: 5}
	serve(t, path, ServerOptions{
		OnRotate: func(_ context.Context, group string) (crypto.Epoch, error) {
			if group != "a" {
				return crypto.Epoch{}, errors.New("no such group")
			}
			return want, nil
		},
		OnStatus: func() ([]byte, error) { return []byte(`{"x":1}`), nil },
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if got, err := Rotate(ctx, path, "a"); err != nil || got != want {
		t.Errorf("Rotate: %v, %v", got, err)
	}
	if _, err := Rotate(ctx, path, "z"); err == nil || !strings.Contains(err.Error(), `rotating group "z": no such group`) {
		t.Errorf("Rotate of another group: %v", err)
	}
	if got, err := Status(ctx, path); err != nil || string(got) != `{"x":1}` {
		t.Errorf("Status: %q, %v", got, err)
	}
	if _, err := Status(ctx, path+".none"); err == nil || !strings.Contains(err.Error(), "is controld running") {
		t.Errorf("Status without controld: %v", err)
	}
}

func TestSocketAndDirectoryModes(t *testing.T) {
	path := socketPath(t)
	serve(t, path, ServerOptions{})
	for p, want := range map[string]fs.FileMode{path: socketMode, filepath.Dir(path): dirMode} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", p, info.Mode().Perm(), want)
		}
	}
	if rest, _ := filepath.Glob(path + ".*"); len(rest) > 0 {
		t.Errorf("left behind: %q", rest)
	}
}

func TestListenWhereSomethingIs(t *testing.T) {
	path := socketPath(t)
	_, stop := serve(t, path, ServerOptions{})
	if _, err := Listen(path, ServerOptions{}); err == nil || !strings.Contains(err.Error(), "another controld listens") {
		t.Errorf("a second server: %v", err)
	}
	stop()

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // as after kill -9: the name stays, nobody listens
	_, stop = serve(t, path, ServerOptions{})
	stop()

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, ServerOptions{}); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

// A server must not remove a socket that somebody else has put in its place.
func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := socketPath(t)
	_, stop := serve(t, path, ServerOptions{})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("another's file was removed: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	own := credentials{uid: 100, gid: 200}
	for _, tt := range []struct {
		peer credentials
		want bool
	}{
		{credentials{100, 999}, true}, {credentials{0, 0}, true}, {credentials{101, 200}, true},
		{credentials{101, 201}, false}, {credentials{200, 100}, false},
	} {
		if own.welcome(tt.peer) != tt.want {
			t.Errorf("welcome(%+v) = %v", tt.peer, !tt.want)
		}
	}
}

// As root the stranger is a thread with another user and group; else the server is told
// that it is somebody else.
func TestStrangerIsRefused(t *testing.T) {
	path := socketPath(t)
	opt := ServerOptions{}
	if os.Geteuid() != 0 {
		opt.credentials = &credentials{uint32(os.Geteuid()) + 1, uint32(os.Getegid()) + 1}
	}
	s, _ := serve(t, path, opt)
	s.Publish(newSnapshot(t))
	// The modes keep strangers out, too; here they must not be what does.
	for p, mode := range map[string]fs.FileMode{path: 0o666, filepath.Dir(path): 0o755, filepath.Dir(filepath.Dir(path)): 0o755} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := connectAsNobody(path)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_ = writeMessage(c, helloMsg{ProtocolVersion, roleGateway})
	if m, err := readMessage(c); err == nil {
		t.Errorf("a stranger was told a %s", m.name())
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a stranger was left waiting")
	}
}

// connectAsNobody connects from a thread that is nobody, if this process may become that.
// The thread ends with its goroutine.
func connectAsNobody(path string) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			const nobody = 65534
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
				if _, _, errno := unix.RawSyscall(call, nobody, nobody, nobody); errno != 0 {
					err = errno
					return
				}
			}
		}
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
	}()
	<-done
	return fd, err
}

// raw speaks to the server without a Client.
func raw(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func TestServerRefusesBadHellos(t *testing.T) {
	path := socketPath(t)
	serve(t, path, ServerOptions{})
	for name, m := range map[string]message{
		"version":     helloMsg{ProtocolVersion + 1, roleGateway},
		"role":        helloMsg{ProtocolVersion, "king"},
		"not a hello": rotateMsg{"a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(t, path)
			if err := writeMessage(c, m); err != nil {
				t.Fatal(err)
			}
			if got, err := readMessage(c); err != nil || got.name() != "refusal" {
				t.Errorf("answered with %v, %v", got, err)
			}
		})
	}
}

func TestServerEndsGarbageAndLivesOn(t *testing.T) {
	path := socketPath(t)
	s, _ := serve(t, path, ServerOptions{})
	s.Publish(newSnapshot(t))
	for name, b := range map[string]string{
		"length 0":         "\x00\x00\x00\x00",
		"length over 1MiB": "\x00\x10\x00\x01",
		"largest length":   "\xff\xff\xff\xff",
		"not CBOR":         "\x00\x00\x00\x01\xff",
		"HTTP":             "GET / HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(t, path)
			if _, err := c.Write([]byte(b)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes of an answer", n)
			}
		})
	}
	_, got := client(t, path, ClientOptions{})
	await(t, got, "a snapshot after all that")
}

func TestGatewayMayNotAsk(t *testing.T) {
	path := socketPath(t)
	serve(t, path, ServerOptions{OnRotate: func(context.Context, string) (crypto.Epoch, error) {
		t.Error("a gateway's request was carried out")
		return crypto.Epoch{}, nil
	}})
	c := raw(t, path)
	for _, m := range []message{helloMsg{ProtocolVersion, roleGateway}, rotateMsg{"a"}} {
		if err := writeMessage(c, m); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readMessage(c)
	if err == nil && got.name() == "heard" { // which no gateway has asked for
		got, err = readMessage(c)
	}
	if err != nil || got.name() != "refusal" {
		t.Errorf("answered with %v, %v", got, err)
	}
}

func TestDefectEndsOneConnectionOnly(t *testing.T) {
	path := socketPath(t)
	serve(t, path, ServerOptions{
		OnRotate: func(context.Context, string) (crypto.Epoch, error) { panic("a defect") },
		OnStatus: func() ([]byte, error) { return []byte("{}"), nil },
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := Rotate(ctx, path, "a"); err == nil {
		t.Error("a defect was answered with success")
	}
	if _, err := Status(ctx, path); err != nil {
		t.Errorf("after a defect: %v", err)
	}
}

func TestTooManyConnections(t *testing.T) {
	path := socketPath(t)
	s, _ := serve(t, path, ServerOptions{})
	s.Publish(newSnapshot(t))
	for range maxConns {
		c := raw(t, path)
		if err := writeMessage(c, helloMsg{ProtocolVersion, roleGateway}); err != nil {
			t.Fatal(err)
		}
		if _, err := readMessage(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raw(t, path).Read(make([]byte, 1)); err == nil {
		t.Error("one more connection was served")
	}
}

// Nothing that is logged holds a secret's bytes.
func TestSecretsAreNotLogged(t *testing.T) {
	var out strings.Builder
	snap := newSnapshot(t)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "snapshot", snap, "keys", keysMsg{"a", snap.Keys["a"]})
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "snapshot", snap, "keys", keysMsg{"a", snap.Keys["a"]})
	for _, k := range snap.Keys["a"] {
		if strings.Contains(out.String(), string(k.Secret.Bytes())) {
			t.Error("a secret was logged")
		}
	}
	if !strings.Contains(out.String(), "redacted") {
		t.Errorf("the redaction is not in the log: %s", out.String())
	}
}
