package netns

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

// TestNothingLeaks takes a gateway through its whole life with devices publishing all the while, and then reads the record of
// the broker's wire: from -setup on it holds no byte sequence of any payload, and not even a packet to the steered port.
//
// Over TLS the record would hide a payload that was passed on unsealed. So the same is done over an uplink without TLS,
// where sealing is all that protects.
func TestNothingLeaks(t *testing.T) {
	for _, c := range []struct {
		mode string
		tls  bool
	}{{"tc", true}, {"tc", false}, {"tproxy", false}, {"redirect", false}} {
		t.Run(fmt.Sprintf("%s tls=%v", c.mode, c.tls), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.Conf.Set("steer", "mode", c.mode).Set("uplink", "tls", c.tls)
			uplinkPort := uint16(p.TLSPort)
			if !c.tls {
				uplinkPort = clearPort
				p.Conf.Set("uplink", "port", clearPort)
				delete(p.Conf["uplink"], "ca")
			}
			p.WriteConf(t)
			capture := nothingLeaks(t, p, uint16(p.DevicePort))
			if n := len(capture.Payloads(uplinkPort)); n < 100 {
				t.Errorf("%d frames with payload to port %d were recorded: the record does not show the gateway's uplink", n, uplinkPort)
			}
		})
	}
}

// TestNothingLeaksInBridge is the same between the ports of a bridge without an address. controld reaches its broker by
// another way, and the broker sees the devices' own addresses.
func TestNothingLeaksInBridge(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	topo := lab.NewBridgeTopology(t, false)
	p := newPlantIn(t, policy, topo)
	lab.Veth(t, topo.Gateway, "control", topo.Uplink, "control")
	topo.Gateway.AddAddr(t, "control", "10.78.0.1/24")
	topo.Uplink.AddAddr(t, "control", "10.78.0.2/24")
	topo.Gateway.AddRoute(t, lab.BrokerIP4+"/32", "10.78.0.2")
	for _, name := range []string{"all", "default", topo.Bridge} {
		topo.Gateway.Sysctl(t, "net/ipv4/conf/"+name+"/rp_filter", "0")
	}
	p.Conf.Set("steer", "spoof_source", true).Set("uplink", "tls", false).Set("uplink", "port", clearPort)
	delete(p.Conf["uplink"], "ca")
	p.WriteConf(t)
	up := nothingLeaks(t, p, uint16(p.DevicePort)).ToPort(clearPort, 0)
	if len(up) < 100 {
		t.Errorf("%d frames to port %d were recorded: the record does not show the gateway's uplink", len(up), clearPort)
	}
	for _, f := range up {
		if src := netip.AddrFrom4([4]byte(f[26:30])); f[12] == 8 && src != netip.MustParseAddr(lab.SensorIP4) {
			t.Fatalf("the broker is dialled from %s; want the device's address", src)
		}
	}
}

// TestNothingLeaksInPassing is the same for a gateway that changes connections in passing. There packets do reach the
// port that devices dial, and what they carry is all that counts.
func TestNothingLeaksInPassing(t *testing.T) {
	t.Parallel()
	p := newPassingPlant(t)
	capture := nothingLeaks(t, p, 0)
	if n := len(capture.Payloads(uint16(p.DevicePort))); n < 100 {
		t.Errorf("%d frames with payload to port %d were recorded: the record does not show devices' connections", n, p.DevicePort)
	}
}

// nothingLeaks takes the gateway through its life; no frame to shut may reach the broker's wire.
func nothingLeaks(t *testing.T, p *lab.Plant, shut uint16) *lab.Capture {
	t.Helper()
	capture := lab.NewCapture(t, p.Topo.Uplink, "eth0")
	port := strconv.Itoa(p.DevicePort)
	d := startDevices(t, p.Topo.Sensor, 8, "control", net.JoinHostPort(lab.BrokerIP4, port), net.JoinHostPort(lab.BrokerIP6, port))

	// Without a gateway everything is in clear. This shows that the record can see, and leaves flows behind that were
	// there before the gateway.
	d.awaitAcked(t, "control", 50)
	p.Setup(t)
	phases := []string{"no-daemon"}
	d.enter("no-daemon")
	d.awaitAttempts(t, "no-daemon", 24)
	guarded, _ := capture.Frames()

	phases = append(phases, lifeOf(t, p, d)...)
	d.end()
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	judge(t, capture, guarded, shut, phases)
	return capture
}

// lifeOf runs a gateway through everything that happens to one, ends with both daemons stopped, and returns the phases.
func lifeOf(t *testing.T, p *lab.Plant, d *devices) (phases []string) {
	enter := func(phase string) string {
		phases = append(phases, phase)
		d.enter(phase)
		return phase
	}
	enter("before-first-key")
	p.StartGatewayd(t)
	d.awaitAttempts(t, "before-first-key", 24)
	p.StartControld(t)
	p.AwaitReady(t)
	d.awaitAcked(t, enter("normal"), 200)
	for range 3 {
		p.Gatewayd.Signal(syscall.SIGHUP)
		p.Controld.Signal(syscall.SIGHUP)
	}
	d.awaitAcked(t, enter("reload"), 100)
	epoch := p.Epoch(t, "default")
	enter("rotation")
	p.Rotate(t, "default")
	p.AwaitEpoch(t, "default", epoch+1)
	d.awaitAcked(t, "rotation", 100)
	for _, n := range []string{"1", "2", "3"} {
		p.Gatewayd.Kill()
		d.awaitAttempts(t, enter("killed-"+n), 16)
		enter("restart-" + n)
		p.StartGatewayd(t)
		d.awaitAcked(t, "restart-"+n, 50)
	}
	enter("stopped")
	if err := p.Gatewayd.Stop(lab.Within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	d.awaitAttempts(t, "stopped", 16)
	enter("again")
	p.StartGatewayd(t)
	d.awaitAcked(t, "again", 50)
	enter("end")
	for _, daemon := range []*lab.Proc{p.Controld, p.Gatewayd} {
		if err := daemon.Stop(lab.Within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
	}
	d.awaitAttempts(t, enter("after-the-end"), 24)
	return phases
}

func judge(t *testing.T, capture *lab.Capture, guarded int, port uint16, phases []string) {
	t.Helper()
	if !capture.Contains([]byte(needle("control"))) {
		t.Error("the record does not show what crossed the wire in clear before the gateway was set up: it proves nothing")
	}
	for _, phase := range phases {
		if found := capture.Find([]byte(needle(phase))); len(found) > 0 {
			t.Errorf("phase %s: %d frames on the broker's wire hold payload in clear, the first of %d bytes", phase, len(found), len(found[0]))
		}
	}
	if leaked := capture.ToPort(port, guarded); len(leaked) > 0 {
		t.Errorf("%d frames to port %d reached the broker's wire after -setup, the first: % x", len(leaked), port, leaked[0])
	}
	frames, bytes := capture.Frames()
	t.Logf("%d frames, %d bytes recorded, %d phases", frames, bytes, len(phases))
}
