package chaos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/cmd/controld/daemon"
	"sealgate/pkg/keylink"
	"sealgate/pkg/member"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// crashScenarios end programs as a power cut does, wherever it hurts.
func crashScenarios() []scenario {
	return []scenario{
		{name: "kill -9: controld, at each step of its work", rules: "F20", expect: "data goes on without it; it goes on above its last epoch", run: killControld},
		{name: "kill -9: the only keeper, its keys kept", expect: "it goes on in its generation; the history stays", run: killKeeper},
		{name: "kill -9: the leading controld of two", expect: "the other leads, rotation goes on in the generation; and back", run: killLeader},
		{name: "kill -9: gatewayd, in the middle of traffic", rules: "F1", expect: "acknowledged is delivered; no key or number used twice", run: killGatewayd},
		{name: "power cut: broker, controld and gatewayd at once", rules: "F20", expect: "the fleet goes on above what a reader still knows", run: powerCut},
	}
}

// site is one installation of real programs: gatewayd in mode listen, controld, and a reader's program in this process.
type site struct {
	*scene
	plant  *lab.Plant
	device mqtt.Client
	reader *reader
	stop   chan struct{}
	done   chan struct{}
	acked  atomic.Int64
}

const sitePolicy = `version = 1
unmatched = "deny"
[[group]]
name = "plant"
topics = ["plant/#"]
activate_after = "800ms"
`

// site starts the programs. A controld that is killed loses its keys, as with its machine, unless keep names a directory for them.
func (s *scene) site(keep string) *site {
	s.Helper()
	return s.siteOf(sitePolicy, nil, keep)
}

func (s *scene) siteOf(policy string, more map[string]string, keep string) *site {
	s.Helper()
	x := &site{scene: s, stop: make(chan struct{}), done: make(chan struct{})}
	x.plant = s.real(policy, more)
	x.plant.Conf.Set("", "keep", keep)
	x.plant.WriteConf(s.T)
	x.plant.Up(s.T)
	x.read()
	x.device = s.device("dev", x.plant.DeviceAddr())
	return x
}

// real makes an installation of real programs over a hostile broker: a fleet of gw1, sub1 and more, the one of gw1 configured; nothing runs yet.
func (s *scene) real(policy string, more map[string]string) *lab.Plant {
	s.Helper()
	p := lab.NewPlant(s.T, lab.PlantOptions{Policy: policy, Members: more, Loopback: true, NoBroker: true})
	s.tls = &tls.Config{RootCAs: p.CA.Pool(), MinVersion: tls.VersionTLS13}
	s.broker = embedded.StartHostile(s.T, &tls.Config{Certificates: []tls.Certificate{p.BrokerCert.Pair}, MinVersion: tls.VersionTLS12})
	_, port, err := net.SplitHostPort(s.broker.Addr)
	if err != nil {
		s.Fatal(err)
	}
	if p.TLSPort, err = strconv.Atoi(port); err != nil {
		s.Fatal(err)
	}
	p.Conf.Set("uplink", "broker", p.BrokerAddr()).Set("control", "broker", p.URL())
	if _, s.trust, _, err = member.LoadIdentity(p.Fleet.Identity("gw1")); err != nil {
		s.Fatal(err)
	}
	return p
}

// read starts the reader's program, as the fleet's member sub1.
func (x *site) read() {
	x.Helper()
	r := &reader{s: x.scene, name: "sub1", log: new(journal), count: make(map[subscriber.Status]int), payloads: make(map[string]int)}
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	var err error
	r.client, err = subscriber.Connect(ctx, subscriber.Options{Identity: x.plant.Fleet.Identity("sub1"), Broker: x.broker.URL(), TLS: x.tls, Username: "sub1",
		Log: slog.New(r.log), ReadOnly: true, Retry: true, Handler: r.take})
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { r.client.Close() })
	if err := r.client.Subscribe(ctx, 1, "plant/#"); err != nil {
		x.Fatal(err)
	}
	if err := r.client.Ready(ctx); err != nil {
		x.Fatal(err)
	}
	x.reader = r
}

