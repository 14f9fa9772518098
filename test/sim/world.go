package main

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

const (
	prefix    = "sealgate"
	groupName = "default"
	latency   = 20 * time.Millisecond // from a publisher to a subscriber
	forever   = 1<<63 - 1
)

// serverRate is how many Grants a second the keeper of the simulation hands out: one on a server.
const serverRate = 2_000

// world is a broker, a clock and the members.
type world struct {
	pool   *pool
	rand   *rand.ChaCha8
	doc    *policy.Document
	signed *policy.Signed

	mono   time.Duration
	seq    uint64
	events events

	retained map[string][]byte
	nodes    []*node
	keepers  []*node
	shadows  []*shadow
	inboxes  map[string]*shadow
	phase    int // of the run: a shadow follows its member once in each
	online   int // shadows that are connected
	waiting  int // shadows that wait for an answer

	count traffic
}

// traffic is what happened since it was last reset.
type traffic struct {
	sent, bytes           map[string]int // by kind, published by whomever
	deliveries, delivered int            // messages and bytes from the broker to members
	keeperCPU, standbyCPU time.Duration  // of the first keeper, and of the two others
	sampleCPU             time.Duration
}

func (c *traffic) reset() { *c = traffic{sent: map[string]int{}, bytes: map[string]int{}} }

func (c *traffic) total() (messages, bytes int) {
	for kind, n := range c.sent {
		messages, bytes = messages+n, bytes+c.bytes[kind]
	}
	return messages, bytes
}

func newWorld(p *pool, edit func(*policy.Document)) (*world, error) {
	w := &world{pool: p, rand: rand.NewChaCha8([32]byte{7}), mono: time.Hour, retained: map[string][]byte{}, inboxes: map[string]*shadow{}}
	w.count.reset()
	g := policy.DefaultGroup(groupName)
	g.Topics, g.Publish, g.Keepers = []string{"#"}, []string{"gw*"}, []string{"keeper1", "keeper2", "keeper3"}
	w.doc = &policy.Document{Fleet: fleetName, Version: 1, Unmatched: "deny", Groups: []policy.Group{g}}
	if edit != nil {
		edit(w.doc)
	}
	return w, w.sign()
}

// sign signs the document as the policy of the fleet.
func (w *world) sign() error {
	raw, err := w.doc.Sign(w.pool.authority)
	if err != nil {
		return err
	}
	w.signed, err = policy.Verify(w.pool.trust, raw, w.now().Wall)
	return err
}

func (w *world) now() control.Time { return control.Time{Mono: w.mono, Wall: epoch.Add(w.mono)} }

// jitter is a random time below d.
func (w *world) jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rand.Uint64() % uint64(d))
}

// event is something that happens at a moment; events of one moment happen in the order in which they were made.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, event{w.mono + d, w.seq, do})
}

// run lets time pass until done says so, at most d; it reports how long it took.
func (w *world) run(d time.Duration, done func() bool) (took time.Duration, ok bool) {
	start := w.mono
	for len(w.events) > 0 && w.events[0].at <= start+d {
		e := heap.Pop(&w.events).(event)
		w.mono = e.at
		e.do()
		if done != nil && done() {
			return w.mono - start, true
		}
	}
	w.mono = start + d
	return d, done == nil
}

// node is a member that runs the real machine.
type node struct {
	w       *world
	cfg     control.Config
	m       *control.Machine
	keeper  bool
	up      bool
	session int
	subs    map[string]bool
	ring    *crypto.Keyring
	wake    time.Duration // the earliest timer that is set
	shadows []*shadow     // who follow it
	copied  [2]int        // phase in which its Hello was last followed, by what it wants
	hellos  int
}

func (w *world) add(role crypto.Role, name string) (*node, error) {
	id, err := w.pool.identity(role, name)
	if err != nil {
		return nil, err
	}
	n := &node{w: w, keeper: role == crypto.RoleKeeper}
	n.cfg = control.Config{Identity: id, Trust: w.pool.trust, Policy: w.signed, Prefix: prefix}
	if n.keeper {
		// A keeper has its own memory of certificates, which it shares with nobody.
		if n.cfg.Trust, err = crypto.NewTrust(fleetName, w.pool.caCert); err != nil {
			return nil, err
		}
		n.cfg.GrantRate = serverRate
		w.keepers = append(w.keepers, n)
	}
	w.nodes = append(w.nodes, n)
	return n, n.boot()
}

