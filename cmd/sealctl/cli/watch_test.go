package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/cli"
	"sealgate/cmd/sealctl/watch"
	"sealgate/pkg/control"
	"sealgate/pkg/member"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// patience bounds every wait; nothing is asserted about time.
const patience = 60 * time.Second

// plant is a fleet with two keepers, of which gw1 comes first, a gateway gw3 that seals, and alice, who reads.
type plant struct {
	t      *testing.T
	dir    string
	broker *embedded.Broker
	refuse atomic.Bool // the control topic, to everybody: subscriptions and deliveries
	meddle atomic.Pointer[func(topic string) (forward bool)]
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, dir: filepath.Join(t.TempDir(), "plant")}
	p.sealctl("fleet", "init", p.dir, "--name", "plant")
	for _, name := range []string{"gw1", "gw2", "gw3"} {
		p.sealctl("fleet", "add", p.dir, "--role", "gateway", "--name", name)
	}
	p.sealctl("fleet", "add", p.dir, "--role", "subscriber", "--name", "alice")
	file := filepath.Join(p.dir, "policy.toml")
	text, err := os.ReadFile(file)
	p.must(err)
	edited := strings.NewReplacer(`checkpoint = "10s"`, `checkpoint = "1s"`, `activate_after = "10s"`, `activate_after = "300ms"`, "# keepers = [\"gw1\"]", "keepers = [\"gw1\", \"gw2\"] #").Replace(string(text))
	p.must(os.WriteFile(file, []byte(edited), 0o600))
	p.sealctl("policy", "sign", p.dir)
	p.broker = embedded.Start(t, embedded.Options{Refuse: func(filter string) bool { return p.refuse.Load() && filter == "sealgate/control" }, Meddle: func(topic string, payload []byte) ([]byte, bool) {
		f := p.meddle.Load()
		return payload, f == nil || (*f)(topic)
	}})
	return p
}

func (p *plant) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) sealctl(args ...string) {
	p.t.Helper()
	var out bytes.Buffer
	if code := cli.Main(cmdenv.Env{Ctx: p.t.Context(), Args: args, Stdout: &out, Stderr: &out, Getenv: os.Getenv}); code != 0 {
		p.t.Fatalf("sealctl %s: exit %d\n%s", strings.Join(args, " "), code, out.String())
	}
}

// loaded is a member's identity, with the newest policy.
func (p *plant) loaded(name string) *subscriber.Loaded {
	p.t.Helper()
	id, trust, signed, err := member.LoadIdentity(filepath.Join(p.dir, "members", name))
	p.must(err)
	return &subscriber.Loaded{Identity: id, Trust: trust, Policy: signed}
}

var quiet = slog.New(slog.DiscardHandler)

// keeper runs a member, on a clock that is ahead by what ahead says.
func (p *plant) keeper(name string, ahead *atomic.Int64) *member.Member {
	p.t.Helper()
	who, clock := p.loaded(name), member.NewClock(time.Time{})
	m, err := member.Start(p.t.Context(), member.Config{
		Identity: who.Identity, Trust: who.Trust, Policy: who.Policy, Broker: []string{p.broker.URL()}, Log: quiet,
		Clock: func() control.Time {
			now := clock()
			now.Mono += time.Duration(ahead.Load())
			return now
		},
	})
	p.must(err)
	p.t.Cleanup(func() { m.Close() })
	return m
}

// watching is a `sealctl watch --json` that runs.
type watching struct {
	t    *testing.T
	stop context.CancelFunc
	code chan int

	mu   sync.Mutex
	seen []watch.Change
	more chan struct{}
	errs bytes.Buffer
}

func (p *plant) watch(args ...string) *watching {
	p.t.Helper()
	w := &watching{t: p.t, code: make(chan int, 1), more: make(chan struct{}, 1)}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(p.t.Context())
	p.t.Cleanup(w.stop)
	r, out := io.Pipe()
	args = append([]string{"watch", "-i", filepath.Join(p.dir, "members", "alice"), "-b", p.broker.URL(), "--json"}, args...)
	go func() {
		w.code <- cli.Main(cmdenv.Env{Ctx: ctx, Args: args, Stdout: out, Stderr: &w.errs, Getenv: func(string) string { return "" }})
		out.Close()
	}()
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var c watch.Change
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				c.Detail = fmt.Sprintf("%v: %s", err, lines.Text())
			}
			w.mu.Lock()
			w.seen = append(w.seen, c)
			w.mu.Unlock()
			select {
			case w.more <- struct{}{}:
			default:
			}
		}
	}()
	return w
}

