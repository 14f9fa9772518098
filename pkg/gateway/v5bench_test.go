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

// v5Kinds are the packets compared.
var v5Kinds = []struct {
	name  string
	v     mqttparse.Version
	props []byte
}{
	{"v311", mqttparse.V311, nil},
	{"v5", mqttparse.V5, nil},
	{"v5-usual", mqttparse.V5, usualProps},
	{"v5-request", mqttparse.V5, requestProps},
}

const v5Batch = 16

func v5SealStep(tb testing.TB, v mqttparse.Version, props []byte) func() {
	f := newFleet(tb)
	m := message(benchTopic, string(make([]byte, 100)), 0, 0)
	m.Properties = props
	return sealStep(tb, newBench(tb, f.rotate(1), v, Config{}), bytes.Repeat(publishPacket(v, m), v5Batch))
}

// v5OpenStep gives a step that opens a batch, and one that makes n more batches for it.
func v5OpenStep(tb testing.TB, v mqttparse.Version, props []byte) (step func(), restock func(n int)) {
	f := newFleet(tb)
	b := newBench(tb, f.rotate(1), v, Config{})
	b.connack(tb, false)
	b.c.dev = nullConn{}
	s := f.sealer("default", benchTopic)
	var split propertySplit
	split.split(props)
	var stock [][]byte
	next := 0
	restock = func(n int) {
		p := message(benchTopic, "", 0, 0)
		p.Properties = split.outer
		payload := make([]byte, 100)
		for next = 0; len(stock) < n; {
			stock = append(stock, nil)
		}
		for i := range stock {
			out := stock[i][:0]
			for range v5Batch {
				out = mqttparse.AppendPublishHeader(out, v, &p, s.stream.Len(mqttparse.VarintLen(len(split.inner))+len(split.inner)+len(payload)))
				out, _, _ = s.stream.Seal(out, split.inner, payload)
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

// BenchmarkRatioV5 runs MQTT 5, without properties and with, and MQTT 3.1.1 by turns, and reports the median of the
// quotients: the budget is 1.3.
func BenchmarkRatioV5(b *testing.B) {
	const rounds = 32
	median := func(q []float64) float64 { slices.Sort(q); return q[len(q)/2] }
	timed := func(step func()) float64 {
		t := time.Now()
		for range rounds {
			step()
		}
		return float64(time.Since(t))
	}
	b.Run("seal", func(b *testing.B) {
		var steps []func()
		for _, k := range v5Kinds {
			steps = append(steps, v5SealStep(b, k.v, k.props))
		}
		q := make([][]float64, len(steps))
		for b.Loop() {
			base := timed(steps[0])
			for i, step := range steps[1:] {
				q[i] = append(q[i], timed(step)/base)
			}
		}
		for i, k := range v5Kinds[1:] {
			b.ReportMetric(median(q[i]), k.name+"-x-311")
		}
	})
	b.Run("open", func(b *testing.B) {
		var steps []func()
		var restock []func(int)
		for _, k := range v5Kinds {
			s, r := v5OpenStep(b, k.v, k.props)
			steps, restock = append(steps, s), append(restock, r)
		}
		q := make([][]float64, len(steps))
		for b.Loop() {
			for _, r := range restock {
				r(rounds)
			}
			base := timed(steps[0])
			for i, step := range steps[1:] {
				q[i] = append(q[i], timed(step)/base)
			}
		}
		for i, k := range v5Kinds[1:] {
			b.ReportMetric(median(q[i]), k.name+"-x-311")
		}
	})
}

// TestPropertiesDoNotAllocate holds the budget of messages with properties, both ways, and of those that have to be
// moved to their header: nothing.
func TestPropertiesDoNotAllocate(t *testing.T) {
	const runs = 100
	for _, k := range append(v5Kinds, struct {
		name  string
		v     mqttparse.Version
		props []byte
	}{"v311 of v5", mqttparse.V311, []byte("\x03\x00\x10application/json")}) {
		seal := v5SealStep(t, k.v, k.props)
		seal()
		if n := testing.AllocsPerRun(runs, seal); n != 0 {
			t.Errorf("%s: %v allocations to seal a batch", k.name, n)
		}
		open, restock := v5OpenStep(t, k.v, k.props)
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
			step := v5SealStep(b, k.v, k.props)
			for n := 0; n < b.N; n += v5Batch {
				step()
			}
		})
	}
}
