package control

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// A fleet in virtual time: machines around a broker that keeps, loses, repeats
// and reorders on demand. Nothing in it sleeps or looks at a clock.

const testPrefix = "sealgate"

var testStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is the fleet's CA, its network and the virtual time.
type world struct {
	t             *testing.T
	rand          *rand.ChaCha8
	caKey, caCert []byte
	trust         *crypto.Trust
	authority     *crypto.Identity
	doc           *policy.Document
	signed        *policy.Signed
	mono          time.Duration
	nodes         []*node
	queue         []delivery
	seq           int
	retained      map[string][]byte
	retainedOf    map[string]*node
	log           []record // everything ever published
	// drop, when set, loses a message on its way to a node.
	drop func(to *node, topic string) bool
	// cut, when set, keeps what one node publishes from another, also if it was retained.
	cut func(from, to *node) bool
	// latency, when set, is how long a message takes; nil: 5 ms.
	latency func() time.Duration
	repeat  bool   // every delivery happens twice
	prefer  func() // runs after every step
}

type delivery struct {
	at       time.Duration
	seq      int
	to       *node
	session  int
	topic    string
	payload  []byte
	retained bool
}

type record struct {
	from    *node
	topic   string
	payload []byte
	at      time.Duration
}

type node struct {
	w           *world
	id          *crypto.Identity
	cfg         Config
	m           *Machine
	session     int
	subs        map[string]bool
	ring        *crypto.Keyring
	policy      *policy.Signed
	events      []Event
	joined      bool
	checkpoints []ReceivedCheckpoint
	kept        map[string][]byte // with Config.Keep, for the next boot
}

func testDocument(version uint64) *policy.Document {
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.Publish = []string{"#"}, []string{"gw1", "gw2"}, []string{"gw*"}
	return &policy.Document{Fleet: "plant", Version: version, Unmatched: "deny", Groups: []policy.Group{g}}
}

func newWorld(t *testing.T, edit ...func(*policy.Document)) *world {
	t.Helper()
	w := &world{t: t, rand: rand.NewChaCha8([32]byte{1, 2, 3}), retained: make(map[string][]byte), retainedOf: make(map[string]*node), mono: time.Hour}
	var err error
	if w.caKey, w.caCert, err = crypto.NewCA("plant", w.rand, testStart); err != nil {
		t.Fatal(err)
	}
	if w.trust, err = crypto.NewTrust("plant", w.caCert); err != nil {
		t.Fatal(err)
	}
	if w.authority, err = crypto.ParseAuthority(w.caKey, w.caCert); err != nil {
		t.Fatal(err)
	}
	w.doc = testDocument(1)
	for _, f := range edit {
		f(w.doc)
	}
	w.signed = w.sign(w.doc)
	return w
}

func (w *world) now() Time { return Time{Mono: w.mono, Wall: testStart.Add(w.mono)} }

