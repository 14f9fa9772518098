package steer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

const steered, other = 1883, 8080

// plant is a sensor, a gateway and a broker's side, with servers on the steered and on another port at the broker: what
// leaks finds an answer.
type plant struct {
	*lab.Topology
	t       *testing.T
	options Options
	wire    *lab.Capture // the broker's side
	marks   int
}

// way is a way to attach in mode tc, "" for any, or another mode.
func newPlant(t *testing.T, way string) *plant {
	t.Helper()
	lab.NeedRoot(t)
	return plantOf(t, lab.NewTopology(t), way)
}

func plantOf(t *testing.T, topo *lab.Topology, way string) *plant {
	t.Helper()
	p := &plant{Topology: topo, t: t}
	p.options = Options{
		Mode: ModeTC, LAN: []string{p.LAN}, Uplink: []string{p.Up}, Ports: []uint16{steered}, Attach: way, ConfigFile: "F",
	}
	if way == ModeTProxy || way == ModeRedirect {
		p.options.Mode, p.options.Attach = way, ""
	}
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		for _, port := range []int{steered, other} {
			p.serve(p.Uplink, fmt.Sprintf("[%s]:%d", addr, port), "broker")
		}
	}
	p.wire = lab.NewCapture(t, p.Uplink, "eth0")
	t.Cleanup(func() { p.in(func() error { return Teardown(p.options) }) })
	return p
}

// serve greets every connection with a name.
func (p *plant) serve(ns *lab.Namespace, addr, name string) net.Listener {
	p.t.Helper()
	addr = strings.NewReplacer("["+lab.BrokerIP4+"]", lab.BrokerIP4, "["+lab.LANIP4+"]", lab.LANIP4).Replace(addr)
	return p.accept(ns, addr, func(conn net.Conn) {
		fmt.Fprintf(conn, "%s\n", name)
		p.t.Cleanup(func() { conn.Close() })
	})
}

// accept hands every connection to f.
func (p *plant) accept(ns *lab.Namespace, addr string, f func(net.Conn)) net.Listener {
	p.t.Helper()
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f(conn)
		}
	}()
	return l
}

// in runs f in the gateway.
func (p *plant) in(f func() error) {
	p.t.Helper()
	if err := p.Gateway.Do(f); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) setup() { p.t.Helper(); p.in(func() error { return Setup(p.options) }) }

func (p *plant) teardown() { p.t.Helper(); p.in(func() error { return Teardown(p.options) }) }

// start starts a daemon in the gateway and waits until it steers.
func (p *plant) start(env ...string) *lab.Proc {
	p.t.Helper()
	d := p.launch(env...)
	if err := p.says(d, "ready "); err != nil {
		p.t.Fatalf("daemon: %v\n%s", err, strings.Join(d.Stderr(), "\n"))
	}
	return d
}

// says waits for a line on a daemon's standard output.
func (p *plant) says(d *lab.Proc, text string) error {
	return d.Await(lab.Within(p.t, 30*time.Second), func(out, _ []string) bool { return lab.HasLine(out, text) })
}

// warns waits for a line on a daemon's standard error.
func (p *plant) warns(d *lab.Proc, text string) {
	p.t.Helper()
	err := d.Await(lab.Within(p.t, 60*time.Second), func(_, errs []string) bool { return lab.HasLine(errs, text) })
	if err != nil {
		p.t.Fatalf("the daemon does not say %q: %q", text, d.Stderr())
	}
}

func (p *plant) launch(env ...string) *lab.Proc {
	p.t.Helper()
	o, err := json.Marshal(p.options)
	if err != nil {
		p.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	return lab.Start(p.t, lab.Cmd{NS: p.Gateway, Path: self, Env: append(env, daemonEnv+"="+string(o)), Stdin: true})
}

// greeting dials from the sensor and returns the first line that the other side says.
func (p *plant) greeting(addr string, port int) (string, error) {
	conn, line, err := p.dial(addr, port, 30*time.Second)
	if err == nil {
		conn.Close()
	}
	return line, err
}

func (p *plant) dial(addr string, port int, patience time.Duration) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := p.Sensor.Dial(ctx, "tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		return nil, "", err
	}
	conn.SetDeadline(time.Now().Add(patience))
	line, err := firstLine(conn)
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	conn.SetDeadline(time.Time{})
	return conn, line, nil
}

func firstLine(conn net.Conn) (string, error) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// mustGreet expects an answer of the broker's own ("broker") or, through the daemon, the dialled address.
func (p *plant) mustGreet(addr string, port int, want string) {
	p.t.Helper()
	got, err := p.greeting(addr, port)
	if err != nil || got != want {
		p.t.Errorf("dial %s port %d: %q, %v; want %q", addr, port, got, err, want)
	}
}

