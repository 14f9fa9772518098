package gateway

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// padding is a fleet whose group "default" hides lengths in multiples of 64 bytes.
func (f *fleet) padding() *fleet {
	f.tb.Helper()
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers, g.Pad = []string{"s/#"}, []string{"gw1"}, 64
	table, err := (&policy.Document{Fleet: "plant", Version: 1, Unmatched: "pass", Groups: []policy.Group{g}}).Table()
	if err != nil {
		f.tb.Fatal(err)
	}
	f.table = table
	return f
}

const (
	contentType = "\x03\x00\x0atext/plain"
	userProp    = "\x26\x00\x01u\x00\x01v"
	expiry      = "\x02\x00\x00\x00\x09"
	format      = "\x01\x01"
)

// What one gateway pads another delivers as it was, whatever its version and its properties.
func TestPaddedAndOpened(t *testing.T) {
	versions := []mqttparse.Version{mqttparse.V311, mqttparse.V5}
	for _, from := range versions {
		for _, to := range versions {
			for qos := byte(0); qos < 3; qos++ {
				t.Run(fmt.Sprintf("%v-%v-qos%d", from, to, qos), func(t *testing.T) {
					f := newFleet(t).padding()
					up, down := newBench(t, f.rotate(1), from, Config{}), newBench(t, f.state(), to, Config{})
					up.connack(t, false)
					down.connack(t, false)
					id := uint16(0)
					for _, n := range []int{0, 1, 60, 61, 62, 100, 125, 126, 127, 128, 200, 16300, 16384} {
						for _, props := range []string{"", expiry, contentType, expiry + contentType + userProp} {
							id += uint16(qos+1) / 2
							p := message("s/x", strings.Repeat("p", n), qos, id)
							if from == mqttparse.V5 {
								p.Properties = []byte(props)
							}
							padRoundTrip(t, f, up, down, p)
						}
					}
				})
			}
		}
	}
}

func padRoundTrip(t *testing.T, f *fleet, up, down *bench, p mqttparse.Publish) {
	t.Helper()
	sent := publishes(t, up.c.version, up.fromDevice(t, publishPacket(up.c.version, p)))
	if len(sent) != 1 {
		t.Fatalf("%d messages on the uplink", len(sent))
	}
	if env, _, _ := f.unseal("default", sent[0]); (len(env.Ciphertext)-16)%64 != 0 {
		t.Fatalf("inner plaintext of %d bytes", len(env.Ciphertext)-16)
	}
	if down.c.version != mqttparse.V5 {
		sent[0].Properties = nil
	} else if p.PacketID%2 == 1 { // content properties that somebody put outside
		sent[0].Properties = append(bytes.Clone(sent[0].Properties), format...)
	}
	got := down.receive(t, sent[0])
	want := p.Properties
	if down.c.version != mqttparse.V5 {
		want = nil
	}
	if len(got) != 1 || !bytes.Equal(got[0].Payload, p.Payload) || string(got[0].Topic) != "s/x" || !bytes.Equal(got[0].Properties, want) || got[0].PacketID != p.PacketID {
		t.Fatalf("%d bytes with properties % x: delivered %d: %+v", len(p.Payload), p.Properties, len(got), got)
	}
}

// Lengths that the group does not tell apart look alike, and a re-sent message is the same bytes.
func TestPaddingHidesLengths(t *testing.T) {
	f := newFleet(t).padding()
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	b.connack(t, false)
	size := func(n int) int {
		return len(b.fromDevice(t, publishPacket(b.c.version, message("s/x", strings.Repeat("p", n), 0, 0))))
	}
	if a, z, over := size(0), size(61), size(62); a != z || over != a+65 { // one more byte of Remaining Length
		t.Errorf("0, 61 and 62 bytes become %d, %d and %d", a, z, over)
	}
	m := message("s/x", "once more", 1, 7)
	first := bytes.Clone(b.fromDevice(t, publishPacket(b.c.version, m)))
	m.Dup = true
	again := bytes.Clone(b.fromDevice(t, publishPacket(b.c.version, m)))
	first[0] |= 8
	if !bytes.Equal(first, again) {
		t.Errorf("sent again as % x, first % x", again, first)
	}
	m.Payload = []byte("once MORE")
	if other := b.fromDevice(t, publishPacket(b.c.version, m)); bytes.Equal(other[:40], again[:40]) || len(other) != len(again) {
		t.Error("another message under the packet id of the first went out under its number")
	}
}

