package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/session"
)

func policySign() *command {
	return &command{
		name: "policy sign", args: "DIR", short: "sign policy.toml into the next policy version", run: runPolicySign,
		long: `
Check DIR/policy.toml, sign it as the version after the last one into DIR/policy.cose, note the
version in policy.toml, and copy the result into every directory of DIR/members. Groups that name
no keepers get the first three gateways or keepers enrolled. Prints the version.

DIR is what ` + "`sealctl fleet init`" + ` made; or, if your own PKI certifies the members, the identity directory of
an operator with policy.toml in it.`,
	}
}

func runPolicySign(env cmdenv.Env, c *command, args []string) error {
	o := newOptions(c)
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	f, unlock, err := lockFleet(o.args[0])
	if err != nil {
		return err
	}
	defer unlock()
	signed, err := f.sign(time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, signed.Document.Version)
	for i := range signed.Document.Groups {
		g := &signed.Document.Groups[i]
		env.Errorf("group %q: topics %q, keepers %q", g.Name, g.Topics, g.Keepers)
	}
	warnOfPairs(env, signed.Document)
	tellTopicSecret(env, f, signed.Document)
	return nil
}

// warnOfPairs tells of groups with two keepers. Each needs the other to confirm it, so that two are worse than one: the
// failure of either ends the group's authority to seal (docs/spec/control.md 6.4).
func warnOfPairs(env cmdenv.Env, doc *policy.Document) {
	for i := range doc.Groups {
		if g := &doc.Groups[i]; len(g.Keepers) == 2 {
			env.Errorf("group %q has two keepers, %s and %s: should one fail for longer than freshness (%v), sealing stops. Enrol a third gateway or keeper, or name one of them in policy.toml.",
				g.Name, g.Keepers[0], g.Keepers[1], g.Freshness)
		}
	}
}

func policyPublish() *command {
	return &command{
		name: "policy publish", args: "DIR -b URL -i DIR [flags]", short: "publish the signed policy on the control broker", run: runPolicyPublish,
		long: `
Publish DIR/policy.cose, retained, where every member of the fleet looks for it, and read
it back. An older policy than the broker has is refused. The identity is any member's; the policy
carries its own signature.`,
	}
}

func runPolicyPublish(env cmdenv.Env, c *command, args []string) error {
	var f brokerFlags
	var wait float64
	o := newOptions(c)
	f.register(o)
	for _, n := range o.show("W timeout", "SECONDS", "give up after so many seconds (default 30)") {
		o.fs.Float64Var(&wait, n, 30, "")
	}
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if err := f.check(env); err != nil {
		return err
	}
	_, trust, _, err := member.LoadIdentity(f.identity)
	if err != nil {
		return err
	}
	path := (&fleetDir{dir: o.args[0]}).path(policySigned)
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; sign one with `sealctl policy sign %s`", err, o.args[0])
	}
	signed, err := policy.Verify(trust, raw, time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w; is %s an identity of this fleet?", path, err, f.identity)
	}
	ctx, cancel := context.WithTimeout(env.Ctx, time.Duration(wait*float64(time.Second)))
	defer cancel()
	log, _ := newLog(env, c)
	if err := f.publishPolicy(ctx, log, signed, func(raw []byte) (*policy.Signed, error) {
		return policy.Verify(trust, raw, time.Now())
	}); err != nil {
		return err
	}
	env.Errorf("policy version %d is on %s, retained", signed.Document.Version, f.broker)
	return nil
}

// readBack is how long a broker may take to deliver a retained message after it has granted the
// subscription, before it counts as not there.
const readBack = time.Second

// publishPolicy publishes signed and returns when the broker has been seen to retain it.
func (f *brokerFlags) publishPolicy(ctx context.Context, log *slog.Logger, signed *policy.Signed, verify func([]byte) (*policy.Signed, error)) error {
	brokers, err := session.ParseBrokers(f.broker)
	if err != nil {
		return err
	}
	t, err := f.tls()
	if err != nil {
		return err
	}
	topic := f.prefix + "/policy"
	ups, downs := make(chan *session.Conn, 1), make(chan error, 1)
	retained := make(chan []byte, 16)
	s, err := session.Start(ctx, session.Config{
		Brokers: brokers, TLS: t, Username: f.username, Password: f.password, CleanSession: true,
		MaxPacket: 2 * policy.MaxEncoded, Log: log, Name: "policy",
		Up: func(c *session.Conn) { ups <- c },
		Down: func(err error) {
			select {
			case downs <- err:
			default:
			}
		},
		Message: func(m *session.Message) {
			m.Ack()
			if m.Topic == topic && m.Retain {
				retained <- m.Payload
			}
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	var conn *session.Conn
	select {
	case conn = <-ups:
	case err := <-downs:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no connection to %s: %w", f.broker, ctx.Err())
	}
	return exchange(ctx, conn, topic, signed, retained, verify)
}

// exchange looks at what the broker retains, publishes, and looks again.
func exchange(ctx context.Context, conn *session.Conn, topic string, signed *policy.Signed, retained <-chan []byte, verify func([]byte) (*policy.Signed, error)) error {
	look := func() ([]byte, error) {
		if err := conn.Subscribe(ctx, topic, 1); err != nil {
			return nil, err
		}
		select {
		case b := <-retained:
			return b, conn.Unsubscribe(ctx, topic)
		case <-time.After(readBack):
			return nil, conn.Unsubscribe(ctx, topic)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	before, err := look()
	if err != nil {
		return err
	}
	if there, err := verify(before); err == nil && there.Document.Version > signed.Document.Version {
		return fmt.Errorf("the broker has policy version %d, this is version %d; sign a newer one with `sealctl policy sign`",
			there.Document.Version, signed.Document.Version)
	}
	if err := conn.Publish(topic, signed.Raw, 1, true).Wait(ctx); err != nil {
		return fmt.Errorf("publish on %q: %w; may this user write it, by the broker's access list?", topic, err)
	}
	after, err := look()
	switch {
	case err != nil:
		return err
	case after == nil:
		return errors.New("the broker took the policy, but does not deliver it; does it retain messages, and may this user read and write " + topic + "?")
	case !bytes.Equal(after, signed.Raw):
		return errors.New("the broker delivers another policy than the one just published; does somebody else publish one, or may this user not write " + topic + "?")
	}
	return nil
}
