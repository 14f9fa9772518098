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
	b = dcbor.AppendArray(b, len(c.Groups))
	for i := range c.Groups {
		g := &c.Groups[i]
		b = dcbor.AppendText(dcbor.AppendArray(b, 4), g.Name)
		b = dcbor.AppendUint(dcbor.AppendUint(b, g.Generation), g.Number)
		b = dcbor.AppendBytes(b, g.Commitment[:])
	}
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
	groups := r.Array(MaxHelloGroups)
	for i := 0; i < groups && r.Err() == nil; i++ {
		var g ConfirmGroup
		r.ArrayExact(4)
		g.Name, g.Generation, g.Number = readGroup(r), readEpochValue(r), readEpochValue(r)
		r.BytesExact(g.Commitment[:])
		if i > 0 && g.Name <= c.Groups[i-1].Name {
			r.Fail(fmt.Errorf("%w: groups are not in ascending order", dcbor.ErrMalformed))
		}
		c.Groups = append(c.Groups, g)
	}
	nonces := r.Array(MaxNonces)
	for i := 0; i < nonces && r.Err() == nil; i++ {
		var n [16]byte
		r.BytesExact(n[:])
		c.Nonces = append(c.Nonces, n)
	}
	if groups == 0 || nonces == 0 {
		r.Fail(fmt.Errorf("%w: no group or no nonce", dcbor.ErrMalformed))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("confirm: %w", err)
	}
	return c, nil
}
