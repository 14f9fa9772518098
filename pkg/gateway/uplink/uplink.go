// Package uplink opens the connections to the broker.
package uplink

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Config says where the broker is and how it proves who it is.
type Config struct {
	Broker     string        // host:port for every connection; "" = the address the device dialled, with Port
	TLS        bool          // false: plain TCP (the payloads are sealed all the same)
	Port       uint16        // port where Broker is ""; 0 = 8883 with TLS, else the port the device dialled
	CA         []byte        // PEM certificates that broker certificates must chain to; empty = the system's
	CAFile     string        // where CA came from, for messages only
	ServerName string        // name the certificate must carry; "" = host of Broker, or the dialled address
	Cert, Key  []byte        // PEM client certificate and key; empty = none
	Timeout    time.Duration // for one attempt, TCP and TLS together; 0 = 10 s
}

// Dialer opens connections to the broker. It is safe for concurrent use.
type Dialer struct{ cfg Config }

// New checks cfg and makes a Dialer.
func New(cfg Config) (*Dialer, error) { return &Dialer{cfg}, nil }

// Dial opens one connection. dst is the address that the device dialled.
func (d *Dialer) Dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("uplink: not built yet")
}

// Reason gives the word under which err is counted.
func Reason(err error) string { return "other" }
