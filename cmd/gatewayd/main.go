// Command gatewayd is the data plane of a Sealgate gateway: it seals what devices publish.
package main

import (
	"sealgate/cmd/gatewayd/daemon"
	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/confine"
)

func main() {
	cmdenv.Exec(func(env cmdenv.Env) int {
		env.Confine = confine.Process
		return daemon.Main(env)
	})
}
