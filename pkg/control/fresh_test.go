package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

func shortFreshness(d *policy.Document) { d.Groups[0].Freshness = time.Hour }

// TestFreshnessRenews: months pass, and nobody's authority lapses; the questions are few and bear no alarm.
func TestFreshnessRenews(t *testing.T) {
	w, gw, _ := keepers(t, 3, shortFreshness)
	member := w.add(crypto.RoleGateway, "gw9").connect()
	w.prefer = func() {
		for _, n := range gw {
			if n.sendKey() == nil {
				t.Fatalf("at %v %s does not seal", w.mono, n.name())
			}
		}
	}
	w.run(10 * time.Second)
	mark := len(w.log)
	const hours = 3
	w.run(hours * time.Hour)
	if n := w.countFrom(member, KindHello, mark); n < hours*12 || n > hours*26 {
		t.Errorf("%d Hellos of a gateway in %d h: one in %v expected", n, hours, ConfirmInterval)
	}
	for _, n := range append(gw, member) {
		if s := n.m.Status(w.now()); s.Alarms != 0 || s.Groups[0].FreshLeft < 50*time.Minute || s.Groups[0].Stale {
			t.Errorf("%s: %d alarms (%s), fresh for %v", n.name(), s.Alarms, s.LastAlarm, s.Groups[0].FreshLeft)
		}
	}
}

// TestFreshnessLapses: the broker withholds the answers, or everything, or the member is offline.
func TestFreshnessLapses(t *testing.T) {
	for _, how := range []string{"answers", "everything", "offline", "asleep"} {
		t.Run(how, func(t *testing.T) {
			w, gw, _ := keepers(t, 2, shortFreshness)
			_ = gw
			n := w.add(crypto.RoleGateway, "gw9").connect()
			w.run(15 * time.Second)
			if n.sendKey() == nil {
				t.Fatal("does not seal")
			}
			switch how {
			case "answers":
				w.drop = func(to *node, topic string) bool { return to == n && topic == n.inboxTopic() }
			case "everything":
				w.drop = func(to *node, _ string) bool { return to == n }
			case "offline":
				n.disconnect()
			case "asleep":
				n.disconnect()
				w.mono += 2 * time.Hour
				n.m.Advance(w.now())
				n.flush()
				if n.sendKey() != nil {
					t.Fatal("seals after it has slept for longer than the freshness limit")
				}
				return
			}
			w.run(14 * time.Minute)
			if s := n.m.Status(w.now()); n.sendKey() == nil || s.Groups[0].Stale {
				t.Fatalf("after 14 min: seals under %v, %s", n.sendKey(), s.LastAlarm)
			}
			w.run(7 * time.Minute)
			if s := n.m.Status(w.now()); n.sendKey() == nil || !s.Groups[0].Stale || !strings.Contains(s.LastAlarm, "nothing of this group leaves any more") {
				t.Fatalf("after 21 min: seals under %v, alarm %q", n.sendKey(), s.LastAlarm)
			}
			w.run(40 * time.Minute)
			if s := n.m.Status(w.now()); n.sendKey() != nil || s.Groups[0].FreshLeft != 0 {
				t.Fatalf("after 61 min: seals under %v, fresh for %v", n.sendKey(), s.Groups[0].FreshLeft)
			}
			if n.ring.Find("default", gw[0].sendKey().ID) == nil && how == "answers" {
				t.Error("what it may open is gone too")
			}
			w.drop = nil
			if how == "offline" {
				n.connect()
			}
			w.run(time.Minute)
			if s := n.m.Status(w.now()); n.sendKey() == nil || s.Groups[0].Stale {
				t.Errorf("once answers come: seals under %v, %s:%s", n.sendKey(), s.LastAlarm, describe(n.events))
			}
		})
	}
}

