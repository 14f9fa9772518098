package keylink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"sealgate/pkg/crypto"
)

// Pauses between attempts to reach controld, doubling from the first to the second.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// queueLength bounds the unknown key ids that wait to be sent. One that does not fit is
// dropped: its next message asks again.
const queueLength = 64

// ClientOptions are what gatewayd does with what it is told. The functions are called from
// the goroutine of Run, one at a time.
type ClientOptions struct {
	Log *slog.Logger

	// OnSnapshot gets each snapshot. renewed says that policy and keys came with it;
	// else only its Authority, Epochs and Control differ from the one before.
	OnSnapshot func(s Snapshot, renewed bool)

	// OnCheckpoint gets what a member says that it has sealed, verified by controld, in its own encoding, of the groups that
	// Report.Listens names. OnHeard is told whether all of them come from now on; until it is, none do.
	OnCheckpoint func(from string, message []byte)
	OnHeard      func(yes bool)

	// OnConnected is told when controld becomes reachable (true) or ceases to be (false).
	OnConnected func(bool)
}

// Client is gatewayd's side of the socket.
type Client struct {
	path    string
	opt     ClientOptions
	unknown chan unknownKeyMsg
	streams chan streamsReport

	mu       sync.Mutex
	report   *Report       // guarded by mu; the newest
	reported chan struct{} // capacity 1: report changed
}

// NewClient makes a client of the controld behind the socket at path. Run connects it.
func NewClient(path string, opt ClientOptions) *Client {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{path: path, opt: opt, unknown: make(chan unknownKeyMsg, queueLength), streams: make(chan streamsReport), reported: make(chan struct{}, 1)}
}

// ReportUnknown tells controld of a key id that no key is known for. It never blocks and
// may be called from any goroutine; while controld is away, reports are dropped.
func (c *Client) ReportUnknown(group string, id crypto.KeyID) {
	select {
	case c.unknown <- unknownKeyMsg{group, id}:
	default:
	}
}

// Report makes r what controld knows about this gateway, now and after reconnecting. It
// never blocks; of reports in quick succession the newest is sent. r must not change
// afterwards. Its Streams are left out: each is to be told once, see ReportStreams.
func (c *Client) Report(r Report) {
	r.Streams = nil
	c.mu.Lock()
	c.report = &r
	c.mu.Unlock()
	select {
	case c.reported <- struct{}{}:
	default:
	}
}

// streamsReport is a report of streams on its way; written is told what became of it.
type streamsReport struct {
	streams []Stream
	written chan error // capacity 1
}

