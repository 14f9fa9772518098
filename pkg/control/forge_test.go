package control

import (
	"bytes"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// Grants that are wrong in one way, and reports that are not true.

// grantForge makes Grants that are right but for what a test changes.
type grantForge struct {
	w     *world
	hello []byte // the signed Hello they answer
	asked *Hello
	at    crypto.Epoch // what they grant
}

// grantParts is what a forger may choose.
type grantParts struct {
	by         *node
	hello      []byte
	nonce      [16]byte
	info       [32]byte // the certificate in the HPKE info
	infoPolicy [32]byte
	version    uint64
	policy     [32]byte
	key        GrantKey
	group      string
	next, gen  uint64
	founder    string
}

func newGrantForge(w *world, hello []byte) *grantForge {
	w.t.Helper()
	payload, _, err := w.trust.Verify(hello, string(KindHello), w.now().Wall)
	if err != nil {
		w.t.Fatal(err)
	}
	asked, err := ParseHello(payload)
	if err != nil {
		w.t.Fatal(err)
	}
	at := w.nodes[0].epoch()
	at.Number++
	return &grantForge{w, hello, asked, at}
}

func (f *grantForge) grant(edit func(*grantParts)) []byte {
	f.w.t.Helper()
	secret, _ := crypto.NewPayloadSecret(f.w.rand)
	kek, _ := crypto.NewKEK(f.w.rand)
	leader := f.w.nodes[0]
	p := grantParts{by: leader, hello: f.hello, nonce: f.asked.Nonce, info: leader.id.Member().CertHash, infoPolicy: f.w.signed.Hash,
		version: f.w.doc.Version, policy: f.w.signed.Hash, key: GrantKey{Epoch: f.at, Keeper: "gw1", Secret: secret}, group: "default",
		next: f.at.Number + 1, gen: f.at.Generation, founder: "gw1"}
	edit(&p)
	body := GrantBody{{Name: p.group, Generation: p.gen, Founder: p.founder, Next: p.next, KEK: kek, Keys: []GrantKey{p.key}}}
	sealed, err := crypto.HPKESeal(f.asked.Public, GrantInfo(p.hello, p.info, p.infoPolicy), body.Marshal())
	if err != nil {
		f.w.t.Fatal(err)
	}
	g := Grant{Nonce: p.nonce, PolicyVersion: p.version, PolicyHash: p.policy, Sealed: sealed}
	return p.by.sign(g.Marshal(), KindGrant)
}

// TestForgedGrants: F15, each part that the HPKE info binds, and who may grant.
func TestForgedGrants(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	gw3 := w.add(crypto.RoleGateway, "gw3")
	mallory := w.add(crypto.RoleSubscriber, "mallory")
	f := newGrantForge(w, asking(w, sub))
	for _, c := range []struct {
		name string
		edit func(*grantParts)
		want error
	}{
		{"by a subscriber", func(p *grantParts) { p.by = mallory }, ErrRole},
		{"by a gateway that is no keeper", func(p *grantParts) { p.by, p.info = gw3, gw3.id.Member().CertHash }, ErrNotKeeper},
		{"for another nonce", func(p *grantParts) { p.nonce[0] ^= 1 }, ErrNonce},
		{"for another Hello", func(p *grantParts) { p.hello = append(bytes.Clone(p.hello), 0) }, crypto.ErrHPKE},
		{"passed on by another keeper", func(p *grantParts) { p.info = gw3.id.Member().CertHash }, crypto.ErrHPKE},
		{"sealed under another policy", func(p *grantParts) { p.infoPolicy[0] ^= 1 }, crypto.ErrHPKE},
		{"of an older policy", func(p *grantParts) { p.version = 0 }, ErrPolicyBehind},
		{"of a forked policy", func(p *grantParts) { p.policy[0] ^= 1 }, ErrPolicyFork},
		{"of a group not asked about", func(p *grantParts) { p.group = "other" }, ErrNotEntitled},
		{"KEK does not follow", func(p *grantParts) { p.next++ }, dcbor.ErrMalformed},
		{"number 2^64-1", func(p *grantParts) { p.key.Epoch.Number, p.next = 1<<64-1, 1<<64-1 }, dcbor.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			sub.mustRefuse(sub.inboxTopic(), f.grant(c.edit), c.want)
		})
	}
	w.t = t
	good := func(*grantParts) {}
	if events := sub.inject(sub.inboxTopic(), f.grant(good)); sub.epoch() != f.at {
		t.Fatalf("the grant without a defect is not accepted, so the cases above prove nothing:%s", describe(events))
	}
	sub.mustRefuse(sub.inboxTopic(), f.grant(good), ErrNonce)
}

