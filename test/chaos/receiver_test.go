package chaos

import (
	"regexp"
	"slices"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	gatewayd "sealgate/cmd/gatewayd/daemon"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/member"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// receiverScenarios are what a broker keeps from a plain MQTT client, as the gatewayd before it finds it out: real programs at both ends.
func receiverScenarios() []scenario {
	return []scenario{
		{name: "behind gatewayd: the last messages dropped", expect: "topic, sender and numbers named; recovered when they come", run: tailBehindGatewayd},
		{name: "behind gatewayd: a gateway silenced", expect: "named as silent; heard after healing, and what was withheld", run: silenceBehindGatewayd},
		{name: "behind gatewayd: a reader seals on its own", expect: "its stream named as unattributed", run: insiderBehindGatewayd},
		{name: "behind gatewayd: control topics withheld", rules: "F3", expect: "receiving goes on; sealing ends in the freshness limit; back after", run: controlBehindGatewayd},
	}
}

const (
	behindInterval = 2 * time.Second
	behindPolicy   = `version = 1
unmatched = "deny"
[[group]]
name = "plant"
topics = ["plant/#"]
keepers = ["gw1"]
activate_after = "500ms"
checkpoint = "2s"
`
)

// behind is a fleet of two gateways, gatewayd and controld each. A device behind gw1 publishes, one behind gw2 listens.
type behind struct {
	*scene
	gw1, gw2 *lab.Plant
	from, to mqtt.Client
	*ear
}

// receiving is what gw2's gatewayd says of itself.
type receiving struct {
	Groups  []gatewayd.GroupStatus
	Traffic gateway.Status
}

// behind starts the programs and waits until gw2 has heard a whole interval of gw1: from then on it knows what it misses. more is added
// to the group's policy.
func (s *scene) behind(more string) *behind {
	s.Helper()
	x := &behind{scene: s, gw1: s.real(behindPolicy+more, map[string]string{"gw2": "gateway"})}
	x.gw2 = x.gw1.Beside(s.T, "gw2")
	for i, p := range []*lab.Plant{x.gw1, x.gw2} { // gw1 first: it keeps the keys
		p.Conf.Set("control", "username", []string{"gw1", "gw2"}[i])
		p.WriteConf(s.T)
		p.Up(s.T)
	}
	x.from, x.to = s.device("dev-from", x.gw1.DeviceAddr()), s.device("dev-to", x.gw2.DeviceAddr())
	x.ear = s.listen(x.to)
	x.through("first")
	x.until("checkpoints heard", func(r *receiving) bool { return r.Traffic.Checkpoints.Heard })
	x.intervals(3)
	return x
}

// through has a message go from device to device.
func (x *behind) through(payload string) {
	x.Helper()
	x.say(x.from, payload)
	x.await("heard behind gw2: "+payload, func() bool { return x.count(payload) == 1 })
}

// intervals waits until gw1 has said n times what it has sent, and gw2's controld is subscribed to that.
func (x *behind) intervals(n int) {
	x.Helper()
	topic := control.CheckpointTopic(prefix, group, "gw1")
	x.await("gw2 subscribed to checkpoints", func() bool {
		return slices.Contains(x.broker.Filters("gw2"), control.CheckpointTopic(prefix, group, "+"))
	})
	mark := x.broker.Mark()
	x.await("checkpoints of gw1", func() bool { return len(x.sentOn(mark, topic)) >= n })
}

// until waits until ok holds of what gw2's gatewayd says.
func (x *behind) until(what string, ok func(*receiving) bool) *receiving {
	x.Helper()
	limit, tick := lab.Within(x.T, 2*patience), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		r := new(receiving)
		if x.gw2.Status(x.T, r); ok(r) {
			return r
		}
		select {
		case <-tick.C:
		case <-limit.Done():
			x.Fatalf("never: %s; gw2's gatewayd says %+v", what, r)
		}
	}
}

