package keylink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"sealgate/pkg/crypto"
)

// Timeouts and bounds of the server's side.
const (
	maxConns     = 32
	helloTimeout = 5 * time.Second
	writeTimeout = 10 * time.Second
	adminTimeout = 30 * time.Second
)

// ServerOptions are what controld does when somebody asks. Functions are called from the
// connections' goroutines; one that is nil refuses (requests) or ignores (reports).
type ServerOptions struct {
	Log          *slog.Logger
	OnUnknownKey func(group string, id crypto.KeyID)
	OnReport     func(Report) // Ready and Listens are those of all gatewayds connected, as while one takes over from another
	OnRotate     func(ctx context.Context, group string) (crypto.Epoch, error)
	OnStatus     func() ([]byte, error) // a JSON object

	credentials *credentials // of the server itself; tests set others
}

// Server is controld's side of the socket.
type Server struct {
	path     string
	opt      ServerOptions
	listener *net.UnixListener
	file     os.FileInfo // of the socket: only our own is removed at the end
	own      credentials
	wg       sync.WaitGroup
	closing  sync.Once

	reporting sync.Mutex // held while OnReport is told: the newest comes last

	mu       sync.Mutex
	snapshot *Snapshot                // guarded by mu; the value is immutable
	closed   bool                     // guarded by mu; no more connections
	changed  chan struct{}            // guarded by mu; closed when snapshot changes
	conns    map[*net.UnixConn]string // guarded by mu; value is the role, "" before the hello
	reports  map[*net.UnixConn]Report // guarded by mu; the newest of each gatewayd connected
	feeds    feeds
}

// Listen binds the socket at path, making its directory with mode 0750 if it is missing.
// A socket that nobody listens on any more is replaced.
func Listen(path string, opt ServerOptions) (*Server, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	own := credentials{uint32(os.Geteuid()), uint32(os.Getegid())}
	if opt.credentials != nil {
		own = *opt.credentials
	}
	return &Server{
		path: path, opt: opt, listener: l, file: info, own: own,
		changed: make(chan struct{}), conns: make(map[*net.UnixConn]string), reports: make(map[*net.UnixConn]Report),
	}, nil
}

// Publish makes s the snapshot that connected gateways get now and later ones at connect. s
// and what it refers to must not change afterwards. It never blocks: a gateway that is slow
// gets the newest snapshot only. Gateways that have the same policy and keys get the
// authority, gauges and counters alone.
func (s *Server) Publish(snap Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = &snap
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) current() (*Snapshot, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot, s.changed
}

// Gateways is the number of gateways connected now.
func (s *Server) Gateways() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, role := range s.conns {
		if role == roleGateway {
			n++
		}
	}
	return n
}

// Serve answers until ctx ends, then closes every connection, waits for their goroutines
// and removes the socket. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	defer s.wg.Wait()
	defer s.close()
	for {
		c, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.opt.Log.Warn("keylink: accept failed, trying again", "error", reason(err))
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		s.accept(ctx, c)
	}
}

// Close ends a server whether it serves or not.
func (s *Server) Close() error {
	s.close()
	s.wg.Wait()
	return nil
}

// close does its work once, and every caller returns when it is done: a second look at the
// path could meet a successor's socket under the same inode number.
func (s *Server) close() { s.closing.Do(s.closeNow) }

func (s *Server) closeNow() {
	_ = s.listener.Close()
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.file) {
		_ = os.Remove(s.path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *Server) accept(ctx context.Context, c *net.UnixConn) {
	who, err := peer(c)
	if err != nil || !s.own.welcome(who) {
		s.opt.Log.Warn("keylink: connection refused: the peer is neither root nor of our user or group", "uid", who.uid, "gid", who.gid)
		_ = c.Close()
		return
	}
	s.mu.Lock()
	full, closed := len(s.conns) >= maxConns, s.closed
	if !full && !closed {
		s.conns[c] = ""
	}
	s.mu.Unlock()
	if closed {
		_ = c.Close()
		return
	}
	if full {
		s.opt.Log.Warn("keylink: connection refused: too many", "limit", maxConns)
		_ = c.Close()
		return
	}
	s.wg.Go(func() {
		defer func() {
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.forgetReport(c)
		}()
		if err := protect(func() error { return s.serve(ctx, c) }); err != nil && ctx.Err() == nil {
			s.opt.Log.Warn("keylink: connection ended", "uid", who.uid, "error", err)
		}
	})
}

// protect turns a panic into an error: a defect that one connection finds must not end the
// keeper.
func protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return f()
}

func (s *Server) serve(ctx context.Context, c *net.UnixConn) error {
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	m, err := readMessage(c)
	if err == io.EOF {
		return nil // somebody looked whether we listen
	}
	if err != nil {
		return err
	}
	hello, ok := m.(helloMsg)
	switch {
	case !ok:
		return refuse(c, "the first frame must be a hello")
	case hello.version != ProtocolVersion:
		return refuse(c, "this controld speaks another version of keylink: run gatewayd, controld and sealctl of one release")
	case hello.role != roleGateway && hello.role != roleAdmin:
		return refuse(c, "the role in the hello is not known")
	}
	s.mu.Lock()
	s.conns[c] = hello.role
	s.mu.Unlock()
	if hello.role == roleAdmin {
		return s.admin(ctx, c)
	}
	_ = c.SetReadDeadline(time.Time{})
	return s.gateway(ctx, c)
}

