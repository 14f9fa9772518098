package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"sealgate/pkg/mqttparse"
)

func u16Prop(id byte, n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{id}, n) }

func u32Prop(id byte, n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{id}, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// connackWith lets the broker accept with properties and gives those that the device reads.
func (b *bench) connackWith(tb testing.TB, props ...[]byte) []byte {
	tb.Helper()
	in := mqttparse.ConnAck{Properties: join(props...)}
	out := frames(tb, b.c.version, b.fromBroker(tb, in.Append(nil, b.c.version)))
	var got mqttparse.ConnAck
	if len(out) != 1 || mqttparse.ParseConnAck(out[0], b.c.version, &got) != nil {
		tb.Fatalf("%d packets for CONNACK", len(out))
	}
	return got.Properties
}

// What each side says that it takes reaches the other as what holds with a gateway between (3.1.2.11, 3.2.2.3).
func TestLimitsAreAdjusted(t *testing.T) {
	const v, most = mqttparse.V5, DefaultMaxMessage + headerRoom - sealGrowth
	packet := func(n uint32) []byte { return u32Prop(mqttparse.PropMaximumPacketSize, n) }
	inFlight := func(n uint16) []byte { return u16Prop(mqttparse.PropReceiveMaximum, n) }
	aliases := func(n uint16) []byte { return u16Prop(mqttparse.PropTopicAliasMaximum, n) }
	other := join(u32Prop(mqttparse.PropSessionExpiry, 60), []byte{mqttparse.PropUserProperty, 0, 1, 'k', 0, 1, 'v'})
	for _, tt := range []struct {
		name                       string
		connect, uplink            []byte // CONNECT's properties, as sent and as the broker reads them
		connack, device            []byte // CONNACK's, as sent and as the device reads them
		deviceLimit, deviceAliases int
	}{
		{"nothing said", nil, inFlight(maxIDs), nil, join(inFlight(maxIDs), packet(most)), 0, 0},
		{"all of it", join(packet(1000), other, inFlight(10), aliases(5)), join(other, aliases(5), inFlight(10), packet(1000+sealGrowth)),
			join(aliases(7), other, packet(2000), inFlight(3)), join(other, aliases(7), inFlight(3), packet(2000-sealGrowth)), 1000, 5},
		{"more than is kept", join(inFlight(65535), aliases(65535)), join(aliases(maxAliases), inFlight(maxIDs)),
			join(packet(1<<28), inFlight(65535), aliases(65535)), join(aliases(maxAliases), inFlight(maxIDs), packet(most)), 0, maxAliases},
		{"largest numbers", packet(1<<32 - 1), join(inFlight(maxIDs), packet(1<<31-1)), packet(1<<32 - 1), join(inFlight(maxIDs), packet(most)), 1<<31 - 1, 0},
		{"a tiny broker", nil, inFlight(maxIDs), packet(130), join(inFlight(maxIDs), packet(leastPacket)), 0, 0},
		{"a tinier broker", nil, inFlight(maxIDs), packet(20), join(inFlight(maxIDs), packet(20)), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ts := newTester(t, newFleet(t).rotate(1), Config{}, nil)
			dev := ts.dial()
			dev.send(mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: v, CleanStart: true, ClientID: []byte("d"), Properties: tt.connect}))
			broker := ts.accept()
			var con mqttparse.Connect
			if err := mqttparse.ParseConnect(broker.next(), &con); err != nil || !bytes.Equal(con.Properties, tt.uplink) {
				t.Errorf("the broker reads % x, want % x: %v", con.Properties, tt.uplink, err)
			}
			ack := mqttparse.ConnAck{Properties: tt.connack}
			broker.send(ack.Append(nil, v))
			if err := mqttparse.ParseConnAck(dev.next(), v, &ack); err != nil || !bytes.Equal(ack.Properties, tt.device) {
				t.Errorf("the device reads % x, want % x: %v", ack.Properties, tt.device, err)
			}
			ts.g.mu.Lock()
			defer ts.g.mu.Unlock()
			for c := range ts.g.conns {
				if c.devicePacket != tt.deviceLimit || c.deviceMax != tt.deviceAliases {
					t.Errorf("kept of the device: %d bytes, %d aliases", c.devicePacket, c.deviceMax)
				}
			}
		})
	}
}

