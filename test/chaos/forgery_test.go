package chaos

import (
	"crypto/rand"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/test/embedded"
)

// forgeryScenarios are what somebody signs who may not.
func forgeryScenarios() []scenario {
	return []scenario{
		{name: "insider: subscriber forges Epoch", rules: "F4", expect: "refused by role, also with the leader's name", run: forgedEpochs},
		{name: "insider: subscriber forges Grant", rules: "F4", expect: "refused by role; the asker waits for its keeper", run: forgedGrants},
		{name: "insider: subscriber forges Confirm", rules: "F3", expect: "refused by role; the authority to seal is not renewed", run: forgedConfirms},
		{name: "insider: subscriber forges Policy", rules: "F2", expect: "refused; policy and keepers unchanged", run: forgedPolicies},
		{name: "insider: gateway that is no keeper", rules: "F4", expect: "Epoch, Grant and Confirm refused", run: noKeeper},
		{name: "keeper: numbers 2^64-1, 2^48-1, far ahead", rules: "F4", expect: "refused whole; rotation goes on", run: numbers},
		{name: "keeper: two secrets with one key id", rules: "F10", expect: "the second is left out, alarm", run: collision},
		{name: "outsider: a CA of the same fleet name", expect: "all refused as untrusted", run: outsider},
		{name: "insider: a Grant's KEK, and what was recorded", rules: "F9", expect: "it opens the next epoch and none before", run: grantedKEK},
		{name: "cross: Grant for another Hello or keeper", rules: "F15", expect: "does not open", run: movedGrant},
	}
}

func forgedEpochs(s *scene) {
	gw1, gw2, alice := s.trio()
	t := s.traffic(gw1)
	mallory, double := s.insider(crypto.RoleSubscriber, "mallory"), s.insider(crypto.RoleSubscriber, "gw1")
	s.mustRefuse(keysTopic, mallory.epoch(nil), control.ErrRole, gw1, gw2, alice)
	s.mustRefuse(keysTopic, double.epoch(nil), control.ErrRole, gw1, gw2, alice)
	if gw2.m.Status().Alarms < 2 {
		s.Errorf("no alarm: %+v", gw2.m.Status())
	}
	s.rotate(gw1)
	s.agree()
	s.saw("6 refused with alarms; %d messages through", t.check())
}

// asking starts gw3 with its Hello kept from the keepers, and returns that Hello.
func (s *scene) asking() (gw3 *node, hello []byte, h *control.Hello) {
	s.Helper()
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.From == "gw3" && l.Topic == control.ControlTopic(prefix) || l.To == "gw3" && isControl(l) {
			return nil
		}
		return []embedded.Letter{l}
	})
	mark := s.broker.Mark()
	gw3 = s.start(crypto.RoleGateway, "gw3")
	hello, h = s.openHello(mark, "gw3", control.WantKeys)
	return gw3, hello, h
}

func forgedGrants(s *scene) {
	s.trio()
	gw3, hello, _ := s.asking()
	mallory, double := s.insider(crypto.RoleSubscriber, "mallory"), s.insider(crypto.RoleSubscriber, "gw1")
	for _, i := range []*insider{mallory, double} {
		s.mustRefuse(inbox, i.grant(hello, i.body(i.secret())), control.ErrRole, gw3)
	}
	if gw3.send() != nil {
		s.Error("gw3 seals under a forged key")
	}
	s.heal(gw3)
	s.saw("2 refused; then epoch %v from the keeper", gw3.epoch())
}

// heal makes the broker honest again and waits until a member is with the others.
func (s *scene) heal(n *node) {
	s.Helper()
	s.broker.Meddle(nil)
	s.broker.Cut(n.name)
	s.agree()
}

// unconfirmed rotates, keeps from gw2 what is sent to it alone, and returns the nonce with which it asks for its next
// confirmation.
func (s *scene) unconfirmed(gw1, gw2 *node) [16]byte {
	s.Helper()
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "gw2" && isInbox(l) {
			return nil
		}
		return []embedded.Letter{l}
	})
	e := s.rotate(gw1)
	s.await("gw2 holds the new epoch", func() bool { return gw2.epoch() == e })
	mark := s.broker.Mark()
	for range control.ConfirmInterval / control.LeaseInterval {
		if s.pass(control.LeaseInterval); len(s.sent(mark, "gw2", control.KindHello)) > 0 {
			break // soon, for its nonce is good for half a minute only
		}
	}
	_, h := s.openHello(mark, "gw2", control.WantConfirm)
	return h.Nonce
}

