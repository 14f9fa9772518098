package subscriber_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
)

// bench is a receiver with a policy, a key, and what it has reported.
type bench struct {
	t     *testing.T
	r     *subscriber.Receiver
	table *policy.Table
	key   *crypto.PayloadSecret
	now   time.Duration
	got   []*subscriber.Message
	asked []crypto.KeyID
	done  int

	topics *crypto.TopicKey // of a fleet that hides topics
}

func newBench(t *testing.T, streams int) *bench {
	t.Helper()
	b := &bench{t: t, key: secret(t)}
	b.r = subscriber.NewReceiver(streams,
		func(m *subscriber.Message) { b.got = append(b.got, m) },
		func(_ string, id crypto.KeyID) { b.asked = append(b.asked, id) })
	sealed, private := policy.DefaultGroup("plant"), policy.DefaultGroup("private")
	sealed.Topics, sealed.Keepers = []string{"plant/#"}, []string{"gw1"}
	private.Topics, private.Keepers = []string{"private/#"}, []string{"gw1"}
	clear := &policy.Document{Fleet: "f", Version: 1, Unmatched: policy.WordPass, Groups: []policy.Group{sealed, private}}
	var err error
	if b.table, err = clear.Table(); err != nil {
		t.Fatal(err)
	}
	b.give(b.key)
	return b
}

