package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

func TestSetLimits(t *testing.T) {
	g := New(Config{MaxConnections: 3, ConnectTimeout: time.Second})
	defer g.Close()
	if g.maxConnections() != 3 || g.connectTimeout() != time.Second {
		t.Errorf("at the start %d connections, %v", g.maxConnections(), g.connectTimeout())
	}
	g.SetLimits(1, time.Minute)
	if err := g.add(new(conn)); err != nil {
		t.Fatal(err)
	}
	extra := new(conn)
	if err := g.add(extra); err == nil {
		t.Error("one connection more than the new limit was taken")
		g.remove(extra)
	}
	g.SetLimits(0, 0)
	if g.maxConnections() != DefaultMaxConnections || g.connectTimeout() != DefaultConnectTimeout {
		t.Errorf("defaults are %d connections, %v", g.maxConnections(), g.connectTimeout())
	}
	g.mu.Lock()
	clear(g.conns) // the one above was never made to be closed
	g.mu.Unlock()
}

// One alias at a time is set to a long topic, then to a short one: what is kept is what counts.
func TestAliasesKeepNoMoreThanTheyCount(t *testing.T) {
	var a aliasTable
	long := bytes.Repeat([]byte("x"), aliasBytes-maxAliases)
	for i := range uint16(maxAliases) {
		for _, topic := range [][]byte{long, []byte("s")} {
			if _, _, err := a.resolve(&mqttparse.Publish{TopicAlias: i + 1, Topic: topic}, maxAliases); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := 0
	for _, topic := range a.topics {
		kept += cap(topic)
	}
	if kept > 2*aliasBytes {
		t.Errorf("%d bytes are kept for %d that count", kept, a.bytes)
	}
}

func TestLongClientIDs(t *testing.T) {
	ts := newTester(t, newFleet(t).rotate(1), Config{}, nil)
	long := strings.Repeat("x", 60_000)
	ts.connected(mqttparse.V311, long+"1", false, false)
	ts.connected(mqttparse.V311, long+"2", false, false)
	eventually(t, "both run", func() bool { return len(ts.g.Status().Devices) == 2 })
	for _, d := range ts.g.Status().Devices {
		if len(d.Client) > 200 {
			t.Errorf("the status shows %d bytes of a client id", len(d.Client))
		}
	}
	ts.g.store.mu.Lock()
	defer ts.g.store.mu.Unlock()
	for key := range ts.g.store.m {
		if len(key.client) > 200 {
			t.Errorf("a session's key has %d bytes", len(key.client))
		}
	}
	if len(ts.g.store.m) != 2 {
		t.Errorf("%d sessions of two clients", len(ts.g.store.m))
	}
}

// A device may name 1024 topics of 64 KiB. What is kept of them is bounded, and given back.
func TestLongTopicsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	check := func(what string, bytes int) {
		t.Helper()
		if bytes > topicBytes {
			t.Errorf("%s: %d bytes of topics, want at most %d", what, bytes, topicBytes)
		}
	}
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	free := b.g.memory.left.Load()
	for i := range 40 {
		topic := fmt.Sprintf("s/%s/%d", long, i)
		b.fromDevice(t, publishPacket(mqttparse.V311, message(topic, "x", 1, uint16(i+1))))
		b.receive(t, f.sealer("default", topic).next("x", 0, 0))
	}
	seals, opens, records := 0, 0, map[*sealStream]bool{}
	for topic := range b.c.sess.seals.m {
		seals += 2 * len(topic)
	}
	for id := range b.c.sess.opens.m {
		opens += 2 * len(id.topic)
	}
	for _, slot := range b.c.sess.sent.slots {
		if slot.v.stream != nil {
			records[slot.v.stream] = true
		}
	}
	check("sealing", seals)
	check("receiving", opens)
	if len(records) > b.c.sess.seals.n {
		t.Errorf("records hold %d streams, of which %d live", len(records), b.c.sess.seals.n)
	}
	if seals == 0 || opens == 0 || b.count(upSeal) != 40 || b.count(downOpen) != 40 {
		t.Errorf("%d sealed, %d opened", b.count(upSeal), b.count(downOpen))
	}
	if used := free - b.g.memory.left.Load(); used < int64(seals+opens) {
		t.Errorf("%d bytes are charged for %d", used, seals+opens)
	}
	b.c.up.end()
	b.c.down.end()
	b.g.store.put(b.c.sess)
	if !b.g.store.shed() || b.g.memory.left.Load() != free || b.g.streams.Load() != 0 {
		t.Errorf("%d of %d bytes came back, %d streams left", b.g.memory.left.Load(), free, b.g.streams.Load())
	}
}

func TestLongTopicsWithoutMemory(t *testing.T) {
	f := newFleet(t)
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	b.g.memory.left.Store(10_000)
	topic := "s/" + strings.Repeat("x", 60_000)
	b.c.up.in.load(publishPacket(mqttparse.V311, message(topic, "x", 0, 0)))
	var r *refusal
	if err := b.c.up.transform(); !errors.As(err, &r) || r.reason != refusedMemory {
		t.Errorf("sealing: %v", err)
	}
	b.c.down.in.load(publishPacket(mqttparse.V311, f.sealer("default", topic).next("x", 0, 0)))
	if err := b.c.down.transform(); !errors.As(err, &r) || r.reason != refusedMemory {
		t.Errorf("receiving: %v", err)
	}
	if left := b.g.memory.left.Load(); left != 10_000 {
		t.Errorf("%d bytes left", left)
	}
}

// A device that sends half of a large packet and falls silent holds memory that others need. One that is merely slow, or
// silent between packets, is left alone.
func TestStalledLargePacketEnds(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{stall: 200 * time.Millisecond}, nil)
	packet := publishPacket(mqttparse.V311, message("s/a", strings.Repeat("x", 100<<10), 0, 0))
	quiet, quietBroker := ts.connected(mqttparse.V311, "quiet", true, false)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	dev.send(packet[:60<<10])
	eventually(t, "memory is held", func() bool { return ts.g.memory.left.Load() < DefaultMaxBuffered })
	dev.ended()
	broker.ended()
	if !ts.metric(`sealgate_refused_total{reason="stalled"} 1`) {
		t.Error("not counted")
	}
	eventually(t, "memory given back", func() bool { return ts.g.memory.left.Load() == DefaultMaxBuffered })
	quiet.send(packet)
	if m := quietBroker.publish(); len(m.Payload) < 100<<10 {
		t.Errorf("%d bytes arrived of the device that was silent between packets", len(m.Payload))
	}
}
