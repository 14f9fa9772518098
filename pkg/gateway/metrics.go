package gateway

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/counters"
	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway/uplink"
)

// verdict is what became of a message, by direction.
type verdict uint8

const (
	upSeal verdict = iota
	upResend
	upPass
	upClear
	upDeny
	upNoKey
	upTooLarge
	downOpen
	downPass
	downDeny
	downControl
	downClear
	downPlaintext
	downForged
	downUnknownKey
	downExpired
	downDuplicate
	downReplayed
	downStale
	downTooLarge
	downOversize
	verdicts
)

// verdictWords are the labels of sealgate_messages_total, and for logs what a refusal means.
var verdictWords = [verdicts]struct{ direction, verdict, why string }{
	upSeal:         {"up", "seal", ""},
	upResend:       {"up", "resend", ""},
	upPass:         {"up", "pass", ""},
	upClear:        {"up", "clear", ""},
	upDeny:         {"up", "deny", ""},
	upNoKey:        {"up", "no-key", ""},
	upTooLarge:     {"up", "too-large", ""},
	downOpen:       {"down", "open", ""},
	downPass:       {"down", "pass", ""},
	downDeny:       {"down", "deny", "policy denies its topic"},
	downControl:    {"down", "control", "control messages are not for devices"},
	downClear:      {"down", "clear", ""}, // a sealed message tells the device of it
	downPlaintext:  {"down", "plaintext", "it is not sealed, on a topic that is"},
	downForged:     {"down", "forged", "it does not authenticate: forged, damaged, or moved from another topic"},
	downUnknownKey: {"down", "unknown-key", "its key is not known and did not come in time"},
	downExpired:    {"down", "expired-epoch", "the history of its epoch has ended"},
	downDuplicate:  {"down", "duplicate", "it was delivered before"},
	downReplayed:   {"down", "replayed", "it is older than all that could still be told apart"},
	downStale:      {"down", "stale", "a retained message older than one delivered already"},
	downTooLarge:   {"down", "too-large", "it is longer than limits.max_message"},
	downOversize:   {"down", "packet-size", "it is longer than the device's Maximum Packet Size"},
}

// refused reports whether a message of this verdict went no further.
func (v verdict) refused() bool {
	return v == upDeny || v == upNoKey || v == upTooLarge || v > downPass
}

// tally counts the messages of one batch, so that a message costs an increment of a local
// number and a batch the atomic ones.
type tally struct {
	n    [verdicts]uint32
	seen uint32 // bit v: n[v] is not 0
}

const _ = uint(32 - verdicts) // seen has a bit for each

func (t *tally) add(v verdict) {
	t.n[v]++
	t.seen |= 1 << v
}

// flush adds the batch of one direction, 0 up and 1 down, to the counters; written is the
// number of bytes about to be written.
func (t *tally) flush(c *conn, direction, written int) {
	m := c.g.metrics
	if written > 0 {
		m.bytes[direction].AddInt64(int64(written))
	}
	delivered, refused := uint64(0), uint64(0)
	for t.seen != 0 {
		v := verdict(bits.TrailingZeros32(t.seen))
		t.seen &^= 1 << v
		n := t.n[v]
		t.n[v] = 0
		m.messages[v].AddInt64(int64(n))
		if v.refused() {
			refused += uint64(n)
		} else {
			delivered += uint64(n)
		}
	}
	if delivered > 0 {
		c.messages[direction].Add(delivered)
	}
	if refused > 0 {
		c.refusedMsg.Add(refused)
	}
}

// Metrics are the data plane's counters, under their Prometheus names.
type Metrics struct {
	set      *counters.Set
	messages [verdicts]*counters.Counter
	bytes    [2]*counters.Counter
	gaps     *counters.Counter
	missing  [checkpoint.Crowded + 1]*counters.Counter // events of ledgers
	dropped  *counters.Counter
	seal     histogram
	epochs   epochClock
}

