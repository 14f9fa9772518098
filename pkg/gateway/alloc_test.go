package gateway

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"sealgate/pkg/mqttparse"
)

// step puts packets into a direction's input without copying more than a read would.
func (b *buffer) load(p []byte) {
	b.acquire()
	b.b = append(b.b[:0], p...)
	b.from = 0
}

func sealStep(tb testing.TB, b *bench, packet []byte) func() {
	b.c.upl = nullConn{}
	u := b.c.up
	return func() {
		u.in.load(packet)
		if err := u.transform(); err != nil {
			tb.Fatal(err)
		}
		if err := u.flush(); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestSealAllocations holds the budget of the hot path upwards: nothing.
func TestSealAllocations(t *testing.T) {
	puback := func(v mqttparse.Version) []byte { return mqttparse.AppendAck(nil, v, mqttparse.PUBACK, 7, 0) }
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		for qos := byte(0); qos < 2; qos++ {
			f := newFleet(t)
			b := newBench(t, f.rotate(1), v, Config{})
			packet := publishPacket(v, message("s/plant/line1/temperature", string(make([]byte, 100)), qos, uint16(qos)*7))
			step := sealStep(t, b, packet)
			run := step
			if qos > 0 { // the broker's acknowledgement frees the record
				b.c.dev = nullConn{}
				ack, d := puback(v), b.c.down
				b.fromBroker(t, mqttparse.AppendConnAck(nil, v, false, 0))
				b.c.dev = nullConn{}
				run = func() {
					step()
					d.in.load(ack)
					if err := d.transform(); err != nil {
						t.Fatal(err)
					}
					if err := d.flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			run()
			if n := testing.AllocsPerRun(1000, run); n != 0 {
				t.Errorf("%v QoS %d: %v allocations a message", v, qos, n)
			}
			if got := b.count(upSeal); got < 1000 {
				t.Errorf("%v QoS %d: only %d sealed", v, qos, got)
			}
		}
	}
}

// TestOpenAllocations holds the budget downwards.
func TestOpenAllocations(t *testing.T) {
	const runs = 1000
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		for qos := byte(0); qos < 2; qos++ {
			f := newFleet(t)
			b := newBench(t, f.rotate(1), v, Config{})
			b.connack(t, false)
			b.c.dev = nullConn{}
			s := f.sealer("default", "s/plant/line1/temperature")
			packets := make([][]byte, 0, runs+2)
			for range cap(packets) {
				packets = append(packets, publishPacket(v, s.next(string(make([]byte, 100)), qos, uint16(qos)*7)))
			}
			d, i := b.c.down, 0
			ack := mqttparse.AppendAck(nil, v, mqttparse.PUBACK, 7, 0)
			run := func() {
				d.in.load(packets[i])
				i++
				if err := d.transform(); err != nil {
					t.Fatal(err)
				}
				if err := d.flush(); err != nil {
					t.Fatal(err)
				}
				if qos > 0 {
					u := b.c.up
					u.in.load(ack)
					if err := u.transform(); err != nil {
						t.Fatal(err)
					}
					if err := u.flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			b.c.upl = nullConn{}
			run()
			if n := testing.AllocsPerRun(runs, run); n != 0 {
				t.Errorf("%v QoS %d: %v allocations a message", v, qos, n)
			}
			if got := b.count(downOpen); got != runs+2 {
				t.Errorf("%v QoS %d: only %d opened", v, qos, got)
			}
		}
	}
}

const benchTopic = "s/plant/line1/temperature"

// BenchmarkSeal compares scan, policy, seal and rewrite of a 100-byte QoS 0 PUBLISH with the
// AEAD alone on as many bytes, with as much additional data, in the same run.
func BenchmarkSeal(b *testing.B) {
	packet := publishPacket(mqttparse.V311, message(benchTopic, string(make([]byte, 100)), 0, 0))
	b.Run("aead", func(b *testing.B) {
		aead, nonce, aad := rawAEAD(b)
		plain, dst := make([]byte, 101), make([]byte, 0, 256)
		b.ReportAllocs()
		for b.Loop() {
			dst = aead.Seal(dst[:0], nonce, plain, aad)
		}
	})
	b.Run("chain", func(b *testing.B) {
		f := newFleet(b)
		step := sealStep(b, newBench(b, f.rotate(1), mqttparse.V311, Config{}), packet)
		b.ReportAllocs()
		for b.Loop() {
			step()
		}
	})
	b.Run("chain-batch64", func(b *testing.B) {
		f := newFleet(b)
		var batch []byte
		for range 64 {
			batch = append(batch, packet...)
		}
		step := sealStep(b, newBench(b, f.rotate(1), mqttparse.V311, Config{}), batch)
		b.ReportAllocs()
		for n := 0; n < b.N; n += 64 {
			step()
		}
	})
	b.Run("chain-qos1", func(b *testing.B) {
		f := newFleet(b)
		packet := publishPacket(mqttparse.V311, message(benchTopic, string(make([]byte, 100)), 1, 7))
		bb := newBench(b, f.rotate(1), mqttparse.V311, Config{})
		step := sealStep(b, bb, packet)
		for n := 0; b.Loop(); n++ {
			packet[len(packet)-1] = byte(n) // another message, not a re-sent one
			packet[len(packet)-2] = byte(n >> 8)
			step()
		}
	})
}

func rawAEAD(b *testing.B) (aead interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
}, nonce, aad []byte) {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	a, err := chacha20poly1305.New(key)
	if err != nil {
		b.Fatal(err)
	}
	// Enc_structure of this group and topic: 3 heads, "Encrypt0", protected, external.
	return a, make([]byte, 12), make([]byte, 14+1+1+8+1+len(benchTopic)+2+13)
}

// openStep opens a stock of packets, batch at a time, and makes a new stock when told to.
type openStep struct {
	tb    testing.TB
	b     *bench
	s     *sealer
	stock [][]byte
}

func newOpenStep(tb testing.TB) *openStep {
	f := newFleet(tb)
	o := &openStep{tb: tb, b: newBench(tb, f.rotate(1), mqttparse.V311, Config{}), s: f.sealer("default", benchTopic)}
	o.b.connack(tb, false)
	o.b.c.dev = nullConn{}
	return o
}

func (o *openStep) restock(packets, batch int) {
	payload := make([]byte, 100)
	for len(o.stock) < packets/batch {
		o.stock = append(o.stock, make([]byte, 0, 256*batch))
	}
	p := message(benchTopic, "", 0, 0)
	for i := range o.stock {
		b := o.stock[i][:0]
		for range batch {
			b = mqttparse.AppendPublishHeader(b, mqttparse.V311, &p, o.s.stream.Len(1+len(payload)))
			b, _, _ = o.s.stream.Seal(b, nil, payload)
		}
		o.stock[i] = b
	}
}

func (o *openStep) run() {
	d := o.b.c.down
	for _, p := range o.stock {
		d.in.load(p)
		if err := d.transform(); err != nil {
			o.tb.Fatal(err)
		}
		if err := d.flush(); err != nil {
			o.tb.Fatal(err)
		}
	}
}

// BenchmarkRatio runs the chain and the bare AEAD by turns, so that whatever else the machine
// does hits both, and reports the median of the quotients: the budget is 1.6. Reads and
// writes hold 16 messages, as under load.
func BenchmarkRatio(b *testing.B) {
	const messages, batch = 512, 16
	median := func(q []float64) float64 { slices.Sort(q); return q[len(q)/2] }
	timed := func(f func()) float64 { t := time.Now(); f(); return float64(time.Since(t)) }
	aead, nonce, aad := rawAEAD(b)
	plain, dst := make([]byte, 101), make([]byte, 0, 256)
	sealed := aead.Seal(nil, nonce, plain, aad)
	rawSeal := func() {
		for range messages {
			dst = aead.Seal(dst[:0], nonce, plain, aad)
		}
	}
	rawOpen := func() {
		for range messages {
			if _, err := aead.Open(dst[:0], nonce, sealed, aad); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("seal", func(b *testing.B) {
		f := newFleet(b)
		packet := bytes.Repeat(publishPacket(mqttparse.V311, message(benchTopic, string(make([]byte, 100)), 0, 0)), batch)
		step := sealStep(b, newBench(b, f.rotate(1), mqttparse.V311, Config{}), packet)
		var q []float64
		for b.Loop() {
			raw := timed(rawSeal)
			q = append(q, timed(func() {
				for range messages / batch {
					step()
				}
			})/raw)
		}
		b.ReportMetric(median(q), "x-aead")
	})
	b.Run("open", func(b *testing.B) {
		o := newOpenStep(b)
		var q []float64
		for b.Loop() {
			o.restock(messages, batch)
			raw := timed(rawOpen)
			q = append(q, timed(o.run)/raw)
		}
		b.ReportMetric(median(q), "x-aead")
	})
}
