package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/screen"
	"sealgate/cmd/sealctl/watch"
	"sealgate/pkg/control"
)

// Times of `sealctl watch`.
const (
	redrawEvery = time.Second
	policyWait  = 10 * time.Second // for --once: how long a policy may take to arrive
)

// watchFlags are the flags of `sealctl watch`.
type watchFlags struct {
	brokerFlags
	topics                          []string
	noMessages, json, once, verbose bool
	wait                            float64
}

func watchCommand() *command {
	return &command{
		name: "watch", args: "-i DIR -b URL [flags]", short: "show a fleet live: members, leaders, epochs, streams, gaps, alarms", run: runWatch,
		long: `
Look on at a fleet: who leads each group, under which epoch, when the next is due, what gateways say they have
sealed, what of it is missing, and who was heard lately. Everything shown has been verified.

On a terminal a picture is drawn anew each second, until interrupted. Elsewhere each change is one line, with --json one
object. --once prints one picture after -W seconds (by default as long as checkpoints and leases take to
show what is wrong, about 25) and exits: 0 if no alarm stands, 1 if one does.

A subscriber's identity sees most: it receives the messages that the policy lets it read, so that missing ones show.
Any other identity looks on without keys, and so never takes part as a keeper. OPERATIONS.md explains each alarm.`,
	}
}

func runWatch(env cmdenv.Env, c *command, args []string) error {
	var f watchFlags
	o := newOptions(c)
	f.register(o)
	o.text(&f.control, "control-broker", "", "URL", "broker of the control messages (default: the same as -b)")
	o.list(&f.topics, "t topic", "FILTER", "receive only these topics, not all that the policy lets this identity read; repeat for more")
	o.yes(&f.noMessages, "no-messages", "receive no messages: checkpoints are shown, missing messages are not")
	o.yes(&f.once, "once", "print one picture and exit: 0 healthy, 1 an alarm stands")
	o.yes(&f.json, "json", "print a JSON object for each change; with --once the picture as one")
	o.yes(&f.verbose, "v verbose", "tell of each Hello, lease and checkpoint, too")
	for _, n := range o.show("W timeout", "SECONDS", "end after so many seconds") {
		o.fs.Float64Var(&f.wait, n, 0, "")
	}
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	switch {
	case f.wait < 0:
		return usagef("-W %g: want a number of seconds", f.wait)
	case f.noMessages && len(f.topics) > 0:
		return usagef("--no-messages and -t exclude each other")
	}
	if err := validFilters(f.topics); err != nil {
		return err
	}
	return f.run(env, c)
}

func (f *watchFlags) run(env cmdenv.Env, c *command) error {
	if err := f.check(env); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(env.Ctx)
	defer cancel()
	if f.wait > 0 && !f.once {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(f.wait*float64(time.Second)))
		defer cancel()
	}
	l, err := f.look(ctx, env, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted, or the time of -W is over
		}
		return err
	}
	defer l.close()
	if f.once {
		return f.showOnce(ctx, env, l)
	}
	if !f.json {
		if t := screen.Open(env.Stdout, env.Getenv); t != nil {
			defer t.Close()
			l.quiet()
			return f.showScreen(ctx, env, l, t)
		}
	}
	return f.showChanges(ctx, env, l)
}

// showScreen draws the picture until ctx ends.
func (f *watchFlags) showScreen(ctx context.Context, env cmdenv.Env, l *lookout, t *screen.Terminal) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		if err := t.Draw(screen.Render(l.picture(), t.Size())); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		select {
		case <-tick.C:
		case <-resized:
		case <-ctx.Done():
			return nil
		}
	}
}

// showChanges prints what changes until ctx ends.
func (f *watchFlags) showChanges(ctx context.Context, env cmdenv.Env, l *lookout) error {
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		if err := f.writeChanges(env.Stdout, l.changes()); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		select {
		case <-l.news:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *watchFlags) writeChanges(w io.Writer, changes []watch.Change) error {
	for i := range changes {
		c := &changes[i]
		if c.Routine && !f.verbose {
			continue
		}
		var err error
		if f.json {
			err = printJSON(w, c)
		} else {
			_, err = fmt.Fprintln(w, screen.ChangeLine(c))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// showOnce looks for a while, prints the picture, and fails if an alarm stands.
func (f *watchFlags) showOnce(ctx context.Context, env cmdenv.Env, l *lookout) error {
	began := time.Now()
	tick := time.NewTicker(redrawEvery / 4)
	defer tick.Stop()
	for time.Since(began) < f.enough(l) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("interrupted before the picture was complete")
		}
	}
	p := l.picture()
	var err error
	if f.json {
		err = printJSON(env.Stdout, p)
	} else {
		_, err = io.WriteString(env.Stdout, screen.Text(screen.Render(p, screen.Size{})))
	}
	switch {
	case err != nil:
		return fmt.Errorf("stdout: %w", err)
	case !p.Healthy:
		return errSilent
	}
	return nil
}

// enough is how long --once looks: until a keeper that leads has been heard or is missed, and two checkpoints have come or
// are missed.
func (f *watchFlags) enough(l *lookout) time.Duration {
	if f.wait > 0 {
		return time.Duration(f.wait * float64(time.Second))
	}
	wait := policyWait
	if p := l.state().Policy; p != nil {
		wait = 4 * control.LeaseInterval
		for _, g := range p.Document.Groups {
			wait = max(wait, g.Checkpoint*5/2)
		}
	}
	return wait
}
