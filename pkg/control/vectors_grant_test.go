package control

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/test/fixedhpke"
	"sealgate/test/spec"
)

type grantVector struct {
	wholeVector
	Hello     octets         `json:"hello"` // the signed Hello that the Grant answers
	InboxSeed octets         `json:"inbox_seed"`
	Groups    []grantedGroup `json:"groups,omitempty"`
}

type grantedGroup struct {
	Group      string       `json:"group"`
	Generation uint64       `json:"generation"`
	Founder    string       `json:"founder"`
	Next       uint64       `json:"next"`
	KEK        octets       `json:"kek"`
	Keys       []grantedKey `json:"keys"`
}

type grantedKey struct {
	Epoch        [3]uint64 `json:"epoch"` // policy version, generation, number
	Keeper       string    `json:"keeper"`
	Certificate  octets    `json:"certificate"`
	ActiveIn     int64     `json:"active_in_ms"`
	SupersededBy int64     `json:"superseded_ms_ago"`
	Secret       octets    `json:"secret"`
	Commitment   octets    `json:"commitment"`
	KeyID        octets    `json:"key_id"`
}

// grantCase is a Grant of which a case changes one thing.
type grantCase struct {
	by                    *crypto.Identity
	kind                  Kind
	hello                 []byte // of which the digest goes into the info
	nonce                 [16]byte
	cert, infoHash, given [32]byte
	version               uint64
	public                []byte
	body                  []byte
	sealed                func([]byte)
	message               func([]byte) []byte
}

var inboxSeed = fill(32, 0x21)

// hello is the signed question of alice about groups; its inbox key is of inboxSeed.
func (f *vectorFleet) hello(nonce byte, groups ...string) []byte {
	f.t.Helper()
	key, err := crypto.InboxKeyFrom(inboxSeed)
	if err != nil {
		f.t.Fatal(err)
	}
	h := goodHello()
	h.Nonce, h.Public, h.PolicyVersion, h.PolicyHash, h.Groups = [16]byte(fill(16, nonce)), key.Public(), f.doc.Version, f.signed.Hash, nil
	for _, g := range groups {
		h.Groups = append(h.Groups, HelloGroup{Name: g})
	}
	return f.sign(f.alice.id, KindHello, h.Marshal())
}

// hallBody is goodBody with a second group.
func hallBody() GrantBody {
	b := append(goodBody(), goodBody()...)
	h := &b[1]
	h.Name, h.Keys = "hall", h.Keys[2:]
	h.Generation, h.Next = 1, 16
	return b
}

// grantVectors makes every case; asked names the Hello's groups.
func grantVectors(t *testing.T) map[string]*grantVector {
	f, all := newVectorFleet(t), make(map[string]*grantVector)
	add := func(name, expect, spec, comment string, asked []string, edit func(*grantCase)) *grantVector {
		hello := f.hello(0x30, asked...)
		parsed, err := ParseHello(payloadOf(t, hello))
		if err != nil {
			t.Fatal(err)
		}
		c := &grantCase{by: f.gw1, kind: KindGrant, hello: hello, nonce: parsed.Nonce, infoHash: f.signed.Hash, given: f.signed.Hash,
			version: f.doc.Version, public: parsed.Public, body: goodBody().Marshal()}
		edit(c)
		if c.cert == [32]byte{} {
			c.cert = c.by.Member().CertHash
		}
		sealed, err := fixedhpke.Seal(c.public, append(fill(32, 0x61), fill(32, 0x91)...), GrantInfo(c.hello, c.cert, c.infoHash), nil, c.body)
		if err != nil {
			t.Fatal(err)
		}
		if c.sealed != nil {
			c.sealed(sealed)
		}
		g := Grant{Nonce: c.nonce, PolicyVersion: c.version, PolicyHash: c.given, Sealed: sealed}
		msg := f.sign(c.by, c.kind, g.Marshal())
		if c.message != nil {
			msg = c.message(msg)
		}
		v := &grantVector{wholeVector: f.common(spec, comment, expect, msg), Hello: hello, InboxSeed: inboxSeed}
		all[strings.TrimSuffix(expect+"-"+name, "-")] = v
		return v
	}
	f.goodGrants(add)
	f.badGrants(add)
	return all
}

