package steer

import (
	"net/netip"
	"testing"

	"sealgate/test/lab"
)

// BenchmarkClassifier is the kernel's own measurement of one packet. A test run cannot assign: "steered" ends after both
// socket look-ups.
func BenchmarkClassifier(b *testing.B) {
	p := classifierFor(b)
	syn := func(port uint16) layer { return tcp(src4, dst4, 40000, port, flagSYN) }
	for name, f := range map[string][]byte{
		"UDP":       frame(ether(0x0800), ipv4(src4, dst4, protoUDP, 0), syn(1883)),
		"otherPort": frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), syn(1884)),
		"steered":   frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), syn(1883)),
	} {
		b.Run(name, func(b *testing.B) { p.measure(b, f) })
	}
}

// BenchmarkClassifierDevices is what BenchmarkClassifier's steered packet costs with devices known, limited and denied.
func BenchmarkClassifierDevices(b *testing.B) {
	p := classifierFor(b)
	k, err := newKernelDevices(p, DeviceRules{})
	if err != nil {
		b.Fatal(err)
	}
	defer k.clock.close()
	d := newDevices(&Options{Mode: ModeTC}, k)
	for i := range MaxDevices - 1 {
		d.admit(number(i))
	}
	packet := func(flags byte) []byte {
		return frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flags))
	}
	var full DeviceRules
	for i := range MaxDenied {
		full.DenyMACs = append(full.DenyMACs, MAC{2, 0, 0, 9, byte(i >> 8), byte(i)})
		full.DenyNets = append(full.DenyNets, netip.PrefixFrom(number(i<<4), 32))
	}
	for _, c := range []struct {
		name  string
		known bool
		rules DeviceRules
		flags byte
	}{
		{"unknown", false, DeviceRules{}, flagACK}, {"known", true, DeviceRules{}, flagACK}, {"knownSYN", true, DeviceRules{Every: 1, Burst: 10}, flagSYN},
		{"knownDenyList", true, full, flagACK},
	} {
		if c.known {
			d.admit(netip.MustParseAddr(src4))
		}
		if err := d.set(c.rules); err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) { p.measure(b, packet(c.flags)) })
	}
}

// classifierFor loads a classifier for port 1883 with a listener to assign to.
func classifierFor(b *testing.B) *program {
	b.Helper()
	lab.NeedRoot(b)
	p, err := loadProgram()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.close)
	l, err := openTransparent(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	if err := p.configure(l, []uint16{1883}); err != nil {
		b.Fatal(err)
	}
	return p
}

// measure has the kernel time one packet.
func (p *program) measure(b *testing.B, packet []byte) {
	_, each, err := p.objects.SealgateSteer.Benchmark(packet, max(b.N, 1000), b.ResetTimer)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
}
