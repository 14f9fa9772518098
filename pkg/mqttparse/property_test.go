package mqttparse

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// goodValue is a valid value for each property.
var goodValue = map[byte]string{
	PropPayloadFormat: "\x01", PropMessageExpiry: "\x00\x00\x00\x00", PropContentType: str("text/plain"), PropResponseTopic: str("r/1"),
	PropCorrelationData: str("\x00\xff"), PropSubscriptionID: "\x80\x01", PropSessionExpiry: "\xff\xff\xff\xff", PropAssignedClientID: str("c"),
	PropServerKeepAlive: "\x00\x00", PropAuthMethod: str("m"), PropAuthData: str("\xff"), PropRequestProblemInfo: "\x00", PropWillDelay: "\x00\x00\x00\x09",
	PropRequestResponseInfo: "\x01", PropResponseInfo: str(""), PropServerReference: str("s"), PropReasonString: str("why"), PropReceiveMaximum: "\x00\x01",
	PropTopicAliasMaximum: "\x00\x00", PropTopicAlias: "\xff\xff", PropMaximumQoS: "\x01", PropRetainAvailable: "\x00", PropUserProperty: str("") + str("v"),
	PropMaximumPacketSize: "\x00\x00\x00\x01", PropWildcardSubAvailable: "\x01", PropSubIDAvailable: "\x01", PropSharedSubAvailable: "\x00",
}

// tableRows is MQTT 5 table 2-4 typed once more: the packets that each property may stand in.
const tableRows = `
01 PUBLISH WILL
02 PUBLISH WILL
03 PUBLISH WILL
08 PUBLISH WILL
09 PUBLISH WILL
0b PUBLISH SUBSCRIBE
11 CONNECT CONNACK DISCONNECT
12 CONNACK
13 CONNACK
15 CONNECT CONNACK AUTH
16 CONNECT CONNACK AUTH
17 CONNECT
18 WILL
19 CONNECT
1a CONNACK
1c CONNACK DISCONNECT
1f CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
21 CONNECT CONNACK
22 CONNECT CONNACK
23 PUBLISH
24 CONNACK
25 CONNACK
26 CONNECT CONNACK PUBLISH WILL PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH
27 CONNECT CONNACK
28 CONNACK
29 CONNACK
2a CONNACK`

func TestPropertyTable(t *testing.T) {
	places := map[byte]string{}
	for row := range strings.Lines(strings.TrimSpace(tableRows)) {
		var id byte
		if _, err := fmt.Sscanf(row, "%x", &id); err != nil {
			t.Fatal(err)
		}
		places[id] = row[3:]
	}
	if len(places) != len(goodValue) {
		t.Fatalf("%d rows, %d values", len(places), len(goodValue))
	}
	for ty := WILL; ty <= AUTH; ty++ {
		for id := range 256 {
			id := byte(id)
			b := string([]byte{id}) + goodValue[id]
			if id == PropAuthData || ty == AUTH && id != PropAuthMethod {
				b += "\x15" + str("m")
			}
			want := ""
			switch _, known := goodValue[id]; {
			case !known:
				want = "section 2.2.2.2"
			case !strings.Contains(" "+strings.Join(strings.Fields(places[id]), " ")+" ", " "+ty.String()+" "):
				want = "section 2.2.2.2"
			}
			if got := clauseOf(t, ValidateProperties(ty, []byte(b))); got != want {
				t.Errorf("property %#02x in %v: refusal %q, want %q", id, ty, got, want)
			}
		}
	}
}

func TestPropertyRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ty     Type
		b      string
		clause string
	}{
		{"two byte identifier", PUBLISH, "\x81\x00\x01", "section 2.2.2.2"},
		{"bool 2", PUBLISH, "\x01\x02", "section 2.2.2.2"},
		{"twice", PUBLISH, "\x01\x01\x01\x01", "section 2.2.2.2"},
		{"bool cut off", PUBLISH, "\x01", "section 2.2.2.1"},
		{"two bytes cut off", CONNECT, "\x21\x00", "section 2.2.2.1"},
		{"four bytes cut off", PUBLISH, "\x02\x00\x00\x00", "section 2.2.2.1"},
		{"varint cut off", SUBSCRIBE, "\x0b\x80", "section 2.2.2.1"},
		{"varint not minimal", SUBSCRIBE, "\x0b\x81\x00", "MQTT-1.5.5-1"},
		{"text length cut off", PUBLISH, "\x03\x00", "section 2.2.2.1"},
		{"text cut off", PUBLISH, "\x03\x00\x02x", "section 2.2.2.1"},
		{"pair value cut off", PUBLISH, "\x26" + str("k") + "\x00", "section 2.2.2.1"},
		{"pair key cut off", PUBLISH, "\x26\x00\x05k", "section 2.2.2.1"},
		{"text not UTF-8", PUBLISH, "\x03" + str("\xff"), "MQTT-1.5.4-1"},
		{"text with NUL", PUBLISH, "\x03" + str("\x00"), "MQTT-1.5.4-2"},
		{"pair key not UTF-8", PUBLISH, "\x26" + str("\xff") + str("v"), "MQTT-1.5.4-1"},
		{"pair value not UTF-8", PUBLISH, "\x26" + str("k") + str("\xed\xbf\xbf"), "MQTT-1.5.4-1"},
		{"response topic wildcard", PUBLISH, "\x08" + str("a/+"), "MQTT-3.3.2-14"},
		{"alias 0", PUBLISH, "\x23\x00\x00", "MQTT-3.3.2-8"},
		{"subscription id 0", SUBSCRIBE, "\x0b\x00", "section 2.2.2.2"},
		{"two subscription ids", SUBSCRIBE, "\x0b\x01\x0b\x01", "section 2.2.2.2"},
		{"receive maximum 0", CONNECT, "\x21\x00\x00", "section 2.2.2.2"},
		{"packet size 0", CONNACK, "\x27\x00\x00\x00\x00", "section 2.2.2.2"},
		{"no auth method", AUTH, "", "section 3.15.2.2.2"},
		{"two user properties", PUBLISH, "\x26" + str("k") + str("v") + "\x26" + str("k") + str("v"), ""},
		{"two subscription ids in PUBLISH", PUBLISH, "\x0b\x01\x0b\x01", ""},
		{"content type with wildcards", PUBLISH, "\x03" + str("a+#"), ""},
		{"invalid type", 16, "\x26" + str("k") + str("v"), "section 2.2.2.2"},
	} {
		if got := clauseOf(t, ValidateProperties(tc.ty, []byte(tc.b))); got != tc.clause {
			t.Errorf("%s: refusal %q, want %q", tc.name, got, tc.clause)
		}
	}
}

// The scan of PUBLISH alone agrees with that of all packets.
func TestScanPublish(t *testing.T) {
	pair := "\x26" + str("k") + str("v")
	for _, tt := range []struct {
		block string
		want  bool
	}{
		{"", true},
		{"\x01\x01\x02\x00\x00\x00\x09\x03" + str("a") + "\x08" + str("r/1") + "\x09" + str("\x00\xff") + "\x23\x00\x07" + pair, true},
		{"\x0b\x7f\x0b\x80\x01" + pair + pair, true},
		{"\x03" + str("text/pläin") + "\x26" + str("#") + str("four+") + "\x08" + str("ä/b"), true},
		{"\x18\x00\x00\x00\x09", false},
		{"\x08" + str("a/+"), false},
		{"\x08" + str("ä/#"), false},
		{"\x03" + str("\xff"), false},
		{"\x26" + str("k") + str("\x00"), false},
		{"\x01\x01\x01\x01", false},
		{"\x01\x02", false},
		{"\x23\x00\x00", false},
		{"\x0b\x00", false},
		{"\x0b\x80", false},
		{"\x26" + str("k") + "\x00", false},
		{"\x26\x00\x05k", false},
		{"\x7f", false},
	} {
		var got properties
		ok := got.scanValid([]byte(tt.block))
		want, err := scanProperties(PUBLISH, []byte(tt.block))
		if ok != tt.want || ok != (err == nil) || ok && got != want {
			t.Errorf("%x: %+v in a PUBLISH, which is valid: %v; in any packet %+v, error %v", tt.block, got, ok, want, err)
		}
	}
}

// plain and ascii agree with the naive way, at every length and wherever the odd byte stands.
func TestPlain(t *testing.T) {
	for n := range 40 {
		for at := range n {
			b := bytes.Repeat([]byte("a"), n)
			for c := range 256 {
				b[at] = byte(c)
				want := c != 0 && c < 0x80
				if ascii(b) != want || plain(b) != (want && c != '+' && c != '#') {
					t.Fatalf("%q: ASCII %v, plain %v", b, ascii(b), plain(b))
				}
			}
		}
		if slashes := bytes.Repeat([]byte("/"), n); !plain(slashes) || !ascii(slashes) {
			t.Fatalf("%d slashes are not plain", n)
		}
	}
}