// event waits until gw2's gatewayd tells of an event for which ok holds, and returns it.
func (x *behind) event(what string, ok func(*gateway.MissingEvent) bool) (e gateway.MissingEvent) {
	x.Helper()
	x.until(what, func(r *receiving) bool {
		i := slices.IndexFunc(r.Traffic.Checkpoints.Recent, func(e gateway.MissingEvent) bool { return e.Event == what && ok(&e) })
		if i >= 0 {
			e = r.Traffic.Checkpoints.Recent[i]
		}
		return i >= 0
	})
	if n := x.gw2.Metrics(x.T)[`sealgate_checkpoint_events_total{event="`+what+`"}`]; n < 1 {
		x.Errorf("no metric of %s", what)
	}
	return e
}

// covered waits until events of a kind have named all numbers from first to last of gw1's messages on plant/a.
func (x *behind) covered(what string, first, last uint64) {
	x.Helper()
	for next := first; next <= last; {
		e := x.event(what, func(e *gateway.MissingEvent) bool { return e.From <= next && next <= e.To && e.Topic == "plant/a" })
		if e.Gateway != "gw1" || e.Group != group || e.From < first || e.To > last {
			x.Errorf("%+v; the numbers are %d to %d", e, first, last)
		}
		next = e.To + 1
	}
}

// since is the time from start on, in intervals of checkpoints.
func since(start time.Time) float64 { return float64(time.Since(start)) / float64(behindInterval) }

func number(s *scene, l embedded.Letter) uint64 {
	s.Helper()
	e, err := crypto.ParseEnvelope(l.Payload)
	if err != nil {
		s.Fatal(err)
	}
	return e.Seq
}

func tailBehindGatewayd(s *scene) {
	x := s.behind("")
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To == "dev-to" && l.Topic == "plant/a" {
			return nil
		}
		return []embedded.Letter{l}
	})
	start := time.Now()
	lost := []embedded.Letter{s.say(x.from, "lost 0"), s.say(x.from, "lost 1"), s.say(x.from, "lost 2")}
	first, last := number(s, lost[0]), number(s, lost[2])
	x.covered("dropped", first, last)
	took := since(start)
	if n := x.gw2.Metrics(s.T)["sealgate_dropped_messages_total"]; n < 3 {
		s.Errorf("%v messages counted as dropped", n)
	}
	_, table, why := lab.Run(s.T, lab.Within(s.T, patience), lab.Cmd{Path: x.gw2.Programs.Sealctl, Args: []string{"status", "--config", x.gw2.ConfFile}})
	if !regexp.MustCompile(`(?m)^dropped +plant +gw1 +plant/a `).MatchString(table) {
		s.Errorf("sealctl status says nothing of it: %s\n%s", table, why)
	}
	s.saw("%d to %d of gw1 on plant/a named after %.1f intervals, a row of sealctl status", first, last, took)
	s.broker.Meddle(nil)
	for i := range lost {
		lost[i].To = "dev-to"
		s.broker.Deliver(lost[i])
	}
	s.await("what was dropped heard", func() bool { return x.count("lost 0")+x.count("lost 1")+x.count("lost 2") == 3 })
	x.covered("recovered", first, last)
	s.saw("recovered when the broker gave them")
}

func silenceBehindGatewayd(s *scene) {
	x := s.behind("")
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.From == "gw1" || l.From == "dev-from" {
			return nil
		}
		return []embedded.Letter{l}
	})
	start := time.Now()
	lost := s.say(x.from, "into the silence")
	x.event("silent", func(e *gateway.MissingEvent) bool { return e.Gateway == "gw1" })
	took := since(start)
	r := x.until("silent in the status", func(r *receiving) bool { return len(r.Traffic.Checkpoints.Groups[group].Silent) > 0 })
	if silent, n := r.Traffic.Checkpoints.Groups[group].Silent, x.gw2.Metrics(s.T)["sealgate_silent_senders"]; !slices.Equal(silent, []string{"gw1"}) || n != 1 {
		s.Errorf("silent are %q, %v by the metrics", silent, n)
	}
	s.saw("gw1 silent after %.1f intervals", took)
	s.broker.Meddle(nil)
	for _, what := range []string{"heard", "withheld"} {
		x.event(what, func(e *gateway.MissingEvent) bool { return e.Gateway == "gw1" })
	}
	x.through("after")
	seq := number(s, lost)
	x.until("nobody silent", func(r *receiving) bool { return len(r.Traffic.Checkpoints.Groups[group].Silent) == 0 })
	s.saw("heard again, its checkpoints named as withheld; the message %d was a gap", seq)
	if n := x.gw2.Metrics(s.T)["sealgate_gap_messages_total"]; n < 1 {
		s.Errorf("%v messages missing by the gaps", n)
	}
}

