package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// newPassingPlant is a plant whose gateway changes connections in passing.
func newPassingPlant(t *testing.T) *lab.Plant {
	t.Helper()
	p := newPlant(t)
	passes(t, p)
	return p
}

// passes makes a plant's gateway one that changes connections in passing.
func passes(t *testing.T, p *lab.Plant) {
	t.Helper()
	p.Conf.Set("steer", "mode", "nfqueue").Set("uplink", "tls", false)
	delete(p.Conf["uplink"], "ca")
	p.WriteConf(t)
}

// loses has a namespace lose a part of the TCP packets of devices' connections that reach it.
func loses(t *testing.T, ns *lab.Namespace, port int, part float64) {
	t.Helper()
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, side := range []string{"--sport", "--dport"} {
			cmd := lab.Cmd{NS: ns, Path: lab.NeedTool(t, tool), Args: []string{"-A", "INPUT", "-p", "tcp", side, fmt.Sprint(port),
				"-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(part), "-j", "DROP"}}
			lab.MustRun(t, lab.Within(t, 10*time.Second), cmd)
		}
	}
}

// Messages of all sizes, up and down, over connections of IPv4 and of IPv6 that stay one from end to end, on links that lose packets. The largest
// message is longer than any window that its sender is given, which the gateway has to acknowledge before it has all of it.
func TestPassing(t *testing.T) {
	for _, part := range []float64{0, 0.01, 0.1} {
		t.Run(fmt.Sprintf("%v of packets lost", part), func(t *testing.T) { passing(t, newPassingPlant(t), part) })
	}
}

// TestPassingNarrow is the same where the path to the broker takes shorter packets than the devices' network, as behind PPPoE or a modem. Neither end has
// to hear of that by ICMP: segments on the narrow side are the gateway's to cut.
func TestPassingNarrow(t *testing.T) {
	p := newPassingPlant(t)
	p.GatewayNS().SetMTU(t, p.Topo.Up, 1300)
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	passing(t, p, 0)
	syns := 0
	for _, f := range wire.ToPort(uint16(p.DevicePort), 0) {
		if tcp := lab.TCPSegment(f); tcp[13] == lab.SYN {
			syns++
			headers := 40
			if f[12] == 0x86 { // IPv6
				headers = 60
			}
			if mss := int(binary.BigEndian.Uint16(tcp[22:])); tcp[20] != 2 || mss != 1300-headers {
				t.Errorf("the broker is told of a maximum segment size of %d bytes, where the path takes packets of 1300", mss)
			}
		}
	}
	if syns < 2 {
		t.Errorf("%d SYN recorded", syns)
	}
}

// TestDamagedInPassing: what arrives with a wrong checksum goes no further, as what goes further has a right one.
func TestDamagedInPassing(t *testing.T) {
	p := newPassingPlant(t)
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	p.Up(t)
	sensor, gateway := p.SensorNS().MAC(t, "eth0"), p.GatewayNS().MAC(t, p.Topo.LAN)
	syn := func(six, spoilt bool, from uint16) []byte {
		ip := lab.IPHeader{Src: lab.SensorIP4, Dst: lab.BrokerIP4, Proto: unix.IPPROTO_TCP}
		layer, proto := lab.IPv4, uint16(unix.ETH_P_IP)
		if six {
			ip.Src, ip.Dst, layer, proto = lab.SensorIP6, lab.BrokerIP6, lab.IPv6, unix.ETH_P_IPV6
		}
		tcp := lab.TCPHeader{Src: ip.Src, Dst: ip.Dst, SrcPort: from, DstPort: uint16(p.DevicePort), Seq: 7, Flags: lab.SYN, Spoilt: spoilt}
		return lab.Frame(lab.Eth(gateway, sensor, proto), layer(ip), lab.TCP(tcp))
	}
	const bad, good = 2001, 2002
	for _, six := range []bool{false, true} {
		first := len(wire.ToPort(uint16(p.DevicePort), 0))
		p.SensorNS().Send(t, "eth0", syn(six, true, bad), syn(six, false, good))
		from := func(port uint16) bool {
			for _, f := range wire.ToPort(uint16(p.DevicePort), 0)[first:] {
				if binary.BigEndian.Uint16(lab.TCPSegment(f)) == port {
					return true
				}
			}
			return false
		}
		for end := time.Now().Add(time.Minute); !from(good); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("IPv6 %v: a SYN that is right does not reach the broker", six)
			}
		}
		if from(bad) {
			t.Errorf("IPv6 %v: a SYN whose checksum was wrong has reached the broker", six)
		}
	}
	if n := p.Metrics(t)[`sealgate_queue_dropped_total{reason="damaged"}`]; n != 2 {
		t.Errorf("%v packets are counted as damaged", n)
	}
}

func passing(t *testing.T, p *lab.Plant, part float64) {
	wire := lab.NewCapture(t, p.UplinkNS(), "eth0")
	p.Up(t)
	sub := subscribe(t, p, "plant/#")
	if part > 0 {
		loses(t, p.SensorNS(), p.DevicePort, part)
		loses(t, p.UplinkNS(), p.DevicePort, part)
	}
	var acked sync.Map
	var group sync.WaitGroup
	for i := range 4 {
		client := pahoClientWith(t, p, fmt.Sprintf("passing%d", i), func(o *mqtt.ClientOptions) {
			if i%2 == 1 {
				o.Servers = nil
				o.AddBroker(fmt.Sprintf("tcp://[%s]:%d", lab.BrokerIP6, p.DevicePort))
			}
		})
		group.Go(func() { publishAll(t, client, i, &acked) })
	}
	group.Wait()
	checkArrived(t, sub, &acked)
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	if wire.Contains([]byte(needle("passing"))) {
		t.Error("a payload crossed the uplink in clear")
	}
	if len(wire.ToPort(uint16(p.DevicePort), 1)) == 0 {
		t.Error("no device has reached the broker at the port that it dialled")
	}
}

// publishAll publishes messages of sizes from nothing to many segments, and gets its own back.
func publishAll(t *testing.T, client mqtt.Client, i int, acked *sync.Map) {
	const patience = 2 * time.Minute
	topic := fmt.Sprintf("plant/passing%d", i)
	back := make(chan string, 64)
	if token := client.Subscribe(topic, 1, func(_ mqtt.Client, m mqtt.Message) { back <- string(m.Payload()) }); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Errorf("subscribe: %v", token.Error())
		return
	}
	for n, size := range []int{0, 1, 100, 1400, 1500, 20_000, 100_000, 250_000, 10} {
		payload := fmt.Sprintf("message %d of device %d %s%s", n, i, needle("passing"), strings.Repeat("x", size))
		token := client.Publish(topic, byte(n%3), false, payload)
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Errorf("message %d: not acknowledged: %v", n, token.Error())
			return
		}
		acked.Store(payload, true)
		select {
		case got := <-back:
			if !bytes.Equal([]byte(got), []byte(payload)) {
				t.Errorf("message %d came back as %d bytes that are not it", n, len(got))
			}
		case <-time.After(patience):
			t.Errorf("message %d of %d bytes did not come back", n, len(payload))
			return
		}
	}
}