func secret(t *testing.T) *crypto.PayloadSecret {
	t.Helper()
	s, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// give makes secrets the keys of group plant.
func (b *bench) give(secrets ...*crypto.PayloadSecret) {
	b.t.Helper()
	var keys []crypto.Key
	for i, s := range secrets {
		keys = append(keys, crypto.Key{ID: crypto.KeyIDOf(s, "plant"), Epoch: crypto.Epoch{PolicyVersion: 1, Number: uint64(i)}, Secret: s, NotAfter: time.Hour})
	}
	ring, err := crypto.NewKeyring(map[string][]crypto.Key{"plant": keys})
	if err != nil {
		b.t.Fatal(err)
	}
	b.r.SetState(b.now, b.table, ring.WithTopicKey(b.topics))
}

// stream seals on topic under s.
func (b *bench) stream(s *crypto.PayloadSecret, topic string, will bool) *crypto.SealStream {
	b.t.Helper()
	var fresh [16]byte
	rand.Read(fresh[:])
	out, err := crypto.NewSealStream(s, "plant", topic, crypto.NewStreamID("gw1", [16]byte{}, fresh, will))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) seal(s *crypto.SealStream, n int) [][]byte {
	b.t.Helper()
	var out [][]byte
	for i := range n {
		e, _, err := s.Seal(nil, nil, fmt.Appendf(nil, "payload %d", i))
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func (b *bench) receive(topic string, payload []byte, retain bool) {
	b.r.Receive(b.now, subscriber.Incoming{Topic: topic, Payload: payload, QoS: 1, Retain: retain, Done: func() { b.done++ }})
}

// expect compares what was reported since the last call: "status", or "gap 1-3".
func (b *bench) expect(want ...string) {
	b.t.Helper()
	var got []string
	for _, m := range b.got {
		s := string(m.Status)
		if m.Report() {
			s += fmt.Sprintf(" %d-%d", m.From, m.To)
		}
		if (m.Payload != nil) != (m.Status == subscriber.StatusOK) {
			b.t.Errorf("status %s, payload %q", m.Status, m.Payload)
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("got %q, want %q", got, want)
	}
	b.got = nil
}

const sealedTopic = "plant/a"

func TestReceiveInOrder(t *testing.T) {
	b := newBench(t, 0)
	for i, e := range b.seal(b.stream(b.key, sealedTopic, false), 3) {
		b.receive(sealedTopic, e, false)
		if m := b.got[i]; string(m.Payload) != fmt.Sprintf("payload %d", i) || m.Seq != uint64(i) || m.Group != "plant" || !m.Sealed {
			t.Errorf("message %d: %+v", i, m)
		}
	}
	b.expect("ok", "ok", "ok")
	if b.done != 3 {
		t.Errorf("%d of 3 were acknowledged", b.done)
	}
}

func TestReceiveStatuses(t *testing.T) {
	b := newBench(t, 0)
	s := b.stream(b.key, sealedTopic, false)
	e := b.seal(s, 2000)
	flipped := slices.Clone(e[0])
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name  string
		topic string
		wire  []byte
		want  []string
	}{
		{"plain on a sealed topic", sealedTopic, []byte("hello"), []string{"plaintext"}},
		{"empty on a sealed topic", sealedTopic, nil, nil},
		{"plain on a clear topic", "elsewhere", []byte("hello"), []string{"ok"}},
		{"cut off", sealedTopic, e[0][:20], []string{"forged"}},
		{"flipped bit", sealedTopic, flipped, []string{"forged"}},
		{"another topic of the group", "plant/b", e[0], []string{"forged"}},
		{"start", sealedTopic, e[5], []string{"ok"}},
		{"again", sealedTopic, e[5], []string{"duplicate"}},
		{"jump", sealedTopic, e[9], []string{"gap 6-8", "ok"}},
		{"late", sealedTopic, e[7], []string{"ok", "gap-filled 7-7"}},
		{"late again", sealedTopic, e[7], []string{"duplicate"}},
		{"before the start", sealedTopic, e[3], []string{"ok"}},
		{"far ahead", sealedTopic, e[1999], []string{"gap 10-1998", "ok"}},
		{"below the window", sealedTopic, e[8], []string{"replayed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			b.receive(c.topic, c.wire, false)
			b.expect(c.want...)
		})
	}
}

func TestGapNumbers(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(b.key, sealedTopic, false), 5)
	b.receive(sealedTopic, e[0], false)
	b.receive(sealedTopic, e[4], false)
	if m := b.got[2]; m.Gap != 3 {
		t.Errorf("gap of the message is %d, want 3", m.Gap)
	}
	b.expect("ok", "gap 1-3", "ok")
}

func TestConflict(t *testing.T) {
	// Two messages under one number take a member that seals twice with one stream id: made here by two
	// SealStreams of the same id.
	b := newBench(t, 0)
	id := crypto.NewStreamID("gw1", [16]byte{}, [16]byte{1}, false)
	for _, payload := range []string{"one", "two"} {
		s, err := crypto.NewSealStream(b.key, "plant", sealedTopic, id)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := s.Seal(nil, nil, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		b.receive(sealedTopic, e, false)
	}
	b.expect("ok", "conflict")
}

func TestRetainedNeverMovesTheWindow(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(b.key, sealedTopic, false), 4)
	b.receive(sealedTopic, e[3], true) // before anything live
	b.receive(sealedTopic, e[1], false)
	b.receive(sealedTopic, e[0], true)
	b.receive(sealedTopic, e[1], true)
	b.receive(sealedTopic, e[3], true)
	b.receive(sealedTopic, e[2], false)
	b.expect("ok", "ok", "stale", "duplicate", "ok", "ok")
}

func TestWillsMakeNoGaps(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(b.key, sealedTopic, true), 4)
	b.receive(sealedTopic, e[0], false)
	b.receive(sealedTopic, e[3], false)
	b.receive(sealedTopic, e[1], false)
	b.expect("ok", "ok", "ok")
}

func TestTwoStreamsOnOneTopic(t *testing.T) {
	b := newBench(t, 0)
	one, two := b.seal(b.stream(b.key, sealedTopic, false), 2), b.seal(b.stream(b.key, sealedTopic, false), 2)
	for _, e := range [][]byte{one[0], two[0], one[1], two[1]} {
		b.receive(sealedTopic, e, false)
	}
	b.expect("ok", "ok", "ok", "ok")
}

func TestKeyOfAnotherGroup(t *testing.T) {
	// An envelope of group plant, on a topic of group private: the topic decides (F5).
	b := newBench(t, 0)
	s, err := crypto.NewSealStream(b.key, "plant", "private/x", crypto.NewStreamID("gw1", [16]byte{}, [16]byte{2}, false))
	if err != nil {
		t.Fatal(err)
	}
	e, _, err := s.Seal(nil, nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	b.receive("private/x", e, false)
	b.now += 3 * time.Second
	b.r.Advance(b.now)
	b.expect("unknown-key")
}

func TestUnknownKeyIsHeldAndResolved(t *testing.T) {
	b := newBench(t, 0)
	next := secret(t)
	e := b.seal(b.stream(next, sealedTopic, false), 3)
	b.receive(sealedTopic, e[0], false)
	b.receive(sealedTopic, e[2], false)
	b.expect()
	if len(b.asked) == 0 || b.asked[0] != crypto.KeyIDOf(next, "plant") {
		t.Errorf("asked for %v", b.asked)
	}
	if at, ok := b.r.Deadline(); !ok || at != 2*time.Second {
		t.Errorf("deadline %v, %t", at, ok)
	}
	b.now = time.Second
	b.give(b.key, next)
	b.expect("ok", "gap 1-1", "ok")
	if b.done != 2 {
		t.Errorf("%d of 2 acknowledged", b.done)
	}
	if _, ok := b.r.Deadline(); ok {
		t.Error("a deadline though nothing is held")
	}
}

func TestUnknownKeyTimesOut(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(secret(t), sealedTopic, false), 3)
	b.receive(sealedTopic, e[0], false)
	b.now = 1999 * time.Millisecond
	b.r.Advance(b.now)
	b.expect()
	b.now = 2 * time.Second
	b.r.Advance(b.now)
	b.expect("unknown-key")
	b.receive(sealedTopic, e[1], false) // not waited for again so soon (F16)
	b.expect("unknown-key")
	b.now += 31 * time.Second
	b.receive(sealedTopic, e[2], false)
	b.expect()
}

// TestUnknownKeyWhileNoneCanCome: what arrives just before or soon after the control connection was lost waits longer for its key, and
// what comes when all is well again does not wait for that.
func TestUnknownKeyWhileNoneCanCome(t *testing.T) {
	b := newBench(t, 0)
	next := secret(t)
	early, late := b.seal(b.stream(next, sealedTopic, false), 2), b.seal(b.stream(secret(t), "plant/late", false), 1)[0]
	b.now = time.Minute
	b.receive(sealedTopic, early[0], false)
	b.now += time.Second
	b.r.Interrupted(b.now)
	b.now += 28 * time.Second
	b.receive(sealedTopic, early[1], false)
	b.r.Advance(b.now)
	b.expect()
	b.now += 2 * time.Second
	b.r.Advance(b.now)
	b.expect("unknown-key") // half a minute, and no more
	b.receive("plant/late", late, false)
	if at, ok := b.r.Deadline(); !ok || at != b.now+2*time.Second {
		t.Errorf("deadline %v, %t; it is %v", at, ok, b.now)
	}
	b.now += 25 * time.Second
	b.r.Advance(b.now)
	b.expect("unknown-key")
	b.give(b.key, next)
	b.expect("ok")
}

func TestHoldIsBounded(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(secret(t), sealedTopic, false), 1100)
	for i := range e {
		b.receive(sealedTopic, e[i], false)
	}
	if n := len(b.got); n != 1100-1024 {
		t.Errorf("%d were reported at once, want %d", n, 1100-1024)
	}
	b.got = nil
	for range 16*1024 + 10 {
		b.receive(sealedTopic, e[0], false)
	}
	if n := len(b.got); n != 10 {
		t.Errorf("%d copies were reported at once, want 10", n)
	}
}

