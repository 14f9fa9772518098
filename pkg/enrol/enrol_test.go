package enrol

import (
	gocrypto "crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// plant is a fleet with its office in memory, and the desk.
type plant struct {
	t             *testing.T
	caKey, caCert []byte
	authority     *crypto.Identity
	caDER         []byte
	book          *Book
	desk          *Desk
	now           Time
	issued        int
	tamper        func(*Grant) // what Redeem does to a grant
	broken        error        // what Redeem returns instead
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, now: Time{Mono: time.Hour, Wall: time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)}}
	var err error
	if p.caKey, p.caCert, err = crypto.NewCA("plant", rand.Reader, p.now.Wall.AddDate(0, -1, 0)); err != nil {
		t.Fatal(err)
	}
	if p.authority, err = crypto.ParseAuthority(p.caKey, p.caCert); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p.caCert)
	p.caDER = block.Bytes
	if p.book, err = NewBook(); err != nil {
		t.Fatal(err)
	}
	if p.desk, err = NewDesk(p, p.authority, p.caDER, "sealgate"); err != nil {
		t.Fatal(err)
	}
	return p
}

// Book returns a copy through its encoding, as from a file.
func (p *plant) Book() (*Book, error) { return ParseBook(p.book.Marshal()) }

func (p *plant) Redeem(id TicketID, pub gocrypto.PublicKey, keyHash [32]byte, now time.Time) (*Grant, error) {
	if p.broken != nil {
		return nil, p.broken
	}
	e, err := p.book.Claim(id, keyHash, now)
	if err != nil {
		return nil, err
	}
	if e.Used.IsZero() {
		p.issued++
		cert, err := crypto.CertifyMember(p.caKey, p.caCert, e.Role, e.Name, pub, rand.Reader, now)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(cert)
		e.Use(keyHash, block.Bytes, now)
	}
	g := policy.DefaultGroup("default")
	g.Topics, g.Keepers = []string{"#"}, []string{"gw1"}
	raw, err := (&policy.Document{Fleet: "plant", Version: 3, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}).Sign(p.authority)
	grant := &Grant{Chain: [][]byte{e.Cert}, Policy: raw}
	if p.tamper != nil {
		p.tamper(grant)
	}
	return grant, err
}

func (p *plant) ticket(name string) *Ticket {
	p.t.Helper()
	key, err := p.book.Key()
	if err != nil {
		p.t.Fatal(err)
	}
	ticket, err := p.book.Add(&Offer{Fleet: "plant", CA: p.caDER, Key: key.Public()}, crypto.RoleGateway, name, time.Hour, rand.Reader, p.now.Wall)
	if err != nil {
		p.t.Fatal(err)
	}
	again, err := ParseTicket("  " + ticket.Text()[:50] + "\r\n " + ticket.Text()[50:] + "\n")
	if err != nil {
		p.t.Fatal(err)
	}
	return again
}

// box is a new router, whose clock stands at its floor.
type box struct {
	*Joiner
	p     *plant
	key   gocrypto.Signer
	clock Time
}

