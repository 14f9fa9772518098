package enrol

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sealgate/test/cddl"
)

const specFile = "../../docs/spec/enrol.md"

// constants is section 8 of the specification, in its order.
var constants = []struct {
	name    string
	value   any
	meaning string
}{
	{"SecretSize", SecretSize, "bytes of a ticket's secret"},
	{"MaxTicket", MaxTicket, "characters of a ticket"},
	{"MinTTL", MinTTL, "shortest life of a ticket"},
	{"MaxTTL", MaxTTL, "longest life of a ticket"},
	{"Remember", Remember, "a used or expired ticket is remembered this long after its expiry"},
	{"MaxTickets", MaxTickets, "tickets in a book"},
	{"MaxOffer", MaxOffer, "bytes of an offer"},
	{"MaxRequest", MaxRequest, "bytes of a request"},
	{"MaxAnswer", MaxAnswer, "bytes of a signed answer"},
	{"AskMin", AskMin, "a joiner repeats an unanswered request first after this"},
	{"AskMax", AskMax, "and later at most this far apart"},
	{"RefusalRate", RefusalRate, "answers a second to requests that no ticket authenticates"},
	{"RefusalBurst", RefusalBurst, "the same, in a burst"},
	{"TicketEvery", TicketEvery, "between two answers to one ticket, in the long run"},
	{"TicketBurst", TicketBurst, "answers to one ticket in a burst"},
}

func readSpec(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(specFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func specValue(v any) string {
	d, ok := v.(time.Duration)
	switch {
	case !ok:
		return fmt.Sprint(v)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// TestSpecConstants binds section 8 to limits.go, both ways.
func TestSpecConstants(t *testing.T) {
	var want strings.Builder
	for _, c := range constants {
		fmt.Fprintf(&want, "| %s | %s | %s |\n", c.name, specValue(c.value), c.meaning)
	}
	if !strings.Contains(readSpec(t), "|---|---|---|\n"+want.String()+"\n") {
		t.Errorf("section 8 of %s should read:\n%s", specFile, want.String())
	}
	source, err := os.ReadFile("limits.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t([A-Z]\w+) +=`).FindAllStringSubmatch(string(source), -1) {
		if !strings.Contains(want.String(), "| "+m[1]+" |") {
			t.Errorf("%s of limits.go is missing in section 8", m[1])
		}
	}
}

// TestSpecNamesItsTests: every test that section 7 names exists.
func TestSpecNamesItsTests(t *testing.T) {
	var all bytes.Buffer
	for _, pattern := range []string{"*_test.go", "../../cmd/controld/daemon/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(readSpec(t), -1)
	if len(names) < 15 {
		t.Fatalf("only %d tests named", len(names))
	}
	for _, name := range names {
		if !strings.Contains(all.String(), "func "+name+"(") {
			t.Errorf("%s does not exist", name)
		}
	}
}

// TestSpecDescribesTheFormats: every vector that is right fits the CDDL, and names a section that exists.
func TestSpecDescribesTheFormats(t *testing.T) {
	spec, err := cddl.Load(specFile)
	if err != nil {
		t.Fatal(err)
	}
	text := readSpec(t)
	seen := make(map[string]bool)
	for _, path := range vectorFiles(t) {
		v, payload := readVector(t, path)
		if !strings.Contains(text, "# "+v.Spec+" ") && !strings.Contains(text, "# "+v.Spec+". ") {
			t.Errorf("%s names section %s, which does not exist", path, v.Spec)
		}
		if v.Expect != "ok" {
			continue
		}
		seen[v.Kind] = true
		if err := spec.Check(v.Kind, payload); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no vector of kind %s is right", kind)
		}
	}
	open := &Book{key: fill(32, 0)}
	if err := spec.Check("book", open.Marshal()); err != nil {
		t.Error(err)
	}
}

// A ticket can be typed on a serial console, if need be.
func TestTicketIsShort(t *testing.T) {
	if n := len(goodTicket().Text()); n > 140 {
		t.Errorf("%d characters", n)
	}
	long := goodTicket()
	long.Fleet, long.Name = strings.Repeat("f", 63), strings.Repeat("n", 63)
	if _, err := ParseTicket(long.Text()); err != nil {
		t.Errorf("with the longest names, %d characters: %v", len(long.Text()), err)
	}
}

// TestSpecTellsTheVerdicts: the table of 4.3 has the code's numbers and whether they are final.
func TestSpecTellsTheVerdicts(t *testing.T) {
	text := readSpec(t)
	for v := Granted; v <= lastVerdict; v++ {
		final := map[bool]string{true: "yes", false: "no"}[v.Final()]
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \| .* \| %s \|$`, v, final)).MatchString(text) {
			t.Errorf("verdict %d (%v) is not in the table", v, v)
		}
		if v != Granted && !strings.Contains(v.Error(), "; ") {
			t.Errorf("verdict %d does not say what to do: %v", v, v)
		}
	}
}
