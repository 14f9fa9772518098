package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"sealgate/pkg/config"
	"sealgate/pkg/gateway/uplink"
)

// uplinks dials the broker with the settings that are in force when a device connects.
type uplinks struct {
	dialers atomic.Pointer[[]*uplink.Dialer]
}

// configure reads the files that cfg names and makes later connections use them.
func (u *uplinks) configure(cfg *config.Config) error {
	c := uplink.Config{
		TLS: cfg.Uplink.TLS, Port: cfg.Uplink.Port, CAFile: cfg.Uplink.CA, ServerName: cfg.Uplink.ServerName,
	}
	if c.TLS {
		for _, f := range []struct {
			key, path string
			to        *[]byte
		}{{"ca", cfg.Uplink.CA, &c.CA}, {"cert", cfg.Uplink.Cert, &c.Cert}, {"key", cfg.Uplink.Key, &c.Key}} {
			if f.path == "" {
				continue
			}
			var err error
			if *f.to, err = os.ReadFile(f.path); err != nil {
				return fmt.Errorf("uplink.%s: %w; name a PEM file that this user may read", f.key, err)
			}
		}
	}
	brokers := cfg.Uplink.Broker
	if len(brokers) == 0 {
		brokers = []string{""}
	}
	c.Timeout = cfg.Limits.ConnectTimeout / time.Duration(len(brokers)) // a silent one leaves time for the others
	var dialers []*uplink.Dialer
	for _, b := range brokers {
		c.Broker = b
		d, err := uplink.New(c)
		if err != nil {
			return err
		}
		dialers = append(dialers, d)
	}
	u.dialers.Store(&dialers)
	return nil
}

// dial opens an uplink for a device that dialled dst: to the first broker of the list that
// answers.
func (u *uplinks) dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	var first error
	for _, d := range *u.dialers.Load() {
		c, err := d.Dial(ctx, dst)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}
