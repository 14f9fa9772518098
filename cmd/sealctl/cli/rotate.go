package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/config"
	"sealgate/pkg/keylink"
)

// daemonFlags say where the daemons of this machine are.
type daemonFlags struct{ config, keylink string }

func (f *daemonFlags) register(o *options) {
	o.text(&f.config, "config", config.DefaultPath, "FILE", "sealgate.toml of the daemons (default "+config.DefaultPath+")")
	o.text(&f.keylink, "keylink", "", "PATH", "socket of controld (default: what the configuration says)")
}

// socket is controld's socket.
func (f *daemonFlags) socket() (string, error) {
	if f.keylink != "" {
		return f.keylink, nil
	}
	c, err := config.Load(f.config)
	if err != nil {
		return "", fmt.Errorf("%w; or name the socket with --keylink", err)
	}
	return c.Keylink, nil
}

func rotateCommand() *command {
	return &command{
		name: "rotate", args: "--group NAME [flags]", short: "start a new epoch of a group now", run: runRotate,
		long: `
Ask the controld of this machine for a new key of a group. It must be the group's leading
keeper. Prints the new epoch: policy version, generation, number.`,
	}
}

func runRotate(env cmdenv.Env, c *command, args []string) error {
	var f daemonFlags
	var group string
	o := newOptions(c)
	o.text(&group, "group", "", "NAME", "the group")
	f.register(o)
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	if group == "" {
		return usagef("--group NAME is missing: which group, for example --group default")
	}
	path, err := f.socket()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.Ctx, 30*time.Second)
	defer cancel()
	epoch, err := keylink.Rotate(ctx, path, group)
	if err != nil {
		return reach(path, err)
	}
	fmt.Fprintln(env.Stdout, epoch)
	return nil
}

// reach adds to an error of the socket what to do about it, if the socket itself is the trouble.
func reach(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no socket %s; is controld running, with this keylink path?", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; run this as root, as controld's user or in the socket's group", err)
	}
	return err
}
