package enrol

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// Kinds, the first items of the messages.
const (
	kindOffer   = "enrol-offer"
	kindRequest = "enrol-request"
	kindAnswer  = "enrol-answer"
)

// Bounds of items.
const (
	maxCertificate = 8 << 10 // bytes, DER
	maxPublicKey   = 128     // bytes of a SubjectPublicKeyInfo: Ed25519 has 44, P-256 91
	maxProof       = 80      // bytes of a signature: Ed25519 has 64, P-256 in ASN.1 at most 72
)

// RequestTopic is where joiners publish requests to the operator of an anchor.
func RequestTopic(prefix string, a Anchor) string {
	return prefix + "/enrol/" + hex.EncodeToString(a[:8])
}

// OfferTopic carries the operator's offer, retained.
func OfferTopic(prefix string, a Anchor) string { return RequestTopic(prefix, a) + "/offer" }

// InboxTopic is where one joiner gets answers; members of a fleet have theirs at the same level.
func InboxTopic(prefix string, inbox [16]byte) string {
	return prefix + "/inbox/" + hex.EncodeToString(inbox[:])
}

// Publish is a message that wants to be published.
type Publish struct {
	Topic   string
	Payload []byte
	Retain  bool
	QoS     byte
}

// Time is a moment on two clocks.
type Time struct {
	Mono time.Duration // only grows; for pauses and rates
	Wall time.Time     // civil time, for expiry and certificates
}

// Offer is what a joiner must know of the operator before it can ask. Nothing in it is secret, and the
// ticket's anchor authenticates it.
type Offer struct {
	Fleet string
	CA    []byte // the fleet's CA certificate, DER
	Key   []byte // the operator's HPKE public key
}

// Marshal encodes the offer.
func (o *Offer) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, 4), kindOffer)
	b = dcbor.AppendText(b, o.Fleet)
	return dcbor.AppendBytes(dcbor.AppendBytes(b, o.CA), o.Key)
}

// Anchor is the hash of the offer.
func (o *Offer) Anchor() Anchor { return sha256.Sum256(o.Marshal()) }

// ParseOffer decodes an offer. Byte strings are views into b.
func ParseOffer(b []byte) (*Offer, error) {
	var o Offer
	r := dcbor.NewReader(b)
	r.ArrayExact(4)
	readKind(r, kindOffer)
	o.Fleet, o.CA, o.Key = readName(r), r.Bytes(maxCertificate), r.Bytes(crypto.InboxPublicSize)
	exactly(r, "the operator's key", o.Key, crypto.InboxPublicSize)
	return done(&o, r, kindOffer)
}

// Request asks for a certificate. Everything before the MAC is under it.
type Request struct {
	Ticket TicketID
	Inbox  [16]byte // of the topic to answer on
	Sealed []byte   // a RequestBody under HPKE to the operator's key
	MAC    [32]byte
}

// authenticated is what the MAC is over.
func (r *Request) authenticated() []byte { return r.append(dcbor.AppendArray(nil, 4)) }

func (r *Request) append(b []byte) []byte {
	b = dcbor.AppendBytes(dcbor.AppendText(b, kindRequest), r.Ticket[:])
	return dcbor.AppendBytes(dcbor.AppendBytes(b, r.Inbox[:]), r.Sealed)
}

// Marshal encodes the request.
func (r *Request) Marshal() []byte {
	return dcbor.AppendBytes(r.append(dcbor.AppendArray(nil, 5)), r.MAC[:])
}

// ParseRequest decodes a request. Byte strings are views into b.
func ParseRequest(b []byte) (*Request, error) {
	var q Request
	r := dcbor.NewReader(b)
	if len(b) > MaxRequest {
		r.Fail(fmt.Errorf("%w: %d bytes, at most %d are allowed", dcbor.ErrMalformed, len(b), MaxRequest))
	}
	r.ArrayExact(5)
	readKind(r, kindRequest)
	r.BytesExact(q.Ticket[:])
	r.BytesExact(q.Inbox[:])
	q.Sealed = r.Bytes(MaxRequest)
	r.BytesExact(q.MAC[:])
	return done(&q, r, kindRequest)
}

func (r *Request) info(a Anchor) []byte {
	b := dcbor.AppendBytes(dcbor.AppendText(dcbor.AppendArray(nil, 4), labelRequest), a[:])
	return dcbor.AppendBytes(dcbor.AppendBytes(b, r.Ticket[:]), r.Inbox[:])
}

