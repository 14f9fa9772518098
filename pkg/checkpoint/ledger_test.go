package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

const interval = 10 * time.Second

// bench is a ledger with senders around it, in virtual time.
type bench struct {
	t      *testing.T
	l      *Ledger
	secret *crypto.PayloadSecret
	now    time.Duration
	events []Event
	number map[string]uint64
}

func newBench(t *testing.T, edit func(*Config)) *bench {
	t.Helper()
	secret, err := crypto.PayloadSecretFrom(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, secret: secret, now: time.Hour, number: make(map[string]uint64)}
	cfg := Config{Interval: interval, All: true, Digest: func(_ crypto.KeyID, topic [32]byte) (Digest, bool) {
		return TopicDigest(secret, "g", topic), true
	}}
	if edit != nil {
		edit(&cfg)
	}
	if b.l, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return b
}

func kid(n int) (k crypto.Kid) {
	binary.BigEndian.PutUint64(k[4:], uint64(n))
	return k
}

func topic(name string) [32]byte { return sha256.Sum256([]byte(name)) }

// says is a checkpoint of one member.
func (b *bench) says(name string, streams ...Stream) {
	b.t.Helper()
	m := &Message{Group: "g", Number: b.number[name], State: Last, Streams: streams}
	b.number[name]++
	if err := b.l.Checkpoint(b.now, name, m); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) stream(n int, name string, from, next uint64) Stream {
	return Stream{Topic: TopicDigest(b.secret, "g", topic(name)), Kid: kid(n), From: from, Next: next}
}

// pass lets time pass, timer by timer.
func (b *bench) pass(d time.Duration) {
	end := b.now + d
	for at, ok := b.l.Deadline(); ok && at <= end; at, ok = b.l.Deadline() {
		b.now = max(b.now, at)
		b.l.Advance(b.now)
	}
	b.now = end
	b.l.Advance(end)
	b.events = append(b.events, b.l.Take()...)
}

// want fails unless exactly these events happened since the last call.
func (b *bench) want(events ...Event) {
	b.t.Helper()
	b.pass(0)
	got := b.events
	b.events = nil
	for i := range got {
		got[i].At, got[i].Topic = 0, [32]byte{}
	}
	if !slices.Equal(got, events) {
		b.t.Errorf("events %v, want %v", got, events)
	}
}

// joined is a bench that has heard of gw1 for an interval.
func joined(t *testing.T, edit func(*Config)) *bench {
	b := newBench(t, edit)
	b.says("gw1")
	b.pass(interval)
	b.says("gw1")
	b.want()
	return b
}

func TestHonestTraffic(t *testing.T) {
	b := newBench(t, nil)
	next := uint64(0)
	for round := range 50 {
		from := next
		for range 7 {
			b.pass(time.Second)
			b.l.Received(b.now, kid(1), topic("a"), next)
			next++
		}
		next++ // the last one arrives after the checkpoint
		b.pass(3 * time.Second)
		b.says("gw1", b.stream(1, "a", from, next))
		b.l.Received(b.now, kid(1), topic("a"), next-1)
		if round == 0 && b.l.Attributed(kid(1)) != "gw1" {
			t.Error("not attributed")
		}
	}
	b.want()
}

func TestDroppedTail(t *testing.T) {
	b := joined(t, nil)
	for seq := range uint64(5) {
		b.l.Received(b.now, kid(1), topic("a"), seq)
	}
	start := b.now
	b.pass(interval)
	b.says("gw1", b.stream(1, "a", 0, 9))
	b.want()
	b.pass(interval - 1)
	b.want()
	b.pass(1)
	if b.now-start > 2*interval {
		t.Error("later than two intervals")
	}
	b.says("gw1")
	b.want(Event{What: Dropped, Gateway: "gw1", Kid: kid(1), From: 5, To: 8})
	b.l.Received(b.now, kid(1), topic("a"), 6) // late
	b.want(Event{What: Recovered, Gateway: "gw1", Kid: kid(1), From: 6, To: 6})
	b.l.Received(b.now, kid(1), topic("a"), 9)
	b.says("gw1", b.stream(1, "a", 9, 10))
	b.pass(interval)
	b.says("gw1")
	b.want()
}

