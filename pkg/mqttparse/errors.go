package mqttparse

// Error says which clause of the standard an input breaks. All values are made
// when the program starts: refusing a packet allocates nothing.
type Error struct {
	// Clause is the conformance statement, as "MQTT-3.3.1-4", or where the
	// standard gives a rule no number, its section, as "section 2.2.3".
	Clause string
	// Reason says what is wrong in a few words without any of the input.
	Reason string
	// ReasonCode is the MQTT 5 reason code to answer with: for example 0x81 malformed
	// packet, 0x82 protocol error, 0x84 unsupported protocol version, 0x95 packet too large.
	ReasonCode byte
}

// Error returns the reason with its clause.
func (e *Error) Error() string { return "MQTT: " + e.Reason + " [" + e.Clause + "]" }

// MQTT 5 reason codes that refusals carry, section 2.4.
const (
	codeMalformed    = 0x81
	codeProtocol     = 0x82
	codeVersion      = 0x84
	codeClientID     = 0x85
	codeAliasInvalid = 0x94
	codeTooLarge     = 0x95
)

// refusal is one defect with its clause in each generation of the standard.
type refusal struct{ v3, v5 Error }

func refuse(code byte, clause3, clause5, reason string) *refusal {
	return &refusal{v3: Error{clause3, reason, code}, v5: Error{clause5, reason, code}}
}

// at picks the clause numbering of v; an unknown version counts as 3.1.1.
func (r *refusal) at(v Version) *Error {
	if v == V5 {
		return &r.v5
	}
	return &r.v3
}

// Defects of the fixed header and of the order of packets.
var (
	errLength = refuse(codeMalformed, "section 2.2.3", "MQTT-1.5.5-1",
		"Remaining Length is longer than four bytes or not in its shortest form")
	errTooLarge = refuse(codeTooLarge, "section 2.2.3", "MQTT-3.2.2-15",
		"packet is larger than the limit set for this connection")
	errTooLargeDown = refuse(codeTooLarge, "section 2.2.3", "MQTT-3.1.2-24",
		"packet is larger than the limit set for this connection")
	errFlags      = refuse(codeMalformed, "MQTT-2.2.2-2", "MQTT-2.1.3-1", "reserved flags in the fixed header are not as required")
	errFlagsRel   = refuse(codeMalformed, "MQTT-3.6.1-1", "MQTT-3.6.1-1", "PUBREL flags are not 0010")
	errFlagsSub   = refuse(codeMalformed, "MQTT-3.8.1-1", "MQTT-3.8.1-1", "SUBSCRIBE flags are not 0010")
	errFlagsUnsub = refuse(codeMalformed, "MQTT-3.10.1-1", "MQTT-3.10.1-1", "UNSUBSCRIBE flags are not 0010")
	errType       = refuse(codeMalformed, "section 2.2.1", "section 2.1.2", "packet type is reserved")
	errDirection  = refuse(codeProtocol, "section 2.2.1", "section 2.1.2", "packet type is not allowed in this direction")
	errFirst      = refuse(codeProtocol, "MQTT-3.1.0-1", "MQTT-3.1.0-1", "first packet from the client is not CONNECT")
	errSecond     = refuse(codeProtocol, "MQTT-3.1.0-2", "MQTT-3.1.0-2", "second CONNECT on one connection")
	errFirstDown  = refuse(codeProtocol, "MQTT-3.2.0-1", "MQTT-3.2.0-1", "first packet from the server is not CONNACK")
	errSecondDown = refuse(codeProtocol, "section 3.2", "MQTT-3.2.0-2", "second CONNACK on one connection")
	errAfterEnd   = refuse(codeProtocol, "MQTT-3.14.4-2", "MQTT-3.14.4-1", "data after DISCONNECT")
)

