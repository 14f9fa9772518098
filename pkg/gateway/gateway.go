// Package gateway is the data plane: it carries devices' MQTT connections to the broker,
// sealing what they publish and opening what they receive.
//
// A message's way is the order of the files. [Gateway.Serve] accepts a connection
// (serve.go); its CONNECT is read, its will sealed, and only then the uplink opened
// (connect.go). From there on two goroutines own one direction each (conn.go): device to
// broker (up.go), where a PUBLISH on a sealed topic goes through a stream of its topic
// (seal.go), and broker to device (down.go), where only what opens and is fresh is delivered
// (open.go). Everything else passes byte for byte, acknowledgements too: a device
// hears that its message has arrived when the broker says so, never from here. A payload that
// is an envelope already, of a device behind another gateway, is sealed like any other and
// opens layer by layer.
//
// One read is followed by one write of all whole packets in it, transformed. While
// nothing arrives a connection holds no buffers. What sealing needs to know, policy and
// keys, is one immutable [State], read by one atomic load; no lock is shared between
// connections on a message's way. What outlives a connection is its [session]: the streams
// of a client id, and the records by which a re-sent message becomes the same bytes again.
package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/pkg/boottime"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Defaults and fixed limits.
const (
	DefaultMaxMessage     = 256 << 10
	DefaultMaxConnections = 4096
	DefaultConnectTimeout = 10 * time.Second
	DefaultMaxBuffered    = 64 << 20
	DefaultMaxStreams     = 1 << 16

	keyWait    = 5 * time.Second      // a PUBLISH waits so long for its group's first key
	holdTime   = 2 * time.Second      // a received message waits so long for an unknown key
	stallTime  = 30 * time.Second     // the longest silence in the middle of a large packet
	linger     = 2 * time.Second      // a closing connection may still say what it has to
	headerRoom = 4 << 10              // of a packet, beside MaxMessage: topic, properties
	minStreams = 4                    // streams of one client that it gets in any case
	perClient  = 1024                 // seal streams of one client
	perSession = 4096                 // receive streams of one session
	maxAliases = 64                   // topic aliases in one direction
	aliasBytes = 16 << 10             // bytes of topics behind them
	longTopic  = 512                  // bytes of a topic that still cost a stream nothing extra
	topicBytes = 256 << 10            // kept of the longer topics of one client's streams, in one direction
	maxIDs     = 1024                 // packet ids remembered in one direction
	acceptWait = time.Second          // longest pause after a failed accept
	logEvery   = 10 * time.Second     // for one reason
	sampleMask = 1<<8 - 1             // one seal of 256 is timed
	statusMax  = 256                  // devices listed by Status
	minWait    = 5 * time.Millisecond // first pause after a failed accept
)

// State is what the pipeline needs to know to seal and to open. It is immutable; SetState swaps it whole.
type State struct {
	Table *policy.Table   // nil: no policy yet, nothing leaves
	Keys  *crypto.Keyring // nil: no keys yet, nothing leaves

	Policy *policy.Document // what Table was made of; nil: no checkpoints are held against what arrives
}

func (s *State) ready() bool { return s != nil && s.Table != nil && s.Keys != nil }

