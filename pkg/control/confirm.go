package control

import (
	"fmt"

	"sealgate/pkg/dcbor"
)

// Confirm is a keeper's answer to many members at once: these epochs are
// current (spec 4.4). Each member looks for its own nonce.
type Confirm struct {
	PolicyVersion uint64
	PolicyHash    [32]byte
	Groups        []ConfirmGroup // by name, ascending
	Nonces        [][16]byte     // 1 to MaxNonces, of Hellos that want confirm
}

// ConfirmGroup is a group's current epoch: the newest one announced, active or not yet.
type ConfirmGroup struct {
	Name               string
	Generation, Number uint64
	Commitment         [32]byte
}

const confirmItems = 5

// Marshal encodes c as the payload of a message of kind confirm.
func (c *Confirm) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, confirmItems), KindConfirm)
	b = dcbor.AppendUint(b, c.PolicyVersion)
	b = dcbor.AppendBytes(b, c.PolicyHash[:])
	b = appendEpochs(b, c.Groups)
	b = dcbor.AppendArray(b, len(c.Nonces))
	for i := range c.Nonces {
		b = dcbor.AppendBytes(b, c.Nonces[i][:])
	}
	return b
}

// ParseConfirm decodes a Confirm.
func ParseConfirm(b []byte) (*Confirm, error) {
	r := dcbor.NewReader(b)
	c := new(Confirm)
	readHead(r, KindConfirm, confirmItems)
	c.PolicyVersion = r.Uint()
	r.BytesExact(c.PolicyHash[:])
	c.Groups = readEpochs(r)
	nonces := r.Array(MaxNonces)
	for i := 0; i < nonces && r.Err() == nil; i++ {
		var n [16]byte
		r.BytesExact(n[:])
		c.Nonces = append(c.Nonces, n)
	}
	if nonces == 0 {
		r.Fail(fmt.Errorf("%w: no nonce", dcbor.ErrMalformed))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("confirm: %w", err)
	}
	return c, nil
}

// appendEpochs appends a list of groups with their newest epochs, as Confirm and Lease carry it.
func appendEpochs(b []byte, groups []ConfirmGroup) []byte {
	b = dcbor.AppendArray(b, len(groups))
	for i := range groups {
		g := &groups[i]
		b = dcbor.AppendText(dcbor.AppendArray(b, 4), g.Name)
		b = dcbor.AppendUint(dcbor.AppendUint(b, g.Generation), g.Number)
		b = dcbor.AppendBytes(b, g.Commitment[:])
	}
	return b
}

func readEpochs(r *dcbor.Reader) (groups []ConfirmGroup) {
	n := r.Array(MaxHelloGroups)
	for i := 0; i < n && r.Err() == nil; i++ {
		var g ConfirmGroup
		r.ArrayExact(4)
		g.Name, g.Generation, g.Number = readGroup(r), readEpochValue(r), readEpochValue(r)
		r.BytesExact(g.Commitment[:])
		if i > 0 && g.Name <= groups[i-1].Name {
			r.Fail(fmt.Errorf("%w: groups are not in ascending order", dcbor.ErrMalformed))
		}
		groups = append(groups, g)
	}
	if n == 0 {
		r.Fail(fmt.Errorf("%w: no group", dcbor.ErrMalformed))
	}
	return groups
}
