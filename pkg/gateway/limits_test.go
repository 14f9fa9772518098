package gateway

import (
	"testing"
	"time"
)

func TestSetLimits(t *testing.T) {
	g := New(Config{MaxConnections: 3, ConnectTimeout: time.Second})
	defer g.Close()
	if g.maxConnections() != 3 || g.connectTimeout() != time.Second {
		t.Errorf("at the start %d connections, %v", g.maxConnections(), g.connectTimeout())
	}
	g.SetLimits(1, time.Minute)
	if err := g.add(new(conn)); err != nil {
		t.Fatal(err)
	}
	extra := new(conn)
	if err := g.add(extra); err == nil {
		t.Error("one connection more than the new limit was taken")
		g.remove(extra)
	}
	g.SetLimits(0, 0)
	if g.maxConnections() != DefaultMaxConnections || g.connectTimeout() != DefaultConnectTimeout {
		t.Errorf("defaults are %d connections, %v", g.maxConnections(), g.connectTimeout())
	}
	g.mu.Lock()
	clear(g.conns) // the one above was never made to be closed
	g.mu.Unlock()
}
