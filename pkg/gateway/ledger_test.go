package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

const interval = 10 * time.Second

// receiver is a gateway with one device, in virtual time, among members whose word the test is.
type receiver struct {
	*bench
	t      *testing.T
	f      *fleet
	now    time.Duration
	number map[string]uint64
	subs   uint16
}

func newReceiver(t *testing.T, v mqttparse.Version, edit ...func(*policy.Document)) *receiver {
	t.Helper()
	r := &receiver{t: t, f: newFleet(t), now: time.Hour, number: make(map[string]uint64)}
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.Checkpoint = []string{"s/#"}, []string{"gw1"}, interval
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: policy.WordPass, Groups: []policy.Group{g}}
	for _, e := range edit {
		e(doc)
	}
	state := r.f.rotate(1, "default")
	var err error
	if state.Table, err = doc.Table(); err != nil {
		t.Fatal(err)
	}
	state.Policy = doc
	r.bench = newBench(t, state, v, Config{Gateway: "gw1", Now: func() time.Duration { return r.now }})
	r.connack(t, false)
	r.g.Hear(true)
	return r
}

// subscribe has the device subscribe, and the broker answer with a code.
func (r *receiver) subscribe(options, code byte, filters ...string) {
	r.t.Helper()
	r.subs++
	body := binary.BigEndian.AppendUint16(nil, r.subs)
	ack := binary.BigEndian.AppendUint16(nil, r.subs)
	if r.c.version == mqttparse.V5 {
		body, ack = append(body, 0), append(ack, 0)
	}
	for _, f := range filters {
		body = append(append(binary.BigEndian.AppendUint16(body, uint16(len(f))), f...), options)
		ack = append(ack, code)
	}
	r.fromDevice(r.t, packet(0x82, body))
	r.fromBroker(r.t, packet(0x90, ack))
	r.g.look()
}

func (r *receiver) unsubscribe(filter string) {
	r.t.Helper()
	body := append(binary.BigEndian.AppendUint16([]byte{0, 9}, uint16(len(filter))), filter...)
	r.fromDevice(r.t, packet(0xa2, body))
}

func packet(first byte, body []byte) []byte {
	return append(mqttparse.AppendVarint([]byte{first}, len(body)), body...)
}

// leave ends the connection, return begins another of the same client.
func (r *receiver) leave() { r.c.deafens() }

func (r *receiver) comeBack(present bool) {
	r.t.Helper()
	r.reconnect(r.t, r.c.version, "dev1", !present)
	r.connack(r.t, present)
}

// pass lets time pass, with a look every second.
func (r *receiver) pass(d time.Duration) {
	for end := r.now + d; r.now < end; {
		r.now += time.Second
		r.g.look()
	}
}

// says is a checkpoint of one member.
func (r *receiver) says(name string, streams ...checkpoint.Stream) {
	slices.SortFunc(streams, func(a, b checkpoint.Stream) int { return slices.Compare(a.Kid[:], b.Kid[:]) })
	r.g.Checkpoint(name, &checkpoint.Message{Group: "default", Number: r.number[name], State: checkpoint.Last, Streams: streams})
	r.number[name]++
}

// sender is a stream of another gateway, and how much of it was sent.
type sender struct {
	*sealer
	r    *receiver
	sent uint64
	told uint64
}

func (r *receiver) sender(topic string) *sender {
	return &sender{sealer: r.f.sealer("default", topic), r: r}
}

// arrives seals a message that the broker delivers; lost, one that it does not.
func (s *sender) arrives() {
	s.r.t.Helper()
	before := s.r.count(downOpen)
	s.r.fromBroker(s.r.t, publishPacket(s.r.c.version, s.next("x", 0, 0)))
	s.sent++
	if s.r.count(downOpen) != before+1 {
		s.r.t.Fatalf("message %d on %s was not opened", s.sent-1, s.topic)
	}
}

func (s *sender) lost() {
	s.next("x", 0, 0)
	s.sent++
}

// head is what its gateway says of it.
func (s *sender) head() checkpoint.Stream {
	kid := s.stream.Kid()
	d, _ := s.r.g.digest("default", kid.KeyID(), sha256.Sum256([]byte(s.topic)))
	h := checkpoint.Stream{Topic: d, Kid: kid, From: s.told, Next: s.sent}
	s.told = s.sent
	return h
}

// joined has gw2 heard of for an interval, so that what it sends from now on is missed.
func (r *receiver) joined() {
	r.says("gw2")
	r.pass(interval)
	r.says("gw2")
}

