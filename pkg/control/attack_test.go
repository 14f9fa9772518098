package control

import (
	"errors"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// What a malicious broker and malicious members try, and the rule that stops each.

// sent returns what a node published of a kind, oldest first.
func (w *world) sent(kind Kind) (all []record) {
	for _, r := range w.log {
		if kindOf(r.payload) == kind {
			all = append(all, r)
		}
	}
	return all
}

// sign signs a payload as any member of the fleet can.
func (n *node) sign(payload []byte, kind Kind) []byte {
	n.w.t.Helper()
	msg, err := n.id.Sign(payload, string(kind))
	if err != nil {
		n.w.t.Fatal(err)
	}
	return msg
}

// mustRefuse gives n a message and fails unless it is refused because of want, with nothing changed.
func (n *node) mustRefuse(topic string, msg []byte, want error) {
	n.w.t.Helper()
	ring, before := n.ring, n.epoch()
	events := n.inject(topic, msg)
	if !refused(events, want) {
		n.w.t.Errorf("%s: want refusal %q, got:%s", n.name(), want, describe(events))
	}
	if n.epoch() != before || n.ring != ring {
		n.w.t.Errorf("%s: a refused message changed its keys", n.name())
	}
}

func (n *node) inboxTopic() string { return InboxTopic(testPrefix, n.m.inbox) }

func TestReplays(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	keys := KeysTopic(testPrefix, "default")
	oldEpoch := w.retained[keys]
	w.rotate()
	w.run(20*time.Second + ConfirmInterval)
	for _, n := range w.nodes {
		if n != gw1 { // for which it is a late echo
			n.mustRefuse(keys, oldEpoch, ErrStale)
		}
		if events := n.inject(keys, w.retained[keys]); slices.ContainsFunc(events, func(e Event) bool { return e.Result == ResultAccepted }) {
			t.Errorf("%s accepts the current announcement twice", n.name())
		}
	}
	for _, r := range w.sent(KindGrant) {
		for _, n := range []*node{gw2, sub} {
			n.mustRefuse(n.inboxTopic(), r.payload, ErrNonce)
		}
	}
	confirms := w.sent(KindConfirm)
	if len(confirms) == 0 {
		t.Fatal("no Confirm was recorded")
	}
	for _, r := range confirms {
		gw2.mustRefuse(gw2.inboxTopic(), r.payload, ErrNonce)
	}
	mark := len(w.log)
	for _, r := range w.sent(KindHello) {
		if r.from == gw1 {
			continue
		}
		if events := gw1.inject(ControlTopic(testPrefix), r.payload); !refused(events, ErrReplayedHello) {
			t.Errorf("a replayed Hello:%s", describe(events))
		}
	}
	w.run(5 * time.Second)
	if n := w.count(KindGrant, mark); n != 0 {
		t.Errorf("%d Grants for replayed Hellos", n)
	}
}

// TestReplayToAFreshMember: a recorded session does not take a member back to an old epoch,
// nor let it seal (F3).
func TestReplayToAFreshMember(t *testing.T) {
	w := newWorld(t)
	_, gw2, _ := w.fleet()
	recorded := slices.Clone(w.log)
	for range 3 {
		w.rotate()
		w.run(15 * time.Second)
	}
	gw2.boot()
	w.drop = func(to *node, _ string) bool { return to == gw2 } // the broker answers itself
	gw2.connect()
	for _, r := range recorded {
		topic := r.topic
		if len(topic) > 15 && topic[:15] == testPrefix+"/inbox/" {
			topic = gw2.inboxTopic()
		}
		gw2.inject(topic, r.payload)
		w.run(time.Second)
	}
	if gw2.sendKey() != nil || gw2.epoch() != (crypto.Epoch{}) {
		t.Fatalf("a replay gave it epoch %v, sealing under %v", gw2.epoch(), gw2.sendKey())
	}
}

func TestNonceExpires(t *testing.T) {
	w := newWorld(t)
	gw1 := w.add(crypto.RoleGateway, "gw1").connect()
	w.run(10 * time.Second)
	sub := w.add(crypto.RoleSubscriber, "alice").connect()
	w.drop = func(to *node, _ string) bool { return to == sub }
	w.run(2 * time.Second)
	grants := w.sent(KindGrant)
	if len(grants) == 0 {
		t.Fatalf("no Grant:%s", describe(gw1.events))
	}
	w.mono += NonceLife // no timer has run when the late answer comes
	sub.mustRefuse(sub.inboxTopic(), grants[0].payload, ErrNonce)
	w.drop = nil
	w.run(NonceLife + HelloBackoffMax)
	w.mustAgree()
}

// announcement makes an Epoch message that is right but for what edit changes, signed by n.
func (n *node) announcement(edit func(*EpochMessage)) []byte {
	n.w.t.Helper()
	secret, _ := crypto.NewPayloadSecret(n.w.rand)
	kek, _ := crypto.NewKEK(n.w.rand)
	now := n.w.nodes[0].epoch()
	wrap, err := kek.Wrap(n.w.rand, secret, crypto.WrapContext{Fleet: "plant", Group: "default", Generation: now.Generation, Number: now.Number + 1, Keeper: n.name()})
	if err != nil {
		n.w.t.Fatal(err)
	}
	e := &EpochMessage{Group: "default", PolicyVersion: n.w.doc.Version, PolicyHash: n.w.signed.Hash, Generation: now.Generation, Founder: "gw1",
		Wraps: []EpochWrap{{Number: now.Number + 1, Minter: n.name(), ActivateAfter: time.Second, Wrap: wrap}}}
	if edit != nil {
		edit(e)
	}
	return n.sign(e.Marshal(), KindEpoch)
}

func TestForgedEpochs(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	gw3 := w.add(crypto.RoleGateway, "gw3").connect()
	impostor := w.add(crypto.RoleSubscriber, "gw2x")
	same := &node{w: w, id: w.identity(crypto.RoleSubscriber, "gw1")} // the leader's name, another role
	w.run(2 * time.Second)
	keys := KeysTopic(testPrefix, "default")
	for _, c := range []struct {
		name string
		msg  []byte
		want error
	}{
		{"by a subscriber", impostor.announcement(nil), ErrRole},
		{"by a subscriber with the leader's name", same.announcement(nil), ErrRole},
		{"by a gateway that is no keeper", gw3.announcement(nil), ErrNotKeeper},
		{"with an epoch of a gateway that is no keeper", gw1.announcement(func(e *EpochMessage) { e.Wraps[0].Minter = "gw3" }), ErrNotKeeper},
		{"for another group", gw1.announcement(func(e *EpochMessage) { e.Group = "other" }), ErrTopic},
		{"of an older policy", gw1.announcement(func(e *EpochMessage) { e.PolicyVersion = 0 }), ErrEpochPolicy},
		{"of a forked policy", gw1.announcement(func(e *EpochMessage) { e.PolicyHash[0] ^= 1 }), ErrPolicyFork},
		{"not under the KEK", gw1.announcement(nil), crypto.ErrUnwrap},
		{"number too high", gw1.announcement(func(e *EpochMessage) { e.Wraps[0].Number = MaxEpochValue }), ErrJump},
		{"generation too high", gw1.announcement(func(e *EpochMessage) { e.Generation = MaxEpochValue }), ErrJump},
		{"number 2^64-1", gw1.announcement(func(e *EpochMessage) { e.Wraps[0].Number = 1<<64 - 1 }), dcbor.ErrMalformed},
		{"generation 2^64-1", gw1.announcement(func(e *EpochMessage) { e.Generation = 1<<64 - 1 }), dcbor.ErrMalformed},
		{"oversize", make([]byte, MaxEpochMessage+1), ErrTooLarge},
		{"as another kind", gw1.sign(gw2.m.policy.Raw, KindGrant), crypto.ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			sub.mustRefuse(keys, c.msg, c.want)
			gw2.mustRefuse(keys, c.msg, c.want)
		})
	}
	w.t = t
	mark := len(w.log)
	w.run(time.Minute)
	if n := w.count(KindHello, mark); n > 30 {
		t.Errorf("%d Hellos because of forgeries", n)
	}
	w.rotate()
	w.run(15 * time.Second)
	w.mustAgree() // honest traffic goes on
}

