package steer

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sealgate/test/lab"
)

// BenchmarkBridge sends what is not steered through a plain bridge and through one that gatewayd stands in, by turns,
// and prints the ratio of the two. An operation is 16 MiB of one TCP connection each: in packets as the kernel joins
// them, and one by one; and from the broker's side, where each is looked up when devices' addresses are used.
func BenchmarkBridge(b *testing.B) {
	for _, c := range []struct {
		name        string
		segments    int
		down, spoof bool
	}{{"joined", 0, false, false}, {"single", 1, false, false}, {"down, spoofing", 1, true, true}} {
		b.Run(c.name, func(b *testing.B) {
			plain, between := newBridgeLine(b, c.segments, c.down), newBridgeLine(b, c.segments, c.down)
			between.stand(b, c.spoof)
			const size = 16 << 20
			var without, with time.Duration
			block := make([]byte, 1<<16)
			for b.Loop() {
				without += plain.transfer(b, block, size)
				with += between.transfer(b, block, size)
			}
			n := float64(b.N) * size / 1e6
			b.ReportMetric(n/without.Seconds(), "plain-MB/s")
			b.ReportMetric(n/with.Seconds(), "steered-MB/s")
			b.ReportMetric(without.Seconds()/with.Seconds(), "ratio")
		})
	}
}

// bridgeLine is a connection through a bridge.
type bridgeLine struct {
	*lab.Topology
	conn net.Conn
	done chan error // the receiver has read size bytes
	want chan int64
}

func newBridgeLine(b *testing.B, segments int, down bool) *bridgeLine {
	b.Helper()
	lab.NeedRoot(b)
	l := &bridgeLine{Topology: lab.NewBridgeTopology(b, true), done: make(chan error), want: make(chan int64)}
	from, to, addr := l.Sensor, l.Uplink, lab.BrokerIP4
	if down {
		from, to, addr = l.Uplink, l.Sensor, lab.SensorIP4
	}
	if segments != 0 {
		err := from.Do(func() error {
			eth, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetGSOMaxSegs(eth, segments)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	server, err := to.Listen("tcp", fmt.Sprintf("%s:%d", addr, other))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := server.Accept(); err == nil {
			accepted <- conn
		}
	}()
	l.conn, err = from.Dial(lab.Within(b, time.Minute), "tcp", server.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	receiver := <-accepted
	b.Cleanup(func() { l.conn.Close(); receiver.Close(); close(l.want) })
	go func() {
		for n := range l.want {
			_, err := io.CopyN(io.Discard, onlyReader{receiver}, n)
			l.done <- err
		}
	}()
	return l
}

// onlyReader keeps io.Copy from anything but reading.
type onlyReader struct{ io.Reader }

// stand puts a daemon between the ports.
func (l *bridgeLine) stand(b *testing.B, spoof bool) {
	b.Helper()
	o := Options{
		Mode: ModeTC, Bridge: l.Bridge, LAN: []string{l.LAN}, Uplink: []string{l.Up}, Ports: []uint16{steered},
		SpoofSource: spoof,
	}
	for _, name := range []string{"all", "default", l.Bridge} {
		l.Gateway.Sysctl(b, "net/ipv4/conf/"+name+"/rp_filter", "0")
	}
	if err := l.Gateway.Do(func() error { return Setup(o) }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Gateway.Do(func() error { return Teardown(o) }) })
	text, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d := lab.Start(b, lab.Cmd{NS: l.Gateway, Path: self, Env: []string{daemonEnv + "=" + string(text)}, Stdin: true})
	err = d.Await(lab.Within(b, time.Minute), func(out, _ []string) bool { return lab.HasLine(out, "ready ") })
	if err != nil {
		b.Fatalf("%v: %q", err, d.Stderr())
	}
}

func (l *bridgeLine) transfer(b *testing.B, block []byte, size int64) time.Duration {
	start := time.Now()
	l.want <- size
	for sent := int64(0); sent < size; sent += int64(len(block)) {
		if _, err := l.conn.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-l.done; err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}
