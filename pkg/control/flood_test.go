package control

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"sealgate/pkg/crypto"
)

// What is asked for without end costs a bounded rate of work and a bounded amount of memory.

func TestUnknownKeyIsAskedForAtOnce(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(to *node, topic string) bool { return to == sub && topic == keys }
	w.rotate()
	w.run(11 * time.Second)
	id := gw1.sendKey().ID
	if sub.ring.Find("default", id) != nil {
		t.Fatal("the announcement was not lost")
	}
	sub.m.UnknownKey(w.now(), "default", id)
	sub.flush()
	w.run(100 * time.Millisecond)
	if sub.ring.Find("default", id) == nil {
		t.Fatalf("not resolved within 100 ms:%s", describe(sub.events))
	}
}

// TestUnknownKeyLostAnswer: the answer is lost, as where a broker that has lost a node has not granted the inbox yet. The question comes
// again like any other, and once answered no more.
func TestUnknownKeyLostAnswer(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	w.drop = func(to *node, topic string) bool { return to == sub }
	w.rotate()
	w.run(11 * time.Second)
	id := gw1.sendKey().ID
	sub.m.UnknownKey(w.now(), "default", id)
	sub.flush()
	w.run(time.Second / 2)
	w.drop = nil
	w.run(2 * time.Second)
	if sub.ring.Find("default", id) == nil {
		t.Fatalf("not resolved:%s", describe(sub.events))
	}
	mark := len(w.log)
	w.run(2 * time.Minute)
	if n := w.countFrom(sub, KindHello, mark); n != 0 {
		t.Errorf("%d more questions", n)
	}
}

// TestUnknownKeyFlood: F16. A million made-up ids cost one query in 30 s and no memory.
func TestUnknownKeyFlood(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	mark := len(w.log)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 1_000_000 {
		id := crypto.KeyID{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		sub.m.UnknownKey(w.now(), "default", id)
		if i%10_000 == 0 {
			sub.flush()
			w.run(time.Second)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	u := &sub.m.groups["default"].unknown
	if len(u.asked) > MaxAskedIDs || len(u.absent) > MaxUnknownIDs {
		t.Errorf("%d asked, %d absent", len(u.asked), len(u.absent))
	}
	if n := w.countFrom(sub, KindHello, mark); n < 2 || n > 5 {
		t.Errorf("%d queries in 100 s, 4 expected", n)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	// An id that was asked for in vain is not asked for again.
	absent := u.absent[len(u.absent)-1].id
	w.run(time.Minute)
	mark = len(w.log)
	sub.m.UnknownKey(w.now(), "default", absent)
	sub.flush()
	w.run(time.Minute)
	if n := w.countFrom(sub, KindHello, mark); n != 0 {
		t.Errorf("%d queries for an id in the negative cache", n)
	}
}

// TestHelloFlood: however many ask, a keeper's HPKE operations and memory are bounded, and so is
// one member's share of them.
func TestHelloFlood(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	one := &node{w: w, id: w.identity(crypto.RoleSubscriber, "loud")}
	mark := len(w.log)
	for i := range 300 {
		msg, _ := one.hello(func(h *Hello) {
			if i >= 100 {
				h.Inbox = [16]byte{1} // of one session
			}
		})
		gw1.inject(ControlTopic(testPrefix), msg)
	}
	if n := len(gw1.m.keeper.grants); n != MemberBurst {
		t.Errorf("%d of one member's Hellos wait, %d expected", n, MemberBurst)
	}
	w.run(30 * time.Second)
	if n := w.count(KindGrant, mark); n != 2*MemberBurst {
		t.Errorf("%d Grants to one member, %d expected: some at once, and those that waited", n, 2*MemberBurst)
	}
	mark = len(w.log)
	gw1.m.keeper.hpke = newBucket(10, 20)
	start := w.mono
	for i := range 100 {
		n := &node{w: w, id: w.identity(crypto.RoleSubscriber, fmt.Sprintf("s%d", i))}
		msg, _ := n.hello(nil)
		gw1.inject(ControlTopic(testPrefix), msg)
	}
	w.run(3 * time.Second)
	if n, most := w.count(KindGrant, mark), 20+int((w.mono-start).Seconds()*10)+1; n > most || n < most-5 {
		t.Errorf("%d Grants in %v, at most %d expected", n, w.mono-start, most)
	}
}

func TestKeeperQueueIsBounded(t *testing.T) {
	var q []*pendingHello
	for i := range MaxPendingHellos + 10 {
		err := enqueue(&q, &pendingHello{hello: new(Hello), from: crypto.Member{CertHash: [32]byte{byte(i), byte(i >> 8)}}}, MaxPendingHellos)
		if (err != nil) != (i >= MaxPendingHellos) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	var k keeperState
	k.init(10)
	for i := range 3 * MaxSeenNonces {
		k.markSeen([16]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	}
	if len(k.seen) != MaxSeenNonces || len(k.order) != MaxSeenNonces {
		t.Errorf("%d nonces remembered", len(k.seen))
	}
}

func TestEventsAreBounded(t *testing.T) {
	w := newWorld(t)
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	for range 10 * MaxEvents {
		gw.m.Receive(w.now(), "other/topic", nil, false)
	}
	if n := len(gw.m.Take().Events); n > MaxEvents {
		t.Errorf("%d events kept", n)
	}
	if s := gw.m.Status(w.now()); s.Counters[Counter{KindUnknown, ResultRefused}] != 10*MaxEvents {
		t.Errorf("counters %v", s.Counters)
	}
}
