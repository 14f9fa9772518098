package chaos

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/gateway"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// dataScenarios are what a broker does to sealed messages, as a subscriber's program and a device behind a gateway see it.
func dataScenarios() []scenario {
	return []scenario{
		{name: "data: inject, bend, move, replay", rules: "F5 F6 F8", expect: "named plaintext, forged, duplicate, stale; a device sees none", run: injectData},
		{name: "data: drop in the middle", expect: "a gap with its numbers", run: dropData},
		{name: "data: reorder", expect: "all opened once; gaps withdrawn", run: reorderData},
		{name: "data: replay after a rotation", rules: "F8", expect: "opened once; no second time under the old key", run: replayOldData},
		{name: "data: replay when the window was pushed out", rules: "F17", expect: "the gateway refuses it as replayed; newer ones go on", run: floorData},
	}
}

// line is a device that publishes numbered messages, a device that listens through the same gateway, and a reader.
type line struct {
	s      *scene
	gw     *gateway.Gateway
	addr   string // where devices connect
	from   mqtt.Client
	reader *reader
	*ear
}

func (s *scene) line(n *node, edit ...func(*gateway.Config)) *line {
	s.Helper()
	g, addr := n.serve(edit...)
	l := &line{s: s, gw: g, addr: addr, reader: s.reader("rita", s.signed), from: s.device("dev-from", addr)}
	l.ear = s.listen(s.device("dev-to", addr))
	return l
}

// ear is what a device that listens has heard.
type ear struct {
	mu    sync.Mutex
	heard []string // guarded by mu
}

func (s *scene) listen(device mqtt.Client) *ear {
	s.Helper()
	e := new(ear)
	token := device.Subscribe("plant/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = append(e.heard, string(m.Payload()))
	})
	if !token.WaitTimeout(patience) || token.Error() != nil {
		s.Fatalf("subscribe the device: %v", token.Error())
	}
	return e
}

func (e *ear) count(payload string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.heard {
		if h == needle+payload {
			n++
		}
	}
	return n
}

// say has the device "dev-from" publish a message and returns the letter that carries it.
func (s *scene) say(device mqtt.Client, payload string) embedded.Letter {
	s.Helper()
	mark := s.broker.Mark()
	if token := device.Publish("plant/a", 1, false, needle+payload); !token.WaitTimeout(patience) || token.Error() != nil {
		s.Fatalf("not acknowledged: %v", token.Error())
	}
	for _, sent := range s.broker.Sent(mark) {
		if sent.From == "dev-from" && sent.Topic == "plant/a" {
			return sent
		}
	}
	s.Fatal("the broker was given no message")
	return embedded.Letter{}
}

func (l *line) publish(payload string) embedded.Letter {
	l.s.Helper()
	return l.s.say(l.from, payload)
}

// to gives a letter to the reader and to the listening device.
func (l *line) to(letter embedded.Letter) {
	for _, letter.To = range []string{"rita", "dev-to"} {
		l.s.broker.Deliver(letter)
	}
}

// hears waits until the reader has opened a payload once and the device has heard it once.
func (l *line) hears(payload string) {
	l.s.Helper()
	l.s.await("both heard "+payload, func() bool { return l.reader.opened(needle+payload) == 1 && l.count(payload) == 1 })
}

// metric is one of the gateway's counters.
func (l *line) metric(series string) int {
	var b bytes.Buffer
	l.gw.Metrics().WritePrometheus(&b)
	for text := range strings.Lines(b.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(text), " "); ok && name == series {
			n, _ := strconv.ParseFloat(value, 64)
			return int(n)
		}
	}
	return 0
}

func down(verdict string) string {
	return fmt.Sprintf("sealgate_messages_total{direction=%q,verdict=%q}", "down", verdict)
}