func (p *plant) mustSteer() {
	p.t.Helper()
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		p.mustGreet(addr, steered, net.JoinHostPort(addr, fmt.Sprint(steered)))
		p.mustGreet(addr, other, "broker")
	}
}

// mustBlock expects no answer to a dial of the steered port, while other traffic goes on.
func (p *plant) mustBlock() {
	p.t.Helper()
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		if conn, line, err := p.dial(addr, steered, 300*time.Millisecond); err == nil {
			conn.Close()
			p.t.Errorf("dial %s port %d: answered %q", addr, steered, line)
		}
		p.mustGreet(addr, other, "broker")
	}
}

// settle returns when everything that the sensor sent before has crossed the gateway or has not: it sends a datagram
// along the same way and waits for it.
func (p *plant) settle() {
	p.t.Helper()
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		p.marks++
		mark := fmt.Appendf(nil, "settled %d %d %d;", os.Getpid(), p.marks, time.Now().UnixNano())
		conn, err := p.Sensor.Dial(context.Background(), "udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			p.t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for !p.wire.Contains(mark) {
			if time.Now().After(deadline) {
				p.t.Fatal("a datagram to the broker does not arrive")
			}
			conn.Write(mark)
			time.Sleep(5 * time.Millisecond)
		}
		conn.Close()
	}
}

// leaks returns the frames seen on the broker's side that carry TCP from the sensor: to the steered port, or with the
// port out of sight in a fragment.
func (p *plant) leaks() (list [][]byte) {
	p.t.Helper()
	p.settle()
	for _, f := range p.wire.Find(nil) {
		if port, ok := tcpFromSensor(f); ok && (port == steered || port == 0) {
			list = append(list, f)
		}
	}
	return list
}

func (p *plant) mustNotLeak() {
	p.t.Helper()
	if l := p.leaks(); len(l) != 0 {
		p.t.Errorf("%d frames leaked; the first: %x", len(l), l[0])
	}
}

// tcpFromSensor tells whether a frame holds TCP from the sensor's addresses, and its destination port (0: unknown). It
// shares no code with what is tested.
func tcpFromSensor(f []byte) (port uint16, ok bool) {
	proto, b := binary.BigEndian.Uint16(f[12:]), f[14:]
	for proto == 0x8100 || proto == 0x88a8 {
		proto, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	src4, src6 := netip.MustParseAddr(lab.SensorIP4).AsSlice(), netip.MustParseAddr(lab.SensorIP6).AsSlice()
	switch {
	case proto == 0x0800 && len(b) >= 20 && b[9] == protoTCP && bytes.Equal(b[12:16], src4):
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return 0, true
		}
		b = b[int(b[0]&15)*4:]
	case proto == 0x86dd && len(b) >= 40 && bytes.Equal(b[8:24], src6):
		next := b[6]
		b = b[40:]
		for next == protoDstOpts && len(b) >= 8 {
			next, b = b[0], b[8+int(b[1])*8:]
		}
		if next == protoFragment {
			return 0, b[0] == protoTCP || b[0] == protoDstOpts
		}
		if next != protoTCP {
			return 0, false
		}
	default:
		return 0, false
	}
	if len(b) < 4 {
		return 0, true
	}
	return binary.BigEndian.Uint16(b[2:]), true
}

// send puts frames on the sensor's wire as they are.
func (p *plant) send(frames ...[]byte) { p.t.Helper(); p.Sensor.Send(p.t, "eth0", frames...) }

// mac returns an interface's address.
func (p *plant) mac(ns *lab.Namespace, name string) net.HardwareAddr {
	p.t.Helper()
	return ns.MAC(p.t, name)
}

// classifies tells whether there is a classifier, with counters.
func (p *plant) classifies() bool { return p.options.Mode == ModeTC }

// counters asks a daemon.
func (p *plant) counters(d *lab.Proc) (c Counters) {
	p.t.Helper()
	answers := func(lines []string) (list []string) {
		for _, l := range lines {
			if strings.HasPrefix(l, "counters ") {
				list = append(list, l)
			}
		}
		return list
	}
	before := len(answers(d.Stdout()))
	d.Write([]byte("counters\n"))
	err := d.Await(lab.Within(p.t, 10*time.Second), func(out, _ []string) bool { return len(answers(out)) > before })
	if err != nil {
		p.t.Fatal(err)
	}
	line := strings.TrimPrefix(answers(d.Stdout())[before], "counters ")
	if err := json.NewDecoder(strings.NewReader(line)).Decode(&c); err != nil {
		p.t.Fatal(errors.Join(err, errors.New(line)))
	}
	return c
}
