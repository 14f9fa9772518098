package netns

import (
	"testing"
	"time"

	"sealgate/test/lab"
)

// TestControldDies holds that messages flow and can be read while controld is dead, on old connections and new ones, and
// that everything works again when it is back.
func TestControldDies(t *testing.T) {
	p := newPlant(t)
	p.Up(t)
	sub := subscribe(t, p, "plant/#")
	d := startDevices(t, p.Topo.Sensor, 4, "before", p.DeviceAddr())
	d.awaitAcked(t, "before", 20)
	p.Controld.Kill()
	d.enter("without")
	d.awaitAcked(t, "without", 200)
	if err := p.Probe(lab.Within(t, 10*time.Second)); err != nil {
		t.Errorf("a device that connects while controld is dead: %v", err)
	}
	awaitOpened(t, sub, "without")
	p.StartControld(t)
	p.AwaitReady(t)
	epoch := p.Epoch(t, "default")
	rotateWhenReady(t, p)
	p.AwaitEpoch(t, "default", epoch+1)
	d.enter("with")
	d.awaitAcked(t, "with", 50)
	awaitOpened(t, sub, "with")
	if len(sub.bad) > 0 {
		t.Errorf("the subscriber saw what should not be: %q", sub.bad)
	}
}

// rotateWhenReady asks for a rotation until controld, which was started a moment ago, is far enough to make one.
func rotateWhenReady(t *testing.T, p *lab.Plant) {
	t.Helper()
	ctx := lab.Within(t, 30*time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		code, _, stderr := lab.Run(t, ctx, p.RotateCmd("default"))
		if code == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("controld never made a new epoch: %s", stderr)
		}
	}
}

// awaitOpened waits until the subscriber opened a message of a phase.
func awaitOpened(t *testing.T, sub *subscriber, phase string) {
	t.Helper()
	err := sub.await(lab.Within(t, 60*time.Second), func() bool { return sub.phaseOpened(needle(phase)) })
	if err != nil {
		t.Fatalf("no message of phase %s was opened: %v; the subscriber saw %q", phase, err, sub.bad)
	}
}

// TestBrokerDies holds that devices' connections end when the broker does, and that devices, gateway, keys and subscriber
// find together again when it is back, though the broker has forgotten everything.
func TestBrokerDies(t *testing.T) {
	p := newPlant(t)
	p.Up(t)
	sub := subscribe(t, p, "plant/#")
	const n = 8
	d := startDevices(t, p.Topo.Sensor, n, "before", p.DeviceAddr())
	d.awaitAcked(t, "before", 100)
	d.enter("broker-dead")
	p.Broker.Kill()
	d.await(t, "broker-dead", "the end of every connection", func(c counts) bool { return c.ended >= n })
	d.enter("broker-back")
	p.Broker.Restart(t)
	d.awaitAcked(t, "broker-back", 200)
	awaitOpened(t, sub, "broker-back")
	for _, proc := range []*lab.Proc{p.Gatewayd, p.Controld} {
		select {
		case <-proc.Done():
			t.Errorf("%s ended with the broker", proc.Name)
		default:
		}
	}
}
