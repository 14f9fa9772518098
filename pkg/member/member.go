// Package member runs one member's side of the control protocol: it puts a
// [control.Machine], which does no I/O, onto an MQTT connection, a clock and a state
// directory, and publishes what the machine learns (the fleet policy and the
// keys) as an immutable [State] that others read without a lock.
//
// One goroutine owns the machine (run.go). Messages from the broker, the timer and
// requests of the program reach it through bounded channels; what it wants published or
// subscribed goes to the current connection in order (link.go). Losing the broker
// loses nothing: the keys stay, the connection comes back by itself after a
// jittered pause, and the machine is told of both.
package member

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

// DefaultPrefix is the first level of every control topic, unless configured otherwise.
const DefaultPrefix = "sealgate"

// Config says who the member is and which broker carries its control messages.
type Config struct {
	Identity *crypto.Identity    // the member's key and certificate
	Trust    *crypto.Trust       // the fleet's CA
	Topics   *crypto.TopicSecret // of a keeper of groups that hide their topics; nil: none
	Policy   *policy.Signed      // the newest policy known, from the enrolment bundle; nil: wait for the broker's

	Broker   []string    // mqtt:// or mqtts:// URLs, tried in this order
	TLS      *tls.Config // for mqtts; nil: the system's CAs. Verification cannot be switched off
	Username string
	Password string
	Prefix   string // topic prefix of the control messages; empty: DefaultPrefix

	// RareClock notes the time in StateDir with a new policy only, and not once a day besides: it is flash.
	RareClock bool

	StateDir string // where the policy and the clock floor are kept, 0700; empty: nothing is kept
	// KeepDir is where the keys of the groups that this member keeps outlive the program: a directory in memory, else it is not
	// used unless KeepAnywhere is set; empty: nowhere.
	KeepDir      string
	KeepAnywhere bool
	Log          *slog.Logger        // nil: slog.Default()
	Clock        func() control.Time // nil: CLOCK_BOOTTIME, and the wall clock but never below what is known to have passed

	Keyless  bool // follow the policy, ask for no keys
	ReadOnly bool // never seal, so need no confirmation of epochs

	// Checkpoints, if set, gets what other members say they have sent in the groups that this one may read, verified. It is
	// called on the machine's goroutine and may not block.
	Checkpoints func([]control.ReceivedCheckpoint)
	Choosy      bool // Checkpoints gets those of the groups that WantCheckpoints names, and not of all

	// OnBroker, if set, is told of every change of the control connection: nil when it stands,
	// else why an attempt failed or the connection ended (a [session.Error]). It may not block.
	OnBroker func(error)
}

// State is what the data plane needs, immutable once published.
type State struct {
	Policy *policy.Signed  // nil until a policy is known
	Table  *policy.Table   // of Policy; nil with it
	Keys   *crypto.Keyring // never nil; empty until keys arrive
}

// Counters are what the member has refused before the machine saw it.
type Counters struct {
	TooLarge uint64 // control messages over maxMessage bytes
	Dropped  uint64 // control messages that found the queue full
}

// Member is a running member. Its methods may be called from any goroutine.
type Member struct {
	cfg     Config
	log     *slog.Logger
	clock   func() control.Time
	store   *store
	keep    *keep
	session *session.Session
	self    crypto.Member

	machine *control.Machine // owned by run
	link    *link            // owned by run; nil while disconnected

	warnings ration // owned by run

	state   atomic.Pointer[State]
	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed at the next change of state

	inbox    chan inbound
	urgent   chan inbound
	queued   atomic.Int64 // bytes in inbox
	links    chan linkEvent
	requests chan func(now control.Time)
	unknown  chan unknownKey

	tooLarge, dropped atomic.Uint64

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// Start checks cfg, starts the member and returns at once; the broker need not
// be reachable. The member runs until ctx ends or Close is called.
func Start(ctx context.Context, cfg Config) (*Member, error) {
	m, brokers, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("start member: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	m.session, err = session.Start(m.ctx, session.Config{
		Brokers: brokers, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
		CleanSession: true, MaxPacket: maxPacket, Log: m.log, Name: "control",
		Now: m.wall,
		Up:  m.up, Down: m.down, Message: m.arrived,
	})
	if err != nil {
		m.cancel()
		return nil, fmt.Errorf("start member: %w", err)
	}
	go m.run()
	return m, nil
}

