package mqttparse

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestPublishRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		v    Version
		want Publish
	}{
		{V31, Publish{Topic: []byte("t"), Payload: []byte("p")}},
		{V311, Publish{Topic: []byte("a/b"), Payload: []byte("")}},
		{V311, Publish{Topic: []byte("a/b"), QoS: 1, PacketID: 0x1234, Payload: []byte("hello")}},
		{V311, Publish{Topic: []byte("a/b"), QoS: 2, PacketID: 0xffff, Dup: true, Retain: true, Payload: bytes.Repeat([]byte("x"), 20000)}},
		{V5, Publish{Topic: []byte("a/b"), Properties: []byte{}, Payload: []byte("hello")}},
		{V5, Publish{Topic: []byte{}, TopicAlias: 7, Properties: []byte("\x23\x00\x07"), Payload: []byte("hello")}},
		{V5, Publish{Topic: []byte("a"), QoS: 1, PacketID: 1, TopicAlias: 0x102, Properties: []byte("\x01\x01\x23\x01\x02\x26" + str("k") + str(strings.Repeat("v", 200))), Payload: []byte{}}},
	} {
		b := AppendPublishHeader([]byte("before"), tc.v, &tc.want, len(tc.want.Payload))
		b = append(b, tc.want.Payload...)[len("before"):]
		if n := PublishLen(tc.v, &tc.want, len(tc.want.Payload)); n != len(b) {
			t.Errorf("PublishLen is %d, the packet has %d bytes", n, len(b))
		}
		f, n, err := opened(t, FromClient, tc.v).Next(b)
		if err != nil || n != len(b) {
			t.Fatalf("%+v: n = %d of %d, error %v", tc.want, n, len(b), err)
		}
		got := Publish{Dup: true, Retain: true, QoS: 3, PacketID: 9, TopicAlias: 9, Properties: []byte("x"), Payload: []byte("x")}
		if err := ParsePublish(f, tc.v, &got); err != nil {
			t.Fatalf("%+v: %v", tc.want, err)
		}
		got.found = properties{} // TestContent is of it
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("parsed %+v, want %+v", got, tc.want)
		}
		checkPublish(t, f, tc.v)
	}
}

// checkPublish holds that a parsed PUBLISH is appended as it was.
func checkPublish(t *testing.T, f Frame, v Version) {
	t.Helper()
	var p Publish
	if ParsePublish(f, v, &p) != nil {
		return
	}
	again := append(AppendPublishHeader(nil, v, &p, len(p.Payload)), p.Payload...)
	if !bytes.Equal(again, f.Raw) {
		t.Fatalf("%x comes back as %x", f.Raw, again)
	}
	if n := PublishLen(v, &p, len(p.Payload)); n != len(f.Raw) {
		t.Fatalf("PublishLen of %x is %d", f.Raw, n)
	}
}

func TestAppendPublishHeaderRefusesWhatDoesNotFit(t *testing.T) {
	p := Publish{Topic: make([]byte, MaxField+1)}
	if AppendPublishHeader(nil, V311, &p, 0) != nil {
		t.Error("a topic of 65536 bytes was written")
	}
	p.Topic = []byte("t")
	if AppendPublishHeader(nil, V311, &p, MaxVarint-2) != nil {
		t.Error("a packet over the largest Remaining Length was written")
	}
	if b := AppendPublishHeader(nil, V311, &p, MaxVarint-3); !bytes.Equal(b, []byte("\x30\xff\xff\xff\x7f\x00\x01t")) {
		t.Errorf("the largest packet begins with %x", b)
	}
}