// await returns the first change that ok accepts, of all that were printed.
func (w *watching) await(what string, ok func(*watch.Change) bool) watch.Change {
	w.t.Helper()
	limit := time.After(patience)
	for looked := 0; ; {
		w.mu.Lock()
		seen := w.seen
		w.mu.Unlock()
		for ; looked < len(seen); looked++ {
			if ok(&seen[looked]) {
				return seen[looked]
			}
		}
		select {
		case <-w.more:
		case <-limit:
			w.t.Fatalf("never: %s\n%+v", what, seen)
		}
	}
}

func is(what string) func(*watch.Change) bool {
	return func(c *watch.Change) bool { return c.What == what }
}

// Real members around a broker that drops what it is told to: who leads and who follows, what a gateway says it sealed, a
// message that is dropped, checkpoints that are withheld, a new epoch.
func TestWatchSeesAFleet(t *testing.T) {
	p := newPlant(t)
	var ahead atomic.Int64
	gw1 := p.keeper("gw1", new(atomic.Int64))
	w := p.watch("-v")
	w.await("gw1 leads", func(c *watch.Change) bool { return c.What == "leader" && c.Leader == "gw1" })
	w.await("an epoch", is("epoch"))
	gw2 := p.keeper("gw2", &ahead)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	gw3, err := subscriber.Connect(ctx, subscriber.Options{Member: p.loaded("gw3"), Broker: p.broker.URL(), Log: quiet})
	p.must(err)
	defer gw3.Close()
	publish := func() { t.Helper(); p.must(gw3.Publish(ctx, "hall/1", []byte("x"), 1, false)) }
	publish()
	w.await("gw3 seals", func(c *watch.Change) bool {
		return c.What == "checkpoint" && c.Gateway == "gw3" && c.Sealed > 0
	})
	w.await("gw3 is heard", func(c *watch.Change) bool { return c.What == "member" && c.Member == "gateway/gw3" })

	drop := func(topic string) bool { return topic != "hall/1" }
	p.meddle.Store(&drop)
	publish()
	p.meddle.Store(nil)
	publish()
	lost := w.await("a gap", is("gap"))
	if lost.From == nil || *lost.From != 1 || *lost.To != 1 || !lost.Alarm || lost.Topic != "hall/1" || lost.Gateway != "gw3" {
		t.Errorf("the gap is told as %+v", lost)
	}

	withhold := func(topic string) bool { return topic != "sealgate/checkpoint/default/gw3" }
	p.meddle.Store(&withhold)
	w.await("gw3 is silenced", func(c *watch.Change) bool { return c.What == "silent" && c.Gateway == "gw3" && c.Alarm })
	p.meddle.Store(nil)
	w.await("its checkpoints are missing", func(c *watch.Change) bool { return c.What == "withheld" && c.Gateway == "gw3" && c.From != nil })
	w.await("it is heard again", func(c *watch.Change) bool { return c.What == "silent" && c.Gateway == "gw3" && c.Over })

	gw1.Close()
	ahead.Store(int64(time.Minute))
	gw2.Status() // wakes its loop, which finds its timers due
	w.await("gw2 leads", func(c *watch.Change) bool { return c.What == "leader" && c.Leader == "gw2" && c.Was == "gw1" })
	e, err := gw2.Rotate(ctx, "default")
	p.must(err)
	w.await("the new epoch", func(c *watch.Change) bool { return c.What == "epoch" && c.Epoch == e.String() })
	w.stop()
	select {
	case code := <-w.code:
		if code != 0 || w.errs.Len() > 0 {
			t.Errorf("exit %d, %s", code, w.errs.String())
		}
	case <-time.After(patience):
		t.Error("an interrupt does not end it")
	}
}

