package mqttparse

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// The builders here make packets byte by byte, without the package's append functions.

// raw joins a first byte, a one-byte Remaining Length and a body.
func raw(first byte, body ...string) []byte {
	b := strings.Join(body, "")
	if len(b) > 127 {
		panic("raw is for short packets")
	}
	return append([]byte{first, byte(len(b))}, b...)
}

// str is a field with a two-byte length.
func str(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

// block is a short property block with its length.
func block(props ...string) string {
	b := strings.Join(props, "")
	return string(rune(len(b))) + b
}

func connectBytes(v Version) []byte {
	switch v {
	case V31:
		return raw(0x10, str("MQIsdp"), "\x03\x02\x00\x3c", str("dev"))
	case V5:
		return raw(0x10, str("MQTT"), "\x05\x02\x00\x3c\x00", str("dev"))
	}
	return raw(0x10, str("MQTT"), "\x04\x02\x00\x3c", str("dev"))
}

func connAckBytes(v Version) []byte {
	if v == V5 {
		return raw(0x20, "\x00\x00\x00")
	}
	return raw(0x20, "\x00\x00")
}

// opened returns a scanner that has let the opening packet of its direction pass.
func opened(tb testing.TB, d Direction, v Version) *Scanner {
	tb.Helper()
	var s Scanner
	s.Init(d, 0)
	first := connectBytes(v)
	if d == FromServer {
		s.SetVersion(v)
		first = connAckBytes(v)
	}
	if _, n, err := s.Next(first); err != nil || n != len(first) {
		tb.Fatalf("opening packet: n = %d, error %v", n, err)
	}
	return &s
}

// scanOne scans one packet and, if it is a PUBLISH, parses it.
func scanOne(s *Scanner, packet []byte) (Frame, error) {
	f, n, err := s.Next(packet)
	switch {
	case err != nil:
		return f, err
	case n != len(packet):
		return f, errors.New("packet incomplete or followed by more")
	case f.Type() == PUBLISH:
		var p Publish
		err = ParsePublish(f, s.Version(), &p)
	}
	return f, err
}

func clauseOf(tb testing.TB, err error) string {
	tb.Helper()
	if err == nil {
		return ""
	}
	var e *Error
	if !errors.As(err, &e) {
		tb.Fatalf("error %v is no *Error", err)
	}
	if e.Clause == "" || e.Reason == "" || e.ReasonCode < 0x80 {
		tb.Errorf("error %#v is incomplete", e)
	}
	return e.Clause
}

// makeFrame makes a Frame by hand.
func makeFrame(first byte, body []byte) Frame {
	b := AppendVarint([]byte{first}, len(body))
	at := len(b)
	b = append(b, body...)
	return Frame{Raw: b, Body: b[at:]}
}
