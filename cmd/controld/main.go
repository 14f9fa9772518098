// Command controld is the control plane of a Sealgate gateway, or a keeper that runs alone.
package main

import (
	"sealgate/cmd/controld/daemon"
	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/confine"
)

func main() {
	cmdenv.Exec(func(env cmdenv.Env) int {
		env.Confine = confine.Process
		return daemon.Main(env)
	})
}
