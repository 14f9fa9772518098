package topic

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidateName(t *testing.T) {
	for _, tc := range []struct{ name, clause string }{
		{"a", ""}, {"/", ""}, {"a//b", ""}, {"$SYS/x", ""}, {"käse/☃", ""}, {"a b", ""}, {"a\x01", ""},
		{strings.Repeat("x", MaxLen), ""},
		{"", "MQTT-4.7.3-1"},
		{strings.Repeat("x", MaxLen+1), "MQTT-4.7.3-3"},
		{"a\x00", "MQTT-4.7.3-2"},
		{"a\xc0\x80", "MQTT-1.5.3-1"},     // overlong U+0000
		{"a\xed\xa0\x80", "MQTT-1.5.3-1"}, // surrogate
		{"a/#", "MQTT-4.7.1-1"}, {"+", "MQTT-4.7.1-1"}, {"a+b", "MQTT-4.7.1-1"},
	} {
		wantClause(t, fmt.Sprintf("name %.20q", tc.name), ValidateName([]byte(tc.name)), tc.clause)
	}
}

func TestValidateFilter(t *testing.T) {
	for _, tc := range []struct{ filter, clause string }{
		{"a", ""}, {"#", ""}, {"+", ""}, {"/", ""}, {"+/+", ""}, {"a/+/b", ""}, {"a/#", ""}, {"/#", ""}, {"+/#", ""},
		{"$SYS/#", ""}, {"$share", ""}, {"$share/g/a", ""}, {"$share/g//", ""}, {"$share/g/#", ""}, {"$sharex/", ""},
		{strings.Repeat("x", MaxLen), ""},
		{"", "MQTT-4.7.3-1"},
		{strings.Repeat("x", MaxLen+1), "MQTT-4.7.3-3"},
		{"a\x00", "MQTT-4.7.3-2"},
		{"\xff", "MQTT-1.5.3-1"},
		{"a#", "MQTT-4.7.1-2"}, {"a/#/b", "MQTT-4.7.1-2"}, {"##", "MQTT-4.7.1-2"}, {"#/", "MQTT-4.7.1-2"}, {"+#", "MQTT-4.7.1-2"},
		{"a+", "MQTT-4.7.1-3"}, {"++", "MQTT-4.7.1-3"}, {"a/+b/c", "MQTT-4.7.1-3"},
		{"$share/", "MQTT-4.8.2-1"}, {"$share//a", "MQTT-4.8.2-1"}, {"$share/g+/a", "MQTT-4.8.2-1"}, {"$share/#", "MQTT-4.8.2-1"},
		{"$share/g", "MQTT-4.8.2-2"}, {"$share/g/", "MQTT-4.8.2-2"},
		{"$share/g/a#", "MQTT-4.7.1-2"},
	} {
		wantClause(t, fmt.Sprintf("filter %.20q", tc.filter), ValidateFilter(tc.filter), tc.clause)
	}
}

func wantClause(t *testing.T, what string, err error, clause string) {
	t.Helper()
	if clause == "" {
		if err != nil {
			t.Errorf("%s: refused: %v", what, err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Clause != clause {
		t.Errorf("%s: error %v, want clause %s", what, err, clause)
	}
}

func TestShareFilter(t *testing.T) {
	for _, tc := range []struct {
		in, group, filter string
		ok                bool
	}{
		{"$share/g/a/#", "g", "a/#", true},
		{"$share/g//", "g", "/", true},
		{"$share/g", "", "$share/g", false},
		{"$share//a", "", "$share//a", false},
		{"$shared/g/a", "", "$shared/g/a", false},
		{"a/b", "", "a/b", false},
	} {
		group, filter, ok := ShareFilter(tc.in)
		if group != tc.group || filter != tc.filter || ok != tc.ok {
			t.Errorf("ShareFilter(%q) = %q, %q, %v", tc.in, group, filter, ok)
		}
	}
}

// The examples of section 4.7, and the corners around them.
func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		filter, name string
		want         bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player10", false},
		{"sport/#", "sport", true}, {"sport/#", "sport/", true}, {"sport/#", "sports", false},
		{"#", "a/b", true}, {"#", "/", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false}, {"sport/+", "sport/", true},
		{"+", "/finance", false}, {"+/+", "/finance", true}, {"/+", "/finance", true},
		{"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"$SYS/+", "$SYS/x", true}, {"$SYS/#", "$SYS", true},
		{"a/+/c", "a/$b/c", true}, {"a/#", "a/$b", true},
		{"a", "A", false}, {"a/b", "a", false}, {"a", "a/b", false}, {"a/", "a", false}, {"a", "a/", false}, {"ab", "a", false}, {"a", "ab", false},
		{"+/b", "a/b", true}, {"+/b", "a/c", false}, {"+/+/#", "a/b", true}, {"+/+/#", "a", false},
	} {
		if got := Match(tc.filter, tc.name); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.filter, tc.name, got)
		}
		if got := Match([]byte(tc.filter), []byte(tc.name)); got != tc.want {
			t.Errorf("Match of byte slices (%q, %q) = %v", tc.filter, tc.name, got)
		}
	}
}

