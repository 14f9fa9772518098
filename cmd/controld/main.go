// Command controld is the control plane of a Sealgate gateway, or a keeper that runs alone.
package main

import (
	"sealgate/cmd/controld/daemon"
	"sealgate/cmd/internal/cmdenv"
)

func main() { cmdenv.Exec(cmdenv.Confined(daemon.Main)) }
