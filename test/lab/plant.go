package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Conf is the content of a sealgate.toml: section ("" is the top) to key to value. Values are strings, numbers, booleans
// and slices of them.
type Conf map[string]map[string]any

// Set sets one value.
func (c Conf) Set(section, key string, value any) Conf {
	if c[section] == nil {
		c[section] = map[string]any{}
	}
	c[section][key] = value
	return c
}

// String renders the file.
func (c Conf) String() string {
	var s strings.Builder
	for _, section := range sortedKeys(c) {
		if section != "" {
			fmt.Fprintf(&s, "[%s]\n", section)
		}
		for _, key := range sortedKeys(c[section]) {
			value, err := json.Marshal(c[section][key]) // strings, numbers, booleans and lists of them are the same in TOML
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(&s, "%s = %s\n", key, value)
		}
	}
	return s.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Fleet is a fleet directory as sealctl makes it.
type Fleet struct {
	Dir     string
	sealctl string
}

// NewFleet makes a fleet named plant with its policy signed for the members: name to role, e.g. "gw1": "gateway". policy is
// the text of policy.toml; "" leaves what `sealctl fleet init` wrote. Without a gateway or keeper nothing is signed yet.
func NewFleet(t T, sealctl, policy string, members map[string]string) *Fleet {
	t.Helper()
	f := &Fleet{Dir: filepath.Join(t.TempDir(), "fleet"), sealctl: sealctl}
	f.run(t, "fleet", "init", f.Dir, "--name", "plant")
	if policy != "" {
		if err := os.WriteFile(filepath.Join(f.Dir, "policy.toml"), []byte(policy), 0o600); err != nil {
			t.Fatalf("write the policy: %v", err)
		}
	}
	for _, name := range sortedKeys(members) {
		f.run(t, "fleet", "add", f.Dir, "--role", members[name], "--name", name)
	}
	if slices.ContainsFunc(slices.Collect(maps.Values(members)), func(role string) bool { return role == "gateway" || role == "keeper" }) {
		f.run(t, "policy", "sign", f.Dir)
	}
	return f
}

func (f *Fleet) run(t T, args ...string) {
	t.Helper()
	MustRun(t, Within(t, 30*time.Second), Cmd{Path: f.sealctl, Args: args})
}

// Identity is a member's directory, as `-i` and the identity key of sealgate.toml take it.
func (f *Fleet) Identity(name string) string { return filepath.Join(f.Dir, "members", name) }

// Plant is a whole installation in small: a gateway gw1, a subscriber sub1, a broker with TLS, and the configuration that
// holds them together; either routed through a Topology, or on loopback with an ordinary listener.
type Plant struct {
	Topo       *Topology // nil on loopback
	Programs   Programs
	CA         *CA
	BrokerCert Cert
	Broker     *Broker // nil with the embedded broker
	Fleet      *Fleet
	Conf       Conf
	ConfFile   string
	BrokerHost string // the broker's own address
	TLSPort    int    // where the broker speaks TLS
	DevicePort int    // where devices connect: the broker's cleartext port, or on loopback the gateway's listener
	Gatewayd   *Proc
	Controld   *Proc
}

// PlantOptions is what differs between plants.
type PlantOptions struct {
	Policy   string            // policy.toml
	Loopback bool              // no namespaces, mode listen
	Embedded bool              // broker inside the testing process
	NoBroker bool              // the caller starts one, with BrokerOptions
	Members  map[string]string // beside gw1 and sub1: name to role
	Topo     *Topology         // nil: one whose gateway routes
}

// NewPlant makes everything but the daemons: nothing of Sealgate runs or is set up in the kernel when it returns.
func NewPlant(t T, o PlantOptions) *Plant {
	t.Helper()
	p := &Plant{Programs: Build(t), CA: NewCA(t, "broker CA"), BrokerHost: BrokerIP4, TLSPort: 8883, DevicePort: 1883}
	if o.Loopback {
		p.BrokerHost, p.TLSPort, p.DevicePort = "127.0.0.1", FreePort(t), FreePort(t)
	} else if p.Topo = o.Topo; p.Topo == nil {
		p.Topo = NewTopology(t)
	}
	p.BrokerCert = p.CA.Issue(t, "broker", time.Time{}, BrokerIP4, BrokerIP6, "127.0.0.1", "localhost")
	switch {
	case o.NoBroker:
	case o.Embedded:
		conf := serverTLS(p.BrokerCert)
		Embedded(t, p.UplinkNS(), p.BrokerAddr(), conf)
	default:
		p.Broker = Mosquitto(t, p.BrokerOptions())
	}
	members := map[string]string{"gw1": "gateway", "sub1": "subscriber"}
	maps.Copy(members, o.Members)
	p.Fleet = NewFleet(t, p.Programs.Sealctl, o.Policy, members)
	p.Conf = p.conf(t, "gw1")
	p.ConfFile = filepath.Join(t.TempDir(), "sealgate.toml")
	p.WriteConf(t)
	return p
}

// Beside makes the installation of another gateway of the same fleet on the same broker, on loopback; nothing of it runs when it returns.
func (p *Plant) Beside(t T, name string) *Plant {
	t.Helper()
	q := *p
	q.DevicePort, q.Gatewayd, q.Controld = FreePort(t), nil, nil
	q.Conf, q.ConfFile = q.conf(t, name), filepath.Join(t.TempDir(), "sealgate.toml")
	q.WriteConf(t)
	return &q
}

// BrokerOptions is where the plant's broker belongs.
func (p *Plant) BrokerOptions() BrokerOptions {
	return BrokerOptions{NS: p.UplinkNS(), Host: p.BrokerHost, TLS: p.TLSPort, Cert: p.BrokerCert}
}

func (p *Plant) conf(t T, member string) Conf {
	t.Helper()
	dir := t.TempDir()
	c := Conf{}
	c.Set("", "fleet", "plant").Set("", "identity", p.Fleet.Identity(member))
	c.Set("", "state", filepath.Join(dir, "state")).Set("", "keylink", filepath.Join(dir, "keylink.sock"))
	c.Set("uplink", "ca", p.CA.File)
	c.Set("control", "broker", p.URL()).Set("control", "ca", p.CA.File)
	metrics := "127.0.0.1:9883" // in a namespace of its own
	if p.Topo == nil {
		metrics = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		c.Set("steer", "mode", "listen").Set("steer", "listen", p.DeviceAddr())
		c.Set("uplink", "broker", p.BrokerAddr())
	} else {
		c.Set("steer", "mode", "tc").Set("steer", "lan", []string{p.Topo.LAN}).Set("steer", "uplink", []string{p.Topo.Up})
		c.Set("steer", "ports", []int{p.DevicePort})
		if p.Topo.Bridge != "" {
			c.Set("steer", "bridge", p.Topo.Bridge)
		}
	}
	return c.Set("metrics", "listen", metrics)
}

// WriteConf writes the configuration file anew.
func (p *Plant) WriteConf(t T) {
	t.Helper()
	if err := os.WriteFile(p.ConfFile, []byte(p.Conf.String()), 0o600); err != nil {
		t.Fatalf("write the configuration: %v", err)
	}
}

// SensorNS is the namespace of the devices, nil on loopback.
func (p *Plant) SensorNS() *Namespace {
	if p.Topo == nil {
		return nil
	}
	return p.Topo.Sensor
}

// GatewayNS is the namespace of the gateway, nil on loopback.
func (p *Plant) GatewayNS() *Namespace {
	if p.Topo == nil {
		return nil
	}
	return p.Topo.Gateway
}

// UplinkNS is the namespace of the broker, nil on loopback.
func (p *Plant) UplinkNS() *Namespace {
	if p.Topo == nil {
		return nil
	}
	return p.Topo.Uplink
}

// BrokerAddr is where the broker speaks TLS, host:port.
func (p *Plant) BrokerAddr() string { return net.JoinHostPort(p.BrokerHost, strconv.Itoa(p.TLSPort)) }

// URL is the broker's address for members.
func (p *Plant) URL() string { return "mqtts://" + p.BrokerAddr() }

// DeviceAddr is the address that devices dial.
func (p *Plant) DeviceAddr() string {
	return net.JoinHostPort(p.BrokerHost, strconv.Itoa(p.DevicePort))
}

// Setup runs `gatewayd -setup`, and -teardown at the end of the test. On loopback there is nothing to set up.
func (p *Plant) Setup(t T) {
	t.Helper()
	if p.Topo == nil {
		return
	}
	MustRun(t, Within(t, 20*time.Second), p.gatewaydCmd("-setup"))
	t.Cleanup(func() { p.Teardown(t) })
}

// Teardown runs `gatewayd -teardown`.
func (p *Plant) Teardown(t T) {
	t.Helper()
	if p.Topo == nil {
		return
	}
	MustRun(t, Within(t, 20*time.Second), p.gatewaydCmd("-teardown"))
}

func (p *Plant) gatewaydCmd(args ...string) Cmd {
	return Cmd{NS: p.GatewayNS(), Path: p.Programs.Gatewayd, Args: append(args, "-config", p.ConfFile)}
}

// StartGatewayd starts gatewayd.
func (p *Plant) StartGatewayd(t T) {
	t.Helper()
	p.Gatewayd = Start(t, p.gatewaydCmd())
}

// StartControld starts controld.
func (p *Plant) StartControld(t T) {
	t.Helper()
	p.Controld = Start(t, Cmd{NS: p.GatewayNS(), Path: p.Programs.Controld, Args: []string{"-config", p.ConfFile}})
}

// Up sets up, starts both daemons and waits until devices are served.
func (p *Plant) Up(t T) {
	t.Helper()
	p.Setup(t)
	p.StartControld(t)
	p.StartGatewayd(t)
	p.AwaitReady(t)
}

// AwaitReady waits until a device's CONNECT is answered with success.
func (p *Plant) AwaitReady(t T) {
	t.Helper()
	ctx := Within(t, 40*time.Second)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.Probe(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-p.Gatewayd.Done():
			t.Fatalf("gatewayd ended before it served a device:\n%s", tail(p.Gatewayd.Stderr(), 20))
		case <-ctx.Done():
			t.Fatalf("no device was served in time: %v", err)
		}
	}
}