// TestForeignSplit: a listed keeper that is not the leader announces the same epoch with another key. Nothing
// of it is used without a KEK, and the leader's epoch goes on.
func TestForeignSplit(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	rogue := gw2.announcement(func(e *EpochMessage) { e.Wraps[0].Number-- })
	before := sub.epoch()
	sub.inject(KeysTopic(testPrefix, "default"), rogue)
	w.run(10 * time.Second)
	if sub.epoch() != before || len(sub.ring.Keys("default")) != 1 {
		t.Error("keys changed")
	}
	if got := gw1.inject(KeysTopic(testPrefix, "default"), rogue); !refused(got, ErrStale) {
		t.Errorf("the leader:%s", describe(got))
	}
}

// hello makes a Hello as any member can, and returns the key that opens the answer.
func (n *node) hello(edit func(*Hello)) ([]byte, *crypto.InboxKey) {
	n.w.t.Helper()
	key, err := crypto.NewInboxKey()
	if err != nil {
		n.w.t.Fatal(err)
	}
	h := &Hello{Want: WantKeys, Public: key.Public(), PolicyVersion: n.w.doc.Version, PolicyHash: n.w.signed.Hash, Groups: []HelloGroup{{Name: "default"}}}
	n.w.rand.Read(h.Nonce[:])
	n.w.rand.Read(h.Inbox[:])
	if edit != nil {
		edit(h)
	}
	return n.sign(h.Marshal(), KindHello), key
}

