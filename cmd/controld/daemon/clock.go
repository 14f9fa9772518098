package daemon

import (
	"context"
	"fmt"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
)

// runForgetClock takes the noted time out of the state directory: the way back for a machine whose clock once ran years ahead.
func runForgetClock(env cmdenv.Env, cfg *config.Config) int {
	ctx, cancel := context.WithTimeout(env.Ctx, 5*time.Second)
	defer cancel()
	if _, err := keylink.Status(ctx, cfg.Keylink); err == nil {
		env.Errorf("controld: it runs, with %s, and would note the time again: stop it first", cfg.Keylink)
		return cmdenv.Failed
	}
	noted, err := member.ForgetClock(stateDir(cfg))
	if err != nil {
		env.Errorf("controld: %v", err)
		return cmdenv.Failed
	}
	fmt.Fprintf(env.Stdout, "%s is forgotten; the oldest acceptable policy is not\n", noted.UTC().Format(time.RFC3339))
	return cmdenv.OK
}
