package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

const preface = `Control plane of a fleet in virtual time. Real: the keepers' machines, every Hello (signed, a certificate for
each member) and every Grant; at most %d gateways and %d subscribers also run the real machine. The other members
are shadows: they ask when the sampled member they follow asks, repeat by the protocol's rule, and decrypt nothing.
The keeper is one on a server (%d Grants a second). Keeper's time is measured on this machine, all else is counted.

messages, bytes: published, by anybody    delivered: copies that the broker sends to members
asked: Hellos of a member on average (sampled / shadow)    turned away: Hellos that found the keeper's line full
sealing: until every sampled gateway seals under the new epoch    done: until nobody waits any more
`

func writeTables(out io.Writer, results []*result) {
	fmt.Fprintf(out, preface, sample, sample, serverRate)
	for _, scenario := range []string{scenarioBoot, scenarioRotate, scenarioReturn, scenarioRevoke, scenarioQuiet} {
		fmt.Fprintf(out, "\n%s\n", title(scenario))
		t := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "gateways\tsubscribers\tmessages\tbytes\tof which\tasked\tturned away\tdelivered\tbytes\tsealing\tdone\tkeeper\ttwo others\ta member\t")
		for _, r := range results {
			w := r.row(scenario)
			n, b := w.total()
			fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%s\t%.1f / %.1f\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.gateways, r.subscribers, n, size64(b), kinds(w.sent),
				w.hellos, w.shadowHellos, w.refused, w.deliveries, size64(w.delivered), seconds(w.sealing), seconds(w.took),
				cpu(w.keeperCPU), cpu(w.standbyCPU), cpu(w.sampleCPU/time.Duration(r.sample)))
		}
		t.Flush()
	}
	writeTakeover(out, results)
}

func title(scenario string) string {
	return map[string]string{
		scenarioBoot:   "Everybody boots at once and has no keys (power cut, roll-out); the keeper stands",
		scenarioRotate: "Scheduled rotation",
		scenarioReturn: "Everybody reconnects at once and has keys (broker restarted)",
		scenarioQuiet:  "Ten minutes without any of this: gateways renew their authority, the leader shows that it lives",
		scenarioRevoke: "Revocation: a new policy, a new generation, keys for everybody else",
	}[scenario]
}

func writeTakeover(out io.Writer, results []*result) {
	fmt.Fprintln(out, "\nThe leading keeper is lost; three keepers (less than three leases of 5 s is promised)")
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "gateways\tsubscribers\twithout a leader\t")
	for _, r := range results {
		fmt.Fprintf(t, "%d\t%d\t%s\t\n", r.gateways, r.subscribers, seconds(r.row(scenarioTakeover).took))
	}
	t.Flush()
}

// kinds lists what was published, most important first.
func kinds(sent map[string]int) string {
	var parts []string
	for _, k := range []string{"policy", "epoch", "hello", "grant", "confirm", "lease", "checkpoint", "other"} {
		if sent[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", sent[k], k))
		}
	}
	return strings.Join(parts, ", ")
}

func size64(n int) string {
	switch f := float64(n); {
	case n >= 10e6:
		return fmt.Sprintf("%.0f MB", f/1e6)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", f/1e6)
	case n >= 10e3:
		return fmt.Sprintf("%.0f kB", f/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// cpu prints a processor time with two digits.
func cpu(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
}
