package subscriber

import (
	"crypto/rand"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
)

func TestCovered(t *testing.T) {
	for _, c := range []struct {
		filter, topics string
		want           bool
	}{
		{"#", "plant/#", true}, {"#", "$x/#", false}, {"plant/#", "plant/#", true}, {"plant/#", "plant", true},
		{"plant/#", "plant/+/t", true}, {"plant/+", "plant/1", true}, {"plant/+", "plant/#", false}, {"plant/1", "plant/+", false},
		{"plant/1/#", "plant/#", false}, {"plant", "plant/#", false}, {"+/t", "$x/t", false}, {"plant/+/t", "plant/1/u", false},
	} {
		if got := covered([]string{"other", c.filter}, c.topics); got != c.want {
			t.Errorf("%s covers %s: %v", c.filter, c.topics, got)
		}
	}
}

// ledgerBench is a receiver's ledgers of one group under one key.
type ledgerBench struct {
	l     ledgers
	now   time.Duration
	key   crypto.Key
	state *member.State
}

func newLedgerBench(t *testing.T, filters ...string) *ledgerBench {
	t.Helper()
	secret, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &ledgerBench{now: time.Hour, key: crypto.Key{ID: crypto.KeyIDOf(secret, "default"), Secret: secret, Send: true}}
	ring, err := crypto.NewKeyring(map[string][]crypto.Key{"default": {b.key}})
	if err != nil {
		t.Fatal(err)
	}
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.Read = []string{"plant/#"}, []string{"gw1"}, []string{"*"}
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: "deny", Groups: []policy.Group{g}}
	b.state = &member.State{Policy: &policy.Signed{Document: doc}, Keys: ring}
	b.adopt(filters...)
	return b
}

func (b *ledgerBench) adopt(filters ...string) {
	b.l.adopt(b.now, b.state, crypto.Member{Fleet: "plant", Role: crypto.RoleGateway, Name: "gw1"}, filters)
}

func (b *ledgerBench) got(seq uint64, change func(*Message)) *Message {
	m := &Message{Topic: "plant/1", Status: StatusOK, Group: "default", Sealed: true, Key: b.key.ID, Stream: crypto.StreamID{1}, Seq: seq}
	if change != nil {
		change(m)
	}
	b.l.received(b.now, m)
	return m
}

func (b *ledgerBench) says(number, next uint64) {
	m := &checkpoint.Message{Group: "default", Number: number, State: checkpoint.Last}
	if next > 0 {
		m.Streams = []checkpoint.Stream{{Topic: checkpoint.TopicDigest(b.key.Secret, "default", b.l.name("plant/1")), Kid: crypto.NewKid(b.key.ID, crypto.StreamID{1}), Next: next}}
	}
	b.l.checkpoint(b.now, control.ReceivedCheckpoint{From: crypto.Member{Name: "gw1"}, Message: m}, true)
}

func (b *ledgerBench) pass(d time.Duration) []*Message {
	b.now += d
	return b.l.advance(b.now, true)
}

const interval = 10 * time.Second // of policy.DefaultGroup

func TestLedgersReport(t *testing.T) {
	b := newLedgerBench(t, "#")
	b.pass(interval / 2)
	b.says(0, 0)
	if m := b.got(0, nil); m.Gateway != "" {
		t.Errorf("attributed before anybody said so: %+v", m)
	}
	b.pass(interval)
	b.says(1, 3)
	if m := b.got(0, func(m *Message) { m.Status = StatusDuplicate }); m.Gateway != "" {
		t.Errorf("%+v", m)
	}
	if m := b.got(1, nil); m.Gateway != "gw1" {
		t.Errorf("%+v", m)
	}
	events := b.pass(interval)
	if len(events) != 1 || events[0].Status != StatusDropped || events[0].From != 2 || events[0].To != 2 || events[0].Topic != "plant/1" ||
		events[0].Gateway != "gw1" || events[0].Group != "default" || !events[0].Sealed || !events[0].Report() {
		t.Errorf("%+v", events)
	}
	if events = b.pass(interval); len(events) != 1 || events[0].Status != StatusSilent || events[0].Gateway != "gw1" || events[0].Sealed {
		t.Errorf("%+v", events)
	}
}

// What may be of any age, wills, what is not for us and what came while we were away is held against nobody.
func TestLedgersAccuseNobodyFalsely(t *testing.T) {
	b := newLedgerBench(t, "plant/#")
	b.got(7, nil) // kept by the broker, perhaps for long
	b.got(8, func(m *Message) { m.Retain = true })
	b.pass(interval + 1)
	b.got(0, func(m *Message) { m.Stream = crypto.StreamID{0x80} })
	b.got(9, func(m *Message) { m.Status = StatusForged })
	if events := b.pass(3 * interval); len(events) > 0 {
		t.Errorf("%+v", events)
	}
	b.says(5, 50) // others sent before we listened
	b.says(9, 60)
	b.l.interrupted(b.now)
	if events := b.pass(interval); len(events) > 1 || len(events) == 1 && events[0].Status != StatusWithheld {
		t.Errorf("%+v", events)
	}
	before := b.l.of["default"]
	if b.adopt("plant/#"); b.l.of["default"] != before {
		t.Error("nothing has changed, and the ledger is another")
	}
	if b.adopt("plant/#", "more/#"); b.l.of["default"] == before {
		t.Error("subscriptions have changed, and the ledger has not")
	}
	for _, filters := range [][]string{{"elsewhere"}, {"$share/g/plant/#"}, nil} {
		if b.adopt(filters...); len(b.l.of) > 0 {
			t.Errorf("a ledger for %q", filters)
		}
	}
}
