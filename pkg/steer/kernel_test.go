package steer

import (
	"context"
	"net"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// The verdicts of linux/pkt_cls.h.
const (
	verdictUnspec = ^uint32(0)
	verdictOK     = 0
	verdictShot   = 2
)

const (
	src4, dst4 = "192.0.2.1", "198.51.100.2"
	src6, dst6 = "2001:db8::1", "2001:db8:1::2"
)

var mac = []byte{2, 0, 0, 0, 0, 1}

func ether(proto uint16) layer { return eth(mac, mac, proto) }

const passed = -1 // no counter

// classifierCases are what the classifier makes of a frame when it has no listener: the verdict, and the counter that
// says why. noListener stands for "steered".
var classifierCases = []struct {
	name    string
	frame   []byte
	counter int // passed: not ours
}{
	{"IPv4", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flagSYN)), countNoListener},
	{"IPv4 other port", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1884, flagSYN)), passed},
	{"IPv4 from the port", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 1883, 40000, flagSYN)), passed},
	{"IPv4 do not fragment", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0x4000), tcp(src4, dst4, 40000, 1883, flagSYN)), countNoListener},
	{"IPv4 longest options", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0, make([]byte, 40)...), tcp(src4, dst4, 40000, 1883, flagSYN)), countNoListener},
	{"IPv4 SYN and FIN", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flagSYN|flagFIN)), countNoListener},
	{"IPv4 data", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flagACK), raw(make([]byte, 100))), countNoListener},
	{"IPv4 UDP", frame(ether(0x0800), ipv4(src4, dst4, protoUDP, 0), tcp(src4, dst4, 40000, 1883, 0)), passed},
	{"IPv4 first fragment", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0x2000), tcp(src4, dst4, 40000, 1883, flagSYN)), countFragment},
	{"IPv4 tiny fragment", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0x2000), cut(8), tcp(src4, dst4, 40000, 1883, flagSYN)), countFragment},
	{"IPv4 later fragment", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 1), raw(make([]byte, 64))), countFragment},
	{"IPv4 UDP fragment", frame(ether(0x0800), ipv4(src4, dst4, protoUDP, 0x2000), raw(make([]byte, 64))), passed},
	{"IPv4 TCP header cut off", frame(ether(0x0800), ipv4(src4, dst4, protoTCP, 0), cut(19), tcp(src4, dst4, 40000, 1883, flagSYN)), countTruncated},
	{"IPv4 options cut off", frame(ether(0x0800), raw([]byte{0x4f}), cut(30), func(b []byte) []byte { return b[1:] }, ipv4(src4, dst4, protoTCP, 0), raw(make([]byte, 20))), countTruncated},
	{"IPv4 authentication header", frame(ether(0x0800), ipv4(src4, dst4, 51, 0), raw([]byte("\x06\x02\x00\x00spi1seq1icv1")), tcp(src4, dst4, 40000, 1883, flagSYN)), countExtension},
	{"ARP", frame(ether(0x0806), raw(make([]byte, 28))), passed},

	{"IPv6", frame(ether(0x86dd), ipv6(src6, dst6, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN)), countNoListener},
	{"IPv6 other port", frame(ether(0x86dd), ipv6(src6, dst6, protoTCP), tcp(src6, dst6, 40000, 1884, flagSYN)), passed},
	{"IPv6 UDP", frame(ether(0x86dd), ipv6(src6, dst6, protoUDP), tcp(src6, dst6, 40000, 1883, 0)), passed},
	{"IPv6 one extension header", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), extensions(1, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN)), countNoListener},
	{"IPv6 most extension headers", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), extensions(maxExtensions, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN)), countNoListener},
	{"IPv6 most extension headers, other port", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), extensions(maxExtensions, protoTCP), tcp(src6, dst6, 40000, 1884, flagSYN)), passed},
	{"IPv6 too many extension headers", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), extensions(maxExtensions+1, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN)), countExtension},
	{"IPv6 extension header cut off", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), cut(1), extensions(1, protoTCP)), countTruncated},
	{"IPv6 extension header past the end", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), raw([]byte{protoTCP, 255, 1, 4, 0, 0, 0, 0}), raw(make([]byte, 64))), countTruncated},
	{"IPv6 no next header", frame(ether(0x86dd), ipv6(src6, dst6, 59), raw(make([]byte, 64))), passed},
	{"IPv6 first fragment", frame(ether(0x86dd), ipv6(src6, dst6, protoFragment), fragmentHeader(protoTCP, 0, true), tcp(src6, dst6, 40000, 1883, flagSYN)), countFragment},
	{"IPv6 later fragment", frame(ether(0x86dd), ipv6(src6, dst6, protoFragment), fragmentHeader(protoTCP, 8, false), raw(make([]byte, 64))), countFragment},
	{"IPv6 fragment of one", frame(ether(0x86dd), ipv6(src6, dst6, protoFragment), fragmentHeader(protoTCP, 0, false), tcp(src6, dst6, 40000, 1883, flagSYN)), countFragment},
	{"IPv6 fragment of an extension header", frame(ether(0x86dd), ipv6(src6, dst6, protoFragment), fragmentHeader(protoDstOpts, 8, true), raw(make([]byte, 64))), countFragment},
	{"IPv6 fragment behind an extension header", frame(ether(0x86dd), ipv6(src6, dst6, protoDstOpts), extensions(1, protoFragment), fragmentHeader(protoTCP, 8, true), raw(make([]byte, 64))), countFragment},
	{"IPv6 UDP fragment", frame(ether(0x86dd), ipv6(src6, dst6, protoFragment), fragmentHeader(protoUDP, 8, true), raw(make([]byte, 64))), passed},

	{"VLAN", frame(ether(0x8100), vlan(7, 0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flagSYN)), countVLAN},
	{"VLAN other port", frame(ether(0x8100), vlan(7, 0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1884, flagSYN)), passed},
	{"most VLAN tags", frame(ether(0x88a8), vlan(7, 0x8100), vlan(8, 0x86dd), ipv6(src6, dst6, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN)), countVLAN},
	{"too many VLAN tags", frame(ether(0x88a8), vlan(7, 0x8100), vlan(8, 0x8100), vlan(9, 0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1884, flagSYN)), countVLAN},
	{"VLAN ARP", frame(ether(0x8100), vlan(7, 0x0806), raw(make([]byte, 28))), passed},
}