// TestRepeatedWhileHeld: a broker repeats what it gets no acknowledgement of. Once the key has come the message is delivered, and the
// repetitions are what they are after any message.
func TestRepeatedWhileHeld(t *testing.T) {
	b := newBench(t, 0)
	next := secret(t)
	e := b.seal(b.stream(next, sealedTopic, false), 2)
	for range 3 {
		b.receive(sealedTopic, e[0], false)
		b.receive(sealedTopic, e[1], false)
	}
	b.expect()
	b.give(b.key, next)
	b.expect("ok", "duplicate", "duplicate", "ok", "duplicate", "duplicate")
	if b.done != 6 {
		t.Errorf("%d of 6 acknowledged", b.done)
	}
}

func TestExpiredEpoch(t *testing.T) {
	b := newBench(t, 0)
	e := b.seal(b.stream(b.key, sealedTopic, false), 1)
	b.now = time.Hour + time.Second
	b.receive(sealedTopic, e[0], false)
	b.expect("expired-epoch")
}

func TestEvictedStreamsLeaveAFloor(t *testing.T) {
	b := newBench(t, 2)
	first := b.seal(b.stream(b.key, sealedTopic, false), 4)
	b.receive(sealedTopic, first[0], false)
	b.receive(sealedTopic, first[1], false)
	for range 3 { // push it out
		b.receive(sealedTopic, b.seal(b.stream(b.key, sealedTopic, false), 1)[0], false)
	}
	if n := b.r.Streams(); n != 2 {
		t.Errorf("%d streams are remembered, want 2", n)
	}
	b.got = nil
	b.receive(sealedTopic, first[0], false)
	b.receive(sealedTopic, first[1], false)
	b.receive(sealedTopic, first[3], false)
	b.expect("replayed", "replayed", "gap 2-2", "ok")
}

