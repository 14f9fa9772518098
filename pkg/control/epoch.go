package control

import (
	"fmt"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// EpochMessage announces the newest epochs of a group to all its members at once
// (spec 4.3). It is retained, so that one publication serves a fleet of any size and those that come later.
type EpochMessage struct {
	Group         string
	PolicyVersion uint64
	PolicyHash    [32]byte
	Generation    uint64
	Founder       string      // the keeper that began the generation: its KEK chain wraps them all
	Wraps         []EpochWrap // newest first, numbers falling by one, 1 to MaxWraps
}

// EpochWrap is one epoch's payload secret, wrapped under the KEK of its number.
type EpochWrap struct {
	Number        uint64
	Minter        string        // the keeper that made it, founder or successor
	Certificate   [32]byte      // of the minter, by its SHA-256: a policy may revoke one certificate and not the name
	ActivateAfter time.Duration // from its announcement, whole milliseconds
	Wrap          crypto.Wrap
}

// Newest is the order of the newest epoch announced.
func (e *EpochMessage) Newest() crypto.Epoch {
	return crypto.Epoch{PolicyVersion: e.PolicyVersion, Generation: e.Generation, Number: e.Wraps[0].Number}
}

const (
	epochItems = 7
	wrapItems  = 7
)

// Marshal encodes e as the payload of a message of kind epoch.
func (e *EpochMessage) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, epochItems), KindEpoch)
	b = dcbor.AppendText(b, e.Group)
	b = dcbor.AppendUint(b, e.PolicyVersion)
	b = dcbor.AppendBytes(b, e.PolicyHash[:])
	b = dcbor.AppendText(dcbor.AppendUint(b, e.Generation), e.Founder)
	b = dcbor.AppendArray(b, len(e.Wraps))
	for i := range e.Wraps {
		w := &e.Wraps[i]
		b = dcbor.AppendUint(dcbor.AppendArray(b, wrapItems), w.Number)
		b = dcbor.AppendText(b, w.Minter)
		b = dcbor.AppendBytes(b, w.Certificate[:])
		b = appendMillis(b, w.ActivateAfter)
		b = dcbor.AppendBytes(b, w.Wrap.Salt[:])
		b = dcbor.AppendBytes(b, w.Wrap.Commitment[:])
		b = dcbor.AppendBytes(b, w.Wrap.Ciphertext[:])
	}
	return b
}

// ParseEpoch decodes an EpochMessage.
func ParseEpoch(b []byte) (*EpochMessage, error) {
	r := dcbor.NewReader(b)
	e := new(EpochMessage)
	readHead(r, KindEpoch, epochItems)
	e.Group = readGroup(r)
	e.PolicyVersion = r.Uint()
	r.BytesExact(e.PolicyHash[:])
	e.Generation, e.Founder = readEpochValue(r), readName(r)
	n := r.Array(MaxWraps)
	for i := 0; i < n && r.Err() == nil; i++ {
		var w EpochWrap
		r.ArrayExact(wrapItems)
		w.Number, w.Minter = readEpochValue(r), readName(r)
		r.BytesExact(w.Certificate[:])
		w.ActivateAfter = readMillis(r, MaxDelay)
		r.BytesExact(w.Wrap.Salt[:])
		r.BytesExact(w.Wrap.Commitment[:])
		r.BytesExact(w.Wrap.Ciphertext[:])
		if i > 0 && w.Number+1 != e.Wraps[i-1].Number {
			r.Fail(fmt.Errorf("%w: epoch %d follows %d, numbers must fall by one", dcbor.ErrMalformed, w.Number, e.Wraps[i-1].Number))
		}
		e.Wraps = append(e.Wraps, w)
	}
	if n == 0 {
		r.Fail(fmt.Errorf("%w: no epoch", dcbor.ErrMalformed))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	return e, nil
}
