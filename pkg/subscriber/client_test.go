package subscriber_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// fleet is a fleet made in memory.
type fleet struct {
	t             *testing.T
	caKey, caCert []byte
	trust         *crypto.Trust
	policy        *policy.Signed
	topics        *crypto.TopicSecret // of a fleet that hides topics
}

// newFleet makes a fleet whose gateway gw1 keeps the keys of group plant on plant/#.
func newFleet(t *testing.T, change func(*policy.Document)) *fleet {
	t.Helper()
	f := &fleet{t: t}
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	f.caKey, f.caCert, err = crypto.NewCA("f", rand.Reader, now)
	must(err)
	f.trust, err = crypto.NewTrust("f", f.caCert)
	must(err)
	g := policy.DefaultGroup("plant")
	g.Topics, g.Keepers, g.ActivateAfter = []string{"plant/#"}, []string{"gw1"}, 0
	doc := &policy.Document{Fleet: "f", Version: 1, Unmatched: policy.WordPass, Groups: []policy.Group{g}}
	if change != nil {
		change(doc)
	}
	f.sign(doc)
	return f
}

// sign makes doc the fleet's policy.
func (f *fleet) sign(doc *policy.Document) {
	f.t.Helper()
	authority, err := crypto.ParseAuthority(f.caKey, f.caCert)
	if err != nil {
		f.t.Fatal(err)
	}
	raw, err := doc.Sign(authority)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.policy, err = policy.Verify(f.trust, raw, time.Now()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) identity(role crypto.Role, name string) *subscriber.Loaded {
	f.t.Helper()
	key, cert, err := crypto.IssueMember(f.caKey, f.caCert, role, name, rand.Reader, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, f.caCert)
	if err != nil {
		f.t.Fatal(err)
	}
	return &subscriber.Loaded{Identity: id, Trust: f.trust, Policy: f.policy}
}

var quiet = slog.New(slog.DiscardHandler)

// keeper runs gw1.
func (f *fleet) keeper(url string, t *tls.Config) *member.Member {
	f.t.Helper()
	who := f.identity(crypto.RoleGateway, "gw1")
	m, err := member.Start(f.t.Context(), member.Config{
		Identity: who.Identity, Trust: who.Trust, Policy: who.Policy, Topics: f.topics, Broker: []string{url}, TLS: t, StateDir: f.t.TempDir(), Log: quiet,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { m.Close() })
	return m
}

// inbox collects what a client is given.
type inbox struct {
	mu   sync.Mutex
	msgs []subscriber.Message
	more chan struct{}
}

func newInbox() *inbox { return &inbox{more: make(chan struct{}, 1)} }

func (i *inbox) handle(m *subscriber.Message) {
	i.mu.Lock()
	i.msgs = append(i.msgs, *m)
	i.mu.Unlock()
	select {
	case i.more <- struct{}{}:
	default:
	}
}

// await returns the messages once there are n.
func (i *inbox) await(t *testing.T, n int) []subscriber.Message {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		i.mu.Lock()
		got := append([]subscriber.Message(nil), i.msgs...)
		i.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-i.more:
		case <-limit:
			t.Fatalf("%d of %d messages came: %+v", len(got), n, got)
		}
	}
}

