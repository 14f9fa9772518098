package enrol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/test/spec"
)

// The test vectors of docs/spec/enrol.md: one file a case, one defect in a case that must be
// refused. The generator is deterministic:
//
//	go test ./pkg/enrol -run TestVectors -update
const vectors spec.Vectors = "../../test/vectors/enrol"

var update = flag.Bool("update", false, "write test/vectors/enrol anew")

// vector is one file. Payload is what is encoded; of a ticket, Text is its text.
type vector struct {
	Comment string         `json:"comment"`
	Spec    string         `json:"spec"`
	Expect  string         `json:"expect"` // "ok", or "parse": to be refused
	Kind    string         `json:"kind"`   // ticket, offer, request, request-body, answer, grant, book
	Fields  map[string]any `json:"fields,omitempty"`
	Text    string         `json:"text,omitempty"`
	Payload octets         `json:"payload,omitempty"`
}

type octets = spec.Hex

// kinds decode a payload of a kind and encode it again.
var kinds = map[string]func([]byte) ([]byte, error){
	"offer":        func(b []byte) ([]byte, error) { return again(ParseOffer(b)) },
	"request":      func(b []byte) ([]byte, error) { return again(ParseRequest(b)) },
	"request-body": func(b []byte) ([]byte, error) { return again(ParseRequestBody(b)) },
	"answer":       func(b []byte) ([]byte, error) { return again(ParseAnswer(b)) },
	"grant":        func(b []byte) ([]byte, error) { return again(ParseGrant(b)) },
	"book":         func(b []byte) ([]byte, error) { return again(ParseBook(b)) },
}

func again[M interface{ Marshal() []byte }](m M, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return m.Marshal(), nil
}

