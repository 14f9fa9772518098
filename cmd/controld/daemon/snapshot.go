package daemon

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
)

// How often gauges, counters and the authority to seal are looked at; gatewayd is told when they changed. Authority that
// lasts for seconds only is looked at more often.
const (
	statsEvery   = time.Second
	statsAtLeast = 50 * time.Millisecond
)

// lookEvery is the pause between two looks under a policy.
func lookEvery(state *member.State) time.Duration {
	every := statsEvery
	if state.Policy != nil {
		for i := range state.Policy.Document.Groups {
			every = min(every, state.Policy.Document.Groups[i].Freshness/12)
		}
	}
	return max(every, statsAtLeast)
}

// options connects the socket to the member.
func (d *daemon) options() keylink.ServerOptions {
	return keylink.ServerOptions{
		Log: d.log,
		OnUnknownKey: func(group string, id crypto.KeyID) {
			d.member.UnknownKey(group, id)
		},
		OnReport: func(r keylink.Report) {
			d.gate.set(r)
			for group, epoch := range r.Held {
				d.member.ReportEpoch(group, epoch)
			}
			d.member.ReportStreams(streamHeads(r.Streams))
			d.wantCheckpoints(r.Listens)
		},
		OnRotate: func(ctx context.Context, group string) (crypto.Epoch, error) {
			if p := d.member.State().Policy; p == nil {
				return crypto.Epoch{}, errors.New("there is no policy yet: publish one with `sealctl policy publish`")
			} else if p.Document.Group(group) == nil {
				return crypto.Epoch{}, errors.New("the policy has no group of that name")
			}
			return d.member.Rotate(ctx, group)
		},
		OnStatus: func() ([]byte, error) {
			return json.Marshal(d.status())
		},
	}
}

// streamHeads is what gatewayd says of its streams in the machine's terms.
func streamHeads(streams []keylink.Stream) []control.StreamHead {
	heads := make([]control.StreamHead, len(streams))
	for i, s := range streams {
		heads[i] = control.StreamHead(s)
	}
	return heads
}

