package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Machine is one member's control protocol. It is not safe for concurrent use: its
// owner calls one method at a time and, after each, looks at [Machine.Take] and
// [Machine.Deadline].
type Machine struct {
	cfg  Config
	self crypto.Member

	now       Time
	connected bool
	inbox     [16]byte // of this session

	policy   *policy.Signed   // in force; nil: none yet
	floor    Floor            // at least policy's
	topicKey *crypto.TopicKey // of the policy's number; nil: no group of ours hides its topics, or it has not come yet
	copy     copyState        // what a keeper knows of the broker's copy of the policy
	refresh  refreshState

	groups map[string]*group
	order  []string // the policy's

	lease     leaseState
	startedAt time.Duration // of this session
	heardAt   time.Duration // the broker last delivered something, or the session began
	endedAt   time.Duration // of the session before: when it was last heard of, for a dead connection is noticed late

	asks   []*ask // our Hellos that may still be answered, oldest first
	keeper keeperState

	out         Output
	checkpoints bool            // the data plane reports what it seals
	wanted      map[string]bool // groups of which it wants to know what others sealed
	keysChanged bool
	counters    map[Counter]uint64
	alarms      uint64
	lastAlarm   string
}

// New makes a Machine. It reports what is wrong with cfg, if anything.
func New(cfg Config) (*Machine, error) {
	if cfg.Identity == nil || cfg.Trust == nil || cfg.Rand == nil {
		return nil, errors.New("control: an identity, the fleet's CA and a source of randomness are needed")
	}
	if err := checkPrefix(cfg.Prefix); err != nil {
		return nil, err
	}
	self := cfg.Identity.Member()
	if self.Fleet != cfg.Trust.Fleet() {
		return nil, fmt.Errorf("control: the identity is of fleet %q, the CA of fleet %q: use the directory that `sealctl fleet add` made", self.Fleet, cfg.Trust.Fleet())
	}
	if cfg.GrantRate <= 0 {
		cfg.GrantRate = GrantRate
	}
	m := &Machine{cfg: cfg, self: self, floor: cfg.Floor, groups: make(map[string]*group), counters: make(map[Counter]uint64)}
	m.copy.reset()
	m.keeper.init(cfg.GrantRate)
	m.lease = leaseState{at: never, seen: make(map[string]*leaseSeen)}
	if err := m.random(m.lease.boot[:]); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if p := cfg.Policy; p != nil {
		if p.Document.Fleet != self.Fleet {
			return nil, fmt.Errorf("control: the policy is for fleet %q, the identity of fleet %q", p.Document.Fleet, self.Fleet)
		}
		if err := m.admitPolicy(p); err != nil {
			m.refuse(KindPolicy, "", crypto.Member{}, fmt.Errorf("the policy on disk: %w", err))
		} else {
			m.applyPolicy(p)
			m.refreshKeys()
		}
	}
	return m, nil
}

// Connected tells that a session with the broker has begun. Take then names the
// topics to subscribe to, with a new inbox.
func (m *Machine) Connected(now Time) {
	m.at(now)
	m.dropSession()
	m.connected, m.startedAt, m.heardAt = true, m.now.Mono, m.now.Mono
	if err := m.random(m.inbox[:]); err != nil {
		m.alarm(Event{Kind: KindHello, Result: ResultNote, Err: err})
	}
	m.out.Unsubscribe, m.out.Subscribe = nil, []string{PolicyTopic(m.cfg.Prefix)}
	m.copy.reset()
	m.startCheckpoints()
	m.joinTopics()
	m.startRefresh()
	m.settle()
}

// Disconnected tells that the session has ended. Keys stay in use.
func (m *Machine) Disconnected(now Time) {
	m.at(now)
	m.dropSession()
	m.settle()
}

// dropSession forgets what was bound to the session: its inbox, the Hellos that could be
// answered to it, and what was to be published.
func (m *Machine) dropSession() {
	if m.connected {
		m.endedAt = m.heardAt
	}
	m.connected, m.lease.at = false, never
	for _, a := range m.asks {
		a.erase()
	}
	m.asks = nil
	m.keeper.drop()
	m.out.Publish, m.out.Subscribe, m.out.Unsubscribe = nil, nil, nil
	for _, g := range m.groups {
		g.ask.reset()
		g.subscribed, g.checkpoint.heard, g.copy = false, false, [32]byte{}
	}
}

// Receive gives the machine a message that arrived. retained is the RETAIN flag it came
// with; the broker may set it as it likes, so nothing rests on it.
// The machine keeps no reference to payload.
func (m *Machine) Receive(now Time, topic string, payload []byte, retained bool) {
	m.at(now)
	m.heardAt = m.now.Mono
	m.dispatch(topic, payload)
	m.settle()
}

func (m *Machine) dispatch(topic string, payload []byte) {
	group, sender, checkpoints := ofCheckpointTopic(m.cfg.Prefix, topic)
	switch name, keys := groupOfKeysTopic(m.cfg.Prefix, topic); {
	case !m.connected:
		m.event(Event{Kind: KindUnknown, Result: ResultIgnored, Detail: "a message of an ended session"})
	case topic == PolicyTopic(m.cfg.Prefix):
		m.receivePolicy(payload)
	case m.policy == nil:
		m.event(Event{Kind: KindUnknown, Result: ResultIgnored, Detail: "no policy yet"})
	case keys:
		m.receiveEpoch(name, payload)
	case checkpoints:
		m.receiveCheckpoint(group, sender, payload)
	case topic == InboxTopic(m.cfg.Prefix, m.inbox):
		m.receiveInbox(payload)
	case topic == ControlTopic(m.cfg.Prefix):
		m.receiveControl(payload)
	default:
		m.refuse(KindUnknown, "", crypto.Member{}, fmt.Errorf("topic %.80q: %w", topic, ErrKind))
	}
}