func TestDroppedHead(t *testing.T) {
	b := joined(t, nil)
	b.l.Received(b.now, kid(1), topic("a"), 3)
	b.says("gw1", b.stream(1, "a", 0, 4))
	b.want(Event{What: Dropped, Gateway: "gw1", Kid: kid(1), From: 0, To: 2})
}

// TestWholeStreamDropped: nothing of a stream arrived. Who gets all topics misses it, and who gets this one.
func TestWholeStreamDropped(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*Config)
		misses bool
	}{
		"all topics":    {nil, true},
		"this topic":    {func(c *Config) { c.All, c.Topics = false, [][32]byte{topic("z"), topic("a")} }, true},
		"another topic": {func(c *Config) { c.All, c.Topics = false, [][32]byte{topic("z")} }, false},
		"wildcards":     {func(c *Config) { c.All = false }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := joined(t, c.edit)
			b.says("gw1", b.stream(1, "a", 0, 3))
			b.pass(interval)
			b.says("gw1")
			if c.misses {
				b.want(Event{What: Dropped, Gateway: "gw1", Kid: kid(1), From: 0, To: 2})
			} else {
				b.want()
			}
		})
	}
}

func TestBeforeWeListenedNothingIsMissed(t *testing.T) {
	b := newBench(t, nil)
	b.says("gw1", b.stream(1, "a", 0, 100), b.stream(2, "b", 50, 60))
	b.pass(interval)
	b.says("gw1", b.stream(1, "a", 100, 101))
	b.l.Received(b.now, kid(1), topic("a"), 100)
	b.pass(interval)
	b.says("gw1")
	b.want()
}

func TestInterruption(t *testing.T) {
	b := joined(t, nil)
	b.l.Received(b.now, kid(1), topic("a"), 0)
	b.says("gw1", b.stream(1, "a", 0, 1))
	b.pass(interval)
	b.number["gw1"] += 5 // while we were away
	b.pass(5 * time.Second)
	b.l.Interrupted(b.now)
	b.pass(5 * time.Second)
	b.says("gw1", b.stream(1, "a", 90, 95))
	b.pass(interval)
	b.says("gw1", b.stream(1, "a", 95, 96))
	b.want() // checkpoints 3 to 7 were sent while nobody listened
	b.pass(interval)
	b.says("gw1")
	b.want(Event{What: Dropped, Gateway: "gw1", Kid: kid(1), From: 95, To: 95})
}

func TestSilencedGateway(t *testing.T) {
	b := joined(t, nil)
	b.says("gw2")
	heard := b.now
	b.pass(interval)
	b.says("gw1")
	b.pass(interval - 1)
	b.want()
	b.says("gw1")
	b.pass(1)
	b.want(Event{What: Silent, Gateway: "gw2"})
	if b.now-heard != 2*interval || !slices.Equal(b.l.Silenced(), []string{"gw2"}) {
		t.Errorf("after %v, silenced %v", b.now-heard, b.l.Silenced())
	}
	b.pass(interval)
	b.says("gw1")
	b.number["gw2"] += 2
	b.says("gw2")
	b.want(Event{What: Withheld, Gateway: "gw2", From: 1, To: 2}, Event{What: Heard, Gateway: "gw2"})
	if err := b.l.Checkpoint(b.now, "gw2", &Message{Number: b.number["gw2"], State: Ending}); err != nil {
		t.Fatal(err)
	}
	b.pass(interval)
	b.says("gw1")
	b.pass(interval)
	b.says("gw1")
	b.want() // it said that it stops
}

