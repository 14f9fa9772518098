package firmware

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/test/lab"
)

// crowd is many devices, each with a connection that stays, a subscription and a topic of its own. They speak MQTT 3.1.1, and publish with QoS 1.
type crowd struct {
	ns      *lab.Namespace
	say     []byte     // what each publishes
	devices []net.Conn // by number
	refused atomic.Int64
	last    atomic.Value // the last refusal
}

const (
	rushPatience = 10 * time.Minute // for all of a crowd to be served
	askPatience  = time.Minute      // for an answer
	comesBack    = 2 * time.Second  // a device that was refused
)

// connect brings n devices online, so many at once, each of which publishes when it is accepted, and comes back until it is.
func (c *crowd) connect(t *testing.T, n, atOnce int) {
	t.Helper()
	ctx := lab.Within(t, rushPatience)
	c.devices = make([]net.Conn, n)
	t.Cleanup(func() {
		for _, d := range c.devices {
			if d != nil {
				d.Close()
			}
		}
	})
	each(n, atOnce, func(i int) {
		for ctx.Err() == nil {
			conn, err := c.join(ctx, i)
			if err == nil {
				c.devices[i] = conn
				return
			}
			c.refused.Add(1)
			c.last.Store(err.Error())
			select {
			case <-time.After(comesBack):
			case <-ctx.Done():
			}
		}
	})
	if ctx.Err() != nil {
		t.Fatalf("not all of %d devices were accepted in %v; the last refusal of %d: %v", n, rushPatience, c.refused.Load(), c.last.Load())
	}
}

// each calls f for the numbers below n, so many at once.
func each(n, atOnce int, f func(int)) {
	turns := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			f(i)
		})
	}
	group.Wait()
}

// join is one attempt of a device.
func (c *crowd) join(ctx context.Context, number int) (net.Conn, error) {
	conn, err := c.ns.Dial(ctx, "tcp", brokerIP+":1883")
	if err != nil {
		return nil, err
	}
	err = exchange(conn, packet(0x10, "\x00\x04MQTT\x04\x02\x00\x00"+text(fmt.Sprintf("crowd-%d", number))), "\x20\x02\x00\x00")
	if err == nil {
		subscribe := packet(0x82, "\x00\x01"+text(fmt.Sprintf("plant/crowd/%d/do", number))+"\x01")
		err = exchange(conn, subscribe+c.message(number), "\x90\x03\x00\x01\x01", "\x40\x02\x00\x02")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *crowd) message(number int) string {
	return packet(0x32, text(topicOf(number))+"\x00\x02"+string(c.say))
}

func topicOf(number int) string { return fmt.Sprintf("plant/crowd/%d", number) }

// publish has every step-th device publish once more, and wait until the broker has it.
func (c *crowd) publish(t *testing.T, step int) {
	t.Helper()
	each(len(c.devices)/step, 8, func(i int) {
		if err := exchange(c.devices[i*step], c.message(i*step), "\x40\x02\x00\x02"); err != nil {
			t.Errorf("device %d, which was online: %v", i*step, err)
		}
	})
}

// packet is an MQTT packet, with its Remaining Length; text an MQTT string.
func packet(first byte, body string) string {
	return string(binary.AppendUvarint([]byte{first}, uint64(len(body)))) + body
}

func text(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }

// exchange sends what a device says and waits for the answers, in any order.
func exchange(conn net.Conn, say string, answers ...string) error {
	conn.SetDeadline(time.Now().Add(askPatience))
	defer conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, say); err != nil {
		return err
	}
	want := strings.Join(answers, "")
	got := make([]byte, len(want))
	n, err := io.ReadFull(conn, got)
	for _, a := range answers {
		if !strings.Contains(string(got[:n]), a) {
			return fmt.Errorf("the answer to %x is % x, without % x (%w)", say[0], got[:n], a, err)
		}
	}
	return nil
}
