package cli

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
	"sealgate/pkg/member"
	"sealgate/pkg/session"
)

func setupCommand() *command {
	return &command{
		name: "setup", args: "[flags]", short: "set a new gateway up: asks for what it has to know, and enrols it", run: runSetup,
		long: `
Ask for the ticket that the operator made, for the broker and the CA of its certificate, and for
the two sides that the gateway stands between; check each answer; write the configuration and
become a member of the fleet. A gateway that is set up already is left alone.

With --from nothing is asked: the files ticket, broker and ca.pem in that directory have the
answers. Exit code 2 if one is missing or wrong, 1 if something else did not work: try again.`,
	}
}

// wizard is one set-up: where it reads and writes, and what it has learnt.
type wizard struct {
	env     cmdenv.Env
	in      *bufio.Reader
	file    string // the configuration
	member  crypto.Member
	ticket  string // "": the identity is there already
	broker  string
	caPEM   []byte // empty: the system's roots
	lan, up string
	bridge  string
	wait    string // how long controld waits for the operator; "": as long as it does by itself
}

// maxAnswer is the longest line that is read: a ticket is the longest answer.
const maxAnswer = 4 * enrol.MaxTicket

// unattendedWait is how long one attempt waits for the operator's answer: whoever runs it tries again, and can say meanwhile what is missing.
const unattendedWait = "30s"

