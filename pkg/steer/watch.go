package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// watcher follows the kernel's announcements: an interface that is made again gets the classifier again, and a change
// of the gateway's own addresses reaches the acceptor.
type watcher struct {
	attacher *attacher
	acceptor *acceptor
	log      *slog.Logger
	links    chan netlink.LinkUpdate
	addrs    chan netlink.AddrUpdate
	stop     chan struct{}
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
	w.links = make(chan netlink.LinkUpdate, 16)
	w.addrs = make(chan netlink.AddrUpdate, 16)
	w.stop = make(chan struct{})
	onError := func(err error) { w.log.Debug("interface announcements interrupted", "error", err.Error()) }
	linkOptions := netlink.LinkSubscribeOptions{ErrorCallback: onError}
	addrOptions := netlink.AddrSubscribeOptions{ErrorCallback: onError}
	err := errors.Join(
		netlink.LinkSubscribeWithOptions(w.links, w.stop, linkOptions),
		netlink.AddrSubscribeWithOptions(w.addrs, w.stop, addrOptions))
	if err != nil {
		close(w.stop)
	}
	return err
}

// close ends the subscriptions. The library closes the channels after; what they still hold is drained so that its
// goroutines can end.
func (w *watcher) close() {
	close(w.stop)
	go func(links chan netlink.LinkUpdate) {
		for range links {
		}
	}(w.links)
	go func(addrs chan netlink.AddrUpdate) {
		for range addrs {
		}
	}(w.addrs)
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

// follow handles announcements until ctx ends (true) or a subscription breaks (false), as it does when too many
// announcements come at once.
func (w *watcher) follow(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			w.close()
			return true
		case u, ok := <-w.links:
			if !ok {
				return false
			}
			if slices.Contains(w.attacher.lan, u.Link.Attrs().Name) {
				w.attach()
			}
		case _, ok := <-w.addrs:
			if !ok {
				return false
			}
			w.refresh()
		}
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
	if err := w.attacher.attachAll(); err != nil {
		w.log.Error("cannot steer all interfaces; their devices stay cut off", "error", err.Error())
	}
}

func (w *watcher) refresh() {
	if err := w.acceptor.refreshOwn(); err != nil {
		w.log.Error("cannot follow address changes", "error", err.Error())
	}
}