// refuse tells the client why, and returns the same as an error.
func refuse(c *net.UnixConn, text string) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := writeMessage(c, refusalMsg{truncate(text)}); err != nil {
		return err
	}
	return errors.New("refused: " + text)
}

// truncate makes text fit a refusal.
func truncate(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "")
}

// gateway pushes snapshots while a second goroutine reads reports.
func (s *Server) gateway(ctx context.Context, c *net.UnixConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.wg.Go(func() { cancel(protect(func() error { return s.readReports(c) })) })
	feed := s.feeds.open()
	defer s.feeds.close(feed)
	var sent *Snapshot
	for {
		snap, changed := s.current()
		if snap != nil && snap != sent {
			_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
			if err := writeSnapshot(c, snap, sent); err != nil {
				return err
			}
			sent = snap
		}
		if err := feed.write(c); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-feed.filled:
		case <-ctx.Done():
			if err := context.Cause(ctx); err != io.EOF && err != context.Canceled {
				return err
			}
			return nil
		}
	}
}

func (s *Server) readReports(c *net.UnixConn) error {
	for {
		m, err := readMessage(c)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return io.EOF
			}
			return err
		}
		switch m := m.(type) {
		case unknownKeyMsg:
			if s.opt.OnUnknownKey != nil {
				s.opt.OnUnknownKey(m.group, m.id)
			}
		case reportMsg:
			s.report(c, m.Report)
		default:
			return refuse(c, "a gateway may not send a "+m.name())
		}
	}
}

// report passes a gatewayd's report on, with what it and the others say together.
func (s *Server) report(c *net.UnixConn, r Report) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	s.reports[c] = Report{Ready: r.Ready, Listens: r.Listens}
	s.together(&r)
	s.mu.Unlock()
	if s.opt.OnReport != nil {
		s.opt.OnReport(r)
	}
}

// forgetReport takes back what a gatewayd that has gone said, where others are left.
func (s *Server) forgetReport(c *net.UnixConn) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	_, reported := s.reports[c]
	delete(s.reports, c)
	left := len(s.reports)
	var r Report
	s.together(&r)
	s.mu.Unlock()
	if reported && left > 0 && s.opt.OnReport != nil {
		s.opt.OnReport(r)
	}
}

// together gives r what all reports say. s.mu is held.
func (s *Server) together(r *Report) {
	groups := make(map[string]bool)
	r.Ready = false
	for _, each := range s.reports {
		r.Ready = r.Ready || each.Ready
		for _, group := range each.Listens {
			groups[group] = true
		}
	}
	r.Listens = slices.Sorted(maps.Keys(groups))
}

// writeSnapshot writes snap, of which a receiver that has sent needs only what differs.
func writeSnapshot(w io.Writer, snap, sent *Snapshot) error {
	if sent == nil || !snap.sameKeys(sent) {
		if err := writeMessage(w, policyMsg{snap.Gateway, snap.Policy}); err != nil {
			return err
		}
		for _, group := range slices.Sorted(maps.Keys(snap.Keys)) {
			if err := writeMessage(w, keysMsg{group, snap.Keys[group]}); err != nil {
				return err
			}
		}
		if snap.Topics != nil {
			if err := writeMessage(w, topicKeyMsg{snap.Topics}); err != nil {
				return err
			}
		}
	}
	return writeMessage(w, statsMsg{snap.Epochs, snap.Authority, snap.Control})
}

// sameKeys reports whether both carry the same policy and keys. Secrets are told apart by
// their ids, which commit to them.
func (s *Snapshot) sameKeys(o *Snapshot) bool {
	if s.Gateway != o.Gateway || !slices.Equal(s.Policy, o.Policy) || len(s.Keys) != len(o.Keys) || !s.Topics.Equal(o.Topics) {
		return false
	}
	for group, keys := range s.Keys {
		other, ok := o.Keys[group]
		if !ok || !slices.EqualFunc(keys, other, func(a, b crypto.Key) bool {
			a.Secret, b.Secret = nil, nil
			return reflect.DeepEqual(a, b)
		}) {
			return false
		}
	}
	return true
}

// admin answers one request after another, each in bounded time.
func (s *Server) admin(ctx context.Context, c *net.UnixConn) error {
	for {
		_ = c.SetReadDeadline(time.Now().Add(adminTimeout))
		m, err := readMessage(c)
		if err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		reply := s.answer(ctx, m)
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := writeMessage(c, reply); err != nil {
			return err
		}
	}
}

func (s *Server) answer(ctx context.Context, m message) message {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	switch m := m.(type) {
	case rotateMsg:
		if s.opt.OnRotate == nil {
			break
		}
		epoch, err := s.opt.OnRotate(ctx, m.group)
		if err != nil {
			return refusalMsg{truncate(err.Error())}
		}
		return rotatedMsg{m.group, epoch}
	case askStatusMsg:
		if s.opt.OnStatus == nil {
			break
		}
		b, err := s.opt.OnStatus()
		if err != nil {
			return refusalMsg{truncate(err.Error())}
		}
		return statusMsg{b}
	}
	return refusalMsg{"this controld does not answer a " + m.name()}
}