// Probe connects as a device, once, and returns nil when the connection is accepted.
func (p *Plant) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := p.SensorNS().Dial(ctx, "tcp", p.DeviceAddr())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")); err != nil {
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	if ack != [4]byte{0x20, 2, 0, 0} {
		return fmt.Errorf("CONNACK % x", ack)
	}
	conn.Write([]byte{0xe0, 0})
	return nil
}

// SealctlCmd is sealctl as the subscriber sub1 runs it, beside the broker: args after -i and -b and --cafile, e.g.
// SealctlCmd("sub", "-t", "#", "--json").
func (p *Plant) SealctlCmd(command string, args ...string) Cmd {
	full := append([]string{command, "-i", p.Fleet.Identity("sub1"), "-b", p.URL(), "--cafile", p.CA.File}, args...)
	return Cmd{NS: p.UplinkNS(), Path: p.Programs.Sealctl, Args: full}
}

// RotateCmd is `sealctl rotate` on the gateway.
func (p *Plant) RotateCmd(group string) Cmd {
	return Cmd{NS: p.GatewayNS(), Path: p.Programs.Sealctl, Args: []string{"rotate", "--group", group, "--keylink", p.Keylink()}}
}

// Keylink is the path of the socket between the daemons.
func (p *Plant) Keylink() string { return p.Conf[""]["keylink"].(string) }

