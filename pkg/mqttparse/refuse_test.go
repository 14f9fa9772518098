package mqttparse

import (
	"strings"
	"testing"
)

// refusals has one defect a row. clause3 is wanted at 3.1.1, clause5 at 5; an empty one
// means that the row does not apply there.
var refusals = []struct {
	name             string
	dir              Direction
	packet           func(v Version) []byte
	clause3, clause5 string
}{
	{"5-byte length", FromClient, fixed("\x30\x80\x80\x80\x80\x01"), "section 2.2.3", "MQTT-1.5.5-1"},
	{"non-minimal length", FromClient, fixed("\xc0\x80\x00"), "section 2.2.3", "MQTT-1.5.5-1"},
	{"type 0", FromClient, fixed("\x00\x00"), "section 2.2.1", "section 2.1.2"},
	{"type 0 from server", FromServer, fixed("\x00\x00"), "section 2.2.1", "section 2.1.2"},
	{"type 15 before 5", FromClient, fixed("\xf0\x00"), "section 2.2.1", ""},
	{"second CONNECT", FromClient, connectBytes, "MQTT-3.1.0-2", "MQTT-3.1.0-2"},
	{"second CONNACK", FromServer, connAckBytes, "section 3.2", "MQTT-3.2.0-2"},
	{"CONNACK from client", FromClient, connAckBytes, "section 2.2.1", "section 2.1.2"},
	{"SUBACK from client", FromClient, fixed("\x90\x03\x00\x01\x00"), "section 2.2.1", "section 2.1.2"},
	{"UNSUBACK from client", FromClient, fixed("\xb0\x02\x00\x01"), "section 2.2.1", "section 2.1.2"},
	{"PINGRESP from client", FromClient, fixed("\xd0\x00"), "section 2.2.1", "section 2.1.2"},
	{"CONNECT from server", FromServer, connectBytes, "section 2.2.1", "section 2.1.2"},
	{"SUBSCRIBE from server", FromServer, fixed("\x82\x06\x00\x01\x00\x01a\x00"), "section 2.2.1", "section 2.1.2"},
	{"UNSUBSCRIBE from server", FromServer, fixed("\xa2\x05\x00\x01\x00\x01a"), "section 2.2.1", "section 2.1.2"},
	{"PINGREQ from server", FromServer, fixed("\xc0\x00"), "section 2.2.1", "section 2.1.2"},
	{"DISCONNECT from server before 5", FromServer, fixed("\xe0\x00"), "section 2.2.1", ""},

	{"PUBACK flags", FromClient, fixed("\x41\x02\x00\x01"), "MQTT-2.2.2-2", "MQTT-2.1.3-1"},
	{"PUBREL flags", FromClient, fixed("\x60\x02\x00\x01"), "MQTT-3.6.1-1", "MQTT-3.6.1-1"},
	{"PUBREL DUP", FromClient, fixed("\x6a\x02\x00\x01"), "MQTT-3.6.1-1", "MQTT-3.6.1-1"},
	{"SUBSCRIBE flags", FromClient, fixed("\x80\x06\x00\x01\x00\x01a\x00"), "MQTT-3.8.1-1", "MQTT-3.8.1-1"},
	{"UNSUBSCRIBE flags", FromClient, fixed("\xa0\x05\x00\x01\x00\x01a"), "MQTT-3.10.1-1", "MQTT-3.10.1-1"},
	{"DISCONNECT flags", FromClient, fixed("\xe8\x00"), "MQTT-2.2.2-2", "MQTT-2.1.3-1"},
	{"AUTH flags", FromClient, fixed("\xf1\x00"), "", "MQTT-2.1.3-1"},

	{"QoS 3", FromClient, publish(0x36, "t", "\x00\x01", ""), "MQTT-3.3.1-4", "MQTT-3.3.1-4"},
	{"DUP with QoS 0", FromClient, publish(0x38, "t", "", ""), "MQTT-3.3.1-2", "MQTT-3.3.1-2"},
	{"topic with +", FromClient, publish(0x30, "a/+", "", ""), "MQTT-3.3.2-2", "MQTT-3.3.2-2"},
	{"long topic with +", FromClient, publish(0x30, "abcdefgh/abc+efgh", "", ""), "MQTT-3.3.2-2", "MQTT-3.3.2-2"},
	{"long topic with #", FromClient, publish(0x30, "abcdefgh#abcdefgh", "", ""), "MQTT-3.3.2-2", "MQTT-3.3.2-2"},
	{"topic with #", FromServer, publish(0x30, "#", "", ""), "MQTT-3.3.2-2", "MQTT-3.3.2-2"},
	{"topic with NUL", FromClient, publish(0x30, "a\x00", "", ""), "MQTT-1.5.3-2", "MQTT-1.5.4-2"},
	{"long topic with NUL", FromClient, publish(0x30, "abcd\x00fghabcdefgh", "", ""), "MQTT-1.5.3-2", "MQTT-1.5.4-2"},
	{"topic with surrogate", FromClient, publish(0x30, "\xed\xa0\x80", "", ""), "MQTT-1.5.3-1", "MQTT-1.5.4-1"},
	{"topic with overlong U+0000", FromClient, publish(0x30, "a\xc0\x80", "", ""), "MQTT-1.5.3-1", "MQTT-1.5.4-1"},
	{"topic above U+10FFFF", FromClient, publish(0x30, "\xf4\x90\x80\x80", "", ""), "MQTT-1.5.3-1", "MQTT-1.5.4-1"},
	{"topic cut off in a character", FromClient, publish(0x30, "abcdefgh\xe2\x98", "", ""), "MQTT-1.5.3-1", "MQTT-1.5.4-1"},
	{"topic empty", FromClient, publish(0x30, "", "", ""), "MQTT-4.7.3-1", "section 3.3.2.1"},
	{"topic overruns", FromClient, fixed("\x30\x03\x00\x02t"), "section 2.2.3", "section 2.1.4"},
	{"topic length cut off", FromClient, fixed("\x30\x01\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBLISH without body", FromClient, fixed("\x30\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBLISH id 0", FromClient, publish(0x32, "t", "\x00\x00", ""), "MQTT-2.3.1-1", "MQTT-2.2.1-3"},
	{"PUBLISH id 0 from server", FromServer, publish(0x34, "t", "\x00\x00", ""), "MQTT-2.3.1-1", "MQTT-2.2.1-4"},
	{"PUBLISH id cut off", FromClient, fixed("\x32\x04\x00\x01t\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBLISH without property length", FromClient, fixed("\x30\x03\x00\x01t"), "", "section 2.1.4"},
	{"PUBLISH property length overruns", FromClient, fixed("\x30\x04\x00\x01t\x02"), "", "section 2.1.4"},
	{"PUBLISH property length not minimal", FromClient, fixed("\x30\x05\x00\x01t\x80\x00"), "", "MQTT-1.5.5-1"},
	{"PUBLISH alias 0", FromClient, publish(0x30, "t", "", "\x23\x00\x00"), "", "MQTT-3.3.2-8"},
	{"PUBLISH subscription id from client", FromClient, publish(0x30, "t", "", "\x0b\x01"), "", "MQTT-3.3.4-6"},

	{"PUBACK id 0", FromServer, fixed("\x40\x02\x00\x00"), "MQTT-2.3.1-6", "MQTT-2.2.1-5"},
	{"PUBREL id 0", FromClient, fixed("\x62\x02\x00\x00"), "MQTT-2.3.1-6", "MQTT-2.2.1-5"},
	{"PUBACK short", FromServer, fixed("\x40\x01\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBACK empty", FromServer, fixed("\x40\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBACK trailing", FromServer, byVersion("\x40\x03\x00\x01\x00", "\x40\x05\x00\x01\x00\x00\x00"), "section 2.2.3", "section 2.1.4"},
	{"PUBACK reason", FromServer, fixed("\x40\x03\x00\x01\x92"), "", "MQTT-3.4.2-1"},
	{"PUBREC reason", FromServer, fixed("\x50\x03\x00\x01\x92"), "", "MQTT-3.5.2-1"},
	{"PUBREL reason", FromClient, fixed("\x62\x03\x00\x01\x10"), "", "MQTT-3.6.2-1"},
	{"PUBCOMP reason", FromServer, fixed("\x70\x03\x00\x01\x10"), "", "MQTT-3.7.2-1"},
	{"PUBACK alien property", FromServer, fixed("\x40\x06\x00\x01\x00\x02\x01\x00"), "", "section 2.2.2.2"},

	{"SUBSCRIBE id 0", FromClient, subscribe(0x82, "\x00\x00", str("a")+"\x00"), "MQTT-2.3.1-1", "MQTT-2.2.1-3"},
	{"SUBSCRIBE without filter", FromClient, subscribe(0x82, "\x00\x01", ""), "MQTT-3.8.3-3", "MQTT-3.8.3-2"},
	{"SUBSCRIBE empty filter", FromClient, subscribe(0x82, "\x00\x01", str("")+"\x00"), "MQTT-4.7.3-1", "MQTT-4.7.3-1"},
	{"SUBSCRIBE bad UTF-8", FromClient, subscribe(0x82, "\x00\x01", str("\xff")+"\x00"), "MQTT-1.5.3-1", "MQTT-1.5.4-1"},
	{"SUBSCRIBE without options", FromClient, subscribe(0x82, "\x00\x01", str("a")), "section 2.2.3", "section 2.1.4"},
	{"SUBSCRIBE reserved options", FromClient, subscribe(0x82, "\x00\x01", str("a")+"\x40"), "MQTT-3.8.3-4", "MQTT-3.8.3-5"},
	{"SUBSCRIBE options of 5 before 5", FromClient, subscribe(0x82, "\x00\x01", str("a")+"\x04"), "MQTT-3.8.3-4", ""},
	{"SUBSCRIBE QoS 3", FromClient, subscribe(0x82, "\x00\x01", str("a")+"\x03"), "MQTT-3.8.3-4", "section 3.8.3.1"},
	{"SUBSCRIBE Retain Handling 3", FromClient, subscribe(0x82, "\x00\x01", str("a")+"\x30"), "MQTT-3.8.3-4", "section 3.8.3.1"},
	{"SUBSCRIBE filter overruns", FromClient, subscribe(0x82, "\x00\x01", "\x00\x09a\x00"), "section 2.2.3", "section 2.1.4"},
	{"SUBSCRIBE two subscription ids", FromClient, fixed("\x82\x0b\x00\x01\x04\x0b\x01\x0b\x02\x00\x01a\x00"), "", "section 2.2.2.2"},
	{"UNSUBSCRIBE id 0", FromClient, subscribe(0xa2, "\x00\x00", str("a")), "MQTT-2.3.1-1", "MQTT-2.2.1-3"},
	{"UNSUBSCRIBE without filter", FromClient, subscribe(0xa2, "\x00\x01", ""), "MQTT-3.10.3-2", "MQTT-3.10.3-2"},
	{"UNSUBSCRIBE empty filter", FromClient, subscribe(0xa2, "\x00\x01", str("")), "MQTT-4.7.3-1", "MQTT-4.7.3-1"},
	{"SUBACK id 0", FromServer, subscribe(0x90, "\x00\x00", "\x00"), "MQTT-2.3.1-7", "MQTT-2.2.1-6"},
	{"SUBACK without code", FromServer, subscribe(0x90, "\x00\x01", ""), "MQTT-3.8.4-5", "MQTT-3.8.4-6"},
	{"SUBACK code", FromServer, subscribe(0x90, "\x00\x01", "\x00\x03"), "MQTT-3.9.3-2", "MQTT-3.9.3-2"},
	{"SUBACK code of 5 before 5", FromServer, subscribe(0x90, "\x00\x01", "\x87"), "MQTT-3.9.3-2", ""},
	{"UNSUBACK trailing", FromServer, fixed("\xb0\x03\x00\x01\x00"), "section 2.2.3", ""},
	{"UNSUBACK without code", FromServer, subscribe(0xb0, "\x00\x01", ""), "", "MQTT-3.8.4-6"},
	{"UNSUBACK code", FromServer, subscribe(0xb0, "\x00\x01", "\x01"), "", "MQTT-3.11.3-2"},

	{"PINGREQ body", FromClient, fixed("\xc0\x01\x00"), "section 3.12.1", "section 3.12.1"},
	{"PINGRESP body", FromServer, fixed("\xd0\x01\x00"), "section 3.13.1", "section 3.13.1"},
	{"DISCONNECT body before 5", FromClient, fixed("\xe0\x01\x00"), "section 2.2.3", ""},
	{"DISCONNECT reason", FromClient, fixed("\xe0\x01\x01"), "", "MQTT-3.14.2-1"},
	{"DISCONNECT trailing", FromClient, fixed("\xe0\x03\x00\x00\x00"), "", "section 2.1.4"},
	{"DISCONNECT expiry from server", FromServer, fixed("\xe0\x07\x00\x05\x11\x00\x00\x00\x01"), "", "MQTT-3.14.2-2"},
	{"AUTH reason", FromClient, fixed("\xf0\x06\x80\x04\x15\x00\x01m"), "", "MQTT-3.15.2-1"},
	{"AUTH without property length", FromClient, fixed("\xf0\x01\x18"), "", "section 2.1.4"},
	{"AUTH without method", FromClient, fixed("\xf0\x02\x18\x00"), "", "section 3.15.2.2.2"},
}

func fixed(s string) func(Version) []byte { return func(Version) []byte { return []byte(s) } }

func byVersion(old, v5 string) func(Version) []byte {
	return func(v Version) []byte {
		if v == V5 {
			return []byte(v5)
		}
		return []byte(old)
	}
}

func publish(first byte, topic, id, props string) func(Version) []byte {
	return func(v Version) []byte {
		if v == V5 {
			return raw(first, str(topic), id, block(props), "hello")
		}
		return raw(first, str(topic), id, "hello")
	}
}

func subscribe(first byte, id, rest string) func(Version) []byte {
	return func(v Version) []byte {
		if v == V5 {
			return raw(first, id, "\x00", rest)
		}
		return raw(first, id, rest)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range refusals {
		for _, v := range []Version{V31, V311, V5} {
			want := tc.clause3
			if v == V5 {
				want = tc.clause5
			}
			if want == "" || tc.name == "PUBREL DUP" && v == V31 {
				continue
			}
			s := opened(t, tc.dir, v)
			_, err := scanOne(s, tc.packet(v))
			if got := clauseOf(t, err); got != want {
				t.Errorf("%s at %v: error %v, want clause %s", tc.name, v, err, want)
			}
		}
	}
}

// first has the rules for a connection's first packet, at no known version.
func TestFirstPacketRefusals(t *testing.T) {
	connect := func(name string, level string, rest ...string) []byte {
		return raw(0x10, str(name), level, strings.Join(rest, ""))
	}
	for _, tc := range []struct {
		name   string
		dir    Direction
		packet []byte
		clause string
		code   byte
	}{
		{"PUBLISH first", FromClient, raw(0x30, str("t")), "MQTT-3.1.0-1", 0x82},
		{"PINGREQ first", FromClient, raw(0xc0), "MQTT-3.1.0-1", 0x82},
		{"AUTH first", FromClient, raw(0xf0), "MQTT-3.1.0-1", 0x82},
		{"HTTP", FromClient, []byte("GET / HTTP/1.1\r\n"), "MQTT-3.1.0-1", 0x82},
		{"TLS", FromClient, []byte("\x16\x03\x01\x02\x00\x01"), "MQTT-2.2.2-2", 0x81},
		{"PUBLISH before CONNACK", FromServer, raw(0x30, str("t")), "MQTT-3.2.0-1", 0x82},
		{"CONNECT flags", FromClient, append([]byte{0x11}, connectBytes(V311)[1:]...), "MQTT-2.2.2-2", 0x81},
		{"name", FromClient, connect("MQTX", "\x04\x02\x00\x00", str("c")), "MQTT-3.1.2-1", 0x84},
		{"name empty", FromClient, connect("", "\x04\x02\x00\x00", str("c")), "MQTT-3.1.2-1", 0x84},
		{"name overruns", FromClient, fixed("\x10\x04\x00\x09MQ")(0), "section 2.2.3", 0x81},
		{"level 6", FromClient, connect("MQTT", "\x06\x02\x00\x00", str("c")), "MQTT-3.1.2-2", 0x84},
		{"bridge level", FromClient, connect("MQTT", "\x84\x02\x00\x00", str("c")), "MQTT-3.1.2-2", 0x84},
		{"MQTT 3", FromClient, connect("MQTT", "\x03\x02\x00\x00", str("c")), "MQTT-3.1.2-2", 0x84},
		{"MQIsdp 4", FromClient, connect("MQIsdp", "\x04\x02\x00\x00", str("c")), "MQTT-3.1.2-2", 0x84},
		{"reserved flag", FromClient, connect("MQTT", "\x04\x03\x00\x00", str("c")), "MQTT-3.1.2-3", 0x81},
		{"will QoS 3", FromClient, connect("MQTT", "\x04\x1e\x00\x00", str("c"), str("w"), str("m")), "MQTT-3.1.2-14", 0x81},
		{"will QoS 3 in 5", FromClient, connect("MQTT", "\x05\x1e\x00\x00\x00", str("c"), "\x00", str("w"), str("m")), "MQTT-3.1.2-12", 0x81},
		{"QoS without will", FromClient, connect("MQTT", "\x04\x0a\x00\x00", str("c")), "MQTT-3.1.2-13", 0x81},
		{"QoS without will in 5", FromClient, connect("MQTT", "\x05\x0a\x00\x00\x00", str("c")), "MQTT-3.1.2-11", 0x81},
		{"retain without will", FromClient, connect("MQTT", "\x04\x22\x00\x00", str("c")), "MQTT-3.1.2-15", 0x81},
		{"retain without will in 5", FromClient, connect("MQTT", "\x05\x22\x00\x00\x00", str("c")), "MQTT-3.1.2-13", 0x81},
		{"password alone", FromClient, connect("MQTT", "\x04\x42\x00\x00", str("c"), str("p")), "MQTT-3.1.2-22", 0x81},
		{"password alone in 3.1", FromClient, connect("MQIsdp", "\x03\x42\x00\x00", str("c"), str("p")), "MQTT-3.1.2-22", 0x81},
		{"no client id, session kept", FromClient, connect("MQTT", "\x04\x00\x00\x00", str("")), "MQTT-3.1.3-8", 0x85},
		{"no client id in 3.1", FromClient, connect("MQIsdp", "\x03\x02\x00\x00", str("")), "MQTT-3.1.3-8", 0x85},
		{"client id UTF-8", FromClient, connect("MQTT", "\x04\x02\x00\x00", str("\xff")), "MQTT-1.5.3-1", 0x81},
		{"client id NUL in 5", FromClient, connect("MQTT", "\x05\x02\x00\x00\x00", str("a\x00")), "MQTT-1.5.4-2", 0x81},
		{"client id missing", FromClient, connect("MQTT", "\x04\x02\x00\x00"), "section 2.2.3", 0x81},
		{"will topic +", FromClient, connect("MQTT", "\x04\x06\x00\x00", str("c"), str("+"), str("m")), "MQTT-4.7.1-1", 0x81},
		{"will topic + in 5", FromClient, connect("MQTT", "\x05\x06\x00\x00\x00", str("c"), "\x00", str("+"), str("m")), "MQTT-4.7.0-1", 0x81},
		{"will topic empty", FromClient, connect("MQTT", "\x04\x06\x00\x00", str("c"), str(""), str("m")), "MQTT-4.7.3-1", 0x82},
		{"will topic UTF-8", FromClient, connect("MQTT", "\x04\x06\x00\x00", str("c"), str("\xc1\x81"), str("m")), "MQTT-1.5.3-1", 0x81},
		{"will payload missing", FromClient, connect("MQTT", "\x04\x06\x00\x00", str("c"), str("w")), "section 2.2.3", 0x81},
		{"will with a PUBLISH property", FromClient, connect("MQTT", "\x05\x06\x00\x00\x00", str("c"), "\x03\x23\x00\x01", str("w"), str("m")), "section 2.2.2.2", 0x82},
		{"user name missing", FromClient, connect("MQTT", "\x04\x82\x00\x00", str("c")), "section 2.2.3", 0x81},
		{"user name UTF-8", FromClient, connect("MQTT", "\x04\x82\x00\x00", str("c"), str("\xff")), "MQTT-1.5.3-1", 0x81},
		{"password overruns", FromClient, connect("MQTT", "\x04\xc2\x00\x00", str("c"), str("u"), "\x00\x05p"), "section 2.2.3", 0x81},
		{"trailing", FromClient, connect("MQTT", "\x04\x02\x00\x00", str("c"), "x"), "section 2.2.3", 0x81},
		{"trailing in 5", FromClient, connect("MQTT", "\x05\x02\x00\x00\x00", str("c"), "x"), "section 2.1.4", 0x81},
		{"auth data without method", FromClient, connect("MQTT", "\x05\x02\x00\x00\x04\x16\x00\x01x", str("c")), "section 3.1.2.11.10", 0x82},
		{"CONNACK flags", FromServer, raw(0x20, "\x02\x00"), "section 3.2.2.1", 0x81},
		{"CONNACK code", FromServer, raw(0x20, "\x00\x06"), "MQTT-3.2.2-6", 0x82},
		{"CONNACK session and refusal", FromServer, raw(0x20, "\x01\x05"), "MQTT-3.2.2-4", 0x82},
		{"CONNACK trailing", FromServer, raw(0x20, "\x00\x00\x00"), "section 2.2.3", 0x81},
		{"CONNACK short", FromServer, raw(0x20, "\x00"), "section 2.2.3", 0x81},
	} {
		var s Scanner
		s.Init(tc.dir, 0)
		_, err := scanOne(&s, tc.packet)
		if got := clauseOf(t, err); got != tc.clause {
			t.Errorf("%s: error %v, want clause %s", tc.name, err, tc.clause)
		} else if e := err.(*Error); e.ReasonCode != tc.code {
			t.Errorf("%s: reason code %#x, want %#x", tc.name, e.ReasonCode, tc.code)
		}
		if _, _, again := s.Next(connectBytes(V311)); again != err {
			t.Errorf("%s: scanner went on after a refusal: %v", tc.name, again)
		}
	}
}

// accepted has what a strict reader might refuse but must not.
func TestAccepted(t *testing.T) {
	long := strings.Repeat("x", 60)
	for _, tc := range []struct {
		name   string
		dir    Direction
		v      Version
		packet []byte
	}{
		{"control characters in topic", FromClient, V311, publish(0x30, "a\x01\x7f", "", "")(V311)},
		{"non-ASCII topic", FromClient, V5, publish(0x30, "käse/☃/\U0001f600", "", "")(V5)},
		{"BOM in topic", FromClient, V311, publish(0x30, "\ufeffa", "", "")(V311)},
		{"alias instead of topic", FromClient, V5, publish(0x30, "", "", "\x23\x00\x01")(V5)},
		{"subscription ids from server", FromServer, V5, publish(0x30, "t", "", "\x0b\x01\x0b\x02")(V5)},
		{"empty payload", FromClient, V311, raw(0x31, str("t"))},
		{"QoS 2 DUP RETAIN", FromClient, V311, raw(0x3d, str("t"), "\x00\x01")},
		{"SUBSCRIBE DUP in 3.1", FromClient, V31, raw(0x8a, "\x00\x01", str("a"), "\x01")},
		{"UNSUBSCRIBE DUP in 3.1", FromClient, V31, raw(0xaa, "\x00\x01", str("a"))},
		{"PUBREL DUP in 3.1", FromServer, V31, raw(0x6a, "\x00\x01")},
		{"SUBSCRIBE options of 5", FromClient, V5, raw(0x82, "\x00\x01\x02\x0b\x05", str("a"), "\x2e", str("b"), "\x10")},
		{"SUBACK", FromServer, V311, raw(0x90, "\x00\x01\x00\x01\x02\x80")},
		{"SUBACK of 5", FromServer, V5, raw(0x90, "\x00\x01\x00\x00\x87\xa2")},
		{"UNSUBACK", FromServer, V311, raw(0xb0, "\x00\x01")},
		{"UNSUBACK of 5", FromServer, V5, raw(0xb0, "\x00\x01\x00\x11")},
		{"PUBACK with reason", FromServer, V5, raw(0x40, "\x00\x01\x10")},
		{"PUBACK with properties", FromServer, V5, raw(0x40, "\x00\x01\x87\x04\x1f", str("x"))},
		{"PUBREC from client", FromClient, V5, raw(0x50, "\x00\x01\x99")},
		{"PUBCOMP from client", FromClient, V311, raw(0x70, "\x00\x01")},
		{"PINGREQ", FromClient, V31, raw(0xc0)},
		{"PINGRESP", FromServer, V31, raw(0xd0)},
		{"DISCONNECT from server in 5", FromServer, V5, raw(0xe0, "\x8e")},
		{"DISCONNECT with expiry", FromClient, V5, raw(0xe0, "\x04\x05\x11\x00\x00\x00\x01")},
		{"AUTH", FromServer, V5, raw(0xf0, "\x18\x04\x15", str("m"))},
		{"AUTH empty", FromClient, V5, raw(0xf0)},
		{"long user property", FromClient, V5, raw(0x30, str("t"), block("\x26", str("k"), str(long)), "p")},
	} {
		if f, err := scanOne(opened(t, tc.dir, tc.v), tc.packet); err != nil {
			t.Errorf("%s: refused: %v", tc.name, err)
		} else if string(f.Raw) != string(tc.packet) {
			t.Errorf("%s: frame is %x, want %x", tc.name, f.Raw, tc.packet)
		}
	}
	for name, packet := range map[string][]byte{
		"client id over 23 in 3.1":  raw(0x10, str("MQIsdp"), "\x03\x02\x00\x00", str(long)),
		"user name left out in 3.1": raw(0x10, str("MQIsdp"), "\x03\x82\x00\x00", str("c")),
		"no client id, clean":       raw(0x10, str("MQTT"), "\x04\x02\x00\x00", str("")),
		"no client id in 5":         raw(0x10, str("MQTT"), "\x05\x00\x00\x00\x00", str("")),
		"password alone in 5":       raw(0x10, str("MQTT"), "\x05\x42\x00\x00\x00", str("c"), str("p")),
		"will payload empty":        raw(0x10, str("MQTT"), "\x04\x06\x00\x00", str("c"), str("w"), str("")),
	} {
		var s Scanner
		s.Init(FromClient, 0)
		if _, err := scanOne(&s, packet); err != nil {
			t.Errorf("%s: refused: %v", name, err)
		}
	}
	var s Scanner
	s.Init(FromServer, 0)
	s.SetVersion(V5)
	if _, err := scanOne(&s, raw(0xf0, "\x18\x04\x15", str("m"))); err != nil {
		t.Errorf("AUTH before CONNACK in 5: refused: %v", err)
	}
}

// A size over the limit is refused from the fixed header alone, at the last byte that shows it.
func TestLimit(t *testing.T) {
	for _, tc := range []struct {
		dir     Direction
		v       Version
		clause  string
		tooLong bool
		head    string
	}{
		{FromClient, V311, "section 2.2.3", true, "\x30\x63"},
		{FromClient, V5, "MQTT-3.2.2-15", true, "\x30\xff\xff\xff\x7f"},
		{FromServer, V5, "MQTT-3.1.2-24", true, "\x30\x63"},
		{FromClient, V311, "", false, "\x30\x62"}, // 98 and 2 are the 100 bytes allowed
	} {
		s := opened(t, tc.dir, tc.v)
		s.max = 100
		for i := 1; i < len(tc.head); i++ {
			if _, n, err := s.Next([]byte(tc.head[:i])); n != 0 || err != nil {
				t.Fatalf("%x cut to %d: n = %d, error %v", tc.head, i, n, err)
			}
		}
		_, n, err := s.Next([]byte(tc.head))
		if got := clauseOf(t, err); n != 0 || got != tc.clause {
			t.Errorf("%x: error %v, want clause %q", tc.head, err, tc.clause)
		}
		if tc.tooLong && err.(*Error).ReasonCode != 0x95 {
			t.Errorf("%x: reason code %#x", tc.head, err.(*Error).ReasonCode)
		}
		if !tc.tooLong && s.Need() != 98 {
			t.Errorf("%x: Need is %d", tc.head, s.Need())
		}
	}
}

func TestAfterDisconnect(t *testing.T) {
	for v, want := range map[Version]string{V311: "MQTT-3.14.4-2", V5: "MQTT-3.14.4-1"} {
		for _, next := range [][]byte{raw(0xc0), publish(0x30, "t", "", "")(v)} {
			s := opened(t, FromClient, v)
			if _, err := scanOne(s, raw(0xe0)); err != nil {
				t.Fatal(err)
			}
			if _, err := scanOne(s, next); clauseOf(t, err) != want {
				t.Errorf("at %v: error %v, want clause %s", v, err, want)
			}
		}
	}
}
