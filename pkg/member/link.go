package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/session"
)

const (
	linkBacklog = 512              // outputs of the machine that wait for the broker
	grantWait   = 20 * time.Second // for the broker's answer to one SUBSCRIBE
	ackWait     = time.Minute      // for the broker's answer to a PUBLISH
)

// linkEvent is a change of the control connection: conn, or nil with the reason.
type linkEvent struct {
	conn *session.Conn
	err  error
}

func (m *Member) up(c *session.Conn) { m.changeLink(linkEvent{conn: c}) }
func (m *Member) down(err error)     { m.changeLink(linkEvent{err: err}) }

func (m *Member) changeLink(e linkEvent) {
	select {
	case m.links <- e:
	case <-m.ctx.Done():
	}
}

// linkChanged tells the machine and the owner; it runs on the machine's goroutine.
func (m *Member) linkChanged(e linkEvent) {
	if m.link != nil {
		m.link.close()
		m.link = nil
		m.machine.Disconnected(m.clock())
	}
	if e.conn != nil {
		m.link = newLink(m.ctx, m, e.conn)
		m.machine.Connected(m.clock())
	}
	if m.cfg.OnBroker != nil {
		m.cfg.OnBroker(e.err)
	}
}

// link carries out, in order, what the machine wants on one connection.
type link struct {
	conn   *session.Conn
	work   chan control.Output
	cancel context.CancelFunc
	log    *slog.Logger

	refused map[string]*insisting // subscriptions that are asked for again; owned by run
	unacked unacked               // owned by run
}

func newLink(ctx context.Context, m *Member, c *session.Conn) *link {
	ctx, cancel := context.WithCancel(ctx)
	l := &link{conn: c, work: make(chan control.Output, linkBacklog), cancel: cancel, log: m.log, refused: make(map[string]*insisting)}
	go l.run(ctx, m)
	return l
}

func (l *link) close() { l.cancel() }

// send queues out. A broker that lets the queue fill up has stopped reading: a new connection
// begins afresh, and the machine repeats what matters.
func (l *link) send(out control.Output) {
	select {
	case l.work <- out:
	default:
		l.conn.Drop()
	}
}

func (l *link) run(ctx context.Context, m *Member) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.conn.Done():
			return
		case out := <-l.work:
			err := l.do(ctx, out)
			if err == nil || ctx.Err() != nil || errors.Is(err, session.ErrLost) {
				continue
			}
			m.log.Warn("control topics cannot be used", "error", err)
			if errors.Is(err, context.DeadlineExceeded) {
				l.conn.Drop() // it takes connections and answers nothing, as a cluster's node without its peers may: try the next broker
			}
		}
	}
}

// do unsubscribes, subscribes and publishes, so that answers find their subscription.
func (l *link) do(ctx context.Context, out control.Output) (first error) {
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, filter := range out.Unsubscribe {
		if again := l.refused[filter]; again != nil {
			again.stop()
			delete(l.refused, filter)
		}
		keep(l.answered(ctx, func(ctx context.Context) error { return l.conn.Unsubscribe(ctx, filter) }))
	}
	for _, filter := range out.Subscribe {
		if again := l.refused[filter]; again != nil && !again.ended() {
			continue
		}
		err := l.answered(ctx, func(ctx context.Context) error { return l.conn.Subscribe(ctx, filter, 1) })
		if errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if keep(err); errors.Is(err, session.ErrRefused) {
			l.refused[filter] = l.insist(ctx, filter)
		}
	}
	for _, p := range out.Publish {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Now()
		l.unacked.add(l.conn.Publish(p.Topic, p.Payload, p.QoS, p.Retain), now)
		if l.unacked.overdue(now) {
			keep(fmt.Errorf("the broker has acknowledged nothing for %v: %w", ackWait, context.DeadlineExceeded))
		}
	}
	return first
}

// answered gives the broker its time for one answer: a cluster that has just lost a node takes seconds for each.
func (l *link) answered(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	return request(ctx)
}

// insisting is a subscription that the broker has refused and is asked for again.
type insisting struct {
	stop context.CancelFunc
	done chan struct{} // closed when it is granted, or given up
}

func (i *insisting) ended() bool {
	select {
	case <-i.done:
		return true
	default:
		return false
	}
}

func (l *link) insist(ctx context.Context, filter string) *insisting {
	ctx, stop := context.WithCancel(ctx)
	i := &insisting{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(i.done)
		defer stop()
		if l.conn.Insist(ctx, filter, 1) == nil {
			l.log.Info("the broker has granted the control topic after all", "topic", filter)
		}
	}()
	return i
}

// unacked are the publications that the broker has not acknowledged, the oldest first. Each one is held in memory until
// it is: a broker that takes messages and never acknowledges one would fill a router in days.
type unacked struct{ waiting []publication }

type publication struct {
	delivery interface{ Pending() bool }
	since    time.Time
}

func (u *unacked) add(d interface{ Pending() bool }, now time.Time) {
	u.waiting = append(u.waiting, publication{d, now})
}

// overdue reports whether the oldest has waited for longer than a broker may take.
func (u *unacked) overdue(now time.Time) bool {
	done := 0
	for done < len(u.waiting) && !u.waiting[done].delivery.Pending() {
		done++
	}
	u.waiting = slices.Delete(u.waiting, 0, done)
	return len(u.waiting) > 0 && now.Sub(u.waiting[0].since) > ackWait
}