// talk publishes message after message until hush. What a breaking connection leaves in doubt the client sends again by its own means; where it says
// that a publication has failed, it is published again.
func (x *site) talk() {
	go func() {
		defer close(x.done)
		for i := 0; ; {
			token := x.device.Publish("plant/a", 1, false, payload(i))
			select {
			case <-token.Done():
			case <-x.stop:
				return
			}
			if token.Error() == nil {
				i++
				x.acked.Add(1)
			}
			select {
			case <-time.After(5 * time.Millisecond): // the pace of a sensor
			case <-x.stop:
				return
			}
		}
	}()
}

func payload(i int) string { return fmt.Sprintf("%s number %d", needle, i) }

// more waits until n more messages are acknowledged.
func (x *site) more(n int64) {
	x.Helper()
	want := x.acked.Load() + n
	x.await("more messages acknowledged", func() bool { return x.acked.Load() >= want })
}

// hush ends the traffic and fails unless everything acknowledged was opened, and no more than most times.
func (x *site) hush(most int) int {
	x.Helper()
	close(x.stop)
	<-x.done
	n := int(x.acked.Load())
	missing := -1
	defer func() {
		if x.Failed() {
			x.Logf("message %d of %d; the reader saw %q, and logged:\n%s", missing, n, x.reader.bad, x.reader.log.tail(40))
		}
	}()
	x.await("everything acknowledged opened", func() bool {
		for i := range n {
			if x.reader.opened(payload(i)) == 0 {
				missing = i
				return false
			}
		}
		return true
	})
	for i := range n {
		if k := x.reader.opened(payload(i)); k > most {
			x.Errorf("message %d was opened %d times", i, k)
		}
	}
	x.reader.mu.Lock()
	defer x.reader.mu.Unlock()
	for _, bad := range x.reader.bad {
		// The connection that broke had burned numbers, and what was killed cannot say what was sent last.
		if word, _, _ := strings.Cut(bad, " "); !slices.Contains([]string{"gap", "gap-filled", "burned", "unattributed", "silent", "heard"}, word) {
			x.Errorf("the reader saw %s", bad)
		}
	}
	return n
}

// status asks controld; ok is false while it does not answer.
func (x *site) status() (st daemon.Status, ok bool) { return x.statusOf(x.plant) }

func (s *scene) statusOf(p *lab.Plant) (st daemon.Status, ok bool) {
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	b, err := keylink.Status(ctx, p.Keylink())
	return st, err == nil && json.Unmarshal(b, &st) == nil
}

// sealing waits until controld says that the group is sealed under its newest epoch, and returns that.
func (x *site) sealing() (epoch string) {
	x.Helper()
	x.await("controld has an epoch to seal under", func() bool {
		st, ok := x.status()
		if !ok || len(st.Groups) != 1 || st.Groups[0].Epoch == "" || st.Groups[0].Sending != st.Groups[0].Epoch {
			return false
		}
		epoch = st.Groups[0].Epoch
		return true
	})
	return epoch
}

// together waits until the reader holds the epoch that is sealed under: a keeper that is alone and dies before it has granted
// an epoch takes it along.
func (x *site) together() (epoch string) {
	x.Helper()
	epoch = x.sealing()
	x.await("the reader on "+epoch, func() bool { return x.reader.client.Status().Groups[0].Epoch.String() == epoch })
	return epoch
}

// steps are moments in controld's work at which to kill it, each told from what the broker sees.
func steps() []struct {
	name string
	when func(embedded.Letter) bool
} {
	return []struct {
		name string
		when func(embedded.Letter) bool
	}{
		{"its session begins", func(l embedded.Letter) bool { return l.To == "" && l.Topic == policyTopic }},
		{"its announcement leaves", func(l embedded.Letter) bool { return l.From == "" && l.Topic == keysTopic && l.To == "sub1" }},
		{"its announcement comes back", func(l embedded.Letter) bool { return l.Topic == keysTopic && l.To == "" }},
		{"its Grant leaves", func(l embedded.Letter) bool { return isInbox(l) && l.To == "sub1" }},
	}
}

