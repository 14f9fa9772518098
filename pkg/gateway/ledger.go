package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Checkpoints at the receiving gateway (docs/spec/control.md section 6.11): one ledger a group holds what members say that they
// have sealed against what has arrived for the devices behind this gateway, all of them together. Whoever looks, Watch or Checkpoint,
// sweeps the arrivals first; no message's way passes through here.

// Bounds of what the ledgers remember.
const (
	ledgerStreams  = 1 << 14          // of all groups together, shared evenly
	ledgerAtLeast  = 256              // of one group
	wantedFor      = 10 * time.Minute // a ledger stays so long after nobody listens any more: devices come and go
	maxLedgerNames = 1 << 14          // topics whose names events can give
	maxRecent      = 32               // events that Status shows
)

// How often the arrivals are looked at: ten times in the shortest interval.
const (
	looksAnInterval = 10
	lookAtLeast     = 250 * time.Millisecond
	lookAtMost      = 5 * time.Second
)

type groupLedger struct {
	*checkpoint.Ledger
	interval time.Duration
	topics   []string
	wantedAt time.Duration // when somebody was last seen to listen, or something to arrive
	digests  digests
	seen     [checkpoint.Crowded + 1]uint64 // events, by kind
	dropped  uint64                         // messages in events of kind dropped
}

// Watch holds checkpoints against what arrives until ctx ends.
func (g *Gateway) Watch(ctx context.Context) {
	timer := time.NewTimer(lookAtLeast)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(g.look())
	}
}

// look does it once and returns when to look again.
func (g *Gateway) look() time.Duration {
	l := &g.ledgers
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(g, g.cfg.Now())
	every := lookAtMost
	for _, led := range l.of {
		every = min(every, led.interval/looksAnInterval)
	}
	return max(every, lookAtLeast)
}

// Listening names the groups of which checkpoints are wanted, in order.
func (g *Gateway) Listening() (groups []string) {
	g.ledgers.mu.Lock()
	defer g.ledgers.mu.Unlock()
	for name := range g.ledgers.of {
		groups = append(groups, name)
	}
	slices.Sort(groups)
	return groups
}

// Hear tells that checkpoints are heard from now on, or are not: while they are not, nothing is missed. Where they were
// heard and some are lost, call it again.
func (g *Gateway) Hear(yes bool) {
	l := &g.ledgers
	l.mu.Lock()
	defer l.mu.Unlock()
	now := g.cfg.Now()
	l.sweep(g, now)
	l.heard = yes
	l.interrupt(now)
}

// Checkpoint takes a checkpoint of the member named, who was verified to be its sender and to have the right to publish in its group.
func (g *Gateway) Checkpoint(from string, m *checkpoint.Message) {
	l := &g.ledgers
	l.mu.Lock()
	defer l.mu.Unlock()
	now := g.cfg.Now()
	l.sweep(g, now)
	if led := l.of[m.Group]; led != nil {
		_ = led.Checkpoint(now, from, m) // replays are of no consequence
		l.settle(g, now)
	}
}

// sweep takes what has arrived into the ledgers and tells them the time. The caller holds mu, here and below.
func (l *ledgers) sweep(g *Gateway, now time.Duration) {
	state := g.state.Load().State
	l.adopt(g, state, now)
	arrived := l.sweptAt // not before: whoever sent it has as long to say so as if it had just come
	crowded := g.arrivals.sweep(state.Keys, g.cfg.MaxStreams, func(x *arrival, from, next uint64) {
		led := l.of[x.group]
		if led == nil {
			if led = l.open(g, state, x.group, now); led == nil {
				return
			}
		}
		led.wantedAt = now
		led.Reached(arrived, x.kid, l.name(x.topic), from, next, now-x.ear.since < led.interval)
	})
	l.sweptAt = now
	if crowded || !l.heard {
		l.interrupt(now)
	}
	l.settle(g, now)
}

func (l *ledgers) interrupt(now time.Duration) {
	for _, led := range l.of {
		led.Interrupted(now)
	}
}

// adopt makes the ledgers that policy and subscriptions call for, and drops the others.
func (l *ledgers) adopt(g *Gateway, state *State, now time.Duration) {
	for name, led := range l.of {
		def := readable(g, state, name)
		if def == nil || def.Checkpoint != led.interval || !slices.Equal(state.Policy.TopicsOf(def), led.topics) || now-led.wantedAt > wantedFor {
			delete(l.of, name)
		}
	}
	if state.Policy == nil {
		return
	}
	for i := range state.Policy.Groups {
		def := &state.Policy.Groups[i]
		if !g.listening.toAny(state.Policy.TopicsOf(def)) {
			continue
		}
		if led := l.of[def.Name]; led != nil {
			led.wantedAt = now
		} else {
			l.open(g, state, def.Name, now)
		}
	}
}

