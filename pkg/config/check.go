package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/strictoml"
	"sealgate/pkg/topic"
)

// Bounds of single values.
const (
	maxPorts       = 16
	maxInterfaces  = 64
	maxBridgePorts = 16
	maxEthertypes  = 13
	maxBrokers     = 16
	maxSocketPath  = 107 // sun_path of unix(7) without its final NUL
	maxPrefix      = 64
	leastMessage   = 1 << 10
	mostMessage    = 256 << 20 // MQTT's own limit is 256 MiB
	mostConns      = 1 << 20
	leastTimeout   = 100 * time.Millisecond
	mostTimeout    = 5 * time.Minute
	ifNameSize     = 15 // IFNAMSIZ without its final NUL
	maxServerName  = 253
	loopbackAdvice = "use host:port, for example 127.0.0.1:1883"
)

// checker turns the file as written into a Config and notes every problem on the way.
type checker struct {
	*strictoml.File
	roles []Role
}

func (c *checker) config(name string, raw *file) *Config {
	cfg := &Config{File: name, Fleet: raw.Fleet, Identity: raw.Identity, State: raw.State, RareClock: !raw.Clock, Keylink: raw.Keylink, Keep: raw.Keep, User: raw.User}
	switch {
	case raw.Fleet == "":
		c.Add("fleet", "missing: the name that `sealctl fleet init` was given")
	case !crypto.ValidName(raw.Fleet):
		c.Add("fleet", "%q is not a fleet name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit", raw.Fleet)
	}
	if raw.Identity == "" {
		c.Add("identity", "missing: the directory that `sealctl fleet add` made")
	}
	if raw.State == "" {
		c.Add("state", "empty: a directory is needed, for example %s", defaultState)
	}
	if raw.Keylink == "" || len(raw.Keylink) > maxSocketPath {
		c.Add("keylink", "%q: the path of a unix socket, at most %d bytes, is needed, for example %s", raw.Keylink, maxSocketPath, defaultKeylink)
	}
	if raw.Keep != KeepAuto && raw.Keep != KeepNone && !strings.HasPrefix(raw.Keep, "/") {
		c.Add("keep", "%q: use \"auto\", \"none\" or the absolute path of a directory", raw.Keep)
	}
	cfg.Steer = c.steer(&raw.Steer)
	cfg.Uplink = c.uplink(&raw.Uplink, raw.Steer.Mode)
	if raw.Steer.SpoofSource && len(raw.Uplink.Broker) > 0 {
		c.Add("steer.spoof_source", "true: the way to a broker is learnt from the devices, and so it is the one they dial: remove uplink.broker")
	}
	cfg.Control = c.control(&raw.Control, &cfg.Uplink)
	cfg.Downlink = Downlink{TellStatus: raw.Downlink.TellStatus}
	cfg.Limits = c.limits(&raw.Limits)
	cfg.Devices = c.devices(&raw.Devices, raw.Steer.Mode)
	cfg.Metrics = Metrics{Listen: raw.Metrics.Listen}
	if raw.Metrics.Listen != "" {
		c.listenAddr("metrics.listen", raw.Metrics.Listen)
	}
	return cfg
}

func (c *checker) is(r Role) bool { return slices.Contains(c.roles, r) }

func (c *checker) steer(raw *steerFile) Steer {
	s := Steer{Mode: raw.Mode, LAN: raw.LAN, Uplink: raw.Uplink, Bridge: raw.Bridge, Listen: raw.Listen, SpoofSource: raw.SpoofSource}
	switch raw.Mode {
	case ModeListen:
	case ModeTC, ModeTProxy, ModeRedirect, ModeNFQueue:
		if len(raw.LAN) == 0 && c.is(Gateway) {
			c.Add("steer.lan", "missing: mode %q needs the interfaces on the device side, for example lan = [\"br-lan\"]", raw.Mode)
		}
	default:
		c.Add("steer.mode", "%q: use \"tc\", \"tproxy\", \"redirect\", \"nfqueue\" or \"listen\"", raw.Mode)
	}
	s.Ethertypes = c.bridge(raw)
	if raw.SpoofSource {
		if raw.Bridge == "" {
			c.Add("steer.spoof_source", "true: only between the ports of a bridge: set steer.bridge or remove it")
		}
	}
	c.interfaces("steer.lan", raw.LAN)
	c.interfaces("steer.uplink", raw.Uplink)
	for _, name := range raw.LAN {
		if slices.Contains(raw.Uplink, name) {
			c.Add("steer.uplink", "%q is also in steer.lan: an interface is on one side", name)
		}
	}
	if raw.Mode == ModeListen || c.Has("steer.listen") {
		c.listenAddr("steer.listen", raw.Listen)
	}
	s.Ports = c.ports(raw.Ports)
	return s
}

