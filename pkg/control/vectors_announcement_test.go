package control

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/test/spec"
)

type announceVector struct {
	wholeVector
	Group    string           `json:"group"` // of the topic
	Highest  [3]uint64        `json:"highest"`
	KEK      vectorKEK        `json:"kek"`
	KEKAfter *vectorKEK       `json:"kek_after,omitempty"`
	Epochs   []announcedEpoch `json:"epochs,omitempty"` // oldest first
}

type vectorKEK struct {
	Generation uint64 `json:"generation"`
	Founder    string `json:"founder"`
	Next       uint64 `json:"next"`
	KEK        octets `json:"kek"`
}

type announcedEpoch struct {
	Number        uint64 `json:"number"`
	Minter        string `json:"minter"`
	Certificate   octets `json:"certificate"`
	ActivateAfter int64  `json:"activate_after_ms"`
	Secret        octets `json:"secret"`
	Commitment    octets `json:"commitment"`
	KeyID         octets `json:"key_id"`
}

// announceCase is an announcement of which a case changes one thing.
type announceCase struct {
	by      *crypto.Identity
	kind    Kind
	e       *EpochMessage
	kek     vectorKEK
	highest [3]uint64
	topic   string
	message func([]byte) []byte
}

var vectorKEK15 = fill(32, 0x80) // KEK of epoch 15, generation 2

// kekAt is the KEK of a later epoch.
func kekAt(t *testing.T, number uint64) *crypto.KEK {
	t.Helper()
	kek, err := crypto.KEKFrom(vectorKEK15)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(15); n < number; n++ {
		kek = kek.Ratchet("default")
	}
	return kek
}

// announce wraps the epochs numbers, newest first, as gw1 would.
func (f *vectorFleet) announce(numbers ...uint64) *EpochMessage {
	f.t.Helper()
	e := &EpochMessage{Group: "default", PolicyVersion: f.doc.Version, PolicyHash: f.signed.Hash, Generation: 2, Founder: "gw1"}
	for _, n := range numbers {
		e.Wraps = append(e.Wraps, f.wrap(n, kekAt(f.t, n), f.context(n)))
	}
	return e
}

func (f *vectorFleet) context(number uint64) crypto.WrapContext {
	return crypto.WrapContext{Fleet: "plant", Group: "default", Generation: 2, Number: number, Keeper: "gw1"}
}

