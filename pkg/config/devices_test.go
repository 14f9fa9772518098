package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// manyAddresses is n of them as a TOML list without its brackets.
func manyAddresses(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("\"10.0.%d.%d\"", i/256, i%256)
	}
	return strings.Join(list, ",")
}

func TestDevices(t *testing.T) {
	text := least + "[devices]\ndeny = [\"02:00:00:00:00:01\", \"02-00-00-00-00-0A\", \"192.0.2.7\", \"2001:db8::/64\", \"2001:db8::1\"]\nrate = \"30/m\"\nmetrics = true\n"
	got, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Devices{
		DenyMACs: [][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 10}},
		DenyNets: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8::1/128")},
		Every:    2 * time.Second, Burst: 10, Metrics: true,
	}
	if !reflect.DeepEqual(got.Devices, want) {
		t.Errorf("got  %+v\nwant %+v", got.Devices, want)
	}
	for s, want := range map[string]time.Duration{"1/s": time.Second, "1000/s": time.Millisecond, "1/h": time.Hour, "60/m": time.Second} {
		if got, ok := parseRate(s); !ok || got != want {
			t.Errorf("%q: %v, %t; want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "/", "1", "1/", "/s", "1/s/s", "-1/s", "1001/s", "1.5/s", "1/S", " 1/s"} {
		if got, ok := parseRate(s); ok {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}
