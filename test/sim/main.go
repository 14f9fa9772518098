// Command sim runs Sealgate's control protocol for fleets of up to 110,000 members in virtual
// time, and tells what it costs: messages, bytes, and the keeper's processor time.
//
// What is real: the keepers, always. Every Hello that reaches one is a signed message of a member
// with a certificate of its own, and every Grant is encrypted to a member's key; the keeper's
// machine cannot tell that it is simulated, and its processor time is measured. A sample
// of the members (24 gateways and 24 subscribers at most) runs the real machine as well. What is
// modelled: the other members are shadows of the sample (shadow.go). A shadow asks when the
// real member that it follows asks, repeats by the protocol's rule until it is answered,
// and does not decrypt. Virtual time knows no processor: a keeper answers at
// once, within the rates that its machine keeps.
//
//	go run ./test/sim [-quick] [-svg FILE]   the fleets, a table, a plot
//	go run ./test/sim -ops                   processor time of single operations, for comparing machines
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// size is a fleet.
type size struct{ gateways, subscribers int }

func (s size) members() int { return s.gateways + s.subscribers }

// fullSizes are the fleets of `make sim`, quickSizes those of the test.
func fullSizes() (all []size) {
	for _, subscribers := range []int{10, 1_000, 100_000} {
		for _, gateways := range []int{1, 100, 1_000, 10_000} {
			all = append(all, size{gateways, subscribers})
		}
	}
	return all
}

func quickSizes() []size { return []size{{1, 10}, {40, 400}} }

func main() {
	quick := flag.Bool("quick", false, "small fleets only")
	ops := flag.Bool("ops", false, "only the processor time of single operations")
	only := flag.String("size", "", "only fleets of these sizes, `GATEWAYSxSUBSCRIBERS` with commas between them")
	svg := flag.String("svg", "", "write the plot to `FILE`")
	foreign := flag.String("foreign", "", "`COMMAND` that runs this program's -ops on another processor, for the last column")
	flag.Parse()
	if err := run(os.Stdout, choose(*quick, *only), *ops, *svg, *foreign); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

// choose is the sizes that were asked for.
func choose(quick bool, only string) (sizes []size) {
	if only == "" {
		if quick {
			return quickSizes()
		}
		return fullSizes()
	}
	for _, text := range strings.Split(only, ",") {
		var s size
		if n, err := fmt.Sscanf(text, "%dx%d", &s.gateways, &s.subscribers); n != 2 || err != nil || s.gateways < 1 || s.subscribers < 1 {
			fmt.Fprintf(os.Stderr, "sim: -size %q: want for example 100x1000\n", text)
			os.Exit(2)
		}
		sizes = append(sizes, s)
	}
	return sizes
}

func run(out io.Writer, sizes []size, opsOnly bool, svg, foreign string) error {
	if opsOnly {
		costs, err := measureOps(20 * time.Millisecond)
		for _, c := range costs {
			fmt.Fprintf(out, "%s\t%d\n", c.name, c.cpu.Nanoseconds())
		}
		return err
	}
	pool, err := newPool()
	if err != nil {
		return err
	}
	results, err := simulateAll(pool, sizes)
	if err != nil {
		return err
	}
	writeTables(out, results)
	if err := writeCheckpoints(out, pool, sizes); err != nil {
		return err
	}
	if err := writeOps(out, foreign); err != nil {
		return err
	}
	if svg != "" {
		if err := os.WriteFile(svg, plot(results), 0o644); err != nil {
			return fmt.Errorf("write the plot: %w", err)
		}
	}
	return judge(results)
}

// simulateAll simulates the fleets, the largest first, two at a time: each is one thread's work.
func simulateAll(p *pool, sizes []size) ([]*result, error) {
	results, errs := make([]*result, len(sizes)), make([]error, len(sizes))
	next := make(chan int)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for i := range next {
				start := time.Now()
				if results[i], errs[i] = simulate(p, sizes[i]); errs[i] != nil {
					errs[i] = fmt.Errorf("%d gateways, %d subscribers: %w", sizes[i].gateways, sizes[i].subscribers, errs[i])
				}
				fmt.Fprintf(os.Stderr, "%d gateways, %d subscribers: simulated in %.1f s\n", sizes[i].gateways, sizes[i].subscribers, time.Since(start).Seconds())
			}
		})
	}
	for i := len(sizes) - 1; i >= 0; i-- {
		next <- i
	}
	close(next)
	workers.Wait()
	return results, errors.Join(errs...)
}

// writeOps prints what single operations cost here and, by foreign, on another processor.
func writeOps(out io.Writer, foreign string) error {
	costs, err := measureOps(100 * time.Millisecond)
	if err != nil {
		return err
	}
	other := map[string]time.Duration{}
	if foreign != "" {
		text, err := exec.Command("/bin/sh", "-c", foreign).Output()
		if err != nil {
			return fmt.Errorf("measure on another processor by %q: %w", foreign, err)
		}
		other = parseOps(string(text))
	}
	writeOpTable(out, costs, other)
	return nil
}