func killControld(s *scene) {
	x := s.site("none")
	x.talk()
	x.more(20)
	for _, step := range steps() {
		x.plant.Controld.Kill()
		x.more(20) // gatewayd goes on with the keys it has
		hit := make(chan struct{}, 1)
		var once atomic.Bool
		s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
			if isControl(l) && step.when(l) && !once.Swap(true) {
				hit <- struct{}{}
			}
			return []embedded.Letter{l}
		})
		x.plant.StartControld(s.T)
		s.await("controld where "+step.name, func() bool { return len(hit) > 0 })
		x.plant.Controld.Kill()
		s.broker.Meddle(nil)
		x.more(20)
		x.plant.StartControld(s.T)
		x.together()
		x.more(20)
	}
	x.plant.Rotate(s.T, group)
	last := x.together()
	x.more(20)
	s.saw("killed 8 times at %d steps; at the end %s; %d messages through", len(steps()), last, x.hush(1))
}

// killKeeper kills the only keeper of a group in the middle of its announcements, which the broker withholds from a reader, or from
// itself, and lets it go on with what it has kept. Who comes later opens what the broker retained of each epoch.
func killKeeper(s *scene) {
	x := s.site(s.TempDir() + "/keys")
	var retained []string
	retain := func() {
		text := fmt.Sprintf("%s retained %d", needle, len(retained))
		if token := x.device.Publish(fmt.Sprintf("plant/r%d", len(retained)), 1, true, text); !token.WaitTimeout(patience) || token.Error() != nil {
			s.Fatalf("publish: %v", token.Error())
		}
		retained = append(retained, text)
	}
	x.talk()
	x.more(20)
	retain()
	back := steps()[2].when
	for _, when := range []func(embedded.Letter) bool{steps()[1].when, back, back} {
		before, hit := x.sealing(), make(chan struct{}, 1)
		s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
			if !isControl(l) || !when(l) {
				return []embedded.Letter{l}
			}
			select {
			case hit <- struct{}{}:
			default:
			}
			return nil
		})
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			_, _ = keylink.Rotate(x.ctx, x.plant.Keylink(), group) // it is killed before it can say so
		}()
		s.await("an announcement at the broker", func() bool { return len(hit) > 0 })
		x.plant.Controld.Kill()
		<-asked
		s.broker.Meddle(nil)
		x.more(20)
		x.plant.StartControld(s.T)
		s.await("controld seals above "+before, func() bool {
			st, ok := x.status()
			return ok && len(st.Groups) == 1 && above(st.Groups[0].Sending, before)
		})
		x.more(20)
		retain()
	}
	last := x.sealing()
	early := x.reader
	x.read()
	s.await("all retained messages opened by a program that came last", func() bool {
		return !slices.ContainsFunc(retained, func(text string) bool { return x.reader.opened(text) == 0 })
	})
	if strings.Split(last, ".")[1] != "1" {
		s.Errorf("epoch %s: no generation was needed", last)
	}
	x.reader = early
	s.saw("killed 3 times; still in the first generation at %s; %d retained messages of as many epochs open for who came last; %d messages through", last, len(retained), x.hush(1))
}

