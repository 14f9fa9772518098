package steer

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// from is a frame to the steered port.
func from(hw [6]byte, src string, flags byte) []byte {
	if netip.MustParseAddr(src).Is4() {
		return frame(eth(mac, hw[:], 0x0800), ipv4(src, dst4, protoTCP, 0), tcp(src, dst4, 40000, 1883, flags))
	}
	return frame(eth(mac, hw[:], 0x86dd), ipv6(src, dst6, protoTCP), tcp(src, dst6, 40000, 1883, flags))
}

// withDevices runs f with a classifier that steers, has no listener, and holds rules: what is let through is counted as
// without a listener.
func withDevices(t *testing.T, r DeviceRules, f func(d *devices, p *program)) {
	t.Helper()
	loadInNamespace(t, func(p *program) {
		if err := p.objects.SteerPortsMap.Put(uint16(1883), uint8(1)); err != nil {
			t.Fatal(err)
		}
		k, err := newKernelDevices(p, r)
		if err != nil {
			t.Fatal(err)
		}
		defer k.clock.close()
		f(newDevices(&Options{Mode: ModeTC, Devices: r}, k), p)
	})
}

var good, bad = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 0xbd}

func TestClassifierDenies(t *testing.T) {
	r := DeviceRules{DenyMACs: []MAC{bad}, DenyNets: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("198.51.0.0/16"), netip.MustParsePrefix("2001:db8:bad::/48"),
	}}
	withDevices(t, r, func(d *devices, p *program) {
		expect := func(hw [6]byte, src string, flags byte, counter int) {
			t.Helper()
			verdict, counted := run(t, p, from(hw, src, flags))
			if verdict != verdictShot || counted[counter] != 1 {
				t.Errorf("%x %s: verdict %d, counters %v; want one of %d", hw, src, int32(verdict), counted, counter)
			}
		}
		for _, flags := range []byte{flagSYN, flagACK, flagSYN | flagFIN} {
			expect(good, "192.0.2.1", flags, countNoListener)
			expect(good, "2001:db8::1", flags, countNoListener)
			expect(bad, "192.0.2.1", flags, countDenied)
			expect(bad, "2001:db8::1", flags, countDenied)
			expect(good, "192.0.2.7", flags, countDenied)
			expect(good, "198.51.100.3", flags, countDenied)
			expect(good, "198.52.100.3", flags, countNoListener)
			expect(good, "2001:db8:bad:1::5", flags, countDenied)
			expect(good, "2001:db8:bae::5", flags, countNoListener)
			expect(good, "::198.51.100.3", flags, countNoListener) // not the IPv4 address
		}
		if verdict, _ := run(t, p, frame(eth(mac, bad[:], 0x0800), ipv4(src4, dst4, protoTCP, 0), tcp(src4, dst4, 40000, 1884, flagSYN))); verdict != verdictUnspec {
			t.Errorf("a denied device's packet to another port: verdict %d", int32(verdict))
		}
		list := d.report(10).Denied
		for i, want := range []Denied{
			{Source: "02:00:00:00:00:bd", Packets: 6}, {Source: "192.0.2.7", Packets: 3}, {Source: "198.51.0.0/16", Packets: 3}, {Source: "2001:db8:bad::/48", Packets: 3},
		} {
			if got := list[i]; got.Source != want.Source || got.Packets != want.Packets || got.Idle < 0 || got.Idle > time.Minute {
				t.Errorf("denied: %+v; want %+v", got, want)
			}
		}

		r.DenyMACs, r.DenyNets = nil, r.DenyNets[1:]
		if err := d.set(r); err != nil {
			t.Fatal(err)
		}
		expect(bad, "192.0.2.7", flagSYN, countNoListener)
		expect(good, "198.51.100.3", flagSYN, countDenied)
		if got := d.report(10).Denied; len(got) != 2 || got[0].Packets != 4 {
			t.Errorf("after a reload: %+v", got)
		}
		if err := d.set(DeviceRules{}); err != nil {
			t.Fatal(err)
		}
		expect(good, "198.51.100.3", flagSYN, countNoListener)
	})
}

