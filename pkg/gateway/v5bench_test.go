package gateway

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

// usualProps are what MQTT 5 publishers commonly send: two properties of the content, and the message's expiry.
var usualProps = join([]byte{mqttparse.PropPayloadFormat, 1},
	[]byte("\x03\x00\x10application/json"), u32Prop(mqttparse.PropMessageExpiry, 60))

// requestProps are those of a request, with a user property beside.
var requestProps = join(usualProps, []byte("\x08\x00\x0dreply/press/7"), []byte("\x09\x00\x04\x01\x02\x03\x04"), []byte("\x26\x00\x04line\x00\x017"))

// v5Kind is a packet to be compared with one of MQTT 3.1.1 and 100 bytes of payload.
type v5Kind struct {
	name    string
	v       mqttparse.Version
	props   []byte
	payload int
}

// v5Kinds are the packets compared. Each of those with properties has a twin of MQTT 3.1.1 whose payload is longer by what they take inside
// the envelope: what sealing more bytes costs, properties or not.
var v5Kinds = []v5Kind{
	{"v311", mqttparse.V311, nil, 100},
	{"v5", mqttparse.V5, nil, 100},
	{"v5-usual", mqttparse.V5, usualProps, 100},
	{"v311-as-long-as-usual", mqttparse.V311, nil, 100 + sealedLen(usualProps)},
	{"v5-request", mqttparse.V5, requestProps, 100},
	{"v311-as-long-as-request", mqttparse.V311, nil, 100 + sealedLen(requestProps)},
}

func sealedLen(props []byte) int {
	inner, _ := mqttparse.SplitProperties(props, nil, nil)
	return len(inner)
}

const v5Batch = 16

func v5SealStep(tb testing.TB, k v5Kind) func() {
	f := newFleet(tb)
	m := message(benchTopic, string(make([]byte, k.payload)), 0, 0)
	m.Properties = k.props
	b := newBench(tb, f.rotate(1), k.v, Config{})
	b.c.aliasMax.Store(8)
	return sealStep(tb, b, bytes.Repeat(publishPacket(k.v, m), v5Batch))
}

// v5OpenStep gives a step that opens a batch, and one that makes n more batches for it.
func v5OpenStep(tb testing.TB, k v5Kind) (step func(), restock func(n int)) {
	f := newFleet(tb)
	b := newBench(tb, f.rotate(1), k.v, Config{})
	b.connack(tb, false)
	b.c.dev = nullConn{}
	s := f.sealer("default", benchTopic)
	inner, outer := mqttparse.SplitProperties(k.props, nil, nil)
	var stock [][]byte
	next := 0
	restock = func(n int) {
		p := message(benchTopic, "", 0, 0)
		p.Properties = outer
		payload := make([]byte, k.payload)
		for next = 0; len(stock) < n; {
			stock = append(stock, nil)
		}
		for i := range stock {
			out := stock[i][:0]
			for range v5Batch {
				out = mqttparse.AppendPublishHeader(out, k.v, &p, s.stream.Len(mqttparse.VarintLen(len(inner))+len(inner)+len(payload)))
				out, _, _ = s.stream.Seal(out, inner, payload)
			}
			stock[i] = out
		}
	}
	d := b.c.down
	return func() {
		d.in.load(stock[next])
		next++
		if err := d.transform(); err != nil {
			tb.Fatal(err)
		}
		if err := d.flush(); err != nil {
			tb.Fatal(err)
		}
	}, restock
}

// BenchmarkRatioV5 runs MQTT 5, without properties and with, and MQTT 3.1.1 by turns. It reports the median of the quotients, and beside it the
// quotient of the shortest times, which is the same on a busy machine. The budget is 1.3.
func BenchmarkRatioV5(b *testing.B) {
	b.Run("seal", func(b *testing.B) {
		var steps []func()
		for _, k := range v5Kinds {
			steps = append(steps, v5SealStep(b, k))
		}
		var c comparison
		for b.Loop() {
			c.turn(steps)
		}
		c.report(b)
	})
	b.Run("open", func(b *testing.B) {
		var steps []func()
		var restock []func(int)
		for _, k := range v5Kinds {
			s, r := v5OpenStep(b, k)
			steps, restock = append(steps, s), append(restock, r)
		}
		var c comparison
		for b.Loop() {
			for _, r := range restock {
				r(turnSteps)
			}
			c.turn(steps)
		}
		c.report(b)
	})
}

// turnSteps is how many steps of each kind are a turn.
const turnSteps = 32

// comparison keeps the times of v5Kinds.
type comparison struct {
	quotients [][]float64 // by the first kind
	shortest  []time.Duration
}

// turn takes the time of each step turnSteps times, a few times over, so that a turn is short to the machine's other work.
func (c *comparison) turn(steps []func()) {
	const pieces = 8
	if c.quotients == nil {
		c.quotients, c.shortest = make([][]float64, len(steps)), make([]time.Duration, len(steps))
	}
	sums := make([]time.Duration, len(steps))
	for range pieces {
		for i, step := range steps {
			began := time.Now()
			for range turnSteps / pieces {
				step()
			}
			took := time.Since(began)
			if sums[i] += took; c.shortest[i] == 0 || took < c.shortest[i] {
				c.shortest[i] = took
			}
		}
	}
	for i, sum := range sums {
		c.quotients[i] = append(c.quotients[i], float64(sum)/float64(sums[0]))
	}
}

func (c *comparison) report(b *testing.B) {
	for i, k := range v5Kinds[1:] {
		q := c.quotients[i+1]
		slices.Sort(q)
		b.ReportMetric(q[len(q)/2], k.name+"-median-x-311")
		b.ReportMetric(float64(c.shortest[i+1])/float64(c.shortest[0]), k.name+"-shortest-x-311")
	}
}

// TestPropertiesDoNotAllocate holds the budget of messages with properties, both ways, and of those that have to be
// moved to their header: nothing.
func TestPropertiesDoNotAllocate(t *testing.T) {
	const runs = 100
	mixed := join(usualProps, requestProps[len(usualProps):], []byte("\x23\x00\x01"), []byte("\x26\x00\x01k\x00\x01v"))
	for _, k := range append(v5Kinds,
		v5Kind{"v311 of v5", mqttparse.V311, []byte("\x03\x00\x10application/json"), 100},
		v5Kind{"v5 whose properties change sides four times", mqttparse.V5, mixed, 100},
	) {
		seal := v5SealStep(t, k)
		seal()
		if n := testing.AllocsPerRun(runs, seal); n != 0 {
			t.Errorf("%s: %v allocations to seal a batch", k.name, n)
		}
		open, restock := v5OpenStep(t, k)
		restock(runs + 2)
		open()
		if n := testing.AllocsPerRun(runs, open); n != 0 {
			t.Errorf("%s: %v allocations to open a batch", k.name, n)
		}
	}
}

func BenchmarkV5(b *testing.B) {
	for _, k := range v5Kinds {
		b.Run("seal-"+k.name, func(b *testing.B) {
			step := v5SealStep(b, k)
			for n := 0; n < b.N; n += v5Batch {
				step()
			}
		})
	}
}
