package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// way is a way for devices to reach the sink.
type way struct {
	name string
	mode string // steer.mode; "" is no gatewayd at all: the gateway forwards
	// start starts gatewayd, nil in the usual way
	start  func(t lab.T, p *lab.Plant)
	bridge bool // the gateway is a bridge
}

// ways are compared with the second, the plain proxy connection.
var ways = []way{
	{name: "forwarded, no gatewayd"},
	{name: "`listen`: a plain proxy", mode: "listen"},
	{name: "`tc`, TCX", mode: "tc"},
	{name: "`tc`, clsact", mode: "tc", start: startPrivately},
	{name: "`tproxy`", mode: "tproxy"},
	{name: "`redirect`", mode: "redirect"},
	{name: "`tc` in a bridge", mode: "tc", bridge: true},
	{name: "`nfqueue`", mode: "nfqueue"},
}

// steerFigures are what one round costs: by second, and microseconds of processor time each of gatewayd and of everything
// that takes part: gatewayd, the devices, the sink, and the kernel's work in their name.
type steerFigures struct {
	rate, gatewayd, all []float64
}

const steerPort = 1883

// steerMeasure is something to count through a contender for the length of a round.
type steerMeasure struct {
	name string
	run  func(c contender, round time.Duration, size int) (n float64, err error)
}

var steerMeasures = []steerMeasure{
	{"connections", connectAll},
	{"messages, 20 connections, 20 in flight", flood(workload{connections: 20, inFlight: 20})},
	{"messages, 20 connections, 1 in flight", flood(workload{connections: 20, inFlight: 1})},
}

// compareSteering measures connections and messages through each way by turns, and returns the tables of docs/PERFORMANCE.md.
func compareSteering(t lab.T, list []way, rounds int, round time.Duration, size int) string {
	t.Helper()
	lab.NeedRoot(t)
	lab.NeedTool(t, "mosquitto")
	before := loadAverage(t)
	var all []contender
	for _, w := range list {
		all = append(all, w.stand(t))
	}
	var tables strings.Builder
	for _, m := range steerMeasures {
		figures := make([]steerFigures, len(all))
		for range rounds {
			for i, c := range all {
				if err := figures[i].take(c, func(c contender) (float64, error) { return m.run(c, round, size) }); err != nil {
					t.Fatalf("%s, %s: %v", m.name, c.name, err)
				}
			}
		}
		writeFigures(&tables, m.name, list, figures)
	}
	fmt.Fprintf(&tables, "Medians of %d rounds by turns; %d processors; load average %s before and %s after.\n",
		rounds, runtime.NumCPU(), before, loadAverage(t))
	return tables.String()
}

// stand makes a site of its own, ready to serve.
func (w way) stand(t lab.T) contender {
	t.Helper()
	o := lab.PlantOptions{}
	if w.bridge {
		o.Topo = lab.NewBridgeTopology(t, true)
	}
	p := lab.NewPlant(t, o)
	broker := net.JoinHostPort(lab.BrokerIP4, fmt.Sprint(steerPort))
	plainSink(t, p.UplinkNS(), broker)
	for _, ns := range []*lab.Namespace{p.SensorNS(), p.GatewayNS()} {
		ns.Sysctl(t, "net/ipv4/tcp_tw_reuse", "1") // more connections than there are ports in a minute
	}
	c := contender{name: w.name, addr: broker, ns: p.SensorNS()}
	if w.mode == "" {
		return c
	}
	p.Conf.Set("steer", "mode", w.mode).Set("uplink", "tls", false)
	delete(p.Conf["uplink"], "ca")
	if w.mode == "listen" {
		c.addr = net.JoinHostPort(lab.LANIP4, fmt.Sprint(steerPort))
		p.Conf.Set("steer", "listen", c.addr).Set("uplink", "broker", broker)
		p.BrokerHost = lab.LANIP4 // for those who dial it
	}
	p.WriteConf(t)
	p.Setup(t)
	p.StartControld(t)
	if w.start != nil {
		w.start(t, p)
	} else {
		p.StartGatewayd(t)
	}
	p.AwaitReady(t)
	c.proc = p.Gatewayd
	return c
}

