// Package gateway is the data plane: accepted connection -> scan -> policy -> seal -> uplink, and back.
package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// State is what the pipeline needs to know to seal and to open. It is immutable; SetState swaps it whole.
type State struct {
	Table *policy.Table   // nil: no policy yet, nothing leaves
	Keys  *crypto.Keyring // nil: no keys yet, nothing leaves
}

// Config is fixed for the life of a Gateway. Zero values get the defaults named.
type Config struct {
	MaxMessage     int           // bytes of one message's payload; 0 = 256 KiB
	MaxConnections int           // 0 = 4096
	ConnectTimeout time.Duration // for CONNECT to arrive, and again for the uplink to open; 0 = 10 s
	Gateway        string        // this gateway's member name, enters the stream ids
	ControlPrefix  string        // topics at and under it are denied to devices; "" = "sealgate"
	// Dial opens the uplink for a device that dialled dst. Errors should be of package uplink.
	Dial       func(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	UnknownKey func(group string, id crypto.KeyID) // may be nil; called off the hot path, must not block
	Log        *slog.Logger                        // nil = discard
	Rand       io.Reader                           // nil = crypto/rand.Reader
}

// Gateway carries devices' connections. Make one with New.
type Gateway struct{ cfg Config }

// New makes a Gateway that is not ready until SetState gave it a policy and keys.
func New(cfg Config) *Gateway { return &Gateway{cfg: cfg} }

// SetState swaps policy and keys for all connections at once.
func (g *Gateway) SetState(s *State) {}

// Serve accepts connections from ln until ctx ends or the gateway is closed.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener) error {
	return errors.New("not built yet")
}

// Drain stops accepting and waits for connections to end; when ctx ends it closes the rest.
func (g *Gateway) Drain(ctx context.Context) error { return nil }

// Close ends every connection and returns when all are gone.
func (g *Gateway) Close() error { return nil }

// Metrics gives the counters.
func (g *Gateway) Metrics() *Metrics { return nil }

// Metrics are the data plane's counters.
type Metrics struct{}

// WritePrometheus writes all metrics in Prometheus text format.
func (m *Metrics) WritePrometheus(w io.Writer) {}

// Status is what /status shows of the data plane.
type Status struct {
	Connections int `json:"connections"`
}

// Status takes a snapshot for people and for sealctl.
func (g *Gateway) Status() Status { return Status{} }
