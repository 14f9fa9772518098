package keylink

import (
	"net"
	"sync"
	"time"
)

// Checkpoints on their way to gateways. One that reads slowly loses some, and is told.

// Bounds of what waits for one gateway.
const (
	feedMessages = 256
	feedBytes    = 1 << 20
)

// feeds are those of all connected gateways.
type feeds struct {
	mu    sync.Mutex
	heard bool
	all   map[*feed]struct{}
}

// feed is what waits for one gateway.
type feed struct {
	filled chan struct{} // capacity 1: there is something to write

	mu    sync.Mutex
	queue []message
	bytes int
	lost  bool // some found no room
	heard bool // checkpoints come
}

// Checkpoint passes on what a member says that it has sealed, as it encoded it, verified, of at most MaxCheckpoint bytes. It never
// blocks.
func (s *Server) Checkpoint(from string, message []byte) {
	s.feeds.each(func(f *feed) {
		if len(f.queue) >= feedMessages || f.bytes+len(message) > feedBytes || len(message) > MaxCheckpoint {
			f.lost = true
			return
		}
		f.queue = append(f.queue, checkpointMsg{from, message})
		f.bytes += len(message)
	})
}

// Heard tells whether checkpoints are heard from now on. Where they are, and some have been lost, call it again.
func (s *Server) Heard(yes bool) {
	s.feeds.mu.Lock()
	s.feeds.heard = yes
	s.feeds.mu.Unlock()
	s.feeds.each(func(f *feed) { f.heard, f.lost = yes, true })
}

// each calls do for each feed, whose lock is held.
func (s *feeds) each(do func(*feed)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.all {
		f.mu.Lock()
		do(f)
		f.mu.Unlock()
		select {
		case f.filled <- struct{}{}:
		default:
		}
	}
}

// open begins a feed; what it says first is whether checkpoints are heard.
func (s *feeds) open() *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &feed{filled: make(chan struct{}, 1), heard: s.heard, lost: true}
	if s.all == nil {
		s.all = make(map[*feed]struct{})
	}
	s.all[f] = struct{}{}
	f.filled <- struct{}{}
	return f
}

func (s *feeds) close(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, f)
}

// write writes what waits: that some were lost last, since those that wait came before it.
func (f *feed) write(c net.Conn) error {
	f.mu.Lock()
	queue, lost, heard := f.queue, f.lost, f.heard
	f.queue, f.bytes, f.lost = nil, 0, false
	f.mu.Unlock()
	if lost {
		queue = append(queue, heardMsg{heard})
	}
	for _, m := range queue {
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := writeMessage(c, m); err != nil {
			return err
		}
	}
	return nil
}
