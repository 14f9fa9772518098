// Command sealgate is gatewayd, controld and sealctl in one file, for flash: what the three share is there once. It is the program
// that it is called by, through a link of that name, or else by its first argument: `sealgate gatewayd -config F`.
package main

import (
	"os"
	"path/filepath"

	controld "sealgate/cmd/controld/daemon"
	gatewayd "sealgate/cmd/gatewayd/daemon"
	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/cli"
)

const usage = `usage: sealgate gatewayd|controld|sealctl ARGUMENTS...
  gatewayd   the data plane of a gateway: seals what devices publish
  controld   the control plane of a gateway, or a keeper that runs alone
  sealctl    the operator's and the subscriber's tool
A link to this file with one of the three names is that program.`

func main() {
	cmdenv.Exec(func(env cmdenv.Env) int { return run(filepath.Base(os.Args[0]), env) })
}

// run runs the program that name names, or else the first argument.
func run(name string, env cmdenv.Env) int {
	if main := program(name); main != nil {
		return main(env)
	}
	if len(env.Args) == 0 {
		env.Errorf("%s", usage)
		return cmdenv.Usage
	}
	asked := env.Args[0]
	if main := program(asked); main != nil {
		env.Args = env.Args[1:]
		return main(env)
	}
	if asked == "-h" || asked == "-help" || asked == "--help" {
		env.Errorf("%s", usage)
		return cmdenv.OK
	}
	env.Errorf("sealgate: %q is none of its programs\n%s", asked, usage)
	return cmdenv.Usage
}

// program returns the program of a name; nil: there is none.
func program(name string) func(cmdenv.Env) int {
	switch name {
	case "gatewayd":
		return cmdenv.Confined(gatewayd.Main)
	case "controld":
		return cmdenv.Confined(controld.Main)
	case "sealctl":
		return cli.Main
	}
	return nil
}
