package chaos

import (
	"crypto/rand"
	"slices"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/test/embedded"
)

// insider holds a valid certificate and makes of it what it likes. It needs no session of its own: what it signs, the
// broker delivers.
type insider struct {
	s  *scene
	id *crypto.Identity
}

func (s *scene) insider(role crypto.Role, name string) *insider {
	return &insider{s, s.identity(role, name)}
}

// as is the insider who has stolen a member's key.
func (n *node) stolen() *insider { return &insider{n.s, n.id} }

func (i *insider) sign(payload []byte, kind control.Kind) []byte {
	i.s.Helper()
	msg, err := i.id.Sign(payload, string(kind))
	if err != nil {
		i.s.Fatal(err)
	}
	return msg
}

func random() (b [16]byte) {
	_, _ = rand.Read(b[:]) // never fails
	return b
}

// hello is a good Hello for keys but for what edit changes, and the key that opens the answer.
func (i *insider) hello(edit func(*control.Hello)) ([]byte, *crypto.InboxKey) {
	i.s.Helper()
	key, err := crypto.NewInboxKey()
	if err != nil {
		i.s.Fatal(err)
	}
	h := &control.Hello{Want: control.WantKeys, Inbox: random(), Nonce: random(), Public: key.Public(),
		PolicyVersion: i.s.doc.Version, PolicyHash: i.s.signed.Hash, Groups: []control.HelloGroup{{Name: group}}}
	if edit != nil {
		edit(h)
	}
	return i.sign(h.Marshal(), control.KindHello), key
}

// epoch is an announcement that follows the one retained, under a KEK of the insider's own, but for what edit changes.
func (i *insider) epoch(edit func(*control.EpochMessage)) []byte {
	i.s.Helper()
	last := i.s.announced()
	secret, kek := i.secret(), i.kek()
	number := last.Wraps[0].Number + 1
	wrap, err := kek.Wrap(rand.Reader, secret, crypto.WrapContext{Fleet: "plant", Group: group, Generation: last.Generation, Number: number, Keeper: i.id.Member().Name})
	if err != nil {
		i.s.Fatal(err)
	}
	e := *last
	e.PolicyVersion, e.PolicyHash = i.s.doc.Version, i.s.signed.Hash
	w := last.Wraps[0]
	w.Number, w.ActivateAfter, w.Wrap = number, time.Second, wrap
	e.Wraps = []control.EpochWrap{w}
	if edit != nil {
		edit(&e)
	}
	return i.sign(e.Marshal(), control.KindEpoch)
}

func (i *insider) secret() *crypto.PayloadSecret {
	i.s.Helper()
	secret, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		i.s.Fatal(err)
	}
	return secret
}

func (i *insider) kek() *crypto.KEK {
	i.s.Helper()
	kek, err := crypto.NewKEK(rand.Reader)
	if err != nil {
		i.s.Fatal(err)
	}
	return kek
}

// confirm says to the asker of nonce that the retained announcement's epoch is current, but for what edit changes.
func (i *insider) confirm(nonce [16]byte, edit func(*control.Confirm)) []byte {
	i.s.Helper()
	last := i.s.announced()
	c := &control.Confirm{PolicyVersion: i.s.doc.Version, PolicyHash: i.s.signed.Hash, Nonces: [][16]byte{nonce},
		Groups: []control.ConfirmGroup{{Name: group, Generation: last.Generation, Number: last.Wraps[0].Number, Commitment: last.Wraps[0].Wrap.Commitment}}}
	if edit != nil {
		edit(c)
	}
	return i.sign(c.Marshal(), control.KindConfirm)
}

