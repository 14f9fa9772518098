package control

import (
	"time"

	"sealgate/pkg/crypto"
)

// Status is what a member knows and does, for `sealctl status` and metrics.
type Status struct {
	Member        crypto.Member
	Connected     bool
	PolicyVersion uint64 // 0: no policy yet
	PolicyHash    [32]byte
	Groups        []GroupStatus // in the policy's order
	Counters      map[Counter]uint64
	Alarms        uint64 // events with Alarm set, so far
	LastAlarm     string // the newest one; "" if there was none
	Waiting       int    // a keeper's Hellos that wait for an answer
}

// GroupStatus is the state of one group.
type GroupStatus struct {
	Name      string
	Leader    string // the member that mints the group's epochs
	Leading   bool   // this member is the leader
	Sender    bool   // this member may seal
	Epoch     crypto.Epoch
	KeyID     crypto.KeyID
	Age       time.Duration // of Epoch, as far as known
	Send      crypto.Epoch  // the epoch this member seals under; zero: none, nothing leaves
	Confirmed bool          // Epoch has been confirmed to this member
	Keys      int           // payload secrets held, current and history
	Granted   int           // members that a keeper has given keys of the current generation
	Asking    bool          // a Hello about this group is out or due
}