// Rotate asks for a new epoch of a group.
func (p *Plant) Rotate(t T, group string) {
	t.Helper()
	MustRun(t, Within(t, 30*time.Second), p.RotateCmd(group))
}

// Epoch is the epoch number of a group by gatewayd's own account, 0 while it has no key.
func (p *Plant) Epoch(t T, group string) int {
	t.Helper()
	return int(p.Metrics(t)[fmt.Sprintf("sealgate_epoch_number{group=%q}", group)])
}

// AwaitEpoch waits until gatewayd seals under epoch n of the group, or a later one.
func (p *Plant) AwaitEpoch(t T, group string, n int) {
	t.Helper()
	ctx := Within(t, 40*time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for p.Epoch(t, group) < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("gatewayd never came to epoch %d of group %s, it is at %d", n, group, p.Epoch(t, group))
		}
	}
}

// Metrics reads gatewayd's metrics: full series name with labels to value.
func (p *Plant) Metrics(t T) map[string]float64 {
	t.Helper()
	series := map[string]float64{}
	for line := range strings.Lines(string(p.get(t, "/metrics"))) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseFloat(text, 64); ok && err == nil {
			series[name] = value
		}
	}
	return series
}

// Status reads gatewayd's status into v, as encoding/json does.
func (p *Plant) Status(t T, v any) {
	t.Helper()
	if err := json.Unmarshal(p.get(t, "/status"), v); err != nil {
		t.Fatalf("read the status: %v", err)
	}
}

// get reads a page of gatewayd's.
func (p *Plant) get(t T, path string) []byte {
	t.Helper()
	addr := p.Conf["metrics"]["listen"].(string)
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return p.GatewayNS().Dial(ctx, network, addr)
		},
		DisableKeepAlives: true,
	}}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return body
}