// TestGrantsToAMemberWithKeys: even in answer to its own nonce, nothing takes it back, or out of reach.
func TestGrantsToAMemberWithKeys(t *testing.T) {
	w := newWorld(t)
	_, _, sub := w.fleet()
	w.rotate()
	w.run(15 * time.Second)
	w.drop = func(*node, string) bool { return true }
	mark := len(w.log)
	sub.m.UnknownKey(w.now(), "default", crypto.KeyID{1})
	sub.flush()
	if len(w.log) != mark+1 {
		t.Fatal("no Hello")
	}
	f := newGrantForge(w, w.log[mark].payload)
	to := func(e crypto.Epoch) func(*grantParts) {
		return func(p *grantParts) { p.key.Epoch, p.gen, p.next = e, e.Generation, e.Number+1 }
	}
	inbox := sub.inboxTopic()
	sub.mustRefuse(inbox, f.grant(to(crypto.Epoch{PolicyVersion: 2, Generation: 1, Number: 3})), ErrPolicyAhead)
	sub.mustRefuse(inbox, f.grant(to(crypto.Epoch{PolicyVersion: 1, Generation: MaxEpochValue, Number: 3})), ErrJump)
	sub.mustRefuse(inbox, f.grant(to(crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: MaxEpochValue - 1})), ErrJump)
	if sub.inject(inbox, f.grant(func(*grantParts) {})); sub.epoch() != f.at {
		t.Error("the honest grant is refused")
	}
}

// TestGrantOfAKeeperThatIsBehind: its keys open messages. They take no member back: nothing is sealed
// under them, and the KEK stays.
func TestGrantOfAKeeperThatIsBehind(t *testing.T) {
	for _, e := range []crypto.Epoch{{PolicyVersion: 1, Generation: 1, Number: 1}, {PolicyVersion: 0, Generation: 9, Number: 9}} {
		w := newWorld(t)
		_, gw2, _ := w.fleet()
		w.rotate()
		w.run(15 * time.Second)
		w.drop = func(*node, string) bool { return true }
		mark := len(w.log)
		gw2.m.UnknownKey(w.now(), "default", crypto.KeyID{1})
		gw2.flush()
		f := newGrantForge(w, w.log[mark].payload)
		before, sends, chain := gw2.epoch(), gw2.sendKey().ID, *gw2.m.groups["default"].lineages[0]
		gw2.inject(gw2.inboxTopic(), f.grant(func(p *grantParts) { p.key.Epoch, p.gen, p.next = e, e.Generation, e.Number+1 }))
		w.run(20 * time.Second)
		if got := *gw2.m.groups["default"].lineages[0]; gw2.epoch() != before || gw2.sendKey().ID != sends || got.next != chain.next || len(gw2.ring.Keys("default")) != 3 {
			t.Errorf("%v: epoch %v, seals under %v, holds %d keys", e, gw2.epoch(), gw2.sendKey(), len(gw2.ring.Keys("default")))
		}
	}
}

// TestKeeperOfAnotherGroup: being a keeper of one group gives no say in another, asked about in
// the same Hello.
func TestKeeperOfAnotherGroup(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Topics, d.Groups[0].Keepers = []string{"plant/#"}, []string{"gw1"}
		hall := policy.DefaultGroup("hall")
		hall.Topics, hall.Keepers = []string{"hall/#"}, []string{"gw2"}
		d.Groups = append(d.Groups, hall)
	})
	_, gw2, sub := w.fleet()
	f := newGrantForge(w, asking(w, sub))
	if len(f.asked.Groups) != 2 {
		t.Fatalf("asks about %v", f.asked.Groups)
	}
	byGw2 := func(p *grantParts) { p.by, p.info = gw2, gw2.id.Member().CertHash }
	sub.mustRefuse(sub.inboxTopic(), f.grant(byGw2), ErrNotKeeper)
	sub.inject(sub.inboxTopic(), f.grant(func(p *grantParts) { byGw2(p); p.group = "hall" }))
	if len(sub.ring.Keys("hall")) != 1 || len(sub.ring.Keys("default")) != 0 {
		t.Errorf("groups held: %v", sub.ring.Groups())
	}
}

// TestFalseReports: a member's claim to know a higher epoch is capped, and obeyed at a bounded rate.
func TestFalseReports(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	mallory := &node{w: w, id: w.identity(crypto.RoleSubscriber, "mallory")}
	lie := func() {
		msg, _ := mallory.hello(func(h *Hello) { h.Groups[0].Generation, h.Groups[0].Number = MaxEpochValue, MaxEpochValue })
		gw1.inject(ControlTopic(testPrefix), msg)
	}
	for range 10 {
		lie()
		w.run(time.Second)
	}
	w.run(10 * time.Second)
	w.mustAgree() // the jump is within what members accept
	if e := gw1.epoch(); e.Generation != 1+MaxGenerationJump || e.Number != 1+MaxNumberJump {
		t.Errorf("epoch %v: one capped jump from 1.1.1 expected", e)
	}
	if s := gw1.m.Status(w.now()); s.Alarms == 0 {
		t.Error("no alarm names the member")
	}
	w.run(ReportInterval)
	w.mustAgree()
	if e := gw1.epoch(); e.Generation > 1+2*MaxGenerationJump {
		t.Errorf("epoch %v", e)
	}
}
