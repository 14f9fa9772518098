// Package watch gathers what can be seen of a fleet from outside: who leads, under which epochs, what gateways say they
// have sealed, and what of it is missing. A [Fleet] is given control messages, reports of package subscriber and the time, and
// makes a [Picture] of the moment and the list of [Change]s since the last. It does no I/O and reads no clock; what it
// remembers is bounded.
//
// fleet.go takes things in; group.go holds a group's leader, epoch and gateways; stream.go what is missing of a stream;
// alarm.go what an operator should look at; picture.go the result.
package watch

import (
	"errors"
	"slices"
	"strings"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
)

// Bounds.
const (
	maxMembers = 4096
	maxStreams = 1 << 16 // of all groups
	maxChanges = 4096    // kept until they are taken; the oldest give way
)

// Config says who looks.
type Config struct {
	Trust      *crypto.Trust
	Self       crypto.Member
	Prefix     string
	NoMessages string // why this watch receives no messages; "": it does, where the policy lets it
}

// Fleet gathers what is heard. It is not safe for concurrent use. Every time is the same clock's.
type Fleet struct {
	cfg      Config
	observer *control.Observer
	policy   *policy.Signed
	keys     *crypto.Keyring
	now      control.Time
	began    time.Duration

	links   map[string]*link
	refusal map[string]string // topic filters that the broker refused
	groups  map[string]*group
	streams map[streamKey]*stream
	members map[string]*member // by role/name
	alarms  map[alarmKey]*alarm
	control bool // something has been heard on the control topic
	refused uint64
	dropped uint64
	changes []Change
}

type link struct {
	up    bool
	since time.Duration
	err   string
}

type member struct {
	at     time.Duration
	about  string
	policy uint64
}

// New makes a Fleet of which nothing is known yet.
func New(now control.Time, cfg Config) *Fleet {
	return &Fleet{
		cfg: cfg, observer: control.NewObserver(cfg.Trust, cfg.Prefix), now: now, began: now.Mono,
		links: make(map[string]*link), refusal: make(map[string]string), groups: make(map[string]*group), streams: make(map[streamKey]*stream),
		members: make(map[string]*member), alarms: make(map[alarmKey]*alarm),
	}
}

// Filters are the topic filters of the control connection.
func (f *Fleet) Filters() []string { return f.observer.Filters() }

func (f *Fleet) at(now control.Time) {
	now.Mono = max(now.Mono, f.now.Mono)
	f.now = now
}

// SetState tells the policy in force and the keys held, and reports whether the policy is another than before: announcements
// should then be asked for again. Either may be nil.
func (f *Fleet) SetState(now control.Time, p *policy.Signed, keys *crypto.Keyring) bool {
	f.at(now)
	f.keys = keys
	if p == nil || f.policy != nil && f.policy.Hash == p.Hash {
		return false
	}
	f.policy = p
	f.observer.SetPolicy(p)
	next := make(map[string]*group)
	for i := range p.Document.Groups {
		def := &p.Document.Groups[i]
		g := f.groups[def.Name]
		if g == nil || g.def.Checkpoint != def.Checkpoint {
			g = newGroup(f, def, g)
		}
		g.redefine(def)
		next[def.Name] = g
	}
	f.groups = next
	f.change(Change{What: ChangePolicy, Policy: p.Document.Version})
	return true
}