// Packets are counted of devices that have connected, and of nobody else.
func TestClassifierCounts(t *testing.T) {
	withDevices(t, DeviceRules{}, func(d *devices, p *program) {
		four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		run(t, p, from(good, "192.0.2.1", flagSYN))
		if _, ok := d.kernel.look(four); ok {
			t.Error("a packet made a record")
		}
		for _, a := range []netip.Addr{four, six} {
			if reason := d.admit(a); reason != "" {
				t.Fatal(reason)
			}
		}
		run(t, p, from(good, "192.0.2.1", flagACK))
		run(t, p, from(good, "192.0.2.1", flagACK))
		run(t, p, from(bad, "2001:db8::1", flagACK))
		run(t, p, from(bad, "2001:db8::2", flagACK))
		r := d.report(10)
		if len(r.Devices) != 2 || !r.Packets {
			t.Fatalf("%+v", r)
		}
		for _, got := range r.Devices {
			want := Device{Addr: four, MAC: good, Connections: 1, Packets: 2, Bytes: 2 * uint64(len(from(good, "192.0.2.1", flagACK)))}
			if got.Addr == six {
				want = Device{Addr: six, MAC: bad, Connections: 1, Packets: 1, Bytes: uint64(len(from(bad, "2001:db8::1", flagACK)))}
			}
			if got.Idle < 0 || got.Idle > time.Minute {
				t.Errorf("idle for %v", got.Idle)
			}
			if got.Idle = 0; got != want {
				t.Errorf("%+v; want %+v", got, want)
			}
		}
		joined := make([]byte, 192) // struct __sk_buff
		binary.NativeEndian.PutUint32(joined[164:], 5)
		if _, err := p.objects.SealgateSteer.Run(&ebpf.RunOptions{Data: from(bad, "2001:db8::1", flagACK), Context: joined}); err != nil {
			t.Fatal(err)
		}
		if c, _ := d.kernel.look(six); c.Packets != 6 {
			t.Errorf("one packet, and then one joined of five, count as %d", c.Packets)
		}
		d.set(DeviceRules{DenyMACs: []MAC{bad}})
		if d.denied(four) || !d.denied(six) {
			t.Error("the addresses of a denied MAC are not known")
		}
		asked := make(chan struct{}) // status is asked for at any time
		go func() { defer close(asked); d.report(10) }()
		d.close()
		<-asked
		if r := d.report(10); r.Packets || r.Known != 2 {
			t.Errorf("after the end: %+v", r)
		}
	})
}

// Who has made all connections that it may is held by the classifier; whoever has not, and what is no SYN, passes.
func TestClassifierHolds(t *testing.T) {
	r := DeviceRules{Every: time.Hour, Burst: 2}
	withDevices(t, r, func(d *devices, p *program) {
		counts := func(name string, frame []byte, counter int) {
			t.Helper()
			if _, counted := run(t, p, frame); counted[counter] != 1 {
				t.Errorf("%s: counters %v; want one of %d", name, counted, counter)
			}
		}
		a := netip.MustParseAddr("192.0.2.1")
		d.admit(a)
		counts("within the rate", from(good, "192.0.2.1", flagSYN), countNoListener)
		d.admit(a)
		counts("over the rate", from(good, "192.0.2.1", flagSYN), countLimited)
		counts("a connection that is open", from(good, "192.0.2.1", flagACK), countNoListener)
		counts("an answer", from(good, "192.0.2.1", flagSYN|flagACK), countNoListener)
		counts("another device", from(good, "192.0.2.2", flagSYN), countNoListener)
		if v := d.report(1).Devices[0]; v.Limited != 1 || v.Packets != 3 {
			t.Errorf("%+v", v)
		}
		r.Burst = 3
		if err := d.set(r); err != nil {
			t.Fatal(err)
		}
		counts("under another rate", from(good, "192.0.2.1", flagSYN), countNoListener)

		// A hold ends by itself.
		now, err := d.kernel.clock.now()
		if err != nil || now == 0 {
			t.Fatal(now, err)
		}
		if err := p.objects.SteerHoldMap.Put(keyOf(a), now); err != nil {
			t.Fatal(err)
		}
		counts("a hold that has ended", from(good, "192.0.2.1", flagSYN), countNoListener)
	})
}

// 100,000 made-up sources change nothing for those who are denied, limited or known, and take no room.
func TestMadeUpSources(t *testing.T) {
	r := DeviceRules{DenyMACs: []MAC{bad}, DenyNets: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}, Every: time.Hour, Burst: 1}
	withDevices(t, r, func(d *devices, p *program) {
		a := netip.MustParseAddr("192.0.2.1")
		d.admit(a)
		run(t, p, from(good, "192.0.2.1", flagACK))
		f := from(good, "10.0.0.0", flagSYN)
		for i := range 100_000 {
			binary.BigEndian.PutUint32(f[26:], uint32(0x0a000000+i)) // the source address
			binary.BigEndian.PutUint32(f[8:], uint32(i))             // and four bytes of the MAC
			if _, err := p.objects.SealgateSteer.Run(&ebpf.RunOptions{Data: f}); err != nil {
				t.Fatal(err)
			}
		}
		n, key, value := 0, deviceKey{}, deviceCount{}
		for it := p.objects.SteerDevicesMap.Iterate(); it.Next(&key, &value); {
			n++
		}
		if n != 1 || len(d.known) != 1 {
			t.Errorf("%d devices in the kernel, %d known; want one", n, len(d.known))
		}
		for name, f := range map[string][]byte{"denied by MAC": from(bad, "10.0.0.5", flagSYN), "denied by address": from(good, "192.0.2.7", flagSYN)} {
			if _, counted := run(t, p, f); counted[countDenied] != 1 {
				t.Errorf("%s: counters %v", name, counted)
			}
		}
		if _, counted := run(t, p, from(good, "192.0.2.1", flagSYN)); counted[countLimited] != 1 {
			t.Errorf("limited: counters %v", counted)
		}
		if v := d.report(1).Devices[0]; v.Addr != a || v.Packets != 1 {
			t.Errorf("%+v", v)
		}
	})
}

