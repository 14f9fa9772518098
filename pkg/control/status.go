package control

import (
	"maps"
	"time"

	"sealgate/pkg/crypto"
)

// Status is what a member knows and does, for `sealctl status` and metrics.
type Status struct {
	Member        crypto.Member
	Connected     bool
	PolicyVersion uint64 // 0: no policy yet
	PolicyHash    [32]byte
	Groups        []GroupStatus // in the policy's order
	Counters      map[Counter]uint64
	Alarms        uint64 // events with Alarm set, so far
	LastAlarm     string // the newest one; "" if there was none
	Waiting       int    // a keeper's Hellos that wait for an answer
}

// GroupStatus is the state of one group.
type GroupStatus struct {
	Name      string
	Leader    string        // the member that mints the group's epochs, as far as known
	Leading   bool          // this member is the leader
	Keeper    bool          // this member is one of the keepers
	LeaseAge  time.Duration // since the leader was last heard of; 0 for the leader itself, and for members that are no keepers
	Sender    bool          // this member may seal
	Epoch     crypto.Epoch
	KeyID     crypto.KeyID
	Age       time.Duration // of Epoch, as far as known
	Send      crypto.Epoch  // the epoch this member seals under; zero: none, nothing leaves
	Confirmed bool          // Epoch has been confirmed to this member
	Keys      int           // payload secrets held, current and history
	Granted   int           // members that a keeper has given keys of the current generation
	Asking    bool          // a Hello about this group is out or due
	FreshLeft time.Duration // until the authority to seal lapses for want of a confirmation; 0: it has, or there is none; -1: it cannot lapse
	Stale     bool          // the alarm about the lack of a confirmation stands
	Warns     time.Duration // on the machine's clock, when a data plane that hears nothing new should warn; 0: no authority
	Lapses    time.Duration // and when it must seal no more
}

// Status describes the machine at now.
func (m *Machine) Status(now Time) Status {
	s := Status{Member: m.self, Connected: m.connected, Counters: maps.Clone(m.counters), Alarms: m.alarms, LastAlarm: m.lastAlarm,
		Waiting: len(m.keeper.grants) + len(m.keeper.confirms)}
	if m.policy != nil {
		s.PolicyVersion, s.PolicyHash = m.policy.Document.Version, m.policy.Hash
	}
	for _, g := range m.ordered() {
		s.Groups = append(s.Groups, g.status(max(now.Mono, m.now.Mono)))
	}
	return s
}

func (g *group) status(now time.Duration) GroupStatus {
	s := GroupStatus{Name: g.name, Leading: g.leader, Sender: g.sender, Keys: len(g.keys), Granted: len(g.granted),
		Asking: g.ask.due() != never}
	s.Leader, s.Keeper, s.Stale = g.leaderName(), g.keeper, g.warned
	if g.keeper && !g.leader && g.acting.Name != "" {
		s.LeaseAge = now - g.leaseAt
	}
	switch {
	case g.sender && g.alone:
		s.FreshLeft = -1
	case g.sender && g.freshAt > 0:
		s.FreshLeft = max(g.lapse()-now, 0)
	}
	if at, ok := g.confirmedAt(now); ok {
		s.Warns, s.Lapses = at+g.patience(), at+g.def.Freshness
	}
	if k := g.newest(); k != nil {
		s.Epoch, s.KeyID, s.Age, s.Confirmed = k.epoch, k.id, now-k.learned, k.confirmed
	}
	if g.sending != nil {
		s.Send = g.sending.epoch
	}
	return s
}
