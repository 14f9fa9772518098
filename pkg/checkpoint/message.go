// Package checkpoint is what gateways say of the messages that they have sealed, and what
// a receiver makes of it.
//
// A replay window shows gaps inside a stream. It cannot show that the last messages
// were dropped, that a whole gateway has been silenced, or that a stream comes from
// no gateway at all. Therefore each sender publishes a signed list of its streams at
// an interval ([Message], docs/spec/control.md section 4.7). A receiver gives its [Ledger] those lists
// and the numbers it received, and gets [Event]s. The ledger does no I/O, reads no clock and takes
// a bounded amount of memory.
package checkpoint

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// Kind is the first item of a message and the type that its signature covers.
const Kind = "checkpoint"

// Bounds of a message.
const (
	MaxStreams = 256       // streams in one message
	MaxBurned  = 16        // burned ranges of one stream in one message
	MaxNumber  = 1<<48 - 1 // the highest number of a message in a run
)

// State says where a message stands among those of one interval.
type State uint8

// The states.
const (
	More   State = 0 // others of the same interval follow
	Last   State = 1 // the last of its interval
	Ending State = 2 // the last one of all: the sender stops in good order
)

// Digest names a topic to those who hold the epoch's secret, and to nobody else.
type Digest [16]byte

// TopicDigest is the digest of a topic name, of which topic is the SHA-256, under an epoch's secret.
func TopicDigest(s *crypto.PayloadSecret, group string, topic [32]byte) (d Digest) {
	b := s.Bytes()
	if b == nil {
		return d
	}
	defer clear(b)
	info := dcbor.AppendText(dcbor.AppendArray(nil, 3), "sealgate v1 topic digest")
	info = dcbor.AppendBytes(dcbor.AppendText(info, group), topic[:])
	out, err := hkdf.Key(sha256.New, b, nil, string(info), len(d))
	if err != nil {
		return d
	}
	copy(d[:], out)
	return d
}

// Message is one checkpoint: what its sender sealed in a group since the message before.
type Message struct {
	Group   string
	Boot    [16]byte // random, of this run of the sender
	Number  uint64   // 0, 1, ... in a run: a receiver sees that one was withheld
	State   State
	Streams []Stream // ascending by key id, then stream id; 0 to MaxStreams
}

// Stream is one stream's part: the numbers From to Next-1 were sealed or burned.
type Stream struct {
	Topic  Digest
	Kid    crypto.Kid
	From   uint64
	Next   uint64
	Burned []crypto.Range // of these, numbers that were never sent; ascending, apart, at most MaxBurned
	Final  bool           // nothing more comes in this stream
}

// Marshal encodes m as the payload of a message of kind checkpoint.
func (m *Message) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(make([]byte, 0, 96+56*len(m.Streams)), 6), Kind)
	b = dcbor.AppendBytes(dcbor.AppendText(b, m.Group), m.Boot[:])
	b = dcbor.AppendUint(dcbor.AppendUint(b, m.Number), uint64(m.State))
	b = dcbor.AppendArray(b, len(m.Streams))
	for i := range m.Streams {
		b = m.Streams[i].append(b)
	}
	return b
}

func (s *Stream) append(b []byte) []byte {
	b = dcbor.AppendBytes(dcbor.AppendArray(b, 6), s.Topic[:])
	b = dcbor.AppendBytes(b, s.Kid[:])
	b = dcbor.AppendUint(dcbor.AppendUint(b, s.From), s.Next)
	b = dcbor.AppendArray(b, len(s.Burned))
	for _, r := range s.Burned {
		b = dcbor.AppendUint(dcbor.AppendUint(dcbor.AppendArray(b, 2), r.From), r.To)
	}
	return dcbor.AppendBool(b, s.Final)
}

// Parse decodes a message.
func Parse(b []byte) (*Message, error) {
	r := dcbor.NewReader(b)
	m := new(Message)
	r.ArrayExact(6)
	if kind := r.Text(16); r.Err() == nil && kind != Kind {
		r.Fail(fmt.Errorf("%w: kind %q, %q expected", dcbor.ErrMalformed, kind, Kind))
	}
	m.Group = r.Text(63)
	if r.Err() == nil && !policy.ValidName(m.Group) {
		r.Fail(fmt.Errorf("%w: %q is not a name", dcbor.ErrMalformed, m.Group))
	}
	r.BytesExact(m.Boot[:])
	m.Number = r.UintMax(MaxNumber)
	m.State = State(r.UintMax(uint64(Ending)))
	n := r.Array(MaxStreams)
	for i := 0; i < n && r.Err() == nil; i++ {
		s := readStream(r)
		if i > 0 && bytes.Compare(s.Kid[:], m.Streams[i-1].Kid[:]) <= 0 {
			r.Fail(fmt.Errorf("%w: streams are not in ascending order", dcbor.ErrMalformed))
		}
		m.Streams = append(m.Streams, s)
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return m, nil
}

func readStream(r *dcbor.Reader) (s Stream) {
	r.ArrayExact(6)
	r.BytesExact(s.Topic[:])
	r.BytesExact(s.Kid[:])
	s.From, s.Next = r.UintMax(crypto.MaxSequence+1), r.UintMax(crypto.MaxSequence+1)
	if r.Err() == nil && s.From > s.Next {
		r.Fail(fmt.Errorf("%w: a stream goes from %d back to %d", dcbor.ErrMalformed, s.From, s.Next))
	}
	n, low := r.Array(MaxBurned), s.From
	for i := 0; i < n && r.Err() == nil; i++ {
		r.ArrayExact(2)
		b := crypto.Range{From: r.UintMax(crypto.MaxSequence), To: r.UintMax(crypto.MaxSequence)}
		if r.Err() == nil && (b.From < low || b.To < b.From || b.To >= s.Next) {
			r.Fail(fmt.Errorf("%w: burned numbers %d to %d are out of place", dcbor.ErrMalformed, b.From, b.To))
		}
		low = b.To + 2 // adjoining ranges are one
		s.Burned = append(s.Burned, b)
	}
	s.Final = r.Bool()
	return s
}

// sent is the number after the last one that was sent: Next, but for burned numbers at the end.
func (s *Stream) sent() uint64 {
	if n := len(s.Burned); n > 0 && s.Burned[n-1].To+1 == s.Next {
		return s.Burned[n-1].From
	}
	return s.Next
}
