package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealgate/test/lab"
)

func TestMain(m *testing.M) {
	if library := os.Getenv(childEnv); library != "" {
		runChild(library)
		return
	}
	lab.Main(m)
}

// Every client plays the scenario twice with every broker: direct, and with a gateway on both sides. It sees the same, but
// for what is explained, and the broker sees no plaintext.
func TestInterop(t *testing.T) {
	all := kinds(t)
	m := &matrix{cells: map[[2]string]string{}}
	for _, k := range all {
		m.rows = append(m.rows, k.String())
	}
	t.Run("brokers", func(t *testing.T) {
		for _, b := range brokers {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				column(t, m, b, all)
			})
		}
	})
	fmt.Printf("\nSteps in which a client sees the same through Sealgate as direct; letters: see below; !: a step that fails.\n\n%s\n"+
		"%d messages received through Sealgate were compared.\n", m, m.messages)
	if m.complete() && !t.Failed() {
		documented(t, m)
	}
}

// documented holds docs/INTEROP.md against the matrix, or writes the matrix there with INTEROP_UPDATE=1.
func documented(t *testing.T, m *matrix) {
	const begin, end = "<!-- what the test prints -->\n", "<!-- end -->\n"
	file := filepath.Join(lab.Root(t), "..", "..", "docs", "INTEROP.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read the documented matrix: %v", err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	shown, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Errorf("docs/INTEROP.md lacks %q or %q", begin, end)
	case shown == m.String():
	case os.Getenv("INTEROP_UPDATE") == "":
		t.Error("docs/INTEROP.md shows another matrix; INTEROP_UPDATE=1 make interop writes it anew")
	default:
		if err := os.WriteFile(file, []byte(head+begin+m.String()+end+tail), 0o644); err != nil {
			t.Fatalf("write the matrix down: %v", err)
		}
	}
}

// column is one broker with all clients.
func column(t *testing.T, m *matrix, b *broker, all []kind) {
	port := b.start(t)
	gates := gateways(t, port)
	watch := observe(t, b, port)
	for i, k := range all {
		if k.version == 5 && !b.v5 {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			cell(t, m, b, k, port, gates, fmt.Sprintf("%02d", i))
			for _, text := range watch.verdict(fmt.Sprintf("%02d", i), leastObserved) {
				t.Errorf("at the broker: %s", text)
			}
		})
	}
}

// leastObserved is how many messages of one run the observer has to have seen at the least to be believed.
const leastObserved = 30

// cell compares one client at one broker.
func cell(t *testing.T, m *matrix, b *broker, k kind, port int, gates [2]int, number string) {
	k.need(t)
	direct := &run{t: t, kind: k, broker: b, ports: [2]int{port, port}, prefix: "d" + number}
	want := direct.play()
	for _, text := range want.missed() {
		t.Errorf("the direct run expects what this broker does not do: %s", text)
	}
	through := &run{t: t, kind: k, broker: b, ports: gates, prefix: "s" + number, like: want}
	seen := through.play()
	for _, text := range raised(want.limits, seen.limits) {
		t.Errorf("CONNACK: %s", text)
	}
	wanted, got := want.steps(), seen.steps()
	alike, letters := 0, ""
	for _, s := range steps {
		letter, e := excuse(b, k, s.name)
		letters += letter
		if e != nil && e.how == leftOut || !direct.fits(s) {
			continue
		}
		if e != nil && e.how == inAnyOrder {
			slices.Sort(wanted[s.name])
			slices.Sort(got[s.name])
		}
		d := differences(wanted[s.name], got[s.name])
		switch expected := e != nil && e.how == differs; {
		case len(d) == 0 && expected:
			t.Errorf("step %q (%s) no longer differs: take its explanation off the list", s.name, s.what)
		case len(d) == 0:
			alike++
		case !expected:
			t.Errorf("step %q (%s) differs:\n%s", s.name, s.what, strings.Join(d, "\n"))
			letters += "!"
		}
	}
	m.set(k, b, alike, letters, seen.total())
}
