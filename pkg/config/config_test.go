package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// reference is the file as the documentation shows it.
const reference = `fleet    = "plant"
identity = "/etc/sealgate/identity"        # the directory that sealctl fleet add made
state    = "/var/lib/sealgate"
keylink  = "/run/sealgate/keylink.sock"
[steer]
mode   = "tc"                              # tc | tproxy | redirect | nfqueue | listen
lan    = ["lan0"]                          # device side
uplink = ["up0"]
bridge = ""                                # set: inline between ports of one bridge
ports  = [1883]
listen = "127.0.0.1:1883"                  # mode listen: an ordinary proxy, no privileges needed
spoof_source = false
[uplink]
broker      = ""                           # empty: the address the device dialled; else host:port for all
tls         = true                         # port 8883 where broker is empty
port        = 8883
ca          = "/etc/sealgate/broker-ca.pem"
server_name = ""
cert = ""
key  = ""
[control]
broker = "mqtts://broker:8883"
prefix = "sealgate"
ca     = ""
[limits]
max_message = "256KiB"
max_connections = 4096
connect_timeout = "10s"
drain = "1m"
[metrics]
listen = "127.0.0.1:9883"                  # Prometheus text at /metrics, JSON at /status
`

func TestReferenceFile(t *testing.T) {
	got, err := Parse("sealgate.toml", []byte(reference), Gateway, Controller)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File: "sealgate.toml", Fleet: "plant", Identity: "/etc/sealgate/identity", State: "/var/lib/sealgate", Keylink: "/run/sealgate/keylink.sock", Keep: KeepAuto,
		Steer:   Steer{Mode: "tc", LAN: []string{"lan0"}, Uplink: []string{"up0"}, Ports: []uint16{1883}, Listen: "127.0.0.1:1883"},
		Uplink:  Uplink{TLS: true, Port: 8883, CA: "/etc/sealgate/broker-ca.pem"},
		Control: Control{Broker: []string{"mqtts://broker:8883"}, Prefix: "sealgate"},
		Limits:  Limits{MaxMessage: 256 << 10, MaxConnections: 4096, ConnectTimeout: 10 * time.Second, Drain: time.Minute},
		Metrics: Metrics{Listen: "127.0.0.1:9883"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

const least = "fleet = \"plant\"\nidentity = \"id\"\n"

// Every value has a default but fleet and identity.
func TestDefaults(t *testing.T) {
	got, err := Parse("f", []byte(least))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File: "f", Fleet: "plant", Identity: "id", State: defaultState, Keylink: defaultKeylink, Keep: KeepAuto,
		Steer:   Steer{Mode: "tc", Ports: []uint16{1883}, Listen: defaultListen},
		Uplink:  Uplink{TLS: true, Port: 8883},
		Control: Control{Prefix: "sealgate"},
		Limits:  Limits{MaxMessage: 256 << 10, MaxConnections: 4096, ConnectTimeout: 10 * time.Second, Drain: 30 * time.Second},
		Metrics: Metrics{Listen: defaultMetrics},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDownlink(t *testing.T) {
	got, err := Parse("f", []byte(least+"[downlink]\ntell_status = true\n"))
	if err != nil || !got.Downlink.TellStatus {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestControlFollowsUplink(t *testing.T) {
	tests := []struct {
		name, text string
		want       Control
	}{
		{"broker of the uplink", "[uplink]\nbroker = \"b:8883\"\nca = \"ca.pem\"\nserver_name = \"n\"\ncert = \"c\"\nkey = \"k\"\n",
			Control{Broker: []string{"mqtts://b:8883"}, CA: "ca.pem", ServerName: "n", Cert: "c", Key: "k"}},
		{"without TLS", "[uplink]\nbroker = \"b\"\ntls = false\n", Control{Broker: []string{"mqtt://b:1883"}}},
		{"a list", "[uplink]\nbroker = [\"b\", \"[::1]:99\"]\n", Control{Broker: []string{"mqtts://b:8883", "mqtts://[::1]:99"}}},
		{"its own broker, the CA of the uplink", "[uplink]\nbroker = \"b\"\nca = \"ca.pem\"\ncert = \"c\"\nkey = \"k\"\n[control]\nbroker = \"mqtts://c\"\n",
			Control{Broker: []string{"mqtts://c:8883"}, CA: "ca.pem"}},
		{"its own broker, the system's CAs", "[uplink]\nca = \"ca.pem\"\n[control]\nbroker = \"mqtts://c\"\nca = \"\"\n", Control{Broker: []string{"mqtts://c:8883"}}},
		{"a list of its own", "[control]\nbroker = [\"mqtt://a\", \"mqtts://b:1\"]\nusername = \"u\"\npassword_file = \"p\"\n",
			Control{Broker: []string{"mqtt://a:1883", "mqtts://b:1"}, Username: "u", PasswordFile: "p"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse("f", []byte(least+tt.text), Controller)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Prefix = "sealgate"
			if !reflect.DeepEqual(got.Control, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got.Control, tt.want)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no fleet", "identity = \"x\"\n", "f: fleet: missing"},
		{"fleet", "fleet = \"A B\"\n", "f:1: fleet: \"A B\" is not a fleet name"},
		{"no identity", "fleet = \"x\"\n", "f: identity: missing"},
		{"state", "state = \"\"\n", "f:1: state: empty"},
		{"keylink too long", "keylink = \"/" + strings.Repeat("x", 107) + "\"\n", "f:1: keylink:"},
		{"unknown section", "[steering]\nmode = \"tc\"\n", "f:1: steering: unknown key"},
		{"unknown key", "[steer]\nmod = \"tc\"\n", "f:2: steer.mod: unknown key"},
		{"type", "[limits]\nmax_connections = \"4096\"\n", "f:2: limits.max_connections: a whole number expected, found a string in quotes"},
		{"passing with TLS", "[steer]\nmode = \"nfqueue\"\n[uplink]\ntls = true\n", `f:4: uplink.tls: true: mode "nfqueue" keeps the device's own connection`},
		{"passing to a broker", "[steer]\nmode = \"nfqueue\"\n[uplink]\nbroker = \"b:1883\"\n", `f:4: uplink.broker: "b:1883": mode "nfqueue" keeps`},
		{"mode", "[steer]\nmode = \"tcp\"\n", `f:2: steer.mode: "tcp": use "tc", "tproxy", "redirect", "nfqueue" or "listen"`},
		{"redirect without lan", "[steer]\nmode = \"redirect\"\n", `f: steer.lan: missing: mode "redirect" needs`},
		{"tc without lan", "[steer]\nmode = \"tc\"\n", "f: steer.lan: missing: mode \"tc\" needs"},
		{"listen without broker", "[steer]\nmode = \"listen\"\n", "f: uplink.broker: missing: in mode \"listen\""},
		{"listen address", "[steer]\nmode = \"listen\"\nlisten = \"1883\"\n", `f:3: steer.listen: "1883" is not an address to listen on`},
		{"listen name", "[steer]\nmode = \"listen\"\nlisten = \"gate:1883\"\n", `"gate" is not an IP address`},
		{"listen port", "[steer]\nmode = \"listen\"\nlisten = \"127.0.0.1:mqtt\"\n", `port "mqtt" is not a number`},
		{"bridge in another mode", "[steer]\nmode = \"nfqueue\"\nbridge = \"br0\"\n", `f:3: steer.bridge: "br0": mode "nfqueue" cannot`},
		{"bridge and port", "[steer]\nlan = [\"br0\"]\nbridge = \"br0\"\n", `f:3: steer.bridge: "br0" is also in steer.lan`},
		{"bridge name", "[steer]\nbridge = \"a/b\"\n", `f:2: steer.bridge: "a/b" is not the name`},
		{"bridge without uplink", "[steer]\nbridge = \"br0\"\n", "f: steer.uplink: missing: steer.bridge needs"},
		{"ethertypes without bridge", "[steer]\nethertypes = [0x88b5]\n", "f:2: steer.ethertypes: only between"},
		{"ethertype of a frame's length", "[steer]\nbridge = \"br0\"\nethertypes = [0x42]\n", "f:3: steer.ethertypes: 0x0042 is not an ethertype"},
		{"ethertype of PPPoE", "[steer]\nbridge = \"br0\"\nethertypes = [0x8864]\n", "f:3: steer.ethertypes: 0x8864 carries packets"},
		{"ethertype twice", "[steer]\nbridge = \"br0\"\nethertypes = [0x88b5, 0x88b5]\n", "f:3: steer.ethertypes: 0x88b5 is there twice"},
		{"spoof without a bridge", "[steer]\nspoof_source = true\n", "f:2: steer.spoof_source: true: only between"},
		{"spoof to a broker", "[steer]\nspoof_source = true\nbridge = \"br0\"\n[uplink]\nbroker = \"b:8883\"\n", "f:2: steer.spoof_source: true: the way to a broker"},
		{"interface", "[steer]\nlan = [\"a/b\"]\n", `f:2: steer.lan: "a/b" is not the name`},
		{"interface twice", "[steer]\nlan = [\"a\", \"a\"]\n", `f:2: steer.lan: "a" is there twice`},
		{"interface on both sides", "[steer]\nlan = [\"a\"]\nuplink = [\"a\"]\n", `f:3: steer.uplink: "a" is also in steer.lan`},
		{"port 0", "[steer]\nports = [0]\n", "f:2: steer.ports: 0 is not a TCP port"},
		{"port large", "[steer]\nports = [65536]\n", "f:2: steer.ports: 65536 is not a TCP port"},
		{"port twice", "[steer]\nports = [1883, 1883]\n", "1883 is there twice"},
		{"no ports", "[steer]\nports = []\n", "f:2: steer.ports: 0 ports: 1 to 16"},
		{"uplink URL", "[uplink]\nbroker = \"mqtts://b\"\n", `f:2: uplink.broker: "mqtts://b": give host:port here`},
		{"uplink broker", "[uplink]\nbroker = \"b:x\"\n", `f:2: uplink.broker: "b:x" is not a broker's address`},
		{"uplink broker type", "[uplink]\nbroker = 7\n", "f:2: uplink.broker: a string or a list of strings expected"},
		{"uplink broker list type", "[uplink]\nbroker = [\"a\", 7]\n", "f:2: uplink.broker: a string or a list of strings expected"},
		{"uplink port", "[uplink]\nport = 70000\n", "f:2: uplink.port: 70000"},
		{"cert without key", "[uplink]\ncert = \"c\"\n", "f: uplink.key: missing: uplink.cert is set"},
		{"key without cert", "[control]\nbroker = \"mqtts://b\"\nkey = \"c\"\n", "f: control.cert: missing: control.key is set"},
		{"CA without TLS", "[uplink]\ntls = false\nca = \"x\"\n", `f:3: uplink.ca: "x" has no effect without TLS`},
		{"control CA without TLS", "[control]\nbroker = \"mqtt://b\"\nca = \"x\"\n", `f:3: control.ca: "x" has no effect without TLS`},
		{"control URL", "[control]\nbroker = \"broker:8883\"\n", "f:2: control.broker:"},
		{"control scheme", "[control]\nbroker = \"http://b\"\n", `f:2: control.broker: "http://b" is not a broker's URL`},
		{"control port", "[control]\nbroker = \"mqtt://b:99999\"\n", "f:2: control.broker:"},
		{"control password in URL", "[control]\nbroker = \"mqtt://u:secret@b\"\n", "a password does not belong into a URL"},
		{"no control broker", "", "f: control.broker: missing"},
		{"prefix", "[control]\nprefix = \"a/#\"\n", `f:2: control.prefix: "a/#"`},
		{"prefix of the broker's", "[control]\nprefix = \"$x\"\n", `f:2: control.prefix: "$x"`},
		{"empty prefix", "[control]\nprefix = \"\"\n", `f:2: control.prefix: ""`},
		{"password without user", "[control]\npassword_file = \"x\"\n", "f: control.username: missing"},
		{"size", "[limits]\nmax_message = \"much\"\n", `f:2: limits.max_message: "much" is not a size`},
		{"size too small", "[limits]\nmax_message = \"1\"\n", "out of range: 1KiB to 256MiB"},
		{"size too large", "[limits]\nmax_message = \"1000MiB\"\n", "f:2: limits.max_message"},
		{"size overflow", "[limits]\nmax_message = \"99999999999999999999\"\n", "f:2: limits.max_message"},
		{"size type", "[limits]\nmax_message = true\n", "f:2: limits.max_message: a size like"},
		{"connections", "[limits]\nmax_connections = 0\n", "f:2: limits.max_connections: 0 is out of range"},
		{"timeout", "[limits]\nconnect_timeout = \"10\"\n", `f:2: limits.connect_timeout: "10" is not a duration`},
		{"drain", "[limits]\ndrain = \"2h\"\n", "f:2: limits.drain: 2h0m0s is out of range: 0s to 1h0m0s"},
		{"timeout range", "[limits]\nconnect_timeout = \"1h\"\n", "f:2: limits.connect_timeout: 1h0m0s is out of range"},
		{"denied nonsense", "[devices]\ndeny = [\"gate\"]\n", `f:2: devices.deny: "gate" is neither a MAC nor an IP address or prefix`},
		{"denied zone", "[devices]\ndeny = [\"fe80::1%lan0\"]\n", `f:2: devices.deny: "fe80::1%lan0" is neither`},
		{"denied EUI-64", "[devices]\ndeny = [\"02:00:00:ff:fe:00:00:01\"]\n", `is neither a MAC`},
		{"denied group address", "[devices]\ndeny = [\"01:00:5e:00:00:01\"]\n", `is the address of a group`},
		{"denied host bits", "[devices]\ndeny = [\"192.0.2.7/24\"]\n", `"192.0.2.7/24" has bits beyond its length: write 192.0.2.0/24`},
		{"denied mapped address", "[devices]\ndeny = [\"::ffff:192.0.2.7\"]\n", `"::ffff:192.0.2.7": write it as an IPv4 address`},
		{"everybody denied", "[devices]\ndeny = [\"::/0\"]\n", `"::/0" denies every device`},
		{"MAC denied twice", "[devices]\ndeny = [\"02:00:00:00:00:01\", \"02-00-00-00-00-01\"]\n", `"02-00-00-00-00-01" is there twice`},
		{"address denied twice", "[devices]\ndeny = [\"192.0.2.7\", \"192.0.2.7/32\"]\n", `"192.0.2.7/32" is there twice`},
		{"MAC where none is seen", "[steer]\nmode = \"nfqueue\"\n[devices]\ndeny = [\"02:00:00:00:00:01\"]\n", `f:4: devices.deny: "02:00:00:00:00:01": mode "nfqueue" does not see MAC addresses`},
		{"too many denied", "[devices]\ndeny = [" + manyAddresses(1025) + "]\n", "f:2: devices.deny: 0 MACs and 1025 addresses: at most 1024"},
		{"rate", "[devices]\nrate = \"10\"\n", `f:2: devices.rate: "10": use connections per second, minute or hour`},
		{"rate of nothing", "[devices]\nrate = \"0/s\"\n", `f:2: devices.rate: "0/s"`},
		{"rate unit", "[devices]\nrate = \"10/d\"\n", `f:2: devices.rate: "10/d"`},
		{"burst", "[devices]\nrate = \"1/s\"\nburst = 0\n", "f:3: devices.burst: 0 is out of range"},
		{"burst without rate", "[devices]\nburst = 5\n", "f:2: devices.burst: 5 has no effect without devices.rate"},
		{"metrics", "[metrics]\nlisten = \"x\"\n", `f:2: metrics.listen: "x" is not an address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tt.text), Gateway, Controller)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error:\n%v\nwant one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Error("the error shows a password")
			}
		})
	}
}

// What only the other program needs is not asked for.
func TestRolesNeedTheirOwn(t *testing.T) {
	keeper := least + "[control]\nbroker = \"mqtts://b\"\n"
	if _, err := Parse("f", []byte(keeper), Controller); err != nil {
		t.Errorf("a keeper alone needs no steering: %v", err)
	}
	gateway := least + "[steer]\nlan = [\"lan0\"]\n"
	if _, err := Parse("f", []byte(gateway), Gateway); err != nil {
		t.Errorf("gatewayd needs no control broker: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"4096": 4096, "4096B": 4096, "256KiB": 256 << 10, "256 KiB": 256 << 10, "64k": 64 << 10, "2MiB": 2 << 20, "1MB": 1e6, "10kB": 1e4} {
		if got, ok := parseSize(s); !ok || got != want {
			t.Errorf("%q is %d, %v; want %d", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "KiB", "-1", "1GiB", "1.5MiB", "1 2", "0x10", "1KiBB", "1e3"} {
		if got, ok := parseSize(s); ok {
			t.Errorf("%q was read as %d", s, got)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "not a configuration file") {
		t.Errorf("large file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(reference)
	f.Add(least)
	f.Add("[uplink]\nbroker = [\"[::1]\"]\n[control]\nbroker = [\"mqtt://[::1]\"]\n")
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := Parse("f", []byte(s), Gateway, Controller)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		if cfg.Fleet == "" || cfg.Identity == "" || len(cfg.Steer.Ports) == 0 || cfg.Limits.MaxMessage <= 0 || len(cfg.Control.Broker) == 0 {
			t.Errorf("accepted %+v", cfg)
		}
	})
}

// The time is noted unless the file says otherwise.
func TestNoteClock(t *testing.T) {
	for text, rare := range map[string]bool{"": false, "note_clock = true\n": false, "note_clock = false\n": true} {
		c, err := Parse("f", []byte("fleet = \"plant\"\nidentity = \"id\"\n"+text))
		if err != nil || c.RareClock != rare {
			t.Errorf("%q: %+v, %v; want RareClock %v", text, c, err, rare)
		}
	}
}