func TestConnectRoundTrip(t *testing.T) {
	text := func(s string) []byte { return []byte(s) }
	for _, want := range []Connect{
		{Version: V31, ProtocolName: text("MQIsdp"), ClientID: text("dev"), KeepAlive: 60},
		{Version: V311, ProtocolName: text("MQTT"), CleanStart: true, ClientID: text("")},
		{Version: V311, ProtocolName: text("MQTT"), ClientID: text("dev"), HasUsername: true, Username: text("u"), HasPassword: true, Password: text("\x00\xff")},
		{Version: V311, ProtocolName: text("MQTT"), ClientID: text("dev"), HasUsername: true, Username: text(""),
			HasWill: true, Will: Will{QoS: 2, Retain: true, Topic: text("w"), Payload: text("gone")}},
		{Version: V5, ProtocolName: text("MQTT"), ClientID: text("dev"), Properties: text("\x11\x00\x00\x00\x05\x21\x00\x0a"), HasPassword: true, Password: text("p"),
			HasWill: true, Will: Will{QoS: 1, Topic: text("w"), Payload: text(""), Properties: text("\x18\x00\x00\x00\x01\x26" + str("k") + str("v"))}},
		{Version: V5, ProtocolName: text("MQTT"), ClientID: text(strings.Repeat("c", MaxField)), Properties: text("")},
	} {
		b := AppendConnect([]byte("before"), &want)[len("before"):]
		var s Scanner
		s.Init(FromClient, 0)
		f, n, err := s.Next(b)
		if err != nil || n != len(b) || s.Version() != want.Version {
			t.Fatalf("%+v: n = %d of %d, %v, error %v", want, n, len(b), s.Version(), err)
		}
		got := Connect{HasWill: true, Will: Will{QoS: 2}, Username: text("x")}
		if err := ParseConnect(f, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("parsed %+v, want %+v", got, want)
		}
		checkConnect(t, f)
	}
}

// checkConnect holds that a parsed CONNECT is appended as it was.
func checkConnect(t *testing.T, f Frame) {
	t.Helper()
	var c Connect
	if ParseConnect(f, &c) != nil {
		return
	}
	again := AppendConnect(nil, &c)
	if c.Version == V31 && !c.HasUsername && f.Body[9]&connUsername != 0 {
		again[len(again)-len(f.Body)+9] |= connUsername // flag of a user name that was left out
	}
	if !bytes.Equal(again, f.Raw) {
		t.Fatalf("%x comes back as %x", f.Raw, again)
	}
}

func TestAppendConnectRefusesWhatDoesNotFit(t *testing.T) {
	long := make([]byte, MaxField+1)
	for name, c := range map[string]*Connect{
		"will payload": {Version: V311, HasWill: true, Will: Will{Topic: []byte("w"), Payload: long}},
		"client id":    {Version: V311, ClientID: long},
		"password":     {Version: V5, HasPassword: true, Password: long},
	} {
		if AppendConnect(nil, c) != nil {
			t.Errorf("%s of 65536 bytes was written", name)
		}
	}
}

func TestSmallPacketsRoundTrip(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		for _, session := range []bool{false, true} {
			code := byte(0)
			if !session {
				code = map[bool]byte{false: 3, true: 0x88}[v == V5]
			}
			var s Scanner
			s.Init(FromServer, 0)
			s.SetVersion(v)
			f, err := scanOne(&s, AppendConnAck(nil, v, session, code))
			var c ConnAck
			if err != nil || ParseConnAck(f, v, &c) != nil || c.SessionPresent != session || c.Code != code || len(c.Properties) != 0 {
				t.Errorf("CONNACK %v %#x at %v: %+v, error %v", session, code, v, c, err)
			}
		}
		for _, ty := range []Type{PUBACK, PUBREC, PUBREL, PUBCOMP} {
			for _, reason := range []byte{0, 0x92, 0x87} {
				b := AppendAck(nil, v, ty, 0x1234, reason)
				f, err := scanOne(opened(t, FromClient, v), b)
				if valid, _ := ackReasons(ty); v == V5 && !strings.Contains(valid, string([]byte{reason})) {
					continue
				}
				id, got, perr := ParseAck(f, v)
				if err != nil || perr != nil || id != 0x1234 || v == V5 && got != reason || v != V5 && got != 0 {
					t.Errorf("%v %#x at %v: id %#x, reason %#x, errors %v, %v", ty, reason, v, id, got, err, perr)
				}
			}
		}
		for _, reason := range []byte{0, 0x95} {
			f, err := scanOne(opened(t, FromClient, v), AppendDisconnect(nil, v, reason))
			got, perr := ParseDisconnect(f, v)
			if err != nil || perr != nil || v == V5 && got != reason {
				t.Errorf("DISCONNECT %#x at %v: reason %#x, errors %v, %v", reason, v, got, err, perr)
			}
		}
	}
}

