package control

import (
	"fmt"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// Want is what a Hello asks for.
type Want uint8

// What a Hello may ask for.
const (
	WantKeys    Want = 0 // KEKs and payload secrets, in a Grant
	WantConfirm Want = 1 // that an epoch is current, in a Confirm
)

// String names the want.
func (w Want) String() string {
	if w == WantConfirm {
		return "confirm"
	}
	return "keys"
}

// Hello is a member's question to the keepers (spec 4.1).
type Hello struct {
	Want          Want
	Inbox         [16]byte // names the topic to answer on
	Public        []byte   // HPKE public key: crypto.InboxPublicSize bytes for keys, none for confirm
	Nonce         [16]byte
	PolicyVersion uint64
	PolicyHash    [32]byte
	Groups        []HelloGroup // by name, ascending
}

// HelloGroup is a group with the highest epoch of it that the member knows; zeros: none.
type HelloGroup struct {
	Name               string
	Generation, Number uint64
}

const helloItems = 8

// Marshal encodes h as the payload of a message of kind hello.
func (h *Hello) Marshal() []byte {
	b := dcbor.AppendArray(make([]byte, 0, 128+len(h.Public)+32*len(h.Groups)), helloItems)
	b = dcbor.AppendText(b, KindHello)
	b = dcbor.AppendUint(b, uint64(h.Want))
	b = dcbor.AppendBytes(b, h.Inbox[:])
	b = dcbor.AppendBytes(b, h.Public)
	b = dcbor.AppendBytes(b, h.Nonce[:])
	b = dcbor.AppendUint(b, h.PolicyVersion)
	b = dcbor.AppendBytes(b, h.PolicyHash[:])
	b = dcbor.AppendArray(b, len(h.Groups))
	for _, g := range h.Groups {
		b = dcbor.AppendText(dcbor.AppendArray(b, 3), g.Name)
		b = dcbor.AppendUint(dcbor.AppendUint(b, g.Generation), g.Number)
	}
	return b
}

// ParseHello decodes a Hello. Public is a view into b.
func ParseHello(b []byte) (*Hello, error) {
	r := dcbor.NewReader(b)
	h := new(Hello)
	readHead(r, KindHello, helloItems)
	h.Want = Want(r.UintMax(uint64(WantConfirm)))
	r.BytesExact(h.Inbox[:])
	h.Public = r.Bytes(crypto.InboxPublicSize)
	r.BytesExact(h.Nonce[:])
	h.PolicyVersion = r.Uint()
	r.BytesExact(h.PolicyHash[:])
	n := r.Array(MaxHelloGroups)
	for i := 0; i < n && r.Err() == nil; i++ {
		r.ArrayExact(3)
		g := HelloGroup{Name: readGroup(r), Generation: r.UintMax(MaxEpochValue), Number: r.UintMax(MaxEpochValue)}
		if i > 0 && g.Name <= h.Groups[i-1].Name {
			r.Fail(fmt.Errorf("%w: groups are not in ascending order", dcbor.ErrMalformed))
		}
		h.Groups = append(h.Groups, g)
	}
	if want := publicSize(h.Want); r.Err() == nil && len(h.Public) != want {
		r.Fail(fmt.Errorf("%w: public key of %d bytes, %d expected", dcbor.ErrMalformed, len(h.Public), want))
	}
	if n == 0 {
		r.Fail(fmt.Errorf("%w: no group", dcbor.ErrMalformed))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}

func publicSize(w Want) int {
	if w == WantKeys {
		return crypto.InboxPublicSize
	}
	return 0
}
