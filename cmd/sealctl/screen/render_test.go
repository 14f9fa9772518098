package screen

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/cmd/sealctl/watch"
)

var update = flag.Bool("update", false, "write the golden files anew")

func picture() *watch.Picture {
	return &watch.Picture{
		At: time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC), Fleet: "plant", Member: "subscriber/alice", Policy: 4,
		Links: []watch.Link{{Name: "member", Up: true, For: 725}, {Name: "control", Up: true, For: 725}, {Name: "messages", For: 4, Error: "refused\x1b[2J"}},
		Alarms: []watch.Alarm{
			{What: "link", Detail: "messages: refused\x1b[2J", Since: 4, Count: 1},
			{What: "withheld", Group: "machines", Gateway: "gw1", Detail: "checkpoints 3 to 5", Since: 61, Count: 2},
			{What: "plaintext", Group: "machines", Detail: "topic plant/\x1b]0;pwned\a\u202e世界", Since: 300, Count: 12},
			{What: "silent", Group: "people", Gateway: "gw2", Detail: "no checkpoint for 30s", Since: 10, Count: 1},
		},
		Groups: []watch.Group{
			{Name: "machines", Leader: "gw1", LeaderBy: "lease", Lease: 2, Epoch: "4.1.12", EpochAge: 1200, Rotation: 2400, Reads: true, Keys: 9, KeyHeld: true, Messages: 123456},
			{Name: "people", Leader: "gw2", LeaderBy: "announcement", Rival: "", Lease: -1, Epoch: "4.2.3", EpochAge: -1, Rotation: 600},
			{Name: "spare", Leader: "gw1", LeaderBy: "lease", Rival: "gw2", Lease: 1, Epoch: "4.1.1", EpochAge: 2, Active: 8, Rotation: 3598, Reads: true, Keys: 1},
			{Name: "unborn", Lease: -1, EpochAge: -1, Rotation: -1, Reads: true},
		},
		Gateways: []watch.Gateway{
			{Group: "machines", Name: "", Checkpoint: -1, PerMinute: -1, Missing: 1, MissingTotal: 1},
			{Group: "machines", Name: "gw1", Streams: 40, Sealed: 98765, PerMinute: 480, Checkpoint: 3, Epoch: "4.1.12", Missing: 7, MissingTotal: 19, Burned: 2},
			{Group: "machines", Name: "gw3", Streams: 1, Sealed: 10, PerMinute: 1, Checkpoint: 9, Epoch: "4.1.11", Behind: true},
			{Group: "people", Name: "gw2", Checkpoint: 31, PerMinute: -1, Silent: true},
			{Group: "people", Name: "bob", Checkpoint: 310, PerMinute: 0, Sealed: 3, Ended: true},
		},
		Unseen: []string{"missing messages of people: the policy does not let alice read"}, Refused: 3, Dropped: 1,
	}
}

func crowd(p *watch.Picture) *watch.Picture {
	for i := range 40 {
		p.Members = append(p.Members, watch.Member{Name: fmt.Sprintf("reader-%02d", i), Role: "subscriber", Heard: int64(i * i * 37), About: "asks for keys of machines, people", Policy: 4})
	}
	return p
}

// The picture at several sizes of the screen, as golden files (go test -run Render -update).
func TestRender(t *testing.T) {
	healthy := &watch.Picture{At: time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC), Fleet: "plant", Member: "operator/ops", Healthy: true,
		Links: []watch.Link{{Name: "control", Up: true, For: 1}}}
	for _, c := range []struct {
		name string
		p    *watch.Picture
		size Size
	}{
		{"whole", crowd(picture()), Size{}},
		{"wide", crowd(picture()), Size{160, 50}},
		{"usual", crowd(picture()), Size{80, 24}},
		{"small", crowd(picture()), Size{40, 12}},
		{"tiny", crowd(picture()), Size{12, 3}},
		{"empty", healthy, Size{80, 24}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Text(Render(c.p, c.size))
			file := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Whatever the size: no line is too long, there are not too many, and nothing in them controls a terminal.
func TestRenderFits(t *testing.T) {
	for width := 1; width < 200; width += 3 {
		for height := 1; height < 70; height++ {
			lines := Render(crowd(picture()), Size{width, height})
			if len(lines) > height {
				t.Fatalf("%dx%d: %d lines", width, height, len(lines))
			}
			for _, l := range lines {
				if Width(l.Text) > width {
					t.Fatalf("%dx%d: %d columns: %q", width, height, Width(l.Text), l.Text)
				}
				if Plain(l.Text) != l.Text {
					t.Fatalf("%dx%d: %q", width, height, l.Text)
				}
			}
		}
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"hall/1 °C 世界": "hall/1 °C 世界", "\x1b[2J": `\x1b[2J`, "a\nb\tc": `a\nb\tc`, "\u202eevil": `\u202eevil`, "\u009b1m": `\u009b1m`,
		"\xff\xfe": `\xff\xfe`, "\uFFFD": `\ufffd`, "": "",
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab~"}, {"世界", 4, "世界"}, {"世界", 3, "世~"}, {"世界", 2, "~"}, {"e\u0301e\u0301", 2, "e\u0301e\u0301"}, {"abc", 1, "~"}, {"abc", 0, "abc"}} {
		if got := Cut(c.in, c.width); got != c.want || c.width > 0 && Width(got) > c.width {
			t.Errorf("%q in %d: got %q, want %q", c.in, c.width, got, c.want)
		}
	}
}

func TestChangeLine(t *testing.T) {
	from, to := uint64(0), uint64(7)
	at := time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC)
	for _, c := range []struct {
		c    watch.Change
		want string
	}{
		{watch.Change{At: at, What: "leader", Group: "default", Leader: "gw2", Was: "gw1"}, `2026-03-01T12:00:05Z leader group=default leader=gw2 was=gw1`},
		{watch.Change{At: at, What: "gap", Alarm: true, Group: "default", Topic: "a b\x1b[m", From: &from, To: &to}, `2026-03-01T12:00:05Z ALARM gap group=default topic="a b\x1b[m" from=0 to=7`},
		{watch.Change{At: at, What: "silent", Over: true, Group: "default", Gateway: "gw1"}, `2026-03-01T12:00:05Z OVER silent group=default gateway=gw1`},
		{watch.Change{At: at, What: "policy", Policy: 3, Detail: "x=1"}, `2026-03-01T12:00:05Z policy version=3 detail="x=1"`},
	} {
		if got := ChangeLine(&c.c); got != c.want || strings.ContainsRune(got, '\x1b') {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// A frame begins at the top, erases each line before it writes it and what is below, and emphasises only if it may.
func TestFrame(t *testing.T) {
	lines := []Line{{"head", true}, {"row", false}}
	if got, want := frame(lines, 5, true), "\x1b[H\x1b[K\x1b[1mhead\x1b[0m\r\n\x1b[Krow\r\n\x1b[J"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := frame(lines, 2, false), "\x1b[H\x1b[Khead\r\n\x1b[Krow"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