// killLeader kills the controld that leads, of two that keep their keys nowhere else, and then the one that has taken over.
func killLeader(s *scene) {
	x := s.siteOf(sitePolicy+`keepers = ["gw1", "gw2"]`+"\n", map[string]string{"gw2": "gateway"}, "none")
	gw2 := x.plant.Beside(s.T, "gw2")
	gw2.Conf.Set("", "keep", "none")
	gw2.WriteConf(s.T)
	gw2.Up(s.T)
	keepers, names := []*lab.Plant{x.plant, gw2}, []string{"gw1", "gw2"}
	first := x.leading(x.plant, "gw1")
	x.talk()
	x.more(20)
	for i := range 2 {
		dead, alive := keepers[i], keepers[1-i]
		dead.Controld.Kill()
		start := time.Now()
		x.leading(alive, names[1-i])
		s.saw("%s leads %.1f s after the end of %s", names[1-i], time.Since(start).Seconds(), names[i])
		for range 2 {
			alive.Rotate(s.T, group)
			x.more(5)
		}
		dead.StartControld(s.T) // it knows nothing any more but who it is
		e := x.leading(alive, names[1-i])
		s.await(names[i]+" follows at "+e, func() bool {
			st, ok := s.statusOf(dead)
			return ok && len(st.Groups) == 1 && st.Groups[0].Leader == names[1-i] && st.Groups[0].Epoch == e && st.Groups[0].Sending == e && st.Groups[0].Keys == 2*(i+1)+1
		})
		x.more(20)
	}
	last := x.leading(x.plant, "gw1")
	if strings.Split(last, ".")[1] != strings.Split(first, ".")[1] || !above(last, first) {
		s.Errorf("after %s comes %s: a takeover costs no generation", first, last)
	}
	s.saw("%s after %s, the whole history at both; %d messages through", last, first, x.hush(1))
}

// leading waits until a controld says that this keeper leads, and seals under its newest epoch; and until the reader holds that.
func (x *site) leading(p *lab.Plant, name string) (epoch string) {
	x.Helper()
	limit, tick := lab.Within(x.T, 2*patience), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		st, ok := x.statusOf(p)
		if ok && len(st.Groups) == 1 {
			g := &st.Groups[0]
			if epoch = g.Epoch; epoch != "" && g.Leader == name && g.Leading && g.Sending == epoch && x.reader.client.Status().Groups[0].Epoch.String() == epoch {
				return epoch
			}
		}
		select {
		case <-tick.C:
		case <-limit.Done():
			x.Fatalf("never: %s leads; its controld says %+v, the reader is at %v", name, st, x.reader.client.Status().Groups)
		}
	}
}

// killGatewayd: what a device sends again after a loss of gatewayd is sealed anew, and may arrive twice, as QoS 1 allows.
func killGatewayd(s *scene) {
	x := s.site("none")
	x.talk()
	x.more(30)
	for range 3 {
		x.plant.Gatewayd.Kill()
		x.plant.StartGatewayd(s.T)
		x.more(30)
	}
	n := x.hush(4)
	s.noNonceTwice()
	s.saw("killed 3 times; %d acknowledged, all opened; no (key, number) with two contents", n)
}

func powerCut(s *scene) {
	x := s.site("none")
	x.talk()
	x.more(20)
	for range 2 {
		x.plant.Rotate(s.T, group)
	}
	before := x.together()
	x.more(20)
	x.plant.Gatewayd.Kill()
	x.plant.Controld.Kill()
	s.broker.Stop()
	s.broker.Forget()
	s.broker.Restart()
	x.plant.StartControld(s.T)
	x.plant.StartGatewayd(s.T)
	x.more(20)
	s.await("the reader and controld on one epoch above", func() bool {
		st, ok := x.status()
		return ok && len(st.Groups) == 1 && x.reader.client.Status().Groups[0].Epoch.String() == st.Groups[0].Sending && above(st.Groups[0].Sending, before)
	})
	after := x.sealing()
	n := x.hush(4)
	s.noNonceTwice()
	s.saw("%s before, %s after; %d messages, all opened", before, after, n)
}

// above reports whether epoch a, written version.generation.number, is higher than b.
func above(a, b string) bool {
	var x, y [3]int
	fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2])
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	for i := range x {
		if x[i] != y[i] {
			return x[i] > y[i]
		}
	}
	return false
}