// naive is section 4.7 word for word, over split levels.
func naive(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return len(n) >= i
		}
		if i >= len(n) || level != "+" && level != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

// words makes every string of up to depth levels out of the given ones, but for the empty string.
func words(levels []string, depth int) []string {
	var all []string
	last := []string{""}
	for d := range depth {
		var next []string
		for _, prefix := range last {
			for _, l := range levels {
				if d > 0 {
					l = prefix + "/" + l
				}
				next = append(next, l)
			}
		}
		all, last = append(all, next...), next
	}
	valid := all[:0]
	for _, w := range all {
		if w != "" {
			valid = append(valid, w)
		}
	}
	return valid
}

func filters(t *testing.T, depth int) []string {
	var out []string
	for _, f := range words([]string{"", "a", "b", "$", "+", "#"}, depth) {
		if ValidateFilter(f) == nil {
			out = append(out, f)
		}
	}
	if len(out) < 50 {
		t.Fatalf("only %d filters made", len(out))
	}
	return out
}

func TestMatchAgainstNaive(t *testing.T) {
	names := words([]string{"", "a", "b", "$", "ab"}, 4)
	for _, f := range filters(t, 3) {
		for _, n := range names {
			if got, want := Match(f, n), naive(f, n); got != want {
				t.Fatalf("Match(%q, %q) = %v, the standard says %v", f, n, got, want)
			}
		}
	}
}

func TestMatchAgainstNaiveAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for range 200_000 {
		f, n := randomWord(rng, []string{"", "a", "b", "ab", "$x", "+", "+", "+"}), randomWord(rng, []string{"", "a", "b", "ab", "$x"})
		if rng.IntN(3) == 0 {
			f += "/#"
		}
		if f == "" || n == "" {
			continue
		}
		got, want := Match(f, n), naive(f, n)
		if got != want {
			t.Fatalf("Match(%q, %q) = %v, the standard says %v", f, n, got, want)
		}
		if got {
			matched++
		}
	}
	if matched < 1000 {
		t.Fatalf("only %d pairs matched: the comparison shows too little", matched)
	}
}

func randomWord(rng *rand.Rand, levels []string) string {
	out := make([]string, 1+rng.IntN(5))
	for i := range out {
		out[i] = levels[rng.IntN(len(levels))]
	}
	return strings.Join(out, "/")
}

// Two filters of up to 3 levels that overlap at all share a name of up to 3 levels
// made of their literals and one level more: so brute force is exact.
func TestOverlapAgainstBruteForce(t *testing.T) {
	names := words([]string{"", "a", "b", "$", "other"}, 4)
	all := filters(t, 3)
	matches := make([]map[int]bool, len(all))
	for i, f := range all {
		matches[i] = map[int]bool{}
		for j, n := range names {
			if naive(f, n) {
				matches[i][j] = true
			}
		}
	}
	share := func(x, y map[int]bool) bool {
		for k := range x {
			if y[k] {
				return true
			}
		}
		return false
	}
	for i, a := range all {
		for j, b := range all {
			if got, want := Overlap(a, b), share(matches[i], matches[j]); got != want {
				t.Fatalf("Overlap(%q, %q) = %v, brute force says %v", a, b, got, want)
			}
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Fuzz(func(t *testing.T, filter, name string) {
		errF, errN := ValidateFilter(filter), ValidateName([]byte(name))
		got := Match(filter, name) // must not panic, valid or not
		Overlap(filter, name)
		if errF != nil || errN != nil {
			return
		}
		if _, _, shared := ShareFilter(filter); shared {
			return
		}
		if want := naive(filter, name); got != want {
			t.Fatalf("Match(%q, %q) = %v, the standard says %v", filter, name, got, want)
		}
		// A name without wildcards is a filter too, which overlaps exactly with what matches it.
		if ValidateFilter(name) == nil && Overlap(filter, name) != got {
			t.Fatalf("Overlap(%q, %q) = %v, Match says %v", filter, name, !got, got)
		}
		var s Set[int]
		if err := s.Add(filter, 1); err == nil {
			if _, ok := s.Lookup([]byte(name)); ok != got {
				t.Fatalf("Set with %q, Lookup(%q) = %v, Match says %v", filter, name, ok, got)
			}
		}
	})
}

func TestFuzzCorpusIsThere(t *testing.T) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzMatch/*")
	if err != nil || len(seeds) == 0 {
		t.Fatalf("no seeds for FuzzMatch (%v): the fuzz test would start from nothing", err)
	}
	for _, seed := range seeds {
		if b, err := os.ReadFile(seed); err != nil || !strings.HasPrefix(string(b), "go test fuzz v1\n") {
			t.Errorf("%s is no seed: %v", seed, err)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	filter, name := []byte("plant/+/line/#"), []byte("plant/7/line/3/temperature/of/the/second/oven")
	if n := testing.AllocsPerRun(100, func() {
		if !Match(filter, name) || !Match("plant/7/#", name) || ValidateName(name) != nil {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	name := []byte("plant/7/line/3/temperature")
	b.ReportAllocs()
	for b.Loop() {
		Match("plant/+/line/#", name)
	}
}
