package gateway

import (
	"sync"
	"time"

	"crypto/sha256"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
)

// ledgers are those of all groups, and what they found out.
type ledgers struct {
	mu      sync.Mutex // guards what follows; never held where a message passes
	heard   bool       // checkpoints come
	of      map[string]*groupLedger
	names   map[[32]byte]string // topics, by SHA-256
	sweptAt time.Duration
	recent  []recentEvent // the newest last
}

type recentEvent struct {
	group, topic string
	checkpoint.Event
}

// digests finds the topics behind digests, of the topics that somebody listens to by their names, under the newest keys of a group.
type digests struct{ keys map[crypto.KeyID]*keyDigests }

type keyDigests struct {
	version uint64 // of listening, when it was last looked through
	topics  map[checkpoint.Digest]string
	known   map[string]struct{}
}

// Bounds of digests: a key derivation each, which whoever may publish a checkpoint could ask for.
const (
	digestKeys   = 3 // the newest of a group
	digestTopics = 1 << 12
)

// find returns the topic behind a digest.
func (x *digests) find(g *Gateway, group string, key crypto.KeyID, d checkpoint.Digest) (string, bool) {
	newest := g.state.Load().Keys.Keys(group)
	newest = newest[:min(len(newest), digestKeys)]
	var secret *crypto.PayloadSecret
	fresh := make(map[crypto.KeyID]*keyDigests, digestKeys)
	for i := range newest {
		id := newest[i].ID
		if fresh[id] = x.keys[id]; fresh[id] == nil {
			fresh[id] = &keyDigests{topics: make(map[checkpoint.Digest]string), known: make(map[string]struct{}), version: ^uint64(0)}
		}
		if id == key {
			secret = newest[i].Secret
		}
	}
	x.keys = fresh
	if secret == nil {
		return "", false
	}
	k := fresh[key]
	k.look(g, secret, group)
	name, ok := k.topics[d]
	return name, ok
}

// look adds what has been subscribed to since the last look.
func (k *keyDigests) look(g *Gateway, secret *crypto.PayloadSecret, group string) {
	state := g.state.Load().State
	if len(k.topics) >= digestTopics {
		clear(k.topics)
		clear(k.known)
		k.version = ^uint64(0)
	}
	if g.listening.at() == k.version {
		return
	}
	k.version = g.listening.names(func(name string) bool {
		if _, known := k.known[name]; !known && state.Table.Receive([]byte(name)).Group == group {
			k.known[name] = struct{}{}
			k.topics[checkpoint.TopicDigest(secret, group, sha256.Sum256([]byte(name)))] = name
		}
		return len(k.topics) < digestTopics
	})
}

// CheckpointStatus is what checkpoints say of the messages for the devices behind this gateway.
type CheckpointStatus struct {
	Heard  bool                     `json:"heard"`  // controld hears checkpoints; else nothing is missed
	Groups map[string]MissingStatus `json:"groups"` // those that devices listen to
	Recent []MissingEvent           `json:"recent"` // at most 32 events, the newest last
}

// MissingStatus is that of one group.
type MissingStatus struct {
	Senders int               `json:"senders"` // members that have published a checkpoint
	Silent  []string          `json:"silent"`  // those not heard of for two intervals
	Streams int               `json:"streams"` // remembered
	Dropped uint64            `json:"dropped_messages"`
	Events  map[string]uint64 `json:"events"` // by kind, those that have happened
}

// MissingEvent is one event; see docs/SUBSCRIBER.md for the kinds. Fields that do not apply are empty.
type MissingEvent struct {
	Event   string  `json:"event"`
	Seconds float64 `json:"seconds_ago"`
	Group   string  `json:"group"`
	Gateway string  `json:"gateway,omitempty"`
	Other   string  `json:"other,omitempty"`
	Topic   string  `json:"topic,omitempty"`
	Stream  string  `json:"stream,omitempty"`
	From    uint64  `json:"from"`
	To      uint64  `json:"to"`
}

func (g *Gateway) checkpointStatus() CheckpointStatus {
	l := &g.ledgers
	l.mu.Lock()
	defer l.mu.Unlock()
	s := CheckpointStatus{Heard: l.heard, Groups: make(map[string]MissingStatus, len(l.of)), Recent: []MissingEvent{}}
	for name, led := range l.of {
		m := MissingStatus{Senders: led.Senders(), Silent: led.Silenced(), Streams: led.Streams(), Dropped: led.dropped, Events: make(map[string]uint64)}
		if m.Silent == nil {
			m.Silent = []string{}
		}
		for what, n := range led.seen {
			if n > 0 {
				m.Events[checkpoint.What(what).String()] = n
			}
		}
		s.Groups[name] = m
	}
	now := g.cfg.Now()
	for _, r := range l.recent {
		e := MissingEvent{Event: r.What.String(), Seconds: (now - r.At).Seconds(), Group: r.group, Gateway: r.Gateway, Other: r.Other, Topic: r.topic, From: r.From, To: r.To}
		if r.Kid != (crypto.Kid{}) {
			e.Stream = r.Kid.StreamID().String()
		}
		s.Recent = append(s.Recent, e)
	}
	return s
}

// silent is the number of senders that are not heard of, in all groups.
func (g *Gateway) silent() (n int) {
	g.ledgers.mu.Lock()
	defer g.ledgers.mu.Unlock()
	for _, led := range g.ledgers.of {
		n += len(led.Silenced())
	}
	return n
}
