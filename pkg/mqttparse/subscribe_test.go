package mqttparse

import (
	"fmt"
	"strings"
	"testing"
)

func shortFrame(packet string) Frame { return Frame{Raw: []byte(packet), Body: []byte(packet[2:])} }

func TestFilterIter(t *testing.T) {
	for _, c := range []struct {
		v      Version
		packet string
		want   string
	}{
		{V311, "\x82\x06\x00\x07\x00\x01a\x01", "7: a/1"},
		{V311, "\x82\x0c\x00\x07\x00\x03a/#\x02\x00\x01b\x00", "7: a/#/2 b/0"},
		{V5, "\x82\x07\x00\x07\x00\x00\x01a\x0d", "7: a/13"},
		{V5, "\x82\x09\x01\x00\x02\x0b\x05\x00\x01a\x01", "256: a/1"},
		{V311, "\xa2\x08\x00\x07\x00\x01a\x00\x01b", "7: a/0 b/0"},
		{V5, "\xa2\x06\x00\x07\x00\x00\x01a", "7: a/0"},
	} {
		var got []string
		it := Filters(shortFrame(c.packet), c.v)
		for it.Next() {
			got = append(got, fmt.Sprintf("%s/%d", it.Filter(), it.Options()))
		}
		if text := fmt.Sprintf("%d: %s", it.PacketID(), strings.Join(got, " ")); text != c.want {
			t.Errorf("%v % x: %q; want %q", c.v, c.packet, text, c.want)
		}
	}
	if it := Filters(shortFrame("\x82\x05\x00\x07\x00\x02a"), V311); it.Next() {
		t.Error("a filter cut off is taken")
	}
}

func TestParseSubAck(t *testing.T) {
	for _, c := range []struct {
		v      Version
		packet string
		want   string
	}{
		{V311, "\x90\x05\x00\x07\x01\x80\x02", "7: 018002"},
		{V5, "\x90\x04\x00\x07\x00\x87", "7: 87"},
	} {
		id, codes, err := ParseSubAck(shortFrame(c.packet), c.v)
		if text := fmt.Sprintf("%d: %x", id, codes); err != nil || text != c.want {
			t.Errorf("%v % x: %q, %v; want %q", c.v, c.packet, text, err, c.want)
		}
	}
}
