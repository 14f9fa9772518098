package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/test/lab"
)

// devices are publishers that never give up: each connects, publishes at QoS 1 one message after the other, and connects
// anew whenever something breaks. Every second one is eager: it sends its first message together with CONNECT.
// What they publish is made of the needle of the phase that the test is in.
type devices struct {
	ns    *lab.Namespace
	addrs []string
	topic string
	phase atomic.Pointer[string]

	stop  context.CancelFunc
	group sync.WaitGroup

	mu      sync.Mutex
	counts  map[string]*counts
	changed chan struct{}
}

// counts is what happened in one phase.
type counts struct {
	attempts int    // connections tried, whatever became of them
	acked    int    // messages acknowledged
	ended    int    // connections that ended after CONNACK
	refused  string // why the last connection that could not be made was not
}

func startDevices(t *testing.T, ns *lab.Namespace, n int, phase string, addrs ...string) *devices {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	d := &devices{ns: ns, addrs: addrs, topic: "plant/device%d/value", stop: stop, counts: map[string]*counts{}, changed: make(chan struct{})}
	d.phase.Store(&phase)
	for i := range n {
		d.group.Go(func() { d.run(ctx, i) })
	}
	t.Cleanup(d.end)
	return d
}

// end stops all devices and waits for them.
func (d *devices) end() {
	d.stop()
	d.group.Wait()
}

// enter starts a phase: from now on payloads are made of its needle.
func (d *devices) enter(phase string) { d.phase.Store(&phase) }

func (d *devices) note(phase string, f func(*counts)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts[phase]
	if c == nil {
		c = &counts{}
		d.counts[phase] = c
	}
	f(c)
	close(d.changed)
	d.changed = make(chan struct{})
}

// await waits until cond holds for a phase's counts.
func (d *devices) await(t *testing.T, phase, what string, cond func(counts) bool) {
	t.Helper()
	ctx := lab.Within(t, 60*time.Second)
	for {
		d.mu.Lock()
		c, changed := counts{}, d.changed
		if d.counts[phase] != nil {
			c = *d.counts[phase]
		}
		d.mu.Unlock()
		if cond(c) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("phase %s: waited in vain for %s; there were %+v", phase, what, c)
		}
	}
}

func (d *devices) awaitAcked(t *testing.T, phase string, n int) {
	t.Helper()
	d.await(t, phase, fmt.Sprintf("%d acknowledged messages", n), func(c counts) bool { return c.acked >= n })
}

func (d *devices) awaitAttempts(t *testing.T, phase string, n int) {
	t.Helper()
	d.await(t, phase, fmt.Sprintf("%d attempts", n), func(c counts) bool { return c.attempts >= n })
}

func (d *devices) run(ctx context.Context, i int) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		phase := *d.phase.Load()
		d.session(ctx, i, d.addrs[(i+n)%len(d.addrs)])
		d.note(phase, func(c *counts) { c.attempts++ })
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// session is one connection, until it breaks.
func (d *devices) session(ctx context.Context, i int, addr string) {
	dialCtx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	conn, err := d.ns.Dial(dialCtx, "tcp", addr)
	if err != nil {
		d.note(*d.phase.Load(), func(c *counts) { c.refused = err.Error() })
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	var id uint16
	next := func() []byte {
		if id++; id == 0 {
			id = 1
		}
		payload := lab.Marker(needle(*d.phase.Load()), 100+(int(id)*997)%3000)
		return publishPacket(fmt.Sprintf(d.topic, i), payload, id)
	}
	first := connectPacket(fmt.Sprintf("device%d", i))
	eager := i%2 == 1
	if eager {
		first = append(first, next()...)
	}
	if _, err := conn.Write(first); err != nil {
		return
	}
	if err := readConnAck(conn); err != nil {
		return
	}
	defer func() {
		d.note(*d.phase.Load(), func(c *counts) { c.ended++ })
	}()
	for waiting := eager; ; waiting = false {
		if !waiting {
			if _, err := conn.Write(next()); err != nil {
				return
			}
		}
		if err := readPubAck(conn, id); err != nil {
			return
		}
		d.note(*d.phase.Load(), func(c *counts) { c.acked++ })
	}
}

// patience bounds a device's wait for an answer.
const patience = 5 * time.Second

func readConnAck(conn net.Conn) error { return readConnAckIn(conn, patience) }

func readConnAckIn(conn net.Conn, patience time.Duration) error {
	conn.SetReadDeadline(time.Now().Add(patience))
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return err
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return fmt.Errorf("CONNACK % x", ack)
	}
	return nil
}

func readPubAck(conn net.Conn, id uint16) error { return readPubAckIn(conn, id, patience) }

func readPubAckIn(conn net.Conn, id uint16, patience time.Duration) error {
	conn.SetReadDeadline(time.Now().Add(patience))
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return err
	}
	if ack[0] != 0x40 || binary.BigEndian.Uint16(ack[2:]) != id {
		return errors.New("not the PUBACK that was due")
	}
	return nil
}

func connectPacket(clientID string) []byte {
	b := append([]byte{0x10, byte(12 + len(clientID))}, "\x00\x04MQTT\x04\x02\x00\x3c"...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(clientID)))
	return append(b, clientID...)
}

// publishPacket is a QoS 1 PUBLISH, QoS 0 when id is 0.
func publishPacket(topic string, payload []byte, id uint16) []byte {
	n := 2 + len(topic) + len(payload)
	b := []byte{0x30}
	if id != 0 {
		b[0] |= 2
		n += 2
	}
	for ; n > 127; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	b = append(b, byte(n))
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	if id != 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return append(b, payload...)
}
