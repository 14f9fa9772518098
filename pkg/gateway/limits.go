package gateway

import (
	"sync/atomic"
	"time"
)

// limits are those of Config that may change while connections live: they concern new ones.
// MaxMessage is none of them: buffers and scanners of open connections are made to it.
type limits struct {
	connections atomic.Int64
	connect     atomic.Int64 // nanoseconds
}

// SetLimits changes MaxConnections and ConnectTimeout for connections to come; 0 means the
// default. Connections over a lowered limit stay.
func (g *Gateway) SetLimits(maxConnections int, connectTimeout time.Duration) {
	c := Config{MaxConnections: maxConnections, ConnectTimeout: connectTimeout}.withDefaults()
	g.limits.connections.Store(int64(c.MaxConnections))
	g.limits.connect.Store(int64(c.ConnectTimeout))
}

func (g *Gateway) maxConnections() int { return int(g.limits.connections.Load()) }

func (g *Gateway) connectTimeout() time.Duration { return time.Duration(g.limits.connect.Load()) }
