package control

import (
	"fmt"
	"testing"
	"time"

	"sealgate/pkg/crypto"
)

// A busy machine, without any loss: programs that stand still for a while, connections that die unnoticed, work that
// comes all at once. None of it may move the lead.

// TestKeeperThatOverslept: a standing-by keeper's program stands still, and finds the leases of that time waiting
// behind its timers. It does not take over for them.
func TestKeeperThatOverslept(t *testing.T) {
	for _, still := range []time.Duration{LeaseLife + Oversleep, 20 * time.Second, 10 * time.Hour} {
		w, gw, _ := keepers(t, 2)
		w.mustLead("gw1")
		w.mono += still
		gw[1].m.Advance(w.now())
		gw[1].flush()
		if gw[1].leads() {
			t.Fatalf("takes over after standing still for %v:%s", still, describe(gw[1].events))
		}
		w.run(LeaseInterval) // the leader's next lease
		w.mustLead("gw1")
		// Once in a silence: a keeper that is late each time takes over in the end.
		gw[0].disconnect()
		for late := range 3 {
			w.mono += LeaseLife + 2*LeaseInterval
			gw[1].m.Advance(w.now())
			gw[1].flush()
			if got := gw[1].leads(); got != (late > 0) {
				t.Fatalf("leads %v at timer %d, each of them late", got, late)
			}
		}
	}
}

// TestDeadConnectionOfTheLeader: the leader's connection is dead for long before its program notices. Another has taken
// over; the first one comes back as any other, although the lease's life has not passed since it noticed.
func TestDeadConnectionOfTheLeader(t *testing.T) {
	w, gw, _ := keepers(t, 3)
	w.cut = func(from, to *node) bool { return from == gw[0] || to == gw[0] }
	w.run(45 * time.Second)
	if !gw[0].leads() || !gw[1].leads() {
		t.Fatalf("leaders %v, both sides of the dead connection were expected", w.leaders())
	}
	w.cut = nil
	gw[0].disconnect()
	w.run(time.Second)
	gw[0].connect()
	if gw[0].leads() {
		t.Error("goes on as the leader after 45 s without a word from the broker")
	}
	w.run(30 * time.Second)
	w.mustLead("gw2")
	// One that did hear its own leases until just now goes on.
	gw[1].disconnect()
	w.run(time.Second)
	gw[1].connect()
	if !gw[1].leads() {
		t.Error("does not go on after a second")
	}
}

// TestLeaseBetweenGrants: a whole fleet asks at once, and the leader's bucket would let it answer hundreds in a row. On
// a router those take many seconds; the machine must give its caller the leases in between.
func TestLeaseBetweenGrants(t *testing.T) {
	w, gw, _ := keepers(t, 2)
	gw[0].m.keeper.hpke.take(w.mono)
	gw[0].m.keeper.hpke.tokens = 0 // none is answered while they come
	for i := range 150 {
		n := w.add(crypto.RoleSubscriber, fmt.Sprintf("sub%d", i))
		hello, _ := n.hello(nil)
		gw[0].m.Receive(w.now(), ControlTopic(testPrefix), hello, false)
	}
	grants := func() (n int) {
		for _, p := range gw[0].m.Take().Publish {
			if kindOf(p.Payload) == KindGrant {
				n++
			}
		}
		return n
	}
	all, calls := grants(), 0
	w.mono += 2 * time.Second // the bucket is full again
	for ; all < 150 && calls < 1000; calls++ {
		at, ok := gw[0].m.Deadline()
		if !ok {
			t.Fatal("no timer while Hellos wait")
		}
		w.mono = max(w.mono, at)
		gw[0].m.Advance(w.now())
		n := grants()
		if n > GrantSlice {
			t.Fatalf("%d Grants in one call", n)
		}
		all += n
	}
	if all != 150 {
		t.Errorf("%d Grants in %d calls", all, calls)
	}
}

// TestLostEcho: the broker shows the leader's epoch to all but the leader, and keeps its leases from the next keeper, which takes
// over. The leader hears its own epoch in that one's lease: it needs no other echo, goes on, and takes nothing back.
func TestLostEcho(t *testing.T) {
	w, gw, alice := keepers(t, 2)
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(to *node, topic string) bool {
		return to == gw[0] && topic == keys || to == gw[1] && topic == ControlTopic(testPrefix)
	}
	gw[0].rotateHere()
	w.run(LeaseLife + 2*RankDelay)
	if e := alice.epoch(); e.Number != 2 || gw[1].epoch() != e || !gw[1].leads() {
		t.Fatalf("alice is at %v, gw2 at %v, which leads: %v", e, gw[1].epoch(), gw[1].leads())
	}
	w.drop = func(to *node, topic string) bool { return to == gw[0] && topic == keys }
	mark := len(w.log)
	w.run(20 * time.Second)
	w.mustLead("gw1")
	if k := gw[0].sendKey(); k == nil || k.Epoch != alice.epoch() || w.count(KindGrant, mark) != 0 {
		t.Errorf("gw1 seals under %v, alice is at %v; %d Grants:%s", k, alice.epoch(), w.count(KindGrant, mark), describe(gw[0].events))
	}
}
