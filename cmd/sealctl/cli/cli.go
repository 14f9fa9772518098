// Package cli is sealctl, one file a command. [Main] finds the command, which
// parses its flags (options.go) and returns an error; nothing but Main turns errors into lines and
// exit codes. Data goes to stdout, everything else to stderr.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"sealgate/cmd/internal/cmdenv"
)

// command is one command. run gets the arguments after the command's name.
type command struct {
	name  string // one or two words
	args  string // synopsis after the name
	short string
	run   func(env cmdenv.Env, c *command, args []string) error
	long  string // what -h shows above the flags
}

func commands() []*command {
	return []*command{
		fleetInit(), fleetAdd(), fleetTicket(), fleetTickets(), fleetServe(), fleetRevoke(),
		policySign(), policyPublish(),
		subCommand(), pubCommand(), watchCommand(),
		setupCommand(), upgradeSign(), upgradeKeep(), upgradeCommand(), statusCommand(), rotateCommand(), doctorCommand(), versionCommand(),
	}
}

// usageError is a mistake in the arguments: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// errSilent makes the exit code 1 when everything there is to say has been printed.
var errSilent = errors.New("")

// Main runs sealctl and returns its exit code.
func Main(env cmdenv.Env) int {
	args := env.Args
	if len(args) == 0 {
		overview(env.Stderr)
		return cmdenv.Usage
	}
	if isHelp(args[0]) {
		return help(env, args[1:])
	}
	c, rest, err := find(args)
	if err == nil {
		err = c.run(env, c, rest)
	}
	return finish(env, c, err)
}

// finish prints what went wrong and returns the exit code.
func finish(env cmdenv.Env, c *command, err error) int {
	name := "sealctl"
	if c != nil {
		name += " " + c.name
	}
	var usage *usageError
	switch {
	case err == nil:
		return cmdenv.OK
	case errors.Is(err, flag.ErrHelp):
		return cmdenv.OK
	case errors.As(err, &usage):
		env.Errorf("%s: %v", name, err)
		return cmdenv.Usage
	case !errors.Is(err, errSilent):
		env.Errorf("%s: %v", name, err)
	}
	return cmdenv.Failed
}

// find returns the command that args begin with, and the arguments after its name.
func find(args []string) (*command, []string, error) {
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			return c, args[len(words):], nil
		}
	}
	if known := inFamily(args[0]); len(known) > 0 {
		if len(args) > 1 && !isHelp(args[1]) {
			return nil, nil, usagef("unknown command %q; there are: %s", args[0]+" "+args[1], strings.Join(known, ", "))
		}
		return nil, nil, usagef("%s what? There are: %s", args[0], strings.Join(known, ", "))
	}
	if near := nearest(args[0]); near != "" {
		return nil, nil, usagef("unknown command %q; did you mean %q? `sealctl help` lists all", args[0], near)
	}
	return nil, nil, usagef("unknown command %q; `sealctl help` lists all", args[0])
}

// inFamily lists the two-word commands that begin with first.
func inFamily(first string) (names []string) {
	for _, c := range commands() {
		if strings.HasPrefix(c.name, first+" ") {
			names = append(names, c.name)
		}
	}
	return names
}

// nearest returns the command closest to a misspelt word, "" if none is close.
func nearest(word string) string {
	best, distance := "", 3
	for _, c := range commands() {
		first, _, _ := strings.Cut(c.name, " ")
		if d := editDistance(word, first); d < distance {
			best, distance = first, d
		}
	}
	return best
}

// editDistance is Levenshtein's; words longer than 32 bytes are far from everything.
func editDistance(a, b string) int {
	if len(a) > 32 || len(b) > 32 {
		return 32
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func isHelp(s string) bool {
	return s == "help" || s == "-h" || s == "-help" || s == "--help"
}

// help shows the overview, or the help of the command that args name.
func help(env cmdenv.Env, args []string) int {
	if len(args) == 0 {
		overview(env.Stdout)
		return cmdenv.OK
	}
	c, _, err := find(args)
	if err == nil {
		err = c.run(env, c, []string{"-h"})
	}
	return finish(env, c, err)
}

func overview(w io.Writer) {
	fmt.Fprint(w, `sealctl makes fleets and policies, reads and writes sealed topics, and looks after a gateway.

usage: sealctl COMMAND [ARGUMENTS]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-16s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, `
A first fleet:
  sealctl fleet init plant --name plant
  sealctl fleet add plant --role gateway --name gw1
  sealctl fleet add plant --role subscriber --name alice
  sealctl sub -i plant/members/alice -b mqtts://broker.example -t 'sensors/#' -v

"sealctl COMMAND -h" shows a command's flags. Exit codes: 0 done, 1 failed, 2 wrong usage.
`)
}

func versionCommand() *command {
	return &command{
		name: "version", short: "print the version of this program",
		run: func(env cmdenv.Env, c *command, args []string) error {
			o := newOptions(c)
			if err := o.parse(env, args, 0, 0); err != nil {
				return err
			}
			fmt.Fprintln(env.Stdout, cmdenv.Version())
			return nil
		},
	}
}
