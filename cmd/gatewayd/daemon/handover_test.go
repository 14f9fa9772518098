package daemon_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	gatewayd "sealgate/cmd/gatewayd/daemon"
)

// TestHandover has one gatewayd after the other go on with the sockets of the one before, both in this process, and whoever asks
// wrongly go away with a reason.
func TestHandover(t *testing.T) {
	p := newPlant(t)
	p.write(t, strings.Replace(p.text(), "[limits]\n", "[limits]\ndrain = \"1ms\"\n", 1))
	p.startControld(t)
	p.startGatewayd(t)
	p.awaitReady(t)
	metrics := value(t, p.gatewayd.log.await(t, "metrics server listens"), "addr")

	p.asks(t, "not JSON", "")
	p.asks(t, `{"version":2,"say":"sockets?"}`, "speaks version 2")
	p.asks(t, `{"version":1,"say":"go"}`, `said \"go\"`)
	p.asks(t, `{"version":1,"say":"sockets?","mode":"tc"}`, `steer.mode is \"listen\" here and \"tc\" there`)
	for _, c := range []struct {
		args []string
		says string
	}{{nil, "runs already"}, {[]string{"-takeover", "-setup"}, "exclude"}} {
		second := start(t, gatewayd.Main, append(c.args, "-config", p.conf)...)
		second.log.await(t, c.says)
		second.once.Do(func() {
			if code := await(t, second.code, "its end"); code == 0 {
				t.Errorf("%q ended with 0", c.args)
			}
		})
	}

	for range 2 {
		device, err := net.Dial("tcp", p.device(t))
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		_ = device.SetDeadline(time.Now().Add(patience))
		_, _ = device.Write([]byte("\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"))
		if _, err := device.Read(make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		old := p.gatewayd
		p.gatewayd = start(t, gatewayd.Main, "-takeover", "-config", p.conf)
		if addr := value(t, p.gatewayd.log.await(t, "gatewayd runs"), "listen"); addr != p.device(t) {
			t.Errorf("it listens at %s, not at %s", addr, p.device(t))
		}
		if addr := value(t, p.gatewayd.log.await(t, "metrics server listens"), "addr"); addr != metrics {
			t.Errorf("metrics at %s, not at %s", addr, metrics)
		}
		old.once.Do(func() {
			if code := await(t, old.code, "the end of the one before"); code != 0 {
				t.Errorf("it ended with %d:\n%s", code, old.log)
			}
		})
		if n, err := device.Read(make([]byte, 4)); err == nil {
			t.Errorf("the device's connection goes on: %d bytes", n)
		}
		if code := connack(t, p.device(t)); code != 0 {
			t.Errorf("CONNACK %d", code)
		}
	}
}

// A device that is denied while its connection lasts at the gatewayd before: that one ends it when it is told, too.
func TestHandoverDenied(t *testing.T) {
	p := newPlant(t)
	p.write(t, strings.Replace(p.text(), "[limits]\n", "[limits]\ndrain = \"1h\"\n", 1))
	p.startControld(t)
	p.startGatewayd(t)
	p.awaitReady(t)
	device, err := net.Dial("tcp", p.device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	_ = device.SetDeadline(time.Now().Add(patience))
	_, _ = device.Write([]byte("\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me"))
	if _, err := device.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	old := p.gatewayd
	p.gatewayd = start(t, gatewayd.Main, "-takeover", "-config", p.conf)
	p.gatewayd.log.await(t, "gatewayd runs")
	p.write(t, p.text()+"[devices]\ndeny = [\"127.0.0.0/8\"]\n")
	old.hangup()
	old.log.await(t, "devices.deny ended open connections")
	if n, err := device.Read(make([]byte, 4)); err == nil {
		t.Errorf("the device's connection goes on: %d bytes", n)
	}
	old.once.Do(func() {
		if code := await(t, old.code, "the end of the one before"); code != 0 {
			t.Errorf("it ended with %d:\n%s", code, old.log)
		}
	})
}

// asks says something to the gatewayd that runs, and reads why not; nothing: the end of the connection.
func (p *plant) asks(t *testing.T, word, why string) {
	t.Helper()
	name := fmt.Sprintf("@sealgate-gatewayd-%x", sha256.Sum256([]byte(p.keylink)))
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: name, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	if got := string(b[:n]); why == "" && n > 0 || !strings.Contains(got, why) {
		t.Errorf("to %s it says %q, not %q", word, got, why)
	}
}