// ReportStreams tells controld the heads of at most MaxStreams streams, together with the report in force, and returns
// when they have been written: nil, or why they have not and are to be told again. It waits until controld can be
// reached, or ctx ends.
func (c *Client) ReportStreams(ctx context.Context, streams []Stream) error {
	if len(streams) > MaxStreams {
		return fmt.Errorf("keylink: %d streams in one report, at most %d", len(streams), MaxStreams)
	}
	r := streamsReport{streams, make(chan error, 1)}
	select {
	case c.streams <- r:
		return <-r.written
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run keeps a connection to controld until ctx ends: it connects, delivers snapshots, and
// connects again after a jittered pause when the connection ends. It returns nil.
func (c *Client) Run(ctx context.Context) error {
	pause, complained := firstPause, ""
	for {
		served, err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if served {
			pause, complained = firstPause, ""
			c.opt.Log.Info("keylink: controld is gone; going on with the keys at hand", "reason", err)
			if c.opt.OnConnected != nil {
				c.opt.OnConnected(false)
			}
		} else if text := err.Error(); text != complained {
			complained = text
			c.opt.Log.Warn("keylink: controld is not reachable, trying again", "error", err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, lastPause)
	}
}

// session is one connection. served reports whether controld accepted it, that is, sent a
// snapshot.
func (c *Client) session(ctx context.Context) (served bool, err error) {
	conn, err := dial(ctx, c.path, roleGateway)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var sender sync.WaitGroup
	sender.Go(func() { c.send(ctx, conn) })
	defer sender.Wait()
	defer cancel()
	in := assembler{}
	for {
		m, err := readMessage(conn)
		if err != nil {
			if err == io.EOF {
				err = errors.New("it closed the connection")
			}
			return served, err
		}
		if c.heard(m) {
			continue
		}
		complete, renewed, err := in.take(m)
		if err != nil {
			return served, err
		}
		if !complete {
			continue
		}
		if !served {
			served = true
			c.opt.Log.Info("keylink: connected to controld", "gateway", in.snapshot.Gateway)
			if c.opt.OnConnected != nil {
				c.opt.OnConnected(true)
			}
		}
		if c.opt.OnSnapshot != nil {
			c.opt.OnSnapshot(in.snapshot, renewed)
		}
	}
}

// heard takes what is about checkpoints.
func (c *Client) heard(m message) (taken bool) {
	switch m := m.(type) {
	case checkpointMsg:
		if c.opt.OnCheckpoint != nil {
			c.opt.OnCheckpoint(m.from, m.message)
		}
	case heardMsg:
		if c.opt.OnHeard != nil {
			c.opt.OnHeard(m.yes)
		}
	default:
		return false
	}
	return true
}

// send writes reports until ctx ends or the connection does; the reader notices the latter.
func (c *Client) send(ctx context.Context, conn net.Conn) {
	c.mu.Lock()
	again := c.report != nil
	c.mu.Unlock()
	for {
		var m message
		written := func(error) {}
		if again {
			m, again = reportMsg{c.current()}, false
		} else {
			select {
			case s := <-c.streams:
				r := c.current()
				r.Streams = s.streams
				m, written = reportMsg{r}, func(err error) { s.written <- err }
			case m = <-c.unknown:
			case <-c.reported:
				again = true
				continue
			case <-ctx.Done():
				return
			}
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		err := writeMessage(conn, m)
		written(err)
		if err != nil {
			_ = conn.Close()
			return
		}
	}
}

// current is the report in force.
func (c *Client) current() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.report == nil {
		return Report{}
	}
	return *c.report
}

// assembler puts the frames of a snapshot together.
type assembler struct {
	snapshot Snapshot // the last complete one
	next     *Snapshot
	keys     int
}

// maxAllKeys bounds the keys of a whole snapshot.
const maxAllKeys = 65536

// take takes one frame. complete says that in.snapshot is a new one, renewed that its policy
// and keys were sent again.
func (in *assembler) take(m message) (complete, renewed bool, err error) {
	switch m := m.(type) {
	case policyMsg:
		in.next = &Snapshot{Policy: m.policy, Gateway: m.gateway, Keys: make(map[string][]crypto.Key)}
		in.keys = 0
		return false, false, nil
	case keysMsg:
		if in.next == nil {
			return false, false, errors.New("keylink: keys outside a snapshot")
		}
		if _, twice := in.next.Keys[m.group]; twice || len(in.next.Keys) >= MaxGroups {
			return false, false, fmt.Errorf("keylink: snapshot with a group twice or more than %d groups", MaxGroups)
		}
		if in.keys += len(m.keys); in.keys > maxAllKeys {
			return false, false, fmt.Errorf("keylink: snapshot of more than %d keys", maxAllKeys)
		}
		in.next.Keys[m.group] = m.keys
		return false, false, nil
	case topicKeyMsg:
		if in.next == nil || in.next.Topics != nil {
			return false, false, errors.New("keylink: a topic key outside a snapshot, or twice in one")
		}
		in.next.Topics = m.key
		return false, false, nil
	case statsMsg:
		if in.next != nil {
			in.snapshot, in.next, renewed = *in.next, nil, true
		} else if in.snapshot.Keys == nil {
			return false, false, errors.New("keylink: stats before the first snapshot")
		}
		in.snapshot.Epochs, in.snapshot.Authority, in.snapshot.Control = m.epochs, m.authority, m.control
		return true, renewed, nil
	case refusalMsg:
		return false, false, fmt.Errorf("controld refused: %s", m.text)
	}
	return false, false, fmt.Errorf("keylink: controld sent a %s", m.name())
}