// want fails unless these events, and no others but burned, have happened.
func (r *receiver) want(events ...string) {
	r.t.Helper()
	r.g.look()
	got := []string{}
	for _, e := range r.g.Status().Checkpoints.Recent {
		got = append(got, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", e.Event, e.Gateway, e.Topic)), " ")+fmt.Sprintf(" %d-%d", e.From, e.To))
	}
	if !slices.Equal(got, events) {
		r.t.Errorf("events %q, want %q", got, events)
	}
}

func TestDroppedTailBehindAGateway(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	if got := r.g.Listening(); !slices.Equal(got, []string{"default"}) {
		t.Fatalf("listens to %q", got)
	}
	r.joined()
	s := r.sender("s/a")
	for range 3 {
		s.arrives()
	}
	s.lost()
	s.lost()
	r.says("gw2", s.head())
	r.pass(interval - 2*time.Second)
	r.want()
	r.pass(2 * time.Second) // with a second in which nobody looks
	r.want("dropped gw2 s/a 3-4")
	st := r.g.Status().Checkpoints.Groups["default"]
	if st.Dropped != 2 || st.Senders != 1 || st.Events["dropped"] != 1 {
		t.Errorf("%+v", st)
	}
	r.says("gw2")
	s.arrives() // one that comes late, if under another number, and one more that does not
	s.lost()
	r.says("gw2", s.head())
	r.pass(interval)
	r.says("gw2")
	r.want("dropped gw2 s/a 3-4", "dropped gw2 s/a 6-6")
}

// Traffic of an honest fleet and broker causes no event: streams that begin and end, pauses, quiet members.
func TestHonestTrafficBehindAGateway(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	r.joined()
	var streams []*sender
	for round := range 30 {
		end := r.now + interval
		streams = append(streams, r.sender(fmt.Sprint("s/", round%7)))
		for k, s := range streams {
			if (round+k)%3 > 0 {
				continue
			}
			for range 1 + k%4 {
				if s.arrives(); r.now < end-2*time.Second {
					r.pass(time.Second)
				}
			}
		}
		r.pass(end - r.now)
		var heads []checkpoint.Stream
		for _, s := range streams {
			if s.told != s.sent {
				heads = append(heads, s.head())
			}
		}
		r.says("gw2", heads...)
	}
	r.want()
}

func TestSilencedGatewayBehindAGateway(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/+")
	r.joined()
	r.pass(2*interval - 3*time.Second)
	r.want()
	r.pass(3 * time.Second)
	r.want("silent gw2 0-0")
	if got := r.g.Status().Checkpoints.Groups["default"].Silent; !slices.Equal(got, []string{"gw2"}) || r.g.silent() != 1 {
		t.Errorf("silent: %q", got)
	}
	r.says("gw2")
	r.want("silent gw2 0-0", "heard gw2 0-0")
}

func TestUnattributedStreamBehindAGateway(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/a")
	r.joined()
	r.pass(time.Second)
	s := r.sender("s/a")
	s.arrives()
	r.pass(interval - time.Second)
	r.says("gw2")
	r.pass(interval - 2*time.Second)
	r.want()
	r.says("gw2")
	r.pass(3 * time.Second) // two intervals after it came, at the latest
	r.want("unattributed s/a 0-0")
}

// long are n filters of 92 bytes.
func long(n int) (filters []string) {
	for i := range n {
		filters = append(filters, fmt.Sprintf("s/%090d", i))
	}
	return filters
}

// What a gateway may miss of a stream of which nothing arrives is what its devices get in any case: all of the group, or
// that topic by its name. This is the rule of pkg/subscriber.
func TestWhatIsMissed(t *testing.T) {
	const all, one = "s/#", "s/a"
	tests := map[string]struct {
		v       mqttparse.Version
		options byte
		code    byte
		filters []string
		missed  bool // a stream on s/a of which nothing arrives
		seen    bool // the tail of a stream on s/a of which something arrived
	}{
		"all":                     {filters: []string{all}, missed: true, seen: true},
		"everything":              {filters: []string{"#"}, missed: true, seen: true},
		"by name":                 {filters: []string{one}, missed: true, seen: true},
		"by wildcard":             {filters: []string{"s/+"}, seen: true},
		"another":                 {filters: []string{"s/b"}},
		"refused":                 {filters: []string{all}, code: 0x80},
		"shared":                  {filters: []string{"$share/g/s/#"}},
		"no local":                {v: mqttparse.V5, options: mqttparse.NoLocal, filters: []string{all}},
		"retain as published":     {v: mqttparse.V5, options: mqttparse.RetainAsPublished, filters: []string{all}},
		"all, in MQTT 5":          {v: mqttparse.V5, options: 1, filters: []string{all}, missed: true, seen: true},
		"shared, and all":         {filters: []string{"$share/g/s/#", all}, missed: true, seen: true},
		"more than is remembered": {filters: append(long(12), all)},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, max(c.v, mqttparse.V311))
			last := len(c.filters) - 1
			r.subscribe(c.options, c.code, append([]string{"other/topic"}, c.filters[:last]...)...) // of no group: it must not matter
			r.subscribe(c.options, c.code, c.filters[last])
			s, unseen := r.sender("s/a"), r.sender("s/a")
			s.arrives()
			r.joined()
			s.lost()
			unseen.lost()
			r.says("gw2", s.head(), unseen.head())
			r.pass(interval)
			r.says("gw2")
			var want []string
			if c.seen {
				want = append(want, "dropped gw2 s/a 1-1")
			}
			if c.missed {
				want = append(want, "dropped gw2 0-0")
			}
			got := r.g.Status().Checkpoints.Recent
			if len(got) == 2 && got[0].Topic == "" { // the order of the two depends on their ids
				slices.Reverse(want)
			}
			r.want(want...)
		})
	}
}

