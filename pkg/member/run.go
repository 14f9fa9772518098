package member

import (
	"log/slog"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

// Bounds on what a broker can make a member hold.
const (
	maxMessage = policy.MaxEncoded + 64<<10 // bytes of one control message: the largest policy, signed
	maxPacket  = maxMessage + 64<<10        // with its topic
	maxQueued  = 256                        // messages that wait for the machine
	maxBytes   = 4 * maxMessage             // bytes that wait for the machine
	maxUrgent  = 16                         // leases that wait beside a full queue
	maxLease   = 64 << 10                   // bytes of one
	longestNap = 30 * time.Second           // Go's timers stop while a machine sleeps; CLOCK_BOOTTIME does not
)

type inbound struct {
	topic    string
	payload  []byte
	retained bool
}

type unknownKey struct {
	group string
	id    crypto.KeyID
}

// arrived takes a message from the broker. It is never refused an acknowledgement: whatever
// is lost here the machine asks for again.
func (m *Member) arrived(msg *session.Message) {
	defer msg.Ack()
	if len(msg.Payload) > maxMessage {
		m.tooLarge.Add(1)
		return
	}
	size := int64(len(msg.Payload))
	if m.queued.Add(size) <= maxBytes {
		select {
		case m.inbox <- inbound{msg.Topic, msg.Payload, msg.Retain}:
			return
		default:
		}
	}
	m.queued.Add(-size)
	if size <= maxLease && control.Urgent(msg.Payload) {
		select {
		case m.urgent <- inbound{msg.Topic, msg.Payload, msg.Retain}:
			return
		default:
		}
	}
	if m.dropped.Add(1) == 1 {
		m.log.Warn("control messages arrive faster than they can be verified; some are dropped", "queued", len(m.inbox))
	}
}

// run owns the machine until the member ends.
func (m *Member) run() {
	defer close(m.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		select {
		case <-m.ctx.Done():
			if m.link != nil {
				m.link.close()
			}
			return
		case msg := <-m.inbox:
			m.queued.Add(-int64(len(msg.payload)))
			m.machine.Receive(m.clock(), msg.topic, msg.payload, msg.retained)
		case msg := <-m.urgent:
			m.machine.Receive(m.clock(), msg.topic, msg.payload, msg.retained)
		case e := <-m.links:
			m.linkChanged(e)
		case f := <-m.requests:
			f(m.clock())
		case u := <-m.unknown:
			m.machine.UnknownKey(m.clock(), u.group, u.id)
		case <-daily.C:
			m.store.tick(m.clock().Wall)
		case <-timer.C:
			m.machine.Advance(m.clock())
		}
		m.apply(m.machine.Take())
		timer.Reset(m.nap())
	}
}

// nap is how long the machine may be left alone.
func (m *Member) nap() time.Duration {
	at, ok := m.machine.Deadline()
	if !ok {
		return longestNap
	}
	return min(max(at-m.clock().Mono, 0), longestNap)
}

// apply does what the machine wants done.
func (m *Member) apply(out control.Output) {
	m.keep.save(out.Keep) // before anybody hears of it
	for _, e := range out.Events {
		m.report(e)
	}
	if out.Policy != nil || out.Keyring != nil {
		m.publish(out.Policy, out.Keyring)
	}
	if len(out.Checkpoints) > 0 && m.cfg.Checkpoints != nil {
		m.cfg.Checkpoints(out.Checkpoints)
	}
	if m.link != nil && len(out.Unsubscribe)+len(out.Subscribe)+len(out.Publish) > 0 {
		m.link.send(out)
	}
}

// publish swaps in a new state and tells those who wait for one.
func (m *Member) publish(p *policy.Signed, k *crypto.Keyring) {
	next := *m.state.Load()
	if k != nil {
		next.Keys = k
	}
	if p != nil {
		table, err := p.Document.Table()
		if err != nil { // a verified policy has been validated; if not, keep the one in force
			m.log.Error("policy cannot be used", "version", p.Document.Version, "error", err)
			return
		}
		next.Policy, next.Table = p, table
		if err := m.store.save(p, m.clock().Wall); err != nil {
			m.log.Error("policy is in force, but cannot be kept over a restart", "error", err)
		}
		m.log.Info("policy in force", "version", p.Document.Version)
	}
	m.state.Store(&next)
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// report logs an event: alarms and refusals as warnings, what an operator wants to know as
// information, the rest for debugging. Whoever can send may cause warnings, so they are rationed.
func (m *Member) report(e control.Event) {
	level := slog.LevelDebug
	switch {
	case e.Alarm, e.Result == control.ResultRefused:
		level = slog.LevelWarn
	case e.Result == control.ResultNote:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.Any("event", e)}
	if level == slog.LevelWarn {
		ok, left := m.warnings.take(m.clock().Mono)
		if !ok {
			return
		}
		if left > 0 {
			attrs = append(attrs, slog.Uint64("left_out", left))
		}
	}
	m.log.LogAttrs(m.ctx, level, "control", attrs...)
}

// ration lets through warningBurst warnings, and one more for every warningEvery.
type ration struct {
	spent   int           // of the burst
	since   time.Duration // when spent was last made smaller
	leftOut uint64        // since the last one that was let through
}

const (
	warningBurst = 20
	warningEvery = 10 * time.Second
)

// take reports whether a warning may be logged now, and how many were not since the last one.
func (r *ration) take(now time.Duration) (ok bool, leftOut uint64) {
	if back := int((now - r.since) / warningEvery); back > 0 {
		r.spent, r.since = max(r.spent-back, 0), now
	}
	if r.spent >= warningBurst {
		r.leftOut++
		return false, 0
	}
	r.spent++
	leftOut, r.leftOut = r.leftOut, 0
	return true, leftOut
}

func (m *Member) wall() time.Time { return m.clock().Wall }
