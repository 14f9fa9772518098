package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

// devicesTable is what `sealctl status` prints of a gatewayd whose devices are these, from the sum on.
func devicesTable(devices string) string {
	r := statusReport{Gatewayd: json.RawMessage(`{"gateway":"gw1","devices":` + devices + `}`)}
	var out strings.Builder
	r.table(&out)
	_, text, _ := strings.Cut(out.String(), "devices")
	return text
}

func TestDevicesTable(t *testing.T) {
	for name, c := range map[string]struct{ devices, want string }{
		"an older gatewayd": {"null", ""},
		"nobody":            {`{"devices":[],"deny_list":[]}`, "  0 known, denied none, limited none\n\n"},
		"in the kernel": {`{"known":3,"packets_counted":true,"denied":{"packets":7,"connections":1},"limited":{"packets":2},
			"devices":[{"mac":"02:00:00:00:00:01","address":"192.0.2.1","clients":["pump","valve"],"open":2,"connections":5,"packets":1200,"bytes":1536000,"limited":2,"last_seen_seconds":3.2},
			{"address":"2001:db8::5","clients":[],"connections":1,"packets":9,"bytes":900,"last_seen_seconds":7300}],
			"deny_list":[{"source":"192.0.2.66","packets":7,"connections":1,"last_seen_seconds":61},{"source":"2001:db8:7::/64","last_seen_seconds":-1}]}`,
			`  3 known, denied 7 packets and 1 connections, limited 2 packets

ADDRESS      MAC                CLIENT           OPEN  CONNECTIONS  PACKETS  BYTES    LIMITED  SEEN
192.0.2.1    02:00:00:00:00:01  pump and 1 more  2     5            1200     1.5 MiB  2        3s ago
2001:db8::5  -                  -                0     1            9        900 B    0        2h1m40s ago
and 1 more

DENIED      PACKETS  CONNECTIONS  SEEN
192.0.2.66  7        1            1m1s ago
and 1 more, not seen

`},
		"at accept": {`{"known":1,"limited":{"connections":4},"devices":[{"address":"192.0.2.1","clients":["a\u001b[2J"],"open":1,"connections":5,"limited":4}],"deny_list":[{"source":"192.0.2.66","last_seen_seconds":-1}]}`,
			`  1 known, denied none, limited 4 connections

ADDRESS    MAC  CLIENT    OPEN  CONNECTIONS  PACKETS  BYTES  LIMITED  SEEN
192.0.2.1  -    a\x1b[2J  1     5            -        -      4        0s ago

none of the 1 denied was seen

`},
	} {
		got := devicesTable(c.devices)
		lines := strings.Split(got, "\n")
		lines[0] = "  " + strings.TrimLeft(lines[0], " ")
		if got = strings.Join(lines, "\n"); strings.TrimSpace(got) != strings.TrimSpace(c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}