// RequestBody is the sealed part of a request.
type RequestBody struct {
	Key   []byte // the joiner's public key, SubjectPublicKeyInfo, DER
	Reply []byte // HPKE public key for this one answer
	Proof []byte // signature by Key, see proof.go
}

// Marshal encodes the body.
func (q *RequestBody) Marshal() []byte {
	b := dcbor.AppendBytes(dcbor.AppendArray(nil, 3), q.Key)
	return dcbor.AppendBytes(dcbor.AppendBytes(b, q.Reply), q.Proof)
}

// ParseRequestBody decodes the body. Byte strings are views into b.
func ParseRequestBody(b []byte) (*RequestBody, error) {
	var q RequestBody
	r := dcbor.NewReader(b)
	r.ArrayExact(3)
	q.Key, q.Reply, q.Proof = r.Bytes(maxPublicKey), r.Bytes(crypto.InboxPublicSize), r.Bytes(maxProof)
	exactly(r, "the reply key", q.Reply, crypto.InboxPublicSize)
	return done(&q, r, "enrol-request body")
}

// Answer is the operator's answer to one request, signed by the fleet's CA.
type Answer struct {
	Request [32]byte // SHA-256 of the request
	Verdict Verdict
	Time    time.Time // the operator's clock, whole seconds
	Sealed  []byte    // a Grant under HPKE to the reply key; empty unless the verdict is Granted
}

// Marshal encodes the answer's payload.
func (a *Answer) Marshal() []byte {
	b := dcbor.AppendBytes(dcbor.AppendText(dcbor.AppendArray(nil, 5), kindAnswer), a.Request[:])
	b = dcbor.AppendUint(dcbor.AppendUint(b, uint64(a.Verdict)), uint64(a.Time.Unix()))
	return dcbor.AppendBytes(b, a.Sealed)
}

// ParseAnswer decodes the payload of an answer. Byte strings are views into b.
func ParseAnswer(b []byte) (*Answer, error) {
	var a Answer
	r := dcbor.NewReader(b)
	r.ArrayExact(5)
	readKind(r, kindAnswer)
	r.BytesExact(a.Request[:])
	a.Verdict = Verdict(r.UintMax(uint64(lastVerdict)))
	a.Time = readTime(r)
	a.Sealed = r.Bytes(MaxAnswer)
	if (a.Verdict == Granted) != (len(a.Sealed) > 0) {
		r.Fail(fmt.Errorf("%w: sealed bytes come with the verdict 0, and with no other", dcbor.ErrMalformed))
	}
	return done(&a, r, kindAnswer)
}

func answerInfo(request [32]byte, a Anchor) []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, 3), labelAnswer)
	return dcbor.AppendBytes(dcbor.AppendBytes(b, request[:]), a[:])
}

// Grant is what a joiner came for.
type Grant struct {
	Chain  [][]byte // its certificate, DER, intermediates after it, without the CA
	Policy []byte   // the fleet's newest signed policy; empty if none was signed yet
}

// Marshal encodes the grant.
func (g *Grant) Marshal() []byte {
	b := dcbor.AppendArray(dcbor.AppendArray(nil, 2), len(g.Chain))
	for _, c := range g.Chain {
		b = dcbor.AppendBytes(b, c)
	}
	return dcbor.AppendBytes(b, g.Policy)
}

// ParseGrant decodes a grant. Byte strings are views into b.
func ParseGrant(b []byte) (*Grant, error) {
	var g Grant
	r := dcbor.NewReader(b)
	r.ArrayExact(2)
	n := r.Array(crypto.MaxChain)
	if r.Err() == nil && n == 0 {
		r.Fail(fmt.Errorf("%w: no certificate", dcbor.ErrMalformed))
	}
	for i := 0; i < n && r.Err() == nil; i++ {
		g.Chain = append(g.Chain, r.Bytes(maxCertificate))
	}
	g.Policy = r.Bytes(policy.MaxEncoded + 64<<10)
	return done(&g, r, "enrol-answer grant")
}

func readKind(r *dcbor.Reader, want string) {
	if got := r.Text(len(want)); r.Err() == nil && got != want {
		r.Fail(fmt.Errorf("%w: kind %q, %q expected", dcbor.ErrMalformed, got, want))
	}
}

func exactly(r *dcbor.Reader, what string, b []byte, n int) {
	if r.Err() == nil && len(b) != n {
		r.Fail(fmt.Errorf("%w: %s has %d bytes, found %d", dcbor.ErrMalformed, what, n, len(b)))
	}
}

func done[M any](m *M, r *dcbor.Reader, kind string) (*M, error) {
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return m, nil
}
