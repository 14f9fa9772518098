package control

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// A keeper's program that ends and starts again, with what the run before has kept.

// keeping has a node keep its groups' keys over a reboot.
func keeping(c *Config) { c.Keep = true }

func lone(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} }

// TestLoneKeeperKeepsTheHistory: kill -9 of the only keeper. It goes on where it was, and gives those that come later the
// whole history.
func TestLoneKeeperKeepsTheHistory(t *testing.T) {
	w := newWorld(t, lone)
	gw := w.add(crypto.RoleGateway, "gw1", keeping).connect()
	sub := w.add(crypto.RoleSubscriber, "alice").connect()
	w.run(10 * time.Second)
	for range 3 {
		gw.rotateHere()
		w.run(15 * time.Second)
	}
	before, sends := gw.epoch(), gw.sendKey().ID
	gw.boot()
	if k := gw.sendKey(); k != nil {
		t.Fatal("seals before it knows the time")
	}
	gw.m.Advance(w.now())
	gw.flush()
	if k := gw.sendKey(); k == nil || k.ID != sends {
		t.Errorf("seals under %v before it is connected, %v before the restart", k, sends)
	}
	mark := len(w.log)
	gw.connect()
	w.run(15 * time.Second)
	if n := w.count(KindEpoch, mark); n != 0 || gw.epoch() != before || !gw.leads() {
		t.Errorf("%d announcements, epoch %v after %v, leads %v", n, gw.epoch(), before, gw.leads())
	}
	bob := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(3 * time.Second)
	if a, b := len(sub.ring.Keys("default")), len(bob.ring.Keys("default")); a != 4 || b != 4 {
		t.Errorf("alice holds %d keys, bob, who came later, %d; 4 expected", a, b)
	}
	gw.rotateHere()
	w.run(15 * time.Second)
	w.mustAgree()
	if e := gw.epoch(); e.Generation != before.Generation || e.Number != before.Number+1 || w.count(KindGrant, mark) != 1 {
		t.Errorf("epoch %v after %v, %d Grants: bob's was expected", e, before, w.count(KindGrant, mark))
	}
}

// TestKilledBeforeTheGrants: a revocation starts a generation, gateways seal under it, and the only keeper is killed before any
// reader has its KEK. What was sealed meanwhile opens once it is back.
func TestKilledBeforeTheGrants(t *testing.T) {
	for _, kept := range []bool{true, false} {
		w := newWorld(t, lone)
		gw := w.add(crypto.RoleGateway, "gw1", func(c *Config) { c.Keep = kept }).connect()
		sub := w.add(crypto.RoleSubscriber, "alice").connect()
		w.run(15 * time.Second)
		w.drop = func(to *node, topic string) bool { return to == sub && topic == InboxTopic(testPrefix, sub.m.inbox) }
		w.publishPolicy(w.nextPolicy(revoke("mallory")))
		w.run(w.doc.Groups[0].ActivateAfter + time.Second)
		sealed := gw.sendKey()
		if sealed == nil || sealed.Epoch.PolicyVersion != 2 || sub.ring.Find("default", sealed.ID) != nil {
			t.Fatalf("seals under %v", sealed)
		}
		gw.cfg.Policy = w.signed
		gw.boot()
		w.drop = nil
		gw.connect()
		w.run(40 * time.Second)
		sub.m.UnknownKey(w.now(), "default", sealed.ID)
		sub.flush()
		w.run(time.Minute)
		if got := sub.ring.Find("default", sealed.ID) != nil; got != kept {
			t.Errorf("kept %v: the reader has the epoch: %v", kept, got)
		}
	}
}

// TestKilledBeforeTheEcho: the announcement has left, and its keeper dies before the broker shows it; or it has not even left.
func TestKilledBeforeTheEcho(t *testing.T) {
	for _, left := range []bool{true, false} {
		w := newWorld(t, lone)
		gw := w.add(crypto.RoleGateway, "gw1", keeping).connect()
		sub := w.add(crypto.RoleSubscriber, "alice").connect()
		w.run(15 * time.Second)
		before := gw.epoch()
		if err := gw.m.Rotate(w.now(), "default"); err != nil {
			t.Fatal(err)
		}
		if !left {
			gw.subs = nil // the program stores, and publishes nothing more
		}
		gw.flush()
		gw.boot()
		gw.connect()
		w.run(30 * time.Second)
		w.mustAgree()
		if e := sub.epoch(); e.Generation != before.Generation || e.Number != before.Number+1 || gw.sendKey().Epoch != e {
			t.Errorf("left %v: epoch %v after %v, sealed under %v", left, e, before, gw.sendKey().Epoch)
		}
	}
}