func TestUnattributedStream(t *testing.T) {
	b := joined(t, nil)
	b.l.Received(b.now, kid(9), topic("a"), 0)
	start := b.now
	for b.now < start+2*interval-time.Second {
		b.pass(time.Second)
		b.says("gw1", b.stream(1, "a", 0, 0))
	}
	b.want()
	b.pass(time.Second)
	b.want(Event{What: Unattributed, Kid: kid(9), To: 0})
	// and one that goes on where a gateway's stream is
	b.says("gw1", b.stream(1, "a", 0, 1))
	b.l.Received(b.now, kid(1), topic("a"), 0)
	b.l.Received(b.now, kid(1), topic("a"), 1) // not the gateway's
	b.pass(interval)
	b.says("gw1", b.stream(1, "a", 1, 1))
	b.pass(interval)
	b.says("gw1")
	b.want(Event{What: Unattributed, Gateway: "gw1", Kid: kid(1), From: 1, To: 1})
}

func TestDisputes(t *testing.T) {
	b := joined(t, nil)
	b.says("gw2")
	b.l.Received(b.now, kid(1), topic("a"), 0)
	b.says("gw1", b.stream(1, "a", 0, 1))
	b.says("gw2", b.stream(1, "a", 0, 1))
	b.says("gw2", b.stream(1, "a", 0, 1))
	b.want(Event{What: Disputed, Gateway: "gw2", Other: "gw1", Kid: kid(1)})
	b.l.Received(b.now, kid(2), topic("a"), 0)
	b.says("gw1", b.stream(2, "b", 0, 1))
	b.want(Event{What: Disputed, Gateway: "gw1", Other: otherTopic, Kid: kid(2)})
	b.says("gw1", b.stream(3, "b", 0, 1))
	b.l.Received(b.now, kid(3), topic("a"), 0)
	b.want(Event{What: Disputed, Gateway: "gw1", Other: otherTopic, Kid: kid(3)})
	if b.l.Attributed(kid(1)) != "gw1" || b.l.Attributed(kid(3)) != "" {
		t.Errorf("attributed to %q and %q", b.l.Attributed(kid(1)), b.l.Attributed(kid(3)))
	}
}

func TestBurnedNumbersAreNoTail(t *testing.T) {
	b := joined(t, nil)
	b.l.Received(b.now, kid(1), topic("a"), 0)
	s := b.stream(1, "a", 0, 4)
	s.Burned = []crypto.Range{{From: 1, To: 3}}
	b.says("gw1", s)
	b.pass(interval)
	b.says("gw1")
	b.want(Event{What: Burned, Gateway: "gw1", Kid: kid(1), From: 1, To: 3})
}

func TestWillsAreNotMissed(t *testing.T) {
	b := joined(t, nil)
	s := b.stream(1, "a", 0, 1)
	s.Kid[4] |= 0x80
	b.says("gw1", s)
	b.pass(interval)
	b.says("gw1")
	b.want()
}

func TestReplayedCheckpoints(t *testing.T) {
	b := joined(t, nil)
	if err := b.l.Checkpoint(b.now, "gw1", &Message{Number: 1}); !errors.Is(err, ErrReplay) {
		t.Errorf("an old number: %v", err)
	}
	if err := b.l.Checkpoint(b.now, "gw1", &Message{Boot: [16]byte{1}, State: Last}); err != nil {
		t.Errorf("a new run: %v", err)
	}
	if err := b.l.Checkpoint(b.now, "gw1", &Message{Number: 99}); !errors.Is(err, ErrReplay) {
		t.Errorf("the run before: %v", err)
	}
	b.want()
}

