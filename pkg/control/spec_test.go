package control

import (
	"regexp"
	"testing"

	"sealgate/pkg/checkpoint"
	"sealgate/test/spec"
)

const specFile = "../../docs/spec/control.md"

// constants is section 9 of the specification, in its order.
var constants = []spec.Constant{
	{"NonceLife", NonceLife, "a Hello's nonce may be answered this long"},
	{"UnknownKeyInterval", UnknownKeyInterval, "between two queries of a group about unknown key ids"},
	{"NegativeLife", NegativeLife, "an unknown key id is not asked about again this long"},
	{"HelloBackoffMin", HelloBackoffMin, "before the first repetition of an unanswered Hello"},
	{"HelloBackoffMax", HelloBackoffMax, "between two later ones"},
	{"JoinJitter", JoinJitter, "first Hello of a session: at random within"},
	{"GenerationJitter", GenerationJitter, "Hello after an announcement that could not be opened: at random within"},
	{"ReaderDelay", ReaderDelay, "members that are neither gateways nor keepers send it this much later, at most"},
	{"RefillJitter", RefillJitter, "Hello to fill a hole in the history: at random within"},
	{"ConfirmBatch", ConfirmBatch, "a keeper gathers nonces this long for one signature"},
	{"MemberInterval", MemberInterval, "between two Grants of a keeper to the same member, in the long run"},
	{"BootstrapWait", BootstrapWait, "the first keeper, without keys, listens this long before it leads"},
	{"AskWait", AskWait, "the same when an epoch is known to exist: others may hold its keys"},
	{"LeaseInterval", LeaseInterval, "between two leases of a leader, up to a tenth less"},
	{"LeaseLife", LeaseLife, "a leader not heard of for so long leads no more"},
	{"Oversleep", Oversleep, "a keeper that comes so late to its takeover was not listening, and listens again"},
	{"KEKGrace", KEKGrace, "the KEK of the newest epoch is kept so long"},
	{"GenerationMaxAge", GenerationMaxAge, "the scheduled epoch after that starts a new generation"},
	{"ConfirmInterval", ConfirmInterval, "between two confirmations that a sender asks for, at most"},
	{"FreshnessWarning", FreshnessWarning, "alarm after so long without a confirmation, at most"},
	{"CopyWait", CopyWait, "a keeper waits this long for the broker's retained copy"},
	{"RefreshMin", RefreshMin, "a member subscribes again so long after a session's beginning, up to half less; doubles"},
	{"RefreshMax", RefreshMax, "between two later times, at most"},
	{"RankDelay", RankDelay, "each lower rank waits this much longer before it takes over or republishes"},
	{"RepublishInterval", RepublishInterval, "between two publications of the same policy by one keeper"},
	{"EchoWait", EchoWait, "a leader repeats an announcement that the broker has not shown; doubles"},
	{"FirstActivation", FirstActivation, "activation delay of a leader that has no key to go on with, at most"},
	{"ReportInterval", ReportInterval, "between two generations that only a report of a higher one caused"},
	{"ExpiredGrace", ExpiredGrace, "a key past its history is still known, as expired, this long"},
	{"MaxMessage", MaxMessage, "bytes of a signed message, unless said otherwise"},
	{"MaxEpochMessage", MaxEpochMessage, "bytes of a signed Epoch"},
	{"MaxPolicyMessage", MaxPolicyMessage, "bytes of a signed policy"},
	{"MaxEpochValue", MaxEpochValue, "the highest generation or number there is"},
	{"MaxNumberJump", MaxNumberJump, "how far an Epoch's number may be above the highest known"},
	{"MaxGenerationJump", MaxGenerationJump, "the same for its generation"},
	{"MaxGrantJump", MaxGrantJump, "the same for generation and number in a Grant"},
	{"MaxDelay", MaxDelay, "the longest activation delay a message may carry"},
	{"MaxWraps", MaxWraps, "epochs in one Epoch message"},
	{"MaxNonces", MaxNonces, "nonces in one Confirm"},
	{"MaxHelloGroups", MaxHelloGroups, "groups in one Hello, Grant or Confirm"},
	{"MaxKeysPerGroup", MaxKeysPerGroup, "payload secrets held of a group"},
	{"MaxGrantKeys", MaxGrantKeys, "payload secrets in one Grant"},
	{"MaxLineages", MaxLineages, "KEKs held of a group"},
	{"MaxBoots", MaxBoots, "earlier boots of a keeper whose leases are known as old"},
	{"MaxAsks", MaxAsks, "Hellos of a member that may still be answered"},
	{"MaxUnknownIDs", MaxUnknownIDs, "key ids in a group's negative cache"},
	{"MaxAskedIDs", MaxAskedIDs, "key ids remembered for one query"},
	{"MaxPendingHellos", MaxPendingHellos, "members that wait for a Grant"},
	{"MaxPendingConfirms", MaxPendingConfirms, "members that wait for a Confirm"},
	{"MemberBurst", MemberBurst, "Grants to the same member at once, and sessions of it that wait"},
	{"MaxSeenNonces", MaxSeenNonces, "nonces that a keeper remembers"},
	{"MaxGranted", MaxGranted, "members counted as granted, a group"},
	{"MaxPendingEpochs", MaxPendingEpochs, "epochs announced but not yet active, at one leader"},
	{"MaxRedraws", MaxRedraws, "draws of a secret until its key id is free"},
	{"MaxPendingStreams", MaxPendingStreams, "streams that a sender tells of in one interval of a group"},
	{"MaxCheckpoints", MaxCheckpoints, "verified checkpoints that wait for the receiver's data plane"},
	{"MaxStreams", checkpoint.MaxStreams, "streams in one Checkpoint"},
	{"MaxBurned", checkpoint.MaxBurned, "burned ranges of a stream in one Checkpoint"},
	{"MaxLedgerStreams", checkpoint.MaxLedgerStreams, "streams of a group that a receiver remembers"},
	{"MaxLedgerGateways", checkpoint.MaxLedgerGateways, "senders of a group that a receiver remembers"},
	{"MaxUnheard", checkpoint.MaxUnheard, "streams that one sender claims and nothing has arrived of"},
	{"MaxLedgerBoots", checkpoint.MaxLedgerBoots, "earlier boots of a sender whose checkpoints are known as old"},
	{"MaxLedgerEvents", checkpoint.MaxLedgerEvents, "events of a receiver kept until they are fetched"},
	{"MaxEvents", MaxEvents, "events kept until they are fetched"},
	{"GrantSlice", GrantSlice, "Grants made before anything else is looked at"},
	{"GrantRate", GrantRate, "Grants a second of a keeper, unless configured"},
	{"ConfirmRate", ConfirmRate, "signatures on Confirms a second"},
	{"StandbyRate", StandbyRate, "Hellos a second, and twice that in a burst, that a keeper looks at while another leads"},
	{"ConfirmBurst", ConfirmBurst, "signatures on Confirms in a burst"},
}

// TestSpecConstants binds section 9 to limits.go, both ways.
func TestSpecConstants(t *testing.T) { spec.Constants(t, specFile, constants) }

// TestSpecNamesItsTests: every test that section 8 names exists.
func TestSpecNamesItsTests(t *testing.T) {
	spec.TestsExist(t, specFile, 20, "*_test.go", "../checkpoint/*_test.go")
}

// TestSpecShowsTheFormats: the number of items of each message in the CDDL is the code's, and the
// vectors name sections that exist.
func TestSpecShowsTheFormats(t *testing.T) {
	text := spec.Text(t, specFile)
	for _, kind := range []Kind{KindHello, KindGrant, KindEpoch, KindConfirm, KindLease, KindCheckpoint} {
		if !regexp.MustCompile(`(?m)^` + string(kind) + ` = \[\s*"` + string(kind) + `",`).MatchString(text) {
			t.Errorf("no CDDL of %s", kind)
		}
	}
	for _, path := range vectors.Files(t) {
		if v := spec.Read[vector](t, path); !spec.HasSection(text, v.Spec) {
			t.Errorf("%s names section %s, which does not exist", path, v.Spec)
		}
	}
}