func forgedConfirms(s *scene) {
	gw1, gw2, _ := s.trio()
	nonce := s.unconfirmed(gw1, gw2)
	fresh := gw2.m.Status().Groups[0].FreshLeft
	mallory, gw3 := s.insider(crypto.RoleSubscriber, "mallory"), s.insider(crypto.RoleGateway, "gw3")
	s.mustRefuse(inbox, mallory.confirm(nonce, nil), control.ErrRole, gw2)
	s.mustRefuse(inbox, gw3.confirm(nonce, nil), control.ErrNotKeeper, gw2)
	s.mustRefuse(inbox, gw1.stolen().confirm(random(), nil), control.ErrNonce, gw2)
	s.mustRefuse(inbox, gw1.stolen().confirm(nonce, func(c *control.Confirm) { c.PolicyHash[0] ^= 1 }), control.ErrPolicyFork, gw2)
	if left := gw2.m.Status().Groups[0].FreshLeft; left > fresh {
		s.Errorf("gw2's authority lasts for %v, before the forged confirmations it was %v", left, fresh)
	}
	s.saw("4 refused; the limit stays %v away", fresh.Round(time.Minute))
	s.heal(gw2)
	renewed := func() bool { return gw2.m.Status().Groups[0].FreshLeft > fresh }
	for range 2 * control.ConfirmInterval / control.LeaseInterval { // not all at once: what is renewed early runs down again
		if renewed() {
			break
		}
		s.pass(control.LeaseInterval)
	}
	s.await("a genuine confirmation", renewed)
}

func forgedPolicies(s *scene) {
	gw1, gw2, alice := s.trio()
	good := s.signed
	for _, i := range []*insider{s.insider(crypto.RoleSubscriber, "mallory"), s.insider(crypto.RoleGateway, "gw3"), gw2.stolen()} {
		s.mustRefuse(control.PolicyTopic(prefix), i.policy(), crypto.ErrUntrusted, gw1, gw2, alice)
	}
	s.mustRefuse(control.PolicyTopic(prefix), good.Raw[:len(good.Raw)-1], crypto.ErrMessage, gw1, gw2, alice)
	bent := append([]byte(nil), good.Raw...)
	bent[len(bent)-1] ^= 1
	s.mustRefuse(control.PolicyTopic(prefix), bent, crypto.ErrSignature, gw1, gw2, alice)
	s.rotate(gw1)
	s.agree()
	s.saw("15 refused; version %d stays", gw1.m.State().Policy.Document.Version)
}

func noKeeper(s *scene) {
	gw1, gw2, alice := s.trio()
	gw9 := s.insider(crypto.RoleGateway, "gw9")
	s.mustRefuse(keysTopic, gw9.epoch(nil), control.ErrNotKeeper, gw1, gw2, alice)
	gw3, hello, _ := s.asking()
	s.mustRefuse(inbox, gw9.grant(hello, gw9.body(gw9.secret())), control.ErrNotKeeper, gw3)
	s.heal(gw3)
	nonce := s.unconfirmed(gw1, gw2)
	s.mustRefuse(inbox, gw9.confirm(nonce, nil), control.ErrNotKeeper, gw2)
	s.heal(gw2)
	s.saw("5 refused; epoch %v everywhere", gw2.epoch())
}

