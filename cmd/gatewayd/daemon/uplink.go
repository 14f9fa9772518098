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
	"sealgate/pkg/steer"
)

// uplinks dials the broker with the settings that are in force when a device connects.
type uplinks struct {
	dialers atomic.Pointer[[]*target]
}

// target is one broker of the list.
type target struct {
	*uplink.Dialer
	avoid atomic.Int64 // Unix time in nanoseconds until which the others are tried first
}

// avoidFor is how long a broker that could not be reached comes last: a list whose first one is
// silent would otherwise cost every device its time out.
const avoidFor = 30 * time.Second

// order is the brokers by preference, with those that lately could not be reached at the end.
func order(all []*target, now time.Time) []*target {
	good, bad := make([]*target, 0, len(all)), []*target(nil)
	for _, t := range all {
		if t.avoid.Load() > now.UnixNano() {
			bad = append(bad, t)
		} else {
			good = append(good, t)
		}
	}
	return append(good, bad...)
}

// configure reads the files that cfg names and makes later connections use them.
func (u *uplinks) configure(cfg *config.Config) error {
	c := uplink.Config{
		TLS: cfg.Uplink.TLS, Port: cfg.Uplink.Port, CAFile: cfg.Uplink.CA, ServerName: cfg.Uplink.ServerName,
	}
	if cfg.Steer.SpoofSource {
		c.Spoof = steer.SpoofControl
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
	var dialers []*target
	for _, b := range brokers {
		c.Broker = b
		d, err := uplink.New(c)
		if err != nil {
			return err
		}
		dialers = append(dialers, &target{Dialer: d})
	}
	u.dialers.Store(&dialers)
	return nil
}

// dial opens an uplink for a device that dialled dst: to the first broker of the list that
// answers.
func (u *uplinks) dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	var first error
	for _, t := range order(*u.dialers.Load(), time.Now()) {
		c, err := t.Dial(ctx, dst)
		if err == nil {
			t.avoid.Store(0)
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
		t.avoid.Store(time.Now().Add(avoidFor).UnixNano())
	}
	return nil, first
}