// A CONNACK that refuses says nothing of limits, and before MQTT 5 there are none.
func TestOtherConnAcksPassAsTheyAre(t *testing.T) {
	for _, tt := range []struct {
		v  mqttparse.Version
		in []byte
	}{
		{mqttparse.V5, []byte{0x20, 3, 0, 0x87, 0}},
		{mqttparse.V5, []byte{0x20, 7, 0, 0x9d, 4, mqttparse.PropServerReference, 0, 1, 'b'}},
		{mqttparse.V311, []byte{0x20, 2, 1, 0}},
		{mqttparse.V311, []byte{0x20, 2, 0, 5}},
	} {
		b := newBench(t, newFleet(t).rotate(1), tt.v, Config{})
		if out := b.fromBroker(t, tt.in); !bytes.Equal(out, tt.in) {
			t.Errorf("%v: % x became % x", tt.v, tt.in, out)
		}
	}
}

// Whatever a device sends within its limit is within the broker's when it is sealed (MQTT-3.2.2-15).
func TestSealedStaysWithinTheBrokersLimit(t *testing.T) {
	const v = mqttparse.V5
	expiry := u32Prop(mqttparse.PropMessageExpiry, 60)
	for _, limit := range []int{190, 200, 256, 300, 16_300, 16_384, 16_450, 65_600, 70_000} {
		b := newBench(t, newFleet(t).rotate(1), v, Config{})
		told := limitsOf(b.connackWith(t, u32Prop(mqttparse.PropMaximumPacketSize, uint32(limit)))).packet
		for i, props := range [][]byte{nil, expiry, {mqttparse.PropPayloadFormat, 0}, text(20), join(text(20), expiry), text(100), text(min(told-40, 60_000)), join(expiry, text(min(told-50, 60_000)))} {
			if len(props) > told-20 {
				continue
			}
			for qos := range byte(3) {
				m := mqttparse.Publish{Topic: []byte("s/a"), QoS: qos, PacketID: uint16(qos) * 7, Properties: props}
				m.Payload = make([]byte, told-mqttparse.PublishLen(v, &m, 0))
				for mqttparse.PublishLen(v, &m, len(m.Payload)) > told {
					m.Payload = m.Payload[1:]
				}
				out := b.fromDevice(t, publishPacket(v, m))
				if len(out) == 0 || len(out) > limit || len(out) > told+sealGrowth {
					t.Errorf("limit %d, properties %d, QoS %d: %d bytes became %d", limit, i, qos, told, len(out))
				}
			}
		}
	}
}

// text is a content type property of n bytes.
func text(n int) []byte {
	return join([]byte{mqttparse.PropContentType}, binary.BigEndian.AppendUint16(nil, uint16(max(n-3, 0))), bytes.Repeat([]byte("t"), max(n-3, 0)))
}

// A message that has become too long for the broker is refused one by one; a device that did not keep to the
// limit is disconnected, as at the broker.
func TestSealedOverTheBrokersLimit(t *testing.T) {
	const v = mqttparse.V5
	f := newFleet(t)
	b := newBench(t, f.rotate(1), v, Config{})
	b.connackWith(t, u32Prop(mqttparse.PropMaximumPacketSize, 200))
	b.c.toldPacket.Store(200) // as if this message grew by more than the gateway could foresee
	long := string(make([]byte, 150))
	for qos, want := range [][]byte{nil, {0x40, 3, 0, 9, 0x97}, {0x50, 3, 0, 9, 0x97}} {
		b.dev.b = nil
		out := b.fromDevice(t, publishPacket(v, message("s/a", long, byte(qos), min(uint16(qos), 1)*9)))
		if len(out) != 0 || !bytes.Equal(b.dev.b, want) {
			t.Errorf("QoS %d: the broker gets %d bytes, the device hears % x", qos, len(out), b.dev.b)
		}
	}
	got := publishes(t, v, b.fromDevice(t, publishPacket(v, message("s/a", "short", 1, 9))))
	if env, _, _ := f.unseal("default", got[0]); env.Seq != 0 {
		t.Errorf("a refused message took number %d", env.Seq-1)
	}
	if b.count(upTooLarge) != 3 {
		t.Errorf("%d counted", b.count(upTooLarge))
	}
	b.c.toldPacket.Store(150)
	b.c.up.in.load(publishPacket(v, message("s/a", long, 1, 9)))
	var r *refusal
	if err := b.c.up.transform(); !errors.As(err, &r) || r.code != 0x95 {
		t.Errorf("over its limit: %v", err)
	}
}

