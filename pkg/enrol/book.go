package enrol

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// Book is the state of an operator's tickets: one file, secret as a whole (spec 6). It is a value to be
// read, changed and written back whole; who does that keeps others from doing it at the same time.
type Book struct {
	key     []byte // the operator's HPKE private key, a seed of 32 bytes
	Tickets []Entry
}

// Entry is one ticket of a book.
type Entry struct {
	ID      TicketID
	Role    crypto.Role
	Name    string
	Secret  Secret
	Made    time.Time
	Expires time.Time

	Used    time.Time // the zero time: not yet
	KeyHash [32]byte  // SHA-256 of the SubjectPublicKeyInfo that used it; valid iff Used is not zero
	Cert    []byte    // the certificate it got, DER; nil iff Used is zero
}

const bookVersion = 1

// maxBook bounds a book's file, in bytes.
const maxBook = 64<<20 - 1

// NewBook makes an empty book with a new HPKE key.
func NewBook() (*Book, error) {
	key, err := crypto.NewInboxKey()
	if err != nil {
		return nil, err
	}
	seed, err := key.Private()
	return &Book{key: seed}, err
}

// Key returns the operator's HPKE key.
func (b *Book) Key() (*crypto.InboxKey, error) { return crypto.InboxKeyFrom(b.key) }

// String says how many tickets there are.
func (b *Book) String() string { return fmt.Sprintf("%d tickets", len(b.Tickets)) }

// Format writes String for every verb.
func (b *Book) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, b.String()) }

// Open reports whether the ticket can still be used.
func (e *Entry) Open(now time.Time) bool { return e.Used.IsZero() && now.Before(e.Expires) }

// ticket is the entry as its holder has it.
func (e *Entry) ticket(fleet string, a Anchor) *Ticket {
	return &Ticket{Fleet: fleet, Role: e.Role, Name: e.Name, Anchor: a, Secret: e.Secret, Expires: e.Expires}
}

// Add makes a ticket and enters it.
func (b *Book) Add(o *Offer, role crypto.Role, name string, ttl time.Duration, rand io.Reader, now time.Time) (*Ticket, error) {
	if !role.Valid() || !crypto.ValidName(name) {
		return nil, fmt.Errorf("a ticket for %q as %q: not a member's name and role", name, role)
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return nil, fmt.Errorf("a ticket lives from %s to %s, not %s", MinTTL, MaxTTL, ttl)
	}
	b.prune(now)
	if i := b.open(name, now); i >= 0 {
		return nil, fmt.Errorf("there is an open ticket for %q already, until %s; cancel it first with `sealctl fleet tickets --cancel %s`", name, when(b.Tickets[i].Expires), name)
	}
	if len(b.Tickets) >= MaxTickets {
		return nil, fmt.Errorf("the book has %d tickets, as many as it can; cancel open ones with `sealctl fleet tickets --cancel`", len(b.Tickets))
	}
	secret, err := newSecret(rand)
	if err != nil {
		return nil, err
	}
	t := &Ticket{Fleet: o.Fleet, Role: role, Name: name, Anchor: o.Anchor(), Secret: secret, Expires: now.Add(ttl).Truncate(time.Second)}
	k, err := t.keys()
	if err != nil {
		return nil, err
	}
	b.Tickets = append(b.Tickets, Entry{ID: k.id, Role: role, Name: name, Secret: secret, Made: now.Truncate(time.Second), Expires: t.Expires})
	return t, nil
}

// open is the index of the open ticket of that name, -1 if there is none.
func (b *Book) open(name string, now time.Time) int {
	return slices.IndexFunc(b.Tickets, func(e Entry) bool { return e.Name == name && e.Open(now) })
}

// Cancel removes the open ticket of that name and reports whether there was one.
func (b *Book) Cancel(name string, now time.Time) bool {
	i := b.open(name, now)
	if i >= 0 {
		b.Tickets = slices.Delete(b.Tickets, i, i+1)
	}
	return i >= 0
}

// prune forgets tickets whose expiry is long past.
func (b *Book) prune(now time.Time) {
	b.Tickets = slices.DeleteFunc(b.Tickets, func(e Entry) bool { return now.After(e.Expires.Add(Remember)) })
}