// bridge checks what concerns standing in a bridge, and returns the kinds of frame that cross it.
func (c *checker) bridge(raw *steerFile) (ethertypes []uint16) {
	if raw.Bridge == "" {
		if len(raw.Ethertypes) > 0 {
			c.Add("steer.ethertypes", "only between the ports of a bridge: set steer.bridge or remove it")
		}
		return nil
	}
	c.interfaces("steer.bridge", []string{raw.Bridge})
	if raw.Mode != ModeTC {
		c.Add("steer.bridge", "%q: mode %q cannot stand in a bridge: use \"tc\"", raw.Bridge, raw.Mode)
	}
	if slices.Contains(raw.LAN, raw.Bridge) || slices.Contains(raw.Uplink, raw.Bridge) {
		c.Add("steer.bridge", "%q is also in steer.lan or steer.uplink: these name its ports", raw.Bridge)
	}
	if len(raw.Uplink) == 0 && c.is(Gateway) {
		c.Add("steer.uplink", "missing: steer.bridge needs the ports on the broker's side")
	}
	if n := len(raw.LAN) + len(raw.Uplink); n > maxBridgePorts {
		c.Add("steer.bridge", "%d ports in steer.lan and steer.uplink, at most %d allowed", n, maxBridgePorts)
	}
	if len(raw.Ethertypes) > maxEthertypes {
		c.Add("steer.ethertypes", "%d, at most %d allowed", len(raw.Ethertypes), maxEthertypes)
		return nil
	}
	for i, t := range raw.Ethertypes {
		switch {
		case t < 0x0600 || t > 0xffff:
			c.Add("steer.ethertypes", "%#04x is not an ethertype: 0x0600 to 0xffff", t)
		case slices.Contains(opaque[:], uint16(t)):
			c.Add("steer.ethertypes", "%#04x carries packets that are not looked into, steered ones too: it cannot be allowed", t)
		case slices.Contains(raw.Ethertypes[:i], t):
			c.Add("steer.ethertypes", "%#04x is there twice", t)
		default:
			ethertypes = append(ethertypes, uint16(t))
		}
	}
	return ethertypes
}

// opaque are the ethertypes that carry packets of any kind: VLAN tags (those of the usual two kinds are looked behind,
// and what they carry is what counts), PPPoE, PPP, MPLS, bridged Ethernet, MACsec.
var opaque = [...]uint16{0x8100, 0x88a8, 0x9100, 0x8864, 0x880b, 0x8847, 0x8848, 0x6558, 0x88e5}

func (c *checker) interfaces(key string, names []string) {
	if len(names) > maxInterfaces {
		c.Add(key, "%d interfaces, at most %d allowed", len(names), maxInterfaces)
		return
	}
	for i, name := range names {
		switch {
		case name == "" || len(name) > ifNameSize || strings.ContainsAny(name, "/ \t\n") || name == "." || name == "..":
			c.Add(key, "%q is not the name of a network interface: 1 to %d characters", name, ifNameSize)
		case slices.Contains(names[:i], name):
			c.Add(key, "%q is there twice", name)
		}
	}
}

func (c *checker) ports(raw []int64) []uint16 {
	var ports []uint16
	if len(raw) == 0 || len(raw) > maxPorts {
		c.Add("steer.ports", "%d ports: 1 to %d are needed, for example [1883]", len(raw), maxPorts)
		return nil
	}
	for i, p := range raw {
		switch {
		case p < 1 || p > 65535:
			c.Add("steer.ports", "%d is not a TCP port: 1 to 65535", p)
		case slices.Contains(raw[:i], p):
			c.Add("steer.ports", "%d is there twice", p)
		default:
			ports = append(ports, uint16(p))
		}
	}
	return ports
}

func (c *checker) listenAddr(key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		c.Add(key, "%q is not an address to listen on: %s", addr, loopbackAdvice)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		c.Add(key, "%q: port %q is not a number from 0 to 65535", addr, port)
	} else if n == 0 && host == "" {
		c.Add(key, "%q names neither host nor port: %s", addr, loopbackAdvice)
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			c.Add(key, "%q: %q is not an IP address: %s", addr, host, loopbackAdvice)
		}
	}
}