// publish keeps the snapshot for gatewayd up to date until ctx ends.
func (d *daemon) publish(ctx context.Context) {
	tick := time.NewTimer(statsEvery)
	defer tick.Stop()
	var last stamp
	for {
		changed := d.member.Changed()
		state := d.member.State() // before the status: what may seal there has its authority here
		status := d.member.Status()
		if now := stampOf(status, state); !now.equal(last) {
			d.server.Publish(snapshot(d.member.Identity(), state, status))
			last = now
		}
		if d.server.Gateways() == 0 {
			d.wantCheckpoints(nil)
		}
		tick.Reset(lookEvery(state))
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// stamp tells whether a snapshot would differ from the one before.
type stamp struct {
	state    *member.State
	counters uint64
	epochs   uint64
	lapses   time.Duration // the sum of all
}

func stampOf(s control.Status, state *member.State) stamp {
	t := stamp{state: state}
	for _, n := range s.Counters {
		t.counters += n
	}
	for _, g := range s.Groups {
		t.epochs += g.Epoch.Number + g.Epoch.Generation
		t.lapses += g.Lapses
	}
	return t
}

func (t stamp) equal(o stamp) bool { return t == o }

// snapshot is what gatewayd is told: the policy document, and the payload secrets of the
// groups that this member may write or read. Nothing of the identity and no KEK.
func snapshot(self crypto.Member, state *member.State, status control.Status) keylink.Snapshot {
	s := keylink.Snapshot{
		Gateway:   self.Name,
		Keys:      make(map[string][]crypto.Key),
		Authority: make(map[string]keylink.Authority),
		Epochs:    make(map[string]keylink.EpochInfo),
		Control:   make(map[keylink.Counter]uint64),
	}
	for _, g := range status.Groups {
		if g.Epoch != (crypto.Epoch{}) {
			s.Epochs[g.Name] = keylink.EpochInfo{Epoch: g.Epoch, Age: g.Age}
		}
		if g.Lapses > 0 {
			s.Authority[g.Name] = keylink.Authority{Warn: g.Warns, Lapse: g.Lapses}
		}
	}
	for c, n := range status.Counters {
		s.Control[keylink.Counter{Type: string(c.Kind), Result: string(c.Result)}] = n
	}
	if state.Policy == nil {
		return s
	}
	d := state.Policy.Document
	s.Policy = d.Marshal()
	if d.Revoked(self) {
		return s // of a policy that revokes it, this gateway learns that and nothing else
	}
	for i := range d.Groups {
		g := &d.Groups[i]
		if g.HideTopics && (g.MayPublish(self) || g.MayRead(self)) {
			s.Topics = state.Keys.TopicKey()
		}
		switch keys := state.Keys.Keys(g.Name); {
		case !g.MayPublish(self) && !g.MayRead(self):
			s.Keys[g.Name] = nil // what it had is taken away
		case len(keys) > 0:
			s.Keys[g.Name] = keys
		}
	}
	return s
}

// gatewayReport is the newest report of gatewayd.
type gatewayReport struct {
	mu     sync.Mutex
	report keylink.Report // guarded by mu
}

func (g *gatewayReport) set(r keylink.Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report = r
}

func (g *gatewayReport) ready() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.report.Ready
}

// Status is the JSON that an administrator gets over the socket.
type Status struct {
	Fleet     string         `json:"fleet"`
	Member    string         `json:"member"`
	Role      string         `json:"role"`
	Connected bool           `json:"connected"` // to the control broker
	Policy    PolicyStatus   `json:"policy"`
	Groups    []GroupStatus  `json:"groups"`
	Messages  []MessageCount `json:"control_messages"`
	Dropped   uint64         `json:"dropped"`
	TooLarge  uint64         `json:"too_large"`
	Alarms    uint64         `json:"alarms"`
	LastAlarm string         `json:"last_alarm,omitempty"`
	Gateways  int            `json:"gateways"` // gatewayd processes connected
	Ready     bool           `json:"gateway_ready"`
}

// PolicyStatus is the policy in force; version 0 means none.
type PolicyStatus struct {
	Version uint64 `json:"version"`
	Hash    string `json:"hash,omitempty"`
}

// GroupStatus is one group. Epochs are written version.generation.number.
type GroupStatus struct {
	Name       string  `json:"name"`
	Leader     string  `json:"leader,omitempty"`
	Leading    bool    `json:"leading"`
	Keeper     bool    `json:"keeper"`
	LeaseAge   float64 `json:"lease_age_seconds"` // at a keeper that does not lead
	Epoch      string  `json:"epoch,omitempty"`
	KeyID      string  `json:"key_id,omitempty"`
	AgeSeconds float64 `json:"age_seconds"`
	Sending    string  `json:"sending,omitempty"` // the epoch that is sealed under; missing: nothing leaves
	Confirmed  bool    `json:"confirmed"`
	Keys       int     `json:"keys"`
	Granted    int     `json:"granted"`
	Asking     bool    `json:"asking"`
	Fresh      float64 `json:"fresh_seconds"` // until nothing leaves for want of a confirmation; -1: cannot lapse
	Stale      bool    `json:"stale"`         // the alarm about that stands
}

// MessageCount is one series of sealgate_control_messages_total.
type MessageCount struct {
	Type   string `json:"type"`
	Result string `json:"result"`
	Count  uint64 `json:"count"`
}

func (d *daemon) status() Status {
	s, refused, self := d.member.Status(), d.member.Counters(), d.member.Identity()
	out := Status{
		Fleet: self.Fleet, Member: self.Name, Role: string(self.Role), Connected: d.member.Connected(),
		Groups: []GroupStatus{}, Messages: []MessageCount{},
		Dropped: refused.Dropped, TooLarge: refused.TooLarge, Alarms: s.Alarms, LastAlarm: s.LastAlarm,
		Gateways: d.server.Gateways(), Ready: d.server.Gateways() > 0 && d.gate.ready(),
	}
	if s.PolicyVersion > 0 {
		out.Policy = PolicyStatus{Version: s.PolicyVersion, Hash: hex.EncodeToString(s.PolicyHash[:])}
	}
	for _, g := range s.Groups {
		out.Groups = append(out.Groups, groupStatus(&g))
	}
	for _, c := range sortedCounters(s.Counters) {
		out.Messages = append(out.Messages, MessageCount{string(c.Kind), string(c.Result), s.Counters[c]})
	}
	return out
}

func groupStatus(g *control.GroupStatus) GroupStatus {
	out := GroupStatus{
		Name: g.Name, Leader: g.Leader, Leading: g.Leading, Keeper: g.Keeper, LeaseAge: g.LeaseAge.Seconds(), AgeSeconds: g.Age.Seconds(),
		Confirmed: g.Confirmed, Keys: g.Keys, Granted: g.Granted, Asking: g.Asking, Fresh: g.FreshLeft.Seconds(), Stale: g.Stale,
	}
	if g.FreshLeft < 0 {
		out.Fresh = -1
	}
	if g.Epoch != (crypto.Epoch{}) {
		out.Epoch, out.KeyID = g.Epoch.String(), hex.EncodeToString(g.KeyID[:])
	}
	if g.Send != (crypto.Epoch{}) {
		out.Sending = g.Send.String()
	}
	return out
}

func sortedCounters(counters map[control.Counter]uint64) []control.Counter {
	return slices.SortedFunc(maps.Keys(counters), func(a, b control.Counter) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Result, b.Result))
	})
}
