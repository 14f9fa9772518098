package control

import (
	"testing"
	"time"
)

// TestRefreshShowsWhatTheBrokerCouldNot: a member comes back while the broker has its retained messages not at hand, and
// misses an announcement. It catches up without asking any keeper.
func TestRefreshShowsWhatTheBrokerCouldNot(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	sub.disconnect()
	w.rotate()
	w.run(15 * time.Second)
	keys := KeysTopic(testPrefix, "default")
	w.drop = func(to *node, topic string) bool { return to == sub && topic == keys }
	mark := len(w.log)
	sub.connect()
	w.run(RefreshMin / 4)
	if sub.epoch() == w.nodes[0].epoch() {
		t.Fatal("it was not to see the announcement")
	}
	w.drop = nil
	w.run(RefreshMin)
	w.mustAgree()
	if n := w.countFrom(sub, KindHello, mark); n != 0 {
		t.Errorf("%d Hellos", n)
	}
}

// TestRefreshFindsALostCopy: the broker has delivered an announcement and not retained it. The leader finds that out.
func TestRefreshFindsALostCopy(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	old := w.retained[keys]
	w.rotate()
	w.run(15 * time.Second)
	mark := len(w.log)
	w.retained[keys], w.retainedOf[keys] = old, gw1
	w.run(RefreshMax)
	if string(w.retained[keys]) == string(old) {
		t.Errorf("the broker still retains the epoch before:%s", describe(gw1.events))
	}
	if n := w.count(KindEpoch, mark); n != 1 {
		t.Errorf("%d announcements", n)
	}
}

// TestRefreshIsRare: after the first hour of a session a member subscribes again twice an hour at least, four times at most.
func TestRefreshIsRare(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	w.run(2 * RefreshMax)
	times, last := 0, sub.m.refresh.at
	for end := w.mono + 10*time.Hour; w.mono < end; {
		w.run(time.Minute)
		if at := sub.m.refresh.at; at != last {
			times, last = times+1, at
		}
	}
	if times < 18 || times > 41 {
		t.Errorf("%d times in ten hours", times)
	}
}