func (f *vectorFleet) wrap(number uint64, kek *crypto.KEK, c crypto.WrapContext) EpochWrap {
	f.t.Helper()
	w, err := kek.Wrap(bytes.NewReader(fill(32, byte(number))), f.secret(number), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return EpochWrap{Number: number, Minter: "gw1", Certificate: f.gw1.Member().CertHash, ActivateAfter: 10 * time.Second, Wrap: w}
}

// mintedBy wraps epoch 17 anew, as another keeper's.
func (f *vectorFleet) mintedBy(w *EpochWrap, minter string) {
	c := f.context(17)
	c.Keeper = minter
	*w = f.wrap(17, kekAt(f.t, 17), c)
	w.Minter = minter
}

func (f *vectorFleet) secret(number uint64) *crypto.PayloadSecret {
	f.t.Helper()
	s, err := crypto.PayloadSecretFrom(fill(32, byte(number)+0xb0))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

type addAnnouncement func(name, expect, spec, comment string, edit func(*announceCase)) *announceVector

func announceVectors(t *testing.T) map[string]*announceVector {
	f, all := newVectorFleet(t), make(map[string]*announceVector)
	add := func(name, expect, spec, comment string, edit func(*announceCase)) *announceVector {
		c := &announceCase{by: f.gw1, kind: KindEpoch, e: f.announce(17, 16, 15), highest: [3]uint64{3, 2, 16}, topic: "default",
			kek: vectorKEK{Generation: 2, Founder: "gw1", Next: 17, KEK: kekAt(t, 17).Bytes()}}
		edit(c)
		msg := f.sign(c.by, c.kind, c.e.Marshal())
		if c.message != nil {
			msg = c.message(msg)
		}
		v := &announceVector{wholeVector: f.common(spec, comment, expect, msg), Group: c.topic, Highest: c.highest, KEK: c.kek}
		all[strings.TrimSuffix(expect+"-"+name, "-")] = v
		return v
	}
	f.goodAnnouncements(add)
	f.badAnnouncements(add)
	return all
}

func (f *vectorFleet) goodAnnouncements(add addAnnouncement) {
	ok := func(name, comment string, edit func(*announceCase), numbers ...uint64) *announceVector {
		v := add(name, "ok", "6.3", comment, edit)
		after := numbers[len(numbers)-1] + 1
		v.KEKAfter = &vectorKEK{Generation: 2, Founder: "gw1", Next: after, KEK: kekAt(f.t, after).Bytes()}
		for _, n := range numbers {
			c, by := crypto.Commitment(f.secret(n), "default"), f.gw1.Member().CertHash
			v.Epochs = append(v.Epochs, announcedEpoch{Number: n, Minter: "gw1", Certificate: by[:], ActivateAfter: 10000, Secret: f.secret(n).Bytes(), Commitment: c[:], KeyID: c[:4]})
		}
		return v
	}
	kek := func(next uint64) func(*announceCase) {
		return func(c *announceCase) {
			c.kek.Next, c.kek.KEK, c.highest[2] = next, kekAt(f.t, next).Bytes(), next-1
		}
	}
	ok("", "the newest of three epochs is new", kek(17), 17)
	ok("away", "two epochs were missed", kek(15), 15, 16, 17)
	ok("hole", "more were missed than are announced: the KEK goes on over the hole", func(c *announceCase) {
		kek(15)(c)
		c.e = f.announce(20, 19)
	}, 19, 20)
	over := ok("takeover", "a keeper that took over goes on in the generation of another", func(c *announceCase) {
		kek(15)(c)
		c.by = f.gw2
		f.mintedBy(&c.e.Wraps[0], "gw2")
		c.e.Wraps[0].Certificate = f.gw2.Member().CertHash
	}, 15, 16, 17)
	hash := f.gw2.Member().CertHash
	over.Epochs[2].Minter, over.Epochs[2].Certificate = "gw2", hash[:]
}

func (f *vectorFleet) badAnnouncements(add addAnnouncement) {
	bad := func(name, expect, spec, comment string, edit func(*announceCase)) {
		add(name, expect, spec, comment, edit)
	}
	bad("trailing", "parse", "3.1", "a byte follows the message", func(c *announceCase) { c.message = func(msg []byte) []byte { return append(msg, 0) } })
	bad("rising", "parse", "4.3", "the oldest epoch first", func(c *announceCase) { slices.Reverse(c.e.Wraps) })
	bad("other-ca", "chain", "3.2", "a keeper of another fleet with the same name", func(c *announceCase) { c.by = f.outsider })
	bad("flipped", "signature", "3.2", "one bit of the signature", func(c *announceCase) {
		c.message = func(msg []byte) []byte { msg[len(msg)-1] ^= 1; return msg }
	})
	bad("type", "signature", "3.1", "signed as a Grant", func(c *announceCase) { c.kind = KindGrant })
	bad("subscriber", "role", "3.2", "a subscriber that bears a keeper's name", func(c *announceCase) { c.by = f.mallory })
	bad("name", "revoked", "3.2", "a keeper that the policy revokes", func(c *announceCase) { c.by = f.revoked })
	bad("not-listed", "keeper", "3.2", "a gateway that does not keep the group", func(c *announceCase) { c.by = f.gw3 })
	bad("minter", "keeper", "6.3", "an epoch made by a gateway that does not keep the group", func(c *announceCase) { f.mintedBy(&c.e.Wraps[0], "gw3") })
	bad("group", "topic", "6.3", "on the topic of a group that the sender keeps too", func(c *announceCase) {
		c.by, c.topic = f.gw2, "hall"
	})
	bad("behind", "policy", "5.4", "made under the policy before", func(c *announceCase) { c.e.PolicyVersion-- })
	bad("ahead", "policy", "5.4", "made under the next policy: kept until it comes", func(c *announceCase) { c.e.PolicyVersion++ })
	bad("fork", "policy", "5.4", "made under another policy of the same version", func(c *announceCase) { c.e.PolicyHash[31] ^= 1 })
	bad("replay", "stale", "6.3", "older than the highest known", func(c *announceCase) {
		c.highest[2], c.kek.Next, c.kek.KEK = 18, 19, kekAt(f.t, 19).Bytes()
	})
	bad("number", "jump", "5.2", "4097 above the highest known (F4)", func(c *announceCase) { c.highest[2] = 17 - 1; c.e = f.announce(17); c.e.Wraps[0].Number = 16 + 4097 })
	bad("generation", "jump", "5.2", "65537 generations above the highest known (F4)", func(c *announceCase) { c.e.Generation = 2 + 1<<16 + 1 })
	f.badWraps(bad)
}

func (f *vectorFleet) badWraps(bad func(name, expect, spec, comment string, edit func(*announceCase))) {
	wrapped := func(name, comment string, edit func(w *EpochWrap, c *crypto.WrapContext) *crypto.KEK) {
		bad(name, "unwrap", "4.3", comment, func(c *announceCase) {
			ctx := f.context(17)
			w := &c.e.Wraps[0]
			if kek := edit(w, &ctx); kek != nil {
				*w = f.wrap(17, kek, ctx)
			}
		})
	}
	wrapped("commitment", "opens, but to another secret than it commits to (F10)", func(w *EpochWrap, _ *crypto.WrapContext) *crypto.KEK {
		w.Wrap.Commitment[31] ^= 1
		return nil
	})
	wrapped("ciphertext", "one bit of the ciphertext, signed", func(w *EpochWrap, _ *crypto.WrapContext) *crypto.KEK {
		w.Wrap.Ciphertext[0] ^= 1
		return nil
	})
	wrapped("salt", "one bit of the salt, signed", func(w *EpochWrap, _ *crypto.WrapContext) *crypto.KEK { w.Wrap.Salt[0] ^= 1; return nil })
	wrapped("kek-before", "wrapped under the KEK of the epoch before", func(*EpochWrap, *crypto.WrapContext) *crypto.KEK { return kekAt(f.t, 16) })
	wrapped("kek-after", "wrapped under the KEK of the epoch after", func(*EpochWrap, *crypto.WrapContext) *crypto.KEK { return kekAt(f.t, 18) })
	wrapped("minter", "wrapped by another keeper than named", func(_ *EpochWrap, c *crypto.WrapContext) *crypto.KEK { c.Keeper = "gw2"; return kekAt(f.t, 17) })
	wrapped("fleet", "wrapped for another fleet", func(_ *EpochWrap, c *crypto.WrapContext) *crypto.KEK { c.Fleet = "other"; return kekAt(f.t, 17) })
	wrapped("group", "wrapped for another group", func(_ *EpochWrap, c *crypto.WrapContext) *crypto.KEK { c.Group = "hall"; return kekAt(f.t, 17) })
	bad("generation", "kek", "6.3", "of a generation whose KEK is not held", func(c *announceCase) { c.e.Generation = 3 })
	bad("founder", "kek", "6.3", "of another keeper's chain of the same generation", func(c *announceCase) { c.e.Founder = "gw2" })
	bad("held-kek", "unwrap", "6.3", "the KEK held is another", func(c *announceCase) { c.kek.KEK[0] ^= 1 })
}

func TestWholeVectorsAnnouncement(t *testing.T) {
	spec.Each(t, announceDir, func(t *testing.T, v *announceVector) {
		n, m := v.receiver(t)
		kek, err := crypto.KEKFrom(v.KEK.KEK)
		if err != nil {
			t.Fatal(err)
		}
		g := m.groups[v.Group]
		g.setLineage(&lineage{generation: v.KEK.Generation, founder: v.KEK.Founder, next: v.KEK.Next, kek: kek})
		g.highest = crypto.Epoch{PolicyVersion: v.Highest[0], Generation: v.Highest[1], Number: v.Highest[2]}
		v.judge(t, n.inject(KeysTopic(testPrefix, v.Group), v.Message))
		if len(g.keys) != len(v.Epochs) {
			t.Fatalf("%d keys, expected %d", len(g.keys), len(v.Epochs))
		}
		for i, k := range g.keys {
			if w := v.Epochs[i]; k.epoch.Number != w.Number || k.keeper != w.Minter || !bytes.Equal(k.certificate[:], w.Certificate) || !bytes.Equal(k.secret.Bytes(), w.Secret) || !bytes.Equal(k.commitment[:], w.Commitment) || !bytes.Equal(k.id[:], w.KeyID) {
				t.Errorf("key %d is %+v, expected %+v", i, k, w)
			}
		}
		if w := v.KEKAfter; w != nil {
			if l := g.lineages[0]; l.next != w.Next || !bytes.Equal(l.kek.Bytes(), w.KEK) {
				t.Errorf("the KEK is %x for %d", l.kek.Bytes(), l.next)
			}
		}
	})
}
