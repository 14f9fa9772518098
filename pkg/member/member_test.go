package member_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/test/embedded"
)

func (f *fleet) config(role crypto.Role, name, url string) member.Config {
	f.t.Helper()
	key, cert := f.issue(role, name, time.Now())
	id, err := crypto.ParseIdentity(key, cert, f.caCert)
	if err != nil {
		f.t.Fatal(err)
	}
	return member.Config{Identity: id, Trust: f.trust, Policy: f.policy(1), Broker: []string{url}, Log: slog.New(slog.DiscardHandler)}
}

func start(t *testing.T, cfg member.Config) *member.Member {
	t.Helper()
	m, err := member.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// await returns the state once it satisfies ok.
func await(t *testing.T, m *member.Member, what string, ok func(*member.State) bool) *member.State {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		changed := m.Changed()
		if s := m.State(); ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("never: %s; status %+v", what, m.Status())
		}
	}
}

func maySend(s *member.State) bool { return s.Keys.Send("plant") != nil }
func mayRead(s *member.State) bool { return len(s.Keys.Keys("plant")) > 0 }

func TestKeysReachAMember(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, "f")
	gateway := start(t, f.config(crypto.RoleGateway, "gw1", b.URL()))
	reader := start(t, f.config(crypto.RoleSubscriber, "alice", b.URL()))
	send := await(t, gateway, "the gateway has a key to send", maySend).Keys.Send("plant")
	got := await(t, reader, "the reader has it too", func(s *member.State) bool { return s.Keys.Find("plant", send.ID) != nil })
	if !got.Keys.Find("plant", send.ID).Secret.Equal(send.Secret) {
		t.Error("they hold different secrets under one id")
	}
	if s := gateway.State(); s.Policy.Document.Version != 1 || s.Table.Receive([]byte("plant/1")).Group != "plant" {
		t.Errorf("policy %+v", s.Policy.Document)
	}
}

func TestRotate(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, "f")
	gateway := start(t, f.config(crypto.RoleGateway, "gw1", b.URL()))
	reader := start(t, f.config(crypto.RoleSubscriber, "alice", b.URL()))
	first := await(t, gateway, "a key", maySend).Keys.Send("plant").Epoch
	await(t, reader, "a key", mayRead)
	next, err := gateway.Rotate(t.Context(), "plant")
	if err != nil || next.Compare(first) <= 0 {
		t.Fatalf("after %v came %v, %v", first, next, err)
	}
	await(t, reader, "the new key", func(s *member.State) bool { return s.Keys.Keys("plant")[0].Epoch == next })
	if _, err := reader.Rotate(t.Context(), "plant"); err == nil {
		t.Error("a subscriber may not rotate")
	}
	if _, err := gateway.Rotate(t.Context(), "nonesuch"); err == nil {
		t.Error("there is no such group")
	}
}

// A cluster that has lost a node refuses subscriptions for some seconds: they are asked for again on the
// same connection.
func TestRefusedSubscriptionIsAskedForAgain(t *testing.T) {
	var refusals atomic.Int32
	b := embedded.Start(t, embedded.Options{Refuse: func(filter string) bool {
		return filter == "sealgate/keys/plant" && refusals.Add(-1) >= 0
	}})
	f := newFleet(t, "f")
	gateway := start(t, f.config(crypto.RoleGateway, "gw1", b.URL()))
	await(t, gateway, "a key", maySend)
	refusals.Store(2)
	reader := start(t, f.config(crypto.RoleSubscriber, "alice", b.URL()))
	await(t, reader, "a key", mayRead)
	next, err := gateway.Rotate(t.Context(), "plant")
	if err != nil {
		t.Fatal(err)
	}
	await(t, reader, "the new key", func(s *member.State) bool { return s.Keys.Keys("plant")[0].Epoch == next })
	if refusals.Load() > 0 {
		t.Error("nothing was refused")
	}
}

