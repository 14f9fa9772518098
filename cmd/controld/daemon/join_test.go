package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/cli"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
	"sealgate/pkg/enrol/online"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// output is what a program prints, to be waited for.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // closed at the next write
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) get() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.more
}

func (o *output) await(t *testing.T, what string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		text, more := o.get()
		if strings.Contains(text, what) {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("waited in vain for %q in:\n%s", what, text)
		}
	}
}

// site is a fleet directory and a broker over TLS.
type site struct {
	t      *testing.T
	dir    string
	broker *embedded.Broker
	ca     string // the broker's CA, a file
	conf   string // the joining machine's configuration

	mu     sync.Mutex
	meddle func(topic string, payload []byte) ([]byte, bool)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "plant")}
	ca := lab.NewCA(t, "broker CA")
	s.ca = ca.File
	s.broker = embedded.Start(t, embedded.Options{
		TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "broker", time.Time{}, "127.0.0.1").Pair}},
		Meddle: func(topic string, payload []byte) ([]byte, bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.meddle == nil {
				return payload, true
			}
			return s.meddle(topic, payload)
		},
	})
	s.sealctl("fleet", "init", s.dir, "--name", "plant")
	s.conf = filepath.Join(t.TempDir(), "sealgate.toml")
	text := fmt.Sprintf("fleet = \"plant\"\nidentity = \"/nowhere\"\n[control]\nbroker = %q\nca = %q\n", s.broker.URL(), s.ca)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) setMeddle(f func(string, []byte) ([]byte, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meddle = f
}

// sealctl runs a command that must succeed, and returns what it prints.
func (s *site) sealctl(args ...string) string {
	s.t.Helper()
	out, diag := newOutput(), newOutput()
	if code := cli.Main(cmdenv.Env{Ctx: s.t.Context(), Args: args, Stdout: out, Stderr: diag}); code != cmdenv.OK {
		text, _ := diag.get()
		s.t.Fatalf("sealctl %q: exit code %d: %s", args, code, text)
	}
	text, _ := out.get()
	return strings.TrimSpace(text)
}

func (s *site) ticket(name string) string {
	s.t.Helper()
	return s.sealctl("fleet", "ticket", s.dir, "--role", "gateway", "--name", name, "--ttl", "1h")
}

// serve runs `sealctl fleet serve` until the returned function is called, and waits until it serves.
func (s *site) serve() (diag *output, stop func()) {
	s.t.Helper()
	diag = newOutput()
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(cmdenv.Env{Ctx: ctx, Args: []string{"fleet", "serve", s.dir, "-b", s.broker.URL(), "--cafile", s.ca}, Stdout: newOutput(), Stderr: diag})
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if c := <-code; c != cmdenv.OK {
				text, _ := diag.get()
				s.t.Errorf("sealctl fleet serve: exit code %d: %s", c, text)
			}
		})
	}
	s.t.Cleanup(stop)
	diag.await(s.t, "serving fleet plant")
	return diag, stop
}

// join runs `controld -join` into dir and returns its exit code and what it said.
func (s *site) join(dir, ticket string, more ...string) (int, string) {
	return s.joinSaying(s.t.Context(), newOutput(), dir, ticket, more...)
}

// joinSaying is join with the output for the caller to watch.
func (s *site) joinSaying(ctx context.Context, diag *output, dir, ticket string, more ...string) (int, string) {
	args := append([]string{"-join", ticket, "-config", s.conf, "-identity", dir, "-wait", patience.String()}, more...)
	code := Main(cmdenv.Env{Ctx: ctx, Args: args, Stdout: newOutput(), Stderr: diag})
	text, _ := diag.get()
	return code, text
}

