// Command gatewayd is the data plane of a Sealgate gateway: it seals what devices publish.
package main

import (
	"sealgate/cmd/gatewayd/daemon"
	"sealgate/cmd/internal/cmdenv"
)

func main() { cmdenv.Exec(cmdenv.Confined(daemon.Main)) }
