package enrol

import (
	gocrypto "crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"sealgate/pkg/crypto"
)

// Office keeps the tickets and makes certificates for a [Desk].
type Office interface {
	// Book returns the tickets as they are now. The caller does not change them.
	Book() (*Book, error)
	// Redeem gives the holder of a ticket its certificate and the fleet's policy, or the same once more to the same key.
	// When it returns, the use of the ticket is on disk. Who asks has been authenticated and has proven to have the key.
	// The error is a [Verdict], or what went wrong here.
	Redeem(id TicketID, pub gocrypto.PublicKey, keyHash [32]byte, now time.Time) (*Grant, error)
}

// Desk is the operator's side of enrolment. One goroutine owns it.
type Desk struct {
	office    Office
	authority *crypto.Identity
	key       *crypto.InboxKey
	fleet     string
	anchor    Anchor
	offer     []byte
	prefix    string

	refusals bucket
	answers  map[TicketID]*bucket // of tickets that authenticated a request; at most MaxTickets
}

// NewDesk makes a desk. authority is the fleet's CA, caDER its certificate.
func NewDesk(office Office, authority *crypto.Identity, caDER []byte, prefix string) (*Desk, error) {
	book, err := office.Book()
	if err != nil {
		return nil, err
	}
	key, err := book.Key()
	if err != nil {
		return nil, err
	}
	d := &Desk{
		office: office, authority: authority, key: key, fleet: authority.Member().Fleet, prefix: prefix,
		refusals: newBucket(RefusalRate, RefusalBurst), answers: make(map[TicketID]*bucket),
	}
	o := &Offer{Fleet: d.fleet, CA: caDER, Key: key.Public()}
	d.offer, d.anchor = o.Marshal(), o.Anchor()
	return d, nil
}

// RequestTopic is what the desk listens on.
func (d *Desk) RequestTopic() string { return RequestTopic(d.prefix, d.anchor) }

// Offer is what the broker must retain while the desk is open.
func (d *Desk) Offer() Publish {
	return Publish{Topic: OfferTopic(d.prefix, d.anchor), Payload: d.offer, Retain: true, QoS: 1}
}

// Report says what became of a request.
type Report struct {
	Answer  *Publish // nil: none is given
	Verdict Verdict  // valid iff an answer is given
	Ticket  string   // "gateway gw1" if the request was authenticated
	Err     error    // why it was refused or not answered
}

// Receive takes a message on the request topic. Whoever lacks a ticket costs it one MAC and, a
// few times a second, one signature.
func (d *Desk) Receive(now Time, payload []byte) Report {
	r, err := ParseRequest(payload)
	if err != nil {
		return Report{Err: err}
	}
	book, err := d.office.Book()
	if err != nil {
		return Report{Err: err}
	}
	hash := sha256.Sum256(payload)
	entry := book.Find(r.Ticket)
	if entry == nil || !d.wrote(entry, r) {
		if !d.refusals.take(now.Mono) {
			return Report{Err: errFlood}
		}
		return d.answer(r, hash, now, Report{Verdict: Unknown, Err: Unknown}, nil)
	}
	rep := Report{Ticket: fmt.Sprintf("%s %s", entry.Role, entry.Name)}
	if !d.bucketOf(entry.ID).take(now.Mono) {
		rep.Err = errFlood
		return rep
	}
	return d.serve(r, hash, now, rep)
}

var errFlood = errors.New("too many requests; this one is not answered")

// wrote reports whether a holder of the ticket made the request.
func (d *Desk) wrote(e *Entry, r *Request) bool {
	k, err := e.ticket(d.fleet, d.anchor).keys()
	return err == nil && k.wrote(r)
}

func (d *Desk) bucketOf(id TicketID) *bucket {
	b := d.answers[id]
	if b == nil {
		if len(d.answers) >= MaxTickets {
			clear(d.answers)
		}
		fresh := newBucket(1/TicketEvery.Seconds(), TicketBurst)
		b = &fresh
		d.answers[id] = b
	}
	return b
}

// serve answers an authenticated request.
func (d *Desk) serve(r *Request, hash [32]byte, now Time, rep Report) Report {
	grant, reply, err := d.redeem(r, now)
	var v Verdict
	switch {
	case err == nil:
		rep.Verdict = Granted
		return d.answer(r, hash, now, rep, func() ([]byte, error) {
			return crypto.HPKESeal(reply, answerInfo(hash, d.anchor), grant.Marshal())
		})
	case errors.As(err, &v):
		rep.Verdict = v
	default:
		rep.Verdict = Unable
	}
	rep.Err = err
	return d.answer(r, hash, now, rep, nil)
}

// redeem opens the request, checks its proof, and gets the grant.
func (d *Desk) redeem(r *Request, now Time) (grant *Grant, reply []byte, err error) {
	text, err := d.key.Open(r.info(d.anchor), r.Sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", Unfit, err)
	}
	body, err := ParseRequestBody(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", Unfit, err)
	}
	pub, err := verifyProof(body, proven(d.anchor, r, body.Reply))
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", Unfit, err)
	}
	grant, err = d.office.Redeem(r.Ticket, pub, sha256.Sum256(body.Key), now.Wall)
	return grant, body.Reply, err
}

// answer signs the verdict; seal makes the sealed part, if there is one.
func (d *Desk) answer(r *Request, hash [32]byte, now Time, rep Report, seal func() ([]byte, error)) Report {
	a := Answer{Request: hash, Verdict: rep.Verdict, Time: now.Wall}
	var err error
	if seal != nil {
		if a.Sealed, err = seal(); err != nil {
			a.Verdict, rep.Verdict, rep.Err = Unfit, Unfit, err
		}
	}
	msg, err := d.authority.Sign(a.Marshal(), kindAnswer)
	if err != nil {
		rep.Err = err
		return rep
	}
	rep.Answer = &Publish{Topic: InboxTopic(d.prefix, r.Inbox), Payload: msg, QoS: 1}
	return rep
}

// bucket is a token bucket.
type bucket struct {
	rate, burst, tokens float64 // tokens a second; at most; now
	at                  time.Duration
}

func newBucket(rate float64, burst int) bucket {
	return bucket{rate: rate, burst: float64(burst), tokens: float64(burst)}
}

// take uses one token, if there is one.
func (b *bucket) take(now time.Duration) bool {
	if now > b.at {
		b.tokens = min(b.burst, b.tokens+b.rate*(now-b.at).Seconds())
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
