package steer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// crafted returns frames that try to get past: each holds TCP from the sensor to the steered port at the broker, or a
// part of it, in a shape that a careless filter does not recognise.
func (p *plant) crafted() [][]byte {
	dst, src := p.mac(p.Gateway, p.LAN), p.mac(p.Sensor, "eth0")
	l4 := tcp(lab.SensorIP4, lab.BrokerIP4, 40001, steered, flagSYN)
	l6 := tcp(lab.SensorIP6, lab.BrokerIP6, 40001, steered, flagSYN)
	odd4 := tcp(lab.SensorIP4, lab.BrokerIP4, 40001, steered, flagSYN|flagFIN)
	data4 := tcp(lab.SensorIP4, lab.BrokerIP4, 40001, steered, flagACK)
	secret := raw(lab.Marker("secret;", 200))
	v4 := func(fragment uint16, options ...byte) layer {
		return ipv4(lab.SensorIP4, lab.BrokerIP4, protoTCP, fragment, options...)
	}
	v6 := func(next byte) layer { return ipv6(lab.SensorIP6, lab.BrokerIP6, next) }
	whole4 := frame(l4, secret)
	whole6 := frame(l6, secret)
	return [][]byte{
		frame(eth(dst, src, 0x0800), v4(0), l4, secret),
		frame(eth(dst, src, 0x0800), v4(0), odd4, secret),
		frame(eth(dst, src, 0x0800), v4(0), data4, secret),
		frame(eth(dst, src, 0x0800), v4(0, 1, 1, 1, 1), l4, secret),
		// fragments, the first with and without the ports' neighbours
		frame(eth(dst, src, 0x0800), v4(0x2000), raw(whole4[:24])),
		frame(eth(dst, src, 0x0800), v4(0x0003), raw(whole4[24:])),
		frame(eth(dst, src, 0x0800), ipv4(lab.SensorIP4, lab.BrokerIP4, protoTCP, 0x2000), raw(whole4[:8])),
		frame(eth(dst, src, 0x0800), ipv4(lab.SensorIP4, lab.BrokerIP4, protoTCP, 0x0001), raw(whole4[8:])),
		frame(eth(dst, src, 0x0800), v4(0), cut(12), l4),
		frame(eth(dst, src, 0x86dd), v6(protoTCP), l6, secret),
		frame(eth(dst, src, 0x86dd), v6(protoDstOpts), extensions(1, protoTCP), l6, secret),
		frame(eth(dst, src, 0x86dd), v6(protoDstOpts), extensions(maxExtensions, protoTCP), l6, secret),
		frame(eth(dst, src, 0x86dd), v6(protoDstOpts), extensions(maxExtensions+1, protoTCP), l6, secret),
		frame(eth(dst, src, 0x86dd), v6(protoFragment), fragmentHeader(protoTCP, 0, true), raw(whole6[:24])),
		frame(eth(dst, src, 0x86dd), v6(protoFragment), fragmentHeader(protoTCP, 24, false), raw(whole6[24:])),
		frame(eth(dst, src, 0x86dd), v6(protoFragment), fragmentHeader(protoTCP, 0, false), raw(whole6)),
		frame(eth(dst, src, 0x86dd), v6(protoTCP), cut(12), l6),
		frame(eth(dst, src, 0x8100), vlan(0, 0x0800), v4(0), l4, secret),
		frame(eth(dst, src, 0x8100), vlan(7, 0x0800), v4(0), l4, secret),
		frame(eth(dst, src, 0x88a8), vlan(7, 0x8100), vlan(0, 0x0800), v4(0), l4, secret),
	}
}

// TestCraftedFramesCross is the control of the tests below: without a gateway's defences the frames do arrive.
func TestCraftedFramesCross(t *testing.T) {
	p := newPlant(t, "")
	p.mustGreet(lab.BrokerIP4, other, "broker") // neighbours are known from here on
	p.mustGreet(lab.BrokerIP6, other, "broker")
	frames := p.crafted()
	before := 0
	for i, f := range frames[:len(frames)-2] { // the last two: VLANs that the gateway has not
		p.send(f)
		n := len(p.leaks())
		if n == before {
			t.Errorf("frame %d does not cross: %x", i, f)
		}
		before = n
	}
}

func TestCraftedFrames(t *testing.T) {
	eachWay(t, func(t *testing.T, p *plant) {
		p.setup()
		d := p.start()
		p.mustSteer()
		p.send(p.crafted()...)
		p.mustNotLeak()
		c := p.counters(d)
		if !p.classifies() {
			c = Counters{Assigned: 1, Fragment: 1, Truncated: 1, Extension: 1, VLAN: 1}
		}
		for name, n := range map[string]uint64{
			"Assigned": c.Assigned, "Fragment": c.Fragment, "Truncated": c.Truncated, "Extension": c.Extension, "VLAN": c.VLAN,
		} {
			if n == 0 {
				t.Errorf("%s: no packet counted: %+v", name, c)
			}
		}
		if c.Failed+c.NoListener != 0 {
			t.Errorf("counters %+v", c)
		}
		p.mustSteer() // after all that
		d.Kill()
		<-d.Done()
		p.send(p.crafted()...)
		p.mustNotLeak()
	})
}

// A device that reconnects from the same port while the gateway still has the old connection in TIME_WAIT.
func TestTimeWait(t *testing.T) {
	for _, host := range []bool{false, true} {
		for _, addr := range []string{lab.BrokerIP4, lab.LANIP4} {
			if host && addr == lab.LANIP4 {
				continue // is reset once, see docs/STEERING.md
			}
			t.Run(fmt.Sprintf("host server %t, to %s", host, addr), func(t *testing.T) {
				eachWay(t, func(t *testing.T, p *plant) { testTimeWait(t, p, host, addr) })
			})
		}
	}
}

func testTimeWait(t *testing.T, p *plant, host bool, addr string) {
	if host {
		p.serve(p.Gateway, fmt.Sprintf("[::]:%d", steered), "host")
	}
	p.setup()
	p.options.FixedBroker = true
	p.start(closeEnv + "=1")
	for i := range 2 {
		if err := p.dialFrom(40002, addr, 30*time.Second); err != nil {
			t.Errorf("connection %d from the same port: %v", i+1, err)
		}
	}
	p.mustNotLeak()
}

// dialFrom connects from a port, reads until the other side closes, and closes.
func (p *plant) dialFrom(port int, addr string, patience time.Duration) error {
	var conn net.Conn
	dial := func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: patience}
		conn, err = d.Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(steered)))
		return err
	}
	err := p.Sensor.Do(dial)
	for deadline := time.Now().Add(patience); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline); { // the last connection from there waits for the answer to its end
		time.Sleep(time.Millisecond)
		err = p.Sensor.Do(dial)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = io.ReadAll(conn)
	return err
}