func want(t *testing.T, code, wantCode int, said string, words ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d:\n%s", code, wantCode, said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("said nothing of %q:\n%s", w, said)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// From a ticket to a gateway that mints the fleet's first keys.
func TestJoinByTicket(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	diag, _ := s.serve()
	dir := filepath.Join(t.TempDir(), "etc", "identity")
	code, said := s.join(dir, ticket)
	want(t, code, cmdenv.OK, said, "joining fleet plant as gateway node", "found the operator", "policy version 1")
	diag.await(t, "gateway node has its certificate")
	id, _, signed, err := member.LoadIdentity(dir)
	if err != nil || id.Member().Name != "node" || signed == nil || signed.Document.Groups[0].Keepers[0] != "node" {
		t.Fatalf("identity %v, policy %v, %v", id, signed, err)
	}
	for name, perm := range map[string]os.FileMode{".": 0o700, "identity.key": 0o600, "identity.crt": 0o644, "ca.crt": 0o644, "policy.cose": 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != perm {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "joining-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	key := read(t, filepath.Join(dir, "identity.key"))
	block, _ := pem.Decode(key)
	for _, p := range s.broker.Seen() {
		if bytes.Contains(p.Payload, block.Bytes[len(block.Bytes)-32:]) {
			t.Error("the private key left the router")
		}
	}
	if ledger := read(t, filepath.Join(s.dir, "members.txt")); !strings.HasPrefix(string(ledger), "node gateway ") {
		t.Errorf("ledger: %s", ledger)
	}

	// The same ticket for another machine, and for this one: nobody's identity changes.
	code, said = s.join(t.TempDir(), ticket)
	want(t, code, cmdenv.Failed, said, "the operator refused", "used already")
	code, said = s.join(dir, ticket)
	want(t, code, cmdenv.Failed, said, "has an identity", "-force")
	code, said = s.join(dir, ticket, "-force")
	want(t, code, cmdenv.Failed, said, "used already")
	if !bytes.Equal(key, read(t, filepath.Join(dir, "identity.key"))) {
		t.Fatal("the identity was lost")
	}
	code, said = s.join(dir, s.ticket("node2"), "-force")
	want(t, code, cmdenv.OK, said, "gateway node2", "policy version 2")
	again := filepath.Join(t.TempDir(), "again")
	s.sealctl("fleet", "revoke", s.dir, "--name", "node") // as any member: its ticket brings nothing back
	if err := errors.Join(os.Mkdir(again, 0o700), os.WriteFile(filepath.Join(again, joiningName(t, ticket)), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	code, said = s.join(again, ticket)
	want(t, code, cmdenv.Failed, said, "has been revoked")
}

// joiningName is the file in which the key waits for its certificate.
func joiningName(t *testing.T, ticket string) string {
	t.Helper()
	parsed, err := enrol.ParseTicket(ticket)
	if err != nil {
		t.Fatal(err)
	}
	id, err := parsed.ID()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("joining-%x.key", id[:4])
}

// What joined runs as a keeper.
func TestJoinedKeeperRuns(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	_, stop := s.serve()
	dir := filepath.Join(shortDir(t), "id")
	code, said := s.join(dir, ticket)
	want(t, code, cmdenv.OK, said)
	stop()
	r := start(t, dir)
	r.await(t, "the first epoch", func(s Status) bool { return len(s.Groups) == 1 && s.Groups[0].Epoch != "" })
}

// Two machines, one ticket: one of them becomes the member.
func TestTwoJoinersOneTicket(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	s.serve()
	codes := make(chan int, 2)
	for range 2 {
		dir := t.TempDir()
		go func() {
			code, _ := s.join(dir, ticket)
			codes <- code
		}()
	}
	if a, b := <-codes, <-codes; a+b != cmdenv.OK+cmdenv.Failed {
		t.Errorf("exit codes %d and %d", a, b)
	}
	if ledger := read(t, filepath.Join(s.dir, "members.txt")); bytes.Count(ledger, []byte("\n")) != 1 {
		t.Errorf("ledger: %s", ledger)
	}
}

func TestForgedAndExpiredTickets(t *testing.T) {
	s := newSite(t)
	ticket, err := enrol.ParseTicket(s.ticket("node"))
	if err != nil {
		t.Fatal(err)
	}
	expired := s.expired("late", ticket)
	s.serve()
	forged := *ticket
	forged.Secret, _ = enrol.SecretFrom(make([]byte, enrol.SecretSize))
	code, said := s.join(t.TempDir(), forged.Text())
	want(t, code, cmdenv.Failed, said, "the operator refused", "does not know this ticket", "sealctl fleet ticket")

	code, said = s.join(t.TempDir(), expired.Text())
	want(t, code, cmdenv.Failed, said, "the ticket expired at", "set the clock")
	// A router whose clock is behind hears it from the operator.
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	joiner, err := enrol.NewJoiner(expired, key, member.DefaultPrefix, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := session.TLSFiles(s.ca, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clock := member.NewClock(time.Time{})
	_, err = online.Join(ctx, online.JoinConfig{
		Broker: online.Broker{URLs: []string{s.broker.URL()}, TLS: conf, Log: slog.New(slog.DiscardHandler),
			Clock: func() enrol.Time { now := clock(); return enrol.Time{Mono: now.Mono, Wall: now.Wall} }},
		Joiner: joiner, Progress: func(string) {},
	})
	if !errors.Is(err, enrol.Expired) {
		t.Errorf("got %v", err)
	}

	taken := s.ticket("taken")
	s.sealctl("fleet", "add", s.dir, "--role", "gateway", "--name", "taken")
	code, said = s.join(t.TempDir(), taken)
	want(t, code, cmdenv.Failed, said, "enrolled in another way")
	if tickets := s.sealctl("fleet", "tickets", s.dir); strings.Contains(tickets, "used") {
		t.Errorf("tickets: %s", tickets)
	}

	s.sealctl("fleet", "tickets", s.dir, "--cancel", "node")
	code, said = s.join(t.TempDir(), ticket.Text())
	want(t, code, cmdenv.Failed, said, "cancelled")
}

// expired enters a ticket that is past its time.
func (s *site) expired(name string, like *enrol.Ticket) *enrol.Ticket {
	s.t.Helper()
	path := filepath.Join(s.dir, "tickets.cbor")
	book, err := enrol.ParseBook(read(s.t, path))
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := book.Key()
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(read(s.t, filepath.Join(s.dir, "ca.crt")))
	o := &enrol.Offer{Fleet: "plant", CA: block.Bytes, Key: key.Public()}
	if o.Anchor() != like.Anchor {
		s.t.Fatal("another anchor")
	}
	ticket, err := book.Add(o, crypto.RoleGateway, name, enrol.MinTTL, rand.Reader, time.Now().Add(-time.Hour))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, book.Marshal(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return ticket
}

// A broker that swaps the offer and the first answers gains nothing; when it stops, the joiner is served.
func TestJoinOverHostileBroker(t *testing.T) {
	s := newSite(t)
	evil := newSite(t) // a fleet of the broker's own, with the same name
	evil.ticket("node")
	offers := make(chan []byte, 1)
	evil.setMeddle(func(topic string, payload []byte) ([]byte, bool) {
		if strings.HasSuffix(topic, "/offer") && len(payload) > 0 {
			select {
			case offers <- payload:
			default:
			}
		}
		return payload, true
	})
	evil.serve()
	other := <-offers
	ticket, second := s.ticket("node"), s.ticket("node2")
	var recorded []byte
	swapped := 0
	s.setMeddle(func(topic string, payload []byte) ([]byte, bool) {
		if strings.Contains(topic, "/inbox/") && recorded == nil {
			recorded = payload
		}
		return payload, true
	})
	s.serve()
	code, said := s.join(t.TempDir(), second)
	want(t, code, cmdenv.OK, said)
	s.setMeddle(func(topic string, payload []byte) ([]byte, bool) {
		if strings.Contains(topic, "/inbox/") && swapped == 0 {
			swapped++
			return recorded, true // another member's certificate, signed by the right CA
		}
		return payload, true
	})
	parsed, _ := enrol.ParseTicket(ticket)
	s.broker.Inject(enrol.OfferTopic(member.DefaultPrefix, parsed.Anchor), other, 1, true)
	diag, restart := newOutput(), make(chan struct{})
	go func() {
		defer close(restart)
		code, _ := s.joinSaying(t.Context(), diag, t.TempDir(), ticket)
		if code != cmdenv.OK {
			t.Errorf("exit code %d", code)
		}
	}()
	diag.await(t, "an operator's offer was ignored")
	s.serve() // as the operator's next publication would, the offer comes again
	<-restart
	text, _ := diag.get()
	want(t, cmdenv.OK, cmdenv.OK, text, "an answer was ignored, since it cannot be trusted", "this machine is gateway node of")
	if swapped != 1 {
		t.Error("nothing was swapped")
	}
}

// Nobody serves: the joiner says so and gives up; its key is kept, and the ticket is still good.
func TestJoinWaitsForTheOperator(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	dir := t.TempDir()
	code, said := s.join(dir, ticket, "-wait", "300ms")
	want(t, code, cmdenv.Failed, said, "waiting for the operator", "gave up after 300ms", "sealctl fleet serve", "as good as before")
	kept, _ := filepath.Glob(filepath.Join(dir, "joining-*.key"))
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	key := read(t, kept[0])
	if info, err := os.Stat(kept[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	// Now it waits, and the operator comes.
	diag := newOutput()
	done := make(chan int, 1)
	go func() { code, _ := s.joinSaying(t.Context(), diag, dir, ticket); done <- code }()
	diag.await(t, "waiting for the operator")
	s.serve()
	if code := <-done; code != cmdenv.OK {
		text, _ := diag.get()
		t.Fatalf("exit code %d:\n%s", code, text)
	}
	if !bytes.Equal(key, read(t, filepath.Join(dir, "identity.key"))) {
		t.Error("another key was made")
	}
}

// A broker that is not the right one ends the attempt; one that is restarted does not.
func TestJoinAndTheBroker(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	code, said := s.join(t.TempDir(), ticket, "-cafile", filepath.Join(s.dir, "ca.crt"))
	want(t, code, cmdenv.Failed, said, "not signed by a CA that is trusted here")

	dir, diag := t.TempDir(), newOutput()
	done := make(chan int, 1)
	go func() { code, _ := s.joinSaying(t.Context(), diag, dir, ticket); done <- code }()
	diag.await(t, "waiting for the operator")
	s.broker.Stop()
	diag.await(t, "controld: broker mqtts://")
	s.broker.Restart()
	s.serve()
	if code := <-done; code != cmdenv.OK {
		text, _ := diag.get()
		t.Errorf("exit code %d:\n%s", code, text)
	}
}

// Whatever anybody on the broker sends to the operator and the joiner, the join goes through, and the operator's screen stays quiet.
func TestJoinThroughAFlood(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	parsed, err := enrol.ParseTicket(ticket)
	if err != nil {
		t.Fatal(err)
	}
	topic := enrol.RequestTopic(member.DefaultPrefix, parsed.Anchor)
	diag, _ := s.serve()
	request := (&enrol.Request{Sealed: make([]byte, 3000)}).Marshal()
	for i := range 300 {
		junk := request
		if i%2 == 0 {
			junk = request[:i]
		}
		s.broker.Inject(topic, junk, 1, false)
	}
	code, said := s.join(t.TempDir(), ticket)
	want(t, code, cmdenv.OK, said)
	diag.await(t, "gateway node has its certificate")
	if text, _ := diag.get(); strings.Count(text, "\n") > 6 || !strings.Contains(text, "that no ticket of this fleet stands behind") {
		t.Errorf("the operator read:\n%s", text)
	}
}

// The answer is lost, the operator's program is started again: the joiner gets the same certificate.
func TestLostAnswer(t *testing.T) {
	s := newSite(t)
	ticket := s.ticket("node")
	dir := t.TempDir()
	lost := make(chan struct{})
	var once sync.Once
	s.setMeddle(func(topic string, payload []byte) ([]byte, bool) {
		if strings.Contains(topic, "/inbox/") {
			once.Do(func() { close(lost) })
			return nil, false
		}
		return payload, true
	})
	_, stop := s.serve()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-lost; cancel() }()
	diag := newOutput()
	code, text := s.joinSaying(ctx, diag, dir, ticket)
	want(t, code, cmdenv.Failed, text, "interrupted", "run the same command again")
	stop()
	ledger := read(t, filepath.Join(s.dir, "members.txt"))
	// A crash between the ticket's use and the ledger: the second answer makes up for it.
	if err := os.WriteFile(filepath.Join(s.dir, "members.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.setMeddle(nil)
	s.serve()
	code, said := s.join(dir, ticket)
	want(t, code, cmdenv.OK, said)
	if again := read(t, filepath.Join(s.dir, "members.txt")); !bytes.Equal(again, ledger) {
		t.Errorf("ledger %s, before %s", again, ledger)
	}
	if tickets := s.sealctl("fleet", "tickets", s.dir); !strings.Contains(tickets, "used") {
		t.Errorf("tickets: %s", tickets)
	}
}

// A machine without a configuration joins by flags alone.
func TestJoinWithoutConfiguration(t *testing.T) {
	if _, err := os.Stat(config.DefaultPath); err == nil {
		t.Skip("this machine has a configuration")
	}
	s := newSite(t)
	ticket := s.ticket("node")
	s.serve()
	dir, diag := t.TempDir(), newOutput()
	code := Main(cmdenv.Env{Ctx: t.Context(), Stdin: strings.NewReader(ticket[:70] + "\n" + ticket[70:] + "\n"), Stdout: newOutput(), Stderr: diag,
		Args: []string{"-join", "-", "-broker", s.broker.URL(), "-cafile", s.ca, "-identity", dir, "-wait", patience.String()}})
	said, _ := diag.get()
	want(t, code, cmdenv.OK, said)
}

func TestJoinUsage(t *testing.T) {
	ticket := newSite(t).ticket("node")
	conf := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(conf, []byte("fleet = \"other\"\nidentity = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own.toml")
	if err := os.WriteFile(own, []byte("fleet = \"plant\"\nidentity = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"begins with sealgate-ticket-1-", []string{"-join", "hello"}},
		{"it is empty", []string{"-join", ""}},
		{"checksum", []string{"-join", ticket[:60] + "AA" + ticket[62:], "-broker", "mqtt://plant"}},
		{"means nothing without -join", []string{"-broker", "mqtt://plant"}},
		{"means nothing without -join", []string{"-force"}},
		{`fleet = "other"`, []string{"-join", ticket, "-config", conf}},
		{"no control broker is known", []string{"-join", ticket, "-config", own}},
		{"no such file", []string{"-join", ticket, "-config", conf + "x"}},
		{"want mqtt://", []string{"-join", ticket, "-config", own, "-broker", "plant"}},
	} {
		diag := newOutput()
		code := Main(cmdenv.Env{Ctx: t.Context(), Args: c.args, Stdin: strings.NewReader(""), Stdout: newOutput(), Stderr: diag})
		said, _ := diag.get()
		want(t, code, cmdenv.Usage, said, c.want)
		if strings.Contains(said, ticket) {
			t.Error("the ticket is printed")
		}
	}
}