// boot starts the member's program anew, not connected.
func (n *node) boot() error {
	var seed [32]byte
	n.w.rand.Read(seed[:])
	n.cfg.Rand, n.cfg.Policy = rand.NewChaCha8(seed), n.w.signed
	m, err := control.New(n.cfg)
	if err != nil {
		return err
	}
	n.m, n.ring, n.subs, n.up, n.wake = m, nil, nil, false, forever
	n.session++
	n.flush()
	return nil
}

func (n *node) connect() {
	n.session++
	n.up, n.subs = true, map[string]bool{}
	n.do(func() { n.m.Connected(n.w.now()) })
}

func (n *node) disconnect() {
	n.session++
	n.up, n.subs = false, nil
	n.do(func() { n.m.Disconnected(n.w.now()) })
}

// do gives the machine an input on the account of its kind, and does what it wants done.
func (n *node) do(input func()) {
	start := threadCPU()
	input()
	switch spent := threadCPU() - start; {
	case !n.keeper:
		n.w.count.sampleCPU += spent
	case n == n.w.keepers[0]:
		n.w.count.keeperCPU += spent
	default:
		n.w.count.standbyCPU += spent
	}
	n.flush()
}

func (n *node) flush() {
	out := n.m.Take()
	if out.Keyring != nil {
		n.ring = out.Keyring
	}
	if n.up {
		for _, s := range out.Unsubscribe {
			delete(n.subs, s)
		}
		for _, s := range out.Subscribe {
			n.subs[s] = true
			if p, ok := n.w.retained[s]; ok {
				n.w.deliver(n, s, p, true)
			}
		}
		for _, p := range out.Publish {
			n.publish(p)
		}
	}
	n.setTimer()
}

func (n *node) publish(p control.Publish) {
	if p.Topic == control.ControlTopic(prefix) && !n.keeper {
		n.hellos++
		n.w.follow(n, p.Payload)
	}
	n.w.publish(p.Topic, p.Payload, p.Retain)
}

func (n *node) setTimer() {
	at, ok := n.m.Deadline()
	if !ok || at >= n.wake {
		return
	}
	n.wake = at
	n.w.after(max(at-n.w.mono, 0), func() {
		if n.wake > n.w.mono {
			return // another one took its place
		}
		n.wake = forever
		n.do(func() { n.m.Advance(n.w.now()) })
	})
}

// publish is the broker taking a message.
func (w *world) publish(topic string, payload []byte, retain bool) {
	kind := kindOf(topic, payload)
	w.count.sent[kind]++
	w.count.bytes[kind] += len(payload)
	if retain {
		w.retained[topic] = payload
	}
	if s := w.inboxes[topic]; s != nil {
		w.after(latency, func() { s.answer(kind, len(payload)) })
		return
	}
	everybody := strings.HasPrefix(topic, prefix+"/keys/") || topic == control.PolicyTopic(prefix)
	if everybody {
		w.count.deliveries += w.online
		w.count.delivered += w.online * len(payload)
	}
	listeners := w.nodes
	if topic == control.ControlTopic(prefix) {
		listeners = w.keepers
	}
	for _, n := range listeners {
		if n.subs[topic] {
			w.deliver(n, topic, payload, false)
		}
	}
}

func (w *world) deliver(to *node, topic string, payload []byte, retained bool) {
	session := to.session
	w.after(latency, func() {
		if session == to.session && to.subs[topic] {
			w.count.deliveries++
			w.count.delivered += len(payload)
			to.do(func() { to.m.Receive(w.now(), topic, payload, retained) })
		}
	})
}

// leader is the keeper that mints, nil if none does.
func (w *world) leader() *node {
	for _, k := range w.keepers {
		if !k.up {
			continue
		}
		for _, g := range k.m.Status(w.now()).Groups {
			if g.Leading {
				return k
			}
		}
	}
	return nil
}

// newest is the epoch that a member is at.
func (n *node) newest() crypto.Epoch {
	if n.ring != nil {
		if k := n.ring.Keys(groupName); len(k) > 0 {
			return k[0].Epoch
		}
	}
	return crypto.Epoch{}
}

// agree reports whether every real member that is connected is at epoch e or above.
func (w *world) agree(e crypto.Epoch) bool {
	for _, n := range w.nodes {
		if n.up && n.newest().Compare(e) < 0 {
			return false
		}
	}
	return true
}

// mustLead returns the leader's next epoch order for a check.
func (w *world) mustLead() (*node, error) {
	if l := w.leader(); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("at %v no keeper leads", w.mono)
}
