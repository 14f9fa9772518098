package control

import "errors"

// Why a message is refused: one sentinel a rule of docs/spec/control.md. Event.Err wraps
// one of them, or is an error of the decoder (dcbor.ErrMalformed) or of package crypto.
var (
	ErrTooLarge      = errors.New("message is larger than any of its kind")
	ErrKind          = errors.New("message is of no kind that belongs on this topic")
	ErrRole          = errors.New("sender's role may not send this kind of message")
	ErrRevoked       = errors.New("sender is revoked by the fleet policy")
	ErrNotKeeper     = errors.New("sender is not a keeper of the group in the fleet policy")
	ErrNotEntitled   = errors.New("fleet policy does not let the member hold the group's keys")
	ErrTopic         = errors.New("message is for another group than its topic's")
	ErrStale         = errors.New("epoch is older than one already known: a replay, or a keeper that has lost its state")
	ErrJump          = errors.New("epoch is too far ahead of the highest known")
	ErrNonce         = errors.New("message answers no open Hello of ours: a replay, or an answer after its 30 s")
	ErrEpochPolicy   = errors.New("epoch belongs to an older fleet policy than ours")
	ErrPolicyOld     = errors.New("fleet policy is older than the one in force")
	ErrPolicyFork    = errors.New("two different fleet policies with one version or one predecessor: look for a second operator, or a stolen operator key")
	ErrPolicyBehind  = errors.New("sender has an older fleet policy than ours; it asks again when the policy has reached it")
	ErrPolicyAhead   = errors.New("sender has a newer fleet policy than ours; waiting for it")
	ErrFlood         = errors.New("too many members ask at once; they ask again later")
	ErrReplayedLease = errors.New("lease is not newer than one already heard from this keeper: a replay")
	ErrTopicKey      = errors.New("a group that hides its topics goes with the fleet's topic key, and no other group does")
	ErrReplayedHello = errors.New("Hello has been taken in already: a replay")
)

// Why [Machine.Rotate] refuses.
var (
	ErrNoGroup      = errors.New("the fleet policy has no such group, or this member takes no part in it")
	ErrNotLeader    = errors.New("this member is not the group's leading keeper")
	ErrNotConnected = errors.New("no session with the control broker: nobody would hear of the epoch; try again when it is connected")
	ErrNotReady     = errors.New("the group's first keys are being made; try again in a few seconds")
	ErrTooFast      = errors.New("too many announced epochs are not yet active; try again after activate_after")
	ErrExhausted    = errors.New("no higher epoch is left; publish a new policy without the keeper that used them up")
)
