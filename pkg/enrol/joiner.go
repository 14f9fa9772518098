package enrol

import (
	gocrypto "crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Joiner is the side of the machine that wants to become a member. One goroutine owns it: it calls one
// method at a time and then looks at Take, Deadline and Done.
type Joiner struct {
	ticket *Ticket
	keys   keys
	signer gocrypto.Signer
	prefix string
	rand   io.Reader

	// What the offer brought; nil before it arrived.
	trust *crypto.Trust
	ca    *x509.Certificate
	desk  []byte // the operator's HPKE public key

	// One session with the broker.
	connected bool
	inbox     [16]byte
	reply     *crypto.InboxKey
	request   []byte // as sent; nil before the offer
	hash      [32]byte
	due       time.Duration
	pause     time.Duration

	ignored  int // messages that could not be trusted
	out      Output
	enrolled *Enrolled
	err      error
}

// Output is what a Joiner wants done: subscribe, then publish.
type Output struct {
	Subscribe []string
	Publish   []Publish
	Progress  []string // lines for a person
}

// Enrolled is what a joiner gets.
type Enrolled struct {
	Member          crypto.Member
	CertPEM, CAPEM  []byte
	Policy          []byte // signed; nil if the fleet has none yet
	PolicyVersion   uint64 // of Policy
	OperatorsClock  time.Time
	CertificateEnds time.Time
}

// NewJoiner makes a joiner that wants a certificate for signer's key: Ed25519 or ECDSA P-256.
func NewJoiner(t *Ticket, signer gocrypto.Signer, prefix string, rand io.Reader) (*Joiner, error) {
	k, err := t.keys()
	if err != nil {
		return nil, err
	}
	return &Joiner{ticket: t, keys: k, signer: signer, prefix: prefix, rand: rand}, nil
}

// Found reports whether the operator's offer has been seen.
func (j *Joiner) Found() bool { return j.trust != nil }

// Done returns the result: nil and nil while there is none. A refusal by the operator is a [Verdict].
func (j *Joiner) Done() (*Enrolled, error) { return j.enrolled, j.err }

// Take returns what is to be done, and forgets it.
func (j *Joiner) Take() Output {
	out := j.out
	j.out = Output{}
	return out
}

// Deadline is when Advance wants to be called, if it does.
func (j *Joiner) Deadline() (time.Duration, bool) { return j.due, j.connected && j.request != nil }

func (j *Joiner) say(format string, args ...any) {
	j.out.Progress = append(j.out.Progress, fmt.Sprintf(format, args...))
}

// distrust reports a message that was ignored, the first few times: a hostile broker has more.
func (j *Joiner) distrust(format string, args ...any) {
	const complaints = 16
	if j.ignored++; j.ignored <= complaints {
		j.say(format+" Is the broker, or somebody on it, interfering? Waiting on", args...)
	}
}

// Connected begins a session with the broker.
func (j *Joiner) Connected(now Time) error {
	if _, err := io.ReadFull(j.rand, j.inbox[:]); err != nil {
		return fmt.Errorf("drawing an inbox: %w", err)
	}
	var err error
	if j.reply, err = crypto.NewInboxKey(); err != nil {
		return err
	}
	j.connected, j.request, j.out = true, nil, Output{}
	j.out.Subscribe = []string{InboxTopic(j.prefix, j.inbox), OfferTopic(j.prefix, j.ticket.Anchor)}
	if j.Found() {
		return j.ask(now)
	}
	return nil
}

// Disconnected ends it.
func (j *Joiner) Disconnected() { j.connected, j.request = false, nil }

// Receive takes a message from the broker, which may be anything.
func (j *Joiner) Receive(now Time, topic string, payload []byte) error {
	switch {
	case !j.connected || j.enrolled != nil || j.err != nil:
	case topic == OfferTopic(j.prefix, j.ticket.Anchor):
		return j.offered(now, payload)
	case topic == InboxTopic(j.prefix, j.inbox):
		if err := j.answered(now, payload); err != nil {
			j.distrust("an answer was ignored, since it cannot be trusted: %v.", err)
		}
	}
	return nil
}

// Advance repeats the request when it is due.
func (j *Joiner) Advance(now Time) {
	if due, ok := j.Deadline(); !ok || now.Mono < due || j.enrolled != nil || j.err != nil {
		return
	}
	j.publish(now)
}

// offered takes the operator's offer, which the ticket's anchor names.
func (j *Joiner) offered(now Time, payload []byte) error {
	if len(payload) == 0 || j.Found() {
		return nil
	}
	if len(payload) > MaxOffer || Anchor(sha256.Sum256(payload)) != j.ticket.Anchor {
		j.distrust("an operator's offer was ignored, since it is not the one that the ticket names.")
		return nil
	}
	o, err := ParseOffer(payload)
	if err == nil && o.Fleet != j.ticket.Fleet {
		err = fmt.Errorf("it is of fleet %q", o.Fleet)
	}
	if err == nil {
		j.ca, err = x509.ParseCertificate(o.CA)
	}
	if err == nil {
		j.trust, err = crypto.NewTrust(o.Fleet, pemOf(o.CA))
	}
	if err != nil { // the ticket itself names it: no other will come
		j.err = fmt.Errorf("what the ticket names as the operator's offer cannot be used: %w; make a new ticket with `sealctl fleet ticket`", err)
		return nil
	}
	j.desk = append([]byte(nil), o.Key...)
	j.say("found the operator of fleet %s", o.Fleet)
	return j.ask(now)
}

// ask makes this session's request and sends it.
func (j *Joiner) ask(now Time) error {
	spki, err := x509.MarshalPKIXPublicKey(j.signer.Public())
	if err != nil {
		return fmt.Errorf("encoding the new key: %w", err)
	}
	r := &Request{Ticket: j.keys.id, Inbox: j.inbox}
	proof, err := prove(j.signer, proven(j.ticket.Anchor, r, j.reply.Public()))
	if err != nil {
		return fmt.Errorf("signing with the new key: %w", err)
	}
	body := &RequestBody{Key: spki, Reply: j.reply.Public(), Proof: proof}
	if r.Sealed, err = crypto.HPKESeal(j.desk, r.info(j.ticket.Anchor), body.Marshal()); err != nil {
		return err
	}
	r.MAC = j.keys.seal(r)
	j.request, j.pause = r.Marshal(), AskMin
	j.hash = sha256.Sum256(j.request)
	j.publish(now)
	return nil
}

// publish sends the request; the same bytes each time, so that an operator who knows them answers alike.
func (j *Joiner) publish(now Time) {
	j.out.Publish = append(j.out.Publish, Publish{Topic: RequestTopic(j.prefix, j.ticket.Anchor), Payload: j.request, QoS: 1})
	j.due = now.Mono + j.pause
	j.pause = min(2*j.pause, AskMax)
}

// answered takes an answer. An error means that it is not to be trusted, and changed nothing.
func (j *Joiner) answered(now Time, msg []byte) error {
	if j.request == nil {
		return errors.New("nothing has been asked yet")
	}
	if len(msg) > MaxAnswer {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(msg), MaxAnswer)
	}
	wall := latest(now.Wall, j.ca.NotBefore)
	payload, from, err := j.trust.VerifyPolicySigner(msg, kindAnswer, wall)
	if err != nil {
		return err
	}
	if from.Role != crypto.RoleAuthority {
		return fmt.Errorf("%s signed it, which only the fleet's CA may", from)
	}
	a, err := ParseAnswer(payload)
	switch {
	case err != nil:
		return err
	case a.Request != j.hash:
		return errors.New("it answers another request")
	case a.Verdict == Granted:
		return j.granted(latest(wall, a.Time), a)
	case a.Verdict.Final():
		j.err = a.Verdict
	default:
		j.say("%v. Asking again", a.Verdict)
	}
	return nil
}

