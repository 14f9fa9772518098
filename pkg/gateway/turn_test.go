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
	for range cap(ts.g.turns) {
		ts.dial().send(connectPacket(mqttparse.V311, "", true))
	}
	eventually(t, "all turns are taken", func() bool { return int(opened.Load()) == cap(ts.g.turns) })
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
	if n := int(opened.Load()); n != cap(ts.g.turns) {
		t.Errorf("%d uplinks were opened at once, with %d turns", n, cap(ts.g.turns))
	}
}

func TestRushWaitsItsTurn(t *testing.T) {
	ts, opened, open := occupied(t, Config{ConnectTimeout: time.Minute})
	turns := int64(cap(ts.g.turns))
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