// SetLink tells that one of the connections stands (err is nil), or why not.
func (f *Fleet) SetLink(now control.Time, name string, err error) {
	f.at(now)
	l, known := f.links[name]
	if !known {
		l = &link{since: now.Mono}
		f.links[name] = l
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if known && l.up == (err == nil) && l.err == text {
		return
	}
	if !known || l.up != (err == nil) {
		l.since = f.now.Mono
	}
	l.up, l.err = err == nil, text
	if name == LinkControl {
		for _, filter := range f.Filters() {
			delete(f.refusal, filter)
		}
		for _, g := range f.groups {
			g.interrupted(f.now.Mono)
		}
	}
	state := "up"
	if !l.up {
		state = "down: " + text
	}
	f.change(Change{What: ChangeLink, Detail: name + " " + state})
}

// SetFilter tells that the broker has granted a subscription (err is nil), or why it has not.
func (f *Fleet) SetFilter(filter string, err error) {
	delete(f.refusal, filter)
	if err != nil {
		f.refusal[filter] = err.Error()
	}
}

// Drop tells that n control messages were not looked at, for want of time.
func (f *Fleet) Drop(n uint64) { f.dropped += n }

// Receive takes a control message. retained is the flag it came with.
func (f *Fleet) Receive(now control.Time, topic string, payload []byte, retained bool) {
	f.at(now)
	h, err := f.observer.Receive(f.now.Wall, topic, payload)
	if err != nil {
		f.refuse(h, err)
		return
	}
	switch g := f.groups[h.Group]; h.Kind {
	case control.KindHello:
		f.control = true
		f.heard(&h, "asks for "+h.Hello.Want.String()+" of "+helloGroups(h.Hello), h.Hello.PolicyVersion)
	case control.KindLease:
		f.control = true
		f.heard(&h, "leads "+leaseGroups(h.Lease), h.Lease.PolicyVersion)
		for i := range h.Lease.Groups {
			f.groups[h.Lease.Groups[i].Name].lease(f, h.From.Name)
		}
	case control.KindEpoch:
		if err := g.announced(f, h.Epoch, h.From.Name, retained); err != nil {
			f.refuse(h, err)
		} else if !retained {
			f.heard(&h, "announces epoch "+h.Epoch.Newest().String()+" of "+g.def.Name, h.Epoch.PolicyVersion)
		}
	case control.KindCheckpoint:
		if err := g.checkpoint(f, h.Checkpoint, h.From.Name); err != nil {
			f.refuse(h, err)
			return
		}
		f.heard(&h, "tells what it sealed in "+g.def.Name, 0)
	}
}

// refuse counts a message that breaks a rule, and raises an alarm for what no honest fleet behind an honest broker says.
func (f *Fleet) refuse(h control.Heard, err error) {
	f.refused++
	for _, harmless := range []error{control.ErrNoPolicy, control.ErrPolicyBehind, control.ErrPolicyAhead, control.ErrReplayedLease,
		control.ErrRevoked, control.ErrKind, checkpoint.ErrReplay, control.ErrStale, control.ErrNoGroup} {
		if errors.Is(err, harmless) {
			return
		}
	}
	f.raise(AlarmRefused, "", h.From.Name, string(h.Kind)+": "+err.Error())
}

// heard notes that a member lives.
func (f *Fleet) heard(h *control.Heard, about string, version uint64) {
	who := string(h.From.Role) + "/" + h.From.Name
	m := f.members[who]
	if m == nil {
		if len(f.members) >= maxMembers {
			f.forgetMember()
		}
		m = new(member)
		f.members[who] = m
		f.change(Change{What: ChangeMember, Member: who, Detail: about})
	}
	m.at, m.about = f.now.Mono, about
	if version > 0 {
		m.policy = version
	}
	if h.Kind == control.KindHello || h.Kind == control.KindLease {
		f.change(Change{What: string(h.Kind), Member: who, Detail: about, Routine: true})
	}
}

func (f *Fleet) forgetMember() {
	oldest, at := "", f.now.Mono+1
	for name, m := range f.members {
		if m.at < at {
			oldest, at = name, m.at
		}
	}
	delete(f.members, oldest)
}

// Message takes what package subscriber says of a message, or reports.
func (f *Fleet) Message(now control.Time, m *subscriber.Message) {
	f.at(now)
	g := f.groups[m.Group]
	if m.Status == subscriber.StatusOK && g != nil {
		g.messages++
	}
	if !m.Report() {
		if alarming[m.Status] {
			f.raise(string(m.Status), m.Group, m.Gateway, "topic "+m.Topic)
		}
		return
	}
	if g == nil || m.Gateway != "" && g.gateways[m.Gateway] != nil && (m.Status == subscriber.StatusSilent || m.Status == subscriber.StatusHeard || m.Status == subscriber.StatusWithheld) {
		return // our own ledger tells
	}
	c := Change{What: string(m.Status), Group: m.Group, Gateway: m.Gateway, Topic: m.Topic}
	if m.Sealed {
		c.Stream = m.Stream.String()
	}
	if m.To >= m.From && m.Status != subscriber.StatusDisputed && m.Status != subscriber.StatusCrowded && m.Sealed || m.Status == subscriber.StatusWithheld {
		c.From, c.To = &m.From, &m.To
	}
	f.report(g, m, &c)
	f.change(c)
}

// report notes what a report means for the stream it is about.
func (f *Fleet) report(g *group, m *subscriber.Message, c *Change) {
	key := streamKey{m.Group, crypto.NewKid(m.Key, m.Stream)}
	switch m.Status {
	case subscriber.StatusGap, subscriber.StatusDropped:
		c.Alarm = true
		if s := f.stream(key); s != nil {
			s.miss(m.From, m.To, m.Status == subscriber.StatusDropped, f.now.Mono)
			if s.gateway == "" {
				s.gateway = m.Gateway
			}
			c.Gateway = s.gateway
		}
	case subscriber.StatusGapFilled, subscriber.StatusRecovered:
		if s := f.streams[key]; s != nil {
			s.found(m.From, m.To)
		}
	case subscriber.StatusBurned:
		if s := f.stream(key); s != nil {
			s.unsent(m.From, m.To)
		}
	case subscriber.StatusDisputed:
		c.Alarm, c.Detail = true, "claimed by "+m.Gateway+", and "+m.Other
		f.raiseQuietly(string(m.Status), m.Group, m.Gateway, c.Detail)
	case subscriber.StatusSilent, subscriber.StatusWithheld, subscriber.StatusUnattributed, subscriber.StatusCrowded:
		c.Alarm = true
		f.raiseQuietly(string(m.Status), m.Group, m.Gateway, "")
	case subscriber.StatusHeard:
		delete(f.alarms, alarmKey{string(subscriber.StatusSilent), m.Group, m.Gateway})
	}
}

// Tick tells the time; call it about once a second.
func (f *Fleet) Tick(now control.Time) {
	f.at(now)
	for _, g := range f.groups {
		g.ledger.Advance(f.now.Mono)
		g.events(f)
	}
	f.prune()
	f.settleAlarms()
}

// Take returns the changes since the last Take, oldest first.
func (f *Fleet) Take() []Change {
	out := f.changes
	f.changes = nil
	return out
}

func (f *Fleet) change(c Change) {
	c.At = f.now.Wall
	if len(f.changes) >= maxChanges {
		f.changes = slices.Delete(f.changes, 0, maxChanges/2)
	}
	f.changes = append(f.changes, c)
}

// reads reports whether this watch receives a group's messages.
func (f *Fleet) reads(g *policy.Group) bool {
	return f.cfg.NoMessages == "" && g.MayRead(f.cfg.Self) && !f.policy.Document.Revoked(f.cfg.Self)
}

// someGroups bounds the names in one line.
const someGroups = 4

func listGroups(names []string) string {
	if n := len(names); n > someGroups {
		names = append(names[:someGroups:someGroups], "...")
	}
	return strings.Join(names, ", ")
}

func helloGroups(h *control.Hello) string {
	var names []string
	for _, g := range h.Groups {
		names = append(names, g.Name)
	}
	return listGroups(names)
}

func leaseGroups(l *control.Lease) string {
	var names []string
	for _, g := range l.Groups {
		names = append(names, g.Name)
	}
	return listGroups(names)
}
