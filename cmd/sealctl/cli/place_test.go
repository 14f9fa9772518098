package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	got, err := parsePlace("PLACE=routed\n  LAN='enp1s0'\nUPLINK=\"enp2s0\"\nLAN_VLAN=7\nADDRESS=10.0.0.2/24\nGATEWAY=10.0.0.1\nDNS=\"10.0.0.1 2001:db8::1\"\n\n# x\nSYSCTL=\"net.ipv4.conf.all.rp_filter=1 vm.swappiness=0\"")
	want := "# From the file place.conf on the boot partition.\nPLACE=\"routed\"\nLAN=\"enp1s0\"\nUPLINK=\"enp2s0\"\nLAN_VLAN=\"7\"\nADDRESS=\"10.0.0.2/24\"\nGATEWAY=\"10.0.0.1\"\n" +
		"DNS=\"10.0.0.1 2001:db8::1\"\nLAN_ADDRESS=\"192.168.77.1/24\"\nSYSCTL=\"net.ipv4.conf.all.rp_filter=1 vm.swappiness=0\"\n"
	if err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	if again, err := parsePlace(got); err != nil || again != got {
		t.Errorf("what is written is not read as the same: %v\n%s", err, again)
	}
	for text, why := range map[string]string{
		"PLACE":                                    "line 1: want KEY=VALUE",
		"PLACE=between":                            "want bridge or routed",
		"place=bridge":                             `there is no setting "place"`,
		"PLACE=bridge\nPLACE=bridge":               "line 2: PLACE stands in line 1 already",
		"LAN=$(reboot)":                            "want an interface's name",
		"LAN=a\"b":                                 "want an interface's name",
		"UPLINK=averyverylongname":                 "want an interface's name",
		"LAN=eth0\nUPLINK=eth0":                    "one interface",
		"LAN_VLAN=0":                               "1 to 4094",
		"LAN_VLAN=4095":                            "1 to 4094",
		"LAN_VLAN=seven":                           "1 to 4094",
		"ADDRESS=10.0.0.2":                         "want ADDRESS/BITS",
		"ADDRESS=10.0.0.2/33":                      "want ADDRESS/BITS",
		"ADDRESS=":                                 "want ADDRESS/BITS",
		"PLACE=routed\nADDRESS=none":               "needs an ADDRESS",
		"GATEWAY=gate.example":                     "want an IP address",
		"GATEWAY=fe80::1%`reboot`":                 "want an IP address",
		"ADDRESS=10.0.0.2/24\nGATEWAY=10.0.1.1":    "not in the network",
		"DNS=\"10.0.0.1 x\"":                       "want an IP address",
		"LAN_ADDRESS=dhcp":                         "want ADDRESS/BITS",
		"SYSCTL=kernel.core_pattern=|/bin/sh":      "want settings such as",
		"SYSCTL=\"net.ipv4.ip_forward = 1\"":       "want settings such as",
		"SYSCTL='a.b=1\"; reboot; \"'":             "want settings such as",
		"ADDRESS=dhcp # by the plant's own server": "want ADDRESS/BITS",
	} {
		if _, err := parsePlace(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v; want %q", text, err, why)
		}
	}
}

// The settings and their defaults are those of the file that the appliance comes with.
func TestPlaceIsTheAppliances(t *testing.T) {
	b, err := os.ReadFile("../../../firmware-image/appliance/root/etc/sealgate/place.conf")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePlace(string(b))
	want, _ := parsePlace("")
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	for _, s := range placeSettings() {
		if !regexp.MustCompile(`(?m)^` + s.key + `=`).Match(b) {
			t.Errorf("place.conf has no %s", s.key)
		}
	}
}