// limited is a device with a Maximum Packet Size.
func limited(t *testing.T, most int) (*bench, *fleet) {
	b, f := downBench(t, mqttparse.V5)
	b.c.devicePacket = most
	return b, f
}

// What is too long for the device once it is opened counts as delivered (MQTT-3.1.2-24, MQTT-3.1.2-25).
func TestOpenedOverTheDevicesLimit(t *testing.T) {
	const v, most = mqttparse.V5, 120
	b, f := limited(t, most)
	s := f.sealer("default", "s/a")
	fits := func(topic string, qos byte) string {
		p := message(topic, "", qos, uint16(qos))
		return string(make([]byte, most-mqttparse.PublishLen(v, &p, 0)))
	}
	for qos := range byte(3) {
		id := uint16(qos)
		for _, tt := range []struct {
			name  string
			p     mqttparse.Publish
			fits  bool
			count verdict
		}{
			{"sealed, fits", s.next(fits("s/a", qos), qos, id), true, downOpen},
			{"sealed, too long", s.next(fits("s/a", qos)+"x", qos, id), false, downOversize},
			{"sealed with properties, too long", s.withProps(text(5), fits("s/a", qos)[4:], qos, id), false, downOversize},
			{"passed, fits", message("plain/a", fits("plain/a", qos), qos, id), true, downPass},
			{"passed, too long", message("plain/a", fits("plain/a", qos)+"x", qos, id), false, downOversize},
		} {
			before := b.count(tt.count)
			if got := b.receive(t, tt.p); (len(got) == 1) != tt.fits {
				t.Errorf("QoS %d, %s: delivered %d", qos, tt.name, len(got))
			}
			if b.count(tt.count) != before+1 {
				t.Errorf("QoS %d, %s: not counted as %s", qos, tt.name, verdictWords[tt.count].verdict)
			}
			if acked := len(b.upl.b) > 0; acked != (!tt.fits && qos > 0) {
				t.Errorf("QoS %d, %s: the broker hears % x", qos, tt.name, b.upl.b)
			}
			if qos > 0 && tt.fits {
				b.acks(t, mqttparse.PUBACK, id)
			} else if qos == 2 {
				b.fromBroker(t, mqttparse.AppendAck(nil, v, mqttparse.PUBREL, id, 0))
			}
		}
	}
	if n := b.g.metrics.gaps.Get(); n != 0 {
		t.Errorf("%d counted as missing", n)
	}
}

// Explanations that would make a packet too long for the device are left out (MQTT-3.2.2-19 and its like).
func TestAcknowledgementsFitTheDevice(t *testing.T) {
	b, _ := limited(t, 20)
	reason := []byte("\x1f\x00\x0fnobody may this")
	long := join([]byte{0x90, 22, 0, 1, 18}, reason, []byte{0x87})
	if out := b.fromBroker(t, long); !bytes.Equal(out, []byte{0x90, 4, 0, 1, 0, 0x87}) {
		t.Errorf("SUBACK % x", out)
	}
	short := []byte{0x40, 4, 0, 1, 0x87, 0}
	if out := b.fromBroker(t, short); !bytes.Equal(out, short) {
		t.Errorf("PUBACK % x", out)
	}
	b.c.down.in.load(join([]byte{0x90, 23, 0, 1, 0}, make([]byte, 20)))
	var r *refusal
	if err := b.c.down.transform(); !errors.As(err, &r) || r.reason != refusedBroker {
		t.Errorf("a SUBACK of 25 bytes: %v", err)
	}
}

// A device of a limited size still reads all of CONNACK that matters.
func TestConnAckFitsTheDevice(t *testing.T) {
	b := newBench(t, newFleet(t).rotate(1), mqttparse.V5, Config{})
	b.c.devicePacket = 40
	user := join([]byte{mqttparse.PropUserProperty, 0, 1, 'k', 0, 30}, bytes.Repeat([]byte("v"), 30))
	got := b.connackWith(t, user, u32Prop(mqttparse.PropSessionExpiry, 9))
	if l := limitsOf(got); l.packet == 0 || l.inFlight != maxIDs || bytes.Contains(got, user) || !bytes.Contains(got, u32Prop(mqttparse.PropSessionExpiry, 9)) {
		t.Errorf("% x", got)
	}
}
