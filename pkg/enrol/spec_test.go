package enrol

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"sealgate/test/cddl"
	"sealgate/test/spec"
)

const specFile = "../../docs/spec/enrol.md"

// constants is section 8 of the specification, in its order.
var constants = []spec.Constant{
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

// TestSpecConstants binds section 8 to limits.go, both ways.
func TestSpecConstants(t *testing.T) { spec.Constants(t, specFile, constants) }

// TestSpecNamesItsTests: every test that section 7 names exists.
func TestSpecNamesItsTests(t *testing.T) {
	spec.TestsExist(t, specFile, 15, "*_test.go", "../../cmd/controld/daemon/*_test.go")
}

// TestSpecDescribesTheFormats: every vector that is right fits the CDDL, and names a section that exists.
func TestSpecDescribesTheFormats(t *testing.T) {
	rules, err := cddl.Load(specFile)
	if err != nil {
		t.Fatal(err)
	}
	text := spec.Text(t, specFile)
	seen := make(map[string]bool)
	for _, path := range vectors.Files(t) {
		v := spec.Read[vector](t, path)
		if !spec.HasSection(text, v.Spec) {
			t.Errorf("%s names section %s, which does not exist", path, v.Spec)
		}
		if v.Expect != "ok" {
			continue
		}
		seen[v.Kind] = true
		if err := rules.Check(v.Kind, v.Payload); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no vector of kind %s is right", kind)
		}
	}
	open := &Book{key: fill(32, 0)}
	if err := rules.Check("book", open.Marshal()); err != nil {
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
	text := spec.Text(t, specFile)
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