// TestLedgerIsBounded: streams, senders and claims that are made up.
func TestLedgerIsBounded(t *testing.T) {
	b := joined(t, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 3 * MaxLedgerStreams {
		b.l.Received(b.now, kid(i), topic("a"), 0)
	}
	for i := range 3 * MaxUnheard {
		b.says("evil", b.stream(1<<40+i, "a", 0, 1))
	}
	for i := range 2 * MaxLedgerGateways {
		b.l.Checkpoint(b.now, fmt.Sprint("m", i), &Message{State: Last})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(b.l.streams) > MaxLedgerStreams || b.l.used.Len() != len(b.l.streams) || len(b.l.gateways) > MaxLedgerGateways || b.l.gateways["evil"].unheard > MaxUnheard ||
		len(b.l.claims) > maxTimers || len(b.l.events) > MaxLedgerEvents {
		t.Errorf("%d streams, %d senders, %d timers", len(b.l.streams), len(b.l.gateways), len(b.l.claims))
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	b.pass(3 * interval)
	if len(b.l.claims)+len(b.l.tails) != 0 {
		t.Error("timers are left")
	}
}

// BenchmarkReceived is what a subscriber pays for each message.
func BenchmarkReceived(b *testing.B) {
	secret, _ := crypto.PayloadSecretFrom(make([]byte, 32))
	l, _ := New(Config{Interval: interval, Digest: func(crypto.KeyID, [32]byte) (Digest, bool) { return TopicDigest(secret, "g", [32]byte{}), true }})
	for i := 0; b.Loop(); i++ {
		l.Received(time.Duration(i)*time.Millisecond, kid(i%1000), [32]byte{}, uint64(i/1000))
	}
}

func TestReceivedAllocatesNothing(t *testing.T) {
	b := joined(t, nil)
	b.l.Received(b.now, kid(1), topic("a"), 0)
	seq := uint64(1)
	if n := testing.AllocsPerRun(1000, func() { b.l.Received(b.now, kid(1), topic("a"), seq); seq++ }); n != 0 {
		t.Errorf("%v allocations for a message", n)
	}
}

func goodMessage() *Message {
	return &Message{Group: "g", Boot: [16]byte{1}, Number: 7, State: Last, Streams: []Stream{
		{Topic: Digest{2}, Kid: kid(1), From: 5, Next: 9, Burned: []crypto.Range{{From: 5, To: 5}, {From: 7, To: 8}}},
		{Topic: Digest{3}, Kid: kid(2), From: 0, Next: 0, Final: true},
	}}
}

func TestMessageRoundTrip(t *testing.T) {
	m, err := Parse(goodMessage().Marshal())
	if err != nil || !reflect.DeepEqual(m, goodMessage()) {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(goodMessage().Marshal())
	f.Add((&Message{Group: "g"}).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, dcbor.ErrMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		if got := m.Marshal(); !bytes.Equal(got, b) {
			t.Errorf("%x encodes to %x", b, got)
		}
	})
}

func TestTopicDigestIsKeyed(t *testing.T) {
	one, _ := crypto.PayloadSecretFrom(bytes.Repeat([]byte{1}, 32))
	two, _ := crypto.PayloadSecretFrom(bytes.Repeat([]byte{2}, 32))
	a := TopicDigest(one, "g", topic("a"))
	for name, d := range map[string]Digest{"secret": TopicDigest(two, "g", topic("a")), "group": TopicDigest(one, "h", topic("a")), "topic": TopicDigest(one, "g", topic("b"))} {
		if d == a {
			t.Errorf("the digest does not depend on the %s", name)
		}
	}
}

func TestEventsHaveWords(t *testing.T) {
	seen := make(map[string]bool)
	for w := Dropped; w <= Crowded; w++ {
		text := Event{What: w, Gateway: "gw1", Other: "gw2", From: 3, To: 4}.String()
		if w.String() == "unknown" || seen[w.String()] || text == "" {
			t.Errorf("event %d: %s: %s", w, w, text)
		}
		seen[w.String()] = true
	}
	if What(0).String() != "unknown" || (Crowded+1).String() != "unknown" {
		t.Error("an event that does not exist has a name")
	}
	if !Dropped.Alarm() || Burned.Alarm() || Heard.Alarm() {
		t.Error("the wrong events are alarms")
	}
}

func TestNewRefuses(t *testing.T) {
	digest := func(crypto.KeyID, [32]byte) (Digest, bool) { return Digest{}, false }
	for _, cfg := range []Config{{}, {Interval: interval}, {Digest: digest}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