func newMetrics(g *Gateway) *Metrics {
	m := &Metrics{set: counters.NewSet()}
	for v, w := range verdictWords {
		m.messages[v] = m.set.Counter(fmt.Sprintf("sealgate_messages_total{direction=%q,verdict=%q}", w.direction, w.verdict))
	}
	for i, d := range []string{"up", "down"} {
		m.bytes[i] = m.set.Counter(fmt.Sprintf("sealgate_bytes_total{direction=%q}", d))
	}
	m.gaps = m.set.Counter("sealgate_gap_messages_total")
	for what := checkpoint.Dropped; what <= checkpoint.Crowded; what++ {
		m.missing[what] = m.set.Counter(fmt.Sprintf("sealgate_checkpoint_events_total{event=%q}", what))
	}
	m.dropped = m.set.Counter("sealgate_dropped_messages_total")
	m.set.Gauge("sealgate_silent_senders", func() float64 { return float64(g.silent()) })
	m.set.Gauge("sealgate_connections", func() float64 { return float64(g.connections()) })
	m.set.Gauge("sealgate_streams", func() float64 { return float64(g.streams.Load()) })
	m.set.Gauge("sealgate_sessions_idle", func() float64 { return float64(g.store.len()) })
	for _, reason := range []string{refusedConnections, refusedTimeout, refusedMalformed, refusedTooLarge, refusedNotReady, refusedDenied, refusedNoKey} {
		m.refuseBy(reason, 0)
	}
	for _, reason := range uplink.Reasons() {
		m.set.Counter(fmt.Sprintf("sealgate_uplink_errors_total{reason=%q}", reason))
	}
	return m
}

// refuse counts a refused connection.
func (m *Metrics) refuse(reason string) { m.refuseBy(reason, 1) }

func (m *Metrics) refuseBy(reason string, n int) {
	m.set.Counter(fmt.Sprintf("sealgate_refused_total{reason=%q}", reason)).Add(n)
}

func (m *Metrics) uplinkError(reason string) {
	m.set.Counter(fmt.Sprintf("sealgate_uplink_errors_total{reason=%q}", reason)).Inc()
}

// WritePrometheus writes all metrics in Prometheus text format.
func (m *Metrics) WritePrometheus(w io.Writer) {
	m.set.WritePrometheus(w)
	m.seal.write(w, "sealgate_seal_seconds")
	m.epochs.write(w)
}

// labelled returns the counters of one name by their label text, such as {reason="alias"}.
func (m *Metrics) labelled(name string) map[string]uint64 {
	out := make(map[string]uint64)
	for full, n := range m.set.Counters() {
		if label, ok := strings.CutPrefix(full, name+"{"); ok {
			if _, value, found := strings.Cut(strings.TrimSuffix(label, "\"}"), "=\""); found {
				out[value] = n
			}
		}
	}
	return out
}

// sealBounds are the upper bounds of the buckets of sealgate_seal_seconds, in nanoseconds.
var sealBounds = [...]time.Duration{250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000}

// histogram has fixed buckets. One message in 256 is observed.
type histogram struct {
	buckets [len(sealBounds) + 1]atomic.Uint64
	nanos   atomic.Uint64
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(sealBounds[:], d)
	h.buckets[i].Add(1)
	h.nanos.Add(uint64(max(d, 0)))
}

func (h *histogram) write(w io.Writer, name string) {
	total := uint64(0)
	for i, b := range sealBounds {
		total += h.buckets[i].Load()
		fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, b.Seconds(), total)
	}
	total += h.buckets[len(sealBounds)].Load()
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n", name, total)
	fmt.Fprintf(w, "%s_sum %g\n%s_count %d\n", name, time.Duration(h.nanos.Load()).Seconds(), name, total)
}

// epochClock remembers since when each group seals under its present epoch.
type epochClock struct {
	mu sync.Mutex // guards m
	m  map[string]epochSince
}

type epochSince struct {
	epoch crypto.Epoch
	since time.Time
}

// observe looks at a new keyring.
func (e *epochClock) observe(keys *crypto.Keyring) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	next := make(map[string]epochSince)
	for _, g := range keys.Groups() {
		k := keys.Send(g)
		if k == nil {
			continue
		}
		if old, ok := e.m[g]; ok && old.epoch == k.Epoch {
			next[g] = old
		} else {
			next[g] = epochSince{k.Epoch, now}
		}
	}
	e.m = next
}

func (e *epochClock) write(w io.Writer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for g, s := range e.m {
		fmt.Fprintf(w, "sealgate_epoch_number{group=%q} %d\n", g, s.epoch.Number)
		fmt.Fprintf(w, "sealgate_epoch_age_seconds{group=%q} %.1f\n", g, time.Since(s.since).Seconds())
	}
}
