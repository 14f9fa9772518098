package chaos

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

const (
	group    = "plant"
	prefix   = "sealgate"
	patience = 40 * time.Second

	// needle is in every plaintext: wherever it shows at the broker, sealing has failed.
	needle = "needle-4b1d"
)

var keysTopic = control.KeysTopic(prefix, group)

// scene is one scenario's fleet, broker and clock.
type scene struct {
	*testing.T
	ctx    context.Context
	broker *embedded.Hostile
	tls    *tls.Config // for members
	clock  *clock

	caKey, caCert []byte
	trust         *crypto.Trust
	authority     *crypto.Identity
	doc           *policy.Document
	signed        *policy.Signed

	nodes []*node
	seen  []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, clock: new(clock)}
	ctx, cancel := context.WithCancel(context.Background())
	s.ctx = ctx
	t.Cleanup(cancel)
	ca := lab.NewCA(t, "broker CA")
	cert := ca.Issue(t, "broker", time.Time{}, "127.0.0.1")
	s.tls = &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13}
	s.broker = embedded.StartHostile(t, &tls.Config{Certificates: []tls.Certificate{cert.Pair}, MinVersion: tls.VersionTLS12})
	var err error
	if s.caKey, s.caCert, err = crypto.NewCA("plant", rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	if s.trust, err = crypto.NewTrust("plant", s.caCert); err != nil {
		t.Fatal(err)
	}
	if s.authority, err = crypto.ParseAuthority(s.caKey, s.caCert); err != nil {
		t.Fatal(err)
	}
	g := policy.DefaultGroup(group)
	g.Topics, g.Publish, g.Read, g.Keepers = []string{"plant/#"}, []string{"gw*", "writer"}, []string{"*"}, []string{"gw1", "gw2"}
	g.ActivateAfter = 300 * time.Millisecond
	s.doc = &policy.Document{Fleet: "plant", Version: 1, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}
	s.signed = s.sign(s.doc)
	return s
}

// saw adds to the scenario's line of the table.
func (s *scene) saw(format string, args ...any) {
	s.seen = append(s.seen, fmt.Sprintf(format, args...))
}

// end holds what must be true of every scenario: no plaintext has reached the broker.
func (s *scene) end() {
	s.Helper()
	for _, l := range s.broker.Sent(0) {
		if strings.Contains(string(l.Payload), needle) || strings.Contains(l.Topic, needle) {
			s.Errorf("plaintext reached the broker on %s from %s", l.Topic, l.From)
		}
	}
}

// edit changes the first policy; call it before any member starts.
func (s *scene) edit(f func(*policy.Document)) {
	s.Helper()
	f(s.doc)
	s.signed = s.sign(s.doc)
}

func (s *scene) sign(d *policy.Document) *policy.Signed {
	s.Helper()
	raw, err := d.Sign(s.authority)
	if err != nil {
		s.Fatal(err)
	}
	signed, err := policy.Verify(s.trust, raw, time.Now())
	if err != nil {
		s.Fatal(err)
	}
	return signed
}

// next signs the policy's next version and returns it; nobody has it yet.
func (s *scene) next(f func(*policy.Document)) *policy.Signed {
	s.Helper()
	d := *s.doc
	d.Groups = slices.Clone(s.doc.Groups)
	d.Version, d.Previous = s.doc.Version+1, s.signed.Hash
	f(&d)
	s.doc, s.signed = &d, s.sign(&d)
	return s.signed
}

// publish has the broker retain a policy and deliver it, as `sealctl policy publish` does.
func (s *scene) publish(p *policy.Signed) {
	topic := control.PolicyTopic(prefix)
	s.broker.Retain(topic, p.Raw)
	s.broker.Spread(topic, p.Raw)
}

func (s *scene) identity(role crypto.Role, name string) *crypto.Identity {
	s.Helper()
	key, cert, err := crypto.IssueMember(s.caKey, s.caCert, role, name, rand.Reader, time.Now())
	if err != nil {
		s.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, s.caCert)
	if err != nil {
		s.Fatal(err)
	}
	return id
}

// await waits until ok holds; it looks again whenever something happened, and now and then.
func (s *scene) await(what string, ok func() bool) {
	s.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-s.broker.Changed():
		case <-tick.C:
		case <-limit.C:
			for _, n := range s.nodes {
				s.Logf("%s: %+v\n%s", n.name, n.m.Status(), n.log.tail(25))
			}
			s.Fatalf("never: %s", what)
		}
	}
}

// clock is CLOCK_BOOTTIME and the civil time, both moved ahead by what scenarios jump.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() control.Time {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail on Linux
	d := time.Duration(c.ahead.Load())
	return control.Time{Mono: time.Duration(ts.Nano()) + d, Wall: time.Now().Add(d)}
}

// jump lets d pass for all members at once, as when their machines had slept.
func (s *scene) jump(d time.Duration) {
	s.clock.ahead.Add(int64(d))
	for _, n := range s.nodes {
		n.m.Status() // wakes the loop, which finds its timers due
	}
}