func numbers(s *scene) {
	gw1, gw2, alice := s.trio()
	thief := gw1.stolen()
	for _, c := range []struct {
		edit func(*control.EpochMessage)
		want error
	}{
		{func(e *control.EpochMessage) { e.Wraps[0].Number = 1<<64 - 1 }, dcbor.ErrMalformed},
		{func(e *control.EpochMessage) { e.Generation = 1<<64 - 1 }, dcbor.ErrMalformed},
		{func(e *control.EpochMessage) { e.Wraps[0].Number = control.MaxEpochValue }, control.ErrJump},
		{func(e *control.EpochMessage) { e.Generation = control.MaxEpochValue }, control.ErrJump},
		{func(e *control.EpochMessage) { e.Wraps[0].Number += control.MaxNumberJump }, control.ErrJump},
	} {
		s.mustRefuse(keysTopic, thief.epoch(c.edit), c.want, gw2, alice)
	}
	// A report of the highest number there is moves a fleet up by one bounded step, and not to its end.
	before := gw1.epoch()
	mallory := s.insider(crypto.RoleSubscriber, "mallory")
	hello, _ := mallory.hello(func(h *control.Hello) {
		h.Groups[0].Generation, h.Groups[0].Number = control.MaxEpochValue, control.MaxEpochValue
	})
	s.broker.Deliver(embedded.Letter{To: "gw1", Topic: control.ControlTopic(prefix), Payload: hello, QoS: 1})
	s.await("gw1 goes above the report", func() bool { return gw1.epoch().Generation > before.Generation })
	s.agree()
	after := gw1.epoch()
	if after.Generation > before.Generation+control.MaxGenerationJump || after.Number > before.Number+control.MaxNumberJump {
		s.Errorf("one report moved the fleet from %v to %v", before, after)
	}
	if !gw1.log.said("subscriber/mallory") {
		s.Error("nothing names who reported")
	}
	s.saw("10 refused; a lying Hello moved %v to %v, and the log names it", before, after)
}

func collision(s *scene) {
	gw1, _, _ := s.trio()
	gw3, hello, _ := s.asking()
	a, b := twins(s)
	alarms := gw3.m.Status().Alarms
	mark := gw3.log.mark()
	thief := gw1.stolen()
	s.broker.Deliver(embedded.Letter{To: "gw3", Topic: gw3.inbox(), Payload: thief.grant(hello, thief.body(a, b)), QoS: 1})
	s.await("the collision refused", func() bool {
		_, ok := gw3.log.find(mark, func(e control.Event) bool { return e.Result == control.ResultRefused && e.Alarm })
		return ok
	})
	if keys := gw3.m.State().Keys.Keys(group); len(keys) != 1 || gw3.m.Status().Alarms <= alarms {
		s.Errorf("%d keys held, %d alarms", len(keys), gw3.m.Status().Alarms)
	}
	if !gw3.log.said(crypto.ErrCollision.Error()) {
		s.Error("the log does not say what happened")
	}
	s.saw("1 of 2 secrets taken; alarm: %s", crypto.ErrCollision)
}

// twins draws secrets until two have one key id: a birthday's work, some 2^16 draws.
func twins(s *scene) (a, b *crypto.PayloadSecret) {
	s.Helper()
	seen := make(map[crypto.KeyID]*crypto.PayloadSecret)
	for range 1 << 20 {
		secret, err := crypto.NewPayloadSecret(rand.Reader)
		if err != nil {
			s.Fatal(err)
		}
		id := crypto.KeyIDOf(secret, group)
		if seen[id] != nil {
			return seen[id], secret
		}
		seen[id] = secret
	}
	s.Fatal("no two secrets with one key id in 2^20 draws")
	return nil, nil
}

func outsider(s *scene) {
	gw1, gw2, alice := s.trio()
	key, cert, err := crypto.NewCA("plant", rand.Reader, time.Now())
	if err != nil {
		s.Fatal(err)
	}
	keyPEM, certPEM, err := crypto.IssueMember(key, cert, crypto.RoleGateway, "gw1", rand.Reader, time.Now())
	if err != nil {
		s.Fatal(err)
	}
	id, err := crypto.ParseIdentity(keyPEM, certPEM, cert)
	if err != nil {
		s.Fatal(err)
	}
	stranger := &insider{s, id}
	s.mustRefuse(keysTopic, stranger.epoch(nil), crypto.ErrUntrusted, gw1, gw2, alice)
	hello, _ := stranger.hello(nil)
	s.mustRefuse(control.ControlTopic(prefix), hello, crypto.ErrUntrusted, gw1)
	other, err := crypto.ParseAuthority(key, cert)
	if err != nil {
		s.Fatal(err)
	}
	raw, err := s.doc.Sign(other)
	if err != nil {
		s.Fatal(err)
	}
	s.mustRefuse(control.PolicyTopic(prefix), raw, crypto.ErrUntrusted, gw1, gw2, alice)
	s.rotate(gw1)
	s.agree()
	s.saw("7 refused")
}