// bothVersions runs a test by MQTT 3.1.1 and by MQTT 5.
func bothVersions(t *testing.T, test func(*testing.T, byte)) {
	t.Run("3.1.1", func(t *testing.T) { test(t, 4) })
	t.Run("5", func(t *testing.T) { test(t, 5) })
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, o subscriber.Options) *subscriber.Client {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet
	}
	c, err := subscriber.Connect(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSealedThroughABroker is the chain without a gateway: one client publishes, another reads,
// over TLS, and the broker sees no payload.
func TestSealedThroughABroker(t *testing.T) {
	ca := lab.NewCA(t, "broker CA")
	server := ca.Issue(t, "broker", time.Time{}, "127.0.0.1")
	b := embedded.Start(t, embedded.Options{TLS: &tls.Config{Certificates: []tls.Certificate{server.Pair}}})
	f := newFleet(t, nil)
	f.keeper(b.URL(), &tls.Config{RootCAs: ca.Pool()})
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), CAFile: ca.File, Handler: in.handle, ReadOnly: true})
	bob := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL(), CAFile: ca.File})
	if err := alice.Subscribe(within(t), 1, "plant/#", "open/#"); err != nil {
		t.Fatal(err)
	}
	const needle = "the temperature is 21.5"
	for i := range 3 {
		if err := bob.Publish(within(t), "plant/1", fmt.Appendf(nil, "%s %d", needle, i), byte(i), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.Publish(within(t), "open/1", []byte("in the clear"), 1, false); err != nil {
		t.Fatal(err)
	}
	for i, m := range in.await(t, 4) {
		want := fmt.Sprintf("%s %d", needle, i)
		if i == 3 {
			want = "in the clear"
		}
		if m.Status != subscriber.StatusOK || string(m.Payload) != want {
			t.Errorf("message %d: %+v %q", i, m, m.Payload)
		}
	}
	for _, p := range b.Seen() {
		if bytes.Contains(p.Payload, []byte("temperature")) {
			t.Errorf("the broker could read %q on %s", p.Payload, p.Topic)
		}
	}
	if err := alice.Publish(within(t), "plant/1", []byte("x"), 1, false); err == nil || !strings.Contains(err.Error(), "ReadOnly") {
		t.Errorf("publish of a ReadOnly client: %v", err)
	}
}

func TestRotationWhileSubscribed(t *testing.T) { bothVersions(t, rotationWhileSubscribed) }

func rotationWhileSubscribed(t *testing.T, version byte) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	keeper := f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Version: version, Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	sent := 0
	publish := func() crypto.KeyID { // publishes one message and returns the key it came under
		t.Helper()
		if err := alice.Publish(within(t), "plant/1", fmt.Append(nil, sent), 1, false); err != nil {
			t.Fatal(err)
		}
		sent++
		return in.await(t, sent)[sent-1].Key
	}
	key := publish()
	for range 3 {
		if _, err := keeper.Rotate(within(t), "plant"); err != nil {
			t.Fatal(err)
		}
		limit := within(t)
		for before := key; key == before && limit.Err() == nil; {
			key = publish()
		}
		if limit.Err() != nil {
			t.Fatal("nothing came under the new key")
		}
	}
	for i, m := range in.await(t, sent) {
		if m.Status != subscriber.StatusOK || string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d: %+v %q", i, m, m.Payload)
		}
	}
}

// TestHostileBroker lets the broker drop, repeat, replace and forge.
func TestHostileBroker(t *testing.T) {
	var mu sync.Mutex
	var kept [][]byte
	b := embedded.Start(t, embedded.Options{Meddle: func(topic string, payload []byte) ([]byte, bool) {
		if !strings.HasPrefix(topic, "plant/") {
			return payload, true
		}
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, bytes.Clone(payload))
		return payload, len(kept) != 2 // drops the second
	}})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := alice.Publish(within(t), "plant/1", fmt.Appendf(nil, "%d", i), 1, false); err != nil {
			t.Fatal(err)
		}
	}
	in.await(t, 3) // ok, gap, ok
	mu.Lock()
	first, second := kept[0], kept[1]
	mu.Unlock()
	b.Inject("plant/1", first, 1, false)
	b.Inject("plant/2", first, 1, false)
	b.Inject("plant/1", []byte("open the valve"), 1, false)
	b.Inject("plant/1", first, 1, true)
	b.Inject("plant/1", second, 1, false)
	var got []string
	for _, m := range in.await(t, 9)[:9] {
		got = append(got, string(m.Status))
	}
	// The broker delivers a retained message with RETAIN clear to those subscribed already: a duplicate.
	if want := "ok gap ok duplicate forged plaintext duplicate ok gap-filled"; strings.Join(got, " ") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, " "), want)
	}
}

