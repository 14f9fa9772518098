package mqttparse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// outcome is what a scan of a whole stream comes to.
type outcome struct {
	packets []string
	clause  string // of the refusal that ended it, if any
	left    int    // bytes of an unfinished packet
	version Version
}

func (o outcome) String() string {
	return fmt.Sprintf("%d packets %q, refusal %q, %d bytes left, %v", len(o.packets), o.packets, o.clause, o.left, o.version)
}

// model is what the reference knows of a connection.
type model struct {
	dir     Direction
	version Version
	opened  bool
	ended   bool
}

func (m *model) pick(old, v5 string) string {
	if m.version == V5 {
		return v5
	}
	return old
}

// flows says who may send a packet: c the client, s the server, 5 both in MQTT 5 and otherwise the client.
const flows = "-cs*****cscscs5*"

func (m *model) mayFlow(t Type) bool {
	switch flows[t] {
	case 'c':
		return m.dir == FromClient
	case 's':
		return m.dir == FromServer
	case '5':
		return m.dir == FromClient || m.version == V5
	}
	return t != 0
}

// order is the clause that a packet of type t breaks by coming now.
func (m *model) order(t Type) string {
	server5 := m.dir == FromServer && m.version == V5
	switch {
	case m.ended:
		return m.pick("MQTT-3.14.4-2", "MQTT-3.14.4-1")
	case t == 0:
		return m.pick("section 2.2.1", "section 2.1.2")
	case !m.opened && m.dir == FromClient && t != CONNECT:
		return "MQTT-3.1.0-1"
	case !m.opened && m.dir == FromServer && t != CONNACK && !(t == AUTH && server5):
		return "MQTT-3.2.0-1"
	case t == AUTH && m.version != V5, !m.mayFlow(t):
		return m.pick("section 2.2.1", "section 2.1.2")
	case m.opened && t == CONNECT:
		return "MQTT-3.1.0-2"
	case m.opened && t == CONNACK:
		return m.pick("section 3.2", "MQTT-3.2.0-2")
	}
	return ""
}

// flags is the clause that the flags of a packet of type t break.
func (m *model) flags(t Type, flags byte) string {
	own := map[Type]string{PUBREL: "MQTT-3.6.1-1", SUBSCRIBE: "MQTT-3.8.1-1", UNSUBSCRIBE: "MQTT-3.10.1-1"}[t]
	switch {
	case t == PUBLISH && flags&6 == 6:
		return "MQTT-3.3.1-4"
	case t == PUBLISH && flags&14 == 8:
		return "MQTT-3.3.1-2"
	case t == PUBLISH, own == "" && flags == 0, own != "" && flags == 2, own != "" && flags == 10 && m.version == V31:
		return ""
	case own != "":
		return own
	}
	return m.pick("MQTT-2.2.2-2", "MQTT-2.1.3-1")
}

// length decodes the Remaining Length by the standard's own algorithm. digits is 0 if it is cut off.
func (m *model) length(b []byte) (size, digits int, clause string) {
	for scale := 1; ; scale *= 128 {
		if digits == 4 {
			return 0, 0, m.pick("section 2.2.3", "MQTT-1.5.5-1")
		}
		if digits == len(b) {
			return 0, 0, ""
		}
		c := int(b[digits])
		size += c % 128 * scale
		digits++
		if c >= 128 {
			continue
		}
		if c == 0 && digits > 1 {
			clause = m.pick("section 2.2.3", "MQTT-1.5.5-1")
		}
		return size, digits, clause
	}
}

