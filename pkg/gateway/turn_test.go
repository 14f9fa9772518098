package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

// occupied is a gateway all of whose turns are taken by devices whose uplinks open when open is closed; opened counts them.
func occupied(t *testing.T, cfg Config) (ts *tester, opened *atomic.Int64, open chan struct{}) {
	t.Helper()
	opened, open = new(atomic.Int64), make(chan struct{})
	ts = newTester(t, newFleet(t).rotate(1), cfg, func(context.Context, netip.AddrPort) (net.Conn, error) {
		opened.Add(1)
		<-open
		return nil, errors.New("no broker")
	})
	for i := range cap(ts.g.turns.places) {
		ts.dialFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i%2)})).send(connectPacket(mqttparse.V311, "", true))
	}
	eventually(t, "all turns are taken", func() bool { return int(opened.Load()) == cap(ts.g.turns.places) })
	return ts, opened, open
}

// waits reports whether a connection waits for its turn.
func waits() bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("gateway.(*conn).turn("))
}

func TestRushIsTurnedAway(t *testing.T) {
	ts, opened, open := occupied(t, Config{ConnectTimeout: 3 * time.Second})
	defer close(open)
	dev := ts.dial()
	dev.send(connectPacket(mqttparse.V311, "late", true))
	if got, _ := io.ReadAll(dev); !bytes.Equal(got, []byte{0x20, 2, 0, 3}) {
		t.Errorf("answer % x: not told to come back", got)
	}
	eventually(t, "counted", func() bool { return ts.metric(`sealgate_refused_total{reason="rush"} 1`) })
	if n := int(opened.Load()); n != cap(ts.g.turns.places) {
		t.Errorf("%d uplinks were opened at once, with %d turns", n, cap(ts.g.turns.places))
	}
}

func TestRushWaitsItsTurn(t *testing.T) {
	ts, opened, open := occupied(t, Config{ConnectTimeout: time.Minute})
	turns := int64(cap(ts.g.turns.places))
	gone := ts.dial()
	gone.send(connectPacket(mqttparse.V311, "impatient", true))
	eventually(t, "one waits", waits)
	gone.Close()
	close(open)
	eventually(t, "the one that has gone is forgotten", func() bool { return !waits() && ts.g.connections() == 0 })
	if n := opened.Load(); n != turns {
		t.Errorf("an uplink was opened for a device that had gone")
	}
	ts.dial().send(connectPacket(mqttparse.V311, "patient", true))
	eventually(t, "the next has its turn", func() bool { return opened.Load() == turns+1 })
}

// A device all of whose dials hang keeps nobody else out, and nothing is remembered of it afterwards.
func TestRushOfOneDevice(t *testing.T) {
	opened, open := new(atomic.Int64), make(chan struct{})
	ts := newTester(t, newFleet(t).rotate(1), Config{ConnectTimeout: time.Minute}, func(context.Context, netip.AddrPort) (net.Conn, error) {
		opened.Add(1)
		<-open
		return nil, errors.New("no broker")
	})
	places := cap(ts.g.turns.places)
	for range 2 * places {
		ts.dial().send(connectPacket(mqttparse.V311, "", true))
	}
	eventually(t, "half of the places are its own", func() bool { return int(opened.Load()) == places/2 && ts.g.connections() == 2*places })
	ts.dialFrom(netip.MustParseAddr("127.0.1.1")).send(connectPacket(mqttparse.V311, "other", true))
	eventually(t, "another has its turn", func() bool { return int(opened.Load()) == places/2+1 })
	close(open)
	eventually(t, "all have ended", func() bool { return ts.g.connections() == 0 })
	ts.g.turns.mu.Lock()
	defer ts.g.turns.mu.Unlock()
	if len(ts.g.turns.shares) != 0 || len(ts.g.turns.places) != 0 {
		t.Errorf("%d shares and %d places are left", len(ts.g.turns.shares), len(ts.g.turns.places))
	}
}
