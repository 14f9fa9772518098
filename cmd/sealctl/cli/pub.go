package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/subscriber"
	"sealgate/pkg/topic"
)

// pubFlags are the flags of `sealctl pub`.
type pubFlags struct {
	brokerFlags
	mqtt5Flags
	topic, message, file string
	stdin, lines, null   bool
	qos                  int
	retain               bool
	wait                 float64

	adjust func(*subscriber.Options) // of the connection, by mqtt5Flags
	first  subscriber.Publication    // without payload
}

func pubCommand() *command {
	return &command{
		name: "pub", args: "-i DIR -b URL -t TOPIC (-m TEXT | -f FILE | -s | -l | -n) [flags]", short: "seal a message and publish it", run: runPub,
		long: `
Seal a message as the fleet policy wants for its topic, and publish it. The identity
must be one that the policy lets publish. Waits for a confirmed key, at most the time of -W;
with -q 1 or 2 also for the broker's acknowledgement.`,
	}
}

func runPub(env cmdenv.Env, c *command, args []string) error {
	var f pubFlags
	o := newOptions(c)
	f.brokerFlags.register(o)
	f.registerData(o)
	o.text(&f.topic, "t topic", "", "TOPIC", "topic name")
	o.text(&f.message, "m message", "", "TEXT", "the payload")
	o.text(&f.file, "f file", "", "FILE", "file with the payload")
	o.yes(&f.stdin, "s stdin-file", "read stdin to its end: one payload")
	o.yes(&f.lines, "l stdin-line", "read stdin: a payload a line")
	o.yes(&f.null, "n null-message", "empty payload; with -r it clears a retained message where the policy allows that")
	o.number(&f.qos, "q qos", 0, "0|1|2", "quality of service (default 0)")
	o.yes(&f.retain, "r retain", "let the broker retain the message")
	for _, n := range o.show("W timeout", "SECONDS", "give up after so many seconds (default 30)") {
		o.fs.Float64Var(&f.wait, n, 30, "")
	}
	f.mqtt5Flags.register(o, "connect, publish")
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	adjust, rest, err := f.connection(o)
	if err != nil {
		return err
	}
	f.adjust = adjust
	sources := 0
	for _, yes := range []bool{o.given("m", "message"), f.file != "", f.stdin, f.lines, f.null} {
		if yes {
			sources++
		}
	}
	if err := topic.ValidateName([]byte(f.topic)); f.topic != "" && err != nil {
		return usagef("-t %q: %v", f.topic, err)
	}
	switch {
	case f.topic == "":
		return usagef("-t TOPIC is missing: where to publish")
	case sources != 1:
		return usagef("want exactly one of -m TEXT, -f FILE, -s, -l and -n: what to publish")
	case f.qos < 0 || f.qos > 2:
		return usagef("-q %d: want 0, 1 or 2", f.qos)
	case f.wait <= 0:
		return usagef("-W %g: want a number of seconds", f.wait)
	}
	f.first = subscriber.Publication{Topic: f.topic, QoS: byte(f.qos), Retain: f.retain}
	if err := publication(&f.first, rest); err != nil {
		return err
	}
	return f.run(env, c)
}

func (f *pubFlags) run(env cmdenv.Env, c *command) error {
	var payload []byte
	var err error
	switch {
	case f.file != "":
		payload, err = os.ReadFile(f.file)
	case f.stdin:
		payload, err = io.ReadAll(io.LimitReader(env.Stdin, subscriber.DefaultMaxMessage+1))
	default:
		payload = []byte(f.message)
	}
	if err != nil {
		return fmt.Errorf("read the payload: %w", err)
	}
	limit := time.Duration(f.wait * float64(time.Second))
	ctx, cancel := context.WithTimeout(env.Ctx, limit)
	defer cancel()
	client, err := f.connect(ctx, env, c, f.adjust)
	if err != nil {
		return f.late(ctx, err)
	}
	defer client.Close()
	if !f.lines {
		return f.late(ctx, f.publish(ctx, client, payload))
	}
	in := bufio.NewScanner(env.Stdin)
	in.Buffer(nil, subscriber.DefaultMaxMessage)
	for in.Scan() {
		ctx, cancel := context.WithTimeout(env.Ctx, limit)
		err := f.publish(ctx, client, in.Bytes())
		cancel()
		if err != nil {
			return f.late(ctx, err)
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	return nil
}

func (f *pubFlags) publish(ctx context.Context, client *subscriber.Client, payload []byte) error {
	m := f.first
	m.Payload = payload
	return client.Send(ctx, &m)
}

// late says how long was waited, instead of what a context calls it.
func (f *pubFlags) late(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("gave up after %g seconds (-W): %s", f.wait, strings.TrimSuffix(err.Error(), ": "+context.DeadlineExceeded.Error()))
	}
	return err
}
