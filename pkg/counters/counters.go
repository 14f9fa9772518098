// Package counters keeps counters and gauges under their Prometheus names and writes them in
// Prometheus' text format. A name includes its labels: messages_total{direction="up"}.
//
// A counter is one atomic number: counting takes no lock and allocates nothing. Names are made
// at start or rarely.
package counters

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// Counter only grows. The zero Counter is ready.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n, which must not be negative.
func (c *Counter) Add(n int) { c.n.Add(uint64(n)) }

// AddInt64 adds n, which must not be negative.
func (c *Counter) AddInt64(n int64) { c.n.Add(uint64(n)) }

// Get is the present number.
func (c *Counter) Get() uint64 { return c.n.Load() }

// Set holds series by name. Its methods may be called from any goroutine.
type Set struct {
	mu       sync.Mutex // guards both maps
	counters map[string]*Counter
	gauges   map[string]func() float64
}

// NewSet makes an empty set.
func NewSet() *Set {
	return &Set{counters: make(map[string]*Counter), gauges: make(map[string]func() float64)}
}

// Counter returns the counter of that name, made at the first call.
func (s *Set) Counter(name string) *Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counters[name]
	if c == nil {
		c = new(Counter)
		s.counters[name] = c
	}
	return c
}

// Gauge makes a gauge that is read from f, which must be safe for concurrent use.
func (s *Set) Gauge(name string, f func() float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gauges[name] = f
}

// Counters returns the present number of each counter.
func (s *Set) Counters() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]uint64, len(s.counters))
	for name, c := range s.counters {
		out[name] = c.Get()
	}
	return out
}

// WritePrometheus writes all series, by name.
func (s *Set) WritePrometheus(w io.Writer) {
	counts := s.Counters()
	s.mu.Lock()
	gauges := maps.Clone(s.gauges)
	s.mu.Unlock()
	lines := make(map[string]string, len(counts)+len(gauges))
	for name, n := range counts {
		lines[name] = strconv.FormatUint(n, 10)
	}
	for name, f := range gauges { // outside the lock: f may take its own
		lines[name] = strconv.FormatFloat(f(), 'g', -1, 64)
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(w, "%s %s\n", name, lines[name])
	}
}