// loadInNamespace runs f with the loaded program in an empty namespace, on the test's own goroutine. The thread stays
// locked, so that it ends with the test and nobody else runs in that namespace.
func loadInNamespace(t *testing.T, f func(p *program)) {
	t.Helper()
	lab.NeedRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	p, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	f(p)
}

// run sends one frame through the classifier and returns its verdict and what it counted.
func run(t *testing.T, p *program, b []byte) (verdict uint32, counted [counters]uint64) {
	t.Helper()
	before, err := p.counters()
	if err != nil {
		t.Fatal(err)
	}
	verdict, err = p.objects.SealgateSteer.Run(&ebpf.RunOptions{Data: b})
	if err != nil {
		t.Fatalf("run the classifier on %x: %v", b, err)
	}
	counted, err = p.counters()
	if err != nil {
		t.Fatal(err)
	}
	for i := range counted {
		counted[i] -= before[i]
	}
	return verdict, counted
}

// TestLayout holds layout.go against bpf/steer.h and the parser against frames, inside the kernel.
func TestLayout(t *testing.T) {
	loadInNamespace(t, func(p *program) {
		if err := p.objects.SteerPortsMap.Put(uint16(1883), uint8(1)); err != nil {
			t.Fatal(err)
		}
		for _, c := range classifierCases {
			want, wantVerdict := [counters]uint64{}, uint32(verdictUnspec)
			if c.counter != passed {
				want[c.counter], wantVerdict = 1, verdictShot
			}
			if verdict, counted := run(t, p, c.frame); verdict != wantVerdict || counted != want {
				t.Errorf("%s: verdict %d, counters %v; want %d, %v", c.name, int32(verdict), counted, int32(wantVerdict), want)
			}
		}
	})
}

