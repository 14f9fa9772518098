package watch

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
)

const prefix = "sealgate"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// bench is a fleet's CA, the time, and what watches.
type bench struct {
	t             *testing.T
	caKey, caCert []byte
	trust         *crypto.Trust
	signed        *policy.Signed
	doc           *policy.Document
	mono          time.Duration
	fleet         *Fleet
	ids           map[string]*crypto.Identity
	tick          uint64
	numbers       map[string]uint64
	secret        *crypto.PayloadSecret
}

func newBench(t *testing.T, edit ...func(*policy.Document)) *bench {
	t.Helper()
	b := &bench{t: t, mono: time.Hour, ids: make(map[string]*crypto.Identity), numbers: make(map[string]uint64)}
	var err error
	b.caKey, b.caCert, err = crypto.NewCA("plant", rand.Reader, start)
	b.must(err)
	b.trust, err = crypto.NewTrust("plant", b.caCert)
	b.must(err)
	b.secret, err = crypto.NewPayloadSecret(rand.Reader)
	b.must(err)
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.Publish, g.Read = []string{"#"}, []string{"gw1", "gw2"}, []string{"gw*"}, []string{"alice"}
	b.doc = &policy.Document{Fleet: "plant", Version: 1, Unmatched: "deny", Groups: []policy.Group{g}}
	for _, f := range edit {
		f(b.doc)
	}
	authority, err := crypto.ParseAuthority(b.caKey, b.caCert)
	b.must(err)
	raw, err := b.doc.Sign(authority)
	b.must(err)
	b.signed, err = policy.Verify(b.trust, raw, start)
	b.must(err)
	b.watch("alice", crypto.RoleSubscriber)
	return b
}

// watch begins to look on as a member.
func (b *bench) watch(name string, role crypto.Role) {
	b.t.Helper()
	b.fleet = New(b.now(), Config{Trust: b.trust, Self: b.id(role, name).Member(), Prefix: prefix})
	b.fleet.SetLink(b.now(), LinkControl, nil)
	b.fleet.SetState(b.now(), b.signed, nil)
	b.fleet.Take()
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) now() control.Time { return control.Time{Mono: b.mono, Wall: start.Add(b.mono)} }

func (b *bench) id(role crypto.Role, name string) *crypto.Identity {
	b.t.Helper()
	if b.ids[name] == nil {
		key, cert, err := crypto.IssueMember(b.caKey, b.caCert, role, name, rand.Reader, start)
		b.must(err)
		b.ids[name], err = crypto.ParseIdentity(key, cert, b.caCert)
		b.must(err)
	}
	return b.ids[name]
}

// says has a gateway publish a message.
func (b *bench) says(who, topic string, kind control.Kind, payload []byte, retained bool) {
	b.t.Helper()
	msg, err := b.id(crypto.RoleGateway, who).Sign(payload, string(kind))
	b.must(err)
	b.fleet.Receive(b.now(), topic, msg, retained)
}

func (b *bench) lease(who string) {
	b.t.Helper()
	b.tick++
	l := control.Lease{PolicyVersion: 1, PolicyHash: b.signed.Hash, Boot: [16]byte{who[2]}, Tick: b.tick, Groups: []control.LeaseGroup{{Name: "default", Generation: 1, Number: 1}}}
	b.says(who, control.ControlTopic(prefix), control.KindLease, l.Marshal(), false)
}

func (b *bench) hello(who string) {
	b.t.Helper()
	h := control.Hello{Want: control.WantConfirm, PolicyVersion: 1, PolicyHash: b.signed.Hash, Groups: []control.HelloGroup{{Name: "default"}}}
	b.says(who, control.ControlTopic(prefix), control.KindHello, h.Marshal(), false)
}

// announce announces one epoch, the key of which has the commitment's first bytes as its id.
func (b *bench) announce(who string, generation, number uint64, retained bool) crypto.KeyID {
	b.t.Helper()
	w := control.EpochWrap{Number: number, Minter: who, ActivateAfter: 10 * time.Second}
	w.Wrap.Commitment = [32]byte{byte(generation), byte(number)}
	e := control.EpochMessage{Group: "default", PolicyVersion: 1, PolicyHash: b.signed.Hash, Generation: generation, Founder: who, Wraps: []control.EpochWrap{w}}
	b.says(who, control.KeysTopic(prefix, "default"), control.KindEpoch, e.Marshal(), retained)
	return w.Wrap.ID()
}

func (b *bench) tells(who string, state checkpoint.State, streams ...checkpoint.Stream) {
	b.t.Helper()
	c := checkpoint.Message{Group: "default", Boot: [16]byte{who[2]}, Number: b.numbers[who], State: state, Streams: streams}
	b.numbers[who]++
	b.says(who, control.CheckpointTopic(prefix, "default", who), control.KindCheckpoint, c.Marshal(), false)
}

