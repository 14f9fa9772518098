// Package config is sealgate.toml: the one file that gatewayd and controld read, parsed
// once, validated whole, and immutable from then on.
//
// What is wrong is reported all at once, each problem with file, line and key, what is there
// and what is allowed ([strictoml.Problems]). Unknown keys are problems: a misspelt key that
// silently leaves a default in force could leave a network unprotected.
//
// The file has one shape for every program. What a program cannot do without is only asked
// for when that program reads the file: see [Role].
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"sealgate/pkg/strictoml"
)

// Defaults of the values that are not zero, as OPERATIONS.md lists them.
const (
	DefaultPath       = "/etc/sealgate/sealgate.toml"
	defaultState      = "/var/lib/sealgate"
	defaultKeylink    = "/run/sealgate/keylink.sock"
	defaultListen     = "127.0.0.1:1883"
	defaultMetrics    = "127.0.0.1:9883"
	defaultPrefix     = "sealgate"
	defaultMaxMessage = 256 << 10
	maxFileSize       = 1 << 20
	plainPort         = 1883
	tlsPort           = 8883
)

// MaxDrain is the most that limits.drain may be.
const MaxDrain = time.Hour

// Role is a program that reads the file. Parse and Load check what each role given to them
// cannot do without.
type Role int

// The roles.
const (
	Gateway    Role = iota + 1 // gatewayd: steering, uplink
	Controller                 // controld: a control broker, identity, state
)

// Steering modes.
const (
	ModeTC       = "tc"
	ModeTProxy   = "tproxy"
	ModeRedirect = "redirect"
	ModeNFQueue  = "nfqueue"
	ModeListen   = "listen"
)

// Words that may stand for a directory in keep.
const (
	KeepAuto = "auto" // beside the keylink socket, if that is in memory
	KeepNone = "none"
)

// Config is a validated sealgate.toml.
type Config struct {
	File      string // where it came from
	Fleet     string // name of the fleet
	Identity  string // directory that `sealctl fleet add` made
	State     string // directory for what must survive a restart
	RareClock bool   // the time is noted in State with a new policy only, and not once a day: note_clock = false
	Keylink   string // path of the unix socket between controld and gatewayd
	Keep      string // where a keeper's keys outlive controld: KeepAuto, KeepNone or an absolute path
	User      string // the account that gatewayd becomes once what needs root is open; empty: none

	Steer    Steer
	Uplink   Uplink
	Control  Control
	Downlink Downlink
	Limits   Limits
	Devices  Devices
	Metrics  Metrics
}

// Steer says how device traffic reaches gatewayd.
type Steer struct {
	Mode        string   // one of the Mode constants
	LAN         []string // interfaces on the device side
	Uplink      []string // interfaces towards the broker
	Bridge      string   // set: inline between the ports of this bridge
	Ethertypes  []uint16 // kinds of frame that cross the bridge beside ARP, IPv4 and IPv6
	Ports       []uint16 // TCP ports that are steered
	Listen      string   // host:port of mode listen
	SpoofSource bool     // the broker sees the device's address
}

// Uplink says how gatewayd reaches the broker.
type Uplink struct {
	Broker     []string // host:port in order of preference; empty: the address the device dialled
	TLS        bool
	Port       uint16 // where Broker is empty
	CA         string // PEM file; empty: the system's roots
	ServerName string // empty: the host that is dialled
	Cert, Key  string // PEM files of a client certificate; empty: none
}

// Control says how controld reaches the broker that carries control messages.
type Control struct {
	Broker       []string // mqtt:// or mqtts:// URLs in order of preference
	Prefix       string   // first levels of all control topics
	CA           string   // PEM file; empty: the system's roots
	ServerName   string   // empty: the host of the URL
	Username     string
	PasswordFile string // its first line is the password
	Cert, Key    string // PEM files of a client certificate; empty: none
}

// Downlink says what devices are told beside their messages.
type Downlink struct {
	TellStatus bool // devices of MQTT 5 read in user properties what was found out about a message
}

// Limits bound what devices can make gatewayd spend.
type Limits struct {
	MaxMessage     int // bytes of one MQTT packet
	MaxConnections int
	ConnectTimeout time.Duration // from accept to a whole CONNECT, and for dialling the broker
	Drain          time.Duration // over which a gatewayd that was taken over from ends its connections
}

// Devices says who is kept out, and how often anybody else may connect.
type Devices struct {
	DenyMACs [][6]byte      // Ethernet source addresses; mode tc only
	DenyNets []netip.Prefix // an address alone has all its bits
	Every    time.Duration  // one new connection of a device so often, in the long run; 0: no limit
	Burst    int            // and so many at once
	Metrics  bool           // /metrics has series for single devices
}

// Metrics is the HTTP server for /metrics and /status.
type Metrics struct {
	Listen string // host:port; empty: no server
}

// Load reads and checks the file at path for the given roles. The error is a
// [strictoml.Problems] or says why the file cannot be read.
func Load(path string, roles ...Role) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotRead(path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, cannotRead(path, err)
	}
	return Parse(path, b, roles...)
}

func cannotRead(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: no such file: write one or name another with -config", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied: make it readable for the user that runs this program", path)
	}
	return fmt.Errorf("%s: cannot be read: %w", path, err)
}

// Parse checks the text of a configuration file called name for the given roles. It touches
// no other file: see [Config.CheckFiles]. The error is a [strictoml.Problems].
func Parse(name string, b []byte, roles ...Role) (*Config, error) {
	if len(b) > maxFileSize {
		return nil, strictoml.Problems{{File: name, Text: fmt.Sprintf("larger than %d bytes: this is not a configuration file", maxFileSize)}}
	}
	raw := defaults()
	f, err := strictoml.Decode(name, b, &raw)
	if err != nil {
		return nil, err
	}
	c := &checker{File: f, roles: roles}
	cfg := c.config(name, &raw)
	if err := f.Err(); err != nil {
		return nil, err
	}
	return cfg, nil
}
