package subscriber_test

import (
	"testing"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// A client that publishes is held to what it says it has sent, as a gateway is, and says so to the last message when it is closed.
func TestPublishersTellWhatTheySent(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, func(d *policy.Document) { d.Groups[0].Checkpoint = time.Second })
	f.keeper(b.URL(), nil)
	in := newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(), Handler: in.handle, ReadOnly: true})
	bob := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL()})
	if err := alice.Subscribe(within(t), 1, "plant/#"); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for start := time.Now(); ; {
		if err := bob.Publish(within(t), "plant/1", []byte("x"), 1, false); err != nil {
			t.Fatal(err)
		}
		sent++
		m := in.await(t, sent)[sent-1]
		if m.Status != subscriber.StatusOK || m.Gateway != "" && m.Gateway != "bob" {
			t.Fatalf("%+v", m)
		}
		if m.Gateway == "bob" {
			break
		}
		if time.Since(start) > 30*time.Second {
			t.Fatal("no message is attributed to bob")
		}
		time.Sleep(50 * time.Millisecond) // a publisher's own pace
	}
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	var last *checkpoint.Message
	told := uint64(0)
	for _, p := range b.Seen() {
		if p.Topic != "sealgate/checkpoint/plant/bob" {
			continue
		}
		payload, from, err := f.trust.Verify(p.Payload, checkpoint.Kind, time.Now())
		if err == nil {
			last, err = checkpoint.Parse(payload)
		}
		if err != nil || from.Name != "bob" {
			t.Fatal(from, err)
		}
		for _, s := range last.Streams {
			told = max(told, s.Next)
		}
	}
	if last == nil || last.State != checkpoint.Ending || told != uint64(sent) {
		t.Errorf("%d of %d messages are told; the last word was %+v", told, sent, last)
	}
}