func (b *bench) pass(d time.Duration) {
	for end := b.mono + d; b.mono < end; {
		b.mono += time.Second
		b.fleet.Tick(b.now())
	}
}

func (b *bench) picture() *Picture { return b.fleet.Picture(b.now()) }

// alarmed are the alarms that stand, as "what gateway".
func (b *bench) alarmed() (out []string) {
	for _, a := range b.picture().Alarms {
		out = append(out, strings.TrimSpace(a.What+" "+a.Gateway))
	}
	slices.Sort(out)
	return out
}

func (b *bench) want(alarms ...string) {
	b.t.Helper()
	if got := b.alarmed(); !slices.Equal(got, alarms) {
		b.t.Errorf("alarms %q, want %q", got, alarms)
	}
}

// told are the changes since the last call, as "what", with ! for alarms that begin and - for ones that end.
func (b *bench) told() (out []string) {
	for _, c := range b.fleet.Take() {
		mark := ""
		if c.Alarm {
			mark = "!"
		} else if c.Over {
			mark = "-"
		}
		out = append(out, mark+c.What)
	}
	return out
}

func TestLeaders(t *testing.T) {
	b := newBench(t)
	b.announce("gw1", 1, 1, true)
	b.fleet.SetState(b.now(), b.signed, b.ring(1, 1))
	if g := b.picture().Groups[0]; g.Leader != "gw1" || g.LeaderBy != "announcement" || g.Lease != -1 {
		t.Errorf("before any lease: %+v", g)
	}
	b.lease("gw1")
	b.pass(4 * time.Second)
	if g := b.picture().Groups[0]; g.Leader != "gw1" || g.LeaderBy != "lease" || g.Lease != 4 || g.Rival != "" {
		t.Errorf("%+v", g)
	}
	b.lease("gw2") // gw1 has stepped down
	b.pass(4 * time.Second)
	if g := b.picture().Groups[0]; g.Leader != "gw2" || g.Rival != "" {
		t.Errorf("%+v", g)
	}
	b.want()
	b.lease("gw1") // or has not
	b.pass(time.Second)
	b.want("two-leaders")
	if g := b.picture().Groups[0]; g.Leader != "gw2" || g.Rival != "gw1" {
		t.Errorf("%+v", g)
	}
	b.lease("gw2")
	b.pass(14 * time.Second)
	b.want()
	b.pass(time.Second)
	b.want("no-leader")
	b.lease("gw1")
	b.pass(time.Second)
	b.want()
	if g := b.picture().Groups[0]; g.Leader != "gw1" {
		t.Errorf("%+v", g)
	}
	want := []string{"epoch", "member", "lease", "leader", "member", "lease", "leader", "lease", "!two-leaders", "lease", "-two-leaders", "!no-leader", "lease", "leader", "-no-leader"}
	if got := b.told(); !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

// ring is a keyring with a key of an epoch.
func (b *bench) ring(generation, number uint64) *crypto.Keyring {
	b.t.Helper()
	k := crypto.Key{ID: crypto.KeyIDOf(b.secret, "default"), Secret: b.secret, Epoch: crypto.Epoch{PolicyVersion: 1, Generation: generation, Number: number}}
	r, err := crypto.NewKeyring(map[string][]crypto.Key{"default": {k}})
	b.must(err)
	return r
}

func TestEpochs(t *testing.T) {
	b := newBench(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	b.pass(9 * time.Second)
	b.want()
	b.pass(time.Second)
	b.want("no-epoch")
	b.announce("gw1", 1, 5, true)
	b.fleet.SetState(b.now(), b.signed, b.ring(1, 5))
	b.pass(time.Minute)
	b.want()
	if g := b.picture().Groups[0]; g.Epoch != "1.1.5" || g.EpochAge != -1 || g.Rotation != 3540 || g.LeaderBy != "policy" || !g.KeyHeld || g.Keys != 1 {
		t.Errorf("%+v", g)
	}
	b.announce("gw1", 1, 6, false)
	if g := b.picture().Groups[0]; g.Epoch != "1.1.6" || g.EpochAge != 0 || g.Rotation != 3600 || g.Active != 10 || g.KeyHeld {
		t.Errorf("%+v", g)
	}
	b.announce("gw1", 1, 5, false)                         // a replay
	b.announce("gw1", 1, 6+control.MaxNumberJump+1, false) // a leap
	b.pass(10 * time.Second)
	b.want("no-key", "refused gw1")
	if p := b.picture(); p.Groups[0].Epoch != "1.1.6" || p.Refused != 2 || p.Healthy {
		t.Errorf("%+v", p)
	}
	b.fleet.SetState(b.now(), b.signed, b.ring(1, 6))
	b.pass(2 * time.Hour)
	b.want("overdue")
}

// What a sender says it sealed, under which epoch, and that it falls silent.
func TestCheckpoints(t *testing.T) {
	b := newBench(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	b.watch("ops", crypto.RoleOperator)
	old := b.announce("gw1", 1, 1, true)
	kid := func(key crypto.KeyID, stream byte) crypto.Kid { return crypto.NewKid(key, crypto.StreamID{1, stream}) }
	b.tells("gw1", checkpoint.Last, checkpoint.Stream{Kid: kid(old, 1), Next: 10}, checkpoint.Stream{Kid: kid(old, 2), Next: 5, Burned: []crypto.Range{{From: 1, To: 2}}})
	b.pass(10 * time.Second)
	b.tells("gw1", checkpoint.More, checkpoint.Stream{Kid: kid(old, 1), From: 10, Next: 13})
	b.tells("gw1", checkpoint.Last, checkpoint.Stream{Kid: kid(old, 2), From: 5, Next: 7, Final: true})
	b.pass(3 * time.Second)
	got := b.picture().Gateways
	want := Gateway{Group: "default", Name: "gw1", Streams: 1, Sealed: 18, PerMinute: 30, Burned: 2, Checkpoint: 3, Epoch: "1.1.1"}
	if len(got) != 1 || got[0] != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	b.announce("gw1", 1, 2, false)
	for range 4 {
		b.pass(10 * time.Second)
		b.tells("gw1", checkpoint.Last, checkpoint.Stream{Kid: kid(old, 1), From: 13, Next: 14})
	}
	b.pass(time.Second)
	b.want("behind gw1")
	b.numbers["gw1"] += 2
	b.tells("gw1", checkpoint.Last)
	b.pass(20 * time.Second)
	b.want("silent gw1", "withheld gw1")
	if g := b.picture().Gateways[0]; !g.Silent || !g.Behind {
		t.Errorf("%+v", g)
	}
	b.numbers["gw1"]-- // played again
	b.tells("gw1", checkpoint.Last)
	b.tells("gw1", checkpoint.Ending)
	b.pass(time.Minute)
	if g := b.picture().Gateways[0]; g.Silent || !g.Ended || g.Streams != 0 {
		t.Errorf("%+v", g)
	}
	told := b.told()
	for _, c := range []string{"gateway", "!withheld", "!silent", "heard", "ended", "-silent", "!behind"} {
		if !slices.Contains(told, c) {
			t.Errorf("no change %s in %q", c, told)
		}
	}
	b.pass(hold)
	b.want("behind gw1")
	if p := b.picture(); p.Refused != 1 || len(p.Unseen) != 2 || !strings.Contains(p.Unseen[0], "does not let ops read") {
		t.Errorf("refused %d, unseen %q", p.Refused, p.Unseen)
	}
}

// missing is a report about numbers of a stream.
func (b *bench) missing(status subscriber.Status, from, to uint64) {
	b.fleet.Message(b.now(), &subscriber.Message{Status: status, Group: "default", Topic: "t", Sealed: true, Stream: crypto.StreamID{9}, From: from, To: to})
}

func TestMissing(t *testing.T) {
	b := newBench(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	is := func(now, total uint64, alarms ...string) {
		t.Helper()
		b.pass(time.Second)
		p := b.picture()
		if g := p.Gateways[len(p.Gateways)-1]; g.Missing != now || g.MissingTotal != total {
			t.Errorf("%d missing, %d in all; want %d, %d", g.Missing, g.MissingTotal, now, total)
		}
		b.want(alarms...)
	}
	b.missing(subscriber.StatusGap, 5, 9)
	is(5, 5, "gap")
	b.missing(subscriber.StatusGapFilled, 6, 6)
	is(4, 5, "gap")
	b.missing(subscriber.StatusBurned, 5, 5) // it was never sent
	is(3, 4, "gap")
	b.missing(subscriber.StatusBurned, 20, 20)
	b.missing(subscriber.StatusDropped, 15, 22)
	is(10, 11, "dropped", "gap")
	b.missing(subscriber.StatusGap, 15, 22) // the same, seen by the window
	is(10, 11, "dropped", "gap")
	b.missing(subscriber.StatusRecovered, 15, 22)
	is(3, 11, "gap")
	b.tells("gw1", checkpoint.Last, checkpoint.Stream{Kid: crypto.NewKid(crypto.KeyID{}, crypto.StreamID{9}), Next: 23})
	b.pass(time.Second)
	b.want("gap gw1")
	for range hold / (5 * time.Second) {
		b.pass(5 * time.Second)
		b.announce("gw1", 1, 1, true)
		b.fleet.SetState(b.now(), b.signed, b.ring(1, 1))
		b.tells("gw1", checkpoint.Last)
	}
	is(0, 11)
	for range streamLife / (5 * time.Second) {
		b.pass(5 * time.Second)
		b.tells("gw1", checkpoint.Last)
	}
	is(0, 11) // also when the stream is forgotten
	if len(b.fleet.streams) != 0 {
		t.Error("a stream is remembered for ever")
	}
}

func TestAlarmsOfMessages(t *testing.T) {
	b := newBench(t, func(d *policy.Document) { d.Groups[0].Keepers = []string{"gw1"} })
	b.announce("gw1", 1, 1, true)
	b.fleet.SetState(b.now(), b.signed, b.ring(1, 1))
	b.told()
	for range 1000 {
		b.fleet.Message(b.now(), &subscriber.Message{Status: subscriber.StatusForged, Group: "default", Topic: "t"})
	}
	b.fleet.Message(b.now(), &subscriber.Message{Status: subscriber.StatusOK, Group: "default", Topic: "t"})
	b.fleet.Message(b.now(), &subscriber.Message{Status: subscriber.StatusDuplicate, Group: "default", Topic: "t"})
	b.fleet.Message(b.now(), &subscriber.Message{Status: subscriber.StatusUnattributed, Group: "default", Topic: "t", To: 4})
	b.want("forged", "unattributed")
	if got := b.told(); !slices.Equal(got, []string{"!forged", "!unattributed"}) {
		t.Errorf("changes %q", got)
	}
	p := b.picture()
	if p.Groups[0].Messages != 1 || p.Alarms[0].Count != 1000 || p.Alarms[0].Detail != "topic t" {
		t.Errorf("%+v", p)
	}
	b.fleet.SetLink(b.now(), LinkMessages, fmt.Errorf("gone"))
	b.pass(time.Second)
	b.want("forged", "link", "unattributed")
	b.fleet.SetLink(b.now(), LinkMessages, nil)
	b.pass(hold)
	b.want()
}

// What can be made to grow is bounded.
func TestBounds(t *testing.T) {
	b := newBench(t)
	for i := range maxMembers + 10 {
		h := control.Heard{Kind: control.KindHello, From: crypto.Member{Role: crypto.RoleSubscriber, Name: fmt.Sprint(i)}}
		b.mono++
		b.fleet.at(b.now())
		b.fleet.heard(&h, "", 1)
		b.fleet.raise(AlarmRefused, "", fmt.Sprint(i), "")
	}
	if len(b.fleet.members) != maxMembers || b.fleet.members["subscriber/0"] != nil || len(b.fleet.alarms) != maxAlarms || len(b.fleet.changes) > maxChanges {
		t.Errorf("%d members, %d alarms, %d changes", len(b.fleet.members), len(b.fleet.alarms), len(b.fleet.changes))
	}
	s := new(stream)
	for i := range uint64(1000) {
		s.miss(4*i, 4*i+1, false, 0)
		s.unsent(4*i+2, 4*i+2)
	}
	if len(s.missing) != maxSpans || len(s.burned) != maxSpans || s.total != 2000 {
		t.Errorf("%d ranges missing, %d burned, %d in all", len(s.missing), len(s.burned), s.total)
	}
	for i := range maxStreams + 1 {
		b.fleet.stream(streamKey{"default", crypto.Kid{byte(i), byte(i >> 8), byte(i >> 16)}})
	}
	if len(b.fleet.streams) != maxStreams {
		t.Errorf("%d streams", len(b.fleet.streams))
	}
}

// Without a policy nothing is believed, and after a while that is an alarm.
func TestNoPolicy(t *testing.T) {
	b := newBench(t)
	b.fleet = New(b.now(), Config{Trust: b.trust, Self: b.id(crypto.RoleSubscriber, "alice").Member(), Prefix: prefix, NoMessages: "--no-messages"})
	b.hello("gw1")
	b.pass(settling)
	b.want("no-policy")
	if p := b.picture(); p.Refused != 1 || len(p.Members) != 0 || p.Policy != 0 || len(p.Groups) != 0 {
		t.Errorf("%+v", p)
	}
	if !b.fleet.SetState(b.now(), b.signed, nil) || b.fleet.SetState(b.now(), b.signed, nil) {
		t.Error("a policy is new once")
	}
	b.hello("gw1")
	if p := b.picture(); len(p.Members) != 1 || p.Members[0].Name != "gw1" || p.Members[0].About != "asks for confirm of default" || p.Members[0].Policy != 1 {
		t.Errorf("%+v", p.Members)
	}
}
