package mqttparse

import (
	"bytes"
	"testing"
)

func TestWithoutDiagnostics(t *testing.T) {
	reason, user, expiry := "\x1f"+str("because"), "\x26"+str("k")+str("v"), "\x11\x00\x00\x00\x09"
	for name, tt := range map[string]struct{ in, want []byte }{
		"PUBACK":                   {raw(0x40, "\x00\x07\x87", block(reason+user)), raw(0x40, "\x00\x07\x87\x00")},
		"PUBREL":                   {raw(0x62, "\x00\x07\x92", block(user)), raw(0x62, "\x00\x07\x92\x00")},
		"PUBACK without":           {raw(0x40, "\x00\x07"), raw(0x40, "\x00\x07")},
		"PUBACK with a code":       {raw(0x40, "\x00\x07\x87"), raw(0x40, "\x00\x07\x87")},
		"SUBACK":                   {raw(0x90, "\x00\x07", block(user+reason), "\x00\x01\x87"), raw(0x90, "\x00\x07\x00\x00\x01\x87")},
		"CONNACK":                  {raw(0x20, "\x01\x00", block(expiry+reason+user)), raw(0x20, "\x01\x00", block(expiry))},
		"CONNACK of an old server": {raw(0x20, unacceptable), raw(0x20, unacceptable)},
		"DISCONNECT":               {raw(0xe0, "\x9c", block(reason+"\x1c"+str("elsewhere"))), raw(0xe0, "\x9c", block("\x1c"+str("elsewhere")))},
		"DISCONNECT alone":         {raw(0xe0, ""), raw(0xe0, "")},
		"AUTH":                     {raw(0xf0, "\x18", block("\x15"+str("m")+user)), raw(0xf0, "\x18", block("\x15"+str("m")))},
		"PINGRESP":                 {raw(0xd0), raw(0xd0)},
	} {
		s := opened(t, FromServer, V5)
		if name[:3] == "CON" {
			*s = Scanner{}
			s.Init(FromServer, 0)
			s.SetVersion(V5)
		}
		f, _, err := s.Next(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := AppendWithoutDiagnostics(nil, f); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: % x, want % x", name, got, tt.want)
		}
	}
}

// An MQTT 5 client has to learn that a server speaks 3.1.1 only, in that version's form.
func TestOldServerRefusesV5(t *testing.T) {
	var s Scanner
	s.Init(FromServer, 0)
	s.SetVersion(V5)
	f, _, err := s.Next([]byte{0x20, 2, 0, 1})
	var c ConnAck
	if err == nil {
		err = ParseConnAck(f, V5, &c)
	}
	if err != nil || c.Code != 1 || c.SessionPresent {
		t.Errorf("%+v: %v", c, err)
	}
	for _, in := range [][]byte{{0x20, 2, 0, 0}, {0x20, 2, 0, 2}, {0x20, 2, 1, 1}, {0x20, 3, 0, 1, 0}} {
		s.Init(FromServer, 0)
		s.SetVersion(V5)
		if _, _, err := s.Next(in); err == nil {
			t.Errorf("% x was accepted at MQTT 5", in)
		}
	}
}

func TestConnAckAppend(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		c := ConnAck{SessionPresent: true}
		if v == V5 {
			c.Properties = []byte("\x21\x00\x0a")
		}
		var s Scanner
		s.Init(FromServer, 0)
		s.SetVersion(v)
		f, _, err := s.Next(c.Append(nil, v))
		var got ConnAck
		if err == nil {
			err = ParseConnAck(f, v, &got)
		}
		if err != nil || got.SessionPresent != c.SessionPresent || got.Code != c.Code || !bytes.Equal(got.Properties, c.Properties) {
			t.Errorf("%v: %+v, want %+v: %v", v, got, c, err)
		}
	}
}

func TestVersionOfARefusedConnect(t *testing.T) {
	for _, tt := range []struct {
		in   []byte
		want Version
		code byte
	}{
		{raw(0x10, str("MQTT"), "\x04\x00\x00\x00", str("")), V311, codeClientID},
		{raw(0x10, str("MQTT"), "\x05\x01\x00\x00\x00", str("d")), V5, codeMalformed},
		{raw(0x10, str("MQTT"), "\x84\x02\x00\x00", str("bridge")), 0, codeVersion},
	} {
		var s Scanner
		s.Init(FromClient, 0)
		_, _, err := s.Next(tt.in)
		e, ok := err.(*Error)
		if !ok || e.ReasonCode != tt.code || s.Version() != tt.want {
			t.Errorf("% x: version %d, %v", tt.in, s.Version(), err)
		}
	}
}
