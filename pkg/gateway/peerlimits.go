package gateway

import (
	"encoding/binary"
	"math"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
)

// peerLimits are what one side of an MQTT 5 connection takes at most: the device says it in CONNECT
// (section 3.1.2.11), the broker in CONNACK (3.2.2.3). The gateway stands between the two, and each is told what
// holds for the other and for the gateway together.
type peerLimits struct {
	aliases  int // Topic Alias Maximum; 0: none
	inFlight int // Receive Maximum
	packet   int // Maximum Packet Size; 0: no limit
}

// Limits of the standard.
const (
	noReceiveMaximum = 65535 // what an absent Receive Maximum means
	// A broker that takes less than this, sealed, takes nothing worth sealing: its limit is not lowered
	// further, so that subscriptions and the like still pass.
	leastPacket = 128
)

// limitsOf reads the limits from a valid property block.
func limitsOf(block []byte) peerLimits {
	l := peerLimits{inFlight: noReceiveMaximum}
	for it := mqttparse.Properties(block); it.Next(); {
		switch it.ID() {
		case mqttparse.PropTopicAliasMaximum:
			l.aliases = int(it.Uint())
		case mqttparse.PropReceiveMaximum:
			l.inFlight = int(it.Uint())
		case mqttparse.PropMaximumPacketSize:
			l.packet = int(min(it.Uint(), math.MaxInt32)) // int has 32 bits on routers
		}
	}
	return l
}

// replace gives block with l in place of the limits in it.
func (l peerLimits) replace(block []byte) []byte {
	out := make([]byte, 0, len(block)+3+3+5)
	for it := mqttparse.Properties(block); it.Next(); {
		switch it.ID() {
		case mqttparse.PropTopicAliasMaximum, mqttparse.PropReceiveMaximum, mqttparse.PropMaximumPacketSize:
		default:
			out = append(out, it.Raw()...)
		}
	}
	if l.aliases > 0 {
		out = binary.BigEndian.AppendUint16(append(out, mqttparse.PropTopicAliasMaximum), uint16(l.aliases))
	}
	if l.inFlight != noReceiveMaximum {
		out = binary.BigEndian.AppendUint16(append(out, mqttparse.PropReceiveMaximum), uint16(l.inFlight))
	}
	if l.packet > 0 {
		out = binary.BigEndian.AppendUint32(append(out, mqttparse.PropMaximumPacketSize), uint32(l.packet))
	}
	return out
}

// kept is l with no more aliases and messages in flight than a connection remembers.
func (l peerLimits) kept() peerLimits {
	l.aliases, l.inFlight = min(l.aliases, maxAliases), min(l.inFlight, maxIDs)
	return l
}

// forBroker is what the broker is told of the limits of a device. What is sealed is longer than what the device
// gets of it: the broker may send that much more. What is too long even when it is opened is dropped here.
func (l peerLimits) forBroker(growth int) peerLimits {
	l = l.kept()
	if l.packet > 0 {
		l.packet = min(l.packet, math.MaxInt32-growth) + growth
	}
	return l
}

// forDevice is what a device is told of the limits of its broker: whatever is no longer than that is taken here,
// and is still no longer than the broker takes when it has been sealed. most is the longest packet taken here.
func (l peerLimits) forDevice(growth, most int) peerLimits {
	l = l.kept()
	own := max(most-growth, leastPacket)
	if l.packet == 0 {
		l.packet = own
		return l
	}
	l.packet = min(max(l.packet-growth, min(l.packet, leastPacket)), own)
	return l
}

// growth is the most that a PUBLISH grows by when it is sealed under s.
func (s *State) growth() int {
	n := sealGrowth
	if pad := s.Table.MaxPad(); pad > 0 {
		n += pad + 1
	}
	if s.Table.Hides() {
		n += hideGrowth
	}
	return n
}

// sealGrowth is what sealing itself adds at most, padding aside: the envelope, and longer lengths.
const sealGrowth = crypto.MaxOverhead + 8

// overBroker reports whether a packet of n bytes is longer than the broker takes.
func (u *upPath) overBroker(n int) bool {
	most := int(u.c.brokerPacket.Load())
	return most > 0 && n > most
}

// tooLarge handles a message that has become longer by sealing than the broker takes. A device that kept to its
// limit hears that this message is refused, one that did not loses its connection, as at the broker.
func (u *upPath) tooLarge(f mqttparse.Frame) error {
	u.tally.add(upTooLarge)
	if len(f.Raw) > int(u.c.toldPacket.Load()) {
		return refuse(refusedTooLarge, packetTooLarge, "a packet is longer than the Maximum Packet Size in CONNACK (MQTT-3.2.2-15)")
	}
	p := &u.pub
	if p.QoS == 0 {
		u.c.g.report.warn("broker's limit", "a QoS 0 message is dropped: sealed it is longer than the broker's Maximum Packet Size",
			"client", u.c.client, "device", u.c.from)
		return nil
	}
	return u.reject(p, quotaExceeded)
}

// overDevice reports whether a packet of n bytes is longer than the device takes.
func (d *downPath) overDevice(n int) bool { return d.c.devicePacket > 0 && n > d.c.devicePacket }

// shorten passes a packet that is no PUBLISH and longer than the device takes, without what only explains.
func (d *downPath) shorten(f mqttparse.Frame) error {
	short := mqttparse.AppendWithoutDiagnostics(nil, f)
	if d.overDevice(len(short)) {
		return refuse(refusedBroker, 0, "the broker's "+f.Type().String()+" is longer than the device's Maximum Packet Size (MQTT-3.1.2-24)")
	}
	return d.passRaw(short)
}

// limit5 notes what the broker says of itself and of the client in its CONNACK, and gives the packet for the device.
func (d *downPath) limit5(ack *mqttparse.ConnAck) []byte {
	c := d.c
	broker := limitsOf(ack.Properties)
	told := broker.forDevice(c.g.state.Load().growth(), c.g.maxPacket())
	c.aliasMax.Store(int32(told.aliases))
	c.brokerPacket.Store(int32(broker.packet))
	c.toldPacket.Store(int32(told.packet))
	c.adopt(ack.Properties)
	out := *ack
	out.Properties = told.replace(ack.Properties)
	return out.Append(nil, c.version)
}

// frameOf makes a frame of a packet that was made here.
func frameOf(packet []byte) mqttparse.Frame {
	_, width := mqttparse.Varint(packet[1:])
	return mqttparse.Frame{Raw: packet, Body: packet[1+width:]}
}
