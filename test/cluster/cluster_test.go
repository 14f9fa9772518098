package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/subscriber"
	"sealgate/test/lab"
)

const policy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["factory/#"]
publish = ["gw*"]
keepers = ["keeper1"]
activate_after = "3s"
`

// watchers is how many further members follow the keys.
const watchers = 6

// fleet is Sealgate on the cluster: gatewayd and controld as processes, a keeper and the readers here.
type fleet struct {
	t        *testing.T
	nats     *natsCluster
	plant    *lab.Plant
	keeper   *member.Member
	members  []*member.Member
	received *received
}

func TestMain(m *testing.M) { lab.Main(m) }

// A node is killed under QoS 1 load while the keys rotate: everybody's first choice of the list. What the
// device saw acknowledged arrives, and every member comes to the new epoch.
func TestNodeKilledUnderLoad(t *testing.T) {
	f := newFleet(t)
	load := f.startLoad()
	load.awaitAcked(200)
	before := f.epoch(f.keeper)
	f.rotate()
	pause := load.longest(300)
	f.nats.procs[0].Kill()
	killed := time.Now()
	converged, sealing := f.awaitEpoch(before.Number + 1)
	back := pause()
	secondStart := time.Now()
	f.rotate()
	again, _ := f.awaitEpoch(before.Number + 2)
	acked := load.stop()
	missing := f.received.await(acked, 90*time.Second)
	t.Logf("\n  nodes %d, replicas %d; node 1, which everybody used, killed with SIGKILL in a rotation under QoS 1 load\n"+
		"  device without acknowledgements   %.1f s\n"+
		"  every member holds the new epoch  %.1f s after the kill\n"+
		"  the gateway seals under it        %.1f s after the kill (until then under the old one)\n"+
		"  the next rotation, on two nodes   %.2f s\n"+
		"  published %d, of these again for want of an acknowledgement %d; acknowledged %d, not delivered %d, delivered more than once %d",
		nodes, nodes, back.Seconds(), converged.Sub(killed).Seconds(), sealing.Sub(killed).Seconds(), again.Sub(secondStart).Seconds(),
		load.sent.Load(), load.again.Load(), len(acked), len(missing), f.received.repeated())
	if len(missing) > 0 {
		t.Errorf("acknowledged and never delivered: %v", missing[:min(len(missing), 20)])
	}
	for status, n := range f.received.bad() {
		t.Errorf("%d messages came as %q", n, status)
	}
}

func newFleet(t *testing.T) *fleet {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	f := &fleet{t: t, nats: startCluster(t), received: newReceived()}
	f.plant = lab.NewPlant(t, lab.PlantOptions{Loopback: true, NoBroker: true})
	all := map[string]string{"gw1": "gateway", "sub1": "subscriber", "keeper1": "keeper"}
	for i := range watchers {
		all[fmt.Sprintf("watch%d", i)] = "subscriber"
	}
	f.plant.Fleet = lab.NewFleet(t, f.plant.Programs.Sealctl, policy, all)
	c := f.plant.Conf.Set("", "identity", f.plant.Fleet.Identity("gw1"))
	c.Set("uplink", "broker", f.nats.list(0)).Set("uplink", "tls", false)
	c.Set("control", "broker", f.nats.urls(0))
	delete(c["uplink"], "ca")
	delete(c["control"], "ca")
	f.plant.WriteConf(t)
	f.keeper = f.member("keeper1", 0, false)
	for i := range watchers {
		f.members = append(f.members, f.member(fmt.Sprintf("watch%d", i), i, true))
	}
	f.subscribe()
	f.plant.StartControld(t)
	f.plant.StartGatewayd(t)
	f.plant.AwaitReady(t)
	f.awaitEpoch(1)
	return f
}

func (f *fleet) member(name string, first int, readOnly bool) *member.Member {
	id, trust, signed, err := member.LoadIdentity(f.plant.Fleet.Identity(name))
	if err != nil {
		f.t.Fatal(err)
	}
	m, err := member.Start(context.Background(), member.Config{Identity: id, Trust: trust, Policy: signed,
		Broker: f.nats.urls(first), ReadOnly: readOnly, Log: f.log(name)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { m.Close() })
	return m
}

// log is where a member here writes; the test's failure shows it.
func (f *fleet) log(name string) *slog.Logger {
	out := new(lockedBuffer)
	f.t.Cleanup(func() {
		if f.t.Failed() {
			f.t.Logf("%s wrote:\n%s", name, out)
		}
	})
	return slog.New(slog.NewTextHandler(out, nil))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// subscribe reads everything as sub1, in a session that the cluster keeps.
func (f *fleet) subscribe() {
	ctx := lab.Within(f.t, 60*time.Second)
	c, err := subscriber.Connect(ctx, subscriber.Options{
		Identity: f.plant.Fleet.Identity("sub1"), Broker: strings.Join(f.nats.urls(0), ","), ClientID: "reader",
		ReadOnly: true, Retry: true, Handler: f.received.handle, Log: f.log("sub1"),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	if err := c.Ready(ctx); err != nil {
		f.t.Fatal(err)
	}
	if err := c.Subscribe(ctx, 1, "factory/#"); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) epoch(m *member.Member) crypto.Epoch {
	if k := m.State().Keys.Keys("default"); len(k) > 0 {
		return k[0].Epoch
	}
	return crypto.Epoch{}
}

// rotate has the keeper rotate, once it has a connection.
func (f *fleet) rotate() {
	f.t.Helper()
	ctx := lab.Within(f.t, time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := f.keeper.Rotate(ctx, "default")
		if err == nil {
			return
		}
		if !errors.Is(err, control.ErrNotConnected) {
			f.t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatal(err)
		}
	}
}

// awaitEpoch returns when every member holds epoch n, and when the gateway seals under it.
func (f *fleet) awaitEpoch(n uint64) (held, sealing time.Time) {
	f.t.Helper()
	ctx := lab.Within(f.t, 2*time.Minute)
	for i, m := range slices.Concat([]*member.Member{f.keeper}, f.members) {
		for {
			changed := m.Changed()
			if f.epoch(m).Number >= n {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				f.t.Fatalf("member %d stays at epoch %v, want %d", i, f.epoch(m), n)
			}
		}
	}
	at := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for f.plant.Epoch(f.t, "default") < int(n) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("gatewayd stays at epoch %d, want %d", f.plant.Epoch(f.t, "default"), n)
		}
	}
	return at, time.Now()
}

// load is a device that publishes some hundred messages a second at QoS 1, and repeats what was not acknowledged.
type load struct {
	t           *testing.T
	addr        string
	ctx         context.Context
	cancel      context.CancelFunc
	done        chan struct{}
	sent, acked atomic.Int64
	again       atomic.Int64 // of sent, repetitions

	mu      sync.Mutex
	numbers []int         // acknowledged; guarded by mu
	last    time.Time     // of the last acknowledgement; guarded by mu
	pause   time.Duration // the longest between two, see longest; guarded by mu
	change  chan struct{} // one token at most
}

func (f *fleet) startLoad() *load {
	l := &load{t: f.t, addr: f.plant.DeviceAddr(), done: make(chan struct{}), change: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.run()
	f.t.Cleanup(l.cancel)
	return l
}

// run publishes numbers, each until it is acknowledged, over as many connections as that takes.
func (l *load) run() {
	defer close(l.done)
	next, tried := 0, -1
	for l.ctx.Err() == nil {
		o := mqtt.NewClientOptions().AddBroker("tcp://" + l.addr).SetClientID("device").SetProtocolVersion(4)
		o.SetAutoReconnect(false).SetConnectTimeout(5 * time.Second).SetKeepAlive(5 * time.Second)
		c := mqtt.NewClient(o)
		if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
			l.wait(100 * time.Millisecond)
			continue
		}
		for l.ctx.Err() == nil {
			if next == tried {
				l.again.Add(1)
			}
			tried = next
			if !l.publish(c, next) {
				break
			}
			next++
			l.wait(2 * time.Millisecond)
		}
		c.Disconnect(0)
	}
}

func (l *load) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
	}
}

func (l *load) publish(c mqtt.Client, n int) bool {
	l.sent.Add(1)
	token := c.Publish(fmt.Sprintf("factory/line%d", n%4), 1, false, fmt.Sprintf(`{"n":%d}`, n))
	if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		return false
	}
	l.mu.Lock()
	now := time.Now()
	l.numbers = append(l.numbers, n)
	if !l.last.IsZero() {
		l.pause = max(l.pause, now.Sub(l.last))
	}
	l.last = now
	l.mu.Unlock()
	l.acked.Add(1)
	select {
	case l.change <- struct{}{}:
	default:
	}
	return true
}

func (l *load) await(ok func() bool) {
	l.t.Helper()
	ctx := lab.Within(l.t, 2*time.Minute)
	for !ok() {
		select {
		case <-l.change:
		case <-ctx.Done():
			l.t.Fatalf("the device gets no acknowledgements, %d so far", l.acked.Load())
		}
	}
}

func (l *load) awaitAcked(n int64) { l.t.Helper(); l.await(func() bool { return l.acked.Load() >= n }) }

// longest starts to measure the longest pause between two acknowledgements, and tells it after n more.
func (l *load) longest(n int64) (tell func() time.Duration) {
	l.mu.Lock()
	l.pause = 0
	l.mu.Unlock()
	until := l.acked.Load() + n
	return func() time.Duration {
		l.t.Helper()
		l.awaitAcked(until)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.pause
	}
}

// stop ends the load and returns what was acknowledged.
func (l *load) stop() []int {
	l.cancel()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.numbers
}

// received is what the subscriber got.
type received struct {
	mu     sync.Mutex
	count  map[int]int
	status map[string]int
	change chan struct{}
}

func newReceived() *received {
	return &received{count: map[int]int{}, status: map[string]int{}, change: make(chan struct{}, 1)}
}

func (r *received) handle(m *subscriber.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Topic == "" || m.Payload == nil {
		r.status[string(m.Status)]++
		return
	}
	var body struct{ N int }
	if err := json.Unmarshal(m.Payload, &body); err != nil {
		r.status["unreadable: "+strconv.Quote(string(m.Payload))]++
		return
	}
	r.count[body.N]++
	r.status[string(m.Status)]++
	select {
	case r.change <- struct{}{}:
	default:
	}
}

// await waits until every number has come and returns those that have not.
func (r *received) await(want []int, patience time.Duration) (missing []int) {
	deadline := time.After(patience)
	for {
		missing = missing[:0]
		r.mu.Lock()
		for _, n := range want {
			if r.count[n] == 0 {
				missing = append(missing, n)
			}
		}
		r.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-r.change:
		case <-deadline:
			return missing
		}
	}
}

func (r *received) repeated() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.count {
		n += c - 1
	}
	return n
}

// bad is what no honest broker causes.
func (r *received) bad() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	bad := map[string]int{}
	for s, n := range r.status {
		if s == "forged" || s == "plaintext" || s == "conflict" || s == "unknown-key" || strings.HasPrefix(s, "unreadable") {
			bad[s] = n
		}
	}
	return bad
}