// insiderBehindGatewayd: who may read holds the keys, and can seal as if it were a gateway; only that no gateway says so gives it away.
func insiderBehindGatewayd(s *scene) {
	x := s.behind("")
	id, trust, signed, err := member.LoadIdentity(x.gw1.Fleet.Identity("sub1"))
	if err != nil {
		s.Fatal(err)
	}
	sub1 := s.start(crypto.RoleSubscriber, "sub1", func(c *member.Config) { c.Identity, c.Trust, c.Policy, c.ReadOnly = id, trust, signed, true })
	var key *crypto.Key
	s.await("the reader holds the keys", func() bool {
		keys := sub1.m.State().Keys.Keys(group)
		if len(keys) > 0 {
			key = &keys[0]
		}
		return key != nil
	})
	stream, err := crypto.NewSealStream(key.Secret, group, "plant/a", crypto.NewStreamID("gw1", random(), random(), false))
	if err != nil {
		s.Fatal(err)
	}
	sealed, _, err := stream.Seal(nil, nil, []byte(needle+"open the valve"))
	if err != nil {
		s.Fatal(err)
	}
	start := time.Now()
	s.broker.Deliver(embedded.Letter{To: "dev-to", Topic: "plant/a", Payload: sealed, QoS: 1})
	e := x.event("unattributed", func(e *gateway.MissingEvent) bool { return e.Stream == stream.Kid().StreamID().String() })
	if e.Topic != "plant/a" || e.Group != group || e.Gateway != "" {
		s.Errorf("%+v", e)
	}
	s.saw("delivered, for the key is right; stream %s named after %.1f intervals", e.Stream, since(start))
}

func controlBehindGatewayd(s *scene) {
	x := s.behind("freshness = \"10s\"\n")
	s.broker.Meddle(only("gw2"))
	start := time.Now()
	x.event("silent", func(e *gateway.MissingEvent) bool { return e.Gateway == "gw1" })
	x.until("gw2's freshness limit", func(r *receiving) bool {
		return len(r.Groups) == 1 && r.Groups[0].Sending == "" && r.Groups[0].Fresh == 0 && r.Groups[0].Stale
	})
	took := time.Since(start)
	x.through("sealed by gw1 meanwhile")
	mark := s.broker.Mark()
	x.to.Publish("plant/b", 1, false, needle+"too late")
	s.await("gw2 keeps back what it may not seal", func() bool {
		return x.gw2.Metrics(s.T)[`sealgate_messages_total{direction="up",verdict="no-key"}`] > 0
	})
	if slices.ContainsFunc(s.broker.Sent(mark), func(l embedded.Letter) bool { return l.From == "dev-to" }) {
		s.Error("gw2 sealed on after its freshness limit")
	}
	s.saw("gw1 silent; gw2 received on, and sealed nothing after %.0f s of a limit of 10", took.Seconds())
	s.broker.Meddle(nil)
	s.broker.Cut("gw2")
	x.until("gw2 seals again", func(r *receiving) bool { return len(r.Groups) == 1 && r.Groups[0].Sending != "" })
	s.await("what waited at the broker", func() bool { return len(s.sentOn(mark, "plant/b")) > 0 })
	s.saw("healed: what waited went out, sealed")
}