func (p *plant) newBox(ticket *Ticket, key gocrypto.Signer) *box {
	p.t.Helper()
	if key == nil {
		_, key, _ = ed25519.GenerateKey(rand.Reader)
	}
	j, err := NewJoiner(ticket, key, "sealgate", rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	return &box{Joiner: j, p: p, key: key, clock: Time{Wall: time.Unix(1000, 0)}}
}

// ask connects and takes the offer; what is published then is the request.
func (b *box) ask() []byte {
	b.p.t.Helper()
	b.Connected(b.clock)
	o := b.p.desk.Offer()
	if err := b.Receive(b.clock, o.Topic, o.Payload); err != nil {
		b.p.t.Fatal(err)
	}
	out := b.Take()
	if len(out.Publish) != 1 || out.Publish[0].Topic != b.p.desk.RequestTopic() {
		b.p.t.Fatalf("asked by %+v", out)
	}
	return out.Publish[0].Payload
}

// join does all of it and returns the result.
func (b *box) join() (*Enrolled, error) {
	b.p.t.Helper()
	b.give(b.p.desk.Receive(b.p.now, b.ask()))
	return b.Done()
}

func (b *box) give(r Report) {
	b.p.t.Helper()
	if r.Answer == nil {
		b.p.t.Fatalf("no answer: %v", r.Err)
	}
	if err := b.Receive(b.clock, r.Answer.Topic, r.Answer.Payload); err != nil {
		b.p.t.Fatal(err)
	}
}

func wantVerdict(t *testing.T, err error, want Verdict) {
	t.Helper()
	var v Verdict
	if !errors.As(err, &v) || v != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestEnrolment(t *testing.T) {
	p := newPlant(t)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for i, key := range []gocrypto.Signer{nil, ec} {
		name := fmt.Sprint("gw", i)
		e, err := p.newBox(p.ticket(name), key).join()
		if err != nil || e == nil {
			t.Fatalf("not enrolled: %v", err)
		}
		if e.Member.Name != name || e.Member.Role != crypto.RoleGateway || e.Member.Fleet != "plant" || e.PolicyVersion != 3 || string(e.CAPEM) != string(p.caCert) {
			t.Errorf("enrolled %+v", e)
		}
	}
}

// The broker sees neither name nor role nor certificate nor policy.
func TestNothingInClear(t *testing.T) {
	p := newPlant(t)
	b := p.newBox(p.ticket("hall-seven"), nil)
	request := b.ask()
	r := p.desk.Receive(p.now, request)
	for _, secret := range []string{"hall-seven", "gateway", "default", string(b.ticket.Secret.bytes())} {
		if strings.Contains(string(request), secret) || strings.Contains(string(r.Answer.Payload), secret) {
			t.Errorf("%q is in clear", secret)
		}
	}
}

// A request, again and again: the same certificate, for the same key only.
func TestReplaysAreIdempotent(t *testing.T) {
	p := newPlant(t)
	ticket := p.ticket("gw1")
	first := p.newBox(ticket, nil)
	request := first.ask()
	p.desk.Receive(p.now, request)
	r := p.desk.Receive(p.now, request) // by the broker, or since the answer was lost
	first.give(r)
	e, err := first.Done()
	if err != nil || p.issued != 1 {
		t.Fatalf("%v, %d certificates", err, p.issued)
	}
	p.now.Wall = p.now.Wall.Add(2 * time.Hour) // past its expiry the same key still gets what it was granted
	p.now.Mono += 2 * time.Hour
	again, err := p.newBox(ticket, first.key).join()
	if err != nil || string(again.CertPEM) != string(e.CertPEM) || p.issued != 1 {
		t.Errorf("the same key again: %v, %d certificates", err, p.issued)
	}
	_, err = p.newBox(ticket, nil).join()
	wantVerdict(t, err, Used)
}

func TestRefusals(t *testing.T) {
	p := newPlant(t)
	ticket := p.ticket("gw1")
	for name, forge := range map[string]func(*Ticket){
		"secret":  func(x *Ticket) { x.Secret, _ = SecretFrom(fill(32, 1)) },
		"name":    func(x *Ticket) { x.Name = "gw2" },
		"role":    func(x *Ticket) { x.Role = crypto.RoleOperator },
		"expires": func(x *Ticket) { x.Expires = x.Expires.Add(24 * time.Hour) },
	} {
		forged := *ticket
		forge(&forged)
		_, err := p.newBox(&forged, nil).join()
		if !errors.Is(err, Unknown) {
			t.Errorf("forged %s: %v", name, err)
		}
	}
	p.book.Cancel("gw1", p.now.Wall)
	_, err := p.newBox(ticket, nil).join()
	wantVerdict(t, err, Unknown)

	late := p.ticket("gw2")
	p.now.Wall = p.now.Wall.Add(time.Hour)
	_, err = p.newBox(late, nil).join()
	wantVerdict(t, err, Expired)
	if p.issued != 0 {
		t.Errorf("%d certificates", p.issued)
	}
}

// A known ticket id with a wrong MAC gets the answer of an unknown ticket, and costs the ticket nothing.
func TestGuessingBurnsNothing(t *testing.T) {
	p := newPlant(t)
	ticket := p.ticket("gw1")
	b := p.newBox(ticket, nil)
	request := b.ask()
	answers := 0
	for i := range 1000 {
		bad := append([]byte(nil), request...)
		bad[len(bad)-1-i%32] ^= byte(1 + i%255)
		r := p.desk.Receive(p.now, bad)
		if r.Answer != nil {
			answers++
			if r.Verdict != Unknown || r.Ticket != "" {
				t.Fatalf("verdict %v for %q", r.Verdict, r.Ticket)
			}
		}
	}
	if answers != RefusalBurst {
		t.Errorf("%d answers to guesses, want %d", answers, RefusalBurst)
	}
	b.give(p.desk.Receive(p.now, request))
	if e, err := b.Done(); e == nil {
		t.Errorf("the holder is not served: %v", err)
	}
}

// One ticket's holder, or a broker with its request, cannot keep the desk busy.
func TestOneTicketIsServedSlowly(t *testing.T) {
	p := newPlant(t)
	request := p.newBox(p.ticket("gw1"), nil).ask()
	other := p.newBox(p.ticket("gw2"), nil)
	answers := 0
	for range 100 {
		if p.desk.Receive(p.now, request).Answer != nil {
			answers++
		}
	}
	if answers != TicketBurst {
		t.Errorf("%d answers, want %d", answers, TicketBurst)
	}
	if e, err := other.join(); e == nil {
		t.Errorf("another ticket is not served: %v", err)
	}
	p.now.Mono += TicketEvery
	if p.desk.Receive(p.now, request).Answer == nil {
		t.Error("not served any more")
	}
}

// The MAC covers every byte of a request, and the ticket's holder cannot use a key that it does not have.
func TestMACCoversTheRequest(t *testing.T) {
	p := newPlant(t)
	p.desk.refusals = newBucket(0, 1<<20)
	request := p.newBox(p.ticket("gw1"), nil).ask()
	for i := range request {
		bad := append([]byte(nil), request...)
		bad[i] ^= 1
		if r := p.desk.Receive(p.now, bad); r.Ticket != "" || r.Err == nil {
			t.Fatalf("byte %d altered: %+v", i, r)
		}
	}
	if p.issued != 0 {
		t.Error("a certificate was issued")
	}
}

func TestProofIsNeeded(t *testing.T) {
	p := newPlant(t)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	for i, key := range []gocrypto.Signer{thief{ed, ed25519.PublicKey(make([]byte, 32))}, thief{ec, ec2.Public()}, p384} {
		_, err := p.newBox(p.ticket(fmt.Sprint("gw", i)), key).join()
		wantVerdict(t, err, Unfit)
	}
	if p.issued != 0 {
		t.Error("a certificate was issued")
	}
}

// thief has another's public key.
type thief struct {
	gocrypto.Signer
	public gocrypto.PublicKey
}

func (t thief) Public() gocrypto.PublicKey { return t.public }

// What a hostile broker may bring instead of the answer changes nothing; the answer still counts afterwards.
func TestHostileBroker(t *testing.T) {
	p := newPlant(t)
	b, rival := p.newBox(p.ticket("gw1"), nil), p.newBox(p.ticket("gw2"), nil)
	evil := newPlant(t) // another fleet of the same name, made by the broker
	refusal := func(request []byte) []byte {
		r := evil.desk.Receive(evil.now, request)
		return r.Answer.Payload
	}
	b.Connected(b.clock)
	o, fake := p.desk.Offer(), evil.desk.Offer()
	b.Receive(b.clock, o.Topic, fake.Payload)
	b.Receive(b.clock, o.Topic, o.Payload[:len(o.Payload)-1])
	if b.Found() || len(b.Take().Publish) != 0 {
		t.Fatal("another operator's offer was believed")
	}
	b.Receive(b.clock, o.Topic, o.Payload)
	request := b.Take().Publish[0].Payload
	answer := p.desk.Receive(p.now, request).Answer
	rivals := rival.ask()
	others := p.desk.Receive(p.now, rivals).Answer.Payload
	rivals[len(rivals)-1] ^= 1
	refused := p.desk.Receive(p.now, rivals).Answer.Payload // the operator's own word, to somebody else
	inbox := answer.Topic
	cut := answer.Payload[:len(answer.Payload)-1]
	flipped := append([]byte(nil), answer.Payload...)
	flipped[len(flipped)/2] ^= 1
	for name, bad := range map[string][]byte{
		"another fleet's refusal": refusal(request), "another joiner's answer": others, "another joiner's refusal": refused,
		"cut": cut, "one bit": flipped, "empty": nil, "an insider's": p.insider(b),
	} {
		b.Receive(b.clock, inbox, bad)
		if e, err := b.Done(); e != nil || err != nil {
			t.Fatalf("%s: %v, %v", name, e, err)
		}
		if said := b.Take().Progress; len(said) != 1 || !strings.Contains(said[0], "cannot be trusted") {
			t.Errorf("%s: said %q", name, said)
		}
	}
	b.Receive(b.clock, inbox, answer.Payload)
	if e, err := b.Done(); e == nil {
		t.Errorf("not enrolled: %v", err)
	}
}

// insider is a refusal that an operator's identity signed, which is not the CA.
func (p *plant) insider(b *box) []byte {
	key, cert, err := crypto.IssueMember(p.caKey, p.caCert, crypto.RoleOperator, "insider", rand.Reader, p.now.Wall)
	if err != nil {
		p.t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, p.caCert)
	if err != nil {
		p.t.Fatal(err)
	}
	b.clock.Wall = p.now.Wall
	msg, err := id.Sign((&Answer{Request: b.hash, Verdict: Used, Time: p.now.Wall}).Marshal(), kindAnswer)
	if err != nil {
		p.t.Fatal(err)
	}
	return msg
}

// Even what the operator signed is checked: it must be for this key, this name, of this CA, with a policy of the fleet.
func TestGrantIsChecked(t *testing.T) {
	p, other := newPlant(t), newPlant(t)
	good, err := p.newBox(p.ticket("gw0"), nil).join()
	if err != nil {
		t.Fatal(err)
	}
	der := func(b []byte) []byte { block, _ := pem.Decode(b); return block.Bytes }
	var b *box
	certify := func(p *plant, role crypto.Role, name string) []byte {
		cert, err := crypto.CertifyMember(p.caKey, p.caCert, role, name, b.key.Public(), rand.Reader, p.now.Wall)
		if err != nil {
			t.Fatal(err)
		}
		return der(cert)
	}
	foreign, err := other.newBox(other.ticket("gw9"), nil).join()
	if err != nil {
		t.Fatal(err)
	}
	for want, tamper := range map[string]func(*Grant){
		"private key is not":    func(g *Grant) { g.Chain = [][]byte{der(good.CertPEM)} },
		"is for keeper/gw":      func(g *Grant) { g.Chain = [][]byte{certify(p, crypto.RoleKeeper, b.ticket.Name)} },
		"is for gateway/boss":   func(g *Grant) { g.Chain = [][]byte{certify(p, crypto.RoleGateway, "boss")} },
		"certificate refused":   func(g *Grant) { g.Chain = [][]byte{certify(other, crypto.RoleGateway, b.ticket.Name)} },
		"new certificate":       func(g *Grant) { g.Chain = [][]byte{{1, 2}} },
		"the fleet's policy":    func(g *Grant) { g.Policy = foreign.Policy },
		"not in order, or more": func(g *Grant) { g.Chain = append(g.Chain, p.caDER) },
	} {
		p.tamper = tamper
		b = p.newBox(p.ticket(fmt.Sprint("gw", len(p.book.Tickets))), nil)
		e, err := b.join()
		if said := b.Take().Progress; e != nil || err != nil || !strings.Contains(strings.Join(said, ""), want) {
			t.Errorf("%s: %v, %v, said %q", want, e, err, said)
		}
	}
	p.tamper = func(g *Grant) { g.Policy = nil } // a fleet without a policy yet
	if e, err := p.newBox(p.ticket("gw99"), nil).join(); err != nil || e.Policy != nil {
		t.Errorf("without a policy: %v, %v", e, err)
	}
}

// A joiner repeats the same bytes until it is answered, ever more slowly, and begins anew with each session.
func TestJoinerRepeats(t *testing.T) {
	p := newPlant(t)
	b := p.newBox(p.ticket("gw1"), nil)
	request := b.ask()
	var pauses []time.Duration
	for range 6 {
		due, ok := b.Deadline()
		if !ok {
			t.Fatal("no deadline")
		}
		pauses = append(pauses, due-b.clock.Mono)
		b.clock.Mono = due - 1
		if b.Advance(b.clock); len(b.Take().Publish) != 0 {
			t.Fatal("repeated too early")
		}
		b.clock.Mono = due
		b.Advance(b.clock)
		if out := b.Take(); len(out.Publish) != 1 || string(out.Publish[0].Payload) != string(request) {
			t.Fatalf("repeated by %+v", out)
		}
	}
	if pauses[0] != AskMin || pauses[5] != AskMax {
		t.Errorf("pauses %v", pauses)
	}
	b.Disconnected()
	if _, ok := b.Deadline(); ok {
		t.Error("a deadline without a session")
	}
	before := b.inbox
	b.Connected(b.clock)
	if out := b.Take(); len(out.Publish) != 1 || b.inbox == before || len(out.Subscribe) != 2 {
		t.Errorf("in the next session: %+v", out)
	}
}

// A problem of the operator's does not end the waiting.
func TestUnableIsNotFinal(t *testing.T) {
	p := newPlant(t)
	b := p.newBox(p.ticket("gw1"), nil)
	p.broken = errors.New("the disk is full")
	request := b.ask()
	b.give(p.desk.Receive(p.now, request))
	if e, err := b.Done(); e != nil || err != nil {
		t.Fatalf("%v, %v", e, err)
	}
	p.broken = nil
	b.give(p.desk.Receive(p.now, request))
	if e, err := b.Done(); e == nil {
		t.Errorf("not enrolled: %v", err)
	}
}

func TestBook(t *testing.T) {
	p := newPlant(t)
	key, _ := p.book.Key()
	o := &Offer{Fleet: "plant", CA: p.caDER, Key: key.Public()}
	p.ticket("gw1")
	add := func(b *Book, name string, ttl time.Duration) func() error {
		return func() error { _, err := b.Add(o, crypto.RoleGateway, name, ttl, rand.Reader, p.now.Wall); return err }
	}
	full := &Book{Tickets: make([]Entry, MaxTickets)}
	for i := range full.Tickets {
		full.Tickets[i].Expires = p.now.Wall
	}
	for want, try := range map[string]func() error{
		"open ticket for":   add(p.book, "gw1", time.Hour),
		"lives from":        add(p.book, "gw2", MaxTTL+1),
		"not a member's":    add(p.book, "GW", time.Hour),
		"not 0s":            add(p.book, "gw2", 0),
		"as many as it can": add(full, "gw2", time.Hour),
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	later := p.now.Wall.Add(time.Hour + Remember + time.Second)
	if _, err := p.book.Add(o, crypto.RoleGateway, "gw1", time.Hour, rand.Reader, later); err != nil || len(p.book.Tickets) != 1 {
		t.Errorf("%d tickets, %v", len(p.book.Tickets), err)
	}
	if p.book.Cancel("gw2", later) || !p.book.Cancel("gw1", later) || p.book.Cancel("gw1", later) {
		t.Error("Cancel is confused")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s, _ := SecretFrom([]byte("0123456789abcdef0123456789ABCDEF"))
	ticket := goodTicket()
	ticket.Secret, ticket.Anchor = s, Anchor{}
	book := &Book{key: []byte("0123456789abcdef0123456789ABCDEF"), Tickets: []Entry{{Secret: s}}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{s, &s, ticket, *ticket, book, book.Tickets[0], struct{ hidden Secret }{s}} {
			text := fmt.Sprintf(verb, v)
			for _, leak := range []string{"0123456789abcdef", "30313233", "48 49 50", "0x30, 0x31"} {
				if strings.Contains(text, leak) {
					t.Errorf("%s of %T prints %s", verb, v, text)
				}
			}
		}
	}
}

// Anything to anybody: nothing panics, nobody is enrolled.
func FuzzReceive(f *testing.F) {
	t := &testing.T{}
	p := newPlant(t)
	p.desk.refusals = newBucket(0, 1<<30)
	b := p.newBox(p.ticket("gw1"), nil)
	request := b.ask()
	answer := p.desk.Receive(p.now, request).Answer
	o := p.desk.Offer()
	stranger := p.newBox(p.ticket("gw2"), nil)
	stranger.ask()
	seeds := [][]byte{request, answer.Payload, o.Payload, nil}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if r := p.desk.Receive(p.now, payload); r.Ticket != "" && string(payload) != string(request) {
			t.Errorf("%x was taken for a ticket holder's", payload)
		}
		for _, topic := range []string{InboxTopic("sealgate", stranger.inbox), o.Topic} {
			stranger.Receive(stranger.clock, topic, payload)
			stranger.Take()
			if e, err := stranger.Done(); e != nil || err != nil {
				t.Errorf("%x ended it: %v, %v", payload, e, err)
			}
		}
	})
}