// TestKeptBySeveral: keepers with and without a memory, killed in any order; whoever is killed takes nothing along.
func TestKeptBySeveral(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		gw := []*node{w.add(crypto.RoleGateway, "gw1", keeping).connect(), w.add(crypto.RoleGateway, "gw2", keeping).connect()}
		sub := w.add(crypto.RoleSubscriber, "alice").connect()
		w.run(20 * time.Second)
		sealed := make(map[crypto.KeyID]bool)
		w.prefer = func() {
			for _, n := range gw {
				if k := n.sendKey(); k != nil {
					sealed[k.ID] = true
				}
			}
		}
		for range 15 {
			n := gw[rng.IntN(2)]
			if n.leads() {
				n.m.Rotate(w.now(), "default")
				n.flush()
			}
			w.run(time.Duration(rng.IntN(3000)) * time.Millisecond)
			for _, n := range gw {
				if rng.IntN(2) == 0 {
					n.boot()
					w.run(time.Duration(rng.IntN(20)) * time.Second)
					n.connect()
				}
			}
			w.run(time.Duration(rng.IntN(30)) * time.Second)
		}
		w.run(2 * time.Minute)
		w.mustAgree()
		late := w.add(crypto.RoleSubscriber, "bob").connect()
		w.run(5 * time.Second)
		for id := range sealed {
			if sub.ring.Find("default", id) == nil || late.ring.Find("default", id) == nil {
				t.Errorf("seed %d: a key under which somebody sealed is held by alice: %v, by bob: %v", seed, sub.ring.Find("default", id) != nil, late.ring.Find("default", id) != nil)
			}
		}
		if n := len(w.leaders()); n != 1 || sub.epoch().Generation != 1 {
			t.Errorf("seed %d: leaders %v, epoch %v: no generation was needed", seed, w.leaders(), sub.epoch())
		}
	}
}

// TestKeptIsBarredAndDropped: what was kept is held against the policy of now.
func TestKeptIsBarredAndDropped(t *testing.T) {
	w, gw, _ := keepers(t, 2)
	gw[1].disconnect()
	gw[1].cfg.Keep = true
	gw[1].boot()
	gw[1].connect()
	w.run(20 * time.Second)
	if gw[1].kept["default"] == nil {
		t.Fatal("nothing is kept of what was granted")
	}
	kept := bytes.Clone(gw[1].kept["default"])
	gw[1].disconnect()
	gw[1].cfg.Policy = w.nextPolicy(revoke("gw1"))
	gw[1].boot()
	gw[1].m.Advance(w.now())
	gw[1].flush()
	if len(gw[1].ring.Keys("default")) != 1 || gw[1].sendKey() != nil {
		t.Errorf("holds %d keys, seals under %v of the revoked keeper", len(gw[1].ring.Keys("default")), gw[1].sendKey())
	}
	// No keeper of the group any more: nothing is taken over, and what is stored goes.
	gw[1].kept["default"] = kept
	gw[1].cfg.Policy = w.nextPolicy(func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw3"} })
	gw[1].boot()
	if len(gw[1].ring.Keys("default")) != 0 || gw[1].kept["default"] != nil {
		t.Errorf("holds %d keys, still keeps %d bytes", len(gw[1].ring.Keys("default")), len(gw[1].kept["default"]))
	}
}

// TestKeptRefused: what does not fit this member is not used, and the operator hears of it.
func TestKeptRefused(t *testing.T) {
	w := newWorld(t, lone)
	gw := w.add(crypto.RoleGateway, "gw1", keeping).connect()
	w.run(10 * time.Second)
	good := bytes.Clone(gw.kept["default"])
	if s, err := parseKept(good); err != nil || len(s.keys) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	for n := range good { // and no byte of it makes the program fall over each time it starts
		if _, err := parseKept(good[:n]); err == nil {
			t.Errorf("the first %d bytes are taken for all", n)
		}
		bad := bytes.Clone(good)
		bad[n] ^= 0xff
		gw.m.groups["default"].erase()
		_ = gw.m.restore(gw.m.groups["default"], bad) // of some bytes nobody can tell
	}
	name := dcbor.AppendText(nil, "gw1")
	for what, raw := range map[string][]byte{
		"empty":            {},
		"cut":              good[:len(good)-1],
		"a byte too many":  append(bytes.Clone(good), 0),
		"another member's": bytes.Replace(good, name, dcbor.AppendText(nil, "gw2"), 1),
		"another group's":  bytes.Replace(good, dcbor.AppendText(nil, "default"), dcbor.AppendText(nil, "defaulT"), 1),
		"another fleet's":  bytes.Replace(good, dcbor.AppendText(nil, "plant"), dcbor.AppendText(nil, "plont"), 1),
	} {
		gw.kept = map[string][]byte{"default": bytes.Clone(raw)}
		gw.events = nil
		gw.boot()
		if alarms := gw.m.Status(w.now()).Alarms; len(gw.ring.Keys("default")) != 0 || alarms != 1 || gw.kept["default"] != nil {
			t.Errorf("%s: %d keys, %d alarms, %d bytes kept:%s", what, len(gw.ring.Keys("default")), alarms, len(gw.kept["default"]), describe(gw.events))
		}
	}
}

// TestKeptHoldsNoOldKEK: the state opens nothing that was announced before (F9), and is bounded.
func TestKeptHoldsNoOldKEK(t *testing.T) {
	w := newWorld(t, lone)
	gw := w.add(crypto.RoleGateway, "gw1", keeping).connect()
	w.run(10 * time.Second)
	first := gw.m.groups["default"].lineages[0].prev.Bytes()
	if bytes.Contains(gw.kept["default"], first) {
		t.Error("the KEK of an epoch already announced is kept")
	}
	g := gw.m.groups["default"]
	large := *g.keys[0]
	large.keeper, large.epoch.PolicyVersion = strings.Repeat("k", crypto.MaxName), math.MaxUint64
	for len(g.keys) < MaxKeysPerGroup {
		g.keys = append(g.keys, &large)
	}
	b := gw.m.keptOf(g)
	if s, err := parseKept(b); err != nil || len(s.keys) != MaxKeysPerGroup || len(b) > MaxKept {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
