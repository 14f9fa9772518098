package bypass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// clearPort is where the broker takes cleartext from the gateway: sealing is all that protects on the broker's wire.
const clearPort = 1884

// policy has all that the devices publish sealed.
const policy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["plant/#"]
`

// site is a gateway of one mode between devices and a broker that takes cleartext on the port which devices dial: what
// leaks finds somebody to talk to.
type site struct {
	*lab.Plant
	t     *testing.T
	mode  mode
	at    place        // where devices are
	wire  *lab.Capture // the broker's side
	state int          // which of its lifetime
	where string       // the name of it
	marks int          // numbers what is to be told apart

	guarded int              // how many frames crossed before the gateway was set up
	kept    map[bool]*stream // connections from the last state that had any, by v6
}

// place is a network of devices.
type place struct {
	ns        *lab.Namespace
	gateway   string // the gateway's interface there
	four, six string // the devices' addresses
}

func newSite(t *testing.T, m mode) *site {
	t.Helper()
	p := lab.NewPlant(t, lab.PlantOptions{Policy: policy, NoBroker: true, Topo: m.topology(t)})
	p.UplinkNS().Sysctl(t, "net/ipv4/tcp_fastopen", strconv.Itoa(acceptsBlind)) // the broker takes data that comes in a SYN
	o := p.BrokerOptions()
	o.Host, o.Plain, o.Extra = "", steered, fmt.Sprintf("listener %d\n", clearPort) // every address, IPv4 and IPv6
	p.Broker = lab.Mosquitto(t, o)
	p.Conf.Set("uplink", "tls", false).Set("uplink", "port", clearPort)
	delete(p.Conf["uplink"], "ca")
	m.configure(p)
	p.WriteConf(t)
	knobs := []string{"all", "default", p.Topo.LAN}
	if m.bridge {
		knobs = append(knobs, p.Topo.Bridge)
	}
	for _, knob := range knobs {
		p.Topo.Gateway.Sysctl(t, "net/ipv4/conf/"+knob+"/rp_filter", "0") // the harder case: any source address may come
	}
	at := place{p.SensorNS(), p.Topo.LAN, lab.SensorIP4, lab.SensorIP6}
	if m.bridge { // the kernel's netfilter would look at what passes the bridge, and mend it
		for _, knob := range []string{"iptables", "ip6tables", "arptables"} {
			p.Topo.Gateway.Sysctl(t, "net/bridge/bridge-nf-call-"+knob, "0")
		}
	}
	return &site{Plant: p, t: t, mode: m, at: at, wire: lab.NewCapture(t, p.UplinkNS(), "eth0")}
}

// aims are for one shape in one family: where its frames go, from a port of the row's own.
func (s *site) aim(v6 bool, row int) aim {
	s.t.Helper()
	a := aim{
		dst: s.nextHop(), src: s.at.ns.MAC(s.t, "eth0"),
		v6: v6, from: s.at.four, to: lab.BrokerIP4, port: uint16(20000 + row), seq: 1000, id: uint16(row),
	}
	if v6 {
		a.from, a.to = s.at.six, lab.BrokerIP6
	}
	return a
}

// nextHop is whom a device's frames for the broker go to.
func (s *site) nextHop() net.HardwareAddr {
	s.t.Helper()
	if s.mode.bridge {
		return s.UplinkNS().MAC(s.t, "eth0")
	}
	return s.GatewayNS().MAC(s.t, s.at.gateway)
}

// payload is a PUBLISH whose content tells the state and the row that it was sent in.
func (s *site) payload(row int) []byte {
	marker := lab.Marker(fmt.Sprintf("|%02d.%03d|", s.state, row), 96)
	const topic = "plant/matrix"
	return append([]byte{0x30, byte(2 + len(topic) + len(marker)), 0, byte(len(topic))}, topic+string(marker)...)
}

var marked = regexp.MustCompile(`\|(\d\d)\.(\d\d\d)\|`)

// volley sends what belongs to no connection, and has devices' kernels send over connections from before.
func (s *site) volley() {
	s.t.Helper()
	four, six := s.aim(false, 0), s.aim(true, 0)
	var frames [][]byte
	for i, r := range rows() {
		a := four
		if r.v6 {
			a = six
		}
		switch {
		case !r.stream:
			a.port, a.id = uint16(20000+i), uint16(i)
			frames = append(frames, r.frames(a, s.payload(i))...)
		case r.frames == nil && s.kept[r.v6] != nil:
			s.kept[r.v6].conn.SetWriteDeadline(time.Now().Add(time.Second))
			s.kept[r.v6].conn.Write(s.payload(i)) // an error is an answer too
		}
	}
	s.at.ns.Send(s.t, "eth0", frames...)
}

// inject sends what claims to belong to a connection.
func (s *site) inject(on map[bool]*stream) {
	s.t.Helper()
	var frames [][]byte
	for i, r := range rows() {
		if c := on[r.v6]; c != nil && r.stream && r.frames != nil {
			a := s.aim(r.v6, i)
			a.port, a.seq, a.ack = c.port, c.seq, c.ack
			frames = append(frames, r.frames(a, s.payload(i))...)
		}
	}
	s.at.ns.Send(s.t, "eth0", frames...)
}

// settle returns when everything that the sensor sent before has crossed the gateway or has not: it sends a datagram
// along the same way and waits for it. So it shows too that other traffic passes.
func (s *site) settle() {
	s.t.Helper()
	for _, addr := range []string{lab.BrokerIP4, lab.BrokerIP6} {
		s.marks++
		mark := fmt.Appendf(nil, "settled %d %d;", s.marks, time.Now().UnixNano())
		conn, err := s.at.ns.Dial(context.Background(), "udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			s.t.Fatal(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for !s.wire.Contains(mark) {
			if time.Now().After(deadline) {
				s.t.Fatalf("state %s: a datagram to the broker does not arrive", s.where)
			}
			conn.Write(mark)
			time.Sleep(5 * time.Millisecond)
		}
		conn.Close()
	}
}

// awaitServed waits until a device is served; meanwhile is done again and again.
func (s *site) awaitServed(meanwhile func()) {
	s.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		meanwhile()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := s.Probe(ctx)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-s.Gatewayd.Done():
			s.t.Fatalf("state %s: gatewayd ended", s.where)
		case <-time.After(30 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("state %s: no device is served: %v", s.where, err)
		}
	}
}

// stream is a device's connection after CONNACK, and where it stands.
type stream struct {
	conn     *net.TCPConn
	port     uint16
	seq, ack uint32
}

// open connects a device in both families, to whom there is: the gateway, or without defences the broker.
func (s *site) open() map[bool]*stream {
	s.t.Helper()
	both := map[bool]*stream{}
	for v6, addr := range map[bool]string{false: lab.BrokerIP4, true: lab.BrokerIP6} {
		c, err := s.connect(net.JoinHostPort(addr, strconv.Itoa(steered)))
		if err != nil {
			s.t.Fatalf("state %s: connect a device to %s: %v", s.where, addr, err)
		}
		s.t.Cleanup(c.abort)
		both[v6] = c
	}
	return both
}

func (s *site) connect(addr string) (*stream, error) {
	conn, err := s.at.ns.Dial(lab.Within(s.t, 20*time.Second), "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &stream{conn: conn.(*net.TCPConn), port: uint16(conn.LocalAddr().(*net.TCPAddr).Port)}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(s.connectPacket()); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		return nil, fmt.Errorf("read CONNACK: %w", err)
	}
	return c, c.locate()
}

// connectPacket is a CONNECT with a client identifier of its own.
func (s *site) connectPacket() []byte {
	s.marks++
	id := fmt.Sprintf("matrix%d", s.marks)
	return append([]byte{0x10, byte(12 + len(id))}, "\x00\x04MQTT\x04\x02\x00\x00\x00"+string(rune(len(id)))+id...)
}

// locate asks the kernel for the sequence numbers that come next, as the checkpointing of processes does.
func (c *stream) locate() error {
	const toReceive, toSend, withoutProbe = 1, 2, -1 // TCP_RECV_QUEUE, TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) {
		number := func(queue int) (n uint32) {
			v, e := 0, unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, queue)
			if e == nil {
				v, e = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
			}
			err = errors.Join(err, e)
			return uint32(v)
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1)
		c.seq, c.ack = number(toSend), number(toReceive)
		err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, withoutProbe))
	})
	return errors.Join(outer, err)
}

func (c *stream) abort() {
	c.conn.SetLinger(0)
	c.conn.Close()
}
