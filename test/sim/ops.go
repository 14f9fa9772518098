package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
)

// cost is the processor time of one operation.
type cost struct {
	name string
	cpu  time.Duration
}

// measureOps measures each operation for about budget of processor time.
func measureOps(budget time.Duration) ([]cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ops, err := operations()
	if err != nil {
		return nil, err
	}
	var costs []cost
	for _, op := range ops {
		if err := op.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", op.name, err)
		}
		start, n := threadCPU(), 0
		for n < 3 || threadCPU()-start < budget {
			if err := op.do(); err != nil {
				return nil, fmt.Errorf("%s: %w", op.name, err)
			}
			n++
		}
		costs = append(costs, cost{op.name, (threadCPU() - start) / time.Duration(n)})
	}
	return costs, nil
}

type operation struct {
	name string
	do   func() error
}

// operations are the single steps that the control plane's work is made of.
func operations() ([]operation, error) {
	p, err := newPool()
	if err != nil {
		return nil, err
	}
	id, err := p.identity(crypto.RoleKeeper, "keeper1")
	if err != nil {
		return nil, err
	}
	inbox, err := crypto.NewInboxKey()
	if err != nil {
		return nil, err
	}
	payload, info := make([]byte, 300), make([]byte, 120)
	now := epoch.Add(time.Hour)
	msg, err := id.Sign(payload, string(control.KindGrant))
	if err != nil {
		return nil, err
	}
	sealed, err := crypto.HPKESeal(inbox.Public(), info, payload)
	if err != nil {
		return nil, err
	}
	kek, err := crypto.NewKEK(rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		return nil, err
	}
	wc := crypto.WrapContext{Fleet: fleetName, Group: groupName, Generation: 1, Number: 1, Keeper: "keeper1"}
	wrap, err := kek.Wrap(rand.Reader, secret, wc)
	if err != nil {
		return nil, err
	}
	return []operation{
		{"sign a message (Ed25519)", func() error { _, err := id.Sign(payload, string(control.KindGrant)); return err }},
		{"verify one, sender known", func() error { _, _, err := p.trust.Verify(msg, string(control.KindGrant), now); return err }},
		{"verify one, sender new", func() error {
			fresh, err := crypto.NewTrust(fleetName, p.caCert)
			if err == nil {
				_, _, err = fresh.Verify(msg, string(control.KindGrant), now)
			}
			return err
		}},
		{"make an inbox key pair (MLKEM768-X25519)", func() error { _, err := crypto.NewInboxKey(); return err }},
		{"seal a Grant (HPKE)", func() error { _, err := crypto.HPKESeal(inbox.Public(), info, payload); return err }},
		{"open a Grant (HPKE)", func() error { _, err := inbox.Open(info, sealed); return err }},
		{"wrap an epoch", func() error { _, err := kek.Wrap(rand.Reader, secret, wc); return err }},
		{"unwrap an epoch", func() error { _, err := kek.Unwrap(&wrap, wc); return err }},
	}, nil
}

// parseOps reads what -ops prints.
func parseOps(text string) map[string]time.Duration {
	found := map[string]time.Duration{}
	for line := range strings.Lines(text) {
		name, ns, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if n, err := strconv.ParseInt(ns, 10, 64); ok && err == nil {
			found[name] = time.Duration(n)
		}
	}
	return found
}

func writeOpTable(out io.Writer, here []cost, other map[string]time.Duration) {
	fmt.Fprintln(out, "\nProcessor time of single operations. An emulated processor's times say nothing by themselves; the")
	fmt.Fprintln(out, "last column does: the share of a Grant's sealing, to be compared between processors.")
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
	head := "operation\there\trelative\t"
	if len(other) > 0 {
		head += "mipsle, emulated\trelative\t"
	}
	fmt.Fprintln(t, head)
	const unit = "seal a Grant (HPKE)"
	var base time.Duration
	for _, c := range here {
		if c.name == unit {
			base = c.cpu
		}
	}
	for _, c := range here {
		fmt.Fprintf(t, "%s\t%s\t%.2f\t", c.name, micros(c.cpu), float64(c.cpu)/float64(base))
		if len(other) > 0 {
			fmt.Fprintf(t, "%s\t%.2f\t", micros(other[c.name]), float64(other[c.name])/float64(max(other[unit], 1)))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

func micros(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d.Nanoseconds())/1e3) }