// pass lets d pass in steps in which no keeper misses a lease: whoever leads goes on.
func (s *scene) pass(d time.Duration) {
	s.Helper()
	for range d / control.LeaseInterval {
		s.jump(control.LeaseInterval)
		s.await("a lease", func() bool {
			for _, n := range s.nodes {
				if n.m.Status().Groups[0].LeaseAge >= control.LeaseInterval {
					return false
				}
			}
			return true
		})
	}
}

// node is a running member.
type node struct {
	s    *scene
	name string
	cfg  member.Config
	id   *crypto.Identity
	m    *member.Member
	log  *journal
}

// start starts a member; its user name at the broker is its own.
func (s *scene) start(role crypto.Role, name string, edit ...func(*member.Config)) *node {
	s.Helper()
	n := &node{s: s, name: name, id: s.identity(role, name), log: new(journal)}
	n.cfg = member.Config{Identity: n.id, Trust: s.trust, Policy: s.signed, Broker: []string{s.broker.URL()}, TLS: s.tls, Username: name, Log: slog.New(n.log), Clock: s.clock.now}
	for _, f := range edit {
		f(&n.cfg)
	}
	n.boot()
	s.nodes = append(s.nodes, n)
	return n
}

// boot starts the member's program.
func (n *node) boot() {
	n.s.Helper()
	m, err := member.Start(n.s.ctx, n.cfg)
	if err != nil {
		n.s.Fatal(err)
	}
	n.m = m
	n.s.Cleanup(func() { m.Close() })
}

// reboot ends the member's program and starts it again: it remembers what its state directory holds.
func (n *node) reboot() {
	n.s.Helper()
	if err := n.m.Close(); err != nil {
		n.s.Fatal(err)
	}
	n.boot()
}

// send is what the node seals under, nil if nothing.
func (n *node) send() *crypto.Key { return n.m.State().Keys.Send(group) }

// epoch is the newest epoch that the node holds.
func (n *node) epoch() crypto.Epoch {
	if k := n.m.State().Keys.Keys(group); len(k) > 0 {
		return k[0].Epoch
	}
	return crypto.Epoch{}
}

func (n *node) count(k control.Kind, r control.Result) int {
	return int(n.m.Status().Counters[control.Counter{Kind: k, Result: r}])
}

// trio starts the leading keeper, the second keeper and a reader, and waits until all agree and both gateways seal.
func (s *scene) trio() (gw1, gw2, reader *node) {
	s.Helper()
	gw1 = s.start(crypto.RoleGateway, "gw1")
	gw2 = s.start(crypto.RoleGateway, "gw2")
	reader = s.start(crypto.RoleSubscriber, "alice")
	s.agree()
	return gw1, gw2, reader
}

// agree waits until all members hold the leader's newest epoch and those that seal do so under it.
func (s *scene) agree() {
	s.Helper()
	s.await("all members on one epoch", func() bool {
		want := s.nodes[0].epoch()
		for _, n := range s.nodes {
			if n.epoch() != want {
				return false
			}
			if n.cfg.Identity.Member().Role == crypto.RoleGateway && (n.send() == nil || n.send().Epoch != want) {
				return false
			}
		}
		return want != crypto.Epoch{}
	})
}

// rotate has the leader make an epoch.
func (s *scene) rotate(leader *node) crypto.Epoch {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for {
		e, err := leader.m.Rotate(ctx, group)
		if err == nil {
			return e
		}
		if !strings.Contains(err.Error(), control.ErrTooFast.Error()) {
			s.Fatalf("%v\n%s", err, leader.log.tail(20))
		}
		s.await("earlier epochs to become active", func() bool { return leader.send() != nil && leader.send().Epoch == leader.epoch() })
	}
}

// journal is a member's log: what its operator sees, and the control events in it.
type journal struct {
	mu     sync.Mutex
	events []control.Event // guarded by mu
	levels []slog.Level    // of events; guarded by mu
	lines  []string        // guarded by mu
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := fmt.Sprintf("%s %s", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if e, ok := a.Value.Any().(control.Event); ok {
			j.events, j.levels = append(j.events, e), append(j.levels, r.Level)
		}
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value.Resolve())
		return true
	})
	j.lines = append(j.lines, line)
	return nil
}

func (j *journal) tail(n int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines[max(0, len(j.lines)-n):], "\n")
}

// mark is the number of events so far.
func (j *journal) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.events)
}

// find returns the first event since mark for which ok holds.
func (j *journal) find(mark int, ok func(control.Event) bool) (control.Event, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := slices.IndexFunc(j.events[mark:], ok); i >= 0 {
		return j.events[mark+i], true
	}
	return control.Event{}, false
}

// said reports whether a line that an operator sees (a warning, or worse) contains text.
func (j *journal) said(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.lines, func(l string) bool {
		return strings.Contains(l, text) && (strings.HasPrefix(l, "WARN") || strings.HasPrefix(l, "ERROR"))
	})
}
