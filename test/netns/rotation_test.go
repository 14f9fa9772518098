package netns

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

const (
	rotations   = 5
	connections = 50
	perDevice   = 200 // at least: 10,000 messages in all
)

// TestRotationLosesNothing publishes 10,000 messages and more from 50 ordinary clients while the key rotates five times. What
// the broker acknowledged arrives at the subscriber, opened, once.
func TestRotationLosesNothing(t *testing.T) {
	p := newPlant(t)
	p.Up(t)
	sub := subscribe(t, p, "plant/#")

	var acked sync.Map // payload of every acknowledged message
	var count atomic.Int64
	var rotated atomic.Bool
	var group sync.WaitGroup
	pace := newPace(t, 30*time.Millisecond)
	for i := range connections {
		client := pahoClient(t, p, fmt.Sprintf("paho%d", i))
		group.Go(func() {
			topic := fmt.Sprintf("plant/paho%d/value", i)
			for n := 0; n < perDevice || !rotated.Load(); n++ {
				pace.wait(n)
				payload := fmt.Sprintf("message %d of device %d", n, i)
				token := client.Publish(topic, 1, false, payload)
				if !token.WaitTimeout(60*time.Second) || token.Error() != nil {
					t.Errorf("%s: not acknowledged: %v", payload, token.Error())
					return
				}
				acked.Store(payload, true)
				count.Add(1)
			}
		})
	}
	first := p.Epoch(t, "default")
	for n := range rotations {
		p.Rotate(t, "default")
		p.AwaitEpoch(t, "default", first+n+1)
	}
	rotated.Store(true)
	pace.release()
	group.Wait()
	t.Logf("%d messages acknowledged", count.Load())
	if n := count.Load(); n < connections*perDevice {
		t.Errorf("%d messages acknowledged, want at least %d", n, connections*perDevice)
	}
	checkArrived(t, sub, &acked)
	if len(sub.keys) != rotations+1 {
		t.Errorf("messages were sealed with %d keys, want %d: one more than rotations", len(sub.keys), rotations+1)
	}
}

// checkArrived waits until every acknowledged payload was opened, and fails for what was not, or was opened twice, or came
// with any status but ok and duplicate.
func checkArrived(t *testing.T, sub *subscriber, acked *sync.Map) {
	t.Helper()
	missing := func() (missing []string) {
		acked.Range(func(payload, _ any) bool {
			if sub.opened(payload.(string)) == 0 {
				missing = append(missing, payload.(string))
			}
			return len(missing) < 5
		})
		return missing
	}
	if err := sub.await(lab.Within(t, 60*time.Second), func() bool { return len(missing()) == 0 }); err != nil {
		t.Errorf("acknowledged and never opened: %q ...: %v", missing(), err)
	}
	for payload, statuses := range sub.payloads {
		if statuses["ok"] > 1 {
			t.Errorf("%q was opened %d times: a repetition has to be marked", payload, statuses["ok"])
		}
	}
	if len(sub.bad) > 0 {
		t.Errorf("the subscriber saw what should not be: %q", sub.bad)
	}
}

// pace lets every publisher send its n-th message at the n-th tick, so that the messages last as long as the rotations.
type pace struct {
	mu      sync.Mutex
	allowed int
	changed chan struct{}
	free    chan struct{}
}

func newPace(t *testing.T, tick time.Duration) *pace {
	p := &pace{changed: make(chan struct{}), free: make(chan struct{})}
	ticker := time.NewTicker(tick)
	t.Cleanup(ticker.Stop)
	go func() {
		for {
			select {
			case <-ticker.C:
				p.mu.Lock()
				p.allowed++
				close(p.changed)
				p.changed = make(chan struct{})
				p.mu.Unlock()
			case <-p.free:
				return
			}
		}
	}()
	return p
}

func (p *pace) wait(n int) {
	for {
		p.mu.Lock()
		allowed, changed := p.allowed, p.changed
		p.mu.Unlock()
		if n < allowed {
			return
		}
		select {
		case <-changed:
		case <-p.free:
			return
		}
	}
}

// release lets everybody go as fast as they can.
func (p *pace) release() { close(p.free) }

// pahoClient connects an ordinary MQTT 3.1.1 client in the sensor network, which reconnects by itself.
func pahoClient(t *testing.T, p *lab.Plant, id string) mqtt.Client {
	t.Helper()
	return pahoClientWith(t, p, id, func(*mqtt.ClientOptions) {})
}

// pahoClientWith is pahoClient with other options.
func pahoClientWith(t *testing.T, p *lab.Plant, id string, change func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	opts := mqtt.NewClientOptions().AddBroker("tcp://" + p.DeviceAddr()).SetClientID(id).SetCleanSession(false)
	opts.SetConnectTimeout(10 * time.Second).SetMaxReconnectInterval(time.Second).SetConnectRetryInterval(200 * time.Millisecond)
	opts.SetCustomOpenConnectionFn(func(uri *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), o.ConnectTimeout)
		defer cancel()
		return p.Topo.Sensor.Dial(ctx, "tcp", uri.Host)
	})
	change(opts)
	client := mqtt.NewClient(opts)
	if token := client.Connect(); !token.WaitTimeout(20*time.Second) || token.Error() != nil {
		t.Fatalf("connect %s: %v", id, token.Error())
	}
	t.Cleanup(func() { client.Disconnect(0) })
	return client
}