func runSetup(env cmdenv.Env, c *command, args []string) error {
	var from string
	var check bool
	w := &wizard{env: env, in: bufio.NewReader(env.Stdin)}
	o := newOptions(c)
	o.text(&w.file, "config", config.DefaultPath, "FILE", "the configuration to write (default "+config.DefaultPath+")")
	o.text(&w.lan, "lan", "", "INTERFACE", "on the devices' side; asked for if not given")
	o.text(&w.up, "uplink", "", "INTERFACE", "towards the broker; asked for if not given")
	o.text(&w.bridge, "bridge", "", "INTERFACE", "the bridge of the two, if the gateway stands within one network")
	o.text(&from, "from", "", "DIR", "take the answers from files in DIR, and ask nothing")
	o.yes(&check, "check", "with --from: only look at the files, and print place.conf, an appliance's, as far as it is there")
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	if from != "" && !check && (w.lan == "" || w.up == "") || check && from == "" {
		return usagef("--from goes with --lan and --uplink, or with --check")
	}
	if _, err := os.Stat(w.file); err == nil {
		return fmt.Errorf("%s exists: this gateway is set up. `sealctl status` shows how it is; to begin anew remove that file and the identity it names", w.file)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	steps := []func() error{w.askTicket, w.askBroker, w.askSides, w.check, w.join, w.write}
	if from != "" {
		place, err := w.fromFiles(from)
		if check && err == nil {
			_, err = io.WriteString(env.Stdout, place)
		}
		if check || err != nil {
			return err
		}
		w.wait = unattendedWait
		steps = []func() error{w.tryBroker, w.check, w.join, w.write}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (w *wizard) say(format string, args ...any) { fmt.Fprintf(w.env.Stderr, format+"\n", args...) }

// ask asks until accept takes the answer. An empty answer is def.
func (w *wizard) ask(question, def string, accept func(string) error) error {
	for {
		if def == "" {
			fmt.Fprintf(w.env.Stderr, "%s: ", question)
		} else {
			fmt.Fprintf(w.env.Stderr, "%s [%s]: ", question, def)
		}
		answer, err := w.line()
		if err != nil {
			return fmt.Errorf("the answers ended at the question %q: nothing was set up", question)
		}
		if answer == "" {
			answer = def
		}
		if err = accept(answer); err == nil {
			return nil
		}
		w.say("  %v", err)
	}
}

// line reads one line without the white space around it.
func (w *wizard) line() (string, error) {
	var b strings.Builder
	for {
		part, more, err := w.in.ReadLine()
		if err != nil {
			return "", err
		}
		if b.Len()+len(part) <= maxAnswer {
			b.Write(part)
		}
		if !more {
			return strings.TrimSpace(b.String()), nil
		}
	}
}

func (w *wizard) identity() string { return filepath.Join(filepath.Dir(w.file), "identity") }

// askTicket asks who this gateway is to be. A set-up that was broken off may have got as far as an identity.
func (w *wizard) askTicket() error {
	if id, _, _, err := member.LoadIdentity(w.identity()); err == nil {
		w.member = id.Member()
		w.say("This machine is %s %q of fleet %q already.", w.member.Role, w.member.Name, w.member.Fleet)
		return nil
	}
	w.say("A ticket makes this gateway a member of a fleet, once. The operator makes it with `sealctl fleet ticket`,\nand has `sealctl fleet serve` running.")
	return w.ask("Ticket", "", func(answer string) error {
		t, err := w.takeTicket(answer)
		if err == nil {
			w.say("  %s", t)
		}
		return err
	})
}

func (w *wizard) takeTicket(text string) (*enrol.Ticket, error) {
	t, err := enrol.ParseTicket(text)
	if err == nil {
		w.ticket, w.member = text, crypto.Member{Fleet: t.Fleet, Role: t.Role, Name: t.Name}
	}
	return t, err
}

// askBroker asks for broker and CA, and tries them: a wrong one would show only after the ticket has been sent in vain.
func (w *wizard) askBroker() error {
	w.say("\nThe broker that keys are exchanged over, by TLS: mqtts://HOST or mqtts://HOST:PORT.")
	for {
		err := w.ask("Broker", "", w.takeBroker)
		if err == nil && strings.HasPrefix(w.broker, "mqtts:") {
			err = w.askCA()
		}
		if err != nil {
			return err
		}
		if err = w.tryBroker(); err == nil {
			w.say("  %s answers, and its certificate is good.", w.broker)
			return nil
		}
		w.say("  %v", err)
	}
}

func (w *wizard) takeBroker(url string) error {
	w.broker = url
	_, err := session.ParseBroker(url)
	return err
}

// askCA reads a path or a pasted certificate.
func (w *wizard) askCA() error {
	w.say("The CA of its certificate: the path of a PEM file, or paste the file here; nothing: a CA that this system trusts.")
	return w.ask("CA", "", func(answer string) (err error) {
		var pem []byte
		switch {
		case answer == "":
			w.caPEM = nil
			return nil
		case strings.HasPrefix(answer, "-----BEGIN "):
			pem, err = w.paste(answer)
		default:
			pem, err = readCA(answer)
		}
		if err != nil {
			return err
		}
		return w.takeCA(pem)
	})
}

// maxCA bounds the file with the broker's CA: as many as a system trusts.
const maxCA = 1 << 20

func readCA(file string) ([]byte, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	pem, err := io.ReadAll(io.LimitReader(in, maxCA+1))
	if err == nil && len(pem) > maxCA {
		err = fmt.Errorf("%s is larger than %d bytes; want the PEM file of a CA", file, maxCA)
	}
	return pem, err
}

// takeCA keeps what is to be a file that everybody may read.
func (w *wizard) takeCA(pem []byte) error {
	if bytes.Contains(pem, []byte("PRIVATE KEY-----")) {
		return errors.New("there is a private key in it, which does not belong on a gateway; give the certificate alone")
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("there is no certificate in it")
	}
	w.caPEM = pem
	return nil
}

// paste reads the rest of a certificate whose first line has come.
func (w *wizard) paste(line string) ([]byte, error) {
	var b strings.Builder
	for b.Len() < 64<<10 {
		fmt.Fprintln(&b, line)
		if strings.HasPrefix(line, "-----END ") {
			return []byte(b.String()), nil
		}
		var err error
		if line, err = w.line(); err != nil {
			return nil, errors.New("the certificate ended before its last line")
		}
	}
	return nil, errors.New("that is no certificate: it has no last line")
}

func (w *wizard) caFile() string { return filepath.Join(filepath.Dir(w.file), "broker-ca.pem") }

func (w *wizard) tryBroker() error {
	b, err := session.ParseBroker(w.broker)
	if err != nil {
		return err
	}
	t, err := session.TLSFiles("", "", "")
	if err != nil {
		return err
	}
	if w.caPEM != nil {
		t.RootCAs = x509.NewCertPool()
		t.RootCAs.AppendCertsFromPEM(w.caPEM)
	}
	return session.Reach(w.env.Ctx, b, t)
}

// askSides asks between which interfaces the gateway stands, if the flags do not say.
func (w *wizard) askSides() error {
	if w.lan == "" || w.up == "" {
		names, err := interfaces()
		if err != nil {
			return err
		}
		w.say("\nThis machine's interfaces: %s.", strings.Join(names, ", "))
	}
	for _, side := range []struct {
		question string
		name     *string
	}{{"Interface on the devices' side", &w.lan}, {"Interface towards the broker", &w.up}} {
		if *side.name != "" {
			continue
		}
		err := w.ask(side.question, "", func(answer string) error {
			if _, err := net.InterfaceByName(answer); err != nil {
				return fmt.Errorf("there is no interface %q", answer)
			}
			if answer == w.lan {
				return fmt.Errorf("%q is the devices' side; the gateway stands between two", answer)
			}
			*side.name = answer
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// interfaces lists the machine's interfaces without the loopback.
func interfaces() (names []string, err error) {
	all, err := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	return names, err
}

// conf is the configuration that the answers make.
func (w *wizard) conf() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by `sealctl setup`; docs/OPERATIONS.md has every key.\nfleet    = %q\nidentity = %q\n", w.member.Fleet, w.identity())
	if _, err := user.Lookup("sealgate"); err == nil {
		b.WriteString("user     = \"sealgate\"\n")
	}
	fmt.Fprintf(&b, "\n[steer]\nmode   = \"tc\"\nlan    = [%q]\nuplink = [%q]\n", w.lan, w.up)
	if w.bridge != "" {
		fmt.Fprintf(&b, "bridge = %q\n", w.bridge)
	}
	fmt.Fprint(&b, "\n[uplink]\n")
	if w.caPEM != nil {
		fmt.Fprintf(&b, "ca = %q\n", w.caFile())
	}
	fmt.Fprintf(&b, "\n[control]\nbroker = %q\n", w.broker)
	return []byte(b.String())
}

// check writes the CA, and holds the configuration that is to be written later: a ticket is not to be used up for one that does not work.
func (w *wizard) check() error {
	if _, err := config.Parse(w.file, w.conf()); err != nil {
		return fmt.Errorf("these answers make no configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(w.file), 0o755); err != nil || w.caPEM == nil {
		return err
	}
	return atomicfile.Write(w.caFile(), w.caPEM, 0o644)
}

// join has controld, whose work that is, enrol this gateway.
func (w *wizard) join() error {
	if w.ticket == "" {
		return nil
	}
	program, err := findBeside("controld")
	if err != nil {
		return fmt.Errorf("controld is needed for enrolling: %w", err)
	}
	w.say("\nAsking the operator for membership. This waits until `sealctl fleet serve` answers.")
	args := []string{"-join", "-", "-broker", w.broker, "-identity", w.identity()}
	if w.caPEM != nil {
		args = append(args, "-cafile", w.caFile())
	}
	if w.wait != "" {
		args = append(args, "-wait", w.wait)
	}
	cmd := exec.CommandContext(w.env.Ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(w.ticket), io.Discard, w.env.Stderr
	switch err := cmd.Run(); {
	case err != nil && w.wait != "":
		return errSilent // controld has said why
	case err != nil:
		return fmt.Errorf("not enrolled (%w); run this again with the same ticket when that is mended", err)
	}
	return nil
}

// write comes last: where the configuration is there, everything is.
func (w *wizard) write() error {
	if err := atomicfile.Write(w.file, w.conf(), 0o644); err != nil {
		return err
	}
	w.say("\nDone: this is %s %q of fleet %q. `sealctl doctor` checks the rest; start controld and gatewayd if nothing starts them here.", w.member.Role, w.member.Name, w.member.Fleet)
	return nil
}
