package control

import (
	"fmt"

	"sealgate/pkg/dcbor"
)

// Lease is a leader's heartbeat among keepers (spec 4.5): it leads these groups, and these
// are their newest announced epochs.
type Lease struct {
	PolicyVersion uint64
	PolicyHash    [32]byte
	Boot          [16]byte     // random, of this run of the leader's program
	Tick          uint64       // grows with each lease of a run
	Groups        []LeaseGroup // by name, ascending
}

// LeaseGroup is a group that the sender leads, with its newest epoch.
type LeaseGroup = ConfirmGroup

const leaseItems = 6

// Marshal encodes l as the payload of a message of kind lease.
func (l *Lease) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, leaseItems), KindLease)
	b = dcbor.AppendUint(b, l.PolicyVersion)
	b = dcbor.AppendBytes(b, l.PolicyHash[:])
	b = dcbor.AppendBytes(b, l.Boot[:])
	b = dcbor.AppendUint(b, l.Tick)
	return appendEpochs(b, l.Groups)
}

// ParseLease decodes a Lease.
func ParseLease(b []byte) (*Lease, error) {
	r := dcbor.NewReader(b)
	l := new(Lease)
	readHead(r, KindLease, leaseItems)
	l.PolicyVersion = r.Uint()
	r.BytesExact(l.PolicyHash[:])
	r.BytesExact(l.Boot[:])
	l.Tick = readEpochValue(r)
	l.Groups = readEpochs(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return l, nil
}