// Defects that any packet's body may have.
var (
	errShort       = refuse(codeMalformed, "section 2.2.3", "section 2.1.4", "a field runs past the end of the packet")
	errTrailing    = refuse(codeMalformed, "section 2.2.3", "section 2.1.4", "bytes are left over after the packet's last field")
	errUTF8        = refuse(codeMalformed, "MQTT-1.5.3-1", "MQTT-1.5.4-1", "string is not well-formed UTF-8")
	errNUL         = refuse(codeMalformed, "MQTT-1.5.3-2", "MQTT-1.5.4-2", "string contains U+0000")
	errVarint      = refuse(codeMalformed, "section 2.2.3", "MQTT-1.5.5-1", "Variable Byte Integer is longer than four bytes or not in its shortest form")
	errIDZero      = refuse(codeProtocol, "MQTT-2.3.1-1", "MQTT-2.2.1-3", "packet identifier is 0")
	errIDZeroDown  = refuse(codeProtocol, "MQTT-2.3.1-1", "MQTT-2.2.1-4", "packet identifier is 0")
	errAckIDZero   = refuse(codeProtocol, "MQTT-2.3.1-6", "MQTT-2.2.1-5", "acknowledged packet identifier is 0")
	errSubIDZero   = refuse(codeProtocol, "MQTT-2.3.1-7", "MQTT-2.2.1-6", "acknowledged packet identifier is 0")
	errTopicWild   = refuse(codeMalformed, "MQTT-3.3.2-2", "MQTT-3.3.2-2", "topic name contains a wildcard")
	errTopicEmpty  = refuse(codeProtocol, "MQTT-4.7.3-1", "MQTT-4.7.3-1", "topic is empty")
	errTopicAlias  = refuse(codeProtocol, "MQTT-4.7.3-1", "section 3.3.2.1", "topic name is empty and there is no topic alias")
	errQoS3        = refuse(codeMalformed, "MQTT-3.3.1-4", "MQTT-3.3.1-4", "PUBLISH has QoS 3")
	errDupQoS0     = refuse(codeMalformed, "MQTT-3.3.1-2", "MQTT-3.3.1-2", "PUBLISH has DUP set with QoS 0")
	errSubIDClient = refuse(codeProtocol, "section 3.3", "MQTT-3.3.4-6", "PUBLISH from a client carries a subscription identifier")
)

// Defects of CONNECT and CONNACK.
var (
	errProtocolName  = refuse(codeVersion, "MQTT-3.1.2-1", "MQTT-3.1.2-1", "protocol name is neither MQTT nor MQIsdp")
	errProtocolLevel = refuse(codeVersion, "MQTT-3.1.2-2", "MQTT-3.1.2-2", "protocol level does not belong to the protocol name")
	errConnectFlag   = refuse(codeMalformed, "MQTT-3.1.2-3", "MQTT-3.1.2-3", "reserved connect flag is set")
	errWillQoS3      = refuse(codeMalformed, "MQTT-3.1.2-14", "MQTT-3.1.2-12", "will has QoS 3")
	errWillQoS       = refuse(codeMalformed, "MQTT-3.1.2-13", "MQTT-3.1.2-11", "will QoS is set without a will")
	errWillRetain    = refuse(codeMalformed, "MQTT-3.1.2-15", "MQTT-3.1.2-13", "will retain is set without a will")
	errPassword      = refuse(codeMalformed, "MQTT-3.1.2-22", "section 3.1.2.9", "password without user name")
	errClientID      = refuse(codeClientID, "MQTT-3.1.3-8", "MQTT-3.1.3-8", "client identifier is empty though the session is to be kept or the version is 3.1")
	errWillTopicWild = refuse(codeMalformed, "MQTT-4.7.1-1", "MQTT-4.7.0-1", "will topic contains a wildcard")
	errConnAckFlags  = refuse(codeMalformed, "section 3.2.2.1", "MQTT-3.2.2-1", "reserved CONNACK flags are set")
	errConnAckCode   = refuse(codeProtocol, "MQTT-3.2.2-6", "MQTT-3.2.2-8", "CONNACK code is not in the standard's table")
	errSessionFlag   = refuse(codeProtocol, "MQTT-3.2.2-4", "MQTT-3.2.2-6", "CONNACK refuses but has Session Present set")
)