func TestEmptyPayloadOpens(t *testing.T) {
	b := newBench(t, 0)
	e, _, err := b.stream(b.key, sealedTopic, false).Seal(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.receive(sealedTopic, e, false)
	if len(b.got) != 1 || b.got[0].Status != subscriber.StatusOK || len(b.got[0].Payload) != 0 {
		t.Errorf("got %+v", b.got[0])
	}
}

// Inside a message there may be properties that describe its content, and no others (spec 3).
func TestInnerProperties(t *testing.T) {
	b := newBench(t, 0)
	s := b.stream(b.key, sealedTopic, false)
	for _, c := range []struct {
		block []byte
		want  string
	}{
		{[]byte{3, 0, 1, 'c', 38, 0, 1, 'n', 0, 1, 'v'}, "ok"},
		{[]byte{0x23, 0, 1}, "forged"},    // a topic alias
		{[]byte{2, 0, 0, 0, 1}, "forged"}, // an expiry
		{[]byte{3, 0, 1, 0xff}, "forged"}, // no UTF-8
		{[]byte{3, 0, 9, 'c'}, "forged"},  // cut off
		{[]byte{1, 1, 1, 1}, "forged"},    // twice
		{[]byte{8, 0, 3, 'a', '/', 'b'}, "ok"},
	} {
		e, _, err := s.Seal(nil, c.block, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		b.done = 0
		b.got = nil
		b.r.Receive(b.now, subscriber.Incoming{Topic: sealedTopic, Payload: e, Properties: subscriber.Properties{ContentType: "the broker's"}, Done: func() { b.done++ }})
		m := b.got[len(b.got)-1]
		if string(m.Status) != c.want || b.done != 1 {
			t.Errorf("% x: %+v", c.block, m)
		}
		if again, _ := m.Properties.AppendTo(nil); m.Status == subscriber.StatusOK && !bytes.Equal(again, c.block) {
			t.Errorf("% x came as % x", c.block, again)
		}
	}
}

func TestNoPolicyDeliversNothing(t *testing.T) {
	var got []*subscriber.Message
	r := subscriber.NewReceiver(0, func(m *subscriber.Message) { got = append(got, m) }, func(string, crypto.KeyID) {})
	r.Receive(0, subscriber.Incoming{Topic: "x", Payload: []byte("hello")})
	if len(got) != 1 || got[0].Status != subscriber.StatusPlaintext || got[0].Payload != nil {
		t.Errorf("got %+v", got)
	}
}

// FuzzReceive checks that no bytes make the receiver deliver something that was not sealed, and that each message but one without payload,
// which deletes a retained one, is reported.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("hello"))
	f.Add([]byte{0xd0, 0x83, 0x43, 0xa1, 0x01, 0x18, 0x18})
	f.Add(bytes.Repeat([]byte{0xd0}, 60))
	f.Fuzz(func(t *testing.T, wire []byte) {
		b := newBench(t, 0)
		b.receive(sealedTopic, wire, false)
		b.now = 3 * time.Second
		b.r.Advance(b.now)
		if len(wire) == 0 && len(b.got) == 0 && b.done == 1 {
			return
		}
		if len(b.got) != 1 || b.got[0].Status == subscriber.StatusOK || b.done != 1 {
			t.Errorf("%x: %+v, done %d", wire, b.got, b.done)
		}
	})
}

func TestStatusWordsAreStable(t *testing.T) {
	var words []string
	for _, s := range []subscriber.Status{subscriber.StatusOK, subscriber.StatusDuplicate, subscriber.StatusReplayed, subscriber.StatusGap,
		subscriber.StatusStale, subscriber.StatusExpiredEpoch, subscriber.StatusUnknownKey, subscriber.StatusForged, subscriber.StatusConflict, subscriber.StatusPlaintext} {
		words = append(words, string(s))
	}
	if got, want := strings.Join(words, "|"), "ok|duplicate|replayed|gap|stale|expired-epoch|unknown-key|forged|conflict|plaintext"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
