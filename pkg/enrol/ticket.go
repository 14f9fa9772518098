package enrol

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// TicketPrefix is what the text of every ticket begins with.
const TicketPrefix = "sealgate-ticket-1-"

const checksumSize = 4

// ErrTicket is wrapped by every error of ParseTicket.
var ErrTicket = errors.New("not a ticket")

// roles in the order of their numbers in a ticket (spec 3.1).
var roles = [...]crypto.Role{crypto.RoleGateway, crypto.RoleKeeper, crypto.RoleSubscriber, crypto.RoleOperator}

func roleNumber(r crypto.Role) uint64 {
	for i, known := range roles {
		if known == r {
			return uint64(i)
		}
	}
	return uint64(len(roles))
}

func readRole(r *dcbor.Reader) crypto.Role { return roles[r.UintMax(uint64(len(roles)-1))] }

func readName(r *dcbor.Reader) string {
	s := r.Text(crypto.MaxName)
	if r.Err() == nil && !crypto.ValidName(s) {
		r.Fail(fmt.Errorf("%w: %q is not a name", dcbor.ErrMalformed, s))
	}
	return s
}

// Anchor is the SHA-256 of an [Offer]: the fleet, its CA and the operator's HPKE key (spec 4.1).
type Anchor [32]byte

// Ticket lets its holder become one member of a fleet, once, until it expires. It prints without its secret.
type Ticket struct {
	Fleet   string
	Role    crypto.Role
	Name    string
	Anchor  Anchor
	Secret  Secret
	Expires time.Time // whole seconds
}

// appendPublic appends the five items of a ticket that are not secret.
func (t *Ticket) appendPublic(b []byte) []byte {
	b = dcbor.AppendUint(dcbor.AppendText(b, t.Fleet), roleNumber(t.Role))
	b = dcbor.AppendBytes(dcbor.AppendText(b, t.Name), t.Anchor[:])
	return dcbor.AppendUint(b, uint64(t.Expires.Unix()))
}

func (t *Ticket) marshal() []byte {
	return dcbor.AppendBytes(t.appendPublic(dcbor.AppendArray(nil, 6)), t.Secret.bytes())
}

// Text returns the ticket as it is handed over: one word without spaces. It contains the secret.
func (t *Ticket) Text() string {
	b := t.marshal()
	return TicketPrefix + base64.RawURLEncoding.EncodeToString(append(b, checksum(b)...))
}

// ID names the ticket without giving its secret away.
func (t *Ticket) ID() (TicketID, error) {
	k, err := t.keys()
	return k.id, err
}

// String says whose ticket it is, without the secret.
func (t *Ticket) String() string {
	return fmt.Sprintf("%s %s of fleet %s, until %s", t.Role, t.Name, t.Fleet, when(t.Expires))
}

// Format writes String for every verb.
func (t *Ticket) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue returns String.
func (t *Ticket) LogValue() slog.Value { return slog.StringValue(t.String()) }

func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// checksum finds what was mistyped; it authenticates nothing.
func checksum(b []byte) []byte {
	sum := sha256.Sum256(append(dcbor.AppendText(nil, labelTicket), b...))
	return sum[:checksumSize]
}

// ParseTicket reads a ticket. White space anywhere in it is ignored: consoles break lines.
func ParseTicket(text string) (*Ticket, error) {
	if len(text) > 2*MaxTicket {
		return nil, fmt.Errorf("%w: %d characters are more than any has", ErrTicket, len(text))
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
	body, ok := strings.CutPrefix(text, TicketPrefix)
	switch {
	case text == "":
		return nil, fmt.Errorf("%w: it is empty; `sealctl fleet ticket` prints one", ErrTicket)
	case !ok && strings.HasPrefix(text, "sealgate-ticket-"):
		return nil, fmt.Errorf("%w of this version, which begins with %s: use the same release here and at the operator's", ErrTicket, TicketPrefix)
	case !ok:
		return nil, fmt.Errorf("%w: one begins with %s; copy it whole, as `sealctl fleet ticket` printed it", ErrTicket, TicketPrefix)
	case len(text) > MaxTicket:
		return nil, fmt.Errorf("%w: %d characters are more than any has", ErrTicket, len(text))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < checksumSize {
		return nil, fmt.Errorf("%w: a character is wrong or missing; copy it whole, as `sealctl fleet ticket` printed it", ErrTicket)
	}
	b, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	if !bytes.Equal(sum, checksum(b)) {
		return nil, fmt.Errorf("%w: its checksum does not fit, so a character is wrong or missing; copy it whole, as `sealctl fleet ticket` printed it", ErrTicket)
	}
	return unmarshalTicket(b)
}

func unmarshalTicket(b []byte) (*Ticket, error) {
	var t Ticket
	r := dcbor.NewReader(b)
	r.ArrayExact(6)
	t.Fleet, t.Role, t.Name = readName(r), readRole(r), readName(r)
	r.BytesExact(t.Anchor[:])
	t.Expires = readTime(r)
	var secret [SecretSize]byte
	r.BytesExact(secret[:])
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTicket, err)
	}
	var err error
	t.Secret, err = SecretFrom(secret[:])
	return &t, err
}

// maxTime bounds times, in Unix seconds: the year 9999.
const maxTime = 253402300799

func readTime(r *dcbor.Reader) time.Time { return time.Unix(int64(r.UintMax(maxTime)), 0) }