func TestKeysOutliveTheBroker(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, "f")
	cfg := f.config(crypto.RoleGateway, "gw1", b.URL())
	brokers := make(chan error, 64)
	cfg.OnBroker = func(err error) { brokers <- err }
	gateway := start(t, cfg)
	before := await(t, gateway, "a key", maySend).Keys.Send("plant").ID
	if err := <-brokers; err != nil {
		t.Fatalf("first report: %v", err)
	}
	b.Stop()
	if err := <-brokers; err == nil {
		t.Fatal("the loss was not reported")
	}
	if s := gateway.State().Keys.Send("plant"); s == nil || s.ID != before {
		t.Error("the key went with the broker")
	}
	b.Restart()
	for err := range brokers {
		if err == nil {
			break
		}
	}
	if gateway.Rotate(t.Context(), "plant"); gateway.State().Keys.Send("plant") == nil {
		t.Error("no key after the broker came back")
	}
}

func TestStateDirectory(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, "f")
	dir := filepath.Join(t.TempDir(), "state")
	cfg := f.config(crypto.RoleSubscriber, "alice", b.URL())
	cfg.Policy, cfg.StateDir = f.policy(7), dir
	m := start(t, cfg)
	await(t, m, "policy 7", func(s *member.State) bool { return s.Policy != nil })
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"policy.cose", "floor"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	cfg.Policy = f.policy(3) // an old bundle
	m = start(t, cfg)
	s := await(t, m, "a policy", func(s *member.State) bool { return s.Policy != nil })
	if v := s.Policy.Document.Version; v != 7 {
		t.Errorf("policy %d came back over 7", v)
	}
	m.Close()
	os.Remove(filepath.Join(dir, "policy.cose")) // the floor alone must hold too (F2)
	m = start(t, cfg)
	b.Inject("sealgate/policy", f.policy(5).Raw, 1, true)
	b.Inject("sealgate/policy", f.policy(9).Raw, 1, true)
	s = await(t, m, "a policy", func(s *member.State) bool { return s.Policy != nil })
	if v := s.Policy.Document.Version; v < 7 {
		t.Errorf("policy %d was followed below the floor 7", v)
	}
}

func TestDamagedFloorIsRefused(t *testing.T) {
	f := newFleet(t, "f")
	for _, text := range []string{"", "x", "7 abc 1", "7 " + strings.Repeat("0", 64), "-1 " + strings.Repeat("0", 64) + " 1"} {
		cfg := f.config(crypto.RoleSubscriber, "alice", "mqtt://127.0.0.1:1")
		cfg.StateDir = t.TempDir()
		write(t, filepath.Join(cfg.StateDir, "floor"), []byte(text))
		if _, err := member.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.StateDir) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	f := newFleet(t, "f")
	good := f.config(crypto.RoleSubscriber, "alice", "mqtt://127.0.0.1:1")
	for _, c := range []struct {
		change func(*member.Config)
		want   string
	}{
		{func(c *member.Config) { c.Identity = nil }, "no identity"},
		{func(c *member.Config) { c.Broker = nil }, "no broker"},
		{func(c *member.Config) { c.Broker = []string{"http://x"} }, "mqtt://"},
		{func(c *member.Config) { c.StateDir = "/dev/null/x" }, "state directory"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := member.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}

func TestEndsWithItsContext(t *testing.T) {
	f := newFleet(t, "f")
	ctx, cancel := context.WithCancel(t.Context())
	m, err := member.Start(ctx, f.config(crypto.RoleGateway, "gw1", "mqtt://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := m.Rotate(t.Context(), "plant"); err == nil {
		t.Error("an ended member rotated")
	}
	m.UnknownKey("plant", crypto.KeyID{})
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestFloodIsBounded(t *testing.T) {
	// Garbage on the control topics is counted or dropped, and keys still come.
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, "f")
	gateway := start(t, f.config(crypto.RoleGateway, "gw1", b.URL()))
	await(t, gateway, "a key", maySend)
	junk := make([]byte, 2000)
	for range 2000 {
		b.Inject("sealgate/control", junk, 0, false)
	}
	reader := start(t, f.config(crypto.RoleSubscriber, "alice", b.URL()))
	await(t, reader, "a key in spite of the flood", mayRead)
}
