// Command sealctl is the operator's and the subscriber's tool: it makes fleets and their policies, reads
// and writes sealed topics, and asks the daemons of this machine how they are.
package main

import (
	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/cli"
)

func main() { cmdenv.Exec(cli.Main) }