// sign makes a policy of doc.
func (w *world) sign(doc *policy.Document) *policy.Signed {
	w.t.Helper()
	raw, err := doc.Sign(w.authority)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := policy.Verify(w.trust, raw, w.now().Wall)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// nextPolicy signs the next version, changed by edit, without publishing it.
func (w *world) nextPolicy(edit func(*policy.Document)) *policy.Signed {
	next := *w.doc
	next.Groups = slices.Clone(w.doc.Groups)
	next.Version, next.Previous = w.doc.Version+1, w.signed.Hash
	edit(&next)
	w.doc = &next
	w.signed = w.sign(&next)
	return w.signed
}

func (w *world) identity(role crypto.Role, name string) *crypto.Identity {
	w.t.Helper()
	key, cert, err := crypto.IssueMember(w.caKey, w.caCert, role, name, w.rand, testStart)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, w.caCert)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// add makes a member, not yet connected.
func (w *world) add(role crypto.Role, name string, edit ...func(*Config)) *node {
	w.t.Helper()
	n := &node{w: w, id: w.identity(role, name)}
	n.cfg = Config{Identity: n.id, Trust: w.trust, Policy: w.signed, Prefix: testPrefix}
	for _, f := range edit {
		f(&n.cfg)
	}
	n.boot()
	w.nodes = append(w.nodes, n)
	return n
}

// boot starts the member's program anew: nothing is remembered.
func (n *node) boot() {
	n.w.t.Helper()
	var seed [32]byte
	n.w.rand.Read(seed[:])
	n.cfg.Rand, n.cfg.Kept = rand.NewChaCha8(seed), maps.Clone(n.kept)
	m, err := New(n.cfg)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.m, n.ring, n.joined, n.subs = m, nil, false, nil
	n.session++
	n.flush()
}

func (n *node) name() string { return n.id.Member().Name }

// subscribes reports whether one of the node's subscriptions matches a topic.
func (n *node) subscribes(name string) bool {
	at := strings.LastIndexByte(name, '/')
	return n.subs[name] || n.subs[name[:at+1]+"+"]
}

func (n *node) connect() *node {
	n.session++
	n.subs = make(map[string]bool)
	n.m.Connected(n.w.now())
	n.flush()
	return n
}

func (n *node) disconnect() {
	n.session++
	n.subs = nil
	n.m.Disconnected(n.w.now())
	n.flush()
}

// flush does what the machine wants done.
func (n *node) flush() {
	out := n.m.Take()
	n.events = append(n.events, out.Events...)
	for _, k := range out.Keep {
		if n.kept == nil {
			n.kept = make(map[string][]byte)
		}
		if delete(n.kept, k.Group); k.State != nil {
			n.kept[k.Group] = k.State
		}
	}
	n.checkpoints = append(n.checkpoints, out.Checkpoints...)
	if out.Keyring != nil {
		n.ring = out.Keyring
		n.joined = n.joined || len(n.ring.Keys("default")) > 0
	}
	if out.Policy != nil {
		n.policy = out.Policy
	}
	if n.subs == nil {
		return
	}
	for _, s := range out.Unsubscribe {
		delete(n.subs, s)
	}
	for _, s := range out.Subscribe {
		n.subs[s] = true
		if p, ok := n.w.retained[s]; ok && (n.w.cut == nil || !n.w.cut(n.w.retainedOf[s], n)) {
			n.w.deliver(n, s, p, true)
		}
	}
	for _, p := range out.Publish {
		n.w.publish(n, p.Topic, p.Payload, p.Retain)
	}
}

// publish is the broker receiving a message.
func (w *world) publish(from *node, topic string, payload []byte, retain bool) {
	w.log = append(w.log, record{from, topic, payload, w.mono})
	if retain {
		w.retained[topic], w.retainedOf[topic] = payload, from
	}
	for _, n := range w.nodes {
		if n.subscribes(topic) && (w.cut == nil || !w.cut(from, n)) {
			w.deliver(n, topic, payload, false)
		}
	}
}

func (w *world) deliver(to *node, topic string, payload []byte, retained bool) {
	times := 1
	if w.repeat {
		times = 2
	}
	for range times {
		if w.drop != nil && w.drop(to, topic) {
			continue
		}
		delay := 5 * time.Millisecond
		if w.latency != nil {
			delay = w.latency()
		}
		w.seq++
		d := delivery{w.mono + delay, w.seq, to, to.session, topic, bytes.Clone(payload), retained}
		at, _ := slices.BinarySearchFunc(w.queue, d, func(a, b delivery) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
		w.queue = slices.Insert(w.queue, at, d)
	}
}

// run lets d pass.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	end := w.mono + d
	for steps := 0; ; steps++ {
		next, who := end, (*node)(nil)
		for _, n := range w.nodes {
			if at, ok := n.m.Deadline(); ok && at < next {
				next, who = at, n
			}
		}
		if len(w.queue) > 0 && w.queue[0].at <= next {
			w.arrive()
		} else if who == nil {
			break
		} else {
			w.mono = max(w.mono, next)
			who.m.Advance(w.now())
			who.flush()
			if at, ok := who.m.Deadline(); ok && at <= w.mono {
				w.t.Fatalf("%s: a timer at %v did not advance (now %v)", who.name(), at, w.mono)
			}
		}
		if w.prefer != nil {
			w.prefer()
		}
		if steps > 5_000_000 {
			w.t.Fatal("the fleet does not come to rest")
		}
	}
	w.mono = end
}

func (w *world) arrive() {
	d := w.queue[0]
	w.queue = w.queue[1:]
	w.mono = max(w.mono, d.at)
	if d.session == d.to.session && (d.to.subscribes(d.topic) || d.topic == "") {
		d.to.m.Receive(w.now(), d.topic, d.payload, d.retained)
		d.to.flush()
	}
}

// inject gives one node a message, as a broker that makes it up.
func (n *node) inject(topic string, payload []byte) []Event {
	before := len(n.events)
	n.m.Receive(n.w.now(), topic, bytes.Clone(payload), false)
	n.flush()
	return n.events[before:]
}

// count is the number of messages of a kind that were published since mark.
func (w *world) count(kind Kind, mark int) (n int) {
	for _, r := range w.log[mark:] {
		if kindOf(r.payload) == kind {
			n++
		}
	}
	return n
}

// countFrom is the same of one node.
func (w *world) countFrom(from *node, kind Kind, mark int) (n int) {
	for _, r := range w.log[mark:] {
		if r.from == from && kindOf(r.payload) == kind {
			n++
		}
	}
	return n
}

// countTopic is the number of messages that were published on a topic since mark.
func (w *world) countTopic(topic string, mark int) (n int) {
	for _, r := range w.log[mark:] {
		if r.topic == topic {
			n++
		}
	}
	return n
}

// sendKey is what a node seals under.
func (n *node) sendKey() *crypto.Key { return n.ring.Send("default") }

func (n *node) epoch() crypto.Epoch {
	if k := n.ring.Keys("default"); len(k) > 0 {
		return k[0].Epoch
	}
	return crypto.Epoch{}
}

// refused reports whether one of the events refuses a message because of want.
func refused(events []Event, want error) bool {
	return slices.ContainsFunc(events, func(e Event) bool { return e.Result == ResultRefused && errors.Is(e.Err, want) })
}

func describe(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "\n  %v %s %s %s %s %s %v", e.At, e.Kind, e.Result, e.Group, e.From, e.Detail, e.Err)
	}
	return b.String()
}