// reference scans a stream that is there as a whole. It shares with Scanner the
// check of whole bodies, and nothing of framing, order and state.
func reference(tb testing.TB, d Direction, v Version, limit int, stream []byte) (o outcome) {
	m := model{dir: d}
	if d == FromServer {
		m.version = v
	}
	defer func() { o.version = m.version }()
	for len(stream) > 0 {
		t := Type(stream[0] >> 4)
		if o.clause = m.order(t); o.clause == "" {
			o.clause = m.flags(t, stream[0]&15)
		}
		if o.clause != "" {
			return o
		}
		size, digits, clause := m.length(stream[1:])
		whole := 1 + digits + size
		if clause == "" && digits > 0 && whole > limit {
			clause = m.pick("section 2.2.3", map[Direction]string{FromClient: "MQTT-3.2.2-15", FromServer: "MQTT-3.1.2-24"}[d])
		}
		if clause != "" || digits == 0 || whole > len(stream) {
			o.clause, o.left = clause, len(stream)
			if clause != "" {
				o.left = 0
			}
			return o
		}
		f := Frame{Raw: stream[:whole], Body: stream[1+digits : whole], from: d}
		if o.clause = bodyClause(tb, f, &m.version); o.clause != "" {
			return o
		}
		o.packets = append(o.packets, string(f.Raw))
		m.opened = m.opened || t == CONNECT || t == CONNACK
		m.ended = t == DISCONNECT
		stream = stream[whole:]
	}
	return o
}

func bodyClause(tb testing.TB, f Frame, v *Version) string {
	var err error
	switch f.Type() {
	case PUBLISH: // left to ParsePublish
	case CONNECT:
		var c Connect
		if err = ParseConnect(f, &c); bytes.IndexByte([]byte{3, 4, 5}, byte(c.Version)) >= 0 {
			*v = c.Version
		}
	case CONNACK:
		var c ConnAck
		err = ParseConnAck(f, *v, &c)
	case DISCONNECT:
		_, err = ParseDisconnect(f, *v)
	default:
		err = checkBody(f, *v)
	}
	return clauseOf(tb, err)
}

// streamed scans the stream as it arrives in the given pieces. It holds Need to its word.
func streamed(tb testing.TB, d Direction, v Version, limit int, pieces ...[]byte) (o outcome) {
	var s Scanner
	s.Init(d, limit)
	if d == FromServer {
		s.SetVersion(v)
	}
	var held []byte
	hope := 0 // no packet may come before held is this long
	for _, piece := range pieces {
		held = append(held, piece...)
		for {
			given := bytes.Clone(held)
			f, n, err := s.Next(given)
			if !bytes.Equal(given, held) {
				tb.Fatal("Next changed its input")
			}
			if err != nil {
				o.clause, o.version = clauseOf(tb, err), s.Version()
				if n != 0 {
					tb.Fatalf("n = %d with error %v", n, err)
				}
				return o
			}
			if n == 0 {
				if s.Need() < 1 || len(held)+s.Need() < hope {
					tb.Fatalf("Need is %d with %d bytes held, but %d were asked for before", s.Need(), len(held), hope)
				}
				hope = len(held) + s.Need()
				break
			}
			if n < hope || n != len(f.Raw) || n > limit || !bytes.HasSuffix(f.Raw, f.Body) || cap(f.Raw) != n || s.Need() != 0 {
				tb.Fatalf("n = %d, frame of %d (capacity %d), %d hoped for, limit %d, Need %d", n, len(f.Raw), cap(f.Raw), hope, limit, s.Need())
			}
			o.packets = append(o.packets, string(f.Raw))
			held, hope = held[n:], 0
		}
	}
	o.left, o.version = len(held), s.Version()
	return o
}

func same(a, b outcome) bool { return a.String() == b.String() }

// single cuts a stream into its bytes.
func single(stream []byte) [][]byte {
	pieces := make([][]byte, len(stream))
	for i := range stream {
		pieces[i] = stream[i : i+1]
	}
	return pieces
}

