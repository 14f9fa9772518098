package daemon_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/cmd/internal/cmdenv"
	sealctl "sealgate/cmd/sealctl/cli"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/subscriber"
	"sealgate/test/lab"
)

// Fleets whose certificates come, in part or all, out of a PKI that was there before.

// carries runs the daemons with the identity directory gateway, and has a message go from a plain device to a
// subscriber with the directory reader. The broker must not see what it says.
func carries(t *testing.T, gateway, reader string) {
	t.Helper()
	p := newPlant(t)
	p.write(t, strings.Replace(p.text(), p.identity(), gateway, 1))
	p.startGatewayd(t)
	p.startControld(t)
	p.awaitReady(t)

	broker := "mqtts://" + p.brokerAddr
	got := make(chan *subscriber.Message, 16)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := subscriber.Connect(ctx, subscriber.Options{Identity: reader, Broker: broker, CAFile: p.ca.File, Log: slog.New(slog.DiscardHandler),
		Handler: func(m *subscriber.Message) { c := *m; got <- &c }})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client.Subscribe(ctx, 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan []byte, 16)
	spy := mqttClient(t, "ssl://"+p.brokerAddr, "spy", &tls.Config{RootCAs: p.ca.Pool()})
	done(t, spy.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) { seen <- bytes.Clone(m.Payload()) }), "subscribe as the broker's owner")

	device := mqttClient(t, "tcp://"+p.device(t), "sensor", nil)
	done(t, device.Publish("plant/1", 1, false, "21.5 degrees"), "publish")
	if m := await(t, got, "the message"); m.Status != subscriber.StatusOK || string(m.Payload) != "21.5 degrees" || m.Topic != "plant/1" {
		t.Errorf("%+v %q", m, m.Payload)
	}
	if b := await(t, seen, "what the broker has"); bytes.Contains(b, []byte("degrees")) || len(b) < 40 {
		t.Errorf("the broker has %q", b)
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	var out bytes.Buffer
	env := cmdenv.Env{Ctx: t.Context(), Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}
	if code := cmdenv.Run(sealctl.Main, env); code != cmdenv.OK {
		t.Fatalf("sealctl %q: exit code %d\n%s", args, code, &out)
	}
}

// A gateway with a P-256 key under an intermediate CA, a subscriber with an Ed25519 key from sealctl.
func TestGatewayUnderAnIntermediate(t *testing.T) {
	fleet := filepath.Join(t.TempDir(), "fleet")
	run(t, "fleet", "init", fleet, "--name", "plant")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(fleet, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// Enrolled, so that the first policy names it; the identity that it uses is another, by the same name.
	run(t, "fleet", "add", fleet, "--role", "gateway", "--name", "gw1")
	run(t, "fleet", "add", fleet, "--role", "subscriber", "--name", "alice")
	gateway, year := t.TempDir(), time.Now().AddDate(1, 0, 0)
	lab.PKIOf(t, read("ca.key"), read("ca.crt")).Enrol(t, gateway, crypto.MemberURI("plant", crypto.RoleGateway, "gw1"), year, year)
	if err := os.WriteFile(filepath.Join(gateway, member.PolicyFile), read("policy.cose"), 0o644); err != nil {
		t.Fatal(err)
	}
	id, _, _, err := member.LoadIdentity(gateway)
	if err != nil {
		t.Fatal(err)
	}
	if m := id.Member(); m.Name != "gw1" || m.Role != crypto.RoleGateway {
		t.Fatal(m)
	}
	carries(t, gateway, filepath.Join(fleet, "members", "alice"))
}

// ownPKICommands are the shell commands of the operations guide's section, in their order.
func ownPKICommands(t *testing.T) string {
	t.Helper()
	_, section, found := strings.Cut(operations(t), "\n## Bringing your own PKI\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)\n```sh\n(.*?)```\n").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) < 3 {
		t.Fatalf("docs/OPERATIONS.md has %d blocks of commands on one's own PKI", len(blocks))
	}
	var all strings.Builder
	for _, b := range blocks {
		all.WriteString(b[1])
	}
	return all.String()
}

// The commands of the operations guide make a fleet that works, policy signed by an operator with a P-256 key.
func TestOwnPKIAsDocumented(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("SEALGATE_REQUIRE") == "1" {
			t.Fatalf("openssl is required: %v", err)
		}
		t.Skip("install openssl to run the operations guide's commands")
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", ownPKICommands(t)) // sealctl is in PATH, see TestMain
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, _, signed, err := member.LoadIdentity(filepath.Join(dir, "gw1"))
	if err != nil {
		t.Fatal(err)
	}
	if signed == nil || signed.Document.Version != 1 {
		t.Fatalf("policy %+v", signed)
	}
	if id, _, err := member.LoadSigner(filepath.Join(dir, "olga")); err != nil || id.Member().Role != crypto.RoleOperator {
		t.Errorf("%v", err)
	}
	carries(t, filepath.Join(dir, "gw1"), filepath.Join(dir, "alice"))
}
