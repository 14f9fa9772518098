package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/test/spec"
)

// The test vectors of docs/spec/control.md: one file a case, one defect in a case that must be
// refused. The generator is deterministic:
//
//	go test ./pkg/control -run TestVectors -update
const vectors spec.Vectors = "../../test/vectors/control"

var update = flag.Bool("update", false, "write test/vectors/control anew")

// vector is one file. Fields is there if Expect is "ok", the payload decoded.
type vector struct {
	Comment string          `json:"comment"`
	Spec    string          `json:"spec"`
	Expect  string          `json:"expect"` // "ok", or "parse": to be refused
	Kind    string          `json:"kind"`   // hello, grant, grant-keys, epoch, confirm, lease, checkpoint; grant-info, topic-digest: Payload is derived from Fields
	Fields  json.RawMessage `json:"fields,omitempty"`
	Payload octets          `json:"payload"`
}

type octets = spec.Hex

// reencode decodes a payload of a kind and encodes it again.
func reencode(kind string, b []byte) ([]byte, error) {
	switch kind {
	case "hello":
		return again(ParseHello(b))
	case "grant":
		return again(ParseGrant(b))
	case "grant-keys":
		return again(ParseGrantBody(b))
	case "epoch":
		return again(ParseEpoch(b))
	case "confirm":
		return again(ParseConfirm(b))
	case "lease":
		return again(ParseLease(b))
	case "checkpoint":
		return again(checkpoint.Parse(b))
	}
	return nil, fmt.Errorf("no kind %q", kind)
}

func again[M interface{ Marshal() []byte }](m M, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return m.Marshal(), nil
}

