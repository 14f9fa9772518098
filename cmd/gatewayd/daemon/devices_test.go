package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// devicesPage is what /status says of devices.
type devicesPage struct {
	Devices struct {
		Known           int
		Counted         bool `json:"packets_counted"`
		Denied, Limited struct{ Packets, Connections uint64 }
		Devices         []struct {
			Address              string
			Clients              []string
			Open                 int
			Connections, Limited uint64
			Seen                 float64 `json:"last_seen_seconds"`
		}
		DenyList []struct {
			Source      string
			Connections uint64
			Seen        float64 `json:"last_seen_seconds"`
		} `json:"deny_list"`
	}
}

// A device is seen, limited and denied by reloads, and its open connection ends; all of it shows.
func TestDevices(t *testing.T) {
	p := newPlant(t)
	p.startGatewayd(t)
	p.startControld(t)
	p.awaitReady(t)
	base := "http://" + value(t, p.gatewayd.log.await(t, "metrics server listens"), "addr")
	status := func() (s devicesPage) {
		t.Helper()
		if err := json.Unmarshal([]byte(get(t, base+"/status")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	reload := func(devices string) {
		t.Helper()
		p.write(t, p.text()+"[devices]\n"+devices)
		p.gatewayd.hangup()
		p.gatewayd.log.await(t, "hold for new connections")
	}
	device := mqttClient(t, "tcp://"+p.device(t), "pump", nil)
	s := status().Devices
	if s.Known != 1 || len(s.Devices) != 1 || s.Counted {
		t.Fatalf("%+v", s)
	}
	if d := s.Devices[0]; d.Address != "127.0.0.1" || d.Open < 1 || !slices.Contains(d.Clients, "pump") || d.Seen > 60 {
		t.Errorf("%+v", d)
	}

	reload("rate = \"1/h\"\nburst = 2\nmetrics = true\n")
	for i, want := range []int{0, 0, -1, -1} {
		if code := answer(p.device(t)); code != want {
			t.Errorf("connection %d under the limit: return code %d; want %d", i, code, want)
		}
	}
	done(t, device.Publish("plant/x", 1, false, "y"), "publish on the connection that was there before")
	text := awaitMetrics(t, base+"/metrics", "sealgate_devices 1\n", `sealgate_device_connections_total{result="limited"} 2`,
		`sealgate_device_limited_total{address="127.0.0.1",mac=""} 2`, `sealgate_device_accepted_total{address="127.0.0.1",mac=""}`)
	if missing := undocumented(operations(t), text); len(missing) > 0 {
		t.Errorf("docs/OPERATIONS.md does not mention %q", missing)
	}

	reload("")
	device.Disconnect(0) // its client would connect again
	raw, code := knock(p.device(t))
	if code != 0 {
		t.Fatalf("return code %d", code)
	}
	defer raw.Close()
	p.write(t, p.text()+"[devices]\ndeny = [\"127.0.0.0/8\"]\n")
	p.gatewayd.hangup()
	p.gatewayd.log.await(t, "devices.deny ended open connections")
	_ = raw.SetReadDeadline(time.Now().Add(patience))
	if _, err := raw.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the denied device's connection: %v", err)
	}
	if code := answer(p.device(t)); code != -1 {
		t.Errorf("a denied device got return code %d", code)
	}
	s = status().Devices
	if len(s.DenyList) != 1 || s.DenyList[0].Source != "127.0.0.0/8" || s.DenyList[0].Connections != 1 || s.Denied.Connections != 1 || s.Limited.Connections != 2 {
		t.Errorf("%+v", s)
	}
	if text := get(t, base+"/metrics"); strings.Contains(text, "address=") {
		t.Errorf("series of single devices that nobody has asked for:\n%s", text)
	}

	// A list that does not hold together changes nothing.
	p.write(t, p.text()+"[devices]\ndeny = [\"02:00:00:00:00:01\"]\n")
	p.gatewayd.hangup()
	p.gatewayd.log.await(t, "reload refused, going on as before", "does not see MAC addresses")
	if code := answer(p.device(t)); code != -1 {
		t.Errorf("after a refused reload a denied device got return code %d", code)
	}
	reload("")
	if code := answer(p.device(t)); code != 0 {
		t.Errorf("allowed again: return code %d", code)
	}
}

// answer connects, and returns the return code; -1 for a connection that was reset, which dialling may notice already.
func answer(addr string) int {
	c, code := knock(addr)
	if c != nil {
		c.Close()
	}
	return code
}

// knock connects a client of which nothing more is heard.
func knock(addr string) (net.Conn, int) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, -1
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me")
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return c, -1
	}
	return c, int(ack[3])
}
