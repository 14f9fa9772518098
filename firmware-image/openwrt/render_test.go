package openwrt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealgate/pkg/config"
)

const render = `
. /lib/functions.sh
. /usr/lib/sealgate/functions.sh
config_load sealgate
sealgate_directories && sealgate_toml
`

// plain is a configuration that is complete but for the identity.
func plain() map[string]string {
	return map[string]string{
		"sealgate/main/enabled": "1", "sealgate/main/fleet": "plant", "sealgate/main/identity": "/etc/sealgate/identity", "sealgate/main/state": "/etc/sealgate/state", "sealgate/main/note_clock": "0",
		"sealgate/steer/lan.1": "br-lan", "sealgate/steer/uplink.1": "wan", "sealgate/steer/ports.1": "1883",
		"sealgate/control/broker.1": "mqtts://broker.example:8883",
	}
}

// accounts makes the accounts, by the package's own script.
const accounts = "( . /etc/uci-defaults/80-sealgate )\n"

const head = `# Made of /etc/config/sealgate at each start. Change it there.
user = "sealgate"
keylink = "/var/run/sealgate/link/keylink.sock"
fleet = "plant"
identity = "/etc/sealgate/identity"
state = "/etc/sealgate/state"
note_clock = false

[steer]
`

// What UCI says becomes exactly this file, which config.Parse accepts.
func TestRender(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	tests := map[string]struct {
		set  map[string]string
		want string // from the section [steer] on
	}{
		"plain": {nil, "lan = [\"br-lan\"]\nuplink = [\"wan\"]\nports = [1883]\n\n[control]\nbroker = [\"mqtts://broker.example:8883\"]\n"},
		"lists, numbers and switches": {map[string]string{
			"sealgate/steer/lan.2": "br-sensors.7", "sealgate/steer/ports.2": "2883", "sealgate/steer/mode": "nfqueue", "sealgate/uplink/tls": "off", "sealgate/uplink/port": "1883",
			"sealgate/downlink/tell_status": "yes", "sealgate/limits/max_connections": "200", "sealgate/limits/max_message": "1MiB", "sealgate/limits/connect_timeout": "20s",
			"sealgate/metrics/listen": "127.0.0.1:9883", "sealgate/control/username": "gw1", "sealgate/limits/drain": "1m",
			"sealgate/devices/deny.1": "192.0.2.9", "sealgate/devices/deny.2": "2001:db8::/64", "sealgate/devices/rate": "5/s", "sealgate/devices/burst": "20", "sealgate/devices/metrics": "1",
		}, "mode = \"nfqueue\"\nlan = [\"br-lan\", \"br-sensors.7\"]\nuplink = [\"wan\"]\nports = [1883, 2883]\n\n[uplink]\ntls = false\nport = 1883\n\n" +
			"[control]\nbroker = [\"mqtts://broker.example:8883\"]\nusername = \"gw1\"\n\n[downlink]\ntell_status = true\n\n" +
			"[limits]\nmax_message = \"1MiB\"\nmax_connections = 200\nconnect_timeout = \"20s\"\ndrain = \"1m\"\n\n[devices]\ndeny = [\"192.0.2.9\", \"2001:db8::/64\"]\nrate = \"5/s\"\nburst = 20\nmetrics = true\n\n[metrics]\nlisten = \"127.0.0.1:9883\"\n"},
		"quotes, dollars and backslashes stay what they are": {map[string]string{
			"sealgate/control/username": `a"b\c$(touch /pwned)` + "`touch /pwned`;$HOME ' #", "sealgate/uplink/server_name": "*",
		}, "lan = [\"br-lan\"]\nuplink = [\"wan\"]\nports = [1883]\n\n[uplink]\nserver_name = \"*\"\n\n[control]\nbroker = [\"mqtts://broker.example:8883\"]\n" +
			`username = "a\"b\\c$(touch /pwned)` + "`touch /pwned`;$HOME ' #\"\n"},
		"an option in place of a list": {map[string]string{"sealgate/uplink/broker": "10.0.0.1:8883"},
			"lan = [\"br-lan\"]\nuplink = [\"wan\"]\nports = [1883]\n\n[uplink]\nbroker = [\"10.0.0.1:8883\"]\n\n[control]\nbroker = [\"mqtts://broker.example:8883\"]\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(filepath.Join(r.root, "uci"))
			r.uci(t, plain())
			r.uci(t, test.set)
			r.must(t, 0, accounts+render)
			got := r.read("/var/run/sealgate/sealgate.toml")
			if got != head+test.want {
				t.Errorf("made\n%s\nwant\n%s", got, head+test.want)
			}
			c, err := config.Parse("sealgate.toml", []byte(got), config.Gateway, config.Controller)
			if err != nil {
				t.Fatal(err)
			}
			if name := test.set["sealgate/control/username"]; c.Control.Username != name {
				t.Errorf("username is %q, want %q", c.Control.Username, name)
			}
			if r.read("/pwned") != "" || exists(r, "/pwned") {
				t.Error("a value was run")
			}
		})
	}
}

func exists(r *router, name string) bool {
	_, err := os.Lstat(filepath.Join(r.root, name))
	return err == nil
}

// What cannot be a value is refused by its name, and the file that was there stays: no key of another section can be slipped in.
func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.must(t, 0, accounts+render)
	before := r.read("/var/run/sealgate/sealgate.toml")
	for option, values := range map[string][]string{
		"main/fleet":             {"plant\"\n[uplink]\ntls = false\n#", "plant\n", "a\tb", "a\x7fb", "a\rb"},
		"main/user":              {"sealgate\nfleet = \"x\""},
		"steer/lan.1":            {"br-lan\"]\n[uplink]\ntls = false", "br-lan\n"},
		"steer/ports.1":          {"1883]\n[uplink]\ntls = false", "x", "-1", "1883 1884", "01883", "99999999999", "0x75b", "1_883", "$((1883))"},
		"steer/ethertypes.1":     {"0x88cc]\ntls", "88cc", "0x", "0x12345", "0xg"},
		"uplink/tls":             {"maybe", "true\nca = \"/x\"", "1 "},
		"uplink/port":            {"8883\ntls = false", "+8883", " 8883", "8883.5"},
		"limits/max_connections": {"1e6", "10;reboot"},
		"control/broker.1":       {"mqtt://x\"]\n#"},
	} {
		for _, value := range values {
			os.RemoveAll(filepath.Join(r.root, "uci"))
			r.uci(t, plain())
			r.uci(t, map[string]string{"sealgate/" + option: value})
			r.put(t, "/log", "")
			_, code := r.run(t, 0, render)
			section, key, _ := strings.Cut(strings.TrimSuffix(option, ".1"), "/")
			if log := r.read("/log"); code == 0 || !strings.Contains(log, "option "+key+" of section "+section+" has a value that cannot be used") {
				t.Errorf("%s = %q: exit %d, log %q", option, value, code, log)
			}
			if got := r.read("/var/run/sealgate/sealgate.toml"); got != before {
				t.Errorf("%s = %q: the file became\n%s", option, value, got)
			}
		}
	}
}
