package watch

import (
	"fmt"
	"strings"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/subscriber"
)

// The words of alarms beside those of package subscriber's statuses.
const (
	AlarmNoPolicy = "no-policy" // no fleet policy is known
	AlarmLink     = "link"      // a connection of the watch is down
	AlarmNoLeader = "no-leader" // no keeper's lease is heard
	AlarmLeaders  = "two-leaders"
	AlarmNoEpoch  = "no-epoch" // none was ever announced
	AlarmOverdue  = "overdue"  // the last one is older than twice the rotation period
	AlarmNoKey    = "no-key"   // this member may read the group and does not hold the newest key
	AlarmBehind   = "behind"   // a gateway seals under an old epoch
	AlarmRefused  = "refused"  // a control message that no honest member sends
	AlarmSilent   = string(subscriber.StatusSilent)
	AlarmGap      = string(subscriber.StatusGap)
	AlarmDropped  = string(subscriber.StatusDropped)
	AlarmWithheld = string(subscriber.StatusWithheld)
	AlarmCrowded  = string(subscriber.StatusCrowded)
)

// Times after which a state is alarming.
const (
	settling    = 10 * time.Second          // for a policy, an epoch and keys to arrive
	leaderless  = 3 * control.LeaseInterval // a fleet that works has a new leader by then
	maxAlarms   = 1024
	repeatAlarm = time.Second // between two changes about the same alarm
)

// alarming are the messages that an honest fleet and broker do not deliver.
var alarming = map[subscriber.Status]bool{
	subscriber.StatusConflict: true, subscriber.StatusForged: true, subscriber.StatusPlaintext: true, subscriber.StatusUnknownKey: true,
}

type alarmKey struct{ what, group, gateway string }

// alarm is one that stands: a state until it ends, an event for some time.
type alarm struct {
	first, last, told time.Duration
	count             uint64
	detail            string
	state             bool
}

// raise notes an alarming event and tells of it, if it has not just been told.
func (f *Fleet) raise(what, group, gateway, detail string) {
	a := f.raiseQuietly(what, group, gateway, detail)
	if a != nil && (a.count == 1 || f.now.Mono-a.told >= repeatAlarm) {
		a.told = f.now.Mono
		f.change(Change{What: what, Alarm: true, Group: group, Gateway: gateway, Detail: detail, Count: a.count})
	}
}

// raiseQuietly notes an alarming event of which a change tells already. nil: there are too many alarms.
func (f *Fleet) raiseQuietly(what, group, gateway, detail string) *alarm {
	key := alarmKey{what, group, gateway}
	a := f.alarms[key]
	if a == nil {
		if len(f.alarms) >= maxAlarms {
			return nil
		}
		a = &alarm{first: f.now.Mono}
		f.alarms[key] = a
	}
	a.last, a.count, a.detail = f.now.Mono, a.count+1, detail
	return a
}

// settleAlarms begins and ends the alarms that are states, and ends those of events that are long past.
func (f *Fleet) settleAlarms() {
	states := f.states()
	for key, detail := range states {
		a := f.alarms[key]
		if a == nil || !a.state {
			if len(f.alarms) >= maxAlarms {
				continue
			}
			a = &alarm{first: f.now.Mono, count: 1, state: true}
			f.alarms[key] = a
			if !reported(key.what) {
				f.change(Change{What: key.what, Alarm: true, Group: key.group, Gateway: key.gateway, Detail: detail})
			}
		}
		a.last, a.detail = f.now.Mono, detail
	}
	for key, a := range f.alarms {
		_, stands := states[key]
		if a.state && !stands || !a.state && f.now.Mono-a.last >= hold {
			delete(f.alarms, key)
			f.change(Change{What: key.what, Over: true, Group: key.group, Gateway: key.gateway})
		}
	}
}

// reported tells the states whose beginning a report has told already.
func reported(what string) bool {
	return what == AlarmGap || what == AlarmDropped || what == AlarmSilent
}

// states are the alarms that stand as things are now, with what is to be said of each.
func (f *Fleet) states() map[alarmKey]string {
	out := make(map[alarmKey]string)
	var down []string
	for _, name := range linkNames {
		if l := f.links[name]; l != nil && !l.up {
			down = append(down, name+": "+l.err)
		}
	}
	if len(down) > 0 {
		out[alarmKey{AlarmLink, "", ""}] = strings.Join(down, "; ")
	}
	if f.policy == nil {
		if f.now.Mono-f.began >= settling {
			out[alarmKey{AlarmNoPolicy, "", ""}] = "no fleet policy is known"
		}
		return out
	}
	for name, g := range f.groups {
		f.groupStates(g, out)
		for who, w := range g.gateways {
			switch {
			case w.silent:
				out[alarmKey{AlarmSilent, name, who}] = "no checkpoint for " + seconds(f.now.Mono-w.at)
			case g.behind(w):
				out[alarmKey{AlarmBehind, name, who}] = "seals under " + w.epoch.String()
			}
		}
	}
	f.missingStates(out)
	return out
}

// groupStates tells what is wrong with a group's keys.
func (f *Fleet) groupStates(g *group, out map[alarmKey]string) {
	now, name := f.now.Mono, g.def.Name
	listening := f.links[LinkControl] != nil && f.links[LinkControl].up
	if rival := g.contested(now); rival != "" {
		out[alarmKey{AlarmLeaders, name, ""}] = g.leader + " and " + rival
	}
	heardAt := max(g.watching, g.leases[g.leader])
	if listening && f.control && len(g.def.Keepers) > 1 && now-heardAt >= leaderless {
		out[alarmKey{AlarmNoLeader, name, ""}] = "no lease for " + seconds(now-heardAt)
	}
	switch {
	case g.epoch == (crypto.Epoch{}):
		if listening && f.refusal[f.Filters()[1]] == "" && now-g.watching >= settling {
			out[alarmKey{AlarmNoEpoch, name, ""}] = "none was announced"
		}
		return
	case now-g.seenAt >= 2*g.def.Rotate && listening:
		out[alarmKey{AlarmOverdue, name, ""}] = "epoch " + g.epoch.String() + " is " + seconds(now-g.seenAt) + " old"
	}
	if k := f.keys.Keys(name); !f.reads(g.def) || len(k) > 0 && k[0].Epoch.Compare(g.epoch) >= 0 {
		g.heldAt = now
	} else if now-g.heldAt >= settling {
		out[alarmKey{AlarmNoKey, name, ""}] = "the key of epoch " + g.epoch.String() + " has not come"
	}
}

// missingStates tells the messages that are missing, by who should have sent them.
func (f *Fleet) missingStates(out map[alarmKey]string) {
	counts := make(map[alarmKey]uint64)
	for k, s := range f.streams {
		for _, m := range s.missing {
			what := AlarmGap
			if m.dropped {
				what = AlarmDropped
			}
			counts[alarmKey{what, k.group, s.gateway}] += m.size()
		}
	}
	for key, n := range counts {
		out[key] = fmt.Sprintf("%d missing", n)
	}
}

func seconds(d time.Duration) string { return d.Round(time.Second).String() }
