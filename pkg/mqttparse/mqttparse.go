// Package mqttparse cuts MQTT 3.1, 3.1.1 and 5 byte streams into control
// packets and parses and rewrites the ones that a payload-sealing gateway has
// to look into: PUBLISH and CONNECT (with its will) in full, the others as far
// as forwarding them needs.
//
// A [Scanner] works on the caller's buffer and hands out views into it; nothing
// here does I/O, reads a clock or allocates. Input that breaks the standard is
// refused with an [Error] that names the broken clause. Conformance statement
// numbers are those of MQTT 3.1.1 for connections at version 3.1 and 3.1.1 (the
// older text has none of its own), and those of MQTT 5 at version 5.
//
// Every slice that a parse function stores is a view into the frame it was
// given: valid as long as the caller leaves those bytes alone.
package mqttparse

// Version is the protocol level of a connection, as it stands in CONNECT.
type Version byte

// The protocol levels understood. Zero means that CONNECT has not been seen.
const (
	V31  Version = 3 // "MQIsdp"
	V311 Version = 4 // "MQTT"
	V5   Version = 5 // "MQTT"
)

// String returns the version as the standard's title has it.
func (v Version) String() string {
	switch v {
	case V31:
		return "MQTT 3.1"
	case V311:
		return "MQTT 3.1.1"
	case V5:
		return "MQTT 5"
	}
	return "MQTT (unknown version)"
}

// Direction says who sent a byte stream.
type Direction byte

// The two directions. The zero Direction is unknown: no direction rules apply.
const (
	FromClient Direction = 1 + iota
	FromServer
)

// Type is the MQTT Control Packet type, the upper half of a packet's first byte.
type Type byte

// Control packet types, MQTT 3.1.1 section 2.2.1 and MQTT 5 section 2.1.2.
const (
	CONNECT Type = 1 + iota
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH // MQTT 5 only
)

// WILL is no packet type: it names the property block of a will inside CONNECT
// for [ValidateProperties].
const WILL Type = 0

const typeNames = "WILL       CONNECT    CONNACK    PUBLISH    PUBACK     PUBREC     " +
	"PUBREL     PUBCOMP    SUBSCRIBE  SUBACK     UNSUBSCRIBEUNSUBACK   PINGREQ    " +
	"PINGRESP   DISCONNECT AUTH       "

// String returns the packet's name in the standard's capitals.
func (t Type) String() string {
	const width = len("UNSUBSCRIBE")
	if t > AUTH {
		return "INVALID"
	}
	name := typeNames[int(t)*width : (int(t)+1)*width]
	for name[len(name)-1] == ' ' {
		name = name[:len(name)-1]
	}
	return name
}

// Frame is one whole control packet: views into the scanner's input.
type Frame struct {
	Raw  []byte // fixed header and body
	Body []byte // variable header and payload: Remaining Length bytes

	from Direction // set by Scanner; zero in a Frame made by hand
}

// Type is the packet's type. f must come from a [Scanner].
func (f Frame) Type() Type { return Type(f.Raw[0] >> 4) }

// Flags are the low four bits of the packet's first byte.
func (f Frame) Flags() byte { return f.Raw[0] & 0x0f }
