package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/watch"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
	"sealgate/pkg/subscriber"
	"sealgate/pkg/topic"
)

// Bounds of what a broker can make a lookout hold and do.
const (
	maxOverheard = 1024 // control messages that wait to be verified
	maxWatched   = 4 << 20
)

// lookout feeds a watch.Fleet: from a session on which control messages are overheard, and as a member of the fleet, which
// has the policy and, for a subscriber, keys and messages. Three goroutines and the sessions' callbacks meet at mu.
type lookout struct {
	f     *watchFlags
	level *slog.LevelVar
	clock func() control.Time
	self  crypto.Member
	news  chan struct{} // capacity 1: something has changed
	ctx   context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup

	client    *subscriber.Client // of a subscriber; else nil
	member    *member.Member     // of others; else nil
	session   *session.Session
	overheard chan *session.Message
	dropped   atomic.Uint64
	granted   chan error // capacity 1: the first outcome of the control connection

	wanted []string // topic filters of messages that are subscribed to; owned by tick

	mu    sync.Mutex
	fleet *watch.Fleet  // guarded by mu
	conn  *session.Conn // guarded by mu; of the control connection, nil while it is down
}

// look connects. The control connection comes first, so that this member's own Hello shows that the topic can be read.
func (f *watchFlags) look(ctx context.Context, env cmdenv.Env, c *command) (*lookout, error) {
	id, trust, signed, err := member.LoadIdentity(f.identity)
	if err != nil {
		return nil, err
	}
	clock := member.NewClock(id.NotBefore())
	l := &lookout{f: f, clock: clock, self: id.Member(), news: make(chan struct{}, 1), overheard: make(chan *session.Message, maxOverheard), granted: make(chan error, 1)}
	l.ctx, l.stop = context.WithCancel(ctx)
	reader := id.Member().Role == crypto.RoleSubscriber
	cfg := watch.Config{Trust: trust, Self: id.Member(), Prefix: f.prefix}
	switch {
	case !reader:
		cfg.NoMessages = fmt.Sprintf("%s looks on without keys; a subscriber would see them", id.Member().Role)
	case f.noMessages:
		cfg.NoMessages = "--no-messages"
	}
	l.fleet = watch.New(clock(), cfg)
	if signed != nil {
		l.fleet.SetState(clock(), signed, nil)
	}
	log, level := newLog(env, c)
	l.level = level
	if err := l.overhear(ctx, log); err != nil {
		l.close()
		return nil, err
	}
	if reader && !f.noMessages {
		l.client, err = f.connect(ctx, env, c, func(o *subscriber.Options) {
			o.Handler, o.ReadOnly, o.Log = l.message, true, log
		})
	} else {
		err = l.follow(log, id, trust, signed)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	level.Set(min(level.Level(), slog.LevelWarn))
	l.done.Add(1)
	go func() { defer l.done.Done(); l.tick() }()
	return l, nil
}

// overhear starts the control connection and returns when its subscriptions are granted, or why they cannot be.
func (l *lookout) overhear(ctx context.Context, log *slog.Logger) error {
	url := l.f.control
	if url == "" {
		url = l.f.broker
	}
	brokers, err := session.ParseBrokers(url)
	if err != nil {
		return err
	}
	t, err := l.f.tls()
	if err != nil {
		return err
	}
	l.session, err = session.Start(l.ctx, session.Config{
		Brokers: brokers, TLS: t, Username: l.f.username, Password: l.f.password, CleanSession: true, MaxPacket: maxWatched,
		Now: func() time.Time { return l.clock().Wall }, Log: log, Name: "watch",
		Up: func(c *session.Conn) { l.done.Add(1); go func() { defer l.done.Done(); l.listen(c) }() },
		Down: func(err error) {
			l.set(func(now control.Time) { l.conn = nil; l.fleet.SetLink(now, watch.LinkControl, err) })
			l.first(err)
		},
		Message: l.arrived,
	})
	if err != nil {
		return err
	}
	l.done.Add(1)
	go func() { defer l.done.Done(); l.verify() }()
	select {
	case err := <-l.granted:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lookout) first(err error) {
	select {
	case l.granted <- err:
	default:
	}
}

// listen subscribes on a new connection. What the broker refuses is said in the picture.
func (l *lookout) listen(c *session.Conn) {
	l.set(func(now control.Time) { l.conn = c; l.fleet.SetLink(now, watch.LinkControl, nil) })
	for _, filter := range l.fleet.Filters() {
		if err := c.Subscribe(l.ctx, filter, 1); errors.Is(err, session.ErrRefused) {
			l.set(func(control.Time) { l.fleet.SetFilter(filter, err) })
			l.done.Add(1)
			go func() {
				defer l.done.Done()
				if c.Insist(l.ctx, filter, 1) == nil {
					l.set(func(control.Time) { l.fleet.SetFilter(filter, nil) })
				}
			}()
		} else if err != nil {
			l.first(err)
			return
		}
	}
	l.first(nil)
}

// arrived takes a control message; what comes faster than it can be verified is counted.
func (l *lookout) arrived(m *session.Message) {
	defer m.Ack()
	select {
	case l.overheard <- m:
	default:
		l.dropped.Add(1)
	}
}

func (l *lookout) verify() {
	for {
		select {
		case m := <-l.overheard:
			l.set(func(now control.Time) { l.fleet.Receive(now, m.Topic, m.Payload, m.Retain) })
		case <-l.ctx.Done():
			return
		}
	}
}

// follow starts a member that follows the policy and asks for nothing.
func (l *lookout) follow(log *slog.Logger, id *crypto.Identity, trust *crypto.Trust, signed *policy.Signed) error {
	url := l.f.control
	if url == "" {
		url = l.f.broker
	}
	t, err := l.f.tls()
	if err != nil {
		return err
	}
	l.member, err = member.Start(context.WithoutCancel(l.ctx), member.Config{
		Identity: id, Trust: trust, Policy: signed, Broker: strings.Split(url, ","), TLS: t, Username: l.f.username, Password: l.f.password,
		Prefix: l.f.prefix, StateDir: stateDir(l.f.identity), Log: log, Keyless: true, ReadOnly: true,
		OnBroker: func(err error) {
			l.set(func(now control.Time) { l.fleet.SetLink(now, watch.LinkMember, err) })
		},
	})
	return err
}

// message takes what the client says of messages.
func (l *lookout) message(m *subscriber.Message) {
	l.set(func(now control.Time) { l.fleet.Message(now, m) })
}

// set runs f on the fleet and wakes whoever shows it.
func (l *lookout) set(f func(control.Time)) {
	l.mu.Lock()
	f(l.clock())
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// tick tells the fleet the time and the member's state, and subscribes to what a policy adds.
func (l *lookout) tick() {
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		l.settle()
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *lookout) settle() {
	s := l.state()
	var again *session.Conn
	l.set(func(now control.Time) {
		if l.fleet.SetState(now, s.Policy, s.Keys) {
			again = l.conn
		}
		if l.client != nil {
			keys, messages := l.client.Connected()
			l.fleet.SetLink(now, watch.LinkMember, lost(keys))
			l.fleet.SetLink(now, watch.LinkMessages, lost(messages))
		}
		l.fleet.Drop(l.dropped.Swap(0))
		l.fleet.Tick(now)
	})
	if again != nil { // announcements that named this policy were refused: have the retained ones once more
		_ = again.Subscribe(l.ctx, l.fleet.Filters()[1], 1)
	}
	l.subscribe(s)
}

func lost(up bool) error {
	if up {
		return nil
	}
	return errors.New("connecting again")
}

// subscribe makes the subscriptions that the policy calls for and that are not there yet.
func (l *lookout) subscribe(s *member.State) {
	if l.client == nil || s.Policy == nil {
		return
	}
	filters := l.f.topics
	if len(filters) == 0 {
		for i := range s.Policy.Document.Groups {
			if g := &s.Policy.Document.Groups[i]; g.MayRead(l.self) && !s.Policy.Document.Revoked(l.self) {
				filters = append(filters, g.Topics...)
			}
		}
	}
	for _, filter := range filters {
		if slices.Contains(l.wanted, filter) {
			continue
		}
		l.wanted = append(l.wanted, filter)
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			if err := l.client.Subscribe(l.ctx, 1, filter); err != nil && l.ctx.Err() == nil {
				l.set(func(control.Time) { l.fleet.SetFilter(filter, err) })
			}
		}()
	}
}

// state is the policy and the keys by now.
func (l *lookout) state() *member.State {
	if l.client != nil {
		return l.client.State()
	}
	return l.member.State()
}

func (l *lookout) picture() *watch.Picture {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	l.fleet.Tick(now)
	l.fleet.Take()
	return l.fleet.Picture(now)
}

func (l *lookout) changes() []watch.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fleet.Take()
}

// quiet keeps the log off a terminal that a picture is drawn on.
func (l *lookout) quiet() { l.level.Set(slog.LevelError + 1) }

func (l *lookout) close() {
	l.stop()
	if l.session != nil {
		l.session.Close()
	}
	if l.client != nil {
		l.client.Close()
	}
	if l.member != nil {
		l.member.Close()
	}
	l.done.Wait()
}

// validFilters checks topic filters of the command line.
func validFilters(filters []string) error {
	for _, t := range filters {
		if err := topic.ValidateFilter(t); err != nil {
			return usagef("-t %q: %v", t, err)
		}
	}
	return nil
}