// mixedStreams are conversations, whole ones and broken ones, by direction and version.
func mixedStreams(d Direction, v Version) [][]byte {
	join := func(packets ...[]byte) []byte { return bytes.Join(packets, nil) }
	big := makeFrame(0x30, []byte(publishBig(v))).Raw
	if d == FromServer {
		whole := join(connAckBytes(v), subscribe(0x90, "\x00\x01", "\x00\x80")(v), publish(0x30, "a/b", "", "")(v), big,
			publish(0x32, "a/b", "\x12\x34", "")(v), raw(0x40, "\x00\x07"), raw(0x50, "\x00\x08"), raw(0x70, "\x00\x08"), raw(0xd0))
		return [][]byte{whole, join(whole, connAckBytes(v)), join(whole, raw(0xc0)), join(whole, raw(0xe0)), whole[3:],
			join(connAckBytes(v), raw(0xf0, "\x18\x04\x15", str("m")), raw(0xd0))}
	}
	whole := join(connectBytes(v), subscribe(0x82, "\x00\x01", str("a/#")+"\x01")(v), publish(0x30, "a/b", "", "")(v), big,
		publish(0x3b, "a/b", "\x12\x34", "")(v), raw(0x62, "\x00\x07"), raw(0xc0), publish(0x34, "c", "\x00\x01", "")(v))
	return [][]byte{whole, join(whole, raw(0xe0)), join(whole, raw(0xe0), raw(0xc0)), join(whole, connectBytes(v)),
		join(whole, raw(0x6a, "\x00\x07")), join(whole, []byte("\x30\x80\x80\x00")), join(whole, []byte("\x30\xff\xff\xff\x7f\x00")),
		join(whole, []byte("\x30\xff\xff\xff\xff\x7f")), join(whole, raw(0x36, str("t"))), whole[3:]}
}

// publishBig is the body of a PUBLISH whose Remaining Length takes two bytes.
func publishBig(v Version) string {
	body := str("plant/7/line/3/temperature")
	if v == V5 {
		body += block("\x01\x01", "\x26", str("k"), str("v"))
	}
	return body + string(bytes.Repeat([]byte("0123456789"), 15))
}

func TestScannerAgainstReferenceAtEverySplit(t *testing.T) {
	const limit = 300
	for _, d := range []Direction{FromClient, FromServer} {
		for _, v := range []Version{V31, V311, V5} {
			for i, stream := range mixedStreams(d, v) {
				want := reference(t, d, v, limit, stream)
				if i == 0 && (want.clause != "" || len(want.packets) < 8) {
					t.Fatalf("direction %d, %v: the good stream is not good: %v", d, v, want)
				}
				for cut := range len(stream) + 1 {
					if got := streamed(t, d, v, limit, stream[:cut], stream[cut:]); !same(got, want) {
						t.Fatalf("direction %d, %v, stream %d cut at %d:\n got %v\nwant %v", d, v, i, cut, got, want)
					}
				}
				if got := streamed(t, d, v, limit, single(stream)...); !same(got, want) {
					t.Fatalf("direction %d, %v, stream %d byte by byte:\n got %v\nwant %v", d, v, i, got, want)
				}
			}
		}
	}
}

// Streams with one byte changed at random come to the same end as a whole and in pieces.
func TestScannerAgainstReferenceOnDamage(t *testing.T) {
	const limit = 300
	rng := rand.New(rand.NewPCG(5, 6))
	refused := 0
	for _, d := range []Direction{FromClient, FromServer} {
		for _, v := range []Version{V31, V311, V5} {
			whole := mixedStreams(d, v)[0]
			for range 3000 {
				stream := bytes.Clone(whole)
				stream[rng.IntN(len(stream))] = byte(rng.Uint32())
				want := reference(t, d, v, limit, stream)
				if want.clause != "" {
					refused++
				}
				cut := rng.IntN(len(stream) + 1)
				if got := streamed(t, d, v, limit, stream[:cut], stream[cut:]); !same(got, want) {
					t.Fatalf("%x cut at %d:\n got %v\nwant %v", stream, cut, got, want)
				}
			}
		}
	}
	if refused < 1000 {
		t.Fatalf("only %d of the damaged streams were refused: the comparison shows too little", refused)
	}
}
