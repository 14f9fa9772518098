// Package inpath gives the connections whose packets pass through the gateway to a server that knows nothing of
// packets. Device and broker keep one TCP connection, with their own addresses and handshake; package rewrite changes
// what flows in it. To the server each such connection looks like one that it has accepted, a Conn towards the device,
// and whose uplink is open already: Conn.Uplink.
//
// A Carrier takes packets and gives packets, and keeps the connections; Queue is the kernel's side of it.
package inpath

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sealgate/pkg/rewrite"
)

// Config is what a Carrier needs.
type Config struct {
	Ports    []uint16        // of brokers; what goes to one of them or comes from one is carried
	MaxFlows int             // connections at once; a SYN over it is dropped
	Send     func(ip []byte) // sends an IP packet; the bytes are valid during the call
	// MTU is the longest IP packet that the path to an address takes, as far as is known; 0: it is not known. Nil: never.
	MTU   func(to netip.Addr) int
	Clock func() time.Time // nil: time.Now
}

// How long a connection is kept that is not established, and one that has ended: the last segments may be repeated.
const (
	halfOpenTime = time.Minute
	endedTime    = 30 * time.Second
	sweepEvery   = 5 * time.Second
)

// Counts are what has happened since the start.
type Counts struct {
	Opened, Strangers, Malformed, Damaged, Full uint64 // Strangers: packets of connections not seen from their beginning
}

// key names a connection.
type key struct{ client, server netip.AddrPort }

// Carrier keeps connections. It is a net.Listener.
type Carrier struct {
	cfg     Config
	start   time.Time
	accepts chan *Conn
	closed  chan struct{}
	once    sync.Once
	reset   sync.Once

	mu     sync.Mutex // guards what follows; taken before a flow's
	flows  map[key]*flow
	counts Counts
	swept  time.Time
}

// New makes a Carrier.
func New(cfg Config) *Carrier {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Carrier{cfg: cfg, start: cfg.Clock(), accepts: make(chan *Conn, cfg.MaxFlows), closed: make(chan struct{}), flows: make(map[key]*flow)}
}

func (c *Carrier) now() time.Duration { return c.cfg.Clock().Sub(c.start) }

// Accept waits for a device to open a connection to a broker that answers. It returns a *Conn.
func (c *Carrier) Accept() (net.Conn, error) {
	select {
	case conn := <-c.accepts:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

// Shut ends Accept and begins no more connections. Those that are open go on.
func (c *Carrier) Shut() { c.once.Do(func() { close(c.closed) }) }

// Close resets all connections too. What comes after it is lost.
func (c *Carrier) Close() error {
	c.Shut()
	c.reset.Do(func() {
		c.mu.Lock()
		flows := c.flows
		c.flows = make(map[key]*flow)
		c.mu.Unlock()
		for _, f := range flows {
			f.abort()
		}
	})
	return nil
}

// Addr is no address: the connections are between others.
func (c *Carrier) Addr() net.Addr { return &net.TCPAddr{} }

// Counts gives the counts at present, and the number of connections.
func (c *Carrier) Counts() (Counts, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts, len(c.flows)
}

// Packet takes in an IP packet. Nothing of it may travel on: what is to travel is sent. verify says that nobody has looked at its checksum yet:
// a segment that was damaged on its way is to be sent again, not to be given a checksum that is right.
func (c *Carrier) Packet(ip []byte, verify bool) {
	var p rewrite.Packet
	if err := rewrite.Parse(ip, &p); err != nil {
		c.count(&c.counts.Malformed)
		return
	}
	if verify && !p.Intact() {
		c.count(&c.counts.Damaged)
		return
	}
	if f, from := c.flow(&p); f != nil {
		f.packet(from, &p)
	}
}

func (c *Carrier) count(n *uint64) {
	c.mu.Lock()
	*n++
	c.mu.Unlock()
}

// segmentSize is what a segment to an address may carry on its path, less options; 0: that is not known.
func (c *Carrier) segmentSize(to netip.Addr) uint16 {
	if c.cfg.MTU == nil {
		return 0
	}
	headers := 40 // of IPv4 and of TCP
	if to.Is6() {
		headers = 60
	}
	const least = 256 // below it there is no use
	if n := c.cfg.MTU(to) - headers; n >= least {
		return uint16(min(n, 0xffff))
	}
	return 0
}

// flow finds the connection of a packet and who sent it, or begins it, or refuses the packet.
func (c *Carrier) flow(p *rewrite.Packet) (f *flow, from rewrite.Side) {
	seg := &p.Segment
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	from, k := rewrite.Client, key{p.Src, p.Dst}
	back := key{p.Dst, p.Src}
	if !slices.Contains(c.cfg.Ports, p.Dst.Port()) || c.flows[back] != nil { // a client's port may be a broker's
		from, k = rewrite.Server, back
	}
	fresh := from == rewrite.Client && seg.Flags&(rewrite.SYN|rewrite.ACK|rewrite.RST) == rewrite.SYN
	f = c.flows[k]
	if f != nil && !(fresh && f.over(seg.Seq)) {
		return f, from
	}
	select {
	case <-c.closed:
		return nil, from
	default:
	}
	switch {
	case !fresh:
		c.counts.Strangers++
		c.refuse(p)
		return nil, from
	case f == nil && len(c.flows) >= c.cfg.MaxFlows:
		c.counts.Full++
		return nil, from
	}
	f = newFlow(c, k)
	c.flows[k] = f
	c.counts.Opened++
	return f, from
}

// refuse resets whoever sends on a connection that was not seen from its beginning: it cannot be carried.
func (c *Carrier) refuse(p *rewrite.Packet) {
	if p.Segment.Flags&rewrite.RST != 0 {
		return
	}
	out := rewrite.Packet{Src: p.Dst, Dst: p.Src, TTL: defaultTTL}
	out.Segment = rewrite.Segment{Flags: rewrite.RST, Seq: p.Segment.Ack, WindowScale: -1}
	if p.Segment.Flags&rewrite.ACK == 0 {
		out.Segment = rewrite.Segment{Flags: rewrite.RST | rewrite.ACK, Ack: p.Segment.Seq + uint32(len(p.Segment.Data)) + 1, WindowScale: -1}
	}
	c.cfg.Send(out.Append(nil))
}

// sweep forgets connections that came to nothing or have ended. Caller holds c.mu.
func (c *Carrier) sweep() {
	now := c.cfg.Clock()
	if now.Sub(c.swept) < sweepEvery {
		return
	}
	c.swept = now
	for k, f := range c.flows {
		if f.forgettable(c.now()) {
			delete(c.flows, k)
		}
	}
}