func TestVarint(t *testing.T) {
	for n, want := range map[int]string{
		0: "\x00", 127: "\x7f", 128: "\x80\x01", 16383: "\xff\x7f", 16384: "\x80\x80\x01",
		2097151: "\xff\xff\x7f", 2097152: "\x80\x80\x80\x01", MaxVarint: "\xff\xff\xff\x7f",
	} {
		b := AppendVarint(nil, n)
		if string(b) != want || VarintLen(n) != len(want) {
			t.Errorf("%d is %x with length %d, want %x", n, b, VarintLen(n), want)
		}
		if v, size := Varint(append(b, 0xff)); v != n || size != len(b) {
			t.Errorf("%x reads as %d in %d bytes", b, v, size)
		}
		for cut := range len(b) {
			if v, size := Varint(b[:cut]); v != 0 || size != 0 {
				t.Errorf("%x reads as %d in %d bytes", b[:cut], v, size)
			}
		}
	}
	for _, bad := range []string{"\x80\x00", "\xff\x80\x00", "\x80\x80\x80\x00", "\x80\x80\x80\x80", "\xff\xff\xff\xff\x01"} {
		if v, size := Varint([]byte(bad)); v != 0 || size != -1 {
			t.Errorf("%x reads as %d in %d bytes", bad, v, size)
		}
	}
}

func TestNames(t *testing.T) {
	for ty, want := range map[Type]string{WILL: "WILL", CONNECT: "CONNECT", UNSUBSCRIBE: "UNSUBSCRIBE", UNSUBACK: "UNSUBACK", PINGREQ: "PINGREQ", AUTH: "AUTH", 16: "INVALID"} {
		if ty.String() != want {
			t.Errorf("type %d is %q", byte(ty), ty)
		}
	}
	if s := V5.String() + V31.String() + V311.String() + Version(9).String(); !strings.Contains(s, "MQTT 5MQTT 3.1MQTT 3.1.1MQTT (") {
		t.Errorf("versions are %q", s)
	}
}

// A header put before its payload makes the packet that appending makes, wherever the payload stood.
func TestInsertPublishHeader(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		for _, topic := range []int{1, 100} {
			for _, more := range []int{0, 7, 120, 127, 20000} {
				for _, size := range []int{0, 1, 100, 127, 16384} {
					p := Publish{QoS: 1, PacketID: 7, Topic: bytes.Repeat([]byte("t"), topic), Payload: bytes.Repeat([]byte("p"), size)}
					moved := bytes.Repeat([]byte("m"), more)
					whole := p
					if v == V5 {
						p.Properties = []byte("\x02\x00\x00\x00\x09")
						whole.Properties = append(bytes.Clone(p.Properties), moved...)
					} else {
						moved = nil
					}
					want := append(AppendPublishHeader([]byte("before"), v, &whole, size), whole.Payload...)
					at := len("before") + HeaderLen(v, &p, size)
					for _, gap := range []int{-5, -1, 0, 1, 40} {
						b := make([]byte, at+gap, len(want)+100)
						copy(b, "before")
						b = append(append(b, moved...), p.Payload...)
						if got := InsertPublishHeader(b, len("before"), v, &p, len(moved), size); !bytes.Equal(got, want) {
							t.Fatalf("%v, topic of %d bytes, %d bytes of properties and %d of payload at %d: %.40q, want %.40q", v, topic, len(moved), size, gap, got, want)
						}
					}
				}
			}
		}
	}
	long := Publish{Topic: make([]byte, MaxField+1)}
	if InsertPublishHeader(make([]byte, 9), 0, V311, &long, 0, 9) != nil || InsertPublishHeader(nil, 0, V311, &Publish{Topic: []byte("t")}, 0, MaxVarint) != nil {
		t.Error("what does not fit a packet is made one")
	}
}
