package control

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// sealed is a head of a stream of n's data plane, on a topic of that name.
func (n *node) sealed(stream byte, topic string, from, next uint64) StreamHead {
	return StreamHead{Group: "default", Topic: sha256.Sum256([]byte(topic)), Key: n.sendKey().ID, Stream: crypto.StreamID{1, stream}, From: from, Next: next}
}

func (n *node) says(heads ...StreamHead) {
	n.m.Checkpoint(n.w.now(), heads)
	n.flush()
}

// watching is a fleet with a subscriber that receives checkpoints, and its ledger.
func watching(t *testing.T, edit ...func(*policy.Document)) (*world, []*node, *node, *checkpoint.Ledger) {
	t.Helper()
	w, gw, _ := keepers(t, 2, edit...)
	eve := w.add(crypto.RoleSubscriber, "eve", func(c *Config) { c.Checkpoints = true }).connect()
	w.run(5 * time.Second)
	l, err := checkpoint.New(checkpoint.Config{Interval: eve.m.CheckpointInterval("default"), All: true,
		Digest: func(id crypto.KeyID, topic [32]byte) (checkpoint.Digest, bool) {
			return Digest(eve.ring, "default", id, topic)
		}})
	if err != nil {
		t.Fatal(err)
	}
	w.prefer = func() {
		for _, c := range eve.checkpoints {
			if err := l.Checkpoint(w.mono, c.From.Name, c.Message); err != nil {
				t.Errorf("%s: %v", c.From.Name, err)
			}
		}
		eve.checkpoints = nil
		l.Advance(w.mono)
	}
	return w, gw, eve, l
}

func TestCheckpointsAreHeard(t *testing.T) {
	w, gw, _, l := watching(t)
	gw[0].says()
	gw[1].says()
	w.run(25 * time.Second)
	mark := len(w.log)
	head := gw[0].sealed(1, "a", 0, 3)
	gw[0].says(head)
	gw[0].says(gw[0].sealed(1, "a", 3, 5), gw[0].sealed(2, "b", 0, 1))
	kid := crypto.NewKid(head.Key, head.Stream)
	for seq := range uint64(5) {
		l.Received(w.mono, kid, head.Topic, seq)
	}
	w.run(2 * 10 * time.Second)
	if n := w.countFrom(gw[0], KindCheckpoint, mark); n < 2 || n > 3 {
		t.Errorf("%d checkpoints in two intervals", n)
	}
	if l.Attributed(kid) != "gw1" {
		t.Errorf("attributed to %q", l.Attributed(kid))
	}
	events := l.Take()
	if len(events) != 1 || events[0].What != checkpoint.Dropped || events[0].Gateway != "gw1" || events[0].Kid.StreamID() != (crypto.StreamID{1, 2}) {
		t.Errorf("events %v: the stream of b, which did not arrive, was expected", events)
	}
	w.cut = func(from, _ *node) bool { return from == gw[1] }
	w.run(2*10*time.Second + 10*time.Millisecond)
	if e := l.Take(); len(e) != 1 || e[0].What != checkpoint.Silent || e[0].Gateway != "gw2" {
		t.Errorf("events %v, want gw2 silent", e)
	}
	gw[0].m.EndCheckpoints(w.now())
	gw[0].flush()
	gw[0].disconnect()
	w.run(time.Minute)
	if e := l.Take(); len(e) != 0 {
		t.Errorf("events %v after a gateway has stopped in good order", e)
	}
}

// TestCheckpointOfManyStreams is split, in order, and forgets what it has said.
func TestCheckpointOfManyStreams(t *testing.T) {
	w, gw, _, l := watching(t)
	gw[0].says()
	w.run(15 * time.Second)
	var heads []StreamHead
	for i := range 1000 {
		h := gw[0].sealed(byte(i), "a", 0, 1)
		h.Stream[2] = byte(i >> 8)
		heads = append(heads, h)
		l.Received(w.mono, crypto.NewKid(h.Key, h.Stream), h.Topic, 0)
	}
	mark := len(w.log)
	gw[0].says(heads...)
	w.run(11 * time.Second)
	if n := w.countFrom(gw[0], KindCheckpoint, mark); n < 4 || n > 5 {
		t.Errorf("%d messages for 1000 streams", n)
	}
	w.run(30 * time.Second)
	if e := l.Take(); len(e) != 0 {
		t.Errorf("events %v", e)
	}
	if n := len(gw[0].m.groups["default"].checkpoint.pending); n != 0 {
		t.Errorf("%d streams still pending", n)
	}
}

