package control

import (
	"time"

	"sealgate/pkg/policy"
)

// Times of the protocol. docs/spec/control.md section 9 has the same table; a test
// holds the two together.
const (
	NonceLife          = 30 * time.Second        // a Hello's nonce may be answered this long
	UnknownKeyInterval = 30 * time.Second        // between two queries of a group for unknown key ids (F16)
	NegativeLife       = 10 * time.Minute        // an unknown key id is not asked about again this long
	HelloBackoffMin    = time.Second             // before the first repetition of an unanswered Hello
	HelloBackoffMax    = 30 * time.Second        // between two later ones
	JoinJitter         = 250 * time.Millisecond  // first Hello of a session: at random within
	GenerationJitter   = 500 * time.Millisecond  // Hello after a new generation: at random within
	ReaderDelay        = 2 * time.Second         // members that are neither gateways nor keepers ask for a new generation so much later
	RefillJitter       = 5 * time.Second         // Hello to fill a hole in the history: at random within
	ConfirmBatch       = 200 * time.Millisecond  // a keeper gathers nonces this long for one signature
	MemberInterval     = time.Second             // between two Grants of a keeper to the same member, in the long run
	BootstrapWait      = time.Second             // the first keeper, without keys, listens this long before it leads
	AskWait            = 5 * time.Second         // the same when somebody has announced or reported an epoch: others may hold its keys
	LeaseInterval      = 5 * time.Second         // between two leases of a leader, up to a tenth less
	LeaseLife          = 12 * time.Second        // a leader not heard of for so long leads no more
	Oversleep          = 2 * time.Second         // a keeper that comes so late to its takeover was not listening, and listens again
	KEKGrace           = time.Minute             // the KEK of the newest epoch is kept so long, for a second leader's epoch of that number
	GenerationMaxAge   = 7 * 24 * time.Hour      // the scheduled rotation after that starts a new generation
	ConfirmInterval    = 5 * time.Minute         // a sender has its authority renewed so often, or each twelfth of freshness if that is less
	FreshnessWarning   = 15 * time.Minute        // alarm after so long without a confirmation, or a quarter of freshness if that is less
	CopyWait           = 2 * time.Second         // a keeper waits this long for the broker's retained copy
	RefreshMin         = 20 * time.Second        // a member subscribes again so long after the beginning of a session, or half of it; doubles
	RefreshMax         = 30 * time.Minute        // between two later times
	RankDelay          = time.Second             // each lower rank waits this much longer before it takes over or republishes
	RepublishInterval  = 30 * time.Second        // between two publications of the same policy by one keeper
	EchoWait           = 3 * time.Second         // a leader repeats an announcement that the broker has not echoed; doubles
	FirstActivation    = 1500 * time.Millisecond // activation delay of a leader that has no key to go on with
	ReportInterval     = time.Minute             // between two generations that only a report of a higher one caused
	ExpiredGrace       = 5 * time.Minute         // a key past its history is still known, as expired, this long
)

// Bounds of what is accepted and remembered.
const (
	MaxMessage         = 256 << 10                  // bytes of a signed Hello, Grant or Confirm
	MaxEpochMessage    = 32 << 10                   // bytes of a signed Epoch
	MaxPolicyMessage   = policy.MaxEncoded + 16<<10 // bytes of a signed policy
	MaxEpochValue      = 1<<48 - 1                  // the highest generation or number there is (F4)
	MaxNumberJump      = 4096                       // how far an Epoch's number may be ahead of the highest known (F4)
	MaxGenerationJump  = 1 << 16                    // the same for its generation, and for a report (F4)
	MaxGrantJump       = 1 << 32                    // the same for a Grant, which answers our own nonce (F4)
	MaxDelay           = 24 * time.Hour             // the longest activation delay a message may carry
	MaxWraps           = 8                          // epochs in one Epoch message
	MaxNonces          = 64                         // nonces in one Confirm
	MaxHelloGroups     = policy.MaxGroups           // groups in one Hello, Grant or Confirm
	MaxKeysPerGroup    = 1024                       // payload secrets held of a group; older ones go first
	MaxGrantKeys       = 1280                       // payload secrets in one Grant
	MaxLineages        = 4                          // KEKs held of a group
	MaxBoots           = 8                          // earlier runs of a keeper whose leases are known as old
	MaxAsks            = 16                         // Hellos of ours that may still be answered
	MaxUnknownIDs      = 256                        // key ids in a group's negative cache (F16)
	MaxAskedIDs        = 16                         // key ids remembered for one query
	MaxPendingHellos   = 4096                       // members that wait for a Grant
	MaxPendingConfirms = 4096                       // members that wait for a Confirm
	MemberBurst        = 8                          // Grants to the same member at once, and sessions of it that wait
	MaxSeenNonces      = 8192                       // answered nonces that a keeper remembers
	MaxGranted         = 1 << 17                    // members counted as granted, a group
	MaxPendingEpochs   = 6                          // epochs announced but not yet active, at one leader
	MaxRedraws         = 16                         // draws of a secret until its key id collides with none (F10)
	MaxPendingStreams  = 1 << 16                    // streams that one checkpoint of a group tells of
	MaxCheckpoints     = 1024                       // checkpoints kept between two calls of Take
	MaxEvents          = 1024                       // events kept between two calls of Take
	GrantSlice         = 8                          // Grants made before anything else is looked at: a lease may be due
	GrantRate          = 100                        // HPKE operations a second of a keeper, twice that in a burst; see Config.GrantRate
	ConfirmRate        = 20                         // Confirm signatures a second
	StandbyRate        = 50                         // Hellos a second that a keeper looks at while another leads, twice that in a burst
	ConfirmBurst       = 40                         // Confirm signatures in a burst
)
