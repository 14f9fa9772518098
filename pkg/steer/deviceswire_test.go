package steer

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"sealgate/test/lab"
)

// A denied MAC gets nothing through, routed or bridged, and keeps the rest of its traffic.
func TestDeniedOnTheWire(t *testing.T) {
	for name, plant := range map[string]func(*testing.T, string) *plant{"routed": newPlant, "bridged": newBridgePlant} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plant(t, AttachClsact)
			p.setup()
			p.options.Devices.DenyMACs = []MAC{MAC(p.mac(p.Sensor, "eth0"))}
			d := p.start()
			p.mustBlock()
			if c := p.counters(d); c.Denied == 0 || c.Assigned != 0 {
				t.Errorf("counters %+v", c)
			}
			p.options.Devices.DenyMACs[0][5] ^= 1 // somebody else's
			p.start()
			p.mustSteer()
			p.mustNotLeak()
		})
	}
}

// 20,000 SYNs from made-up MACs and addresses do not give a device that is over its rate another connection, nor take one from
// another that is not.
func TestFloodOnTheWire(t *testing.T) {
	p := newPlant(t, AttachClsact)
	p.setup()
	p.options.Devices = DeviceRules{Every: time.Hour, Burst: 2}
	d := p.start()
	p.mustGreet(lab.BrokerIP4, steered, lab.BrokerIP4+":1883")
	p.mustGreet(lab.BrokerIP4, steered, lab.BrokerIP4+":1883")
	lan, us := p.mac(p.Gateway, p.LAN), p.mac(p.Sensor, "eth0")
	var frames [][]byte
	for i := range 20_000 {
		src := fmt.Sprintf("10.77.1.%d", 3+i%250)
		f := frame(eth(lan, us, 0x0800), ipv4(src, lab.BrokerIP4, protoTCP, 0), tcp(src, lab.BrokerIP4, 1024+uint16(i), steered, flagSYN))
		binary.BigEndian.PutUint32(f[8:], uint32(i)) // the MAC's last bytes
		frames = append(frames, f)
	}
	p.send(frames...)
	if conn, line, err := p.dial(lab.BrokerIP4, steered, 300*time.Millisecond); err == nil {
		conn.Close()
		t.Errorf("over the rate, and answered %q", line)
	}
	p.mustGreet(lab.BrokerIP6, steered, "["+lab.BrokerIP6+"]:1883") // the sensor's other address
	if c := p.counters(d); c.Limited == 0 {
		t.Errorf("counters %+v", c)
	}
	p.mustNotLeak()
}
