package openwrt

import (
	"strings"
	"testing"
)

// served enrols a router of the fleet by a ticket and waits until devices are served. In the modes that steer its network has no device
// side yet, which gatewayd waits for.
func served(t *testing.T, mode string) (*shell, *router) {
	t.Helper()
	r, f := newRouter(t), newFleet(t)
	f.configure(t, r)
	r.uci(t, map[string]string{"sealgate/steer/mode": mode})
	r.ns = f.ns
	s := r.shell(t, 0)
	r.put(t, "/uci/ticket", f.ticket(t, "gw1"))
	s.do(accounts + "/etc/init.d/sealgate-gatewayd start; sealgate-enrol </uci/ticket")
	s.await(ready)
	return s, r
}

const ready = `sealctl status --json 2>/dev/null | grep -o '"ready": *true'`

// When fw4 is stopped it takes away all tables. When it is started again all are back: the guards by its snippet or else its script, and what steers in the
// modes tproxy and redirect by a gatewayd that is started anew. Where nothing is missing nothing is restarted.
func TestFirewallIsStoppedAndStarted(t *testing.T) {
	t.Parallel()
	const script = "sh -c \". $(uci get firewall.sealgate.path)\"\n"
	const start = "nft -f /usr/share/nftables.d/ruleset-post/50-sealgate.nft && " + script
	const flush = "nft list tables | while read -r _ family table; do nft delete table $family $table; done; nft list tables\n"
	const tables = "nft list tables | sort\n"
	for mode, steers := range map[string]string{"tc": "", "tproxy": "table inet sealgate-steer\n", "redirect": "table inet sealgate-steer\n"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s, _ := served(t, mode)
			want := "table inet sealgate\n" + steers
			if got := s.do(tables); got != want {
				t.Fatalf("the tables are\n%s\nwant\n%s", got, want)
			}
			before := s.do("cat /var/run/gatewayd.pid")
			s.do(start)
			s.do("while ps | grep -q '[s]ealgate-gatewayd mend'; do usleep 20000; done")
			if got := s.do("cat /var/run/gatewayd.pid"); got != before {
				t.Error("gatewayd was restarted for nothing")
			}
			if got := s.do(flush); got != "" {
				t.Fatalf("left are %s", got)
			}
			s.do(start)
			s.await(`[ "$(nft list tables | wc -l)" = ` + map[bool]string{true: "1", false: "2"}[steers == ""] + " ] && " + ready)
			if got := s.do(tables); got != want {
				t.Errorf("afterwards the tables are\n%s\nwant\n%s", got, want)
			}
			if again := s.do("cat /var/run/gatewayd.pid"); (again == before) != (steers == "") {
				t.Errorf("gatewayd was process %s, and is %s", strings.TrimSpace(before), again)
			}
			s.do(flush + script) // where fw4 has `auto_includes` switched off
			s.await(`[ "$(nft list tables | sort)" = "` + strings.TrimSpace(want) + `" ] && ` + ready)
		})
	}
}
