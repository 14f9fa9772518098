// Package fleet runs a fleet as large as one machine carries, in real time: members as controld runs
// them over one broker, with the keys rotated again and again while sealed messages flow.
//
// SEALGATE_FLEET=full (make fleet) takes 200 members and 100 rotations; otherwise it is 40 and 10.
package fleet

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

const (
	group         = "default"
	activateAfter = time.Second
	publishers    = 3 // of sealed messages, each to every reader
	readers       = 3
	pause         = 20 * time.Millisecond // between two messages of a publisher
)

// scale is how large a run is. patience is how long after its activation an epoch may take to be in use
// everywhere: two seconds is the promise; a small run on a busy machine is not held to it.
type scale struct {
	members, rotations int
	patience           time.Duration
}

func chosenScale() scale {
	if os.Getenv("SEALGATE_FLEET") == "full" {
		return scale{200, 100, 2 * time.Second}
	}
	return scale{40, 10, 10 * time.Second}
}

// fleet is the running fleet.
type fleet struct {
	t             *testing.T
	url           string
	caKey, caCert []byte
	trust         *crypto.Trust
	signed        *policy.Signed
	keeper        *member.Member
	members       []*member.Member // gateways
}

func TestFleetFollowsRotations(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	size := chosenScale()
	f := newFleet(t, size.members)
	f.await(crypto.Epoch{PolicyVersion: 1, Generation: 1, Number: 1}, time.Minute)
	flow := f.startFlow()
	var learned, switched []time.Duration
	for i := range size.rotations {
		announced := time.Now()
		epoch, err := f.keeper.Rotate(lab.Within(t, 20*time.Second), group)
		if err != nil {
			t.Fatalf("rotation %d: %v", i+1, err)
		}
		has, seals := f.await(epoch, activateAfter+30*time.Second)
		learned, switched = append(learned, has.Sub(announced)), append(switched, seals.Sub(announced)-activateAfter)
		if late := seals.Sub(announced) - activateAfter; late > size.patience {
			t.Errorf("rotation %d: some member sealed under the old epoch %v after activation, %v allowed", i+1, late, size.patience)
		}
	}
	sent, missing, bad := flow.stop()
	t.Logf("\n  %d gateways, %d publishers, %d readers over one broker (%s), %d rotations\n"+
		"  every member has the new epoch     %s after its announcement\n"+
		"  every gateway seals under it       %s after its activation\n"+
		"  sealed messages published %d, deliveries %d, missing %d, not ok %d",
		size.members, publishers, readers, brokerName(), size.rotations, spread(learned), spread(switched), sent, sent*readers-missing, missing, bad)
	if missing > 0 || bad > 0 {
		t.Errorf("%d messages are missing, %d came with another status than ok", missing, bad)
	}
}

func brokerName() string {
	if _, ok := lab.FindTool("mosquitto"); ok {
		return "mosquitto"
	}
	return "embedded"
}

func spread(all []time.Duration) string {
	var sum, most time.Duration
	for _, d := range all {
		sum, most = sum+d, max(most, d)
	}
	return fmt.Sprintf("%.2f s (mean), %.2f s (worst)", (sum / time.Duration(len(all))).Seconds(), most.Seconds())
}

