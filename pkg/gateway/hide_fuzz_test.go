package gateway

import (
	"bytes"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
	"sealgate/pkg/topic"
)

// FuzzHidden is FuzzProxy for a fleet that hides topics. Whatever the bytes are, no name that the policy hides reaches the broker: not as the topic of a
// message or will, not in a topic filter, not as a response topic; what stands under a token is an envelope that holds the token's name; and a device reads
// names, of sealed messages alone.
func FuzzHidden(f *testing.F) {
	fl := fixedFleet(f).hiding()
	for _, s := range hiddenSeeds(fl) {
		f.Add(s.device, s.broker, s.step)
	}
	state := fl.state()
	f.Fuzz(func(t *testing.T, device, broker []byte, step byte) { hiddenProxy(t, fl, state, device, broker, step) })
}

// TestHiddenSeedsReachEverything: as TestSeedsReachEverything.
func TestHiddenSeedsReachEverything(t *testing.T) {
	fl := fixedFleet(t).hiding()
	var sum [verdicts]uint64
	tokens := 0
	for _, s := range hiddenSeeds(fl) {
		g, up := hiddenProxy(t, fl, fl.state(), s.device, s.broker, s.step)
		for v := range sum {
			sum[v] += g.metrics.messages[v].Get()
		}
		tokens += bytes.Count(up, []byte(fl.names.Hide("s/a")))
	}
	for _, v := range []verdict{upSeal, upPass, upClear, downOpen, downPass, downPlaintext, downForged, downDuplicate} {
		if sum[v] == 0 {
			t.Errorf("no seed gets to %s %s", verdictWords[v].direction, verdictWords[v].verdict)
		}
	}
	if tokens < 10 {
		t.Errorf("%d hidden topics and filters are on the uplink", tokens)
	}
}

func hiddenSeeds(fl *fleet) (all []seed) {
	for _, v := range []mqttparse.Version{mqttparse.V31, mqttparse.V311, mqttparse.V5} {
		device, broker := seedBytes(fl, v)
		end := []byte{0xe0, 0}
		device = bytes.TrimSuffix(device, end)
		for _, subscribe := range [][]byte{{0x82}, {0xa2}} {
			body := []byte{0, 9}
			if v == mqttparse.V5 {
				body = append(body, 0)
			}
			for _, filter := range []string{"s/a", "s/+", "#", "+/a", "$share/g/s/#", "plain/a"} {
				body = append(append(body, 0, byte(len(filter))), filter...)
				if subscribe[0] == 0x82 {
					body = append(body, 1)
				}
			}
			device = append(append(device, subscribe[0], byte(len(body))), body...)
		}
		if v == mqttparse.V5 {
			p := message("plain/a", "open", 0, 0)
			p.Properties = []byte("\x08\x00\x03s/r")
			device = append(device, publishPacket(v, p)...)
		}
		device = append(device, end...)
		s, elsewhere := fl.hidden("s/a"), fl.hidden("s/b")
		for qos := byte(0); qos < 3; qos++ {
			m := s.withProps([]byte{mqttparse.PropContentType, 0, 1, 'x'}, opened+"x", qos, uint16(qos)*11)
			broker = append(broker, publishPacket(v, m)...)
			broker = append(broker, publishPacket(v, m)...)
			broker = append(broker, publishPacket(v, elsewhere.next(opened+"y", qos, uint16(qos)*12))...)
			m.Topic = []byte(fl.names.Hide("s/b")) // an envelope of another topic
			broker = append(broker, publishPacket(v, m)...)
			broker = append(broker, publishPacket(v, message(fl.names.Hide("s/a"), "not sealed", qos, uint16(qos)*13))...)
		}
		all = append(all, seed{device, broker, 255}, seed{device, broker, 1}, seed{device[:len(device)-5], broker[:len(broker)-3], 0})
	}
	return all
}

