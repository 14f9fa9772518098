package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of [devices].
const (
	maxDenied = 1024 // of MACs, and of addresses
	mostRate  = 1000 // connections in one unit of time
	mostBurst = 1000
)

func (c *checker) devices(raw *devicesFile, mode string) Devices {
	d := Devices{Metrics: raw.Metrics}
	for _, s := range raw.Deny {
		c.deny(&d, s, mode)
	}
	if len(d.DenyMACs) > maxDenied || len(d.DenyNets) > maxDenied {
		c.Add("devices.deny", "%d MACs and %d addresses: at most %d of each allowed; write neighbouring addresses as one prefix", len(d.DenyMACs), len(d.DenyNets), maxDenied)
	}
	if raw.Burst < 1 || raw.Burst > mostBurst {
		c.Add("devices.burst", "%d is out of range: 1 to %d allowed", raw.Burst, mostBurst)
	}
	if c.Has("devices.burst") && raw.Rate == "" {
		c.Add("devices.burst", "%d has no effect without devices.rate: remove it, or set a rate, for example rate = \"30/m\"", raw.Burst)
	}
	if raw.Rate == "" {
		return d
	}
	every, ok := parseRate(raw.Rate)
	if !ok {
		c.Add("devices.rate", "%q: use connections per second, minute or hour, 1 to %d of them, for example \"30/m\"; \"\": no limit", raw.Rate, mostRate)
	}
	d.Every, d.Burst = every, int(raw.Burst)
	return d
}

// deny adds one entry: a MAC, an address or a prefix.
func (c *checker) deny(d *Devices, s, mode string) {
	mac, macErr := net.ParseMAC(s)
	if macErr == nil && len(mac) == 6 {
		switch m := [6]byte(mac); {
		case slices.Contains(d.DenyMACs, m):
			c.Add("devices.deny", "%q is there twice", s)
		case m[0]&1 != 0:
			c.Add("devices.deny", "%q is the address of a group: no device sends from it", s)
		case mode != ModeTC && c.is(Gateway):
			c.Add("devices.deny", "%q: mode %q does not see MAC addresses: name the device's IP address, or use mode \"tc\"", s, mode)
		default:
			d.DenyMACs = append(d.DenyMACs, m)
		}
		return
	}
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil, macErr == nil: // the longer hardware addresses can be read as IPv6
		c.Add("devices.deny", "%q is neither a MAC nor an IP address or prefix: use, for example, \"02:00:00:00:00:01\", \"192.0.2.7\" or \"2001:db8::/64\"", s)
	case p.Addr().Is4In6():
		c.Add("devices.deny", "%q: write it as an IPv4 address", s)
	case p.Bits() == 0:
		c.Add("devices.deny", "%q denies every device: stop gatewayd instead, which shuts the ports as well", s)
	case p != p.Masked():
		c.Add("devices.deny", "%q has bits beyond its length: write %s for the whole of it, or one address", s, p.Masked())
	case slices.Contains(d.DenyNets, p):
		c.Add("devices.deny", "%q is there twice", s)
	default:
		d.DenyNets = append(d.DenyNets, p)
	}
}

// parseRate reads "30/m" as the time from one connection to the next.
func parseRate(s string) (every time.Duration, ok bool) {
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	if err != nil || n < 1 || n > mostRate || per == 0 {
		return 0, false
	}
	return per / time.Duration(n), true
}