// Config is fixed for the life of a Gateway. Zero values get the defaults named.
type Config struct {
	MaxMessage     int           // bytes of one message's payload; 0 = 256 KiB
	MaxConnections int           // 0 = 4096
	MaxBuffered    int           // bytes of all buffers beyond 16 KiB a direction, all connections together; 0 = 64 MiB, or 8 messages if that is more
	MaxStreams     int           // streams of all clients together, a soft limit; 0 = 65536
	ConnectTimeout time.Duration // for CONNECT to arrive, and again for the uplink to open; 0 = 10 s
	Gateway        string        // this gateway's member name, enters the stream ids
	ControlPrefix  string        // topics at and under it are denied to devices; "" = "sealgate"
	// Dial opens the uplink for a device that dialled dst; ctx has the device, as uplink.From puts it there. Errors should be of package uplink;
	// an *uplink.Conn must come unwrapped, as its Read does not block.
	Dial       func(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	Refuses    func(device netip.Addr) bool        // may be nil; asked before a device's CONNECT goes on: see Disconnect
	UnknownKey func(group string, id crypto.KeyID) // may be nil; called off the hot path, must not block
	Log        *slog.Logger                        // nil = discard
	TellStatus bool                                // devices of MQTT 5 read in user properties what was found out about a message; see tell.go
	Rand       io.Reader                           // nil = crypto/rand.Reader; must be safe for concurrent use
	Now        func() time.Duration                // the clock of Key.NotAfter; nil = CLOCK_BOOTTIME

	stall  time.Duration // tests only: the longest silence in the middle of a large packet; 0 = stallTime
	hold   time.Duration // tests only: how long a received message waits for an unknown key; 0 = holdTime
	linger time.Duration // tests only: how long a closing connection may still talk; 0 = linger
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.MaxMessage, DefaultMaxMessage)
	def(&c.MaxConnections, DefaultMaxConnections)
	def(&c.MaxBuffered, max(DefaultMaxBuffered, 8*(c.MaxMessage+headerRoom)))
	def(&c.MaxStreams, DefaultMaxStreams)
	if c.stall <= 0 {
		c.stall = stallTime
	}
	if c.hold <= 0 {
		c.hold = holdTime
	}
	if c.linger <= 0 {
		c.linger = linger
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = DefaultConnectTimeout
	}
	if c.ControlPrefix == "" {
		c.ControlPrefix = "sealgate"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Now == nil {
		c.Now = boottime.Now
	}
	return c
}

// Gateway carries devices' connections. Make one with New.
type Gateway struct {
	cfg     Config
	boot    [16]byte // random, of this process: enters the stream ids
	metrics *Metrics
	report  reporter
	memory  budget
	streams atomic.Int64 // seal and receive streams that exist
	asked   askedKeys
	heads   heads

	listening listening
	arrivals  arrivals
	ledgers   ledgers

	tidy   tidier
	limits limits
	turns  *turns
	naming naming

	state atomic.Pointer[stateBox]
	ctx   context.Context // ends when the gateway closes
	stop  context.CancelFunc

	store sessionStore

	mu        sync.Mutex // guards what follows
	stopped   bool       // no more connections
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	idle      chan struct{} // closed when stopped and the last connection has gone
}

// stateBox is a State and the way to learn that it is no longer the newest.
type stateBox struct {
	*State
	grows    int           // the most that a PUBLISH grows by
	naming   uint64        // of the topics on the wire
	replaced chan struct{} // closed by the SetState that replaces it
}

// New makes a Gateway that is not ready until SetState gave it a policy and keys. Until then
// devices are told "server unavailable" and nothing is dialled.
func New(cfg Config) *Gateway {
	g := &Gateway{
		cfg:       cfg.withDefaults(),
		conns:     make(map[*conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
		idle:      make(chan struct{}),
		turns:     newTurns(),
	}
	g.SetLimits(g.cfg.MaxConnections, g.cfg.ConnectTimeout)
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.state.Store(&stateBox{State: &State{}, replaced: make(chan struct{})})
	g.memory.left.Store(int64(g.cfg.MaxBuffered))
	g.store.init(g)
	g.metrics = newMetrics(g)
	g.report.log = g.cfg.Log
	if _, err := io.ReadFull(g.cfg.Rand, g.boot[:]); err != nil {
		// Stream ids stay unique by their own 16 random bytes, which are checked on every use.
		g.cfg.Log.Warn("no randomness for this process's boot id", "error", err)
	}
	return g
}

// SetState swaps policy and keys for all connections at once. Streams under a send key that
// is no longer the group's go on under the new one with the next message.
func (g *Gateway) SetState(s *State) {
	if s == nil {
		s = &State{}
	}
	naming, renamed := g.naming.follow(s)
	old := g.state.Swap(&stateBox{State: s, grows: s.growth(), naming: naming, replaced: make(chan struct{})})
	g.metrics.epochs.observe(s.Keys)
	close(old.replaced)
	if renamed {
		g.rename(naming)
	}
}

// Ready reports whether there are a policy and keys, so that devices are served.
func (g *Gateway) Ready() bool { return g.state.Load().ready() }

// newStreamID draws the id of a new stream.
func (g *Gateway) newStreamID(will bool) (crypto.StreamID, error) {
	var random [16]byte
	if _, err := io.ReadFull(g.cfg.Rand, random[:]); err != nil {
		return crypto.StreamID{}, fmt.Errorf("drawing a stream id: %w", err)
	}
	return crypto.NewStreamID(g.cfg.Gateway, g.boot, random, will), nil
}

// maxPacket is the longest packet taken from a device.
func (g *Gateway) maxPacket() int { return g.cfg.MaxMessage + headerRoom }