func hiddenProxy(t *testing.T, fl *fleet, state *State, device, broker []byte, step byte) (*Gateway, []byte) {
	t.Helper()
	g, c, up, down := carry(t, state, device, broker, step)
	h := hiddenCheck{t, fl, state}
	h.uplink(up)
	checkDevice(t, state, c.version, down)
	for _, p := range publishes(t, c.version, down) {
		if d := state.Table.Publish(p.Topic); len(p.Topic) > 0 && d.Hide && !bytes.HasPrefix(p.Payload, []byte(opened)) {
			t.Fatalf("delivered on %s, but never sealed: %q", p.Topic, p.Payload)
		}
	}
	return g, up
}

type hiddenCheck struct {
	t     *testing.T
	fl    *fleet
	state *State
}

// uplink walks what the broker got.
func (h hiddenCheck) uplink(b []byte) {
	h.t.Helper()
	var s mqttparse.Scanner
	s.Init(mqttparse.FromClient, 1<<20)
	for len(b) > 0 {
		f, n, err := s.Next(b)
		if err != nil || n == 0 {
			h.t.Fatalf("the broker got no valid MQTT: %v: % x", err, b)
		}
		b = b[n:]
		switch f.Type() {
		case mqttparse.CONNECT:
			var c mqttparse.Connect
			if err := mqttparse.ParseConnect(f, &c); err != nil {
				h.t.Fatal(err)
			}
			if c.HasWill {
				h.message(mqttparse.Publish{Topic: c.Will.Topic, Payload: c.Will.Payload, Retain: c.Will.Retain, Properties: c.Will.Properties})
			}
		case mqttparse.PUBLISH:
			var p mqttparse.Publish
			if err := mqttparse.ParsePublish(f, s.Version(), &p); err != nil {
				h.t.Fatal(err)
			}
			if len(p.Topic) > 0 { // an alias alone stands for what was looked at
				h.message(p)
			}
		case mqttparse.SUBSCRIBE, mqttparse.UNSUBSCRIBE:
			for it := mqttparse.Filters(f, s.Version()); it.Next(); {
				h.filter(string(it.Filter()))
			}
		}
	}
}

func (h hiddenCheck) message(p mqttparse.Publish) {
	h.t.Helper()
	for it := mqttparse.Properties(p.Properties); it.Next(); {
		if it.ID() == mqttparse.PropResponseTopic && h.state.Table.Publish(it.Value()).Hide && !crypto.LooksHidden(it.Value()) {
			h.t.Fatalf("the response topic %s is on the uplink", it.Value())
		}
	}
	if !crypto.LooksHidden(p.Topic) {
		if h.state.Table.Publish(p.Topic).Hide {
			h.t.Fatalf("the topic %s is on the uplink", p.Topic)
		}
		checkSealed(h.t, h.state, p)
		return
	}
	if len(p.Payload) == 0 && p.Retain {
		return
	}
	env, err := crypto.ParseEnvelope(p.Payload)
	if err != nil {
		h.t.Fatalf("unsealed on %s: %q", p.Topic, p.Payload)
	}
	o, err := crypto.NewOpenStream(h.state.Keys.Send("default").Secret, "default", string(p.Topic), env.Kid.StreamID())
	if err != nil {
		h.t.Fatal(err)
	}
	inner, err := o.Open(nil, &env)
	if err != nil {
		h.t.Fatalf("on %s: %v", p.Topic, err)
	}
	name, _, err := crypto.SplitName(inner)
	if err != nil || h.fl.names.Hide(string(name)) != string(p.Topic) || h.state.Table.Publish(name).Verdict != policy.Seal {
		h.t.Fatalf("on %s: an envelope with the name %q: %v", p.Topic, name, err)
	}
}

func (h hiddenCheck) filter(filter string) {
	h.t.Helper()
	if _, inner, shared := topic.ShareFilter(filter); shared {
		filter = inner
	}
	if plain, _ := h.state.Table.Filters(filter); !plain && !crypto.LooksHidden([]byte(filter)) && !underPrefix([]byte(filter), "sealgate") {
		h.t.Fatalf("the filter %s is on the uplink", filter)
	}
}