// readable is the definition of a group that this gateway may read, else nil: of others no checkpoints come.
func readable(g *Gateway, state *State, name string) *policy.Group {
	if state.Policy == nil {
		return nil
	}
	def := state.Policy.Group(name)
	if def == nil || !def.MayRead(crypto.Member{Role: crypto.RoleGateway, Name: g.cfg.Gateway}) {
		return nil
	}
	return def
}

// open makes a group's ledger; nil if there is to be none.
func (l *ledgers) open(g *Gateway, state *State, group string, now time.Duration) *groupLedger {
	def := readable(g, state, group)
	if def == nil {
		return nil
	}
	led := &groupLedger{interval: def.Checkpoint, topics: state.Policy.TopicsOf(def), wantedAt: now}
	var err error
	led.Ledger, err = checkpoint.New(checkpoint.Config{
		Interval:   def.Checkpoint - def.Checkpoint/looksAnInterval, // so that what a look finds late shows within two intervals yet
		MaxStreams: max(ledgerStreams/len(state.Policy.Groups), ledgerAtLeast),
		Digest:     func(key crypto.KeyID, topic [32]byte) (checkpoint.Digest, bool) { return g.digest(group, key, topic) },
		Listens: func(topic [32]byte) (time.Duration, bool) {
			name, known := l.names[topic]
			if !known {
				return 0, false
			}
			return g.listening.to(name)
		},
		Expects: func(key crypto.KeyID, d checkpoint.Digest) (time.Duration, bool) {
			if since, ok := g.listening.toAll(led.topics); ok {
				return since, true
			}
			name, ok := led.digests.find(g, group, key, d)
			if !ok {
				return 0, false
			}
			return g.listening.to(name)
		},
	})
	if err != nil {
		return nil
	}
	led.Interrupted(now)
	if l.of == nil {
		l.of = make(map[string]*groupLedger)
	}
	l.of[group] = led
	return led
}

// name remembers a topic and returns its SHA-256.
func (l *ledgers) name(topic string) [32]byte {
	d := sha256.Sum256([]byte(topic))
	if l.names == nil || len(l.names) >= maxLedgerNames {
		l.names = make(map[[32]byte]string)
	}
	l.names[d] = topic
	return d
}

// digest is a topic's digest under a key of a group.
func (g *Gateway) digest(group string, key crypto.KeyID, topic [32]byte) (checkpoint.Digest, bool) {
	k := g.state.Load().Keys.Find(group, key)
	if k == nil {
		return checkpoint.Digest{}, false
	}
	return checkpoint.TopicDigest(k.Secret, group, topic), true
}

// settle tells the ledgers the time, and the operator what they found out.
func (l *ledgers) settle(g *Gateway, now time.Duration) {
	for group, led := range l.of {
		if l.heard {
			led.Advance(now)
		}
		for _, e := range led.Take() {
			l.report(g, group, led, e)
		}
	}
}

func (l *ledgers) report(g *Gateway, group string, led *groupLedger, e checkpoint.Event) {
	led.seen[e.What]++
	g.metrics.missing[e.What].Inc()
	topic := l.names[e.Topic]
	if e.What == checkpoint.Dropped {
		led.dropped += e.To - e.From + 1
		g.metrics.dropped.AddInt64(int64(e.To - e.From + 1))
	}
	if e.What == checkpoint.Burned {
		return
	}
	if len(l.recent) >= maxRecent {
		l.recent = slices.Delete(l.recent, 0, 1)
	}
	l.recent = append(l.recent, recentEvent{group, topic, e})
	if e.What.Alarm() {
		g.report.warn("checkpoint "+e.What.String(), fmt.Sprintf("%s: %s", missingWords[e.What], e),
			"group", group, "topic", clip([]byte(topic)), "gateway", e.Gateway)
	}
}

// missingWords says of alarms what they mean.
var missingWords = [checkpoint.Crowded + 1]string{
	checkpoint.Dropped:      "messages were sent and have not arrived",
	checkpoint.Silent:       "a sender is not heard of any more",
	checkpoint.Withheld:     "checkpoints of a sender are missing",
	checkpoint.Unattributed: "messages came, and no member says that it sent them",
	checkpoint.Disputed:     "two claims to one stream",
}
