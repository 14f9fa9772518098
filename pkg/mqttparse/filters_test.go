package mqttparse

import (
	"fmt"
	"testing"
)

func TestFilters(t *testing.T) {
	for _, tt := range []struct {
		v    Version
		in   []byte
		want string
	}{
		{V311, raw(0x82, "\x00\x01", str("a/+"), "\x01", str("$share/g/b"), "\x02"), "[a/+ 1 $share/g/b 2]"},
		{V5, raw(0x82, "\x00\x01", block("\x0b\x05"), str("a/#"), "\x2e"), "[a/# 46]"},
		{V311, raw(0xa2, "\x00\x01", str("a/+"), str("b")), "[a/+ 0 b 0]"},
		{V5, raw(0xa2, "\x00\x01", block(), str("b")), "[b 0]"},
	} {
		s := opened(t, FromClient, tt.v)
		f, _, err := s.Next(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		var got []any
		for it := Filters(f, tt.v); it.Next(); {
			got = append(got, string(it.Filter()), it.Options())
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%v, want %s", got, tt.want)
		}
	}
}