// Who listens is told of a clear by a sealed message, at every QoS, and by nothing that a broker could have made up; who comes later finds
// nothing retained (spec 3.2).
func TestClearsAreTold(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	want := ""
	for qos := range byte(3) {
		name := fmt.Sprintf("plant/%d", qos)
		for _, text := range []string{"on", ""} {
			if err := alice.Publish(within(t), name, []byte(text), qos, true); err != nil {
				t.Fatal(err)
			}
			want += fmt.Sprintf("%s %q ok; ", name, text)
		}
	}
	b.Inject("plant/0", nil, 1, false)
	if err := alice.Publish(within(t), "plant/end", nil, 1, false); err != nil {
		t.Fatal(err)
	}
	want += `plant/end "" ok; `
	got := ""
	for _, m := range in.await(t, 7) {
		got += fmt.Sprintf("%s %q %s; ", m.Topic, m.Payload, m.Status)
	}
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	later := newInbox()
	bob := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL(), Handler: later.handle})
	if err := bob.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if err := alice.Publish(within(t), "plant/last", []byte("x"), 1, false); err != nil {
		t.Fatal(err)
	}
	if m := later.await(t, 1)[0]; m.Topic != "plant/last" {
		t.Errorf("retained after it was cleared: %s %q", m.Topic, m.Payload)
	}
}

func TestControlMessagesAreNotDelivered(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "#"); err != nil {
		t.Fatal(err)
	}
	b.Inject("sealgate/control", []byte("x"), 1, false)
	if err := alice.Publish(within(t), "plant/1", []byte("hello"), 1, false); err != nil {
		t.Fatal(err)
	}
	if m := in.await(t, 1)[0]; m.Topic != "plant/1" || m.Status != subscriber.StatusOK {
		t.Errorf("got %+v", m)
	}
}

func TestPersistentSession(t *testing.T) { bothVersions(t, persistentSession) }

func persistentSession(t *testing.T, version byte) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	alice, in := f.identity(crypto.RoleSubscriber, "alice"), newInbox()
	first := connect(t, subscriber.Options{Version: version, Member: alice, Broker: b.URL(), ClientID: "alice-1"})
	if err := first.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for ctx := within(t); !b.Gone("alice-1"); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the broker does not notice that its client has gone")
		}
	}
	bob := connect(t, subscriber.Options{Version: version, Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	for i := range 5 {
		if err := bob.Publish(within(t), "plant/1", fmt.Append(nil, i), 1, false); err != nil {
			t.Fatal(err)
		}
	}
	// The embedded broker acknowledges a message before it passes it on, but takes a client's messages one by one.
	if err := bob.Publish(within(t), "elsewhere", nil, 1, false); err != nil {
		t.Fatal(err)
	}
	connect(t, subscriber.Options{Version: version, Member: alice, Broker: b.URL(), ClientID: "alice-1", Handler: in.handle})
	got := map[string]bool{} // the embedded broker queues by the second, so not in order
	for _, m := range in.await(t, 5) {
		got[string(m.Payload)] = m.Status == subscriber.StatusOK
	}
	for i := range 5 {
		if !got[fmt.Sprint(i)] {
			t.Errorf("message %d is missing: %v", i, got)
		}
	}
}

// TestAcknowledgedAfterHandling lets a client end while its handler is busy: the broker must deliver
// what was not handled to the session's next connection.
func TestAcknowledgedAfterHandling(t *testing.T) { bothVersions(t, acknowledgedAfterHandling) }

func acknowledgedAfterHandling(t *testing.T, version byte) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	alice, in := f.identity(crypto.RoleSubscriber, "alice"), newInbox()
	busy, release := make(chan struct{}), make(chan struct{})
	first := connect(t, subscriber.Options{Version: version, Member: alice, Broker: b.URL(), ClientID: "alice-1", Handler: func(*subscriber.Message) {
		close(busy)
		<-release
	}})
	if err := first.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if err := first.Publish(within(t), "plant/1", []byte("once more"), 1, false); err != nil {
		t.Fatal(err)
	}
	<-busy
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	close(release)
	connect(t, subscriber.Options{Version: version, Member: alice, Broker: b.URL(), ClientID: "alice-1", Handler: in.handle})
	if m := in.await(t, 1)[0]; m.Status != subscriber.StatusOK || string(m.Payload) != "once more" {
		t.Errorf("got %+v %q", m, m.Payload)
	}
}