// Nobody misses what is sent while nobody listens: after UNSUBSCRIBE, while the device is away, and before it listened.
func TestNobodyListens(t *testing.T) {
	for _, how := range []string{"unsubscribed", "away", "away, session kept"} {
		t.Run(how, func(t *testing.T) {
			r := newReceiver(t, mqttparse.V311)
			r.subscribe(0, 0, "s/#")
			r.joined()
			s := r.sender("s/a")
			s.arrives()
			r.says("gw2", s.head())
			if how == "unsubscribed" {
				r.unsubscribe("s/#")
			} else {
				r.leave()
			}
			s.lost()
			r.pass(interval - time.Second)
			r.says("gw2", s.head())
			r.pass(interval - time.Second)
			s.lost()
			switch how { // it listens again, and the checkpoint that comes tells of what was sent before
			case "unsubscribed":
				r.subscribe(0, 0, "s/#")
			case "away":
				r.comeBack(false)
				r.subscribe(0, 0, "s/#")
			default:
				r.comeBack(true)
			}
			r.pass(interval / 2)
			r.says("gw2", s.head())
			r.pass(interval - time.Second)
			r.says("gw2")
			r.want()
			s.lost() // and this is missed
			r.says("gw2", s.head())
			r.pass(interval)
			r.says("gw2")
			r.want("dropped gw2 s/a 3-3")
		})
	}
}

// A second device that listens all the time keeps the watch.
func TestAnotherDeviceListens(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	first := r.c
	r.reconnect(t, mqttparse.V311, "dev2", true)
	r.connack(t, false)
	r.subscribe(0, 0, "s/+")
	r.joined()
	first.deafens()
	s := r.sender("s/a")
	s.arrives()
	s.lost()
	r.says("gw2", s.head())
	r.pass(interval)
	r.says("gw2")
	r.want("dropped gw2 s/a 1-1")
}

// While checkpoints are not heard nothing is missed, nobody is silent, and nothing need be claimed.
func TestCheckpointsAreNotHeard(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	r.joined()
	s := r.sender("s/a")
	s.arrives()
	s.lost()
	r.says("gw2", s.head())
	r.g.Hear(false)
	r.pass(5 * interval)
	s.arrives()
	r.pass(interval)
	r.g.Hear(true)
	r.pass(interval / 2)
	r.says("gw2", s.head())
	r.pass(interval)
	r.says("gw2")
	r.want()
	s.lost()
	r.says("gw2", s.head())
	r.pass(interval)
	r.says("gw2")
	r.want("dropped gw2 s/a 3-3")
}

// What a broker has kept for a device since before anybody here listened is nobody's to claim.
func TestKeptMessagesNeedNoClaim(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	r.joined()
	old := r.sender("s/a")
	r.leave()
	r.comeBack(true)
	old.arrives()
	for range 4 {
		r.pass(interval)
		r.says("gw2")
	}
	r.want()
}

