package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
)

// streamsEach is how many streams a gateway has active in an interval, in the checkpoint load.
const streamsEach = 5

// load is what the checkpoints of a fleet ask of one subscriber.
type load struct {
	gateways int
	messages float64 // a second
	bytes    float64 // a second
	cpu      float64 // share of one core
}

// checkpointLoad has a subscriber take in what every gateway of a fleet says in one interval: verify, parse,
// hold against what has arrived. The first interval, in which certificates and streams are new, is not measured.
func checkpointLoad(p *pool, gateways int, interval time.Duration) (*load, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	secret, err := crypto.NewPayloadSecret(rand.Reader)
	if err != nil {
		return nil, err
	}
	trust, err := crypto.NewTrust(fleetName, p.caCert)
	if err != nil {
		return nil, err
	}
	ledger, err := checkpoint.New(checkpoint.Config{Interval: interval, All: true, Digest: func(_ crypto.KeyID, topic [32]byte) (checkpoint.Digest, bool) {
		return checkpoint.TopicDigest(secret, groupName, topic), true
	}})
	if err != nil {
		return nil, err
	}
	out := &load{gateways: gateways, messages: float64(gateways) / interval.Seconds()}
	for round := range 2 {
		now, bytes := time.Hour+time.Duration(round)*interval, 0
		var spent time.Duration
		for g := range gateways {
			msg, err := p.checkpoint(secret, g, round)
			if err != nil {
				return nil, err
			}
			for s := range streamsEach {
				ledger.Received(now, streamKid(g, s), streamTopic(g, s), uint64(round))
			}
			start := threadCPU()
			payload, from, err := trust.Verify(msg, checkpoint.Kind, epoch.Add(now))
			if err != nil {
				return nil, err
			}
			m, err := checkpoint.Parse(payload)
			if err != nil {
				return nil, err
			}
			if err := ledger.Checkpoint(now, from.Name, m); err != nil {
				return nil, err
			}
			spent += threadCPU() - start
			bytes += len(msg)
		}
		ledger.Take()
		out.bytes, out.cpu = float64(bytes)/interval.Seconds(), spent.Seconds()/interval.Seconds()
	}
	return out, nil
}

func streamKid(g, s int) (k crypto.Kid) {
	binary.BigEndian.PutUint64(k[4:], uint64(g*streamsEach+s))
	return k
}

func streamTopic(g, s int) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "factory/%d/%d", g, s))
}

// checkpoint is what gateway g signs in a round: a message in each of its streams.
func (p *pool) checkpoint(secret *crypto.PayloadSecret, g, round int) ([]byte, error) {
	id, err := p.identity(crypto.RoleGateway, fmt.Sprintf("gw%d", g))
	if err != nil {
		return nil, err
	}
	m := checkpoint.Message{Group: groupName, Number: uint64(round), State: checkpoint.Last}
	for s := range streamsEach {
		m.Streams = append(m.Streams, checkpoint.Stream{Topic: checkpoint.TopicDigest(secret, groupName, streamTopic(g, s)),
			Kid: streamKid(g, s), From: uint64(round), Next: uint64(round) + 1})
	}
	return id.Sign(m.Marshal(), checkpoint.Kind)
}

// writeCheckpoints prints the load for fleets of every size.
func writeCheckpoints(out io.Writer, p *pool, sizes []size) error {
	const interval = 10 * time.Second
	fmt.Fprintf(out, "\nCheckpoints at one subscriber that reads everything: each gateway every %v, %d active streams each. Real messages.\n", interval, streamsEach)
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "gateways\tmessages a second\tbytes a second\tof one core\t")
	done := map[int]bool{}
	for _, s := range sizes {
		if done[s.gateways] {
			continue
		}
		done[s.gateways] = true
		l, err := checkpointLoad(p, s.gateways, interval)
		if err != nil {
			return fmt.Errorf("checkpoints of %d gateways: %w", s.gateways, err)
		}
		fmt.Fprintf(t, "%d\t%.1f\t%s\t%.3f %%\t\n", l.gateways, l.messages, size64(int(l.bytes)), 100*l.cpu)
	}
	return t.Flush()
}
