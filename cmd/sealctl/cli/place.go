package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// placeSetting is a line of an appliance's place.conf: KEY=VALUE or KEY="VALUE".
type placeSetting struct {
	key, value string // value: as it is where the line is missing
	check      func(string) error
}

// placeSettings are those of firmware-image/appliance/root/etc/sealgate/place.conf, with the same defaults.
func placeSettings() []placeSetting {
	return []placeSetting{
		{"PLACE", "bridge", oneOf("bridge", "routed")},
		{"LAN", "", interfaceName},
		{"UPLINK", "", interfaceName},
		{"LAN_VLAN", "", vlanID},
		{"ADDRESS", "dhcp", either(oneOf("dhcp", "none"), prefix)},
		{"GATEWAY", "", either(oneOf(""), address)},
		{"DNS", "", each(address)},
		{"LAN_ADDRESS", "192.168.77.1/24", prefix},
		{"SYSCTL", "", each(kernelSetting)},
	}
}

// parsePlace checks a place.conf that somebody wrote, and returns it with a line for each setting. The appliance's shell runs what is returned, so there is nothing
// in it but values of the forms below.
func parsePlace(text string) (string, error) {
	settings := placeSettings()
	var wrong []error
	seen := make(map[string]int)
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		i := indexOfSetting(settings, key)
		switch {
		case !ok:
			wrong = append(wrong, fmt.Errorf("line %d: want KEY=VALUE", n))
		case i < 0:
			wrong = append(wrong, fmt.Errorf("line %d: there is no setting %q; there are %s", n, key, settingNames(settings)))
		case seen[key] > 0:
			wrong = append(wrong, fmt.Errorf("line %d: %s stands in line %d already", n, key, seen[key]))
		default:
			seen[key] = n
			settings[i].value = unquote(value)
			if err := settings[i].check(settings[i].value); err != nil {
				wrong = append(wrong, fmt.Errorf("line %d: %s=%q: %w", n, key, settings[i].value, err))
			}
		}
	}
	if len(wrong) == 0 {
		wrong = append(wrong, fitPlace(settings))
	}
	var b strings.Builder
	b.WriteString("# From the file place.conf on the boot partition.\n")
	for _, s := range settings {
		fmt.Fprintf(&b, "%s=\"%s\"\n", s.key, s.value)
	}
	return b.String(), errors.Join(wrong...)
}

// fitPlace looks at settings that are right each for itself.
func fitPlace(settings []placeSetting) error {
	value := func(key string) string { return settings[indexOfSetting(settings, key)].value }
	own, err := netip.ParsePrefix(value("ADDRESS"))
	gateway, _ := netip.ParseAddr(value("GATEWAY"))
	switch {
	case value("LAN") != "" && value("LAN") == value("UPLINK"):
		return errors.New("LAN and UPLINK are one interface; the gateway stands between two")
	case value("PLACE") == "routed" && value("ADDRESS") == "none":
		return errors.New("with PLACE=routed the gateway needs an ADDRESS")
	case err == nil && gateway.IsValid() && !own.Contains(gateway):
		return fmt.Errorf("GATEWAY %s is not in the network of ADDRESS %s", gateway, own)
	}
	return nil
}

func indexOfSetting(settings []placeSetting, key string) int {
	return slices.IndexFunc(settings, func(s placeSetting) bool { return s.key == key })
}

func settingNames(settings []placeSetting) string {
	var names []string
	for _, s := range settings {
		names = append(names, s.key)
	}
	return strings.Join(names, ", ")
}

// unquote takes the quotes off that a shell would.
func unquote(value string) string {
	if n := len(value); n >= 2 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
		return value[1 : n-1]
	}
	return value
}

func oneOf(words ...string) func(string) error {
	return func(value string) error {
		if slices.Contains(words, value) {
			return nil
		}
		return fmt.Errorf("want %s", strings.Join(words, " or "))
	}
}

// either takes what one of the two takes.
func either(a, b func(string) error) func(string) error {
	return func(value string) error {
		if a(value) == nil {
			return nil
		}
		return b(value)
	}
}

// each takes words that check takes, with one space between them.
func each(check func(string) error) func(string) error {
	return func(value string) error {
		for _, word := range strings.Fields(value) {
			if err := check(word); err != nil {
				return err
			}
		}
		return nil
	}
}

// plain reports whether there are only letters and digits of ASCII in it, and these characters.
func plain(value, others string) bool {
	return strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"+others) == ""
}

func interfaceName(value string) error {
	if len(value) > 15 || !plain(value, "_.-") || strings.HasPrefix(value, ".") || strings.HasPrefix(value, "-") {
		return errors.New("want an interface's name, as `ip link` shows it")
	}
	return nil
}

func vlanID(value string) error {
	if id, err := strconv.ParseUint(value, 10, 16); value != "" && (err != nil || id < 1 || id > 4094) {
		return errors.New("want a number from 1 to 4094")
	}
	return nil
}

// address takes no zone: it may hold any character.
func address(value string) error {
	if a, err := netip.ParseAddr(value); err != nil || a.Zone() != "" {
		return errors.New("want an IP address")
	}
	return nil
}

func prefix(value string) error {
	if _, err := netip.ParsePrefix(value); err != nil {
		return errors.New("want ADDRESS/BITS, such as 192.168.77.1/24")
	}
	return nil
}

func kernelSetting(value string) error {
	if name, to, ok := strings.Cut(value, "="); !ok || name == "" || to == "" || strings.HasPrefix(name, "-") || !plain(name, "_./-") || !plain(to, "_-") {
		return errors.New("want settings such as net.ipv4.conf.all.rp_filter=1")
	}
	return nil
}
