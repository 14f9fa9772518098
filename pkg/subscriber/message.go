package subscriber

import (
	"sealgate/pkg/crypto"
	"sealgate/pkg/session"
)

// Properties describe the content of a message [MQTT 5 3.3.2.3]: payload format, content type, response topic, correlation
// data and user properties.
type Properties = session.Properties

// UserProperty is a name with a value. A name may appear more than once, and the order is kept.
type UserProperty = session.UserProperty

// Publication is a message to be published: topic, payload, QoS, RETAIN, Message Expiry Interval and properties.
type Publication = session.Publication

// Status says what became of a message, or that some are missing. Only StatusOK delivers a payload.
type Status string

// The words of a [Message]'s Status.
const (
	StatusOK           Status = "ok"            // opened and new; or on a topic that the policy leaves in the clear (Group is "")
	StatusDuplicate    Status = "duplicate"     // this number was delivered before, with the same bytes
	StatusReplayed     Status = "replayed"      // a number below the replay window: nobody can tell any more
	StatusConflict     Status = "conflict"      // this number was delivered before, with other bytes: an alarm
	StatusStale        Status = "stale"         // a retained message older than what this stream has already delivered
	StatusExpiredEpoch Status = "expired-epoch" // its key is known, but the group's history has ended for it
	StatusUnknownKey   Status = "unknown-key"   // its key did not arrive within the hold time
	StatusForged       Status = "forged"        // an envelope that does not parse or authenticate
	StatusPlaintext    Status = "plaintext"     // not an envelope, on a topic that must be sealed

	// Objects of their own, about the numbers From to To of a stream.
	StatusGap       Status = "gap"        // these numbers have not arrived
	StatusGapFilled Status = "gap-filled" // these numbers, reported as a gap, have arrived late: that report is withdrawn

	// Objects of their own that checkpoints lead to: what senders say they have sent, held against what arrived.
	StatusDropped      Status = "dropped"      // these numbers were sent and have not arrived: an alarm
	StatusRecovered    Status = "recovered"    // these numbers, reported as dropped, have arrived after all
	StatusBurned       Status = "burned"       // these numbers were never sent: not a gap
	StatusSilent       Status = "silent"       // Gateway has not been heard of for two intervals: an alarm
	StatusHeard        Status = "heard"        // Gateway is heard of again
	StatusWithheld     Status = "withheld"     // checkpoints From to To of Gateway are missing: an alarm
	StatusUnattributed Status = "unattributed" // messages up to number To came, and nobody says to have sent them: an alarm
	StatusDisputed     Status = "disputed"     // Gateway claims the stream of Other: an alarm
	StatusCrowded      Status = "crowded"      // more streams or senders than can be kept in mind
)

// Message is one message of a subscription, or a report about missing ones.
type Message struct {
	Topic   string
	Payload []byte // nil unless Status is StatusOK
	QoS     byte
	Retain  bool // as the broker set it; it is not authenticated
	Status  Status

	Group   string          // the topic's group; "" on topics in the clear
	Gateway string          // who says to have sealed it, if anybody has yet; of reports, the sender that they are about
	Other   string          // StatusDisputed: who else claims the stream
	Stream  crypto.StreamID // valid if Sealed
	Key     crypto.KeyID    // valid if Sealed
	Seq     uint64          // number in its stream, valid if Sealed
	Sealed  bool            // it parsed as an envelope

	// Properties say what the content is. Of a sealed message they travelled inside it, whatever version of MQTT either side
	// speaks; on topics in the clear they are what the broker delivered by MQTT 5.
	Properties Properties

	Gap      uint64 // how many numbers were missing directly before this message
	From, To uint64 // of reports: the numbers, both included

	late bool // it fills a gap that was reported
}

// Report tells whether m is about other messages and none itself.
func (m *Message) Report() bool {
	switch m.Status {
	case StatusGap, StatusGapFilled, StatusDropped, StatusRecovered, StatusBurned, StatusSilent, StatusHeard, StatusWithheld,
		StatusUnattributed, StatusDisputed, StatusCrowded:
		return true
	}
	return false
}
