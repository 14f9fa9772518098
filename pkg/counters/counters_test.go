package counters

import (
	"strings"
	"sync"
	"testing"
)

func TestSet(t *testing.T) {
	s := NewSet()
	s.Counter(`b_total{x="1"}`).Add(2)
	s.Counter(`b_total{x="1"}`).Inc()
	s.Counter("a_total").AddInt64(7)
	s.Gauge("g", func() float64 { return 1.5 })
	var out strings.Builder
	s.WritePrometheus(&out)
	if want := "a_total 7\nb_total{x=\"1\"} 3\ng 1.5\n"; out.String() != want {
		t.Errorf("wrote %q, want %q", out.String(), want)
	}
	if c := s.Counters(); len(c) != 2 || c["a_total"] != 7 {
		t.Errorf("counters %v", c)
	}
}

func TestConcurrent(t *testing.T) {
	s := NewSet()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.Counter("n").Inc()
			}
			s.WritePrometheus(new(strings.Builder))
		})
	}
	wg.Wait()
	if n := s.Counter("n").Get(); n != 8000 {
		t.Errorf("counted %d, want 8000", n)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	c := NewSet().Counter("n")
	if n := testing.AllocsPerRun(100, func() { c.Inc(); c.Add(2); c.AddInt64(3) }); n != 0 {
		t.Errorf("%v allocations, 0 allowed", n)
	}
}
