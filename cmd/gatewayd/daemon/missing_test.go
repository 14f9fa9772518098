package daemon_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"sealgate/pkg/subscriber"
)

// withholder is a broker that acknowledges messages under a prefix of topics and keeps them to itself.
type withholder struct {
	mochi.HookBase
	prefix atomic.Pointer[string] // nil: it is honest
}

func (w *withholder) ID() string              { return "withholder" }
func (w *withholder) Provides(what byte) bool { return what == mochi.OnPublish }

func (w *withholder) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if p := w.prefix.Load(); p != nil && strings.HasPrefix(pk.TopicName, *p) {
		return pk, packets.CodeSuccessIgnore
	}
	return pk, nil
}

func (w *withholder) withhold(prefix string) { w.prefix.Store(&prefix) }

// quickFleet is a fleet of gw1 and alice with checkpoints every two seconds.
func quickFleet(t *testing.T) (gateway, reader string) {
	t.Helper()
	return editedFleet(t, `checkpoint = "10s"`, `checkpoint = "2s"`)
}

// editedFleet is a fleet of gw1 and alice in whose policy old has given way to next.
func editedFleet(t *testing.T, old, next string) (gateway, reader string) {
	t.Helper()
	fleet := filepath.Join(t.TempDir(), "fleet")
	run(t, "fleet", "init", fleet, "--name", "plant")
	file := filepath.Join(fleet, "policy.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), old, next, 1)
	if text == string(b) {
		t.Fatalf("no %s in\n%s", old, b)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "fleet", "add", fleet, "--role", "gateway", "--name", "gw1")
	run(t, "fleet", "add", fleet, "--role", "subscriber", "--name", "alice")
	return filepath.Join(fleet, "members", "gw1"), filepath.Join(fleet, "members", "alice")
}

// A broker that drops the last messages of a stream, and one that withholds a gateway, are found out; an honest one is not
// accused before and after.
func TestMissingTailAndSilencedGateway(t *testing.T) {
	gateway, reader := quickFleet(t)
	hook := new(withholder)
	p := newPlant(t, hook)
	p.write(t, strings.Replace(p.text(), p.identity(), gateway, 1))
	p.startGatewayd(t)
	p.startControld(t)
	p.awaitReady(t)
	got := make(chan *subscriber.Message, 1024)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := subscriber.Connect(ctx, subscriber.Options{
		Identity: reader, Broker: "mqtts://" + p.brokerAddr, CAFile: p.ca.File, Log: slog.New(slog.DiscardHandler), ReadOnly: true,
		Handler: func(m *subscriber.Message) { c := *m; got <- &c },
	})
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
	device := mqttClient(t, "tcp://"+p.device(t), "sensor", nil)
	sent := 0
	say := func() {
		done(t, device.Publish("plant/1", 1, false, fmt.Sprint("message ", sent)), "publish")
		sent++
	}
	next := func(want ...subscriber.Status) *subscriber.Message {
		t.Helper()
		m := await(t, got, fmt.Sprint(want))
		for _, s := range want {
			if m.Status == s {
				return m
			}
		}
		t.Fatalf("%+v; want %v", m, want)
		return nil
	}
	for start := time.Now(); ; { // until the reader knows who seals: then checkpoints have come, and were honoured
		say()
		if m := next(subscriber.StatusOK); m.Gateway == "gw1" {
			break
		}
		if time.Since(start) > patience {
			t.Fatal("no message is attributed to its gateway")
		}
		time.Sleep(100 * time.Millisecond) // a device's own pace
	}
	for range 30 { // and a whole interval has been heard of
		say()
		next(subscriber.StatusOK)
		time.Sleep(100 * time.Millisecond)
	}

	hook.withhold("plant/")
	from := uint64(sent)
	for range 3 {
		say()
	}
	missed := next(subscriber.StatusDropped)
	for to := missed.To; to < from+2; to = missed.To { // the device's three messages may fall into two checkpoints
		missed = next(subscriber.StatusDropped)
	}
	if missed.To != from+2 || missed.Gateway != "gw1" || missed.Group != "default" || missed.Topic != "plant/1" {
		t.Errorf("%+v; numbers %d to %d were dropped", missed, from, from+2)
	}

	hook.withhold("sealgate/checkpoint/")
	if m := next(subscriber.StatusSilent); m.Gateway != "gw1" {
		t.Errorf("%+v", m)
	}
	hook.prefix.Store(nil)
	for range 2 { // it is heard of again, and that checkpoints are missing shows by their numbers
		if m := next(subscriber.StatusHeard, subscriber.StatusWithheld); m.Gateway != "gw1" {
			t.Errorf("%+v", m)
		}
	}
}