// receiveInbox takes the answers of keepers.
func (m *Machine) receiveInbox(payload []byte) {
	switch kindOf(payload) {
	case KindGrant:
		m.receiveGrant(payload)
	case KindConfirm:
		m.receiveConfirm(payload)
	default:
		m.refuse(KindUnknown, "", crypto.Member{}, ErrKind)
	}
}

// receiveControl takes what members tell keepers, and keepers each other.
func (m *Machine) receiveControl(payload []byte) {
	switch kindOf(payload) {
	case KindHello:
		if !m.keepsAny() {
			m.event(Event{Kind: KindHello, Result: ResultIgnored, Detail: "keeps no group"})
			return
		}
		m.receiveHello(payload)
	case KindLease:
		if m.keepsAny() {
			m.receiveLease(payload)
		}
	default:
		m.refuse(KindUnknown, "", crypto.Member{}, ErrKind)
	}
}

// Advance tells the time; call it when [Machine.Deadline] has come.
func (m *Machine) Advance(now Time) {
	m.at(now)
	m.settle()
}

// at moves the clock. A clock that goes back is a fault of the caller's; timers then stand still.
func (m *Machine) at(now Time) {
	now.Mono = max(now.Mono, m.now.Mono)
	m.now = now
}

// settle does whatever is due. Every input ends with it.
func (m *Machine) settle() {
	if m.connected && m.policy != nil {
		for _, g := range m.ordered() {
			m.runTakeover(g)
			m.runLeader(g)
			m.runFreshness(g)
			m.runCheckpoints(g)
		}
		m.runLease()
		m.runKeeper()
		m.runAsks()
		m.runCopy()
	}
	if m.connected {
		m.runRefresh()
	}
	m.refreshKeys()
}

// Deadline is the Mono time at which Advance wants to be called; false: no timer runs.
func (m *Machine) Deadline() (time.Duration, bool) {
	due := never
	for _, g := range m.groups {
		due = min(due, g.keysDue(m.now.Mono))
		if m.connected {
			due = min(due, g.ask.due(), g.unknown.due(), g.renewAt, g.checkpoint.at, m.leaderDue(g))
		}
	}
	if m.connected && m.policy != nil {
		due = min(due, m.asksDue(), m.keeper.due(m.now.Mono), m.copy.at, m.lease.at)
	}
	if m.connected {
		due = min(due, m.refresh.at)
	}
	return due, due != never
}

// Take returns what has gathered since the last Take.
func (m *Machine) Take() Output {
	out := m.out
	m.out = Output{}
	return out
}

// ordered is the groups in the policy's order.
func (m *Machine) ordered() []*group {
	all := make([]*group, 0, len(m.order))
	for _, name := range m.order {
		all = append(all, m.groups[name])
	}
	return all
}

// publish signs a payload and queues it.
func (m *Machine) publish(kind Kind, group, topic string, payload []byte, retain bool) ([]byte, error) {
	msg, err := m.cfg.Identity.Sign(payload, string(kind))
	if err != nil {
		err = fmt.Errorf("signing a message of kind %s: %w", kind, err)
		m.alarm(Event{Kind: kind, Result: ResultNote, Group: group, Err: err})
		return nil, err
	}
	m.send(kind, topic, msg, retain)
	return msg, nil
}

func (m *Machine) send(kind Kind, topic string, msg []byte, retain bool) {
	m.out.Publish = append(m.out.Publish, Publish{Topic: topic, Payload: msg, Retain: retain, QoS: 1})
	m.counters[Counter{kind, ResultSent}]++
}

func (m *Machine) random(b []byte) error {
	if _, err := io.ReadFull(m.cfg.Rand, b); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	return nil
}

// jitter is a random time from 0 up to d.
func (m *Machine) jitter(d time.Duration) time.Duration {
	var b [8]byte
	if d <= 0 || m.random(b[:]) != nil {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d))
}

// event counts what happened and keeps it for the log; the oldest make room.
func (m *Machine) event(e Event) {
	e.At = m.now.Mono
	if e.Result != ResultNote {
		m.counters[Counter{e.Kind, e.Result}]++
	}
	if len(m.out.Events) >= MaxEvents {
		m.out.Events = append(m.out.Events[:0], m.out.Events[MaxEvents/2:]...)
	}
	m.out.Events = append(m.out.Events, e)
}

func (m *Machine) alarm(e Event) {
	e.Alarm = true
	m.alarms++
	m.lastAlarm = e.Detail
	if e.Err != nil {
		m.lastAlarm = e.Err.Error()
	}
	m.event(e)
}

func (m *Machine) note(g *group, detail string) {
	m.event(Event{Kind: KindEpoch, Result: ResultNote, Group: g.name, Detail: detail})
}

// refuse reports a message that breaks a rule.
func (m *Machine) refuse(kind Kind, group string, from crypto.Member, err error) {
	e := Event{Kind: kind, Result: ResultRefused, Group: group, From: label(from), Err: err}
	if isAttack(err) {
		m.alarm(e)
		return
	}
	m.event(e)
}

// isAttack tells the refusals that an honest fleet with an honest broker does not meet.
func isAttack(err error) bool {
	for _, e := range []error{ErrRole, ErrRevoked, ErrNotKeeper, ErrTopic, ErrJump, ErrPolicyFork, crypto.ErrCollision, crypto.ErrUnwrap} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func label(m crypto.Member) string {
	if m.Name == "" {
		return ""
	}
	return string(m.Role) + "/" + m.Name
}
