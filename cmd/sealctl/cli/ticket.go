package cli

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
)

const (
	ticketsFile = "tickets.cbor" // an enrol.Book
	lockFile    = ".lock"
	defaultTTL  = 24 * time.Hour
)

func fleetTicket() *command {
	return &command{
		name: "fleet ticket", args: "DIR --role ROLE --name NAME [--ttl 24h]", short: "make a one-time ticket by which a router enrols itself", run: runFleetTicket,
		long: `
Make a ticket with which a router becomes a member of the fleet: once, under this name, until the
ticket expires. Prints it. On the router, "controld -join TICKET" makes the key pair, which never
leaves it, and waits for "sealctl fleet serve" to answer.

Who has the ticket can enrol in the router's place: hand it over by a safe way. It is kept in DIR/` + ticketsFile + `.`,
	}
}

func runFleetTicket(env cmdenv.Env, c *command, args []string) error {
	var role, name string
	ttl := defaultTTL
	o := newOptions(c)
	o.text(&role, "role", "gateway", "ROLE", "gateway (default) | keeper; others are enrolled by `sealctl fleet add`")
	o.text(&name, "name", "", "NAME", "the member's name: 1 to 63 characters a-z 0-9 . _ -")
	for _, n := range o.show("ttl", "TIME", "how long it can be used, for example 30m or 72h (default 24h, at most 720h)") {
		o.fs.DurationVar(&ttl, n, ttl, "")
	}
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	switch {
	case !mints(crypto.Role(role)):
		return usagef("--role %q: want gateway or keeper; others are enrolled by `sealctl fleet add`", role)
	case !crypto.ValidName(name):
		return usagef("--name %q: want 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit", name)
	case ttl < enrol.MinTTL || ttl > enrol.MaxTTL:
		return usagef("--ttl %s: want %s to %s", ttl, enrol.MinTTL, enrol.MaxTTL)
	}
	f, unlock, err := lockFleet(o.args[0])
	if err != nil {
		return err
	}
	defer unlock()
	t, err := f.newTicket(crypto.Role(role), name, ttl, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, t.Text())
	env.Errorf("a ticket for %s. On the router: controld -join TICKET. Here, until it has joined: sealctl fleet serve %s -b URL", t, f.dir)
	return nil
}

func (f *fleetDir) newTicket(role crypto.Role, name string, ttl time.Duration, now time.Time) (*enrol.Ticket, error) {
	if err := f.canCertify(); err != nil {
		return nil, err
	}
	if e, exists := f.find(name); exists {
		return nil, fmt.Errorf("%s %q was enrolled on %s; choose another name, names are never used twice", e.role, name, e.day)
	}
	book, err := f.book()
	if errors.Is(err, fs.ErrNotExist) {
		book, err = enrol.NewBook()
	}
	if err != nil {
		return nil, err
	}
	offer, err := f.offer(book)
	if err != nil {
		return nil, err
	}
	t, err := book.Add(offer, role, name, ttl, rand.Reader, now)
	if err != nil {
		return nil, err
	}
	return t, f.saveBook(book)
}

// canCertify refuses directories in which members cannot be made, since the CA's key is elsewhere.
func (f *fleetDir) canCertify() error {
	if len(f.caKey) == 0 {
		return fmt.Errorf("%s has no %s, so nobody can be enrolled from it by a ticket; certify the member where the CA's key is", f.dir, caKeyFile)
	}
	return nil
}

// offer is what tickets of the book are anchored in.
func (f *fleetDir) offer(book *enrol.Book) (*enrol.Offer, error) {
	key, err := book.Key()
	if err != nil {
		return nil, err
	}
	return &enrol.Offer{Fleet: f.name(), CA: f.caDER(), Key: key.Public()}, nil
}

func (f *fleetDir) caDER() []byte {
	block, _ := pem.Decode(f.caCert) // openFleet has parsed it
	return block.Bytes
}

// book reads the tickets. The error is an fs.ErrNotExist if none was ever made.
func (f *fleetDir) book() (*enrol.Book, error) {
	path := f.path(ticketsFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o), and who has it can enrol members; run: chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	book, err := enrol.ParseBook(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from a backup, or remove it: then all open tickets are void", path, err)
	}
	return book, nil
}

func (f *fleetDir) saveBook(book *enrol.Book) error {
	return atomicfile.Write(f.path(ticketsFile), book.Marshal(), 0o600)
}

func fleetTickets() *command {
	return &command{
		name: "fleet tickets", args: "DIR [--cancel NAME]", short: "list tickets, or cancel an open one", run: runFleetTickets,
		long: `
List the fleet's tickets, one a line: name, role, state (open, used or expired), and when it expires or
was used. With --cancel, make the open ticket of that name void instead.`,
	}
}

func runFleetTickets(env cmdenv.Env, c *command, args []string) error {
	var cancel string
	o := newOptions(c)
	o.text(&cancel, "cancel", "", "NAME", "make the open ticket of that name void")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	f, unlock, err := lockFleet(o.args[0])
	if err != nil {
		return err
	}
	defer unlock()
	book, err := f.book()
	switch {
	case errors.Is(err, fs.ErrNotExist) && cancel == "":
		env.Errorf("no ticket was made yet; make one with `sealctl fleet ticket %s --name NAME`", f.dir)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no open ticket for %q", cancel)
	case err != nil:
		return err
	}
	now := time.Now()
	if cancel == "" {
		listTickets(env, book, now)
		return nil
	}
	if !book.Cancel(cancel, now) {
		return fmt.Errorf("there is no open ticket for %q", cancel)
	}
	return f.saveBook(book)
}

func listTickets(env cmdenv.Env, book *enrol.Book, now time.Time) {
	for i := range book.Tickets {
		e := &book.Tickets[i]
		state, when := "expired", e.Expires
		switch {
		case e.Open(now):
			state = "open"
		case !e.Used.IsZero():
			state, when = "used", e.Used
		}
		fmt.Fprintf(env.Stdout, "%-20s %-10s %-8s %s\n", e.Name, e.Role, state, when.UTC().Format("2006-01-02 15:04 MST"))
	}
}

// lockFleet opens a fleet directory to change it: commands that do so at the same time wait for one another.
func lockFleet(dir string) (*fleetDir, func(), error) {
	if f, err := openFleet(dir); err != nil { // before a lock file is left somewhere else
		return f, nil, err
	}
	lock, err := os.OpenFile((&fleetDir{dir: dir}).path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("fleet directory: %w; it must be writable for this user", err)
	}
	unlock := func() { lock.Close() }
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		unlock()
		return nil, nil, fmt.Errorf("fleet directory %s cannot be locked: %w", dir, err)
	}
	f, err := openFleet(dir)
	if err != nil {
		unlock()
	}
	return f, unlock, err
}
