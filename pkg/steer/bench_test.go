package steer

import (
	"testing"

	"sealgate/test/lab"
)

// BenchmarkClassifier is the kernel's own measurement of one packet. A test run cannot assign: "steered" ends after both
// socket look-ups.
func BenchmarkClassifier(b *testing.B) {
	lab.NeedRoot(b)
	p, err := loadProgram()
	if err != nil {
		b.Fatal(err)
	}
	defer p.close()
	l, err := openTransparent(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := p.configure(l, []uint16{1883}); err != nil {
		b.Fatal(err)
	}
	syn := func(port uint16) layer { return tcp(src4, dst4, 40000, port, flagSYN) }
	for name, f := range map[string][]byte{
		"UDP":       frame(ether(0x0800), ipv4(src4, dst4, protoUDP, 0), syn(1883)),
		"otherPort": frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), syn(1884)),
		"steered":   frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), syn(1883)),
	} {
		b.Run(name, func(b *testing.B) {
			_, each, err := p.objects.SealgateSteer.Benchmark(f, max(b.N, 1000), b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
		})
	}
}
