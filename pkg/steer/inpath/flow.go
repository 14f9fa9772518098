package inpath

import (
	"net"
	"sync"
	"time"

	"sealgate/pkg/rewrite"
)

const defaultTTL = 64

// flow is one connection, with both of its Conns.
type flow struct {
	c   *Carrier
	key key

	mu      sync.Mutex // guards what follows
	moved   sync.Cond  // something can be read or written, or a deadline has passed
	tcp     *rewrite.Flow
	conns   [2]*Conn // by whom they lead to
	given   bool     // to Accept
	limited bool     // tcp knows the paths' limits
	last    time.Duration
	ttl     [2]uint8 // of packets from a side
	class   [2]uint8
	out     []byte // scratch
	timer   *time.Timer
	dialled bool // the other Conn has been asked for
	closed  int  // Conns closed
}

func newFlow(c *Carrier, k key) *flow {
	f := &flow{c: c, key: k}
	f.moved.L = &f.mu
	f.tcp = rewrite.New(f.emit)
	client, server := net.TCPAddrFromAddrPort(k.client), net.TCPAddrFromAddrPort(k.server)
	f.conns[rewrite.Client] = &Conn{f: f, peer: rewrite.Client, local: server, remote: client}
	f.conns[rewrite.Server] = &Conn{f: f, peer: rewrite.Server, local: client, remote: server}
	return f
}

// emit sends a segment as a packet of the other side's. Caller holds f.mu.
func (f *flow) emit(to rewrite.Side, seg *rewrite.Segment) {
	p := rewrite.Packet{Src: f.key.client, Dst: f.key.server, TTL: defaultTTL, Segment: *seg}
	from := rewrite.Client
	if to == rewrite.Client {
		p.Src, p.Dst, from = p.Dst, p.Src, rewrite.Server
	}
	if f.ttl[from] != 0 {
		p.TTL, p.Class = f.ttl[from], f.class[from]
	}
	f.out = p.Append(f.out[:0])
	f.c.cfg.Send(f.out)
}

// packet takes in a packet that from has sent.
func (f *flow) packet(from rewrite.Side, p *rewrite.Packet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.limited {
		f.limited = true
		f.tcp.Limit(rewrite.Client, f.c.segmentSize(f.key.client.Addr()))
		f.tcp.Limit(rewrite.Server, f.c.segmentSize(f.key.server.Addr()))
	}
	now := f.c.now()
	f.last = now
	f.ttl[from], f.class[from] = p.TTL, p.Class
	f.tcp.Segment(now, from, &p.Segment)
	if f.tcp.Established() && !f.given {
		f.given = true
		select {
		case f.c.accepts <- f.conns[rewrite.Client]:
		default: // the channel has a place for each flow; those that ended unaccepted may fill it
			f.tcp.Abort()
		}
	}
	f.after()
}

// after wakes whom a change may concern, and sets the timer. Caller holds f.mu.
func (f *flow) after() {
	f.moved.Broadcast()
	if f.closed == len(f.conns) && f.tcp.Unread() {
		f.tcp.Abort() // nobody will read it (RFC 2525, 2.17)
	}
	f.arm()
}

// arm sets the timer. Caller holds f.mu.
func (f *flow) arm() {
	at, ok := f.tcp.Deadline()
	switch {
	case !ok && f.timer != nil:
		f.timer.Stop()
	case ok && f.timer == nil:
		f.timer = time.AfterFunc(at-f.c.now(), f.tick)
	case ok:
		f.timer.Reset(at - f.c.now())
	}
}

func (f *flow) tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tcp.Advance(f.c.now())
	f.after()
}

func (f *flow) abort() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tcp.Abort()
	f.after()
}

// over reports whether a SYN with this sequence number begins another connection with the same addresses.
func (f *flow) over(seq uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tcp.Done() && !f.tcp.Began(seq)
}

// forgettable reports whether the flow needs no memory any more.
func (f *flow) forgettable(now time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	idle := now - f.last
	switch {
	case f.tcp.Done():
		return idle > endedTime
	case !f.tcp.Established():
		return idle > halfOpenTime
	case f.closed == len(f.conns) && idle > endedTime:
		f.tcp.Abort()
		f.after()
	}
	return false
}