// granted checks what was granted and keeps it.
func (j *Joiner) granted(wall time.Time, a *Answer) error {
	text, err := j.reply.Open(answerInfo(j.hash, j.ticket.Anchor), a.Sealed)
	if err != nil {
		return err
	}
	g, err := ParseGrant(text)
	if err != nil {
		return err
	}
	e := &Enrolled{CAPEM: pemOf(j.ca.Raw), OperatorsClock: a.Time}
	var chain []*x509.Certificate
	for _, der := range g.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("the new certificate: %w", err)
		}
		chain = append(chain, c)
		e.CertPEM = append(e.CertPEM, pemOf(der)...)
	}
	if e.Member, err = j.check(chain, wall); err != nil {
		return err
	}
	e.CertificateEnds = chain[0].NotAfter
	if len(g.Policy) > 0 {
		signed, err := policy.Verify(j.trust, g.Policy, wall)
		if err != nil {
			return fmt.Errorf("the fleet's policy: %w", err)
		}
		e.Policy, e.PolicyVersion = signed.Raw, signed.Document.Version
	}
	j.enrolled = e
	j.reply.Erase()
	return nil
}

// check makes sure that the certificate is for our key, of our fleet's CA, and makes us who the ticket says: by
// signing something and verifying it as any other member would.
func (j *Joiner) check(chain []*x509.Certificate, wall time.Time) (crypto.Member, error) {
	id, err := crypto.NewIdentity(j.signer, chain...)
	if err != nil {
		return crypto.Member{}, err
	}
	msg, err := id.Sign(nil, kindRequest)
	if err != nil {
		return crypto.Member{}, err
	}
	_, m, err := j.trust.Verify(msg, kindRequest, wall)
	if err != nil {
		return crypto.Member{}, err
	}
	if m.Role != j.ticket.Role || m.Name != j.ticket.Name {
		return crypto.Member{}, fmt.Errorf("the certificate is for %s, the ticket for %s %s", m, j.ticket.Role, j.ticket.Name)
	}
	return m, nil
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
