package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"sealgate/pkg/config"
	"sealgate/pkg/steer"
)

// offer is the old one's side of a handover.
type offer struct {
	d        *daemon
	name     *net.UnixListener
	steering *steer.Steering
	metrics  net.Listener // nil: no server
	parting  chan parting // capacity 1
}

// parting is a handover that has come to its "go".
type parting struct {
	over time.Duration // for the connections to end
	shut chan struct{} // to be closed when nothing is accepted any more
}

// serve answers whoever asks, one after the other, until ctx ends or all is handed over.
func (o *offer) serve(ctx context.Context) {
	if o.name == nil {
		return
	}
	defer o.name.Close()
	defer context.AfterFunc(ctx, func() { o.name.Close() })()
	for ctx.Err() == nil {
		c, err := o.name.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // out of file descriptors, most likely
			}
			continue
		}
		gone, err := o.answer(ctx, c)
		c.Close()
		if gone {
			return
		}
		if err != nil {
			o.d.log.Warn("handover broken off, going on", "error", err)
		}
	}
}

// answer is one handover, until it has succeeded (true) or is broken off.
func (o *offer) answer(ctx context.Context, c *net.UnixConn) (gone bool, err error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	who, err := credentials(c)
	if err != nil {
		return false, err
	}
	if who.Uid != 0 && int(who.Uid) != os.Geteuid() {
		return false, fmt.Errorf("user %d asked, who is neither root nor gatewayd's", who.Uid)
	}
	ask, fds, err := listenTo(c, sayAsk, wordTimeout)
	closeAll(fds)
	if refused := (*refusedError)(nil); errors.As(err, &refused) {
		return false, errors.Join(err, speak(c, word{Say: sayNo, Reason: err.Error()}, nil))
	}
	if err != nil {
		return false, nil // somebody looked whether we are there
	}
	if err := o.give(c, ask); err != nil {
		return false, errors.Join(err, speak(c, word{Say: sayNo, Reason: err.Error()}, nil))
	}
	last, fds, err := listenTo(c, sayGo, goTimeout)
	closeAll(fds)
	if err != nil {
		_ = speak(c, word{Say: sayNo, Reason: "it waited in vain for the new one to be ready"}, nil)
		return false, errors.Join(fmt.Errorf("process %d did not come to be ready: %w", who.Pid, err), o.steering.Reclaim())
	}
	o.name.Close() // before the new one answers there
	p := parting{min(max(last.Over, 0), config.MaxDrain), make(chan struct{})}
	o.parting <- p
	select {
	case <-p.shut:
		_ = speak(c, word{Say: sayGone}, nil)
	case <-ctx.Done():
	}
	return true, nil
}

// give sends the sockets that the new one can go on with.
func (o *offer) give(c *net.UnixConn, ask word) error {
	own := asking(o.d.cfg)
	devices := o.steering.Socket()
	switch {
	case ask.Mode != own.Mode:
		return fmt.Errorf("steer.mode is %q here and %q there: stop this gatewayd and start the other", own.Mode, ask.Mode)
	case ask.Rules != own.Rules:
		return fmt.Errorf("in steer.mode %q steer.lan and steer.ports cannot change in a handover: stop this gatewayd and start the other", own.Mode)
	case devices == nil:
		return fmt.Errorf("in steer.mode %q connections are inside the process and cannot be handed over: stop this gatewayd and start the other", ask.Mode)
	}
	w := word{Say: saySockets, Ready: o.d.gateway.Ready(), Pid: os.Getpid()}
	var fds []int
	defer func() { closeAll(fds) }()
	for _, s := range []struct {
		name   string
		socket any
		same   bool
	}{
		{socketName, o.name, true},
		{socketDevices, devices, ask.Listen == own.Listen},
		{socketMetrics, o.metrics, ask.Metrics == own.Metrics},
	} {
		socket, ok := s.socket.(syscall.Conn)
		if !ok || !s.same {
			continue
		}
		fd, err := copyOf(socket)
		if err != nil {
			return err
		}
		fds, w.Sockets = append(fds, fd), append(w.Sockets, s.name)
	}
	return speak(c, w, fds)
}

// part is the end of a gatewayd that another one has taken over from. Every connection that was accepted is the pipeline's
// before that is told to take no more; so none is refused.
func (d *daemon) part(ctx context.Context, p parting, steering *steer.Steering, served <-chan error, closeMetrics func()) error {
	_ = steering.Shut()
	err := <-served
	closeMetrics()
	close(p.shut)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	d.log.Info("another gatewayd has taken over: no new connections; open ones end one after the other", "over", p.over)
	drain, cancel := context.WithTimeout(context.Background(), p.over+drainTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })()
	go d.gateway.Dismiss(drain, p.over)
	if err := d.gateway.Drain(drain); err != nil && drain.Err() == nil {
		return err
	}
	d.log.Info("gatewayd ended")
	return nil
}