// asking leaves sub with an open Hello and returns it, signed.
func asking(w *world, sub *node) []byte {
	w.t.Helper()
	w.drop = func(to *node, topic string) bool { return topic == ControlTopic(testPrefix) || to == sub }
	sub.boot()
	sub.connect()
	mark := len(w.log)
	w.run(time.Second)
	for _, r := range w.log[mark:] {
		if r.from == sub && kindOf(r.payload) == KindHello {
			return r.payload
		}
	}
	w.t.Fatal("no Hello")
	return nil
}

func TestForgedConfirms(t *testing.T) {
	w := newWorld(t)
	gw1, gw2, sub := w.fleet()
	inbox := func(to *node, topic string) bool { return to == gw2 && topic == gw2.inboxTopic() }
	w.drop = inbox
	w.rotate()
	w.run(12 * time.Second)
	for asked := len(w.sent(KindHello)); len(w.sent(KindHello)) == asked; {
		w.run(time.Second) // until gw2 asks as it does every few minutes
	}
	var h *Hello
	for _, r := range w.sent(KindHello) {
		payload, from, err := w.trust.Verify(r.payload, string(KindHello), w.now().Wall)
		if parsed, _ := ParseHello(payload); err == nil && from.Name == "gw2" && parsed.Want == WantConfirm {
			h = parsed
		}
	}
	if h == nil {
		t.Fatal("gw2 asked for no confirmation")
	}
	wrap := gw1.m.groups["default"].wraps[0]
	good := Confirm{PolicyVersion: 1, PolicyHash: w.signed.Hash, Nonces: [][16]byte{h.Nonce},
		Groups: []ConfirmGroup{{Name: "default", Generation: 1, Number: wrap.Number, Commitment: wrap.Wrap.Commitment}}}
	gw3 := w.add(crypto.RoleGateway, "gw3")
	for _, c := range []struct {
		name string
		by   *node
		edit func(*Confirm)
		want error
	}{
		{"by a subscriber", sub, func(*Confirm) {}, ErrRole},
		{"by a gateway that is no keeper", gw3, func(*Confirm) {}, ErrNotKeeper},
		{"for another nonce", gw1, func(c *Confirm) { c.Nonces = [][16]byte{{1}} }, ErrNonce},
		{"of a forked policy", gw1, func(c *Confirm) { c.PolicyHash[0] ^= 1 }, ErrPolicyFork},
		{"of no group", gw1, func(c *Confirm) { c.Groups = nil }, dcbor.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			forged := good
			c.edit(&forged)
			before := gw2.m.groups["default"].freshAt
			gw2.mustRefuse(gw2.inboxTopic(), c.by.sign(forged.Marshal(), KindConfirm), c.want)
			if gw2.m.groups["default"].freshAt != before {
				t.Error("gw2 believes the forged confirmation")
			}
		})
	}
	w.t = t
	before := gw2.m.groups["default"].freshAt
	gw2.inject(gw2.inboxTopic(), gw1.sign(good.Marshal(), KindConfirm))
	if gw2.m.groups["default"].freshAt <= before {
		t.Fatalf("the confirmation without a defect is not accepted:%s", describe(gw2.events))
	}
}

func TestHelloRefusals(t *testing.T) {
	w := newWorld(t, func(d *policy.Document) {
		d.Groups[0].Read, d.RevokedNames = []string{"gw*", "alice", "eve"}, []string{"eve"}
	})
	gw1, gw2, _ := w.fleet()
	op := &node{w: w, id: w.identity(crypto.RoleOperator, "root")}
	eve := &node{w: w, id: w.identity(crypto.RoleSubscriber, "eve")}
	stranger := &node{w: w, id: w.identity(crypto.RoleSubscriber, "stranger")}
	control := ControlTopic(testPrefix)
	send := func(n *node, edit func(*Hello)) []byte { msg, _ := n.hello(edit); return msg }
	gw1.mustRefuse(control, send(op, nil), ErrRole)
	gw1.mustRefuse(control, send(eve, nil), ErrRevoked)
	gw1.mustRefuse(control, send(stranger, nil), ErrNotEntitled)
	gw1.mustRefuse(control, send(gw2, func(h *Hello) { h.PolicyVersion = 0 }), ErrPolicyBehind)
	gw1.mustRefuse(control, send(gw2, func(h *Hello) { h.PolicyVersion = 9 }), ErrPolicyAhead)
	gw1.mustRefuse(control, send(gw2, func(h *Hello) { h.Public = h.Public[1:] }), dcbor.ErrMalformed)
	gw1.mustRefuse(control, []byte("hello"), ErrKind)
	gw1.mustRefuse(control, make([]byte, MaxMessage+1), ErrKind)
	mark := len(w.log)
	w.run(5 * time.Second)
	if w.count(KindGrant, mark) != 0 {
		t.Error("a refused Hello was answered")
	}
}

