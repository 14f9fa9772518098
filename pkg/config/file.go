package config

import "fmt"

// file is sealgate.toml as written, before it is checked.
type file struct {
	Fleet    string       `toml:"fleet"`
	Identity string       `toml:"identity"`
	State    string       `toml:"state"`
	Clock    bool         `toml:"note_clock"`
	Keylink  string       `toml:"keylink"`
	Keep     string       `toml:"keep"`
	User     string       `toml:"user"`
	Steer    steerFile    `toml:"steer"`
	Uplink   uplinkFile   `toml:"uplink"`
	Control  controlFile  `toml:"control"`
	Downlink downlinkFile `toml:"downlink"`
	Limits   limitsFile   `toml:"limits"`
	Devices  devicesFile  `toml:"devices"`
	Metrics  metricsFile  `toml:"metrics"`
}

type steerFile struct {
	Mode        string   `toml:"mode"`
	LAN         []string `toml:"lan"`
	Uplink      []string `toml:"uplink"`
	Bridge      string   `toml:"bridge"`
	Ethertypes  []int64  `toml:"ethertypes"`
	Ports       []int64  `toml:"ports"`
	Listen      string   `toml:"listen"`
	SpoofSource bool     `toml:"spoof_source"`
}

type uplinkFile struct {
	Broker     stringOrList `toml:"broker"`
	TLS        bool         `toml:"tls"`
	Port       int64        `toml:"port"`
	CA         string       `toml:"ca"`
	ServerName string       `toml:"server_name"`
	Cert       string       `toml:"cert"`
	Key        string       `toml:"key"`
}

type controlFile struct {
	Broker       stringOrList `toml:"broker"`
	Prefix       string       `toml:"prefix"`
	CA           string       `toml:"ca"`
	ServerName   string       `toml:"server_name"`
	Username     string       `toml:"username"`
	PasswordFile string       `toml:"password_file"`
	Cert         string       `toml:"cert"`
	Key          string       `toml:"key"`
}

type downlinkFile struct {
	TellStatus bool `toml:"tell_status"`
}

type limitsFile struct {
	MaxMessage     stringOrNumber `toml:"max_message"`
	MaxConnections int64          `toml:"max_connections"`
	ConnectTimeout string         `toml:"connect_timeout"`
	Drain          string         `toml:"drain"`
}

type devicesFile struct {
	Deny    []string `toml:"deny"`
	Rate    string   `toml:"rate"`
	Burst   int64    `toml:"burst"`
	Metrics bool     `toml:"metrics"`
}

type metricsFile struct {
	Listen string `toml:"listen"`
}

// defaults is what an empty file means.
func defaults() file {
	return file{
		State:   defaultState,
		Clock:   true,
		Keylink: defaultKeylink,
		Keep:    KeepAuto,
		Steer:   steerFile{Mode: ModeTC, Ports: []int64{plainPort}, Listen: defaultListen},
		Uplink:  uplinkFile{TLS: true},
		Control: controlFile{Prefix: defaultPrefix},
		Limits:  limitsFile{MaxMessage: "256KiB", MaxConnections: 4096, ConnectTimeout: "10s", Drain: "30s"},
		Devices: devicesFile{Burst: 10},
		Metrics: metricsFile{Listen: defaultMetrics},
	}
}

// stringOrList is a list of strings, or one string, of which the empty one is an empty list.
type stringOrList []string

// UnmarshalTOML implements toml.Unmarshaler.
func (l *stringOrList) UnmarshalTOML(v any) error {
	*l = nil
	switch v := v.(type) {
	case string:
		if v != "" {
			*l = stringOrList{v}
		}
		return nil
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("a string or a list of strings expected")
			}
			*l = append(*l, s)
		}
		return nil
	}
	return fmt.Errorf("a string or a list of strings expected")
}

// stringOrNumber keeps a size as text: "256KiB" or 262144.
type stringOrNumber string

// UnmarshalTOML implements toml.Unmarshaler.
func (s *stringOrNumber) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*s = stringOrNumber(v)
	case int64:
		*s = stringOrNumber(fmt.Sprint(v))
	default:
		return fmt.Errorf("a size like \"256KiB\" or a number of bytes expected")
	}
	return nil
}