// grant answers a Hello with keys.
func (i *insider) grant(hello []byte, body control.GrantBody) []byte {
	i.s.Helper()
	h := i.s.parseHello(hello)
	sealed, err := crypto.HPKESeal(h.Public, control.GrantInfo(hello, i.id.Member().CertHash, i.s.signed.Hash), body.Marshal())
	if err != nil {
		i.s.Fatal(err)
	}
	g := &control.Grant{Nonce: h.Nonce, PolicyVersion: i.s.doc.Version, PolicyHash: i.s.signed.Hash, Sealed: sealed}
	return i.sign(g.Marshal(), control.KindGrant)
}

// body is what a Grant of a made-up generation holds: one secret above the retained announcement's epoch.
func (i *insider) body(secrets ...*crypto.PayloadSecret) control.GrantBody {
	i.s.Helper()
	last := i.s.announced()
	g := control.GrantGroup{Name: group, Generation: last.Generation + 1, Founder: i.id.Member().Name, KEK: i.kek()}
	number := last.Wraps[0].Number + uint64(len(secrets))
	g.Next = number + 1
	for _, secret := range secrets {
		g.Keys = append(g.Keys, control.GrantKey{Epoch: crypto.Epoch{PolicyVersion: i.s.doc.Version, Generation: g.Generation, Number: number},
			Keeper: i.id.Member().Name, Secret: secret})
		number--
	}
	return control.GrantBody{g}
}

// policy is the next version of the fleet's policy, in which the insider is the only keeper.
func (i *insider) policy() []byte {
	i.s.Helper()
	d := *i.s.doc
	d.Groups = append([]policy.Group(nil), i.s.doc.Groups...)
	d.Version, d.Previous = d.Version+1, i.s.signed.Hash
	d.Groups[0].Keepers = []string{i.id.Member().Name}
	raw, err := d.Sign(i.id)
	if err != nil {
		i.s.Fatal(err)
	}
	return raw
}

// announced is the announcement that the broker retains.
func (s *scene) announced() *control.EpochMessage {
	s.Helper()
	payload, _, err := s.trust.Verify(s.broker.Retained(keysTopic), string(control.KindEpoch), s.clock.now().Wall)
	if err != nil {
		s.Fatalf("the retained announcement: %v", err)
	}
	e, err := control.ParseEpoch(payload)
	if err != nil {
		s.Fatalf("the retained announcement: %v", err)
	}
	return e
}

func (s *scene) parseHello(msg []byte) *control.Hello {
	s.Helper()
	payload, _, err := s.trust.Verify(msg, string(control.KindHello), s.clock.now().Wall)
	if err != nil {
		s.Fatalf("a Hello: %v", err)
	}
	h, err := control.ParseHello(payload)
	if err != nil {
		s.Fatalf("a Hello: %v", err)
	}
	return h
}

// kindOf tells which kind of control message it is, by its signature; "" if none.
func (s *scene) kindOf(msg []byte) control.Kind {
	for _, k := range []control.Kind{control.KindHello, control.KindGrant, control.KindEpoch, control.KindConfirm, control.KindLease} {
		if _, _, err := s.trust.Verify(msg, string(k), s.clock.now().Wall); err == nil {
			return k
		}
	}
	return ""
}

// sent are the control messages of a kind that a user ("": anybody) has published since mark.
func (s *scene) sent(mark int, user string, kind control.Kind) (all []embedded.Letter) {
	for _, l := range s.broker.Sent(mark) {
		if (user == "" || l.From == user) && s.kindOf(l.Payload) == kind {
			all = append(all, l)
		}
	}
	return all
}

// openHello waits for a member's Hello of a kind, sent since mark, that no keeper has been shown; of several it is the newest, whose nonce lives longest.
func (s *scene) openHello(mark int, user string, want control.Want) (msg []byte, h *control.Hello) {
	s.Helper()
	s.await(user+" asks for "+want.String(), func() bool {
		for _, l := range slices.Backward(s.sent(mark, user, control.KindHello)) {
			if h = s.parseHello(l.Payload); h.Want == want {
				msg = l.Payload
				return true
			}
		}
		return false
	})
	return msg, h
}
