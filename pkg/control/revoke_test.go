package control

import (
	"fmt"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Revocation: who is out, how soon, and what a revoked member can still do.

func revoke(names ...string) func(*policy.Document) {
	return func(d *policy.Document) { d.RevokedNames = names }
}

// keepPolicyFrom has the broker withhold every policy from some members.
func (w *world) keepPolicyFrom(some ...*node) {
	w.drop = func(to *node, topic string) bool {
		for _, n := range some {
			if n == to && topic == PolicyTopic(testPrefix) {
				return true
			}
		}
		return false
	}
}

// TestRevokedMemberIsLockedOut: the revoked program does not even hear that it is revoked, and asks on.
func TestRevokedMemberIsLockedOut(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	gw9 := w.add(crypto.RoleGateway, "gw9").connect()
	bob := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(10 * time.Second)
	w.keepPolicyFrom(alice)
	w.publishPolicy(w.nextPolicy(revoke("alice")))
	w.run(w.doc.Groups[0].ActivateAfter + 2*time.Second)
	for _, n := range append(gw, gw9) {
		if k := n.sendKey(); k == nil || alice.ring.Find("default", k.ID) != nil {
			t.Fatalf("%s seals under %v, which alice can open", n.name(), k)
		}
	}
	if bob.ring.Find("default", gw9.sendKey().ID) == nil {
		t.Error("bob, who is not revoked, cannot open it")
	}
	for range 5 {
		alice.m.UnknownKey(w.now(), "default", gw9.sendKey().ID)
		alice.flush()
		hello, _ := alice.hello(nil)
		gw[0].mustRefuse(ControlTopic(testPrefix), hello, ErrRevoked)
		gw[0].rotateHere()
		w.run(time.Minute)
	}
	if alice.ring.Find("default", gw9.sendKey().ID) != nil {
		t.Error("alice has got a key after all")
	}
}

// TestRevokedKeeper: the leader is revoked and does not stop: it goes on with leases, announcements and answers.
func TestRevokedKeeper(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	gw[0].rotateHere()
	w.run(15 * time.Second)
	old := gw[0].sendKey()
	w.keepPolicyFrom(gw[0])
	w.publishPolicy(w.nextPolicy(revoke("gw1")))
	stopped := w.mono
	w.run(20 * time.Millisecond)
	for _, n := range gw[1:] {
		if n.sendKey() != nil {
			t.Errorf("%s seals under an epoch of the revoked keeper", n.name())
		}
	}
	for gw[1].sendKey() == nil || gw[2].sendKey() == nil {
		if w.run(50 * time.Millisecond); w.mono > stopped+4*time.Second {
			t.Fatalf("nothing leaves for longer than a PUBLISH waits:%s", describe(gw[1].events))
		}
	}
	if !gw[1].leads() || gw[1].sendKey().Epoch.PolicyVersion != 2 {
		t.Errorf("gw2 seals under %v", gw[1].sendKey())
	}
	if alice.ring.Find("default", old.ID) == nil {
		t.Error("what the revoked keeper's epochs sealed does not open any more")
	}
	keys, control := KeysTopic(testPrefix, "default"), ControlTopic(testPrefix)
	rogue := gw[0].announcement(func(e *EpochMessage) { e.Wraps[0].Number = MaxEpochValue })
	mine := gw[0].lease(func(l *Lease) { l.Groups[0].Number = 999 })
	for _, n := range []*node{gw[1], gw[2], alice} {
		n.mustRefuse(keys, rogue, ErrRevoked)
	}
	gw[1].mustRefuse(control, mine, ErrRevoked)
	wrapped := gw[1].announcement(func(e *EpochMessage) { e.Wraps[0].Minter = "gw1" })
	alice.inject(keys, wrapped)
	w.run(5 * time.Minute)
	for _, n := range gw[1:] {
		if k := n.sendKey(); k == nil || k.Epoch.PolicyVersion != 2 {
			t.Errorf("%s seals under %v", n.name(), k)
		}
		if gw[0].ring.Find("default", n.sendKey().ID) != nil {
			t.Error("the revoked keeper has the new key")
		}
	}
}

// TestSendersFirst: a revocation in a large group, with a keeper that makes few Grants a second.
func TestSendersFirst(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Keepers, d.Groups[0].Publish, d.Groups[0].ActivateAfter = []string{"gw1"}, []string{"*"}, 0
	})
	leader := w.add(crypto.RoleGateway, "gw1", func(c *Config) { c.GrantRate = 10 }).connect()
	for i := range 100 {
		w.add(crypto.RoleSubscriber, fmt.Sprintf("sub%d", i), func(c *Config) { c.ReadOnly = true }).connect()
	}
	var gateways []*node
	for i := range 50 {
		gateways = append(gateways, w.add(crypto.RoleGateway, fmt.Sprintf("gw%d", i+20)).connect())
	}
	w.run(time.Minute)
	w.mustAgree()
	w.publishPolicy(w.nextPolicy(revoke("mallory")))
	w.run(5 * time.Second) // for 50 Grants; 150 take 14 s
	for _, n := range gateways {
		if n.epoch() != leader.epoch() {
			t.Errorf("%s has not got the new generation after 5 s", n.name())
		}
	}
	for _, n := range gateways {
		if k := n.sendKey(); k == nil || k.Epoch != leader.epoch() {
			t.Errorf("%s seals under %v", n.name(), k)
		}
	}
	w.run(30 * time.Second)
	w.mustAgree()
}

