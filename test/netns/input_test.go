package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/test/lab"
)

// hostile is what a device may send that is not MQTT as it should be.
type hostile struct {
	name   string
	reason string // the label of sealgate_refused_total, and in the log
	run    func(t *testing.T, conn net.Conn)
}

// cut fails unless the gateway ends the connection, whatever it may say before.
func cut(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the gateway does not end the connection")
	}
}

// hello connects as MQTT demands.
func hello(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.Write(connectPacket("hostile"))
	if err := readConnAck(conn); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Time{})
}

var hostiles = []hostile{
	{"garbage", "malformed", func(t *testing.T, conn net.Conn) {
		garbage := make([]byte, 4096)
		rand.NewChaCha8([32]byte{7}).Read(garbage)
		garbage[0] = 0xff
		conn.Write(garbage)
		cut(t, conn)
	}},
	{"another protocol", "malformed", func(t *testing.T, conn net.Conn) {
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
		cut(t, conn)
	}},
	{"garbage after CONNECT", "malformed", func(t *testing.T, conn net.Conn) {
		hello(t, conn)
		conn.Write([]byte{0x36, 0xff, 0xff, 0xff, 0xff, 0x7f}) // QoS 3, Remaining Length of five bytes
		cut(t, conn)
	}},
	{"half a CONNECT", "connect-timeout", func(t *testing.T, conn net.Conn) {
		packet := connectPacket("half")
		conn.Write(packet[:len(packet)/2])
		cut(t, conn)
	}},
	{"slow CONNECT", "connect-timeout", func(t *testing.T, conn net.Conn) {
		tick := time.NewTicker(200 * time.Millisecond) // ten seconds of CONNECT against a limit of one
		defer tick.Stop()
		for _, b := range connectPacket(strings.Repeat("slow", 9)) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			<-tick.C
		}
		t.Error("the gateway waited for the whole of a slow CONNECT")
	}},
	{"300 KiB message", "too-large", func(t *testing.T, conn net.Conn) {
		hello(t, conn)
		conn.Write(publishPacket("plant/hostile", bytes.Repeat([]byte("large "), 50<<10), 1))
		cut(t, conn)
	}},
	{"half a PUBLISH, then gone", "", func(t *testing.T, conn net.Conn) {
		hello(t, conn)
		packet := publishPacket("plant/hostile", make([]byte, 1000), 1)
		conn.Write(packet[:500])
	}},
}

// TestBadInput sends what no device should, each with a log line and a counter to show for it, while other devices go on.
func TestBadInput(t *testing.T) {
	p := newPlant(t)
	p.Conf.Set("limits", "connect_timeout", "1s")
	p.WriteConf(t)
	p.Up(t)
	d := startDevices(t, p.Topo.Sensor, 4, "start", p.DeviceAddr())
	d.awaitAcked(t, "start", 20)
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			before := refused(p.Metrics(t), h.reason)
			conn, err := p.Topo.Sensor.Dial(lab.Within(t, 10*time.Second), "tcp", p.DeviceAddr())
			if err != nil {
				t.Fatal(err)
			}
			h.run(t, conn)
			conn.Close()
			if h.reason != "" {
				awaitRefused(t, p, h.reason, before+1)
				// One line a reason in a while: an earlier case may have written it.
				if err := p.Gatewayd.AwaitLine(lab.Within(t, 10*time.Second), "reason="+h.reason); err != nil {
					t.Errorf("no log line tells of it: %v", err)
				}
			}
			d.enter("after " + h.name)
			d.awaitAcked(t, "after "+h.name, 20)
		})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for phase, c := range d.counts {
		if c.ended > 0 {
			t.Errorf("phase %q: %d connections of well-behaved devices ended", phase, c.ended)
		}
	}
	noTraces(t, p.Gatewayd)
}

func refused(series map[string]float64, reason string) float64 {
	return series[fmt.Sprintf("sealgate_refused_total{reason=%q}", reason)]
}

func awaitRefused(t *testing.T, p *lab.Plant, reason string, want float64) {
	t.Helper()
	ctx := lab.Within(t, 20*time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		series := p.Metrics(t)
		got := refused(series, reason)
		if got >= want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("sealgate_refused_total with reason %q is %v, want at least %v", reason, got, want)
			return
		}
	}
}

func noTraces(t *testing.T, procs ...*lab.Proc) {
	t.Helper()
	for _, proc := range procs {
		for _, bad := range []string{"goroutine ", "panic"} {
			if lab.HasLine(proc.Stderr(), bad) {
				t.Errorf("%s wrote a stack trace:\n%s", proc.Name, strings.Join(proc.Stderr(), "\n"))
			}
		}
	}
}

// TestTooManyConnections opens 5,000 connections against the limit of 4,096: those beyond it are refused and counted, the
// others are served, and memory stays bounded.
func TestTooManyConnections(t *testing.T) {
	const limit, n = 4096, 5000
	p := newPlant(t)
	p.Up(t)
	d := startDevices(t, p.Topo.Sensor, 2, "start", p.DeviceAddr())
	d.awaitAcked(t, "start", 10)
	before, err := p.Gatewayd.RSS()
	if err != nil {
		t.Fatal(err)
	}
	served := openMany(t, p, n)
	if served > limit || served < limit-100 {
		t.Errorf("%d of %d connections were served, the limit is %d", served, n, limit)
	}
	awaitRefused(t, p, "connections", float64(n-limit))
	if err := p.Gatewayd.AwaitLine(lab.Within(t, 10*time.Second), "reason=connections"); err != nil {
		t.Errorf("no log line tells of it: %v", err)
	}
	d.enter("full")
	d.awaitAcked(t, "full", 20)
	after, err := p.Gatewayd.PeakRSS()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d served; resident memory %d KiB before, at most %d KiB: %d bytes a connection", served, before>>10, after>>10, (after-before)/served)
	if after > 400<<20 {
		t.Errorf("gatewayd took %d MiB", after>>20)
	}
	noTraces(t, p.Gatewayd)
}

// openMany opens n connections from a few goroutines and returns how many were served. They stay open until the test ends.
func openMany(t *testing.T, p *lab.Plant, n int) (served int) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	next := make(chan int)
	for range 16 {
		group.Go(func() {
			for i := range next {
				conn, err := p.Topo.Sensor.Dial(lab.Within(t, 30*time.Second), "tcp", p.DeviceAddr())
				if err != nil {
					continue
				}
				t.Cleanup(func() { conn.Close() })
				conn.Write(connectPacket("many" + strings.Repeat("x", i%20) + time.Duration(i).String()))
				if readConnAck(conn) == nil {
					mu.Lock()
					served++
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return served
}
