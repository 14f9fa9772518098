package firmware

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

const (
	enrolledRouted = `
fleet    = "plant"
identity = "/etc/sealgate/identity"
[steer]
mode   = "tc"
lan    = ["lan0"]
uplink = ["up0"]
[control]
broker = "mqtts://10.9.0.2:8883"
`
	routedAddresses = "ADDRESS=10.9.0.1/24\nLAN_ADDRESS=192.168.77.1/24\n"
)

var enrolledBridge = strings.Replace(enrolledRouted, "[control]", "bridge = \"br0\"\n[control]", 1)

// TestPlaces starts an appliance, as far as its init does, with settings that are wrong or do not fit one another, and with those that it is delivered with:
// whatever comes up, no packet to the broker's port crosses. No gatewayd runs.
func TestPlaces(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	for _, c := range []struct {
		name    string
		place   string // added to place.conf
		config  string // sealgate.toml; "": it is not set up
		crosses bool
		down    bool // no interface comes up
	}{
		{name: "as delivered", place: ""},
		{name: "sides exchanged", place: "LAN=eth1\nUPLINK=eth0\n"},
		{name: "one interface for both sides", place: "UPLINK=eth0\n", down: true},
		{name: "interface that is not there", place: "LAN=eth7\n"},
		{name: "bridge", place: "", config: enrolledBridge},
		{name: "bridge, set up as a router", place: "", config: enrolledRouted},
		{name: "router", place: "PLACE=routed\n" + routedAddresses},
		{name: "router, set up", place: "PLACE=routed\n" + routedAddresses, config: enrolledRouted},
		{name: "router, set up as a bridge", place: "PLACE=routed\n" + routedAddresses, config: enrolledBridge},
		{name: "lines end as on Windows", place: "PLACE=bridge\r\nADDRESS=none\r\n", down: true},
		{name: "lines end as on Windows, set up", place: "PLACE=bridge\r\nADDRESS=none\r\n", config: enrolledBridge, down: true},
		{name: "quote that does not end", place: "DNS=\"\n", down: true},
		{name: "no place", place: "PLACE=\n", down: true},
		{name: "VLAN that is none", place: "LAN_VLAN=x\n"},
		{name: "configuration cut off", config: enrolledBridge[:60], down: true},
		{name: "empty configuration", config: "\n", down: true},
		{name: "guard that is a stand-in", place: "PLACE=routed\n" + routedAddresses, config: "stand-in", crosses: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlaced(t, c.place, c.config)
			p.start(t)
			if crossed := p.publish(t, strings.Contains(c.place, "routed")); crossed != c.crosses {
				t.Errorf("packets to the broker's port cross: %v; init said\n%s", crossed, strings.Join(p.init.Stderr(), "\n"))
			}
			if up := p.anyUp(t); up == c.down {
				t.Errorf("interfaces are up: %v; init said\n%s", up, strings.Join(p.init.Stderr(), "\n"))
			}
		})
	}
}

// placed is an appliance's root in a network between a device and a broker, without an emulator: its kernel is this machine's.
type placed struct {
	device, gateway, broker *lab.Namespace
	root                    string
	init                    *lab.Proc
}

func newPlaced(t *testing.T, place, config string) *placed {
	t.Helper()
	p := &placed{device: lab.NewNamespace(t, "dev"), gateway: lab.NewNamespace(t, "gw"), broker: lab.NewNamespace(t, "brk"), root: t.TempDir()}
	lab.Veth(t, p.device, "lan", p.gateway, "eth0")
	lab.Veth(t, p.broker, "up", p.gateway, "eth1")
	p.broker.AddAddr(t, "up", brokerIP+"/24")
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil { // the appliance's kernel has no br_netfilter either
		p.gateway.Sysctl(t, "net/bridge/bridge-nf-call-iptables", "0")
	}
	p.furnish(t)
	p.write(t, "etc/sealgate/place.conf", 0o644, p.read(t, "etc/sealgate/place.conf")+"LAN=eth0\nUPLINK=eth1\nADDRESS=none\n"+place)
	switch config {
	case "":
	case "stand-in":
		p.write(t, "usr/bin/gatewayd", 0o755, "#!/bin/sh\n")
	default:
		p.write(t, "etc/sealgate/sealgate.toml", 0o644, config)
	}
	return p
}

// furnish makes the root as build.sh does, without kernel modules.
func (p *placed) furnish(t *testing.T) {
	t.Helper()
	busybox := lab.NeedTool(t, "busybox")
	script := `set -e
cp -r "$1/." "$0/"; cd "$0"; mkdir -p bin sbin usr/bin usr/sbin proc sys dev run tmp data/state var/lib
cp "$2" bin/busybox; cp "$3" usr/bin/gatewayd
bin/busybox --list-full | while read -r path; do [ -e "$path" ] || { mkdir -p "$(dirname "$path")"; ln -s /bin/busybox "$path"; }; done
mknod dev/null c 1 3; chmod 666 dev/null`
	root := filepath.Join(lab.Root(t), "firmware-image", "appliance", "root")
	if out, err := exec.Command("/bin/sh", "-c", script, p.root, root, busybox, lab.Build(t).Gatewayd).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (p *placed) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (p *placed) write(t *testing.T, name string, mode os.FileMode, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.root, name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// start runs what init runs first, to its end.
func (p *placed) start(t *testing.T) {
	t.Helper()
	p.init = lab.Start(t, lab.Cmd{NS: p.gateway, Path: "unshare", Args: []string{"--mount", "--pid", "--uts", "--fork", "--kill-child", "/bin/sh", "-c",
		`mount -t proc proc "$0/proc" && mount -t sysfs sys "$0/sys" && ip link set eth0 down && ip link set eth1 down &&
		setpriv --bounding-set=-syslog,-sys_module chroot "$0" /etc/init.d/rc; echo ended >&2; exec sleep 1000`, p.root}})
	if err := p.init.AwaitLine(lab.Within(t, patience), "ended"); err != nil {
		t.Fatalf("init does not come to its end: %v\n%s", err, strings.Join(p.init.Stderr(), "\n"))
	}
}

// publish has the device dial the broker, and tells whether a packet of it arrived.
func (p *placed) publish(t *testing.T, routed bool) bool {
	t.Helper()
	if routed {
		p.device.AddAddr(t, "lan", "192.168.77.3/24")
		p.device.AddRoute(t, brokerIP+"/32", "192.168.77.1")
	} else {
		p.device.AddAddr(t, "lan", deviceIP+"/24")
	}
	wire := lab.NewCapture(t, p.broker, "up")
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // a SYN, and another one after 1 s
	defer cancel()
	if conn, err := p.device.Dial(ctx, "tcp", net.JoinHostPort(brokerIP, "1883")); err == nil {
		conn.Close()
	}
	return len(wire.ToPort(1883, 0)) > 0
}

// anyUp tells whether an interface that leads out of the gateway is up.
func (p *placed) anyUp(t *testing.T) (up bool) {
	t.Helper()
	err := p.gateway.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			up = up || i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 && i.Name != "br0"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return up
}