// prepare checks cfg and makes a member that is not running yet.
func prepare(cfg Config) (*Member, []session.Broker, error) {
	if cfg.Identity == nil || cfg.Trust == nil {
		return nil, nil, errors.New("no identity; load one with LoadIdentity")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	var brokers []session.Broker
	for _, u := range cfg.Broker {
		b, err := session.ParseBroker(strings.TrimSpace(u))
		if err != nil {
			return nil, nil, err
		}
		brokers = append(brokers, b)
	}
	m := &Member{
		cfg: cfg, log: cfg.Log, self: cfg.Identity.Member(),
		changed: make(chan struct{}), done: make(chan struct{}),
		inbox: make(chan inbound, maxQueued), urgent: make(chan inbound, maxUrgent), links: make(chan linkEvent, 4),
		requests: make(chan func(control.Time)), unknown: make(chan unknownKey, 64),
	}
	var err error
	if m.store, err = openStore(cfg.StateDir, cfg.Trust, cfg.Log); err != nil {
		return nil, nil, err
	}
	m.store.rare = cfg.RareClock
	if m.clock = cfg.Clock; m.clock == nil {
		checkClock(cfg.Log, m.store.wall, time.Now(), cfg.Identity)
		m.clock = newClock(latest(m.store.wall, cfg.Identity.NotBefore()))
	}
	m.keep = openKeep(cfg.KeepDir, cfg.KeepAnywhere, cfg.Log)
	start := newest(cfg.Policy, m.store.load(m.clock().Wall))
	m.machine, err = control.New(control.Config{
		Identity: cfg.Identity, Trust: cfg.Trust, Topics: cfg.Topics, Policy: start, Floor: m.store.floor,
		Prefix: cfg.Prefix, Rand: rand.Reader, Keyless: cfg.Keyless, ReadOnly: cfg.ReadOnly, GrantRate: grantRate(m.self.Role),
		Checkpoints: cfg.Checkpoints != nil && !cfg.Choosy, Keep: m.keep.dir != "", Kept: m.keep.load(),
	})
	if err != nil {
		return nil, nil, err
	}
	empty, err := crypto.NewKeyring(nil)
	if err != nil {
		return nil, nil, err
	}
	m.state.Store(&State{Keys: empty})
	return m, brokers, nil
}

// serverGrantRate is how many Grants a second a keeper of role keeper hands out: about one core of a server.
const serverGrantRate = 2000

// grantRate is the bound on a keeper's Grants: a member of role keeper has no gateway beside it, so
// it is a server's; any other may be a router, and keeps to the default.
func grantRate(r crypto.Role) int {
	if r == crypto.RoleKeeper {
		return serverGrantRate
	}
	return control.GrantRate
}

// newest returns the policy with the higher version; either may be nil.
func newest(a, b *policy.Signed) *policy.Signed {
	if a == nil || b != nil && b.Document.Version > a.Document.Version {
		return b
	}
	return a
}

// State returns the newest state. It is never nil.
func (m *Member) State() *State { return m.state.Load() }

// Changed returns a channel that is closed when the state changes next. Take the channel
// first and read State after, so that no change is missed.
func (m *Member) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Identity returns who the member is.
func (m *Member) Identity() crypto.Member { return m.self }

// Connected reports whether the control connection stands.
func (m *Member) Connected() bool { return m.session.Live() }

// Counters returns what was refused so far.
func (m *Member) Counters() Counters {
	return Counters{TooLarge: m.tooLarge.Load(), Dropped: m.dropped.Load()}
}

// Now is the member's clock, on which NotAfter of its keys is measured.
func (m *Member) Now() control.Time { return m.clock() }

// UnknownKey asks the keepers for a key that was met in an envelope and is not
// in the keyring. It never blocks; queries are limited by the machine.
func (m *Member) UnknownKey(group string, id crypto.KeyID) {
	select {
	case m.unknown <- unknownKey{group, id}:
	default: // the queries already waiting bring the keys of this group too
	}
}

// ReportEpoch tells the machine the highest epoch of which this member's data plane holds keys.
func (m *Member) ReportEpoch(group string, e crypto.Epoch) {
	m.ask(m.ctx, func(now control.Time) { m.machine.ReportEpoch(now, group, e) })
}

// Rotate starts a new epoch of a group now, if this member leads the group, and returns it.
func (m *Member) Rotate(ctx context.Context, group string) (crypto.Epoch, error) {
	var before crypto.Epoch
	var err error
	if !m.ask(ctx, func(now control.Time) {
		before = epochOf(m.machine.Status(now), group)
		err = m.machine.Rotate(now, group)
	}) {
		return crypto.Epoch{}, m.ended(ctx)
	}
	for err == nil {
		changed := m.Changed()
		if now := epochOf(m.Status(), group); now.Compare(before) > 0 {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return crypto.Epoch{}, fmt.Errorf("rotate group %q: no new epoch yet: %w", group, ctx.Err())
		case <-m.done:
			return crypto.Epoch{}, m.ended(ctx)
		}
	}
	return crypto.Epoch{}, fmt.Errorf("rotate group %q: %w", group, err)
}

func epochOf(s control.Status, group string) crypto.Epoch {
	for i := range s.Groups {
		if s.Groups[i].Name == group {
			return s.Groups[i].Epoch
		}
	}
	return crypto.Epoch{}
}

// Status returns the machine's own account of itself; the zero Status once the member has ended.
func (m *Member) Status() (s control.Status) {
	m.ask(context.Background(), func(now control.Time) { s = m.machine.Status(now) })
	return s
}

// ask runs f on the machine's goroutine and reports whether it ran.
func (m *Member) ask(ctx context.Context, f func(control.Time)) bool {
	ran := make(chan struct{})
	select {
	case m.requests <- func(now control.Time) { f(now); close(ran) }:
		<-ran
		return true
	case <-ctx.Done():
	case <-m.done:
	}
	return false
}

func (m *Member) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("the member has been closed")
}

// Close ends the member, says goodbye to the broker and waits until both are done.
func (m *Member) Close() error {
	m.farewell()
	m.cancel()
	m.session.Close()
	<-m.done
	return m.store.close(m.clock().Wall)
}