// TestLineIsByClass: in a full line a gateway takes the place of a reader.
func TestLineIsByClass(t *testing.T) {
	var q []*pendingHello
	hello := func(i int, c class) *pendingHello {
		return &pendingHello{hello: new(Hello), class: c, from: crypto.Member{CertHash: [32]byte{byte(i), byte(i >> 8), byte(c)}}}
	}
	for i := range MaxPendingHellos {
		if err := enqueue(&q, hello(i, classReader), MaxPendingHellos); err != nil {
			t.Fatal(err)
		}
	}
	if enqueue(&q, hello(9999, classReader), MaxPendingHellos) == nil {
		t.Error("a reader more than there is room for")
	}
	for i, c := range []class{classSender, classGateway, classKeeper, classGateway} {
		if err := enqueue(&q, hello(i, c), MaxPendingHellos); err != nil {
			t.Fatal(err)
		}
	}
	if len(q) != MaxPendingHellos || q[0].class != classGateway || q[1].class != classGateway || q[2].class != classKeeper || q[3].class != classSender || q[4].class != classReader {
		t.Errorf("%d in line, classes %d %d %d %d %d", len(q), q[0].class, q[1].class, q[2].class, q[3].class, q[4].class)
	}
}

// TestPolicyKeptFromTheLeader: the broker gives the revocation to all but the leader.
func TestPolicyKeptFromTheLeader(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	w.keepPolicyFrom(gw[0], alice)
	w.publishPolicy(w.nextPolicy(revoke("alice")))
	w.run(LeaseLife + w.doc.Groups[0].ActivateAfter + 5*time.Second)
	for _, n := range gw[1:] {
		if k := n.sendKey(); k == nil || alice.ring.Find("default", k.ID) != nil {
			t.Errorf("%s seals under %v", n.name(), k)
		}
	}
	if !gw[1].leads() {
		t.Errorf("gw2 does not lead:%s", describe(gw[1].events))
	}
	w.drop = nil
	gw[0].connect()
	w.run(30 * time.Second)
	if k := gw[0].sendKey(); k == nil || k.Epoch.PolicyVersion != 2 || len(w.leaders()) != 1 {
		t.Errorf("once it has the policy gw1 seals under %v; leaders %v", k, w.leaders())
	}
}

// TestRevokedCertificate: a policy revokes one certificate of a keeper and not its name. What was made with that certificate
// seals no more, also at members who had it from another keeper; and the keeper goes on with a new one.
func TestRevokedCertificate(t *testing.T) {
	w, gw, alice := keepers(t, 3)
	gw[0].rotateHere()
	w.run(15 * time.Second)
	stolen := gw[0].id.Member().CertHash
	mine := gw[0].lease(nil)
	gw[0].disconnect()
	w.run(20 * time.Second)
	w.mustLead("gw2")
	gw8 := w.add(crypto.RoleGateway, "gw8").connect() // granted gw1's epoch by gw2
	w.run(15 * time.Second)
	old := gw8.sendKey()
	if k := gw8.m.groups["default"].find(crypto.Commitment(old.Secret, "default")); k.keeper != "gw1" || k.certificate != stolen {
		t.Fatalf("the epoch is by %s, certificate %x", k.keeper, k.certificate)
	}
	w.cut = func(from, to *node) bool { return from == gw[1] } // the policy arrives, the new epoch not yet
	w.publishPolicy(w.nextPolicy(func(d *policy.Document) { d.RevokedCerts = [][32]byte{stolen} }))
	w.run(20 * time.Millisecond)
	for _, n := range []*node{gw[1], gw[2], gw8} {
		if k := n.sendKey(); k != nil {
			t.Errorf("%s seals under %v, made with the revoked certificate", n.name(), k.Epoch)
		}
	}
	w.cut = nil
	gw[0].connect()
	w.run(20 * time.Second)
	gw[1].mustRefuse(ControlTopic(testPrefix), mine, ErrRevoked)
	if gw[0].ring.Find("default", gw[1].sendKey().ID) != nil {
		t.Error("the holder of the revoked certificate has the new key")
	}
	gw[0].disconnect()
	if alice.ring.Find("default", old.ID) == nil {
		t.Error("what was sealed under the old epoch does not open any more")
	}
	// The same name with a new certificate: it is served, takes over, and its epochs are sealed under.
	again := w.add(crypto.RoleGateway, "gw1").connect()
	w.run(10 * time.Second)
	if again.sendKey() == nil || again.sendKey().ID != gw[1].sendKey().ID {
		t.Fatalf("gw1 with a new certificate seals under %v:%s", again.sendKey(), describe(again.events))
	}
	gw[1].disconnect()
	w.run(20 * time.Second)
	w.mustLead("gw1")
	again.rotateHere()
	w.run(15 * time.Second)
	for _, n := range []*node{again, gw[2], gw8} {
		if k := n.sendKey(); k == nil || k.Epoch != again.epoch() || k.Epoch.PolicyVersion != 2 {
			t.Errorf("%s seals under %v, the newest is %v", n.name(), k, again.epoch())
		}
	}
}