// movedGrant takes a Grant to a member that it was not made for, with the nonce made to fit.
func movedGrant(s *scene) {
	gw1, gw2, _ := s.trio()
	gw3, hello, h := s.asking()
	thief := gw1.stolen()
	mallory := s.insider(crypto.RoleSubscriber, "mallory")
	// mallory asks under gw3's nonce with its own key; the keeper's answer fits gw3's nonce, and not its Hello.
	theirs, _ := mallory.hello(func(x *control.Hello) { x.Nonce = h.Nonce })
	s.mustRefuse(inbox, thief.grant(theirs, thief.body(thief.secret())), crypto.ErrHPKE, gw3)
	// The keys of one keeper under the signature of another.
	other := gw2.stolen()
	sealed, err := crypto.HPKESeal(h.Public, control.GrantInfo(hello, thief.id.Member().CertHash, s.signed.Hash), thief.body(thief.secret()).Marshal())
	if err != nil {
		s.Fatal(err)
	}
	moved := control.Grant{Nonce: h.Nonce, PolicyVersion: s.doc.Version, PolicyHash: s.signed.Hash, Sealed: sealed}
	s.mustRefuse(inbox, other.sign(moved.Marshal(), control.KindGrant), crypto.ErrHPKE, gw3)
	s.heal(gw3)
	s.saw("2 refused; then epoch %v", gw3.epoch())
}

// grantedKEK: a member who has just been granted keys and the broker, which has recorded all announcements, put together what they have.
func grantedKEK(s *scene) {
	gw1, _, _ := s.trio()
	for range 3 {
		s.rotate(gw1)
		s.agree()
	}
	mallory := s.insider(crypto.RoleSubscriber, "mallory")
	hello, key := mallory.hello(nil)
	mark, topic := s.broker.Mark(), control.InboxTopic(prefix, s.parseHello(hello).Inbox)
	s.broker.Deliver(embedded.Letter{To: "gw1", Topic: control.ControlTopic(prefix), Payload: hello, QoS: 1})
	s.await("a Grant for mallory", func() bool { return len(s.sentOn(mark, topic)) > 0 })
	kek, next := s.openGrant(s.sentOn(mark, topic)[0].Payload, hello, key)
	s.rotate(gw1)
	s.agree()
	opened, closed := 0, 0
	for _, l := range s.sent(0, "gw1", control.KindEpoch) {
		payload, _, err := s.trust.Verify(l.Payload, string(control.KindEpoch), s.clock.now().Wall)
		if err != nil {
			s.Fatal(err)
		}
		e, err := control.ParseEpoch(payload)
		if err != nil {
			s.Fatal(err)
		}
		for _, w := range e.Wraps {
			_, err := kek.Unwrap(&w.Wrap, crypto.WrapContext{Fleet: "plant", Group: group, Generation: e.Generation, Number: w.Number, Keeper: w.Minter})
			switch {
			case w.Number >= next && err == nil:
				opened++
			case w.Number < next && err != nil:
				closed++
			default:
				s.Errorf("the KEK of epoch %d and epoch %d: %v", next, w.Number, err)
			}
		}
	}
	if opened == 0 || closed < 4 {
		s.Errorf("%d wraps opened, %d did not", opened, closed)
	}
	s.saw("it opens epoch %d; %d recorded wraps of those before stay closed", next, closed)
}

// openGrant is what a Grant of gw1's gives to the asker.
func (s *scene) openGrant(msg, hello []byte, key *crypto.InboxKey) (kek *crypto.KEK, next uint64) {
	s.Helper()
	payload, from, err := s.trust.Verify(msg, string(control.KindGrant), s.clock.now().Wall)
	if err != nil {
		s.Fatal(err)
	}
	g, err := control.ParseGrant(payload)
	if err != nil {
		s.Fatal(err)
	}
	text, err := key.Open(control.GrantInfo(hello, from.CertHash, s.signed.Hash), g.Sealed)
	if err != nil {
		s.Fatal(err)
	}
	body, err := control.ParseGrantBody(text)
	if err != nil {
		s.Fatal(err)
	}
	return body[0].KEK, body[0].Next
}
