package chaos

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// deviceScenarios are what a broker can do to what MQTT promises a device: that an acknowledged message is taken, and that its will is its last.
func deviceScenarios() []scenario {
	return []scenario{
		{name: "acks: PUBACK and PUBREC withheld", rules: "F1 F8", expect: "the gateway gives none; sent again it is the same envelope, heard once", run: withholdAcks},
		{name: "wills: kept back, early, twice, moved, bent", rules: "F6 F8", expect: "opened once, on their topic; when is the broker's choice", run: wills},
	}
}

// withholdAcks: of each kind of message the broker keeps one to itself, and delivers one of which it only says nothing.
func withholdAcks(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	mark := s.broker.Mark()
	for i := range 4 {
		qos, lost := byte(1+i/2), i%2 == 0
		s.broker.Acknowledge(func(x embedded.Letter) bool { return x.Topic != "plant/a" })
		s.broker.Meddle(func(x embedded.Letter) []embedded.Letter {
			if lost && x.Topic == "plant/a" {
				return nil
			}
			return []embedded.Letter{x}
		})
		payload := fmt.Sprintf("qos %d, lost %v", qos, lost)
		d := s.dial(l.addr, mqttparse.Connect{ClientID: []byte("dev-bare")})
		d.publish("plant/a", qos, 7, payload, false)
		d.publish("plant/b", 1, 8, "behind it", false)
		d.expect(0x40, 8) // and nothing before it: an acknowledgement of the gateway's own would be first
		s.broker.Acknowledge(nil)
		s.broker.Meddle(nil)
		d.Close()
		d = s.dial(l.addr, mqttparse.Connect{ClientID: []byte("dev-bare")})
		d.publish("plant/a", qos, 7, payload, true)
		if qos == 1 {
			d.expect(0x40, 7)
		} else {
			d.expect(0x50, 7)
			d.write([]byte{0x62, 2, 0, 7})
			d.expect(0x70, 7)
		}
		d.Close()
		l.hears(payload)
	}
	again := 0
	first := make(map[uint64][]byte)
	for _, x := range s.sentOn(mark, "plant/a") {
		if n := number(s, x); first[n] == nil {
			first[n] = x.Payload
		} else if again++; !bytes.Equal(first[n], x.Payload) {
			s.Errorf("number %d: another envelope", n)
		}
	}
	if len(first) != 4 || again != 4 {
		s.Errorf("%d messages, %d sent again", len(first), again)
	}
	s.saw("none from the gateway; %d sent again, byte for byte; each heard once", again)
}

// sentOn is what was published on a topic since mark.
func (s *scene) sentOn(mark int, topic string) []embedded.Letter {
	return slices.DeleteFunc(s.broker.Sent(mark), func(l embedded.Letter) bool { return l.Topic != topic })
}

// bare is a device without a client library, whose every packet the scenario decides.
type bare struct {
	net.Conn
	s *scene
}

// dial connects a device; its user name is its client identifier.
func (s *scene) dial(addr string, con mqttparse.Connect) *bare {
	s.Helper()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(s.ctx, "tcp", addr)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * patience)) // of a TCP connection; it cannot fail
	d := &bare{conn, s}
	con.Version, con.HasUsername, con.Username = mqttparse.V311, true, con.ClientID
	d.write(mqttparse.AppendConnect(nil, &con))
	if ack := d.read(); ack[0] != 0x20 || ack[3] != 0 {
		s.Fatalf("CONNACK % x", ack)
	}
	return d
}

func (d *bare) write(b []byte) {
	d.s.Helper()
	if _, err := d.Write(b); err != nil {
		d.s.Fatal(err)
	}
}

// read takes an acknowledgement, which has four bytes.
func (d *bare) read() (b [4]byte) {
	d.s.Helper()
	if _, err := io.ReadFull(d, b[:]); err != nil {
		d.s.Fatalf("no acknowledgement: %v", err)
	}
	return b
}

func (d *bare) expect(first, id byte) {
	d.s.Helper()
	if b := d.read(); b != [4]byte{first, 2, 0, id} {
		d.s.Fatalf("% x came, of %02x for packet %d", b, first, id)
	}
}

func (d *bare) publish(topic string, qos, id byte, payload string, dup bool) {
	d.s.Helper()
	first := 0x30 | qos<<1
	if dup {
		first |= 8
	}
	b := append([]byte{first, byte(2 + len(topic) + 2 + len(needle+payload)), 0, byte(len(topic))}, topic...)
	d.write(append(append(b, 0, id), needle+payload...))
}

// mortal connects a device with a will on plant/will.
func (s *scene) mortal(name, addr, will string) *bare {
	s.Helper()
	return s.dial(addr, mqttparse.Connect{CleanStart: true, ClientID: []byte(name), HasWill: true,
		Will: mqttparse.Will{Topic: []byte("plant/will"), Payload: []byte(needle + will), QoS: 1}})
}

func wills(s *scene) {
	gw1, _, _ := s.trio()
	l := s.line(gw1)
	kept := make(chan embedded.Letter, 16)
	s.broker.Meddle(func(x embedded.Letter) []embedded.Letter {
		if x.Topic == "plant/will" {
			kept <- x
			return nil
		}
		return []embedded.Letter{x}
	})
	s.mortal("dev-dead", l.addr, "dead").Close()
	s.await("the will at the broker", func() bool { return len(kept) > 0 })
	dead := <-kept
	l.publish("after the death")
	l.hears("after the death")
	if l.count("dead") != 0 || len(l.reader.bad) > 0 {
		s.Errorf("a will that was kept back: the reader saw %q", l.reader.bad)
	}
	s.saw("kept back: nothing tells")

	living := s.mortal("dev-living", l.addr, "living")
	var early embedded.Letter
	s.await("the will of the living device at the broker", func() (ok bool) {
		early, ok = s.broker.Will("dev-living")
		return ok
	})
	for i, w := range []embedded.Letter{dead, early} {
		payload := []string{"dead", "living"}[i]
		bent, moved := w, w
		bent.Payload = slices.Clone(w.Payload)
		bent.Payload[len(bent.Payload)-1] ^= 1
		moved.Topic = "plant/a"
		l.refused(bent, subscriber.StatusForged)
		l.refused(moved, subscriber.StatusForged)
		l.to(w)
		l.hears(payload)
		l.refused(w, subscriber.StatusDuplicate)
	}
	s.saw("late, and though the device lives: opened, once")
	living.Close()
	s.await("the will at the broker again", func() bool {
		return slices.ContainsFunc(s.broker.Sent(0), func(x embedded.Letter) bool { return x.From == "dev-living" && bytes.Equal(x.Payload, early.Payload) })
	})
	l.refused(early, subscriber.StatusDuplicate)
	if l.count("dead") != 1 || l.count("living") != 1 {
		s.Errorf("the device heard %q", l.heard)
	}
	s.saw("twice, moved, bent: 7 refused by reader and gateway")
}

// refused gives a letter to both, and waits until both have refused it as what it is.
func (l *line) refused(letter embedded.Letter, as subscriber.Status) {
	l.s.Helper()
	status, verdict := l.reader.statuses(as), l.metric(down(string(as)))
	l.to(letter)
	l.s.await(string(as)+" reported and counted", func() bool {
		return l.reader.statuses(as) > status && l.metric(down(string(as))) > verdict
	})
}
