// Command bench drives the whole gatewayd over loopback, with TLS to a sink that plays the broker, and prints the processor
// time it takes a message beside HAProxy, which takes the same connections in and carries them on over the same TLS but
// seals nothing. Both run in the same minutes, in rounds by turns, and the medians are compared, so that a busy machine
// disturbs both alike. It also prints memory and sizes.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"sealgate/test/lab"
)

// workload is a way to use the gateway: every connection keeps inFlight QoS 1 messages under way. Devices write every
// message by itself; a bridge or a batching client writes as many at once as may go out, and then system calls cost it and
// the gateway next to nothing, and what is left is the work on each message.
type workload struct {
	name                  string
	connections, inFlight int
	together              bool // what may go out goes out in one write
}

var workloads = []workload{
	{"QoS 1 flood, 20 connections, 20 in flight, one write a message", 20, 20, false},
	{"QoS 1 flood, 20 connections, 20 in flight, written together", 20, 20, true},
	{"request-response, 20 connections, 1 in flight", 20, 1, false},
	{"request-response, 1 connection, 1 in flight", 1, 1, false},
}

func main() {
	rounds := flag.Int("rounds", 5, "rounds of each workload and contender")
	round := flag.Duration("round", 1500*time.Millisecond, "length of a round")
	size := flag.Int("size", 100, "payload size in bytes")
	idle := flag.Int("idle", 1000, "idle connections for the memory measurement")
	settle := flag.Duration("settle", 10*time.Second, "how long memory may settle before it is read")
	steering := flag.Bool("steer", false, "compare the ways to steer, in network namespaces, and nothing else (root)")
	doc := flag.String("doc", "", "with -steer: the document whose table is to be written anew")
	flag.Parse()
	if *steering {
		os.Exit(lab.Standalone("bench-steer", func(t lab.T) {
			tables := compareSteering(t, ways, 2**rounds, 400*time.Millisecond, *size)
			fmt.Print(tables)
			if *doc != "" {
				writeTables(t, *doc, tables)
			}
		}))
	}
	os.Exit(lab.Standalone("bench", func(t lab.T) {
		b := newBench(t)
		b.memory(t, *idle, *settle)
		for _, w := range workloads {
			b.compare(t, w, *rounds, *round, *size)
		}
		b.sizes(t)
	}))
}

// compare prints a table of one workload: gatewayd beside HAProxy.
func (b *bench) compare(t lab.T, w workload, rounds int, round time.Duration, size int) {
	cost := make([][]float64, len(b.contenders)) // microseconds of processor time a message, by contender and round
	rate := make([][]float64, len(b.contenders))
	for range rounds {
		for i, c := range b.contenders {
			micros, perSecond, err := measure(c, w, round, size)
			if err != nil {
				t.Fatalf("%s through %s: %v", w.name, c.name, err)
			}
			cost[i], rate[i] = append(cost[i], micros), append(rate[i], perSecond)
		}
	}
	fmt.Printf("\n%s, %d-byte payloads (median of %d rounds)\n", w.name, size, rounds)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "\tCPU µs/message\tlowest\thighest\tmessages/s\tratio\t")
	base := median(cost[len(cost)-1])
	for i, c := range b.contenders {
		fmt.Fprintf(out, "%s\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t\n", c.name, median(cost[i]), slices.Min(cost[i]), slices.Max(cost[i]),
			median(rate[i]), median(cost[i])/base)
	}
	out.Flush()
}

// measure runs one round and returns the contender's processor time a message in microseconds, and messages a second.
func measure(c contender, w workload, round time.Duration, size int) (micros, perSecond float64, err error) {
	l, err := startLoad(c, w, size)
	if err != nil {
		return 0, 0, err
	}
	defer l.stop()
	time.Sleep(round / 5) // the windows fill, congestion control and the scheduler find their pace
	n0, cpu0, start := l.acked(), c.cpu(), time.Now()
	time.Sleep(round)
	n1, cpu1, took := l.acked(), c.cpu(), time.Since(start)
	if err := l.err(); err != nil {
		return 0, 0, err
	}
	if n1 == n0 {
		return 0, 0, fmt.Errorf("no message was acknowledged")
	}
	n := float64(n1 - n0)
	return float64(cpu1-cpu0) / 1e3 / n, n / took.Seconds(), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// memory prints what the idle programs hold, and what an idle connection adds: from the first to the n-th, and from the
// n-th to the 2n-th, where what the program takes once for any traffic at all is no longer in the figure.
func (b *bench) memory(t lab.T, n int, settle time.Duration) {
	fmt.Printf("Memory, resident, idle TLS-uplinked connections, %v after the last\n", settle)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "\tnone\t%d\t%d\tbytes a connection to %d\tbytes each beyond\t\n", n, 2*n, n)
	for _, c := range b.contenders {
		var open idle
		rss := make([]int, 3)
		for i := range rss {
			if i > 0 {
				more, err := openIdle(c.addr, i, n)
				if err != nil {
					t.Fatalf("open idle connections through %s: %v", c.name, err)
				}
				open = append(open, more...)
				time.Sleep(settle)
			}
			var err error
			if rss[i], err = c.proc.RSS(); err != nil {
				t.Fatalf("read the memory of %s: %v", c.name, err)
			}
		}
		open.close()
		fmt.Fprintf(out, "%s\t%.1f MB\t%.1f MB\t%.1f MB\t%d\t%d\t\n", c.name, float64(rss[0])/1e6, float64(rss[1])/1e6, float64(rss[2])/1e6,
			(rss[1]-rss[0])/n, (rss[2]-rss[1])/n)
	}
	out.Flush()
}

// sizes prints the binaries' sizes as they were built.
func (b *bench) sizes(t lab.T) {
	fmt.Println("\nBinaries")
	for _, path := range []string{b.programs.Gatewayd, b.programs.Controld, b.programs.Sealctl} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatalf("read the size: %v", err)
		}
		fmt.Printf("  %-9s %.2f MB\n", info.Name(), float64(info.Size())/1e6)
	}
}