// A policy that takes padding into use or out of it counts from the next message, in the same stream.
func TestPaddingChangesWithThePolicy(t *testing.T) {
	f := newFleet(t)
	plain := f.table
	b := newBench(t, f.rotate(1), mqttparse.V311, Config{})
	var streams []crypto.StreamID
	var sizes []int
	for _, table := range []*policy.Table{plain, f.padding().table, plain} {
		f.table = table
		b.g.SetState(f.state())
		p := publishes(t, b.c.version, b.fromDevice(t, publishPacket(b.c.version, message("s/x", "21.5", 0, 0))))[0]
		env, _, payload := f.unseal("default", p)
		streams, sizes = append(streams, env.Kid.StreamID()), append(sizes, len(env.Ciphertext)-16)
		if string(payload) != "21.5" {
			t.Errorf("opened to %q", payload)
		}
	}
	if streams[0] != streams[1] || streams[1] != streams[2] || fmt.Sprint(sizes) != "[5 64 5]" {
		t.Errorf("streams %v, inner plaintexts of %v bytes", streams, sizes)
	}
}

func TestWillIsPadded(t *testing.T) {
	f := newFleet(t).padding()
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev := ts.dial()
	dev.send(mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: mqttparse.V311, CleanStart: true, ClientID: []byte("d"),
		HasWill: true, Will: mqttparse.Will{Topic: []byte("s/will"), Payload: []byte("gone")}}))
	var con mqttparse.Connect
	if err := mqttparse.ParseConnect(ts.accept().next(), &con); err != nil {
		t.Fatal(err)
	}
	env, _, payload := f.unseal("default", mqttparse.Publish{Topic: con.Will.Topic, Payload: con.Will.Payload})
	if string(payload) != "gone" || len(env.Ciphertext)-16 != 64 {
		t.Errorf("the will is %q in %d bytes", payload, len(env.Ciphertext)-16)
	}
}

// Padding allocates nothing on either way.
func TestPaddingAllocations(t *testing.T) {
	for _, v := range []mqttparse.Version{mqttparse.V311, mqttparse.V5} {
		f := newFleet(t).padding()
		state := f.rotate(1)
		m := message(benchTopic, string(make([]byte, 100)), 0, 0)
		if v == mqttparse.V5 {
			m.Properties = []byte(expiry + contentType)
		}
		up := newBench(t, state, v, Config{})
		step := sealStep(t, up, publishPacket(v, m))
		step()
		if n := testing.AllocsPerRun(1000, step); n != 0 {
			t.Errorf("%v: %v allocations to seal a message", v, n)
		}
		b := newBench(t, state, v, Config{})
		b.connack(t, false)
		b.c.dev = nullConn{}
		s := f.sealer("default", benchTopic)
		s.stream.SetPad(64)
		const runs = 1000
		var packets [][]byte
		for range runs + 2 {
			p := s.withProps([]byte(contentType), string(make([]byte, 100)), 0, 0)
			if v == mqttparse.V5 {
				p.Properties = []byte(expiry)
			}
			packets = append(packets, publishPacket(v, p))
		}
		i := 0
		open := func() {
			b.c.down.in.load(packets[i])
			i++
			if err := b.c.down.transform(); err != nil {
				t.Fatal(err)
			}
			if err := b.c.down.flush(); err != nil {
				t.Fatal(err)
			}
		}
		open()
		if n := testing.AllocsPerRun(runs, open); n != 0 || b.count(downOpen) != runs+2 {
			t.Errorf("%v: %v allocations to open a message; %d opened", v, n, b.count(downOpen))
		}
	}
}

// A device that keeps to the limit it was told stays within the broker's, padding included (MQTT-3.2.2-15).
func TestPaddedStaysWithinTheBrokersLimit(t *testing.T) {
	const v = mqttparse.V5
	f := newFleet(t).padding()
	state := f.rotate(1)
	for limit := 300; limit < 440; limit++ {
		b := newBench(t, state, v, Config{})
		told := limitsOf(b.connackWith(t, u32Prop(mqttparse.PropMaximumPacketSize, uint32(limit)))).packet
		if told != limit-sealGrowth-65 {
			t.Fatalf("limit %d: told %d", limit, told)
		}
		m := message("s/a", "", 0, 0)
		m.Payload = make([]byte, told-mqttparse.PublishLen(v, &m, 0))
		for mqttparse.PublishLen(v, &m, len(m.Payload)) > told {
			m.Payload = m.Payload[1:]
		}
		if out := b.fromDevice(t, publishPacket(v, m)); len(out) == 0 || len(out) > limit {
			t.Errorf("limit %d: %d bytes became %d", limit, told, len(out))
		}
	}
}
