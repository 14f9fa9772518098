package steer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watcher follows the kernel's announcements: an interface that is made again gets the classifier again, and a change
// of the gateway's own addresses reaches the acceptor.
type watcher struct {
	attacher *attacher // nil where names of interfaces are enough
	acceptor *acceptor
	log      *slog.Logger
	*subscription
}

// subscription is one socket that the kernel announces changes on.
type subscription struct {
	conn *netlink.Conn
	news chan netlink.Message // closed when the subscription breaks, as it does when too many announcements come at once
	stop chan struct{}
}

// newWatcher subscribes first and reads the present state after: what changes in between is announced.
func newWatcher(at *attacher, ac *acceptor, log *slog.Logger) (*watcher, error) {
	w := &watcher{attacher: at, acceptor: ac, log: log}
	if err := w.subscribe(); err != nil {
		return nil, fmt.Errorf("watch the interfaces: %w", err)
	}
	if err := ac.refreshOwn(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) subscribe() error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	})
	if err != nil {
		return plainError(err)
	}
	w.subscription = &subscription{conn, make(chan netlink.Message, 16), make(chan struct{})}
	go w.subscription.receive(w.log)
	return nil
}

// close ends the subscription.
func (s *subscription) close() {
	close(s.stop)
	s.conn.Close()
}

// receive passes on announcements until the socket fails or is closed.
func (s *subscription) receive(log *slog.Logger) {
	defer close(s.news)
	for {
		messages, err := s.conn.Receive()
		if err != nil {
			log.Debug("interface announcements interrupted", "error", plainError(err).Error())
			return
		}
		for _, m := range messages {
			select {
			case s.news <- m:
			case <-s.stop:
				return
			}
		}
	}
}

func (w *watcher) run(ctx context.Context) {
	for {
		if w.follow(ctx) {
			return
		}
		w.close()
		if !w.resubscribe(ctx) {
			return
		}
		w.attach() // whatever was announced meanwhile
		w.refresh()
	}
}

// follow handles announcements until ctx ends (true) or the subscription breaks (false).
func (w *watcher) follow(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			w.close()
			return true
		case m, ok := <-w.news:
			if !ok {
				return false
			}
			w.handle(m)
		}
	}
}

func (w *watcher) handle(m netlink.Message) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if w.attacher == nil {
			return
		}
		if i, err := parseInterface(m.Data); err != nil || w.attacher.concerns(i.name) {
			w.attach()
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		w.refresh()
	}
}

func (w *watcher) resubscribe(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
		err := w.subscribe()
		if err == nil {
			return true
		}
		w.log.Error("cannot watch the interfaces", "error", err.Error())
	}
}

func (w *watcher) attach() {
	if w.attacher == nil {
		return
	}
	if err := w.attacher.attachAll(); err != nil {
		w.log.Error("cannot steer all interfaces; their devices stay cut off", "error", err.Error())
	}
}

func (w *watcher) refresh() {
	if err := w.acceptor.refreshOwn(); err != nil {
		w.log.Error("cannot follow address changes", "error", err.Error())
	}
}
