package mqttparse

import (
	"fmt"
	"strings"
	"testing"
)

func noAllocs(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	if n := testing.AllocsPerRun(100, func() { err = f() }); n != 0 {
		t.Errorf("%s: %v allocations", what, n)
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// expect turns the wanted refusal into success.
func expect(err error, clause string) error {
	if e, ok := err.(*Error); ok && e.Clause == clause {
		return nil
	}
	return fmt.Errorf("error %v, want clause %s", err, clause)
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	out := make([]byte, 0, 1024)
	for _, v := range []Version{V31, V311, V5} {
		s := opened(t, FromClient, v)
		for name, packet := range map[string][]byte{
			"PUBLISH": publish(0x32, "plant/7/line/3/käse", "\x00\x01", "\x26"+str("k")+str("v"))(v), "PUBACK": raw(0x40, "\x00\x01"), "PINGREQ": raw(0xc0),
			"SUBSCRIBE": subscribe(0x82, "\x00\x01", str("a/#")+"\x01")(v), "part of a packet": {0x30, 0x10},
		} {
			noAllocs(t, fmt.Sprintf("%s at %v", name, v), func() error {
				f, n, err := s.Next(packet)
				if err != nil || n == 0 || f.Type() != PUBLISH {
					return err
				}
				var p Publish
				if err := ParsePublish(f, v, &p); err != nil {
					return err
				}
				for it := Properties(p.Properties); it.Next(); {
					it.Value()
				}
				out = AppendPublishHeader(out[:0], v, &p, len(p.Payload))
				return nil
			})
		}
		connect := connectBytes(v)
		noAllocs(t, "CONNECT", func() error {
			var s Scanner
			s.Init(FromClient, 0)
			f, _, err := s.Next(connect)
			if err != nil {
				return err
			}
			var c Connect
			err = ParseConnect(f, &c)
			out = AppendConnect(out[:0], &c)
			return err
		})
		connAck := connAckBytes(v)
		noAllocs(t, "CONNACK and small packets", func() error {
			var s Scanner
			s.Init(FromServer, 0)
			s.SetVersion(v)
			out = AppendDisconnect(AppendAck(AppendConnAck(out[:0], v, false, 0), v, PUBREC, 1, 0x87), v, 0x95)
			_, _, err := s.Next(connAck)
			return err
		})
	}
}

// A flood of bad packets costs no memory.
func TestRefusalDoesNotAllocate(t *testing.T) {
	bad := publish(0x30, "a/+", "", "")(V311)
	s := opened(t, FromClient, V311)
	noAllocs(t, "topic with a wildcard", func() error {
		_, err := scanOne(s, bad)
		return expect(err, "MQTT-3.3.2-2")
	})
	http := []byte("GET / HTTP/1.1\r\n")
	noAllocs(t, "HTTP", func() error {
		var s Scanner
		s.Init(FromClient, 0)
		_, _, err := s.Next(http)
		return expect(err, "MQTT-3.1.0-1")
	})
	huge := []byte{0x30, 0xff, 0xff, 0xff, 0x7f}
	noAllocs(t, "the largest length there is", func() error {
		s := *s
		s.max = 1000
		_, _, err := s.Next(huge)
		return expect(err, "section 2.2.3")
	})
	noAllocs(t, "the largest length there is, without a limit", func() error {
		_, n, err := s.Next(huge)
		if n != 0 || s.Need() != MaxVarint {
			return fmt.Errorf("n = %d, Need %d", n, s.Need())
		}
		return err
	})
}

func benchPublish(v Version, topic string) []byte {
	return makeFrame(0x30, []byte(str(topic)+map[bool]string{true: "\x00"}[v == V5]+strings.Repeat("p", 100))).Raw
}

func BenchmarkScanPublish(b *testing.B) {
	packet := benchPublish(V311, "plant/7/line/3/temperature")
	s := opened(b, FromClient, V311)
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := s.Next(packet); err != nil || n == 0 {
			b.Fatal(err)
		}
	}
}

func BenchmarkScanAck(b *testing.B) {
	packet := raw(0x40, "\x00\x01")
	s := opened(b, FromClient, V311)
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := s.Next(packet); err != nil || n == 0 {
			b.Fatal(err)
		}
	}
}

func BenchmarkParsePublish(b *testing.B) {
	for _, bc := range []struct {
		name  string
		v     Version
		topic string
	}{
		{"3.1.1", V311, "plant/7/line/3/temperature"},
		{"3.1.1-utf8", V311, "plant/7/line/3/température"},
		{"5", V5, "plant/7/line/3/temperature"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			packet := benchPublish(bc.v, bc.topic)
			f, _, err := opened(b, FromClient, bc.v).Next(packet)
			if err != nil {
				b.Fatal(err)
			}
			var p Publish
			b.ReportAllocs()
			for b.Loop() {
				if err := ParsePublish(f, bc.v, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkScanParseAppend(b *testing.B) {
	packet := benchPublish(V311, "plant/7/line/3/temperature")
	s := opened(b, FromClient, V311)
	out := make([]byte, 0, 1024)
	var p Publish
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := s.Next(packet)
		if err != nil || ParsePublish(f, V311, &p) != nil {
			b.Fatal(err)
		}
		out = AppendPublishHeader(out[:0], V311, &p, len(p.Payload)+44)
	}
}