// TestIsolatedLeaderLapses: a leader whom the broker keeps from the other keepers stops like any gateway; and
// not before a day has passed by default.
func TestIsolatedLeaderLapses(t *testing.T) {
	w, gw, _ := keepers(t, 2, shortFreshness)
	w.split([]*node{gw[0]}, []*node{gw[1], w.nodes[2]})
	w.run(55 * time.Minute)
	if gw[0].sendKey() == nil {
		t.Fatal("stopped too early")
	}
	if s := gw[0].m.Status(w.now()); !s.Groups[0].Stale || !strings.Contains(s.LastAlarm, "no other keeper") {
		t.Errorf("alarm %q", s.LastAlarm)
	}
	w.run(10 * time.Minute)
	if gw[0].sendKey() != nil {
		t.Fatal("an isolated leader goes on sealing")
	}
	w.cut = nil
	w.run(time.Minute)
	w.mustAgree()
	if gw[0].sendKey() == nil || gw[1].sendKey() == nil {
		t.Errorf("gw1 seals under %v, gw2 under %v", gw[0].sendKey(), gw[1].sendKey())
	}
}

func TestWeeklyGeneration(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Keepers, d.Groups[0].Rotate, d.Groups[0].History = []string{"gw1"}, 12*time.Hour, 24*time.Hour
	})
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	sub := w.add(crypto.RoleSubscriber, "alice").connect()
	w.run(10 * time.Second)
	w.watchSenders()
	first := sub.epoch().Generation
	w.run(GenerationMaxAge - 24*time.Hour)
	if g := sub.epoch().Generation; g != first {
		t.Fatalf("generation %d after six days", g)
	}
	w.run(2 * 24 * time.Hour)
	if g := sub.epoch().Generation; g != first+1 {
		t.Fatalf("generation %d after eight days", g)
	}
	w.mustAgree()
	w.run(21*24*time.Hour + time.Minute)
	if g := sub.epoch().Generation; g != first+4 && g != first+3 {
		t.Errorf("generation %d after 29 days, %d expected", g, first+4)
	}
	w.mustAgree()
	if gw.sendKey() == nil || gw.sendKey().Epoch != gw.epoch() {
		t.Errorf("seals under %v", gw.sendKey())
	}
}

// TestLargeGroupGetsItsGenerationInTime: a generation that has no hurry is not used before the keeper can have
// given its KEK to everybody.
func TestLargeGroupGetsItsGenerationInTime(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Keepers, d.Groups[0].Rotate, d.Groups[0].ActivateAfter = []string{"gw1"}, 12*time.Hour, time.Second
	})
	w.add(crypto.RoleGateway, "gw1", func(c *Config) { c.GrantRate = 5 }).connect()
	for i := range 60 {
		w.add(crypto.RoleSubscriber, fmt.Sprintf("sub%d", i)).connect()
	}
	w.run(time.Minute)
	w.mustAgree()
	w.watchSenders()
	w.run(GenerationMaxAge + 24*time.Hour)
	w.mustAgree()
	if g := w.nodes[0].epoch().Generation; g != 2 {
		t.Errorf("generation %d", g)
	}
}

// TestAuthorityOfADataPlane: what a data plane beside the machine is told is the machine's own limit; a keeper that has nobody to
// ask renews it by itself, and nobody has any who has nothing to seal under.
func TestAuthorityOfADataPlane(t *testing.T) {
	w, gw, _ := keepers(t, 2, shortFreshness)
	w.run(10 * time.Second)
	n := gw[1]
	s := n.m.Status(w.now()).Groups[0]
	if s.Lapses-w.mono != s.FreshLeft || s.Lapses-s.Warns != 45*time.Minute {
		t.Errorf("lapses in %v, warns in %v; fresh for %v", s.Lapses-w.mono, s.Warns-w.mono, s.FreshLeft)
	}
	n.disconnect()
	w.run(2 * time.Hour)
	if s := n.m.Status(w.now()).Groups[0]; s.Lapses != 0 || s.Warns != 0 {
		t.Errorf("nothing may be sealed, and the data plane may until %v", s.Lapses)
	}

	w, gw, _ = keepers(t, 1, shortFreshness)
	w.run(10 * time.Second)
	for range 100 {
		w.run(time.Minute)
		s := gw[0].m.Status(w.now()).Groups[0]
		if left := s.Lapses - w.mono; left > time.Hour || left < 55*time.Minute || s.Warns <= w.mono {
			t.Fatalf("at %v a keeper alone has authority for %v and warns in %v", w.mono, left, s.Warns-w.mono)
		}
	}
}