func TestOutsiders(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	other := newWorld(t) // same names, another CA
	other.rand.Read(make([]byte, 100))
	key, cert, err := crypto.NewCA("plant", w.rand, testStart)
	if err != nil {
		t.Fatal(err)
	}
	other.caKey, other.caCert = key, cert
	forger := &node{w: w, id: other.identity(crypto.RoleGateway, "gw1")}
	sub.mustRefuse(KeysTopic(testPrefix, "default"), forger.announcement(nil), crypto.ErrUntrusted)
	hello, _ := forger.hello(nil)
	gw1.mustRefuse(ControlTopic(testPrefix), hello, crypto.ErrUntrusted)

	expired := w.add(crypto.RoleSubscriber, "bob")
	msg, _ := expired.hello(nil)
	late := w.now()
	late.Wall = late.Wall.AddDate(20, 0, 0)
	gw1.m.Receive(late, ControlTopic(testPrefix), msg, false)
	gw1.flush()
	if last := gw1.events[len(gw1.events)-1]; !errors.Is(last.Err, crypto.ErrUntrusted) {
		t.Errorf("an expired certificate: %v", last)
	}
}

// TestKeyIDCollision: F10. Nobody can make two secrets with one id at will, so
// the member's memory is prepared instead.
func TestKeyIDCollision(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	w.drop = func(to *node, _ string) bool { return to == sub }
	w.rotate()
	next := gw1.m.groups["default"].newest()
	held := sub.m.groups["default"].newest()
	held.id = next.id // as if sub held another secret with the id of the one to come
	events := sub.inject(KeysTopic(testPrefix, "default"), w.retained[KeysTopic(testPrefix, "default")])
	if !refused(events, crypto.ErrCollision) {
		t.Errorf("collision:%s", describe(events))
	}
	if len(sub.m.groups["default"].keys) != 1 {
		t.Error("the colliding key was taken in")
	}
}

// repeatReader gives the same 32 bytes twice, then goes on with another source.
type repeatReader struct {
	first []byte
	times int
	next  interface{ Read([]byte) (int, error) }
}

func (r *repeatReader) Read(b []byte) (int, error) {
	if r.times > 0 && len(b) == len(r.first) {
		r.times--
		return copy(b, r.first), nil
	}
	return r.next.Read(b)
}

func TestMinterRedraws(t *testing.T) {
	w := newWorld(t)
	gw1, _, _ := w.fleet()
	g := gw1.m.groups["default"]
	gw1.m.cfg.Rand = &repeatReader{g.newest().secret.Bytes(), 3, w.rand}
	w.rotate()
	if len(g.keys) != 2 || g.keys[0].id == g.keys[1].id {
		t.Fatalf("keys %v %v", g.keys[0].id, g.newest().id)
	}
	gw1.m.cfg.Rand = &repeatReader{g.newest().secret.Bytes(), 1 << 20, w.rand}
	if err := gw1.m.Rotate(w.now(), "default"); !errors.Is(err, crypto.ErrCollision) {
		t.Errorf("a broken source: %v", err)
	}
}

// TestGrantedKEKOpensNothingOlder: F9. What a new member is given does not open an announcement that the
// broker recorded before, and neither does what a keeper still holds.
func TestGrantedKEKOpensNothingOlder(t *testing.T) {
	w := newWorld(t)
	gw1, _, sub := w.fleet()
	w.rotate()
	w.run(15 * time.Second)
	recorded := w.retained[KeysTopic(testPrefix, "default")]
	late := w.add(crypto.RoleSubscriber, "bob").connect()
	w.run(2 * time.Second)
	payload, _, err := w.trust.Verify(recorded, string(KindEpoch), w.now().Wall)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEpoch(payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*lineage{late.m.groups["default"].lineages[0], sub.m.groups["default"].lineages[0], gw1.m.groups["default"].lead.chain} {
		if l.next != e.Wraps[0].Number+1 {
			t.Errorf("the KEK held is for epoch %d, the newest is %d", l.next, e.Wraps[0].Number)
		}
		for _, x := range e.Wraps {
			c := crypto.WrapContext{Fleet: "plant", Group: "default", Generation: e.Generation, Number: x.Number, Keeper: "gw1"}
			if _, err := l.kek.Unwrap(&x.Wrap, c); !errors.Is(err, crypto.ErrUnwrap) {
				t.Errorf("epoch %d opens: %v", x.Number, err)
			}
		}
	}
}