func newFleet(t *testing.T, members int) *fleet {
	f := &fleet{t: t, url: startBroker(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	now := time.Now().Add(-time.Hour)
	f.caKey, f.caCert, err = crypto.NewCA("plant", rand.Reader, now)
	must(err)
	f.trust, err = crypto.NewTrust("plant", f.caCert)
	must(err)
	authority, err := crypto.ParseAuthority(f.caKey, f.caCert)
	must(err)
	g := policy.DefaultGroup(group)
	g.Topics, g.Publish, g.Keepers, g.ActivateAfter = []string{"#"}, []string{"gw*", "pub*"}, []string{"keeper1"}, activateAfter
	doc := &policy.Document{Fleet: "plant", Version: 1, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}
	raw, err := doc.Sign(authority)
	must(err)
	f.signed, err = policy.Verify(f.trust, raw, time.Now())
	must(err)
	f.keeper = f.member(crypto.RoleKeeper, "keeper1")
	for i := range members {
		f.members = append(f.members, f.member(crypto.RoleGateway, fmt.Sprintf("gw%d", i)))
	}
	return f
}

func startBroker(t *testing.T) string {
	if _, ok := lab.FindTool("mosquitto"); !ok {
		return embedded.Start(t, embedded.Options{}).URL()
	}
	port := lab.FreePort(t)
	lab.Mosquitto(t, lab.BrokerOptions{Plain: port})
	return fmt.Sprintf("mqtt://127.0.0.1:%d", port)
}

func (f *fleet) identity(role crypto.Role, name string) *crypto.Identity {
	f.t.Helper()
	key, cert, err := crypto.IssueMember(f.caKey, f.caCert, role, name, rand.Reader, time.Now().Add(-time.Minute))
	if err != nil {
		f.t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, f.caCert)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fleet) member(role crypto.Role, name string) *member.Member {
	f.t.Helper()
	m, err := member.Start(context.Background(), member.Config{Identity: f.identity(role, name), Trust: f.trust, Policy: f.signed,
		Broker: []string{f.url}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { m.Close() })
	return m
}

// await returns when every gateway has had epoch e, or a later one, and when every one has sealed under it.
func (f *fleet) await(e crypto.Epoch, patience time.Duration) (has, seals time.Time) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	until := func(what string, ok func(*crypto.Keyring) bool) time.Time {
		for i, m := range f.members {
			for {
				changed := m.Changed()
				if ok(m.State().Keys) {
					break
				}
				select {
				case <-changed:
				case <-ctx.Done():
					f.t.Fatalf("gateway %d does not %s epoch %v within %v", i, what, e, patience)
				}
			}
		}
		return time.Now()
	}
	has = until("have", func(k *crypto.Keyring) bool {
		all := k.Keys(group)
		return len(all) > 0 && all[0].Epoch.Compare(e) >= 0
	})
	seals = until("seal under", func(k *crypto.Keyring) bool {
		send := k.Send(group)
		return send != nil && send.Epoch.Compare(e) >= 0
	})
	return has, seals
}

// flow is sealed messages from every publisher to every reader.
type flow struct {
	f      *fleet
	cancel context.CancelFunc
	done   sync.WaitGroup
	sent   [publishers]int // read after done
	inbox  [readers]*inbox
}

// inbox counts what one reader got.
type inbox struct {
	mu     sync.Mutex
	got    map[string]int
	bad    map[subscriber.Status]int
	change chan struct{}
}

func (b *inbox) handle(m *subscriber.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Status == subscriber.StatusOK {
		b.got[m.Topic+" "+string(m.Payload)]++
	} else {
		b.bad[m.Status]++
	}
	select {
	case b.change <- struct{}{}:
	default:
	}
}

func (f *fleet) connect(name string, o subscriber.Options) *subscriber.Client {
	f.t.Helper()
	o.Member = &subscriber.Loaded{Identity: f.identity(crypto.RoleSubscriber, name), Trust: f.trust, Policy: f.signed}
	o.Broker, o.Log = f.url, slog.New(slog.DiscardHandler)
	ctx := lab.Within(f.t, 30*time.Second)
	c, err := subscriber.Connect(ctx, o)
	if err == nil {
		err = c.Ready(ctx)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

func (f *fleet) startFlow() *flow {
	f.t.Helper()
	w := &flow{f: f}
	for i := range w.inbox {
		w.inbox[i] = &inbox{got: map[string]int{}, bad: map[subscriber.Status]int{}, change: make(chan struct{}, 1)}
		c := f.connect(fmt.Sprintf("reader%d", i), subscriber.Options{ReadOnly: true, Handler: w.inbox[i].handle})
		if err := c.Subscribe(lab.Within(f.t, 30*time.Second), 1, "data/#"); err != nil {
			f.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	f.t.Cleanup(cancel)
	for i := range publishers {
		c := f.connect(fmt.Sprintf("pub%d", i), subscriber.Options{})
		w.done.Go(func() { w.publish(ctx, c, i) })
	}
	return w
}

// publish publishes numbers until ctx ends, each acknowledged by the broker before the next.
func (w *flow) publish(ctx context.Context, c *subscriber.Client, who int) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := c.Publish(context.Background(), fmt.Sprintf("data/%d", who), []byte(strconv.Itoa(n)), 1, false); err != nil {
			w.f.t.Errorf("publisher %d, message %d: %v", who, n, err)
			return
		}
		w.sent[who]++
	}
}

// stop ends the flow, gives the readers time, and tells what was sent, what is missing and what came with
// another status than ok.
func (w *flow) stop() (sent, missing, bad int) {
	w.cancel()
	w.done.Wait()
	for _, n := range w.sent {
		sent += n
	}
	limit := lab.Within(w.f.t, 20*time.Second)
	for _, b := range w.inbox {
		for waiting := true; waiting; {
			b.mu.Lock()
			short := sent - len(b.got)
			b.mu.Unlock()
			if short == 0 {
				break
			}
			select {
			case <-b.change:
			case <-limit.Done():
				waiting = false
				missing += short
			}
		}
		b.mu.Lock()
		for status, n := range b.bad {
			w.f.t.Logf("%d messages came as %q", n, status)
			bad += n
		}
		b.mu.Unlock()
	}
	return sent, missing, bad
}

func TestMain(m *testing.M) { lab.Main(m) }
