package cli

import (
	gocrypto "crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
	"sealgate/pkg/enrol/online"
	"sealgate/pkg/member"
)

func fleetServe() *command {
	return &command{
		name: "fleet serve", args: "DIR -b URL [flags]", short: "answer routers that join by a ticket", run: runFleetServe,
		long: `
Answer, over the control broker, the routers that ask to become members by a ticket of DIR: each gets its
certificate, the CA's and the newest policy. Runs until interrupted, and needs ca.key. Tickets that are
made meanwhile are good at once. Prints a line "NAME ROLE" for each member enrolled.`,
	}
}

func runFleetServe(env cmdenv.Env, c *command, args []string) error {
	var b brokerFlags
	o := newOptions(c)
	b.registerBroker(o)
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if err := b.checkBroker(env); err != nil {
		return err
	}
	f, err := openFleet(o.args[0])
	if err != nil {
		return err
	}
	if err := f.canCertify(); err != nil {
		return err
	}
	office := &office{env: env, dir: f.dir, policyTopic: b.prefix + "/policy"}
	if _, err := office.Book(); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no ticket was made yet; make one with `sealctl fleet ticket %s --name NAME`", f.dir)
	}
	desk, err := enrol.NewDesk(office, f.authority, f.caDER(), b.prefix)
	if err != nil {
		return err
	}
	t, err := b.tls()
	if err != nil {
		return err
	}
	log, _ := newLog(env, c)
	clock := member.NewClock(f.authority.NotBefore())
	return online.Serve(env.Ctx, online.ServeConfig{
		Broker: online.Broker{URLs: strings.Split(b.broker, ","), TLS: t, Username: b.username, Password: b.password, Log: log,
			Clock: func() enrol.Time { now := clock(); return enrol.Time{Mono: now.Mono, Wall: now.Wall} }},
		Desk: desk, Report: office.report, Outbox: office.outbox,
		Link: func(err error) {
			if err != nil {
				office.say(err.Error())
				return
			}
			office.say(fmt.Sprintf("serving fleet %s on %s; routers can join", f.name(), b.broker))
		},
	})
}

// office is a fleet directory as the enrolment desk uses it. Other commands change the directory meanwhile.
type office struct {
	env         cmdenv.Env
	dir         string
	policyTopic string

	book    *enrol.Book
	read    fs.FileInfo // of the file when book was read
	pending []enrol.Publish
	said    string
	strange strangers
}

// Book reads the tickets anew if the file has changed.
func (o *office) Book() (*enrol.Book, error) {
	f := &fleetDir{dir: o.dir}
	info, err := os.Stat(f.path(ticketsFile))
	if err != nil {
		return nil, err
	}
	if o.read != nil && os.SameFile(info, o.read) && info.ModTime().Equal(o.read.ModTime()) && info.Size() == o.read.Size() {
		return o.book, nil
	}
	book, err := f.book()
	if err != nil {
		return nil, err
	}
	o.book, o.read = book, info
	return book, nil
}

