package keylink

import (
	"bytes"
	"fmt"
	"net"
	"testing"
)

// What controld verified reaches a gateway in order, and whether all of it comes is said first, and again when that changes.
func TestCheckpointsReachTheGateway(t *testing.T) {
	path := socketPath(t)
	s, _ := serve(t, path, ServerOptions{})
	s.Heard(true)
	got := make(chan string, 16)
	client(t, path, ClientOptions{
		OnCheckpoint: func(from string, b []byte) { got <- fmt.Sprintf("%s %x", from, b) },
		OnHeard:      func(yes bool) { got <- fmt.Sprint(yes) },
	})
	next := func(want string) {
		t.Helper()
		if s := await(t, got, want); s != want {
			t.Errorf("%s, want %s", s, want)
		}
	}
	next("true")
	s.Checkpoint("gw2", []byte{1})
	s.Checkpoint("gw3", []byte{2})
	next("gw2 01")
	next("gw3 02")
	s.Heard(false)
	next("false")
	s.Heard(true)
	next("true")
}

// A gateway that does not read loses checkpoints, and is told so when it does; what waits for it is bounded.
func TestFeedIsBounded(t *testing.T) {
	for name, size := range map[string]int{"many": 1, "large": MaxCheckpoint, "over the limit": MaxCheckpoint + 1} {
		t.Run(name, func(t *testing.T) {
			s := new(Server)
			s.feeds.heard = true
			f := s.feeds.open()
			for range 2 * feedMessages {
				s.Checkpoint("gw2", make([]byte, size))
			}
			if len(f.queue) > feedMessages || f.bytes > feedBytes || !f.lost {
				t.Errorf("%d wait, %d bytes, lost %v", len(f.queue), f.bytes, f.lost)
			}
			here, there := net.Pipe()
			defer there.Close()
			wire := make(chan message, 2*feedMessages)
			go func() {
				defer close(wire)
				for {
					m, err := readMessage(there)
					if err != nil {
						return
					}
					wire <- m
				}
			}()
			if err := f.write(here); err != nil {
				t.Fatal(err)
			}
			here.Close()
			n, last := 0, message(nil)
			for m := range wire {
				n, last = n+1, m
			}
			if h, ok := last.(heardMsg); !ok || !h.yes || n < 1 || f.bytes != 0 {
				t.Errorf("%d messages, the last %v; %d bytes still wait", n, last, f.bytes)
			}
			s.feeds.close(f)
			s.Checkpoint("gw2", bytes.Repeat([]byte{1}, 10))
			if len(f.queue) != 0 {
				t.Error("a gateway that has gone is still fed")
			}
		})
	}
}
