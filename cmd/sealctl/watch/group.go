package watch

import (
	"fmt"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// maxEpochs is how many epochs of a group are known by the ids of their keys.
const maxEpochs = 256

// group is what is known of one group.
type group struct {
	def *policy.Group

	leader   string // by its leases; "" if none was heard
	leases   map[string]time.Duration
	rival    string
	rivalAt  time.Duration
	signer   string // of the newest announcement
	watching time.Duration

	epoch    crypto.Epoch
	seenAt   time.Duration // when epoch was first seen
	live     bool          // it was announced then, and not before
	activeAt time.Duration
	epochs   map[crypto.KeyID]crypto.Epoch
	heldAt   time.Duration // when the key of epoch was last held, or epoch was new

	gateways map[string]*gateway
	ledger   *checkpoint.Ledger
	messages uint64
}

// gateway is a sender in one group.
type gateway struct {
	at                    time.Duration // of its last checkpoint
	sealed, burned, total uint64        // total: missing numbers of streams that are forgotten
	current               uint64        // sealed in the interval that has not ended
	perMinute             int64         // in the one before; -1: not known
	endedAt               time.Duration // of that one; 0: none was heard
	epoch                 crypto.Epoch
	sealedAt              time.Duration // when it last told of numbers
	silent, ended         bool
}

// newGroup makes a group. Of old, which has another checkpoint interval, it keeps what is known of keys.
func newGroup(f *Fleet, def *policy.Group, old *group) *group {
	g := old
	if g == nil {
		g = &group{leases: make(map[string]time.Duration), epochs: make(map[crypto.KeyID]crypto.Epoch), watching: f.now.Mono}
	}
	g.gateways = make(map[string]*gateway)
	g.ledger, _ = checkpoint.New(checkpoint.Config{ // a verified policy has an interval
		Interval: def.Checkpoint,
		Digest:   func(crypto.KeyID, [32]byte) (checkpoint.Digest, bool) { return checkpoint.Digest{}, false },
	})
	g.ledger.Interrupted(f.now.Mono)
	return g
}

// redefine forgets those who lead no more.
func (g *group) redefine(def *policy.Group) {
	g.def = def
	for name := range g.leases {
		if _, keeper := def.Rank(name); !keeper {
			delete(g.leases, name)
		}
	}
	if _, keeper := def.Rank(g.leader); !keeper {
		g.leader = ""
	}
}

// interrupted tells that nothing is heard from now on, or that it begins again.
func (g *group) interrupted(now time.Duration) {
	g.ledger.Interrupted(now)
	g.watching = now
}

// lease notes that a keeper leads. The one heard last does, unless two speak by turns.
func (g *group) lease(f *Fleet, name string) {
	now := f.now.Mono
	before, spoke := g.leases[name]
	g.leases[name] = now
	switch was := g.leader; {
	case was == name:
		return
	case was != "" && spoke && g.leases[was] > before && now-g.leases[was] < control.LeaseLife:
		g.rival, g.rivalAt = name, now
		return
	default:
		g.leader, g.rival = name, ""
		f.change(Change{What: ChangeLeader, Group: g.def.Name, Leader: name, Was: was})
	}
}

// contested returns the other keeper that leads.
func (g *group) contested(now time.Duration) string {
	if g.rival != "" && now-g.rivalAt < control.LeaseLife {
		return g.rival
	}
	return ""
}

// leading returns who leads, and how that is known.
func (g *group) leading() (name, by string) {
	switch {
	case g.leader != "":
		return g.leader, "lease"
	case len(g.def.Keepers) == 1:
		return g.def.Keepers[0], "policy"
	case g.signer != "":
		return g.signer, "announcement"
	}
	return "", ""
}

// announced takes an announcement of epochs, by the rules of spec 5.1 and 5.2.
func (g *group) announced(f *Fleet, e *control.EpochMessage, from string, retained bool) error {
	newest := e.Newest()
	if known := g.epoch; known != (crypto.Epoch{}) {
		switch {
		case newest.Compare(known) < 0:
			return control.ErrStale
		case newest.Number > known.Number+control.MaxNumberJump, newest.Generation > known.Generation+control.MaxGenerationJump:
			return fmt.Errorf("epoch %v after %v: %w", newest, known, control.ErrJump)
		}
	}
	if len(g.epochs) >= maxEpochs {
		clear(g.epochs)
	}
	for i := range e.Wraps {
		g.epochs[e.Wraps[i].Wrap.ID()] = crypto.Epoch{PolicyVersion: e.PolicyVersion, Generation: e.Generation, Number: e.Wraps[i].Number}
	}
	g.signer = from
	if newest == g.epoch {
		return nil
	}
	now := f.now.Mono
	g.epoch, g.seenAt, g.live, g.heldAt, g.activeAt = newest, now, !retained, now, now
	if g.live {
		g.activeAt += e.Wraps[0].ActivateAfter
	}
	f.change(Change{What: ChangeEpoch, Group: g.def.Name, Epoch: newest.String(), Detail: "by " + e.Wraps[0].Minter})
	return nil
}

// epochOf returns the epoch of a key.
func (g *group) epochOf(f *Fleet, id crypto.KeyID) (crypto.Epoch, bool) {
	if k := f.keys.Find(g.def.Name, id); k != nil {
		return k.Epoch, true
	}
	e, ok := g.epochs[id]
	return e, ok
}

// checkpoint takes what a sender says it has sealed.
func (g *group) checkpoint(f *Fleet, c *checkpoint.Message, from string) error {
	now := f.now.Mono
	if err := g.ledger.Checkpoint(now, from, c); err != nil {
		return err
	}
	w := g.gateways[from]
	if w == nil {
		w = &gateway{perMinute: -1}
		g.gateways[from] = w
		f.change(Change{What: ChangeGateway, Group: g.def.Name, Gateway: from})
	}
	g.events(f)
	w.at, w.ended = now, c.State == checkpoint.Ending
	for i := range c.Streams {
		g.sealed(f, w, from, &c.Streams[i])
	}
	if c.State == checkpoint.More {
		return nil
	}
	f.change(Change{What: ChangeCheckpoint, Group: g.def.Name, Gateway: from, Streams: len(c.Streams), Sealed: w.current, Routine: true})
	if passed := now - w.endedAt; w.endedAt > 0 && passed >= time.Second {
		w.perMinute = int64(float64(w.current) * float64(time.Minute) / float64(passed))
	}
	w.current, w.endedAt = 0, now
	if w.ended {
		f.change(Change{What: ChangeEnded, Group: g.def.Name, Gateway: from})
	}
	return nil
}

// sealed counts one stream's part of a checkpoint.
func (g *group) sealed(f *Fleet, w *gateway, from string, c *checkpoint.Stream) {
	n, burned := c.Next-c.From, uint64(0)
	for _, r := range c.Burned {
		burned += r.To - r.From + 1
	}
	w.sealed, w.burned, w.current = w.sealed+n-burned, w.burned+burned, w.current+n-burned
	if e, known := g.epochOf(f, c.Kid.KeyID()); known && n > 0 {
		w.sealedAt = f.now.Mono
		if e.Compare(w.epoch) > 0 {
			w.epoch = e
		}
	}
	if s := f.stream(streamKey{g.def.Name, c.Kid}); s != nil {
		if s.gateway == "" {
			s.gateway = from
		}
		if n > 0 {
			s.named = f.now.Mono
		}
		s.final = s.final || c.Final
	}
}

// events takes what the ledger has found out.
func (g *group) events(f *Fleet) {
	for _, e := range g.ledger.Take() {
		w := g.gateways[e.Gateway]
		c := Change{What: e.What.String(), Alarm: e.What.Alarm(), Group: g.def.Name, Gateway: e.Gateway}
		switch e.What {
		case checkpoint.Withheld:
			from, to := e.From, e.To
			c.From, c.To = &from, &to
			f.raiseQuietly(AlarmWithheld, g.def.Name, e.Gateway, fmt.Sprintf("checkpoints %d to %d", from, to))
		case checkpoint.Silent, checkpoint.Heard:
			if w != nil {
				w.silent = e.What == checkpoint.Silent
			}
		case checkpoint.Crowded:
			f.raiseQuietly(AlarmCrowded, g.def.Name, "", "")
		default:
			continue // of burned numbers the receiver tells, who has their topic
		}
		f.change(c)
	}
}

// behind reports whether a sender has sealed under an older epoch than all should by then: they switch when the newest is
// active, and tell of it at their next interval.
func (g *group) behind(w *gateway) bool {
	return w.epoch != (crypto.Epoch{}) && w.epoch.Compare(g.epoch) < 0 && w.sealedAt > g.activeAt+2*g.def.Checkpoint
}
