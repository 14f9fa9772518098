package topic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestSetMostSpecificWins(t *testing.T) {
	var s Set[string]
	for _, f := range []string{"#", "+/b", "a/#", "a/+", "a/b", "a/+/c", "a/b/#", "$SYS/#", "+"} {
		if err := s.Add(f, f); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"a/b": "a/b", "a/x": "a/+", "a": "a/#", "a/b/c": "a/b/#", "a/x/c": "a/+/c", "a/x/y": "a/#",
		"x/b": "+/b", "x": "+", "x/y": "#", "/": "#", "$SYS/a": "$SYS/#", "$SYS": "$SYS/#",
	} {
		if got, ok := s.Lookup([]byte(name)); !ok || got != want {
			t.Errorf("Lookup(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"$other", "$other/b", ""} {
		if got, ok := s.Lookup([]byte(name)); ok {
			t.Errorf("Lookup(%q) found %q", name, got)
		}
	}
	if s.Len() != 9 {
		t.Errorf("Len is %d", s.Len())
	}
}

func TestSetRefuses(t *testing.T) {
	var s Set[int]
	for _, f := range []string{"a/#", "a", "+", "#"} {
		if err := s.Add(f, 1); err != nil {
			t.Fatal(err)
		}
	}
	for filter, want := range map[string]string{
		"a/#": "given twice", "a": "given twice", "+": "given twice", "#": "given twice",
		"": "MQTT-4.7.3-1", "a#": "MQTT-4.7.1-2", "$share/g/a": "shared subscription",
	} {
		if err := s.Add(filter, 2); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Add(%q): error %v, want one with %q", filter, err, want)
		}
	}
	if s.Len() != 4 {
		t.Errorf("Len is %d after refusals", s.Len())
	}
}

// moreSpecific orders filters as Lookup promises.
func moreSpecific(a, b string) int {
	rank := func(level string) int { return slices.Index([]string{"+", "#"}, level) } // literal -1
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(x), len(y)) {
		if rank(x[i]) != rank(y[i]) {
			return rank(x[i]) - rank(y[i])
		}
	}
	return len(x) - len(y) // "a" before "a/#"
}

func TestSetAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	all := filters(t, 3)
	names := words([]string{"", "a", "b", "$", "other"}, 4)
	for range 60 {
		var s Set[string]
		var in []string
		for range 1 + rng.IntN(30) {
			f := all[rng.IntN(len(all))]
			if s.Add(f, f) == nil {
				in = append(in, f)
			}
		}
		slices.SortFunc(in, moreSpecific)
		for _, name := range names {
			i := slices.IndexFunc(in, func(f string) bool { return naive(f, name) })
			got, ok := s.Lookup([]byte(name))
			if ok != (i >= 0) || ok && got != in[i] {
				t.Fatalf("filters %q: Lookup(%q) = %q, %v; want index %d", in, name, got, ok, i)
			}
		}
	}
}

func manyFilters(tb testing.TB, n int) *Set[int] {
	var s Set[int]
	for i := range n {
		if err := s.Add(fmt.Sprintf("plant/%d/line/+/#", i), i); err != nil {
			tb.Fatal(err)
		}
	}
	return &s
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s, name := manyFilters(t, 1000), []byte("plant/777/line/3/temperature")
	if n := testing.AllocsPerRun(100, func() {
		if v, ok := s.Lookup(name); !ok || v != 777 {
			t.Errorf("found %v, %v", v, ok)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("filters=%d", n), func(b *testing.B) {
			s, name := manyFilters(b, n), fmt.Appendf(nil, "plant/%d/line/3/temperature", n/2)
			b.ReportAllocs()
			for b.Loop() {
				s.Lookup(name)
			}
		})
	}
}