// Redeem enrols, or finishes what a crash interrupted, or answers as before. The ticket's use is on disk, with the certificate,
// before anything else happens; the rest can be done again.
func (o *office) Redeem(id enrol.TicketID, pub gocrypto.PublicKey, keyHash [32]byte, now time.Time) (*enrol.Grant, error) {
	f, unlock, err := lockFleet(o.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	book, err := f.book()
	if err != nil {
		return nil, err
	}
	e, err := book.Claim(id, keyHash, now)
	if err != nil {
		return nil, err
	}
	if e.Used.IsZero() {
		if _, exists := f.find(e.Name); exists {
			return nil, enrol.Taken
		}
		cert, err := crypto.CertifyMember(f.caKey, f.caCert, e.Role, e.Name, pub, rand.Reader, now)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(cert)
		e.Use(keyHash, block.Bytes, now)
		if err := f.saveBook(book); err != nil {
			return nil, err
		}
	}
	return o.finish(f, e, now)
}

// finish makes sure that the holder of a used ticket is in the ledger and the policy knows it.
func (o *office) finish(f *fleetDir, e *enrol.Entry, now time.Time) (*enrol.Grant, error) {
	hash := sha256.Sum256(e.Cert)
	switch known, exists := f.find(e.Name); {
	case exists && known.cert != hash:
		return nil, enrol.Taken
	case !exists:
		f.members = append(f.members, enrolled{e.Name, e.Role, hash, now.UTC().Format(time.DateOnly)})
		if err := atomicfile.Write(f.path(ledgerFile), formatLedger(f.members), 0o644); err != nil {
			return nil, err
		}
		fmt.Fprintln(o.env.Stdout, e.Name, e.Role)
	}
	raw, err := o.policyFor(f, e, hash, now)
	if err != nil {
		return nil, err
	}
	return &enrol.Grant{Chain: [][]byte{e.Cert}, Policy: raw}, nil
}

// policyFor returns the newest policy. A new version is signed, and goes out to the fleet, when the new member is one of the first
// keepers, as `sealctl fleet add` does it.
func (o *office) policyFor(f *fleetDir, e *enrol.Entry, hash [32]byte, now time.Time) ([]byte, error) {
	last, err := f.signed(now)
	if err != nil {
		return nil, err
	}
	if last != nil && last.Document.Revoked(crypto.Member{Fleet: f.name(), Role: e.Role, Name: e.Name, CertHash: hash}) {
		return nil, enrol.Revoked
	}
	doc, _, filled, err := f.draft()
	if err != nil {
		return nil, err
	}
	becomes := slices.ContainsFunc(filled, func(name string) bool {
		_, will := doc.Group(name).Rank(e.Name)
		if last == nil || last.Document.Group(name) == nil {
			return will
		}
		_, is := last.Document.Group(name).Rank(e.Name)
		return will && !is
	})
	if !becomes && (last != nil || f.checkKeepers(doc) != nil) {
		if last == nil {
			return nil, nil
		}
		return last.Raw, nil
	}
	signed, err := f.sign(now)
	if err != nil {
		return nil, err
	}
	o.say(fmt.Sprintf("policy version %d is signed, and goes to the broker", signed.Document.Version))
	o.pending = append(o.pending, enrol.Publish{Topic: o.policyTopic, Payload: signed.Raw, Retain: true, QoS: 1})
	return signed.Raw, nil
}

// outbox hands over what the fleet is to hear.
func (o *office) outbox() []enrol.Publish {
	out := o.pending
	o.pending = nil
	return out
}

// say prints a line, the same one only once in a row.
func (o *office) say(text string) {
	if text != o.said {
		o.said = text
		o.env.Errorf("%s", text)
	}
}

// report tells the operator what became of a request.
func (o *office) report(r enrol.Report) {
	switch {
	case r.Ticket == "":
		if n := o.strange.count(time.Now()); n > 0 {
			o.say(fmt.Sprintf("refused %d requests that no ticket of this fleet stands behind, the last because: %v", n, r.Err))
			o.said = ""
		}
	case r.Answer != nil && r.Verdict == enrol.Unable:
		o.say(fmt.Sprintf("%s cannot be enrolled now, and asks again: %v", r.Ticket, r.Err))
	case r.Err != nil:
		o.say(fmt.Sprintf("%s is refused: %v", r.Ticket, r.Err))
	default:
		o.say(fmt.Sprintf("%s has its certificate", r.Ticket))
	}
}

// strangers counts what anybody on the broker could cause without end.
type strangers struct {
	n    int
	last time.Time
}

// count returns how many came since it last did, 0 if that was less than ten seconds ago.
func (s *strangers) count(now time.Time) int {
	s.n++
	if now.Sub(s.last) < 10*time.Second {
		return 0
	}
	n := s.n
	s.n, s.last = 0, now
	return n
}