// Find returns the ticket, nil if there is none.
func (b *Book) Find(id TicketID) *Entry {
	i := slices.IndexFunc(b.Tickets, func(e Entry) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &b.Tickets[i]
}

// Claim returns the ticket if the key of that hash may have a certificate by it: it is open, or this very key has
// used it before; then Used is set. The error is a [Verdict].
func (b *Book) Claim(id TicketID, keyHash [32]byte, now time.Time) (*Entry, error) {
	e := b.Find(id)
	switch {
	case e == nil:
		return nil, Unknown
	case !e.Used.IsZero() && e.KeyHash == keyHash:
		return e, nil
	case !e.Used.IsZero():
		return nil, Used
	case !now.Before(e.Expires):
		return nil, Expired
	}
	return e, nil
}

// Use notes that the key of that hash got the certificate (DER) by the ticket.
func (e *Entry) Use(keyHash [32]byte, cert []byte, now time.Time) {
	e.Used, e.KeyHash, e.Cert = now.Truncate(time.Second), keyHash, bytes.Clone(cert)
}

// Marshal encodes the book. The result is secret.
func (b *Book) Marshal() []byte {
	out := dcbor.AppendBytes(dcbor.AppendUint(dcbor.AppendArray(nil, 3), bookVersion), b.key)
	out = dcbor.AppendArray(out, len(b.Tickets))
	for i := range b.Tickets {
		out = b.Tickets[i].append(out)
	}
	return out
}

func (e *Entry) append(b []byte) []byte {
	b = dcbor.AppendBytes(dcbor.AppendArray(b, 7), e.ID[:])
	b = dcbor.AppendText(dcbor.AppendUint(b, roleNumber(e.Role)), e.Name)
	b = dcbor.AppendBytes(b, e.Secret.bytes())
	b = dcbor.AppendUint(dcbor.AppendUint(b, uint64(e.Made.Unix())), uint64(e.Expires.Unix()))
	if e.Used.IsZero() {
		return dcbor.AppendArray(b, 0)
	}
	b = dcbor.AppendUint(dcbor.AppendArray(b, 3), uint64(e.Used.Unix()))
	return dcbor.AppendBytes(dcbor.AppendBytes(b, e.KeyHash[:]), e.Cert)
}

// ParseBook decodes a book.
func ParseBook(data []byte) (*Book, error) {
	b := &Book{key: make([]byte, 32)}
	r := dcbor.NewReader(data)
	if len(data) > maxBook {
		r.Fail(fmt.Errorf("%w: %d bytes are more than any book has", dcbor.ErrMalformed, len(data)))
	}
	r.ArrayExact(3)
	if v := r.Uint(); r.Err() == nil && v != bookVersion {
		r.Fail(fmt.Errorf("%w: book of version %d, this release knows %d", dcbor.ErrMalformed, v, bookVersion))
	}
	r.BytesExact(b.key)
	n := r.Array(MaxTickets)
	seen := make(map[TicketID]bool)
	for i := 0; i < n && r.Err() == nil; i++ {
		e := readEntry(r)
		if r.Err() == nil && seen[e.ID] {
			r.Fail(fmt.Errorf("%w: a ticket twice", dcbor.ErrMalformed))
		}
		seen[e.ID] = true
		b.Tickets = append(b.Tickets, e)
	}
	return done(b, r, "tickets")
}

func readEntry(r *dcbor.Reader) (e Entry) {
	r.ArrayExact(7)
	r.BytesExact(e.ID[:])
	e.Role, e.Name = readRole(r), readName(r)
	var secret [SecretSize]byte
	r.BytesExact(secret[:])
	e.Secret, _ = SecretFrom(secret[:])
	e.Made, e.Expires = readTime(r), readTime(r)
	switch n := r.Array(3); {
	case r.Err() != nil || n == 0:
	case n != 3:
		r.Fail(fmt.Errorf("%w: a ticket's use has 3 items, found %d", dcbor.ErrMalformed, n))
	default:
		e.Used = readTime(r)
		r.BytesExact(e.KeyHash[:])
		e.Cert = bytes.Clone(r.Bytes(maxCertificate))
	}
	return e
}