type addGrant func(name, expect, spec, comment string, asked []string, edit func(*grantCase)) *grantVector

func payloadOf(t *testing.T, msg []byte) []byte {
	t.Helper()
	r := dcbor.NewReader(msg)
	r.Tag(18)
	r.ArrayExact(4)
	r.Bytes(MaxMessage)
	r.Map(1)
	r.Uint()
	skipBytes(r)
	payload := r.Bytes(MaxMessage)
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return payload
}

func granted(body GrantBody, names ...string) (groups []grantedGroup) {
	for _, g := range body {
		if !slices.Contains(names, g.Name) {
			continue
		}
		out := grantedGroup{Group: g.Name, Generation: g.Generation, Founder: g.Founder, Next: g.Next, KEK: g.KEK.Bytes()}
		for _, k := range g.Keys {
			c := crypto.Commitment(k.Secret, g.Name)
			out.Keys = append(out.Keys, grantedKey{Epoch: [3]uint64{k.Epoch.PolicyVersion, k.Epoch.Generation, k.Epoch.Number}, Keeper: k.Keeper, Certificate: k.Certificate[:],
				ActiveIn: k.ActiveIn.Milliseconds(), SupersededBy: k.SupersededBy.Milliseconds(), Secret: k.Secret.Bytes(), Commitment: c[:], KeyID: c[:4]})
		}
		groups = append(groups, out)
	}
	return groups
}

func (f *vectorFleet) goodGrants(add addGrant) {
	both := []string{"default", "hall"}
	add("", "ok", "6.2", "a keeper answers", both[:1], func(*grantCase) {}).Groups = granted(goodBody(), "default")
	add("es256-intermediate", "ok", "6.2", "a keeper of the plant's own PKI: a P-256 key under an intermediate CA", both[:1],
		func(c *grantCase) { c.by = f.works }).Groups = granted(goodBody(), "default")
	add("two-groups", "ok", "6.2", "a keeper of two groups", both,
		func(c *grantCase) { c.by, c.body = f.gw2, hallBody().Marshal() }).Groups = granted(hallBody(), both...)
	add("not-asked", "ok", "6.2", "a group that was not asked about is left out", both[:1],
		func(c *grantCase) { c.by, c.body = f.gw2, hallBody().Marshal() }).Groups = granted(hallBody(), "default")
	add("not-kept", "ok", "6.2", "a group that the sender does not keep is left out", both,
		func(c *grantCase) { c.body = hallBody().Marshal() }).Groups = granted(hallBody(), "default")
}