func fill(n int, first byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

var vectorTime = time.Unix(1790000000, 0)

func goodTicket() *Ticket {
	s, _ := SecretFrom(fill(32, 0x80))
	return &Ticket{Fleet: "plant", Role: crypto.RoleGateway, Name: "gw1", Anchor: Anchor(fill(32, 0x20)), Secret: s, Expires: vectorTime}
}

func goodOffer() *Offer {
	return &Offer{Fleet: "plant", CA: fill(60, 1), Key: fill(crypto.InboxPublicSize, 0)}
}

func goodRequest() *Request {
	t := goodTicket()
	k, _ := t.keys()
	r := &Request{Ticket: k.id, Inbox: [16]byte(fill(16, 0x10)), Sealed: fill(100, 3)}
	r.MAC = k.seal(r)
	return r
}

func goodBody() *RequestBody {
	return &RequestBody{Key: fill(44, 1), Reply: fill(crypto.InboxPublicSize, 9), Proof: fill(64, 5)}
}

func goodAnswer() *Answer {
	return &Answer{Request: [32]byte(fill(32, 0x40)), Verdict: Granted, Time: vectorTime, Sealed: fill(80, 7)}
}

func goodGrant() *Grant {
	return &Grant{Chain: [][]byte{fill(50, 1), fill(40, 2)}, Policy: fill(30, 3)}
}

func goodBook() *Book {
	s1, _ := SecretFrom(fill(32, 0x80))
	s2, _ := SecretFrom(fill(32, 0xa0))
	return &Book{key: fill(32, 0x60), Tickets: []Entry{
		{ID: TicketID(fill(16, 1)), Role: crypto.RoleGateway, Name: "gw1", Secret: s1, Made: vectorTime, Expires: vectorTime.Add(time.Hour)},
		{ID: TicketID(fill(16, 2)), Role: crypto.RoleKeeper, Name: "k1", Secret: s2, Made: vectorTime, Expires: vectorTime.Add(time.Hour),
			Used: vectorTime.Add(time.Minute), KeyHash: [32]byte(fill(32, 0xc0)), Cert: fill(70, 4)},
	}}
}

type vectorSet map[string]vector

func (s vectorSet) good(kind, section, comment string, fields map[string]any, payload []byte) {
	s[kind+"-ok"] = vector{Comment: comment, Spec: section, Expect: "ok", Kind: kind, Fields: fields, Payload: octets(payload)}
	s.bad(kind, section, "empty", "nothing at all", nil)
	s.bad(kind, section, "trailing", "one byte too many", append(bytes.Clone(payload), 0))
	s.bad(kind, section, "cut", "the last byte is missing", payload[:len(payload)-1])
	s.bad(kind, section, "indefinite", "the outer array has an indefinite length", append(append([]byte{0x9f}, payload[1:]...), 0xff))
	s.bad(kind, section, "long-head", "the outer array's head is one byte longer than needed", append([]byte{0x98, payload[0] & 0x1f}, payload[1:]...))
	s.bad(kind, section, "items", "the outer array declares one item more than there is", append([]byte{payload[0] + 1}, payload[1:]...))
	s.bad(kind, section, "map", "a map where the array belongs", append([]byte{payload[0]&0x1f | 0xa0}, payload[1:]...))
}

func (s vectorSet) bad(kind, section, name, comment string, payload []byte) {
	s[kind+"-"+name] = vector{Comment: comment, Spec: section, Expect: "parse", Kind: kind, Payload: octets(payload)}
}

func edited[T any](m *T, edit func(*T)) *T {
	edit(m)
	return m
}

func makeVectors() vectorSet {
	s := make(vectorSet)
	s.tickets()
	o := goodOffer()
	a := o.Anchor()
	s.good("offer", "4.1", "an operator's offer", map[string]any{"fleet": o.Fleet, "ca": octets(o.CA), "key": octets(o.Key), "anchor": octets(a[:]),
		"request_topic": RequestTopic("sealgate", a), "offer_topic": OfferTopic("sealgate", a)}, o.Marshal())
	s.bad("offer", "4.1", "kind", "of another kind", bytes.Replace(o.Marshal(), []byte("offer"), []byte("offal"), 1))
	s.bad("offer", "4.1", "fleet", "no fleet's name", edited(goodOffer(), func(o *Offer) { o.Fleet = "Plant" }).Marshal())
	s.bad("offer", "4.1", "key-short", "a key that is one byte short", edited(goodOffer(), func(o *Offer) { o.Key = o.Key[1:] }).Marshal())
	s.bad("offer", "4.1", "ca-long", "a certificate of more than 8 KiB", edited(goodOffer(), func(o *Offer) { o.CA = fill(8193, 0) }).Marshal())
	s.requests()
	s.answers()
	s.books()
	return s
}

func (s vectorSet) tickets() {
	t := goodTicket()
	k, _ := t.keys()
	s["ticket-ok"] = vector{Comment: "a ticket, its id and the key of its MAC", Spec: "3.1", Expect: "ok", Kind: "ticket", Text: t.Text(), Payload: octets(t.marshal()),
		Fields: map[string]any{"fleet": t.Fleet, "role": t.Role, "name": t.Name, "anchor": octets(t.Anchor[:]), "secret": octets(t.Secret.bytes()), "expires": t.Expires.Unix(),
			"id": octets(k.id[:]), "mac_key": octets(k.mac[:])}}
	text := t.Text()
	for name, c := range map[string][2]string{
		"empty":     {"nothing", ""},
		"prefix":    {"without its prefix", strings.TrimPrefix(text, TicketPrefix)},
		"version":   {"of another version", strings.Replace(text, "-1-", "-2-", 1)},
		"cut":       {"the last character is missing", text[:len(text)-1]},
		"typo":      {"one character is another", text[:40] + string(text[40]^1) + text[41:]},
		"padded":    {"base64 with padding", text + "="},
		"alphabet":  {"a character of the other base64 alphabet", text[:40] + "+" + text[41:]},
		"doubled":   {"twice, one after the other", text + text},
		"long":      {"longer than any", text + strings.Repeat("A", MaxTicket)},
		"fleet":     {"no fleet's name", edited(goodTicket(), func(t *Ticket) { t.Fleet = "a b" }).Text()},
		"name":      {"no member's name", edited(goodTicket(), func(t *Ticket) { t.Name = "" }).Text()},
		"role":      {"a role that does not exist", edited(goodTicket(), func(t *Ticket) { t.Role = "authority" }).Text()},
		"no-secret": {"an empty secret", edited(goodTicket(), func(t *Ticket) { t.Secret = Secret{} }).Text()},
		"year":      {"expires after the year 9999", edited(goodTicket(), func(t *Ticket) { t.Expires = time.Unix(maxTime+1, 0) }).Text()},
	} {
		s["ticket-"+name] = vector{Comment: c[0], Spec: "3.1", Expect: "parse", Kind: "ticket", Text: c[1]}
	}
}

func (s vectorSet) requests() {
	r := goodRequest()
	k, _ := goodTicket().keys()
	s.good("request", "4.2", "a joiner asks; the MAC is by the ticket of ticket-ok", map[string]any{"ticket": octets(r.Ticket[:]), "inbox": octets(r.Inbox[:]), "sealed": octets(r.Sealed),
		"mac": octets(r.MAC[:]), "mac_key": octets(k.mac[:])}, r.Marshal())
	bad := func(name, comment string, b []byte) { s.bad("request", "4.2", name, comment, b) }
	bad("kind", "of another kind", bytes.Replace(r.Marshal(), []byte("request"), []byte("request"[:6]+"x"), 1))
	bad("large", "more than 4 KiB", edited(goodRequest(), func(r *Request) { r.Sealed = fill(MaxRequest, 0) }).Marshal())
	bad("inbox-short", "an inbox of 15 bytes", bytes.Replace(r.Marshal(), append([]byte{0x50}, fill(16, 0x10)...), append([]byte{0x4f}, fill(15, 0x10)...), 1))
	b := goodBody()
	s.good("request-body", "4.2", "what a request seals", map[string]any{"key": octets(b.Key), "reply": octets(b.Reply), "proof": octets(b.Proof)}, b.Marshal())
	badBody := func(name, comment string, edit func(*RequestBody)) {
		s.bad("request-body", "4.2", name, comment, edited(goodBody(), edit).Marshal())
	}
	badBody("key-long", "a public key of 129 bytes", func(b *RequestBody) { b.Key = fill(129, 0) })
	badBody("reply-short", "a reply key that is one byte short", func(b *RequestBody) { b.Reply = b.Reply[1:] })
	badBody("proof-long", "a proof of 81 bytes", func(b *RequestBody) { b.Proof = fill(81, 0) })
}

func (s vectorSet) answers() {
	a := goodAnswer()
	s.good("answer", "4.3", "the payload of an answer that grants", map[string]any{"request": octets(a.Request[:]), "verdict": 0, "time": a.Time.Unix(), "sealed": octets(a.Sealed)}, a.Marshal())
	refused := edited(goodAnswer(), func(a *Answer) { a.Verdict, a.Sealed = Used, nil })
	s["answer-ok-used"] = vector{Comment: "the payload of an answer that refuses", Spec: "4.3", Expect: "ok", Kind: "answer", Payload: octets(refused.Marshal()),
		Fields: map[string]any{"request": octets(a.Request[:]), "verdict": 3, "time": a.Time.Unix(), "sealed": ""}}
	bad := func(name, comment string, edit func(*Answer)) {
		s.bad("answer", "4.3", name, comment, edited(goodAnswer(), edit).Marshal())
	}
	s.bad("answer", "4.3", "kind", "of another kind", bytes.Replace(a.Marshal(), []byte("answer"), []byte("answex"), 1))
	bad("verdict", "a verdict that does not exist", func(a *Answer) { a.Verdict, a.Sealed = 8, nil })
	bad("granted-nothing", "grants, and seals nothing", func(a *Answer) { a.Sealed = nil })
	bad("refused-something", "refuses, and seals something", func(a *Answer) { a.Verdict = Expired })
	g := goodGrant()
	s.good("grant", "4.3", "what an answer seals", map[string]any{"chain": []octets{octets(g.Chain[0]), octets(g.Chain[1])}, "policy": octets(g.Policy)}, g.Marshal())
	s.bad("grant", "4.3", "no-certificate", "no certificate", (&Grant{Policy: g.Policy}).Marshal())
	s.bad("grant", "4.3", "five", "five certificates", (&Grant{Chain: [][]byte{{1}, {2}, {3}, {4}, {5}}}).Marshal())
}

func (s vectorSet) books() {
	var tickets []map[string]any
	b := goodBook()
	for _, e := range b.Tickets {
		f := map[string]any{"id": octets(e.ID[:]), "role": e.Role, "name": e.Name, "secret": octets(e.Secret.bytes()), "made": e.Made.Unix(), "expires": e.Expires.Unix()}
		if !e.Used.IsZero() {
			f["used"], f["key_hash"], f["certificate"] = e.Used.Unix(), octets(e.KeyHash[:]), octets(e.Cert)
		}
		tickets = append(tickets, f)
	}
	s.good("book", "6", "an open ticket and a used one", map[string]any{"key": octets(b.key), "tickets": tickets}, b.Marshal())
	bad := func(name, comment string, edit func(*Book)) {
		s.bad("book", "6", name, comment, edited(goodBook(), edit).Marshal())
	}
	bad("twice", "a ticket twice", func(b *Book) { b.Tickets[1] = b.Tickets[0] })
	bad("name", "no member's name", func(b *Book) { b.Tickets[0].Name = "../x" })
	bad("role", "a role that does not exist", func(b *Book) { b.Tickets[0].Role = "boss" })
	bad("key-short", "an HPKE key of 31 bytes", func(b *Book) { b.key = b.key[1:] })
	s.bad("book", "6", "version", "of version 2", append([]byte{0x83, 2}, b.Marshal()[2:]...))
}

func TestVectorsAreCurrent(t *testing.T) { spec.Current(t, vectors, makeVectors(), *update) }

func TestVectors(t *testing.T) {
	spec.Each(t, vectors, func(t *testing.T, v *vector) {
		var got []byte
		var err error
		if v.Kind == "ticket" {
			var ticket *Ticket
			if ticket, err = ParseTicket(v.Text); err == nil {
				got = ticket.marshal()
			}
		} else {
			got, err = kinds[v.Kind](v.Payload)
		}
		switch {
		case v.Expect == "ok" && (err != nil || !bytes.Equal(got, v.Payload)):
			t.Errorf("error %v, encodes to %x", err, got)
		case v.Expect == "parse" && !errors.Is(err, dcbor.ErrMalformed) && !errors.Is(err, ErrTicket):
			t.Errorf("error %v, want a refusal by the decoder", err)
		}
	})
}

// Whatever decodes encodes to the same bytes.
func FuzzMessages(f *testing.F) {
	seeds := make(map[string]int)
	for _, path := range vectors.Files(f) {
		if v := spec.Read[vector](f, path); v.Kind != "ticket" {
			f.Add([]byte(v.Payload))
			seeds[v.Kind]++
		}
	}
	for kind := range kinds {
		if seeds[kind] < 8 {
			f.Fatalf("%d seeds of kind %s", seeds[kind], kind)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for kind, reencode := range kinds {
			if got, err := reencode(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%s: %x encodes to %x", kind, b, got)
			}
		}
	})
}

// Whatever is a ticket is written in one way only, but for white space.
func FuzzTicket(f *testing.F) {
	seeds := 0
	for _, path := range vectors.Files(f) {
		if v := spec.Read[vector](f, path); v.Kind == "ticket" {
			f.Add(v.Text)
			seeds++
		}
	}
	if seeds < 10 {
		f.Fatalf("%d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ticket, err := ParseTicket(text)
		if err == nil && ticket.Text() != strings.Join(strings.Fields(text), "") {
			t.Errorf("%q is written %q", text, ticket.Text())
		}
		if err == nil && strings.Contains(fmt.Sprintf("%v %+v %#v %s %q", ticket, ticket, ticket, ticket, ticket.Secret), hex.EncodeToString(ticket.Secret.bytes())) {
			t.Error("the secret is printed")
		}
	})
}
