package watch

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
)

// hearing is how long a watch listens before it says that nothing is to be heard.
const hearing = 30 * time.Second

// Picture shows what is known at now.
func (f *Fleet) Picture(now control.Time) *Picture {
	f.at(now)
	p := &Picture{
		At: f.now.Wall, Fleet: f.cfg.Self.Fleet, Member: string(f.cfg.Self.Role) + "/" + f.cfg.Self.Name,
		Links: []Link{}, Alarms: []Alarm{}, Groups: []Group{}, Gateways: []Gateway{}, Members: []Member{}, Unseen: f.unseen(),
		Healthy: len(f.alarms) == 0, Refused: f.refused, Dropped: f.dropped,
	}
	for _, name := range linkNames {
		if l := f.links[name]; l != nil {
			p.Links = append(p.Links, Link{name, l.up, f.ago(l.since), l.err})
		}
	}
	for key, a := range f.alarms {
		p.Alarms = append(p.Alarms, Alarm{key.what, key.group, key.gateway, a.detail, f.ago(a.first), a.count})
	}
	sort.Slice(p.Alarms, func(i, k int) bool { // of package sort: a generic one for each type costs a router 8 KB of flash
		a, b := &p.Alarms[i], &p.Alarms[k]
		return cmp.Or(cmp.Compare(a.Since, b.Since), strings.Compare(a.What, b.What), strings.Compare(a.Group, b.Group), strings.Compare(a.Gateway, b.Gateway)) < 0
	})
	for who, m := range f.members {
		role, name, _ := strings.Cut(who, "/")
		p.Members = append(p.Members, Member{name, role, f.ago(m.at), m.about, m.policy})
	}
	sort.Slice(p.Members, func(i, k int) bool {
		a, b := &p.Members[i], &p.Members[k]
		return cmp.Or(cmp.Compare(a.Heard, b.Heard), strings.Compare(a.Name, b.Name), strings.Compare(a.Role, b.Role)) < 0
	})
	if f.policy == nil {
		return p
	}
	p.Policy = f.policy.Document.Version
	for i := range f.policy.Document.Groups {
		g := f.groups[f.policy.Document.Groups[i].Name]
		p.Groups = append(p.Groups, f.viewGroup(g))
		p.Gateways = append(p.Gateways, f.viewGateways(g)...)
	}
	return p
}

// ago is how long ago a time was, in seconds.
func (f *Fleet) ago(t time.Duration) int64 { return int64((f.now.Mono - t) / time.Second) }

func (f *Fleet) viewGroup(g *group) Group {
	now := f.now.Mono
	v := Group{Name: g.def.Name, Rival: g.contested(now), Lease: -1, EpochAge: -1, Rotation: -1, Messages: g.messages, Reads: f.reads(g.def)}
	v.Leader, v.LeaderBy = g.leading()
	if at, heard := g.leases[g.leader]; heard {
		v.Lease = f.ago(at)
	}
	keys := f.keys.Keys(g.def.Name)
	v.Keys = len(keys)
	if g.epoch == (crypto.Epoch{}) {
		return v
	}
	v.Epoch, v.KeyHeld = g.epoch.String(), len(keys) > 0 && keys[0].Epoch.Compare(g.epoch) >= 0
	if g.live {
		v.EpochAge = f.ago(g.seenAt)
	}
	v.Active = int64((max(g.activeAt-now, 0) + time.Second - 1) / time.Second)
	v.Rotation = max(int64((g.seenAt+g.def.Rotate-now)/time.Second), 0)
	return v
}

// viewGateways lists the senders of a group by name.
func (f *Fleet) viewGateways(g *group) []Gateway {
	type sums struct {
		active         int
		missing, total uint64
	}
	of := make(map[string]sums)
	for k, s := range f.streams {
		if k.group != g.def.Name {
			continue
		}
		n := of[s.gateway]
		if s.named > 0 && !s.final && f.now.Mono-s.named < max(activeTime, 2*g.def.Checkpoint) {
			n.active++
		}
		for _, m := range s.missing {
			n.missing += m.size()
		}
		n.total += s.total
		of[s.gateway] = n
	}
	var out []Gateway
	for name, w := range g.gateways {
		n := of[name]
		delete(of, name)
		v := Gateway{Group: g.def.Name, Name: name, Streams: n.active, Sealed: w.sealed, PerMinute: w.perMinute, Burned: w.burned, Checkpoint: -1,
			Behind: g.behind(w), Silent: w.silent, Ended: w.ended, Missing: n.missing, MissingTotal: n.total + w.total}
		if name != "" {
			v.Checkpoint = f.ago(w.at)
		}
		if w.epoch != (crypto.Epoch{}) {
			v.Epoch = w.epoch.String()
		}
		out = append(out, v)
	}
	for name, n := range of {
		if n.total > 0 {
			out = append(out, Gateway{Group: g.def.Name, Name: name, Streams: n.active, PerMinute: -1, Checkpoint: -1, Missing: n.missing, MissingTotal: n.total})
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Name < out[k].Name })
	return out
}

// unseen says what cannot be seen from here.
func (f *Fleet) unseen() []string {
	out := []string{}
	for _, why := range f.refusal {
		out = append(out, why)
	}
	slices.Sort(out)
	if f.cfg.NoMessages != "" {
		out = append(out, "missing messages: "+f.cfg.NoMessages)
	}
	if f.policy == nil {
		return out
	}
	if d := f.policy.Document; d.Revoked(f.cfg.Self) {
		out = append(out, fmt.Sprintf("messages and keys: policy %d has revoked %s", d.Version, f.cfg.Self.Name))
	} else if f.cfg.NoMessages == "" {
		var closed []string
		for i := range d.Groups {
			if !d.Groups[i].MayRead(f.cfg.Self) {
				closed = append(closed, d.Groups[i].Name)
			}
		}
		if len(closed) > 0 {
			out = append(out, fmt.Sprintf("missing messages of %s: the policy does not let %s read", listGroups(closed), f.cfg.Self.Name))
		}
	}
	if l := f.links[LinkControl]; l != nil && l.up && !f.control && f.now.Mono-l.since >= hearing {
		out = append(out, "members and leases: nothing is heard on "+f.Filters()[0]+"; the broker's access list may keep it from this user")
	}
	return out
}