func (f *vectorFleet) badGrants(add addGrant) {
	asked := []string{"default"}
	bad := func(name, expect, spec, comment string, edit func(*grantCase)) {
		add(name, expect, spec, comment, asked, edit)
	}
	last := func(msg []byte) []byte { msg[len(msg)-1] ^= 1; return msg }
	bad("trailing", "parse", "3.1", "a byte follows the message", func(c *grantCase) { c.message = func(msg []byte) []byte { return append(msg, 0) } })
	bad("other-ca", "chain", "3.2", "a keeper of another fleet with the same name", func(c *grantCase) { c.by = f.outsider })
	bad("flipped", "signature", "3.2", "one bit of the signature", func(c *grantCase) { c.message = last })
	bad("type", "signature", "3.1", "signed as an Epoch", func(c *grantCase) { c.kind = KindEpoch })
	bad("subscriber", "role", "3.2", "a subscriber that bears a keeper's name", func(c *grantCase) { c.by = f.mallory })
	bad("name", "revoked", "3.2", "a keeper that the policy revokes", func(c *grantCase) { c.by = f.revoked })
	bad("not-listed", "keeper", "3.2", "a gateway that keeps no group asked about", func(c *grantCase) { c.by = f.gw3 })
	bad("other", "nonce", "3.3", "the nonce of another Hello", func(c *grantCase) { c.nonce[0] ^= 1 })
	bad("behind", "policy", "6.2", "made under the policy before", func(c *grantCase) { c.version-- })
	bad("ahead", "policy", "6.2", "made under the next policy", func(c *grantCase) { c.version++ })
	bad("fork", "policy", "6.2", "made under another policy of the same version", func(c *grantCase) { c.given[31] ^= 1; c.infoHash = c.given })
	bad("hello", "open", "4.2", "sealed for another Hello, in all but its groups the same (F15)", func(c *grantCase) { c.hello = f.hello(0x30, "default", "hall") })
	bad("keeper", "open", "4.2", "sealed by one keeper, signed by another (F15)", func(c *grantCase) { c.by, c.cert = f.gw2, f.gw1.Member().CertHash })
	bad("certificate", "open", "4.2", "sealed for the keeper's other certificate (F15)", func(c *grantCase) { c.cert = f.other.Member().CertHash })
	bad("policy", "open", "4.2", "sealed under another policy than named (F15)", func(c *grantCase) { c.infoHash[0] ^= 1 })
	bad("inbox", "open", "4.2", "sealed to another inbox", func(c *grantCase) {
		key, err := crypto.InboxKeyFrom(fill(32, 0x22))
		if err != nil {
			f.t.Fatal(err)
		}
		c.public = key.Public()
	})
	bad("ciphertext", "open", "4.2", "one bit of the ciphertext, signed", func(c *grantCase) { c.sealed = func(b []byte) { b[1130] ^= 1 } })
	bad("keys", "parse", "4.2", "opens, to keys with a byte after them", func(c *grantCase) { c.body = append(c.body, 0) })
}

func TestWholeVectorsGrant(t *testing.T) {
	spec.Each(t, grantDir, func(t *testing.T, v *grantVector) {
		n, m := v.receiver(t)
		key, err := crypto.InboxKeyFrom(v.InboxSeed)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHello(payloadOf(t, v.Hello))
		if err != nil {
			t.Fatal(err)
		}
		a := &ask{want: WantKeys, nonce: h.Nonce, key: key, hello: v.Hello, sent: n.w.mono, expires: n.w.mono + NonceLife}
		for _, g := range h.Groups {
			a.about = append(a.about, g.Name)
			a.groups = append(a.groups, askedGroup{g.Name, m.otherKeepers(m.groups[g.Name])})
		}
		m.asks = append(m.asks, a)
		v.judge(t, n.inject(InboxTopic(testPrefix, m.inbox), v.Message))
		for _, name := range m.order {
			i := slices.IndexFunc(v.Groups, func(g grantedGroup) bool { return g.Group == name })
			switch g := m.groups[name]; {
			case i < 0 && len(g.keys)+len(g.lineages) > 0:
				t.Errorf("group %s took keys", name)
			case i >= 0:
				v.Groups[i].check(t, g)
			}
		}
	})
}

func (want *grantedGroup) check(t *testing.T, g *group) {
	t.Helper()
	if len(g.keys) != len(want.Keys) || len(g.lineages) != 1 {
		t.Fatalf("group %s has %d keys and %d KEKs", g.name, len(g.keys), len(g.lineages))
	}
	if l := g.lineages[0]; l.generation != want.Generation || l.founder != want.Founder || l.next != want.Next || !bytes.Equal(l.kek.Bytes(), want.KEK) {
		t.Errorf("group %s has the KEK %x of generation %d for %d", g.name, l.kek.Bytes(), l.generation, l.next)
	}
	for i, k := range g.keys {
		w := want.Keys[len(want.Keys)-1-i]
		if [3]uint64{k.epoch.PolicyVersion, k.epoch.Generation, k.epoch.Number} != w.Epoch || !bytes.Equal(k.secret.Bytes(), w.Secret) ||
			!bytes.Equal(k.id[:], w.KeyID) || !bytes.Equal(k.commitment[:], w.Commitment) || k.keeper != w.Keeper || !bytes.Equal(k.certificate[:], w.Certificate) {
			t.Errorf("group %s: key %d is %+v, expected %+v", g.name, i, k, w)
		}
	}
}