// mustAgree fails unless every connected member holds the same newest epoch.
func (w *world) mustAgree() {
	w.t.Helper()
	want := w.nodes[0].epoch()
	if want == (crypto.Epoch{}) {
		w.t.Fatalf("%s has no keys:%s", w.nodes[0].name(), describe(w.nodes[0].events))
	}
	for _, n := range w.nodes {
		if n.subs != nil && !n.cfg.Keyless && n.epoch() != want {
			w.t.Fatalf("%s is at epoch %v, %s at %v:%s", n.name(), n.epoch(), w.nodes[0].name(), want, describe(n.events))
		}
	}
}

// watchSenders fails as soon as a sender uses a key that a joined, connected member lacks.
func (w *world) watchSenders() {
	w.prefer = func() {
		for _, s := range w.nodes {
			k := s.sendKey()
			if k == nil {
				continue
			}
			for _, n := range w.nodes {
				if n.joined && n.subs != nil && n.ring.Find("default", k.ID) == nil {
					w.t.Fatalf("at %v %s seals under epoch %v, which %s does not have", w.mono, s.name(), k.Epoch, n.name())
				}
			}
		}
	}
}

// fleet connects gw1, gw2 and a subscriber, and lets them settle.
func (w *world) fleet() (gw1, gw2, sub *node) {
	w.t.Helper()
	gw1 = w.add(crypto.RoleGateway, "gw1").connect()
	gw2 = w.add(crypto.RoleGateway, "gw2").connect()
	sub = w.add(crypto.RoleSubscriber, "alice").connect()
	w.run(15 * time.Second)
	w.mustAgree()
	return gw1, gw2, sub
}
