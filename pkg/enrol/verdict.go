package enrol

// Verdict is the operator's decision about a request.
type Verdict uint8

// The verdicts (spec 4.3).
const (
	Granted     Verdict = iota
	Unknown             // no such ticket: forged, altered, cancelled, or forgotten long after its expiry
	Expired             // the ticket is past its time
	Used                // another key has used the ticket up
	Taken               // somebody else was enrolled under the name meanwhile
	Revoked             // the ticket's member was enrolled by it, and then revoked
	Unfit               // the request has the ticket's MAC, but its body or key cannot be used
	Unable              // the operator's side failed; the same request may be answered later
	lastVerdict = Unable
)

// Final reports whether asking again cannot change the verdict.
func (v Verdict) Final() bool { return v != Unable }

// Error says what the verdict means for the holder of the ticket, and what to do. A refusal is
// an error of this type.
func (v Verdict) Error() string {
	const renew = "make a new one with `sealctl fleet ticket`"
	switch v {
	case Granted:
		return "granted"
	case Unknown:
		return "the operator does not know this ticket: it is forged, was altered or cancelled, or expired long ago; " + renew
	case Expired:
		return "the ticket has expired; " + renew
	case Used:
		return "the ticket has been used already, by another key; if that was not this machine, revoke the member with `sealctl fleet revoke`; then make a ticket for another name with `sealctl fleet ticket`"
	case Taken:
		return "a member of this name was enrolled in another way meanwhile; make a ticket for another name with `sealctl fleet ticket`"
	case Revoked:
		return "the member that this ticket enrolled has been revoked; make a ticket for another name with `sealctl fleet ticket`"
	case Unfit:
		return "the operator cannot use this request; run the same release here and at the operator's"
	}
	return "the operator could not answer because of a problem on its side; look at what `sealctl fleet serve` prints"
}