// The sizes that both sides name. A wrong offset inside the configuration shows in TestFindsListener.
func TestMapSizes(t *testing.T) {
	loadInNamespace(t, func(p *program) {
		if n := p.objects.SteerPortsMap.MaxEntries(); n != MaxPorts {
			t.Errorf("the ports map holds %d; MaxPorts is %d", n, MaxPorts)
		}
		if n := p.objects.SteerCountersMap.MaxEntries(); n != counters {
			t.Errorf("the classifier has %d counters, the loader %d", n, counters)
		}
		deep := frame(ether(0x88a8), vlan(7, 0x8100), vlan(8, 0x0800))
		if tags := (len(deep) - 14) / 4; tags != maxTags {
			t.Errorf("the deepest frame of classifierCases has %d tags; maxTags is %d", tags, maxTags)
		}
	})
}

// TestFindsListener goes as far as a test run can: the kernel refuses to assign outside real ingress, which is counted
// as failed. Reaching that point takes port, mark and flags at their right places.
func TestFindsListener(t *testing.T) {
	steered4, steered6 := classifierCases[0].frame, frame(ether(0x86dd), ipv6(src6, dst6, protoTCP), tcp(src6, dst6, 40000, 1883, flagSYN))
	loadInNamespace(t, func(p *program) {
		l, err := openTransparent(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := p.configure(l, []uint16{1883}); err != nil {
			t.Fatal(err)
		}
		expect := func(name string, b []byte, counter int) {
			t.Helper()
			want := [counters]uint64{}
			want[counter] = 1
			if verdict, counted := run(t, p, b); verdict != verdictShot || counted != want {
				t.Errorf("%s: verdict %d, counters %v; want %v", name, int32(verdict), counted, want)
			}
		}
		expect("IPv4", steered4, countFailed)
		expect("IPv6", steered6, countFailed)

		var c classifierConfig
		if err := p.objects.SteerConfigMap.Lookup(uint32(0), &c); err != nil {
			t.Fatal(err)
		}
		put := func(c classifierConfig) {
			if err := p.write(c); err != nil {
				t.Fatal(err)
			}
		}
		put(classifierConfig{c.Port, c.Mark + 1, c.Flags})
		expect("a stranger on our port", steered4, countNoListener)
		put(classifierConfig{c.Port, c.Mark, c.Flags &^ flagListenerIPv6})
		expect("listener of another family", steered4, countNoListener)
		put(c)
		l.Close()
		expect("listener gone", steered6, countNoListener)
	})
}

// A tagged packet is left to a VLAN interface on top only when that one is steered.
func TestPassTagged(t *testing.T) {
	tagged := frame(ether(0x8100), vlan(7, 0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1883, flagSYN))
	loadInNamespace(t, func(p *program) {
		if err := p.objects.SteerPortsMap.Put(uint16(1883), uint8(1)); err != nil {
			t.Fatal(err)
		}
		for _, pass := range []bool{true, false} {
			if err := p.passTagged(pass); err != nil {
				t.Fatal(err)
			}
			if verdict, _ := run(t, p, tagged); (verdict == verdictUnspec) != pass {
				t.Errorf("passTagged(%t): verdict %d", pass, int32(verdict))
			}
		}
	})
}

// A listener that only takes IPv4, as where the kernel has no IPv6.
func TestFindsIPv4Listener(t *testing.T) {
	loadInNamespace(t, func(p *program) {
		lc := net.ListenConfig{}
		l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := p.configure(l.(*net.TCPListener), []uint16{1883}); err != nil {
			t.Fatal(err)
		}
		var c classifierConfig
		if err := p.objects.SteerConfigMap.Lookup(uint32(0), &c); err != nil {
			t.Fatal(err)
		}
		if err := p.write(classifierConfig{c.Port, 0, c.Flags}); err != nil { // this listener carries no mark
			t.Fatal(err)
		}
		if _, counted := run(t, p, classifierCases[0].frame); counted[countFailed] != 1 {
			t.Errorf("counters %v: the listener was not found", counted)
		}
	})
}
