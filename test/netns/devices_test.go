package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

// The second device's side of its own cable.
const (
	pumpIP    = "10.77.3.2"
	pumpsGate = "10.77.3.1"
)

// secondDevice puts another device on another interface of the gateway's.
func secondDevice(t *testing.T, p *lab.Plant) *lab.Namespace {
	t.Helper()
	pump := lab.NewNamespace(t, "pump")
	lan := strings.Replace(p.Topo.LAN, "lan", "pump", 1)
	lab.Veth(t, p.Topo.Gateway, lan, pump, "eth0")
	p.Topo.Gateway.AddAddr(t, lan, pumpsGate+"/24")
	pump.AddAddr(t, "eth0", pumpIP+"/24")
	pump.AddRoute(t, "default", pumpsGate)
	p.Conf.Set("steer", "lan", []string{p.Topo.LAN, lan})
	p.WriteConf(t)
	return pump
}

// macOf is the address of a device's interface.
func macOf(t *testing.T, ns *lab.Namespace) (mac string) {
	t.Helper()
	err := ns.Do(func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = i.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// knock connects once as a device and returns its connection if it is served.
func knock(ns *lab.Namespace, addr string, patience time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := ns.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	var ack [4]byte
	_, err = io.WriteString(conn, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
	if err == nil {
		_, err = io.ReadFull(conn, ack[:])
	}
	if err == nil && ack != [4]byte{0x20, 2, 0, 0} {
		err = fmt.Errorf("CONNACK % x", ack)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// publishOn sends messages of a phase and waits for each to be acknowledged.
func publishOn(t *testing.T, conn net.Conn, phase string) {
	t.Helper()
	for id := uint16(1); id <= 10; id++ {
		if _, err := conn.Write(publishPacket("plant/pump", lab.Marker(needle(phase), 2000), id)); err != nil {
			t.Fatal(err)
		}
		if err := readPubAckIn(conn, id, 30*time.Second); err != nil {
			t.Fatalf("message %d of phase %s: %v", id, phase, err)
		}
	}
}

// reload gives gatewayd another [devices] section, the n-th.
func reload(t *testing.T, p *lab.Plant, n int, section map[string]any) {
	t.Helper()
	p.Conf["devices"] = section
	p.WriteConf(t)
	p.Gatewayd.Signal(syscall.SIGHUP)
	const done = "reload: the uplink's settings"
	if err := p.Gatewayd.Await(lab.Within(t, 30*time.Second), func(_, log []string) bool { return strings.Count(strings.Join(log, "\n"), done) == n }); err != nil {
		t.Fatalf("reload %d: %v\n%s", n, err, strings.Join(p.Gatewayd.Stderr(), "\n"))
	}
}

// TestDevices has one device denied and another limited by reloads, in each mode; what is seen of them shows, and nothing
// of theirs crosses.
func TestDevices(t *testing.T) {
	for _, c := range []struct {
		mode, user string
	}{{"tc", ""}, {"tc", "nobody"}, {"nfqueue", ""}, {"tproxy", ""}, {"redirect", ""}} {
		t.Run(c.mode+" "+c.user, func(t *testing.T) {
			t.Parallel()
			denyAndLimit(t, c.mode, c.user)
		})
	}
}

func denyAndLimit(t *testing.T, mode, user string) {
	p := newPlant(t)
	if mode == "nfqueue" {
		passes(t, p)
	}
	p.Conf.Set("steer", "mode", mode)
	pump := secondDevice(t, p)
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	if user == "" {
		p.Up(t)
	} else {
		p.Conf.Set("", "user", user)
		p.WriteConf(t)
		p.Setup(t)
		giveAway(t, parent(t), nobody)
		startControldAs(t, p, nobody)
		p.StartGatewayd(t)
		p.AwaitReady(t)
	}
	sensors := startDevices(t, p.Topo.Sensor, 2, "welcome", p.DeviceAddr())
	sensors.awaitAcked(t, "welcome", 10)
	pumping, err := knock(pump, p.DeviceAddr(), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer pumping.Close()
	publishOn(t, pumping, "welcome")

	denied := lab.SensorIP4
	if mode == "tc" {
		denied = macOf(t, p.Topo.Sensor)
	}
	sensors.enter("denied")
	reload(t, p, 1, map[string]any{"deny": []string{denied}, "rate": "1/h", "burst": 2, "metrics": true})
	if err := p.Gatewayd.AwaitLine(lab.Within(t, 20*time.Second), "devices.deny ended open connections"); err != nil {
		t.Error(err)
	}
	if conn, err := knock(p.Topo.Sensor, p.DeviceAddr(), time.Second); err == nil {
		conn.Close()
		t.Error("a denied device is served")
	}
	for i := range 4 {
		patience := 20 * time.Second
		if i >= 2 {
			patience = time.Second
		}
		conn, err := knock(pump, p.DeviceAddr(), patience)
		if err == nil {
			defer conn.Close()
		}
		if (err == nil) != (i < 2) {
			t.Errorf("connection %d of a device that may make 2: %v", i+1, err)
		}
	}
	publishOn(t, pumping, "limited") // on the connection that was there before
	checkShown(t, p, mode, denied, macOf(t, pump))

	reload(t, p, 2, map[string]any{})
	sensors.enter("welcome-again")
	sensors.awaitAcked(t, "welcome-again", 10)
	if conn, err := knock(pump, p.DeviceAddr(), 10*time.Second); err != nil {
		t.Errorf("without a limit: %v", err)
	} else {
		conn.Close()
	}
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"welcome", "denied", "limited", "welcome-again"} {
		if wire.Contains([]byte(needle(phase))) {
			t.Errorf("a payload of phase %s crossed in clear", phase)
		}
	}
}

// checkShown reads status and metrics as an operator does.
func checkShown(t *testing.T, p *lab.Plant, mode, denied, pumpMAC string) {
	t.Helper()
	args := []string{"status", "--addr", p.Conf["metrics"]["listen"].(string), "--keylink", p.Keylink()}
	cmd := lab.Cmd{NS: p.GatewayNS(), Path: p.Programs.Sealctl, Args: args}
	text := lab.MustRun(t, lab.Within(t, 20*time.Second), cmd)
	t.Logf("%s", text)
	cmd.Args = append(args, "--json")
	var status struct {
		Gatewayd struct {
			Devices struct {
				Devices []struct {
					MAC, Address                         string
					Open                                 int
					Connections, Packets, Bytes, Limited uint64
				}
				DenyList []struct {
					Source               string
					Packets, Connections uint64
				} `json:"deny_list"`
			}
		}
	}
	if err := json.Unmarshal([]byte(lab.MustRun(t, lab.Within(t, 20*time.Second), cmd)), &status); err != nil {
		t.Fatal(err)
	}
	classified, d := mode == "tc", status.Gatewayd.Devices
	if len(d.DenyList) != 1 || d.DenyList[0].Source != denied || classified != (d.DenyList[0].Packets > 0) || classified == (d.DenyList[0].Connections > 0) {
		t.Errorf("the deny list: %+v", d.DenyList)
	}
	found := false
	for _, v := range d.Devices {
		if v.Address != pumpIP {
			continue
		}
		found = true
		if v.Open < 3 || v.Connections < 3 || v.Limited < 2 || classified != (v.MAC == pumpMAC) || classified != (v.Packets > 10 && v.Bytes > 1000) {
			t.Errorf("the limited device: %+v", v)
		}
	}
	if !found || len(d.Devices) != 2 {
		t.Errorf("devices: %+v", d.Devices)
	}
	for _, word := range []string{denied, pumpIP, "LIMITED", "DENIED"} {
		if !strings.Contains(text, word) {
			t.Errorf("sealctl status does not show %s:\n%s", word, text)
		}
	}
	if !classified {
		pumpMAC = ""
	}
	m := p.Metrics(t)
	if m[fmt.Sprintf("sealgate_device_limited_total{address=%q,mac=%q}", pumpIP, pumpMAC)] < 2 || m["sealgate_devices"] != 2 {
		t.Errorf("metrics: %v", m)
	}
	sum := m[`sealgate_device_connections_total{result="denied"}`]
	if classified {
		sum = m[`sealgate_device_dropped_packets_total{reason="denied"}`]
	}
	if sum == 0 {
		t.Errorf("nothing denied in the metrics: %v", m)
	}
}

// parent is the directory of all of a test's directories.
func parent(t *testing.T) string {
	t.Helper()
	dir, _, _ := strings.Cut(strings.TrimPrefix(t.TempDir(), os.TempDir()+"/"), "/")
	return os.TempDir() + "/" + dir
}