// Defects of acknowledgements, subscriptions and endings.
var (
	errPubAckReason   = refuse(codeProtocol, "section 3.4", "MQTT-3.4.2-1", "PUBACK reason code is not in the standard's table")
	errPubRecReason   = refuse(codeProtocol, "section 3.5", "MQTT-3.5.2-1", "PUBREC reason code is not in the standard's table")
	errPubRelReason   = refuse(codeProtocol, "section 3.6", "MQTT-3.6.2-1", "PUBREL reason code is not in the standard's table")
	errPubCompReason  = refuse(codeProtocol, "section 3.7", "MQTT-3.7.2-1", "PUBCOMP reason code is not in the standard's table")
	errSubAckReason   = refuse(codeProtocol, "MQTT-3.9.3-2", "MQTT-3.9.3-2", "SUBACK code is not in the standard's table")
	errUnsubAckReason = refuse(codeProtocol, "section 3.11", "MQTT-3.11.3-2", "UNSUBACK reason code is not in the standard's table")
	errNoCodes        = refuse(codeProtocol, "MQTT-3.8.4-5", "MQTT-3.8.4-6", "acknowledgement of a subscription carries no code")
	errSubFilter      = refuse(codeProtocol, "MQTT-3.8.3-3", "MQTT-3.8.3-2", "SUBSCRIBE carries no topic filter")
	errSubOptions     = refuse(codeMalformed, "MQTT-3.8.3-4", "MQTT-3.8.3-5", "reserved subscription options are set")
	errSubQoS         = refuse(codeProtocol, "MQTT-3.8.3-4", "section 3.8.3.1", "subscription asks for QoS 3 or Retain Handling 3")
	errUnsubFilter    = refuse(codeProtocol, "MQTT-3.10.3-2", "MQTT-3.10.3-2", "UNSUBSCRIBE carries no topic filter")
	errPingReq        = refuse(codeMalformed, "section 3.12.1", "section 3.12.1", "PINGREQ has a body")
	errPingResp       = refuse(codeMalformed, "section 3.13.1", "section 3.13.1", "PINGRESP has a body")
	errEndReason      = refuse(codeProtocol, "section 3.14", "MQTT-3.14.2-1", "DISCONNECT reason code is not in the standard's table")
	errEndExpiry      = refuse(codeProtocol, "section 3.14", "MQTT-3.14.2-2", "DISCONNECT from the server carries a session expiry interval")
	errAuthReason     = refuse(codeProtocol, "section 2.2.1", "MQTT-3.15.2-1", "AUTH reason code is not in the standard's table")
)

// Defects of property blocks, MQTT 5 only.
var (
	errPropUnknown  = refuse(codeMalformed, "", "section 2.2.2.2", "property identifier is unknown")
	errPropPlace    = refuse(codeProtocol, "", "section 2.2.2.2", "property does not belong in this packet")
	errPropTwice    = refuse(codeProtocol, "", "section 2.2.2.2", "property appears more than once")
	errPropShort    = refuse(codeMalformed, "", "section 2.2.2.1", "property runs past the end of its block")
	errPropValue    = refuse(codeProtocol, "", "section 2.2.2.2", "property has a value that the standard excludes")
	errAliasZero    = refuse(codeAliasInvalid, "", "MQTT-3.3.2-8", "topic alias is 0")
	errResponseWild = refuse(codeMalformed, "", "MQTT-3.3.2-14", "response topic contains a wildcard")
	errAuthData     = refuse(codeProtocol, "", "section 3.1.2.11.10", "authentication data without authentication method")
	errAuthMethod   = refuse(codeProtocol, "", "section 3.15.2.2.2", "AUTH lacks its authentication method")
)
