// Package uplink opens the connections to the broker: TCP, and on it TLS that always
// verifies the broker's certificate.
//
// There is no way to switch verification off. Whoever wants no TLS says so (Config.TLS
// false): the payloads are sealed all the same, but topics and client ids can be read.
//
// Errors are [*Error] values: one line that says what failed and what to do about it, and a
// word for the counter sealgate_uplink_errors_total{reason}.
package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// DefaultPort is MQTT over TLS as registered with IANA (secure-mqtt).
const DefaultPort = 8883

const (
	defaultTimeout = 10 * time.Second
	maxNames       = 64 // server names whose TLS configuration is kept
	userTimeout    = 2 * time.Minute
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

	// Spoof, if set, prepares the socket for an address that is not the gateway's, and connections come from the
	// address given by From.
	Spoof func(network, address string, c syscall.RawConn) error
}

type sourceKey struct{}

// From returns a context for Dial that says which device the connection is for.
func From(ctx context.Context, device netip.AddrPort) context.Context {
	return context.WithValue(ctx, sourceKey{}, device)
}

// Dialer opens connections to the broker. It is safe for concurrent use.
type Dialer struct {
	cfg  Config
	host string // of cfg.Broker
	base *tls.Config

	mu    sync.Mutex             // guards names
	names map[string]*tls.Config // by server name, so that connections share one configuration
}

// New checks cfg and makes a Dialer. Errors name the key of sealgate.toml that is wrong.
func New(cfg Config) (*Dialer, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	d := &Dialer{cfg: cfg, names: make(map[string]*tls.Config)}
	if cfg.Broker != "" {
		host, port, err := net.SplitHostPort(cfg.Broker)
		if err != nil || host == "" {
			return nil, fmt.Errorf("uplink.broker %q: want host:port", cfg.Broker)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("uplink.broker %q: port must be a number from 1 to 65535", cfg.Broker)
		}
		d.host = host
	}
	if !cfg.TLS {
		return d, nil
	}
	var err error
	d.base, err = tlsConfig(cfg)
	return d, err
}

func tlsConfig(cfg Config) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(maxNames),
		// One record, and so one system call, for what one read held.
		DynamicRecordSizingDisabled: true,
	}
	if len(cfg.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, fmt.Errorf("uplink.ca %s: holds no PEM certificate; it must be the CA that signed the broker's certificate", cfg.CAFile)
		}
	}
	if (len(cfg.Cert) == 0) != (len(cfg.Key) == 0) {
		return nil, fmt.Errorf("uplink.cert and uplink.key: set both or neither")
	}
	if len(cfg.Cert) > 0 {
		pair, err := tls.X509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("uplink.cert and uplink.key: not a certificate and its key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Dial opens one connection. dst is the address that the device dialled; it is used where
// no fixed broker is configured. The connection is a *Conn, with TLS, or a *net.TCPConn.
func (d *Dialer) Dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	addr, name := d.target(dst)
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4},
		Control:         setUserTimeout,
	}
	if device, ok := ctx.Value(sourceKey{}).(netip.AddrPort); ok && d.cfg.Spoof != nil {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(device.Addr().Unmap(), 0))
		dialer.Control = func(network, address string, c syscall.RawConn) error {
			return errors.Join(d.cfg.Spoof(network, address, c), setUserTimeout(network, address, c))
		}
	}
	tcp, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, dialError(addr, err)
	}
	if !d.cfg.TLS {
		return tcp, nil
	}
	return d.handshake(ctx, tcp, addr, name)
}

// target is where to dial, and the name that the broker's certificate must carry.
func (d *Dialer) target(dst netip.AddrPort) (addr, name string) {
	name = d.cfg.ServerName
	if d.cfg.Broker != "" {
		if name == "" {
			name = d.host
		}
		return d.cfg.Broker, name
	}
	port := d.cfg.Port
	switch {
	case port != 0:
	case d.cfg.TLS:
		port = DefaultPort
	default:
		port = dst.Port()
	}
	ip := dst.Addr().Unmap()
	if name == "" {
		name = ip.WithZone("").String()
	}
	return netip.AddrPortFrom(ip, port).String(), name
}

func (d *Dialer) handshake(ctx context.Context, tcp net.Conn, addr, name string) (net.Conn, error) {
	raw, err := newReadAhead(tcp)
	if err != nil {
		tcp.Close()
		return nil, dialError(addr, err)
	}
	c := &Conn{Conn: tls.Client(raw, d.config(name)), raw: raw}
	if err := c.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, d.tlsError(ctx, addr, name, err)
	}
	raw.wait = false
	return c, nil
}

// config gives the shared configuration for a server name.
func (d *Dialer) config(name string) *tls.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.names[name]; c != nil {
		return c
	}
	c := d.base.Clone()
	c.ServerName = name
	if len(d.names) >= maxNames {
		clear(d.names) // more brokers than a fleet has: start over instead of growing
	}
	d.names[name] = c
	return c
}
