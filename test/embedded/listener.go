package embedded

import (
	"log/slog"
	"net"
	"sync"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// listener hands connections to the server and, unlike the server's own, returns from Close
// only when every one of them has ended, also those in the middle of CONNECT.
type listener struct {
	net.Listener
	mu     sync.Mutex
	closed bool                  // guarded by mu
	conns  map[net.Conn]struct{} // guarded by mu
	wg     sync.WaitGroup        // of conns
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, conns: make(map[net.Conn]struct{})}
}

func (l *listener) Init(*slog.Logger) error { return nil }
func (l *listener) ID() string              { return "embedded" }
func (l *listener) Address() string         { return l.Addr().String() }
func (l *listener) Protocol() string        { return "tcp" }

func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.closed {
			conn.Close()
		} else {
			l.conns[conn] = struct{}{}
			l.wg.Go(func() { l.serve(conn, establish) })
		}
		l.mu.Unlock()
	}
}

func (l *listener) serve(conn net.Conn, establish listeners.EstablishFn) {
	_ = establish(l.ID(), conn) // what a client did wrong is the client's test's affair
	conn.Close()
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
}

func (l *listener) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Listener.Close()
	closeClients(l.ID())
	l.mu.Lock()
	for conn := range l.conns {
		conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}