func fill(n int, first byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func goodHello() *Hello {
	return &Hello{Want: WantKeys, Inbox: [16]byte(fill(16, 0x10)), Public: fill(crypto.InboxPublicSize, 0), Nonce: [16]byte(fill(16, 0x30)),
		PolicyVersion: 3, PolicyHash: [32]byte(fill(32, 0x40)), Groups: []HelloGroup{{"default", 2, 17}, {"hall", 0, 0}}}
}

func goodConfirmHello() *Hello {
	h := goodHello()
	h.Want, h.Public, h.Groups = WantConfirm, nil, h.Groups[:1]
	return h
}

func goodGrant() *Grant {
	return &Grant{Nonce: [16]byte(fill(16, 0x30)), PolicyVersion: 3, PolicyHash: [32]byte(fill(32, 0x40)), Sealed: fill(200, 1)}
}

func goodBody() GrantBody {
	secret := func(first byte) *crypto.PayloadSecret { s, _ := crypto.PayloadSecretFrom(fill(32, first)); return s }
	kek, _ := crypto.KEKFrom(fill(32, 0x80))
	return GrantBody{{Name: "default", Generation: 2, Founder: "gw1", Next: 18, KEK: kek, Keys: []GrantKey{
		{Epoch: crypto.Epoch{PolicyVersion: 3, Generation: 2, Number: 17}, Keeper: "gw1", Certificate: [32]byte(fill(32, 0x11)), ActiveIn: 4 * time.Second, Secret: secret(0xa0)},
		{Epoch: crypto.Epoch{PolicyVersion: 3, Generation: 2, Number: 16}, Keeper: "gw1", Certificate: [32]byte(fill(32, 0x12)), Secret: secret(0xb0)},
		{Epoch: crypto.Epoch{PolicyVersion: 2, Generation: 1, Number: 15}, Keeper: "gw2", Certificate: [32]byte(fill(32, 0x13)), SupersededBy: time.Hour, Secret: secret(0xc0)},
	}}}
}

func goodEpoch() *EpochMessage {
	wrap := func(number uint64, first byte) EpochWrap {
		w := EpochWrap{Number: number, Minter: "gw2", Certificate: [32]byte(fill(32, 0x14)), ActivateAfter: 10 * time.Second}
		copy(w.Wrap.Salt[:], fill(32, first))
		copy(w.Wrap.Commitment[:], fill(32, first+32))
		copy(w.Wrap.Ciphertext[:], fill(48, first+64))
		return w
	}
	return &EpochMessage{Group: "default", PolicyVersion: 3, PolicyHash: [32]byte(fill(32, 0x40)), Generation: 2, Founder: "gw1", Wraps: []EpochWrap{wrap(17, 1), wrap(16, 2), wrap(15, 3)}}
}

func goodConfirm() *Confirm {
	return &Confirm{PolicyVersion: 3, PolicyHash: [32]byte(fill(32, 0x40)),
		Groups: []ConfirmGroup{{"default", 2, 17, [32]byte(fill(32, 0x21))}, {"hall", 1, 1, [32]byte(fill(32, 0x31))}},
		Nonces: [][16]byte{[16]byte(fill(16, 0x30)), [16]byte(fill(16, 0x50))}}
}

func goodLease() *Lease {
	return &Lease{PolicyVersion: 3, PolicyHash: [32]byte(fill(32, 0x40)), Boot: [16]byte(fill(16, 0x70)), Tick: 9, Groups: goodConfirm().Groups}
}

func goodCheckpoint() *checkpoint.Message {
	return &checkpoint.Message{Group: "default", Boot: [16]byte(fill(16, 0x70)), Number: 41, State: checkpoint.Last, Streams: []checkpoint.Stream{
		{Topic: checkpoint.Digest(fill(16, 0x90)), Kid: crypto.Kid(fill(12, 0xa0)), From: 5, Next: 1000, Burned: []crypto.Range{{From: 5, To: 5}, {From: 998, To: 999}}},
		{Topic: checkpoint.Digest(fill(16, 0x91)), Kid: crypto.Kid(fill(12, 0xa1)), From: 0, Next: 1 << 40, Final: true},
	}}
}

// edited returns m after edit: a message with one defect, or a variant.
func edited[T any](m *T, edit func(*T)) *T {
	edit(m)
	return m
}

type vectorSet map[string]vector

func (s vectorSet) ok(name, comment, section, kind string, fields any, payload []byte) {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	s[kind+"-ok"+name] = vector{comment, section, "ok", kind, b, payload}
}

func (s vectorSet) bad(name, comment, section, kind string, payload []byte) {
	s[kind+"-"+name] = vector{comment, section, "parse", kind, nil, payload}
}

// encodings adds the defects that every kind can have.
func (s vectorSet) encodings(section, kind string, good []byte) {
	s.bad("empty", "nothing at all", section, kind, nil)
	s.bad("trailing", "one byte too many", section, kind, append(bytes.Clone(good), 0))
	s.bad("cut", "the last byte is missing", section, kind, good[:len(good)-1])
	s.bad("indefinite", "the outer array has an indefinite length", section, kind, append(append([]byte{0x9f}, good[1:]...), 0xff))
	s.bad("long-head", "the outer array's head is one byte longer than needed", section, kind, append([]byte{0x98, good[0] & 0x1f}, good[1:]...))
	s.bad("items", "the outer array declares one item more than there is", section, kind, append([]byte{good[0] + 1}, good[1:]...))
	s.bad("map", "a map where the array belongs", section, kind, append([]byte{good[0]&0x1f | 0xa0}, good[1:]...))
	if kind != "grant-keys" {
		other := bytes.Replace(good, dcbor.AppendText(nil, kind), dcbor.AppendText(nil, "other"), 1)
		s.bad("kind", "the first item names another kind", section, kind, other)
	}
}

func makeVectors() vectorSet {
	s := make(vectorSet)
	s.encodings("4.1", "hello", goodHello().Marshal())
	s.encodings("4.2", "grant", goodGrant().Marshal())
	s.encodings("4.2", "grant-keys", goodBody().Marshal())
	s.encodings("4.3", "epoch", goodEpoch().Marshal())
	s.encodings("4.4", "confirm", goodConfirm().Marshal())
	s.encodings("4.5", "lease", goodLease().Marshal())
	s.encodings("4.7", "checkpoint", goodCheckpoint().Marshal())
	s.hellos()
	s.grants()
	s.epochs()
	s.confirms()
	s.leases()
	s.checkpoints()
	return s
}

func (s vectorSet) hellos() {
	type known struct {
		Group      string `json:"group"`
		Generation uint64 `json:"generation"`
		Number     uint64 `json:"number"`
	}
	type fields struct {
		Want          string  `json:"want"`
		Inbox         octets  `json:"inbox"`
		Public        octets  `json:"public_key"`
		Nonce         octets  `json:"nonce"`
		PolicyVersion uint64  `json:"policy_version"`
		PolicyHash    octets  `json:"policy_hash"`
		Groups        []known `json:"groups"`
	}
	for name, h := range map[string]*Hello{"-keys": goodHello(), "-confirm": goodConfirmHello()} {
		f := fields{h.Want.String(), h.Inbox[:], h.Public, h.Nonce[:], h.PolicyVersion, h.PolicyHash[:], nil}
		for _, g := range h.Groups {
			f.Groups = append(f.Groups, known{g.Name, g.Generation, g.Number})
		}
		s.ok(name, "a member asks about groups", "4.1", "hello", f, h.Marshal())
	}
	bad := func(name, comment string, edit func(*Hello)) {
		s.bad(name, comment, "4.1", "hello", edited(goodHello(), edit).Marshal())
	}
	bad("want", "asks for something that does not exist", func(h *Hello) { h.Want = 2 })
	bad("public-short", "the public key is one byte short", func(h *Hello) { h.Public = h.Public[1:] })
	bad("public-none", "asks for keys without a public key", func(h *Hello) { h.Public = nil })
	bad("public-needless", "asks for a confirmation with a public key", func(h *Hello) { h.Want = WantConfirm })
	bad("no-group", "asks about no group", func(h *Hello) { h.Groups = nil })
	bad("group-twice", "a group twice", func(h *Hello) { h.Groups[1] = h.Groups[0] })
	bad("group-order", "groups out of order", func(h *Hello) { slices.Reverse(h.Groups) })
	bad("group-name", "a group name with a slash", func(h *Hello) { h.Groups[1].Name = "hall/2" })
	bad("group-wildcard", "a wildcard for a group name", func(h *Hello) { h.Groups[0].Name = "#" })
	bad("group-long", "a group name of 64 characters", func(h *Hello) { h.Groups[1].Name = strings.Repeat("h", 64) })
	bad("generation-high", "a generation of 2^48", func(h *Hello) { h.Groups[0].Generation = 1 << 48 })
	bad("number-high", "an epoch number of 2^64-1", func(h *Hello) { h.Groups[0].Number = 1<<64 - 1 })
	nonce := bytes.Replace(goodHello().Marshal(), append([]byte{0x50}, fill(16, 0x30)...), append([]byte{0x4f}, fill(15, 0x30)...), 1)
	s.bad("nonce-short", "the nonce has 15 bytes", "4.1", "hello", nonce)
}

func (s vectorSet) grants() {
	g := goodGrant()
	s.ok("", "the public part of a Grant", "4.2", "grant", map[string]any{"nonce": octets(g.Nonce[:]), "policy_version": g.PolicyVersion,
		"policy_hash": octets(g.PolicyHash[:]), "sealed": octets(g.Sealed)}, g.Marshal())
	type fieldKey struct {
		Epoch        [3]uint64 `json:"epoch"`
		Keeper       string    `json:"keeper"`
		Certificate  octets    `json:"certificate"`
		ActiveIn     int64     `json:"active_in_ms"`
		SupersededBy int64     `json:"superseded_ms_ago"`
		Secret       octets    `json:"secret"`
	}
	body := goodBody()
	var keys []fieldKey
	for _, k := range body[0].Keys {
		keys = append(keys, fieldKey{[3]uint64{k.Epoch.PolicyVersion, k.Epoch.Generation, k.Epoch.Number}, k.Keeper, k.Certificate[:], k.ActiveIn.Milliseconds(), k.SupersededBy.Milliseconds(), k.Secret.Bytes()})
	}
	s.ok("", "what a Grant seals", "4.2", "grant-keys", []map[string]any{{"group": body[0].Name, "generation": body[0].Generation, "founder": body[0].Founder, "next": body[0].Next,
		"kek": octets(body[0].KEK.Bytes()), "keys": keys}}, body.Marshal())
	hello, keeper, hash := []byte("the signed Hello"), [32]byte(fill(32, 0x60)), [32]byte(fill(32, 0x40))
	s.ok("", "the HPKE info of a Grant", "4.2", "grant-info", map[string]any{"hello": octets(hello), "keeper_cert_hash": octets(keeper[:]), "policy_hash": octets(hash[:])},
		GrantInfo(hello, keeper, hash))
	bad := func(name, comment string, edit func(*GrantGroup)) {
		b := goodBody()
		edit(&b[0])
		s.bad(name, comment, "4.2", "grant-keys", b.Marshal())
	}
	bad("next-gap", "the KEK is not of the epoch after the newest", func(g *GrantGroup) { g.Next++ })
	bad("next-back", "the KEK is of the newest epoch itself", func(g *GrantGroup) { g.Next-- })
	bad("generation", "the newest secret is of another generation than the KEK", func(g *GrantGroup) { g.Generation++ })
	bad("generation-0", "generation 0", func(g *GrantGroup) { g.Keys[2].Epoch.Generation = 0 })
	bad("number-high", "number 2^48", func(g *GrantGroup) { g.Keys[0].Epoch.Number, g.Next = 1<<48, 1<<48+1 })
	bad("no-keys", "no payload secret", func(g *GrantGroup) { g.Keys = nil })
	bad("order", "secrets in rising order", func(g *GrantGroup) { g.Keys[1], g.Keys[2] = g.Keys[2], g.Keys[1] })
	bad("founder", "an empty founder", func(g *GrantGroup) { g.Founder = "" })
	bad("keeper", "a keeper's name in capitals", func(g *GrantGroup) { g.Keys[1].Keeper = "GW1" })
	bad("delay", "an activation delay of more than a day", func(g *GrantGroup) { g.Keys[0].ActiveIn = 25 * time.Hour })
	topics, _ := crypto.TopicKeyFrom(fill(32, 0xc0))
	hides := goodBody()
	hides[0].Topics = topics
	s.ok("-topic-key", "what a Grant seals of a group that hides its topics", "4.2", "grant-keys", []map[string]any{{"group": body[0].Name, "generation": body[0].Generation,
		"founder": body[0].Founder, "next": body[0].Next, "kek": octets(body[0].KEK.Bytes()), "keys": keys, "topic_key": octets(topics.Bytes())}}, hides.Marshal())
	good := hides.Marshal()
	s.bad("topic-key-short", "a topic key of 31 bytes", "4.2", "grant-keys", append(append(bytes.Clone(good[:len(good)-34]), 0x58, 0x1f), fill(31, 0xc0)...))
	s.bad("topic-key-missing", "an item for a topic key, and none", "4.2", "grant-keys", good[:len(good)-34])
	s.bad("group-items-8", "an item more than a topic key", "4.2", "grant-keys", append(bytes.Replace(bytes.Clone(good), []byte{0x81, 0x87}, []byte{0x81, 0x88}, 1), 0))
	cert := bytes.Replace(goodBody().Marshal(), append([]byte{0x58, 0x20}, fill(32, 0x12)...), append([]byte{0x58, 0x1f}, fill(31, 0x12)...), 1)
	s.bad("certificate-short", "the hash of a minter's certificate has 31 bytes", "4.2", "grant-keys", cert)
	short := bytes.Replace(goodBody().Marshal(), append([]byte{0x58, 0x20}, fill(32, 0x80)...), append([]byte{0x58, 0x1f}, fill(31, 0x80)...), 1)
	s.bad("kek-short", "a KEK of 31 bytes", "4.2", "grant-keys", short)
	s.bad("no-group", "no group", "4.2", "grant-keys", GrantBody{}.Marshal())
	twice := append(goodBody(), goodBody()...)
	s.bad("group-twice", "a group twice", "4.2", "grant-keys", twice.Marshal())
}

func (s vectorSet) epochs() {
	e := goodEpoch()
	type fieldWrap struct {
		Number      uint64 `json:"number"`
		Minter      string `json:"minter"`
		Certificate octets `json:"certificate"`
		Activate    int64  `json:"activate_after_ms"`
		Salt        octets `json:"salt"`
		Commitment  octets `json:"commitment"`
		Ciphertext  octets `json:"ciphertext"`
	}
	var wraps []fieldWrap
	for _, w := range e.Wraps {
		wraps = append(wraps, fieldWrap{w.Number, w.Minter, w.Certificate[:], w.ActivateAfter.Milliseconds(), w.Wrap.Salt[:], w.Wrap.Commitment[:], w.Wrap.Ciphertext[:]})
	}
	s.ok("", "a leader announces its newest epoch and the two before", "4.3", "epoch", map[string]any{"group": e.Group, "policy_version": e.PolicyVersion,
		"policy_hash": octets(e.PolicyHash[:]), "generation": e.Generation, "founder": e.Founder, "wraps": wraps}, e.Marshal())
	bad := func(name, comment string, edit func(*EpochMessage)) {
		s.bad(name, comment, "4.3", "epoch", edited(goodEpoch(), edit).Marshal())
	}
	bad("none", "no epoch", func(e *EpochMessage) { e.Wraps = nil })
	bad("nine", "nine epochs", func(e *EpochMessage) {
		e.Wraps = nil
		for i := range 9 {
			e.Wraps = append(e.Wraps, EpochWrap{Number: uint64(20 - i), Minter: "gw1"})
		}
	})
	bad("generation-0", "generation 0", func(e *EpochMessage) { e.Generation = 0 })
	bad("generation-high", "generation 2^64-1", func(e *EpochMessage) { e.Generation = 1<<64 - 1 })
	bad("number-0", "epoch number 0", func(e *EpochMessage) { e.Wraps = e.Wraps[:1]; e.Wraps[0].Number = 0 })
	bad("number-high", "epoch number 2^64-1", func(e *EpochMessage) { e.Wraps = e.Wraps[:1]; e.Wraps[0].Number = 1<<64 - 1 })
	bad("founder", "the founder's name in capitals", func(e *EpochMessage) { e.Founder = "GW1" })
	bad("minter", "an empty minter", func(e *EpochMessage) { e.Wraps[0].Minter = "" })
	bad("gap", "an epoch is left out", func(e *EpochMessage) { e.Wraps = []EpochWrap{e.Wraps[0], e.Wraps[2]} })
	bad("rising", "the oldest epoch first", func(e *EpochMessage) { slices.Reverse(e.Wraps) })
	bad("twice", "the same epoch twice", func(e *EpochMessage) { e.Wraps[1] = e.Wraps[0] })
	bad("delay", "an activation delay of more than a day", func(e *EpochMessage) { e.Wraps[0].ActivateAfter = 24*time.Hour + time.Millisecond })
	bad("group", "an empty group name", func(e *EpochMessage) { e.Group = "" })
	one := edited(goodEpoch(), func(e *EpochMessage) { e.Wraps = e.Wraps[:1] }).Marshal()
	cert := bytes.Replace(one, append([]byte{0x58, 0x20}, fill(32, 0x14)...), append([]byte{0x58, 0x21}, fill(33, 0x14)...), 1)
	s.bad("certificate-long", "the hash of the minter's certificate has 33 bytes", "4.3", "epoch", cert)
}

type fieldGroup struct {
	Group      string `json:"group"`
	Generation uint64 `json:"generation"`
	Number     uint64 `json:"number"`
	Commitment octets `json:"commitment"`
}

func fieldGroups(groups []ConfirmGroup) (out []fieldGroup) {
	for _, g := range groups {
		out = append(out, fieldGroup{g.Name, g.Generation, g.Number, g.Commitment[:]})
	}
	return out
}

func (s vectorSet) leases() {
	l := goodLease()
	s.ok("", "a keeper leads two groups", "4.5", "lease", map[string]any{"policy_version": l.PolicyVersion, "policy_hash": octets(l.PolicyHash[:]),
		"boot": octets(l.Boot[:]), "tick": l.Tick, "groups": fieldGroups(l.Groups)}, l.Marshal())
	bad := func(name, comment string, edit func(*Lease)) {
		s.bad(name, comment, "4.5", "lease", edited(goodLease(), edit).Marshal())
	}
	bad("no-group", "no group", func(l *Lease) { l.Groups = nil })
	bad("group-order", "groups out of order", func(l *Lease) { slices.Reverse(l.Groups) })
	bad("group-twice", "a group twice", func(l *Lease) { l.Groups[1] = l.Groups[0] })
	bad("tick-0", "tick 0", func(l *Lease) { l.Tick = 0 })
	bad("tick-high", "tick 2^64-1", func(l *Lease) { l.Tick = 1<<64 - 1 })
	bad("number-0", "epoch number 0", func(l *Lease) { l.Groups[0].Number = 0 })
	bad("generation-high", "generation 2^48", func(l *Lease) { l.Groups[0].Generation = 1 << 48 })
	short := bytes.Replace(goodLease().Marshal(), append([]byte{0x50}, fill(16, 0x70)...), append([]byte{0x4f}, fill(15, 0x70)...), 1)
	s.bad("boot-short", "the boot has 15 bytes", "4.5", "lease", short)
}

func (s vectorSet) checkpoints() {
	type fieldStream struct {
		Topic  octets      `json:"topic"`
		Kid    octets      `json:"kid"`
		From   uint64      `json:"from"`
		Next   uint64      `json:"next"`
		Burned [][2]uint64 `json:"burned,omitempty"`
		Final  bool        `json:"final"`
	}
	c := goodCheckpoint()
	var streams []fieldStream
	for _, x := range c.Streams {
		f := fieldStream{x.Topic[:], x.Kid[:], x.From, x.Next, nil, x.Final}
		for _, b := range x.Burned {
			f.Burned = append(f.Burned, [2]uint64{b.From, b.To})
		}
		streams = append(streams, f)
	}
	fields := map[string]any{"group": c.Group, "boot": octets(c.Boot[:]), "number": c.Number, "state": c.State, "streams": streams}
	s.ok("", "two streams, one of them at its end", "4.7", "checkpoint", fields, c.Marshal())
	none := edited(goodCheckpoint(), func(m *checkpoint.Message) { m.Streams, m.State = nil, checkpoint.Ending })
	s.ok("-none", "nothing was sealed, and the sender stops", "4.7", "checkpoint", map[string]any{"group": none.Group, "boot": octets(none.Boot[:]),
		"number": none.Number, "state": none.State, "streams": []fieldStream{}}, none.Marshal())
	secret, _ := crypto.PayloadSecretFrom(fill(32, 0xc0))
	digest := checkpoint.TopicDigest(secret, "default", sha256.Sum256([]byte("hall/1/temperature")))
	s.ok("", "the digest of a topic in a checkpoint", "4.7", "topic-digest", map[string]any{"secret": octets(fill(32, 0xc0)), "group": "default", "topic": "hall/1/temperature"}, digest[:])
	bad := func(name, comment string, edit func(*checkpoint.Message)) {
		s.bad(name, comment, "4.7", "checkpoint", edited(goodCheckpoint(), edit).Marshal())
	}
	bad("group", "a group name with a slash", func(m *checkpoint.Message) { m.Group = "a/b" })
	bad("number-high", "number 2^48", func(m *checkpoint.Message) { m.Number = 1 << 48 })
	bad("state", "a state that does not exist", func(m *checkpoint.Message) { m.State = 3 })
	bad("order", "streams out of order", func(m *checkpoint.Message) { slices.Reverse(m.Streams) })
	bad("twice", "a stream twice", func(m *checkpoint.Message) { m.Streams[1] = m.Streams[0] })
	bad("back", "a stream goes back", func(m *checkpoint.Message) { m.Streams[1].From, m.Streams[1].Next = 2, 1 })
	bad("next-high", "a sequence number above 2^40", func(m *checkpoint.Message) { m.Streams[1].Next++ })
	bad("burned-below", "burned numbers before the first", func(m *checkpoint.Message) { m.Streams[0].Burned[0].From = 4 })
	bad("burned-above", "burned numbers behind the last", func(m *checkpoint.Message) { m.Streams[0].Burned[1].To = 1000 })
	bad("burned-order", "burned ranges out of order", func(m *checkpoint.Message) { slices.Reverse(m.Streams[0].Burned) })
	bad("burned-adjoin", "burned ranges that adjoin", func(m *checkpoint.Message) { m.Streams[0].Burned[0].To = 997 })
	bad("burned-17", "17 burned ranges", func(m *checkpoint.Message) {
		m.Streams[0].Burned = nil
		for i := range uint64(17) {
			m.Streams[0].Burned = append(m.Streams[0].Burned, crypto.Range{From: 10 + 2*i, To: 10 + 2*i})
		}
	})
	bad("streams-257", "257 streams", func(m *checkpoint.Message) {
		m.Streams = nil
		for i := range 257 {
			m.Streams = append(m.Streams, checkpoint.Stream{Kid: crypto.Kid{byte(i >> 8), byte(i)}})
		}
	})
}

func (s vectorSet) confirms() {
	c := goodConfirm()
	s.ok("", "a keeper answers two nonces at once", "4.4", "confirm", map[string]any{"policy_version": c.PolicyVersion, "policy_hash": octets(c.PolicyHash[:]),
		"groups": fieldGroups(c.Groups), "nonces": []octets{c.Nonces[0][:], c.Nonces[1][:]}}, c.Marshal())
	bad := func(name, comment string, edit func(*Confirm)) {
		s.bad(name, comment, "4.4", "confirm", edited(goodConfirm(), edit).Marshal())
	}
	bad("no-group", "no group", func(c *Confirm) { c.Groups = nil })
	bad("no-nonce", "no nonce", func(c *Confirm) { c.Nonces = nil })
	bad("65-nonces", "65 nonces", func(c *Confirm) { c.Nonces = make([][16]byte, 65) })
	bad("group-order", "groups out of order", func(c *Confirm) { slices.Reverse(c.Groups) })
	bad("number-0", "epoch number 0", func(c *Confirm) { c.Groups[0].Number = 0 })
	bad("generation-high", "generation 2^48", func(c *Confirm) { c.Groups[0].Generation = 1 << 48 })
}

func TestVectorsAreCurrent(t *testing.T) { spec.Current(t, vectors, makeVectors(), *update) }

func TestVectors(t *testing.T) {
	spec.Each(t, vectors, func(t *testing.T, v *vector) {
		if v.Kind == "grant-info" || v.Kind == "topic-digest" {
			return // TestVectorsAreCurrent derives it
		}
		got, err := reencode(v.Kind, v.Payload)
		switch {
		case v.Expect == "ok" && (err != nil || !bytes.Equal(got, v.Payload)):
			t.Errorf("error %v, encodes to %x", err, got)
		case v.Expect == "parse" && !errors.Is(err, dcbor.ErrMalformed):
			t.Errorf("error %v, want a refusal by the decoder", err)
		}
	})
}

// TestMessagesRoundTrip decodes to the very struct that was encoded.
func TestMessagesRoundTrip(t *testing.T) {
	hello, err1 := ParseHello(goodHello().Marshal())
	grant, err2 := ParseGrant(goodGrant().Marshal())
	epoch, err3 := ParseEpoch(goodEpoch().Marshal())
	confirm, err4 := ParseConfirm(goodConfirm().Marshal())
	body, err5 := ParseGrantBody(goodBody().Marshal())
	lease, err6 := ParseLease(goodLease().Marshal())
	check, err7 := checkpoint.Parse(goodCheckpoint().Marshal())
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ got, want any }{{hello, goodHello()}, {grant, goodGrant()}, {epoch, goodEpoch()}, {confirm, goodConfirm()}, {body, goodBody()}, {lease, goodLease()}, {check, goodCheckpoint()}} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("decoded %+v, encoded %+v", c.got, c.want)
		}
	}
}