func (c *checker) uplink(raw *uplinkFile, mode string) Uplink {
	u := Uplink{TLS: raw.TLS, CA: raw.CA, ServerName: raw.ServerName, Cert: raw.Cert, Key: raw.Key, Port: tlsPort}
	if !raw.TLS {
		u.Port = plainPort
	}
	if c.Has("uplink.port") {
		if raw.Port < 1 || raw.Port > 65535 {
			c.Add("uplink.port", "%d is not a TCP port: 1 to 65535", raw.Port)
		} else {
			u.Port = uint16(raw.Port)
		}
	}
	if len(raw.Broker) > maxBrokers {
		c.Add("uplink.broker", "%d brokers, at most %d allowed", len(raw.Broker), maxBrokers)
		return u
	}
	for _, b := range raw.Broker {
		if addr, ok := c.hostPort("uplink.broker", b, u.Port); ok {
			u.Broker = append(u.Broker, addr)
		}
	}
	if len(raw.Broker) == 0 && mode == ModeListen && c.is(Gateway) {
		c.Add("uplink.broker", "missing: in mode \"listen\" devices dial gatewayd itself, so it must be told the broker, for example broker = \"broker.example:8883\"")
	}
	if mode == ModeNFQueue && c.is(Gateway) {
		c.endToEnd(raw)
	}
	c.tlsKeys("uplink", raw.TLS, raw.CA, raw.ServerName, raw.Cert, raw.Key)
	return u
}

// endToEnd refuses what cannot be where a device's own TCP connection goes on to the broker.
func (c *checker) endToEnd(raw *uplinkFile) {
	if raw.TLS {
		c.Add("uplink.tls", "true: mode \"nfqueue\" keeps the device's own connection to the broker, and that has no TLS: set it to false if topics, client ids and passwords may be read on the uplink, or use mode \"tc\"")
	}
	if len(raw.Broker) > 0 {
		c.Add("uplink.broker", "%q: mode \"nfqueue\" keeps the device's own connection to the broker that it dialled: remove it, or use mode \"tc\"", raw.Broker[0])
	}
}