// A broker whose access list keeps the control topic from a reader: the picture says so, goes by announcements, and is no alarm.
func TestWatchSaysWhatItCannotSee(t *testing.T) {
	p := newPlant(t)
	gw1 := p.keeper("gw1", new(atomic.Int64))
	limit := time.After(patience)
	for changed := gw1.Changed(); len(gw1.State().Keys.Groups()) == 0; changed = gw1.Changed() {
		select {
		case <-changed:
		case <-limit:
			t.Fatal("gw1 never led")
		}
	}
	p.refuse.Store(true)
	var out, errs bytes.Buffer
	args := []string{"watch", "-i", filepath.Join(p.dir, "members", "alice"), "-b", p.broker.URL(), "--once", "--json", "-W", "5"}
	code := cli.Main(cmdenv.Env{Ctx: t.Context(), Args: args, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }})
	var got watch.Picture
	p.must(json.Unmarshal(out.Bytes(), &got))
	if code != 0 || !got.Healthy || len(got.Groups) != 1 || got.Groups[0].Leader != "gw1" || got.Groups[0].LeaderBy != "announcement" {
		t.Errorf("exit %d, %s", code, out.String())
	}
	if len(got.Unseen) != 1 || !strings.Contains(got.Unseen[0], `"sealgate/control"`) || !strings.Contains(got.Unseen[0], "access list") {
		t.Errorf("unseen: %q", got.Unseen)
	}
	if errs.Len() > 0 {
		t.Errorf("said %q", errs.String())
	}
}

// openPTY returns the two ends of a terminal of a size.
func openPTY(t *testing.T, rows, columns uint16) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	resize(t, keyboard, rows, columns)
	return keyboard, terminal
}

func resize(t *testing.T, f *os.File, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// On a terminal the picture is drawn in place, in the terminal's size, also when that changes; the end gives the screen back.
func TestWatchOnATerminal(t *testing.T) {
	p := newPlant(t)
	p.keeper("gw1", new(atomic.Int64))
	keyboard, terminal := openPTY(t, 24, 80)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	code := make(chan int, 1)
	var errs bytes.Buffer
	env := cmdenv.Env{Ctx: ctx, Stdout: terminal, Stderr: &errs, Args: []string{"watch", "-i", filepath.Join(p.dir, "members", "alice"), "-b", p.broker.URL()},
		Getenv: func(name string) string { return map[string]string{"TERM": "xterm", "NO_COLOR": "1"}[name] }}
	go func() { code <- cli.Main(env); terminal.Close() }()

	frames := make(chan string, 1024)
	go func() {
		defer close(frames)
		var text []byte
		for buf := make([]byte, 4096); ; {
			n, err := keyboard.Read(buf)
			text = append(text, buf[:n]...)
			for {
				before, after, found := bytes.Cut(text, []byte("\x1b[H"))
				if !found {
					break
				}
				frames <- string(before)
				text = after
			}
			if err != nil {
				frames <- string(text)
				return
			}
		}
	}()
	limit := time.After(patience)
	await := func(what string, ok func(frame string) bool) {
		t.Helper()
		for {
			select {
			case f, more := <-frames:
				if !more {
					t.Fatalf("ended before: %s\n%s", what, errs.String())
				}
				if ok(f) {
					return
				}
			case <-limit:
				t.Fatalf("never: %s", what)
			}
		}
	}
	await("the alternate screen", func(f string) bool { return f == "\x1b[?1049h\x1b[?25l" })
	await("a picture", func(f string) bool { return strings.Contains(f, "fleet plant") && strings.Contains(f, "gw1") })
	resize(t, keyboard, 6, 30)
	await("a small picture", func(f string) bool {
		lines := strings.Split(f, "\r\n")
		for _, l := range lines {
			if len(strings.TrimRight(strings.TrimPrefix(l, "\x1b[K"), "\r")) > 30 || strings.Contains(l, "\x1b[1m") {
				return false
			}
		}
		return len(lines) <= 6
	})
	stop()
	await("the screen back", func(f string) bool { return strings.HasSuffix(f, "\x1b[0m\x1b[?25h\x1b[?1049l") })
	if got := <-code; got != 0 || errs.Len() > 0 {
		t.Errorf("exit %d, %s", got, errs.String())
	}
}