// fuzzKind checks that whatever decodes encodes to the same bytes, from all vectors of the kind.
func fuzzKind(f *testing.F, kind string) {
	seeds := 0
	for _, path := range vectors.Files(f) {
		if v := spec.Read[vector](f, path); v.Kind == kind {
			f.Add([]byte(v.Payload))
			seeds++
		}
	}
	if seeds < 8 {
		f.Fatalf("%d seeds of kind %s", seeds, kind)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := reencode(kind, b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x encodes to %x", b, got)
		}
	})
}

func FuzzHello(f *testing.F)      { fuzzKind(f, "hello") }
func FuzzGrant(f *testing.F)      { fuzzKind(f, "grant") }
func FuzzGrantKeys(f *testing.F)  { fuzzKind(f, "grant-keys") }
func FuzzEpoch(f *testing.F)      { fuzzKind(f, "epoch") }
func FuzzConfirm(f *testing.F)    { fuzzKind(f, "confirm") }
func FuzzCheckpoint(f *testing.F) { fuzzKind(f, "checkpoint") }
func FuzzLease(f *testing.F)      { fuzzKind(f, "lease") }

// FuzzReceive gives a leader and a member anything on any topic: nothing panics, and nobody's keys change.
func FuzzReceive(f *testing.F) {
	topics := []string{ControlTopic(testPrefix), PolicyTopic(testPrefix), KeysTopic(testPrefix, "default"), "inbox", "else"}
	w := newWorld(&testing.T{})
	gw := w.add(crypto.RoleGateway, "gw1").connect()
	sub := w.add(crypto.RoleSubscriber, "alice").connect()
	w.run(10 * time.Second)
	for _, r := range w.log {
		f.Add(byte(0), r.payload)
		f.Add(byte(3), r.payload)
	}
	if len(w.log) == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, where byte, payload []byte) {
		for _, n := range []*node{gw, sub} {
			topic := topics[int(where)%len(topics)]
			if topic == "inbox" {
				topic = n.inboxTopic()
			}
			before := n.epoch()
			n.m.Receive(w.now(), topic, payload, false)
			if out := n.m.Take(); out.Keyring != nil || n.epoch() != before {
				t.Error("keys changed")
			}
		}
	})
}
