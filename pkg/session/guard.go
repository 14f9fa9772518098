package session

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// guard follows the framing of what the broker sends and refuses a packet by its
// fixed header, before the MQTT library allocates what the header declares or
// indexes by what the packet contains. It also remembers the first read error, because
// the library reports it only as text.
type guard struct {
	net.Conn
	limit int // bytes of one packet

	// Owned by the one goroutine that reads.
	state  int  // bytes of the fixed header seen so far; 0: between packets
	kind   byte // packet type, valid while state or skip is not 0
	length int  // Remaining Length as read so far
	skip   int  // bytes of the current packet's body still to come

	first atomic.Pointer[error]
}

// bodyLen is the Remaining Length that a packet type must have in answer to what this
// package sends (one filter a SUBSCRIBE, no properties), -1 for PUBLISH, which has any. ok is false
// for types that a server may not send.
func bodyLen(kind byte) (n int, ok bool) {
	switch kind {
	case 3: // PUBLISH
		return -1, true
	case 2, 4, 5, 6, 7, 11: // CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK
		return 2, true
	case 9: // SUBACK
		return 3, true
	case 13: // PINGRESP
		return 0, true
	}
	return 0, false
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		if bad := g.follow(p[:n]); bad != nil {
			n, err = 0, bad
		}
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		g.first.CompareAndSwap(nil, &err)
	}
	return n, err
}

// err is the first read error, nil if there was none.
func (g *guard) err() error {
	if p := g.first.Load(); p != nil {
		return *p
	}
	return nil
}

func (g *guard) follow(b []byte) error {
	for len(b) > 0 {
		if g.skip > 0 {
			n := min(g.skip, len(b))
			if last := g.skip == n; last && g.kind == 2 && b[n-1] > 5 {
				return fmt.Errorf("the broker answered CONNECT with return code %d [MQTT-3.2.2.3]", b[n-1])
			}
			g.skip -= n
			b = b[n:]
			continue
		}
		if err := g.header(b[0]); err != nil {
			return err
		}
		b = b[1:]
	}
	return nil
}

// header takes one byte of a fixed header [MQTT-2.2].
func (g *guard) header(c byte) error {
	if g.state == 0 {
		g.kind, g.length, g.state = c>>4, 0, 1
		if _, ok := bodyLen(g.kind); !ok {
			return fmt.Errorf("the broker sent packet type %d, which a server may not send [MQTT-2.2.1]", g.kind)
		}
		if g.kind == 3 && c&6 == 6 {
			return errors.New("the broker sent a PUBLISH with QoS 3 [MQTT-3.3.1-4]")
		}
		return nil
	}
	g.length |= int(c&0x7f) << (7 * (g.state - 1))
	g.state++
	if c&0x80 != 0 {
		if g.state > 4 {
			return errors.New("the broker sent a Remaining Length of more than four bytes [MQTT-2.2.3]")
		}
		return nil
	}
	if want, _ := bodyLen(g.kind); want >= 0 && g.length != want {
		return fmt.Errorf("the broker sent packet type %d with %d bytes, want %d", g.kind, g.length, want)
	}
	if g.length > g.limit {
		return fmt.Errorf("the broker sent a packet of %d bytes; the limit is %d", g.length, g.limit)
	}
	g.skip, g.state = g.length, 0
	return nil
}