// hostPort checks host[:port] and returns it with a port.
func (c *checker) hostPort(key, s string, port uint16) (string, bool) {
	if strings.Contains(s, "://") {
		c.Add(key, "%q: give host:port here; whether TLS is spoken is uplink.tls", s)
		return "", false
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host, p = strings.Trim(s, "[]"), strconv.Itoa(int(port))
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || !validHost(host) {
		c.Add(key, "%q is not a broker's address: use host:port, for example broker.example:8883 or [2001:db8::1]:8883", s)
		return "", false
	}
	return net.JoinHostPort(host, p), true
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && len(host) <= maxServerName && !strings.ContainsAny(host, " /:@?#[]\t\n\"'")
}

func (c *checker) tlsKeys(section string, tls bool, ca, serverName, cert, key string) {
	if (cert == "") != (key == "") {
		missing, present := "key", "cert"
		if cert == "" {
			missing, present = present, missing
		}
		c.Add(section+"."+missing, "missing: %s.%s is set, and a client certificate needs both", section, present)
	}
	if serverName != "" && !validHost(serverName) {
		c.Add(section+".server_name", "%q is not a host name or address", serverName)
	}
	if tls {
		return
	}
	for _, v := range []struct{ name, value string }{{"ca", ca}, {"server_name", serverName}, {"cert", cert}, {"key", key}} {
		if v.value != "" && c.Has(section+"."+v.name) {
			c.Add(section+"."+v.name, "%q has no effect without TLS: remove it, or speak TLS", v.value)
		}
	}
}

func (c *checker) control(raw *controlFile, up *Uplink) Control {
	ctl := Control{Prefix: raw.Prefix, CA: raw.CA, ServerName: raw.ServerName, Username: raw.Username, PasswordFile: raw.PasswordFile, Cert: raw.Cert, Key: raw.Key}
	if !c.Has("control.ca") {
		ctl.CA = up.CA
	}
	if len(raw.Broker) == 0 {
		c.inherit(&ctl, up)
	} else {
		c.controlBrokers(raw, &ctl)
	}
	if len(ctl.Broker) == 0 && len(raw.Broker) == 0 && c.is(Controller) {
		c.Add("control.broker", "missing: the broker that carries control messages, for example broker = \"mqtts://broker.example:8883\" (it defaults to uplink.broker when that is set)")
	}
	if err := topic.ValidateName([]byte(raw.Prefix)); err != nil {
		c.Add("control.prefix", "%q is not the beginning of a topic name: %v", raw.Prefix, err)
	} else if len(raw.Prefix) > maxPrefix || strings.HasPrefix(raw.Prefix, "$") || strings.HasPrefix(raw.Prefix, "/") || strings.HasSuffix(raw.Prefix, "/") {
		c.Add("control.prefix", "%q: at most %d bytes, not beginning with '$', no '/' at either end", raw.Prefix, maxPrefix)
	}
	if raw.PasswordFile != "" && raw.Username == "" {
		c.Add("control.username", "missing: control.password_file is set")
	}
	return ctl
}

// inherit makes the data broker carry the control messages too.
func (c *checker) inherit(ctl *Control, up *Uplink) {
	scheme := "mqtts://"
	if !up.TLS {
		scheme = "mqtt://"
	}
	for _, b := range up.Broker {
		ctl.Broker = append(ctl.Broker, scheme+b)
	}
	if !c.Has("control.server_name") {
		ctl.ServerName = up.ServerName
	}
	if !c.Has("control.cert") && !c.Has("control.key") {
		ctl.Cert, ctl.Key = up.Cert, up.Key
	}
	c.tlsKeys("control", up.TLS || len(up.Broker) == 0, ctl.CA, ctl.ServerName, ctl.Cert, ctl.Key)
}

func (c *checker) controlBrokers(raw *controlFile, ctl *Control) {
	if len(raw.Broker) > maxBrokers {
		c.Add("control.broker", "%d brokers, at most %d allowed", len(raw.Broker), maxBrokers)
		return
	}
	tls := false
	for _, b := range raw.Broker {
		u, err := url.Parse(b)
		switch {
		case err != nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || !validHost(u.Hostname()) || u.Path != "" && u.Path != "/":
			c.Add("control.broker", "%q is not a broker's URL: use mqtt://host[:1883] or mqtts://host[:8883]", b)
			continue
		case u.User != nil:
			c.Add("control.broker", "a password does not belong into a URL, where logs show it: use control.username and control.password_file")
			continue
		}
		port := u.Port()
		if port == "" {
			port = strconv.Itoa(map[string]int{"mqtt": plainPort, "mqtts": tlsPort}[u.Scheme])
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			c.Add("control.broker", "%q: port %q is not a number from 1 to 65535", b, port)
			continue
		}
		tls = tls || u.Scheme == "mqtts"
		ctl.Broker = append(ctl.Broker, u.Scheme+"://"+net.JoinHostPort(u.Hostname(), port))
	}
	if len(ctl.Broker) == len(raw.Broker) {
		c.tlsKeys("control", tls, ctl.CA, ctl.ServerName, ctl.Cert, ctl.Key)
	}
}

func (c *checker) limits(raw *limitsFile) Limits {
	var l Limits
	size, ok := parseSize(string(raw.MaxMessage))
	switch {
	case !ok:
		c.Add("limits.max_message", "%q is not a size: use bytes, KiB or MiB, for example \"256KiB\"", raw.MaxMessage)
	case size < leastMessage || size > mostMessage:
		c.Add("limits.max_message", "%q is out of range: 1KiB to 256MiB allowed", raw.MaxMessage)
	}
	l.MaxMessage = int(size)
	if raw.MaxConnections < 1 || raw.MaxConnections > mostConns {
		c.Add("limits.max_connections", "%d is out of range: 1 to %d allowed", raw.MaxConnections, mostConns)
	}
	l.MaxConnections = int(raw.MaxConnections)
	l.ConnectTimeout = c.duration("limits.connect_timeout", raw.ConnectTimeout, leastTimeout, mostTimeout)
	l.Drain = c.duration("limits.drain", raw.Drain, 0, MaxDrain)
	return l
}

func (c *checker) duration(key, raw string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(raw)
	switch {
	case err != nil:
		c.Add(key, "%q is not a duration: write it like \"10s\"", raw)
	case d < least || d > most:
		c.Add(key, "%s is out of range: %s to %s allowed", d, least, most)
	}
	return d
}

// parseSize reads "262144", "256KiB", "256kB" or "1MiB" as bytes.
func parseSize(s string) (int64, bool) {
	digits := strings.TrimRight(s, "BbKkMmi ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > mostMessage {
		return 0, false
	}
	switch strings.ToLower(strings.TrimSpace(s[len(digits):])) {
	case "", "b":
		return n, true
	case "kib", "k":
		return n << 10, true
	case "kb":
		return n * 1000, true
	case "mib", "m":
		return n << 20, true
	case "mb":
		return n * 1000 * 1000, true
	}
	return 0, false
}
