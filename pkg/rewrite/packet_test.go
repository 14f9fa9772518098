package rewrite

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"testing"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var packets = map[string]Packet{
	"SYN, IPv4": {Src: addr("192.0.2.1:40000"), Dst: addr("198.51.100.9:1883"), TTL: 64,
		Segment: Segment{Seq: 7, Flags: SYN, Window: 64240, MSS: 1460, WindowScale: 7, SACKAllowed: true, Timestamps: true, TSVal: 9}},
	"data, IPv6": {Src: addr("[2001:db8::1]:40000"), Dst: addr("[2001:db8::2]:1883"), TTL: 63, Class: 0xb8,
		Segment: Segment{Seq: 1<<32 - 2, Ack: 3, Flags: ACK | PSH, Window: 501, WindowScale: -1, Data: []byte("odd number of bytes")}},
	"SACK": {Src: addr("192.0.2.1:1"), Dst: addr("192.0.2.2:65535"), TTL: 1,
		Segment: Segment{Seq: 1, Ack: 2, Flags: ACK, WindowScale: -1, Timestamps: true, TSVal: 1, TSEcr: 2, SACK: [3][2]uint32{{5, 6}, {8, 9}, {1<<32 - 1, 1}}, SACKs: 3}},
	"FIN": {Src: addr("192.0.2.1:1"), Dst: addr("192.0.2.2:2"), TTL: 2, Segment: Segment{Seq: 1, Ack: 2, Flags: ACK | FIN, WindowScale: -1}},
}

// What is written is read back, and its checksums hold.
func TestPacket(t *testing.T) {
	for name, p := range packets {
		b := p.Append([]byte("before"))[6:]
		var got Packet
		if err := Parse(append(bytes.Clone(b), "trailer of the link"...), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !got.Intact() {
			t.Errorf("%s: the checksum is said to be wrong", name)
		}
		for _, at := range []int{p.header() - 1, p.header(), len(b) - 1} { // an address, the header, the last byte
			damaged := bytes.Clone(b)
			damaged[at] ^= 1
			var bad Packet
			if err := Parse(damaged, &bad); err != nil || bad.Intact() {
				t.Errorf("%s: byte %d was changed: %v, and the checksum is said to be right", name, at, err)
			}
		}
		got.tcp = nil
		if len(got.Segment.Data) == 0 {
			got.Segment.Data = nil
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%s:\n%+v\n%+v", name, got, p)
		}
		head := p.header()
		if head == ipv4Header && fold(sum(b[:head])) != 0xffff {
			t.Errorf("%s: the checksum of the IP header is wrong", name)
		}
		pseudo := uint32(protoTCP + len(b) - head)
		for _, a := range []netip.Addr{p.Src.Addr(), p.Dst.Addr()} {
			pseudo += sum(a.AsSlice())
		}
		if fold(pseudo+sum(b[head:])) != 0xffff {
			t.Errorf("%s: the checksum of the segment is wrong", name)
		}
	}
}

// A packet as Linux 6.18 has sent it.
func TestCaptured(t *testing.T) {
	b, _ := hex.DecodeString("4500003c8b8b40004006" + "b12e" + "7f0000017f000001" + "9c40075b000000010000000" + "0a002ffd7fe300000" + "0204ffd70402080a0000000100000000" + "01030307")
	var p Packet
	if err := Parse(b, &p); err != nil {
		t.Fatal(err)
	}
	want := Segment{Seq: 1, Flags: SYN, Window: 65495, MSS: 65495, WindowScale: 7, SACKAllowed: true, Timestamps: true, TSVal: 1, Data: []byte{}}
	if !reflect.DeepEqual(p.Segment, want) {
		t.Errorf("%+v", p.Segment)
	}
}

func TestParseRefuses(t *testing.T) {
	p := packets["SYN, IPv4"]
	good := p.Append(nil)
	six := packets["data, IPv6"]
	good6 := six.Append(nil)
	edit := func(b []byte, change func(b []byte)) []byte {
		b = bytes.Clone(b)
		change(b)
		return b
	}
	extended := func(next byte, n int) []byte {
		b := append(bytes.Clone(good6[:ipv6Header]), bytes.Repeat([]byte{next, 0, 0, 0, 0, 0, 0, 0}, n)...)
		b = append(b, good6[ipv6Header:]...)
		b[6], b[5] = next, b[5]+byte(8*n)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":            {nil, ErrCut},
		"version 5":          {edit(good, func(b []byte) { b[0] = 0x55 }), ErrNotTCP},
		"cut":                {good[:len(good)-1], ErrCut},
		"IHL below 5":        {edit(good, func(b []byte) { b[0] = 0x44 }), ErrCut},
		"UDP":                {edit(good, func(b []byte) { b[9] = 17 }), ErrNotTCP},
		"first fragment":     {edit(good, func(b []byte) { b[6] = 0x20 }), ErrFragment},
		"later fragment":     {edit(good, func(b []byte) { b[7] = 1 }), ErrFragment},
		"data offset 4":      {edit(good, func(b []byte) { b[32] = 0x40 }), ErrCut},
		"data offset 15":     {edit(good, func(b []byte) { b[32] = 0xf0 }), ErrCut},
		"option of length 1": {edit(good, func(b []byte) { b[41] = 1 }), ErrOptions},
		"option overruns":    {edit(good, func(b []byte) { b[41] = 40 }), ErrOptions},
		"MD5":                {edit(good, func(b []byte) { b[40] = 19 }), ErrSigned},
		"IPv6 cut":           {good6[:len(good6)-1], ErrCut},
		"IPv6 fragment":      {extended(44, 1), ErrFragment},
		"IPv6 endless":       {extended(0, 8), ErrNotTCP},
		"IPv6 unknown next":  {edit(good6, func(b []byte) { b[6] = 50 }), ErrNotTCP},
	} {
		if err := Parse(c.b, &p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, not %v", name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range packets {
		f.Add(p.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again Packet
		if Parse(b, &p) != nil {
			return
		}
		out := p.Append(nil)
		if err := Parse(out, &again); err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if !again.Intact() {
			t.Fatal("what was written has a wrong checksum")
		}
		p.tcp, again.tcp = nil, nil
		if len(p.Segment.Data) == 0 {
			p.Segment.Data, again.Segment.Data = nil, nil
		}
		if !reflect.DeepEqual(p, again) {
			t.Fatalf("%+v\n%+v", p, again)
		}
	})
}