func TestBrokerRestarts(t *testing.T) { bothVersions(t, brokerRestarts) }

func brokerRestarts(t *testing.T, version byte) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Version: version, Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if err := alice.Publish(within(t), "plant/1", []byte("before"), 1, false); err != nil {
		t.Fatal(err)
	}
	in.await(t, 1)
	b.Stop()
	sent := make(chan error, 1)
	go func() { sent <- alice.Publish(within(t), "plant/1", []byte("during"), 1, false) }()
	b.Restart()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	// Whether the subscription was back before "during" went through is the broker's affair; one sent after that arrives.
	for {
		if err := alice.Publish(within(t), "plant/1", []byte("after"), 1, false); err != nil {
			t.Fatal(err)
		}
		select {
		case <-in.more:
		case <-time.After(100 * time.Millisecond):
		}
		for _, m := range in.await(t, 1) {
			if string(m.Payload) == "after" {
				return
			}
		}
	}
}

func TestConnectRefuses(t *testing.T) {
	b := embedded.Start(t, embedded.Options{Username: "u", Password: "p"})
	f := newFleet(t, nil)
	who := f.identity(crypto.RoleSubscriber, "alice")
	for _, c := range []struct {
		name string
		o    subscriber.Options
		want string
	}{
		{"no identity", subscriber.Options{Identity: "/does/not/exist", Broker: b.URL()}, "no such directory"},
		{"no broker", subscriber.Options{Member: who}, "broker URL"},
		{"wrong password", subscriber.Options{Member: who, Broker: b.URL(), Username: "u", Password: "x"}, "user name"},
		{"nobody listens", subscriber.Options{Member: who, Broker: "mqtt://127.0.0.1:1"}, "connection refused"},
		{"no such CA file", subscriber.Options{Member: who, Broker: b.URL(), CAFile: "/does/not/exist"}, "broker CA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Log = quiet
			_, err := subscriber.Connect(within(t), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v; want one line with %q", err, c.want)
			}
		})
	}
}

func TestPublishRefuses(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, func(d *policy.Document) {
		d.Groups[0].Publish = []string{"gw*"}
		d.Unmatched = policy.WordDeny
	})
	f.keeper(b.URL(), nil)
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), MaxMessage: 100})
	for _, c := range []struct {
		topic   string
		payload string
		qos     byte
		want    string
	}{
		{"plant/1", "x", 1, "publish list"},
		{"other", "x", 1, "no group covers it"},
		{"plant/+", "x", 1, ""},
		{"plant/1", strings.Repeat("x", 101), 1, "at most 100"},
		{"plant/1", "x", 3, "QoS 3"},
		{"sealgate/policy", "x", 1, "control messages"},
	} {
		if err := alice.Publish(within(t), c.topic, []byte(c.payload), c.qos, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.topic, err, c.want)
		}
	}
	for _, p := range b.Seen() {
		if strings.HasPrefix(p.Topic, "plant/") || p.Topic == "other" {
			t.Errorf("a refused message reached the broker on %s", p.Topic)
		}
	}
}

func TestNoKeyNothingLeaves(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	c, err := subscriber.Connect(within(t), subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Publish(ctx, "plant/1", []byte("secret"), 1, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for _, p := range b.Seen() {
		if p.Topic == "plant/1" {
			t.Errorf("%q left without a key", p.Payload)
		}
	}
}

func TestErrorsAreSessionErrors(t *testing.T) {
	f := newFleet(t, nil)
	_, err := subscriber.Connect(within(t), subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "a"), Broker: "mqtt://127.0.0.1:1", Log: quiet})
	if _, ok := errors.AsType[*session.Error](err); !ok {
		t.Errorf("got %T %v", err, err)
	}
}