func TestCheckpointsArePended(t *testing.T) {
	w, gw, _, l := watching(t)
	gw[0].says()
	w.run(15 * time.Second)
	gw[0].disconnect()
	for i := range uint64(10) {
		gw[0].says(gw[0].sealed(1, "a", i*10, i*10+10))
		w.run(time.Second)
	}
	h := gw[0].sealed(1, "a", 0, 0)
	for seq := range uint64(100) {
		l.Received(w.mono, crypto.NewKid(h.Key, h.Stream), h.Topic, seq)
	}
	gw[0].connect()
	w.run(30 * time.Second)
	for _, e := range l.Take() {
		if e.What != checkpoint.Silent && e.What != checkpoint.Heard {
			t.Errorf("event %v: nothing was lost", e)
		}
	}
	gw[0].disconnect()
	for i := range MaxPendingStreams + 10 {
		gw[0].says(StreamHead{Group: "default", Key: h.Key, Stream: crypto.StreamID{2, byte(i >> 16), byte(i >> 8), byte(i)}, Next: 1})
		if i == 0 {
			w.prefer = nil
		}
	}
	if n := len(gw[0].m.groups["default"].checkpoint.pending); n > MaxPendingStreams {
		t.Errorf("%d streams pending", n)
	}
}

func TestForgedCheckpoints(t *testing.T) {
	w, gw, eve, _ := watching(t, func(d *policy.Document) { d.RevokedNames = []string{"gw7"} })
	w.prefer = nil
	gw7 := &node{w: w, id: w.identity(crypto.RoleGateway, "gw7")}
	vault := &node{w: w, id: w.identity(crypto.RoleKeeper, "gw8")}
	good := func(by *node, edit func(*checkpoint.Message)) []byte {
		m := &checkpoint.Message{Group: "default", State: checkpoint.Last}
		if edit != nil {
			edit(m)
		}
		return by.sign(m.Marshal(), KindCheckpoint)
	}
	topic := CheckpointTopic(testPrefix, "default", "gw1")
	for _, c := range []struct {
		name  string
		topic string
		msg   []byte
		want  error
	}{
		{"in another's name", topic, good(gw[1], nil), ErrTopic},
		{"by a reader", CheckpointTopic(testPrefix, "default", "eve"), good(eve, nil), ErrNotEntitled},
		{"by a keeper without data", CheckpointTopic(testPrefix, "default", "gw8"), good(vault, nil), ErrRole},
		{"by a revoked gateway", CheckpointTopic(testPrefix, "default", "gw7"), good(gw7, nil), ErrRevoked},
		{"of another group", topic, good(gw[0], func(m *checkpoint.Message) { m.Group = "other" }), ErrTopic},
		{"from here back", topic, good(gw[0], func(m *checkpoint.Message) { m.Streams = []checkpoint.Stream{{From: 2, Next: 1}} }), dcbor.ErrMalformed},
		{"as another kind", topic, gw[0].sign((&checkpoint.Message{Group: "default"}).Marshal(), KindLease), crypto.ErrSignature},
		{"oversize", topic, make([]byte, MaxMessage+1), ErrTooLarge},
	} {
		eve.mustRefuse(c.topic, c.msg, c.want)
		if len(eve.checkpoints) != 0 {
			t.Fatalf("%s: taken", c.name)
		}
	}
	eve.inject(topic, good(gw[0], nil))
	if len(eve.checkpoints) != 1 || eve.checkpoints[0].From.Name != "gw1" {
		t.Errorf("the one without a defect gave %v", eve.checkpoints)
	}
	for range 3 * MaxCheckpoints {
		eve.m.Receive(w.now(), topic, good(gw[0], nil), false)
	}
	if n := len(eve.m.Take().Checkpoints); n > MaxCheckpoints {
		t.Errorf("%d checkpoints kept", n)
	}
}

func TestCheckpointTopicsOnlyForThoseWhoAsk(t *testing.T) {
	w, gw, eve, _ := watching(t)
	want := CheckpointTopic(testPrefix, "default", "+")
	if !eve.subs[want] || gw[0].subs[want] {
		t.Error("eve asked for checkpoints, gw1 did not")
	}
	w.prefer = nil
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.Groups[0].Read = []string{"gw*"} }))
	w.run(time.Second)
	if eve.subs[want] {
		t.Error("still subscribed after the policy took the group away")
	}
	if got := addBurned(addBurned(addBurned(nil, crypto.Range{From: 1, To: 2}), crypto.Range{From: 3, To: 4}), crypto.Range{From: 9, To: 9}); !slices.Equal(got, []crypto.Range{{From: 1, To: 4}, {From: 9, To: 9}}) {
		t.Errorf("burned %v", got)
	}
}