// The longest deny list can follow another. Where the kernel refuses an entry, all goes on as before.
func TestReplaceDenyList(t *testing.T) {
	withDevices(t, DeviceRules{}, func(d *devices, p *program) {
		long := func(second byte) (r DeviceRules) {
			for i := range MaxDenied {
				r.DenyNets = append(r.DenyNets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, byte(i >> 8), byte(i)}), 32))
				r.DenyMACs = append(r.DenyMACs, MAC{2, 0, 0, second, byte(i >> 8), byte(i)})
			}
			return r
		}
		counts := func(name, src string, counter int) {
			t.Helper()
			if _, counted := run(t, p, from(good, src, flagSYN)); counted[counter] != 1 {
				t.Errorf("%s: counters %v; want one of %d", name, counted, counter)
			}
		}
		for _, r := range []DeviceRules{long(1), long(2)} {
			if err := d.set(r); err != nil {
				t.Fatal(err)
			}
		}
		counts("the list in force", "10.2.3.255", countDenied)
		counts("the list before", "10.1.3.255", countNoListener)
		for i := range MaxDenied { // not of the table's making
			if err := addKey(p.objects.SteerDenyNetsMap, keyOfNet(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}), 32))); err != nil {
				t.Fatal(err)
			}
		}
		r := long(2)
		r.DenyNets[MaxDenied-1] = netip.MustParsePrefix("172.16.0.0/12")
		r.DenyMACs[0] = good
		if err := d.set(r); err == nil {
			t.Fatal("a full map takes more")
		}
		counts("after a refused change, the list in force", "10.2.3.255", countDenied)
		counts("after a refused change, what it brought", "172.16.0.1", countNoListener)
	})
}

// What the classifier tells of new connections, and that it goes on when nobody listens.
func TestClassifierTells(t *testing.T) {
	r := DeviceRules{DenyMACs: []MAC{bad}, Every: time.Hour, Burst: 1}
	withDevices(t, r, func(d *devices, p *program) {
		hear := func() (e deviceEvent, ok bool) {
			return e, p.objects.SteerEventsMap.LookupAndDelete(nil, &e) == nil
		}
		d.admit(netip.MustParseAddr("192.0.2.9"))
		for i, c := range []struct {
			hw   [6]byte
			src  string
			kind uint32
		}{{good, "192.0.2.1", eventNew}, {good, "2001:db8::1", eventNew}, {bad, "192.0.2.1", eventDenied}, {good, "192.0.2.9", eventLimited}} {
			run(t, p, from(c.hw, c.src, flagACK)) // nothing is told of it
			run(t, p, from(c.hw, c.src, flagSYN))
			want := deviceEvent{Address: keyOf(netip.MustParseAddr(c.src)), MAC: keyOfMAC(c.hw), Kind: c.kind, Port: 40000}
			if e, ok := hear(); !ok || e != want {
				t.Errorf("%d: told of %+v, %t; want %+v", i, e, ok, want)
			}
		}
		if _, ok := hear(); ok {
			t.Error("more was told than has happened")
		}
		lost := uint64(0)
		for range maxEvents + 1 {
			_, counted := run(t, p, from(good, "192.0.2.1", flagSYN))
			lost += counted[countUntold]
			if counted[countNoListener] != 1 {
				t.Fatalf("counters %v", counted)
			}
		}
		if lost != 1 {
			t.Errorf("%d events found no room; want 1", lost)
		}
	})
}

func TestDeviceMapSizes(t *testing.T) {
	loadInNamespace(t, func(p *program) {
		o := p.objects
		for m, want := range map[*ebpf.Map]uint32{
			o.SteerDevicesMap: MaxDevices, o.SteerHoldMap: MaxDevices, o.SteerDenyMacsMap: 2 * MaxDenied, o.SteerDenyNetsMap: 2 * MaxDenied, o.SteerEventsMap: maxEvents,
		} {
			if m.MaxEntries() != want {
				t.Errorf("%v holds %d; want %d", m, m.MaxEntries(), want)
			}
		}
	})
}
