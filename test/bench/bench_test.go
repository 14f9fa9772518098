package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// TestHAProxyCarriesTheLoad holds the parts of the benchmark together: load, HAProxy, sink and the processor time.
func TestHAProxyCarriesTheLoad(t *testing.T) {
	lab.NeedTool(t, "haproxy")
	ca := lab.NewCA(t, "bench")
	s := newSink(t, ca.Issue(t, "sink", time.Time{}, "127.0.0.1", "localhost"))
	c, ok := haproxy(t, s, ca)
	if !ok {
		t.Fatal("haproxy was there a moment ago")
	}
	for _, w := range workloads {
		micros, perSecond, err := measure(c, w, 100*time.Millisecond, 100)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.2f µs of processor time a message, %.0f messages/s", w.name, micros, perSecond)
		if micros <= 0 {
			t.Errorf("%s: no processor time was seen", w.name)
		}
	}
	conns, err := openIdle(c.addr, 1, 50)
	if err != nil {
		t.Fatal(err)
	}
	conns.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Log(s.suites)
}

// TestSteeringIsMeasured runs the comparison of the ways to steer in small, and writes its tables into a document.
func TestSteeringIsMeasured(t *testing.T) {
	tables := compareSteering(t, ways[:3], 1, 50*time.Millisecond, 100)
	if n := strings.Count(tables, "| `tc`, TCX | "); n != len(steerMeasures) {
		t.Errorf("%d of %d tables have mode tc:\n%s", n, len(steerMeasures), tables)
	}
	doc := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	if err := os.WriteFile(doc, []byte("before\n"+tableBegins+"old\n"+tableEnds+"behind\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeTables(t, doc, tables)
	if b, err := os.ReadFile(doc); err != nil || string(b) != "before\n"+tableBegins+tables+tableEnds+"behind\n" {
		t.Errorf("the document became %q, %v", b, err)
	}
}
