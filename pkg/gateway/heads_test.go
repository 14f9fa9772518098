package gateway

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
)

// told are the heads by topic name, without their ids.
func (b *bench) told(tb testing.TB, topics ...string) map[string][]StreamHead {
	tb.Helper()
	out := make(map[string][]StreamHead)
next:
	for _, h := range b.g.Heads(1 << 20) {
		if h.Stream == (crypto.StreamID{}) || h.Key == (crypto.KeyID{}) {
			tb.Errorf("a head without ids: %+v", h)
		}
		h.Key, h.Stream = crypto.KeyID{}, crypto.StreamID{}
		for _, t := range topics {
			if sha256.Sum256([]byte(t)) == h.Topic {
				h.Topic = [32]byte{}
				out[t] = append(out[t], h)
				continue next
			}
		}
		tb.Errorf("a head of another topic: %+v", h)
	}
	return out
}

func (b *bench) say(tb testing.TB, topic string, qos byte, id uint16) {
	tb.Helper()
	b.fromDevice(tb, publishPacket(b.c.version, message(topic, "21.5", qos, id)))
}

func wantHeads(t *testing.T, got, want map[string][]StreamHead) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func head(from, next uint64) StreamHead { return StreamHead{Group: "default", From: from, Next: next} }

func ending(from, next uint64) StreamHead {
	h := head(from, next)
	h.Final = true
	return h
}

func TestHeadsTellWhatWasSentSinceTheLast(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	b.say(t, "s/1", 0, 0)
	b.say(t, "s/1", 1, 7)
	b.say(t, "s/1", 1, 7) // the same again, re-sent: no new number
	b.say(t, "s/2", 0, 0)
	b.say(t, "plain/1", 0, 0)
	wantHeads(t, b.told(t, "s/1", "s/2"), map[string][]StreamHead{"s/1": {head(0, 2)}, "s/2": {head(0, 1)}})
	wantHeads(t, b.told(t), map[string][]StreamHead{})
	b.say(t, "s/1", 0, 0)
	wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {head(2, 3)}})

	b.g.SetState(f.rotate(1)) // ends each stream with its next message
	b.say(t, "s/1", 0, 0)
	wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {ending(3, 3), head(0, 1)}})
}

// What is in the output when its stream ends is the stream's last.
func TestHeadsOfAStreamThatEndsWithinABatch(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.say(t, "s/1", 0, 0)
	u, p := b.c.up, publishPacket(mqttparse.V311, message("s/1", "21.5", 0, 0))
	for range 2 {
		u.in.load(p)
		if err := u.transform(); err != nil {
			t.Fatal(err)
		}
		b.g.SetState(f.rotate(1))
	}
	wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {head(0, 1)}}) // nothing is written yet
	if err := u.flush(); err != nil {
		t.Fatal(err)
	}
	wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {ending(1, 2), head(0, 1)}})
}

func TestHeadsOfEvictedStreamsAndDroppedSessions(t *testing.T) {
	b := newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{MaxStreams: 1})
	for i := range minStreams + 1 {
		b.say(t, fmt.Sprintf("s/%d", i), 0, 0)
	}
	got := b.told(t, "s/0", "s/1", "s/2", "s/3", "s/4")
	wantHeads(t, map[string][]StreamHead{"s/0": got["s/0"], "s/4": got["s/4"]}, map[string][]StreamHead{"s/0": {ending(0, 1)}, "s/4": {head(0, 1)}})

	b = newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{})
	b.reconnect(t, mqttparse.V311, "", true) // without a client id no session outlives its connection
	b.say(t, "s/1", 0, 0)
	b.reconnect(t, mqttparse.V311, "dev2", true)
	wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {ending(0, 1)}})
	if b.g.heads.first != nil {
		t.Error("a stream of a dropped session is still known")
	}
}

// failing is a connection to a broker that takes so many bytes and no more.
type failing struct {
	nullConn
	left int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left < len(p) {
		return f.left, errors.New("broken pipe")
	}
	return len(p), nil
}

func TestHeadsTellWhichNumbersNeverLeft(t *testing.T) {
	for left, burned := range map[int][]crypto.Range{0: {{From: 1, To: 2}}, 10: nil} {
		b := newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{})
		b.say(t, "s/1", 0, 0)
		b.c.upl = &failing{left: left}
		u, p := b.c.up, publishPacket(mqttparse.V311, message("s/1", "21.5", 0, 0))
		u.in.load(append(p, p...))
		if err := errors.Join(u.transform(), u.flush()); err == nil {
			t.Fatal("no error")
		}
		want := head(0, 3)
		want.Burned = burned
		wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {want}})

		u.in.load(p) // sealed, and then the connection ends
		if err := u.transform(); err != nil {
			t.Fatal(err)
		}
		u.end()
		want = head(3, 4)
		want.Burned = []crypto.Range{{From: 3, To: 3}}
		wantHeads(t, b.told(t, "s/1"), map[string][]StreamHead{"s/1": {want}})
	}
}

func TestHeadsAreBounded(t *testing.T) {
	b := newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{})
	for i := range 10 {
		b.say(t, fmt.Sprintf("s/%d", i), 0, 0)
	}
	if a, z := b.g.Heads(7), b.g.Heads(7); len(a) != 7 || len(z) != 3 {
		t.Errorf("%d and %d heads of at most 7; there are 10", len(a), len(z))
	}
	h := &b.g.heads
	s := b.c.sess.seals.newest
	for range 3 * maxBurned {
		next := s.head.sent.Load()
		s.head.sent.Store(next + 1)
		h.burn(s, next+2)
	}
	if n := len(h.burned[s]); n != maxBurned {
		t.Errorf("%d burned ranges", n)
	}
	for range maxEnded + 10 {
		h.begin(s)
		h.end(s)
	}
	if n := len(h.ended); n > maxEnded {
		t.Errorf("%d ended streams", n)
	}
}

// A will is the broker's to send: it has no head, and so is missed by nobody.
func TestWillsHaveNoHeads(t *testing.T) {
	b := newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{})
	con := mqttparse.Connect{HasWill: true, Will: mqttparse.Will{Topic: []byte("s/will"), Payload: []byte("gone")}}
	if changed, err := b.c.sealWill(&con, b.g.state.Load().State); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if got := b.g.Heads(10); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

// Heads are taken while others seal; the race detector watches, and no number is told twice or left out.
func TestHeadsWhileSealing(t *testing.T) {
	b := newBench(t, newFleet(t).rotate(1), mqttparse.V311, Config{})
	const messages = 2000
	step := sealStep(t, b, publishPacket(mqttparse.V311, message("s/1", "21.5", 0, 0)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range messages {
			step()
		}
	}()
	next := uint64(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, h := range b.g.Heads(10) {
			if h.From != next || h.Next <= h.From {
				t.Fatalf("after %d: %+v", next, h)
			}
			next = h.Next
		}
	}
	if next != messages {
		t.Errorf("%d numbers of %d told", next, messages)
	}
}