func TestPropertyIter(t *testing.T) {
	var b, ids []byte
	for id := range byte(len(table)) {
		if v, ok := goodValue[id]; ok {
			b, ids = append(append(b, id), v...), append(ids, id)
		}
	}
	var seen, again []byte
	it := Properties(b)
	for it.Next() {
		id, want := it.ID(), goodValue[it.ID()]
		seen, again = append(seen, id), append(again, it.Raw()...)
		switch lookup(id).kind {
		case kindText, kindBinary:
			want = want[2:]
		}
		if string(it.Value()) != want {
			t.Errorf("property %#02x has value %x, want %x", id, it.Value(), want)
		}
		if k, v := it.Pair(); id == PropUserProperty && string(v) != "v" || id != PropUserProperty && (k != nil || v != nil) {
			t.Errorf("property %#02x has pair %q, %q", id, k, v)
		}
		number, integer := map[byte]uint32{PropPayloadFormat: 1, PropSubscriptionID: 128, PropTopicAlias: 0xffff, PropSessionExpiry: 0xffffffff, PropWillDelay: 9}[id]
		if integer && it.Uint() != number {
			t.Errorf("property %#02x is %d, want %d", id, it.Uint(), number)
		}
	}
	if it.Err() != nil || !bytes.Equal(seen, ids) || !bytes.Equal(again, b) {
		t.Errorf("walked %x of %x, error %v", seen, ids, it.Err())
	}
	if it.ID() != 0 || it.Raw() != nil || it.Value() != nil || it.Uint() != 0 {
		t.Error("an iterator at its end still holds a property")
	}
	bad := Properties([]byte("\x01\x01\x04"))
	for bad.Next() {
	}
	if clauseOf(t, bad.Err()) != "section 2.2.2.2" || bad.Next() {
		t.Errorf("unknown property: error %v", bad.Err())
	}
}

// The two kinds of properties are told apart while they are validated.
func TestContent(t *testing.T) {
	format, user, expiry, sub := "\x01\x01", "\x26"+str("k")+str("v"), "\x02\x00\x00\x00\x09", "\x0b\x05"
	var many []string
	for range 5 {
		many = append(many, user, sub)
	}
	for _, tt := range []struct {
		props         []string
		content, rest string
		copied        string
	}{
		{nil, "", "", ""},
		{[]string{expiry}, "", expiry, ""},
		{[]string{format, user}, format + user, "", ""},
		{[]string{expiry, format, user}, format + user, expiry, ""},
		{[]string{format, user, expiry, sub}, format + user, expiry + sub, ""},
		{[]string{sub, user, expiry}, user, sub + expiry, sub + expiry},
		{[]string{format, expiry, user}, format + user, expiry, format + user},
		{[]string{expiry, user, sub, format}, user + format, expiry + sub, expiry + sub + user + format},
		{many, strings.Repeat(user, 5), strings.Repeat(sub, 5), strings.Repeat(user, 5) + strings.Repeat(sub, 5)},
	} {
		props := strings.Join(tt.props, "")
		p := Publish{found: properties{runs: runs{n: 3}}}
		f, _, err := opened(t, FromServer, V5).Next(publish(0x30, "a", "", props)(V5))
		if err == nil {
			err = ParsePublish(f, V5, &p)
		}
		scratch := make([]byte, 4, 64)
		content, rest, used := p.SplitContent(scratch)
		if err != nil || string(content) != tt.content || string(rest) != tt.rest || string(used) != tt.copied {
			t.Errorf("%q: %q and %q, %q copied: %v", tt.props, content, rest, used, err)
		}
		if &used[:1][0] != &scratch[0] {
			t.Errorf("%q: other memory is used", tt.props)
		}
		if want := tt.rest == ""; ContentOnly([]byte(props)) != want {
			t.Errorf("%q: of the content alone: %v", tt.props, !want)
		}
	}
	for _, bad := range []string{"\x01\x02", "\x01", "\x01\x00\x01\x00", "\x03\x00\x01\xff", "\x7f"} {
		if ContentOnly([]byte(bad)) {
			t.Errorf("%q is no valid block", bad)
		}
	}
}