func injectData(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	first := l.publish("one")
	l.hears("one")
	second := l.publish("two")
	l.hears("two")
	bent := second
	bent.Payload = append([]byte(nil), second.Payload...)
	bent.Payload[len(bent.Payload)-1] ^= 1
	short := second
	short.Payload = second.Payload[:len(second.Payload)-3]
	moved := second
	moved.Topic = "plant/b"
	clear := embedded.Letter{Topic: "plant/a", Payload: []byte("open the valve"), QoS: 1}
	retained := first
	retained.Retain = true
	for _, c := range []struct {
		letter embedded.Letter
		status subscriber.Status
	}{
		{clear, subscriber.StatusPlaintext},
		{bent, subscriber.StatusForged},
		{short, subscriber.StatusForged},
		{moved, subscriber.StatusForged},
		{second, subscriber.StatusDuplicate},
		{first, subscriber.StatusDuplicate},
		{retained, subscriber.StatusStale},
	} {
		l.refused(c.letter, c.status)
	}
	l.publish("three")
	l.hears("three")
	if n := l.count("one") + l.count("two") + l.count("three"); n != 3 || len(l.heard) != 3 {
		s.Errorf("the device heard %q", l.heard)
	}
	s.saw("7 injections named by reader and gateway; the device heard 3 genuine messages")
}

func dropData(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	l.publish("0")
	l.hears("0")
	s.broker.Meddle(func(x embedded.Letter) []embedded.Letter {
		if x.Topic == "plant/a" {
			return nil
		}
		return []embedded.Letter{x}
	})
	for i := range 5 {
		l.publish(fmt.Sprint("lost", i))
	}
	s.broker.Meddle(nil)
	l.publish("6")
	l.hears("6")
	s.await("the gap reported", func() bool { return l.reader.statuses(subscriber.StatusGap) == 1 })
	if n := l.metric("sealgate_gap_messages_total"); n != 5 {
		s.Errorf("the gateway counts %d missing messages, want 5", n)
	}
	s.saw("one gap at the reader, 5 missing by the gateway's count")
}

func reorderData(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	s.broker.Meddle(func(x embedded.Letter) []embedded.Letter {
		if x.Topic == "plant/a" {
			return nil
		}
		return []embedded.Letter{x}
	})
	const n = 40
	var letters []embedded.Letter
	for i := range n {
		letters = append(letters, l.publish(fmt.Sprint("m", i)))
	}
	l.to(letters[0])
	for i := n - 1; i > 0; i-- {
		l.to(letters[i])
	}
	for i := range n {
		l.hears(fmt.Sprint("m", i))
	}
	gaps, filled := l.reader.statuses(subscriber.StatusGap), l.reader.statuses(subscriber.StatusGapFilled)
	if gaps == 0 || filled == 0 {
		s.Errorf("%d gaps, %d withdrawn", gaps, filled)
	}
	s.saw("%d opened once each; %d gap, %d numbers withdrawn", n, gaps, filled)
}

func replayOldData(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	old := l.publish("before")
	l.hears("before")
	for range 3 {
		s.rotate(gw1)
		s.agree()
	}
	s.await("the gateway on the new key", func() bool { return l.gw.Ready() })
	l.publish("after")
	l.hears("after")
	for i := range 3 {
		l.to(old)
		s.await("named a duplicate", func() bool {
			return l.reader.statuses(subscriber.StatusDuplicate) == i+1 && l.metric(down("duplicate")) == i+1
		})
	}
	if l.count("before") != 1 || l.reader.opened(needle+"before") != 1 {
		s.Error("a replay was delivered")
	}
	s.saw("3 replays marked, none delivered")
}

// floorData: so many streams of one device that the gateway which receives them remembers the first one no more, and then that one's messages again.
func floorData(s *scene) {
	gw1, _, _ := s.trio()
	const remembered, others = 64, 300 // streams
	l := s.line(gw1, func(c *gateway.Config) { c.MaxStreams = remembered })
	old := l.publish("first")
	l.hears("first")
	for i := range others {
		token := l.from.Publish(fmt.Sprintf("plant/other/%d", i), 1, false, needle+"other")
		if i%100 == 99 && (!token.WaitTimeout(patience) || token.Error() != nil) {
			s.Fatalf("not acknowledged: %v", token.Error())
		}
	}
	s.await("all heard", func() bool { return l.count("other") == others })
	before := l.metric(down("replayed"))
	s.broker.Deliver(to("dev-to", old))
	s.await("refused as replayed", func() bool { return l.metric(down("replayed")) == before+1 || l.count("first") > 1 })
	l.publish("second")
	l.hears("second")
	if n := l.count("first"); n != 1 {
		s.Errorf("the device heard the first message %d times", n)
	}
	s.saw("%d streams after it: replayed, not delivered; what came after it went on", others)
}

func to(user string, l embedded.Letter) embedded.Letter {
	l.To = user
	return l
}
