package watch

import "time"

// Picture is a fleet at one moment, as `sealctl watch --once --json` prints it. Times are whole seconds; -1 stands for
// one that is not known. Texts may hold what came from the network: whoever shows them on a terminal escapes them.
type Picture struct {
	At       time.Time `json:"time"`
	Fleet    string    `json:"fleet"`
	Member   string    `json:"member"` // who looks, as "role/name"
	Policy   uint64    `json:"policy"` // version in force; 0: none yet
	Healthy  bool      `json:"healthy"`
	Links    []Link    `json:"links"`
	Alarms   []Alarm   `json:"alarms"`   // those that stand, the newest first
	Groups   []Group   `json:"groups"`   // in the policy's order
	Gateways []Gateway `json:"gateways"` // by group and name: whoever publishes checkpoints
	Members  []Member  `json:"members"`  // the one heard last first
	Unseen   []string  `json:"unseen"`   // what cannot be seen from here, and why
	Refused  uint64    `json:"refused"`  // control messages that did not verify, were replayed, or belong to another policy
	Dropped  uint64    `json:"dropped"`  // control messages that came faster than they can be verified
}

// Link is one of the watch's connections.
type Link struct {
	Name  string `json:"name"` // LinkMember, LinkControl, LinkMessages
	Up    bool   `json:"up"`
	For   int64  `json:"seconds"`         // since it came up or was lost
	Error string `json:"error,omitempty"` // why it is not up
}

// The connections.
const (
	LinkMember   = "member"   // as a member of the fleet: the policy, and for a reader its keys
	LinkControl  = "control"  // what members say to each other
	LinkMessages = "messages" // the sealed messages themselves
)

var linkNames = [...]string{LinkMember, LinkControl, LinkMessages}

// Group is the state of a group's keys.
type Group struct {
	Name     string `json:"name"`
	Leader   string `json:"leader"`              // the keeper that mints; "" if not known
	LeaderBy string `json:"leader_by,omitempty"` // how that is known: "lease", "policy" (it names one keeper only), "announcement" (it signed the newest)
	Rival    string `json:"rival,omitempty"`     // another keeper that leads as well
	Lease    int64  `json:"lease_age_seconds"`   // since its last lease
	Epoch    string `json:"epoch"`               // policy.generation.number of the newest announced; "" if none was seen
	EpochAge int64  `json:"epoch_age_seconds"`   // since its announcement; -1: it is older than this watch
	Active   int64  `json:"active_in_seconds"`   // until senders use it; 0: they may
	Rotation int64  `json:"rotation_seconds"`    // until the next one is due; if epoch_age_seconds is -1, at most
	Reads    bool   `json:"reads"`               // the policy lets this member read it
	Keys     int    `json:"keys"`                // payload secrets that this member holds
	KeyHeld  bool   `json:"key_held"`            // that of Epoch is among them
	Messages uint64 `json:"messages"`            // opened here so far
}

// Gateway is a member that says at each interval what it has sealed in a group. Numbers count from the watch's beginning.
type Gateway struct {
	Group        string `json:"group"`
	Name         string `json:"name"` // "": messages that no checkpoint has named a sender of
	Streams      int    `json:"streams"`
	Sealed       uint64 `json:"sealed"`
	PerMinute    int64  `json:"per_minute"` // in its last interval
	Burned       uint64 `json:"burned"`
	Checkpoint   int64  `json:"checkpoint_age_seconds"`
	Epoch        string `json:"epoch"`  // the newest that it has sealed under
	Behind       bool   `json:"behind"` // it seals under an older one than senders should by now
	Silent       bool   `json:"silent"`
	Ended        bool   `json:"ended"` // it has said that nothing more comes
	Missing      uint64 `json:"missing"`
	MissingTotal uint64 `json:"missing_total"`
}

// Member is one that has been heard.
type Member struct {
	Name   string `json:"name"`
	Role   string `json:"role"`
	Heard  int64  `json:"heard_seconds"` // ago
	About  string `json:"about"`
	Policy uint64 `json:"policy,omitempty"` // the version that it follows, where its message says so
}

// Alarm is something that an operator should look at. OPERATIONS.md has a table of them.
type Alarm struct {
	What    string `json:"what"`
	Group   string `json:"group,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Since   int64  `json:"since_seconds"` // ago
	Count   uint64 `json:"count"`
}

// Change is something that has become different, as `sealctl watch --json` prints it. Fields that do not apply are left out.
type Change struct {
	At      time.Time `json:"time"`
	What    string    `json:"change"`
	Alarm   bool      `json:"alarm,omitempty"`
	Over    bool      `json:"over,omitempty"` // an alarm that no longer stands
	Group   string    `json:"group,omitempty"`
	Gateway string    `json:"gateway,omitempty"`
	Member  string    `json:"member,omitempty"` // role/name
	Leader  string    `json:"leader,omitempty"`
	Was     string    `json:"was,omitempty"`
	Epoch   string    `json:"epoch,omitempty"`
	Policy  uint64    `json:"policy,omitempty"`
	Topic   string    `json:"topic,omitempty"`
	Stream  string    `json:"stream,omitempty"`
	From    *uint64   `json:"from,omitempty"`
	To      *uint64   `json:"to,omitempty"`
	Streams int       `json:"streams,omitempty"`
	Sealed  uint64    `json:"sealed,omitempty"`
	Count   uint64    `json:"count,omitempty"`
	Detail  string    `json:"detail,omitempty"`

	// Routine tells that it happens all the time: a Hello, a lease, a checkpoint.
	Routine bool `json:"-"`
}

// The words of Change.What beside those of alarms and the reports of package subscriber.
const (
	ChangePolicy     = "policy"
	ChangeLink       = "link"
	ChangeLeader     = "leader"
	ChangeEpoch      = "epoch"
	ChangeMember     = "member"  // one that is heard for the first time
	ChangeGateway    = "gateway" // one whose checkpoints begin
	ChangeEnded      = "ended"   // one that has said that nothing more comes
	ChangeHello      = "hello"
	ChangeLease      = "lease"
	ChangeCheckpoint = "checkpoint"
)