// Of a group that this gateway may not read no checkpoints come, so nothing is held against anybody; so it is without a policy document.
func TestNoLedgerWithoutCheckpoints(t *testing.T) {
	for name, edit := range map[string]func(*policy.Document){
		"may not read": func(d *policy.Document) { d.Groups[0].Read = []string{"alice"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, mqttparse.V311, edit)
			r.subscribe(0, 0, "s/#")
			r.sender("s/a").arrives()
			r.pass(5 * interval)
			r.want()
			if got := r.g.Listening(); len(got) != 0 {
				t.Errorf("wants checkpoints of %q", got)
			}
		})
	}
}

// A ledger outlives short absences of its devices, and not long ones.
func TestListeningLingers(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#")
	r.leave()
	r.pass(wantedFor)
	if got := r.g.Listening(); len(got) != 1 {
		t.Errorf("after %v: %q", wantedFor, got)
	}
	r.pass(2 * time.Second)
	if got := r.g.Listening(); len(got) != 0 {
		t.Errorf("nobody listens, and checkpoints of %q are wanted", got)
	}
}

// Arrivals are bounded; those that find no room suspend the ledgers instead of being missed.
func TestArrivalsAreBounded(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.g.cfg.MaxStreams = 8
	r.subscribe(0, 0, "s/#")
	r.joined()
	var heads []checkpoint.Stream
	for i := range 20 {
		s := r.sender(fmt.Sprint("s/", i))
		s.arrives()
		heads = append(heads, s.head())
	}
	r.says("gw2", heads...)
	r.pass(interval)
	r.says("gw2")
	r.want()
	if n := r.g.arrivals.n; n > 8 {
		t.Errorf("%d arrivals", n)
	}
	r.leave()
	r.g.look()
	if n := r.g.arrivals.n; n != 0 || len(r.g.arrivals.list) != 0 {
		t.Errorf("%d arrivals of a connection that has ended", n)
	}
}

// What devices subscribe to is counted once for each session, and no longer than it is connected.
// Each code of a SUBACK is for the filter at its place, of the SUBSCRIBE with its identifier, also if that came before CONNACK. An answer to
// a connection that has ended is none.
func TestAnswersGoByTheirPlace(t *testing.T) {
	r := newReceiver(t, mqttparse.V5)
	listens := func(want ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(r.g.listening.filters)); !slices.Equal(got, want) {
			t.Errorf("listens to %q, want %q", got, want)
		}
	}
	ask := func(id byte, options byte, filters ...string) {
		body := []byte{0, id, 0}
		for _, f := range filters {
			body = append(append(append(body, 0, byte(len(f))), f...), options)
		}
		r.fromDevice(t, packet(0x82, body))
	}
	answer := func(id byte, codes ...byte) { r.fromBroker(t, packet(0x90, append([]byte{0, id, 0}, codes...))) }
	ask(1, 0, "a", "b", "c")
	ask(2, 0, "d", "e")
	answer(2, 0x87, 1)
	listens("e")
	answer(1, 0, 0x80)
	listens("a", "e")
	ask(3, mqttparse.NoLocal, "e")
	listens("a", "e") // until the broker has taken it
	answer(3, 0)
	listens("a")
	answer(1, 0, 0, 0)
	listens("a")
	ask(4, 0, "f", "g")
	r.reconnect(t, mqttparse.V5, "dev1", false)
	listens()
	ask(4, 0, "h")
	r.connack(t, true)
	answer(4, 0, 0)
	listens("a", "h")
	r.reconnect(t, mqttparse.V5, "dev1", false)
	ask(1, 0, "a")
	r.connack(t, false)
	listens()
	answer(1, 0)
	listens("a")
}

func TestListeningIsCounted(t *testing.T) {
	r := newReceiver(t, mqttparse.V311)
	r.subscribe(0, 0, "s/#", "s/a", "s/a")
	r.subscribe(0, 0, "s/#")
	if n := len(r.g.listening.filters); n != 2 || r.g.listening.filters["s/#"].sessions != 1 {
		t.Errorf("%d filters", n)
	}
	r.unsubscribe("s/a")
	r.unsubscribe("never/was")
	if _, ok := r.g.listening.to("s/a"); !ok || len(r.g.listening.filters) != 1 {
		t.Error("s/a is still listened to, by s/#")
	}
	r.leave()
	r.leave()
	if len(r.g.listening.filters)+len(r.g.listening.wild) != 0 {
		t.Errorf("%v", r.g.listening.filters)
	}
	for i := range 2 * maxGranted {
		r.comeBack(true)
		r.subscribe(0, 0, fmt.Sprint("s/", i))
	}
	if n := r.c.sess.subs.granted; n > maxGranted || r.c.sess.subs.grantedBytes > maxFilterBytes {
		t.Errorf("%d filters of one session", n)
	}
}
