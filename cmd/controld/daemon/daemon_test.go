package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
)

const patience = 30 * time.Second

// fleet is a CA with what it has signed.
type fleet struct{ caKey, caCert []byte }

func newFleet(t *testing.T) *fleet {
	t.Helper()
	key, cert, err := crypto.NewCA("plant", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{key, cert}
}

// sign makes a policy that follows the one of hash previous.
func (f *fleet) sign(t *testing.T, version uint64, previous [32]byte, topics ...string) []byte {
	t.Helper()
	id, err := crypto.ParseAuthority(f.caKey, f.caCert)
	if err != nil {
		t.Fatal(err)
	}
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.ActivateAfter = topics, []string{"node"}, 0
	raw, err := (&policy.Document{Fleet: "plant", Version: version, Previous: previous, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}).Sign(id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// enrol writes the identity directory of member "node" and returns it.
func (f *fleet) enrol(t *testing.T, role crypto.Role) string {
	t.Helper()
	key, cert, err := crypto.IssueMember(f.caKey, f.caCert, role, "node", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shortDir(t), "id")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"identity.key": key, "identity.crt": cert, "ca.crt": f.caCert, "policy.cose": f.sign(t, 1, [32]byte{}, "a/#")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shortDir is for sockets, whose names are.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startBroker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listeners.NewNet("t", l)); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// locked is a log for several goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type running struct {
	socket string
	log    *locked
	hup    chan os.Signal
}

// start runs controld as member "node" of that role until the test ends.
func start(t *testing.T, identity string) *running {
	t.Helper()
	dir := shortDir(t)
	r := &running{socket: filepath.Join(dir, "k"), log: new(locked), hup: make(chan os.Signal)}
	conf := filepath.Join(dir, "c.toml")
	text := fmt.Sprintf("fleet = \"plant\"\nidentity = %q\nstate = %q\nkeylink = %q\n[control]\nbroker = \"mqtt://%s\"\n",
		identity, filepath.Join(dir, "state"), r.socket, startBroker(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- Main(cmdenv.Env{Ctx: ctx, Args: []string{"-config", conf}, Stdout: r.log, Stderr: r.log, Reload: r.hup, Getenv: func(string) string { return "" }})
	}()
	t.Cleanup(func() {
		cancel()
		if c := <-code; c != cmdenv.OK {
			t.Errorf("exit code %d:\n%s", c, r.log)
		}
	})
	return r
}

// await asks for the status until it is as wanted.
func (r *running) await(t *testing.T, what string, ok func(Status) bool) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var s Status
		b, err := keylink.Status(ctx, r.socket)
		if err == nil {
			if err := json.Unmarshal(b, &s); err != nil {
				t.Fatal(err)
			}
			if ok(s) {
				return s
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: in vain; status %+v, %v\n%s", what, s, err, r.log)
		}
	}
}

// A keeper that runs alone: no gatewayd, and it mints.
func TestStandaloneKeeper(t *testing.T) {
	r := start(t, newFleet(t).enrol(t, crypto.RoleKeeper))
	s := r.await(t, "the first epoch", func(s Status) bool { return len(s.Groups) == 1 && s.Groups[0].Epoch != "" })
	if s.Role != "keeper" || s.Member != "node" || s.Fleet != "plant" || !s.Connected || s.Gateways != 0 || s.Policy.Version != 1 || !s.Groups[0].Leading {
		t.Errorf("status %+v", s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := keylink.Rotate(ctx, r.socket, "nothing"); err == nil || !strings.Contains(err.Error(), "no group of that name") {
		t.Errorf("rotating no group: %v", err)
	}
	if e, err := keylink.Rotate(ctx, r.socket, "default"); err != nil {
		t.Error(err)
	} else if e.String() <= s.Groups[0].Epoch {
		t.Errorf("rotated from %s to %v", s.Groups[0].Epoch, e)
	}
}

func TestHangupFollowsANewerPolicy(t *testing.T) {
	f := newFleet(t)
	dir := f.enrol(t, crypto.RoleGateway)
	r := start(t, dir)
	r.await(t, "the enrolled policy", func(s Status) bool { return s.Policy.Version == 1 })
	// put replaces the file, tells controld and waits for its answer in the log.
	put := func(raw []byte) (hash [32]byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "policy.cose"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(r.log.String(), `msg="reload`)
		r.hup <- syscall.SIGHUP
		r.await(t, "word of the reload", func(Status) bool { return strings.Count(r.log.String(), `msg="reload`) > before })
		return sha256.Sum256(raw)
	}
	third := put(f.sign(t, 3, [32]byte{}, "a/#", "b/#"))
	r.await(t, "the newer policy", func(s Status) bool { return s.Policy.Version == 3 })

	put(f.sign(t, 2, [32]byte{}, "a/#")) // older
	put([]byte("nonsense"))
	put(newFleet(t).sign(t, 9, third, "a/#")) // another CA's
	put(f.sign(t, 4, third, "c/#"))
	r.await(t, "the newest policy", func(s Status) bool { return s.Policy.Version == 4 })
	if n := strings.Count(r.log.String(), "reload refused"); n != 2 {
		t.Errorf("%d reloads refused, want 2:\n%s", n, r.log)
	}
}

func TestWrongRole(t *testing.T) {
	identity := newFleet(t).enrol(t, crypto.RoleSubscriber)
	var out bytes.Buffer
	conf := filepath.Join(t.TempDir(), "c.toml")
	text := fmt.Sprintf("fleet = \"plant\"\nidentity = %q\n[control]\nbroker = \"mqtt://127.0.0.1:1\"\n", identity)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code := Main(cmdenv.Env{Ctx: context.Background(), Args: []string{"-config", conf}, Stdout: &out, Stderr: &out})
	if code != cmdenv.Failed || !strings.Contains(out.String(), "has role subscriber") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("code %d, said %q", code, out.String())
	}
}

// What gatewayd is told: the groups it takes part in, and of those the payload secrets.
func TestSnapshot(t *testing.T) {
	f := newFleet(t)
	trust, err := crypto.NewTrust("plant", f.caCert)
	if err != nil {
		t.Fatal(err)
	}
	id, err := crypto.ParseAuthority(f.caKey, f.caCert)
	if err != nil {
		t.Fatal(err)
	}
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: policy.WordDeny, RevokedNames: []string{"gone"}}
	rings := make(map[string][]crypto.Key)
	for _, name := range []string{"open", "closed", "writing", "waiting"} {
		g := policy.DefaultGroup(name)
		g.Topics, g.Keepers = []string{name + "/#"}, []string{"node"}
		switch name {
		case "closed":
			g.Publish, g.Read = []string{"boss"}, []string{"boss"}
		case "writing":
			g.Read = nil
		}
		doc.Groups = append(doc.Groups, g)
		secret, err := crypto.NewPayloadSecret(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if name != "waiting" {
			rings[name] = []crypto.Key{{ID: crypto.KeyIDOf(secret, name), Secret: secret, Send: true}}
		}
	}
	raw, err := doc.Sign(id)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := policy.Verify(trust, raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := crypto.NewKeyring(rings)
	if err != nil {
		t.Fatal(err)
	}
	state := &member.State{Policy: signed, Keys: ring}
	status := control.Status{
		Groups:   []control.GroupStatus{{Name: "open", Epoch: crypto.Epoch{Number: 3}, Age: time.Minute}, {Name: "waiting"}},
		Counters: map[control.Counter]uint64{{Kind: control.KindHello, Result: control.ResultSent}: 2},
	}
	s := snapshot(crypto.Member{Fleet: "plant", Role: crypto.RoleGateway, Name: "node"}, state, status)
	if len(s.Keys["open"]) != 1 || len(s.Keys["writing"]) != 1 {
		t.Errorf("keys %v", s.Keys)
	}
	if keys, there := s.Keys["closed"]; !there || len(keys) != 0 {
		t.Error("of a group it takes no part in, a gateway must be told that it has no keys")
	}
	if _, there := s.Keys["waiting"]; there {
		t.Error("a group without keys yet must not be mentioned")
	}
	if s.Gateway != "node" || s.Epochs["open"].Epoch.Number != 3 || len(s.Epochs) != 1 || s.Control[keylink.Counter{Type: "hello", Result: "sent"}] != 2 {
		t.Errorf("snapshot %+v", s)
	}
	if s := snapshot(crypto.Member{Fleet: "plant", Role: crypto.RoleKeeper, Name: "node"}, state, status); len(s.Keys["open"]) != 0 {
		t.Error("a keeper that is no gateway was given keys")
	}
	if s := snapshot(crypto.Member{Fleet: "plant", Role: crypto.RoleGateway, Name: "gone"}, state, status); len(s.Keys) != 0 {
		t.Error("a revoked gateway was given keys")
	}
	if s := snapshot(crypto.Member{Name: "node"}, &member.State{}, status); len(s.Policy) != 0 || len(s.Keys) != 0 {
		t.Error("without a policy there is something to tell")
	}
}

func TestGroupStatusTellsOfFreshness(t *testing.T) {
	for _, c := range []struct {
		left  time.Duration
		fresh float64
	}{{-1, -1}, {0, 0}, {90 * time.Second, 90}} {
		got := groupStatus(&control.GroupStatus{Name: "g", Keeper: true, LeaseAge: 4 * time.Second, FreshLeft: c.left, Stale: true})
		if got.Fresh != c.fresh || got.LeaseAge != 4 || !got.Keeper || !got.Stale {
			t.Errorf("%v left: %+v", c.left, got)
		}
	}
}