// startPrivately starts gatewayd in a mount namespace of its own, where it attaches by clsact: see docs/STEERING.md.
func startPrivately(t lab.T, p *lab.Plant) {
	p.Gatewayd = lab.Start(t, lab.Cmd{NS: p.GatewayNS(), Path: lab.NeedTool(t, "unshare"), Args: []string{
		"--mount", "sh", "-c", `mount -t sysfs sysfs /sys && exec "$0" "$@"`, p.Programs.Gatewayd, "-config", p.ConfFile,
	}})
	if err := p.Gatewayd.AwaitLine(lab.Within(t, 30*time.Second), "attached=clsact"); err != nil {
		t.Fatalf("attach by clsact: %v", err)
	}
}

// take runs one round.
func (f *steerFigures) take(c contender, run func(contender) (float64, error)) error {
	gatewayd, own, start := c.cpu(), ownCPU(), time.Now()
	n, err := run(c)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("nothing came through")
	}
	spent := c.cpu() - gatewayd
	all := spent + ownCPU() - own
	f.rate = append(f.rate, n/time.Since(start).Seconds())
	f.gatewayd = append(f.gatewayd, float64(spent.Nanoseconds())/1e3/n)
	f.all = append(f.all, float64(all.Nanoseconds())/1e3/n)
	return nil
}

// ownCPU is what this process has used, threads that have ended included.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// connectAll has 20 devices connect, wait for CONNACK, say goodbye and begin anew, and returns how many connections there were.
func connectAll(c contender, round time.Duration, _ int) (n float64, err error) {
	var count, failures atomic.Int64
	var group sync.WaitGroup
	end := time.Now().Add(round)
	for i := range 20 {
		group.Go(func() {
			inside := c.ns.Do(func() error { // once: entering a namespace costs more than a connection
				for k := 0; time.Now().Before(end); k++ {
					conn, err := net.DialTimeout("tcp", c.addr, ioTimeout)
					if err != nil {
						return err
					}
					if err := introduce(conn, fmt.Sprintf("c%d.%d", i, k)); err != nil {
						return err
					}
					conn.Write([]byte{0xe0, 0})
					conn.Close()
					count.Add(1)
				}
				return nil
			})
			if inside != nil && failures.Add(1) == 1 {
				err = inside
			}
		})
	}
	group.Wait()
	return float64(count.Load()), err
}

// flood counts the messages that are acknowledged.
func flood(w workload) func(contender, time.Duration, int) (float64, error) {
	return func(c contender, round time.Duration, size int) (float64, error) {
		l, err := startLoad(c, w, size)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		time.Sleep(round)
		for l.acked() == 0 && l.err() == nil && time.Since(begin) < ioTimeout { // a machine with other things to do
			time.Sleep(round)
		}
		l.stop()
		return float64(l.acked()), l.err()
	}
}

// writeFigures writes a table of one measure; ratios are to the plain proxy.
func writeFigures(s *strings.Builder, name string, list []way, figures []steerFigures) {
	plain := figures[1]
	fmt.Fprintf(s, "| %s | a second | ratio | gatewayd, CPU µs each | ratio | everything, CPU µs each | ratio |\n|---|---|---|---|---|---|---|\n", name)
	for i, f := range figures {
		fmt.Fprintf(s, "| %s | %.0f | %.2f | ", list[i].name, median(f.rate), median(f.rate)/median(plain.rate))
		if list[i].mode == "" {
			s.WriteString("- | - | ")
		} else {
			fmt.Fprintf(s, "%.1f | %.2f | ", median(f.gatewayd), median(f.gatewayd)/median(plain.gatewayd))
		}
		fmt.Fprintf(s, "%.1f | %.2f |\n", median(f.all), median(f.all)/median(plain.all))
	}
	s.WriteByte('\n')
}

func loadAverage(t lab.T) string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatalf("read the load of this machine: %v", err)
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// The tables stand between these lines of the document.
const (
	tableBegins = "<!-- written by make bench-steer -->\n"
	tableEnds   = "<!-- end of what make bench-steer writes -->\n"
)

// writeTables puts the tables into the document, in place of those that are there.
func writeTables(t lab.T, doc, tables string) {
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatalf("read the document: %v", err)
	}
	head, rest, found := strings.Cut(string(b), tableBegins)
	_, tail, ends := strings.Cut(rest, tableEnds)
	if !found || !ends {
		t.Fatalf("%s has no lines %q and %q for the tables to stand between", doc, tableBegins, tableEnds)
	}
	if err := os.WriteFile(doc, []byte(head+tableBegins+tables+tableEnds+tail), 0o644); err != nil {
		t.Fatalf("write the document: %v", err)
	}
}
