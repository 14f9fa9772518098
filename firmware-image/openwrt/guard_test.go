package openwrt

import (
	"strings"
	"syscall"
	"testing"
)

const guarded = quiet + "/etc/init.d/sealgate-gatewayd start\n"

// What fw4 puts back after it has taken all tables away is what `gatewayd -setup` made, whichever comes last, and however often.
func TestGuardIsSetups(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.uci(t, map[string]string{"sealgate/steer/ports.2": "2883"})
	lists := r.lists(t, 5, `list
nft delete table inet sealgate && nft -f $snippet && list
nft -f $snippet && nft -f $snippet && list
gatewayd -setup >/dev/null && list
nft -f $snippet && gatewayd -setup >/dev/null && list`)
	if !strings.Contains(lists[0], "elements = { 1883, 2883 }") || !strings.Contains(lists[0], "chain guard") {
		t.Errorf("the guard is\n%s", lists[0])
	}
}

// In mode nfqueue the table has a second chain. Where nft cannot write it down (iptables' target in it), a restart of fw4 leaves it alone.
func TestGuardInModeNFQueue(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.uci(t, map[string]string{"sealgate/steer/mode": "nfqueue", "sealgate/uplink/tls": "0"})
	lists := r.lists(t, 4, "list; nft -f $snippet && list; nft -f $snippet && list; gatewayd -setup >/dev/null && list")
	if !strings.Contains(lists[0], "chain queue") || !strings.Contains(lists[0], "chain guard") {
		t.Errorf("the guard is\n%s", lists[0])
	}
}

// In a bridge there is a second table, which fw4 takes away just as well.
func TestGuardOfBridge(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.uci(t, map[string]string{"sealgate/steer/bridge": "br-line", "sealgate/steer/lan.1": "lan1", "sealgate/steer/uplink.1": "lan2"})
	lists := r.lists(t, 3, "list; nft delete table inet sealgate; nft delete table bridge sealgate; nft -f $snippet && list; nft -f $snippet && gatewayd -setup >/dev/null && list")
	if !strings.Contains(lists[0], "table bridge sealgate") || !strings.Contains(lists[0], "table inet sealgate") {
		t.Errorf("the guards are\n%s", lists[0])
	}
}

// lists starts the data plane, runs a script that calls list n times, and expects each time the same rules, which it returns.
func (r *router) lists(t *testing.T, n int, script string) []string {
	t.Helper()
	out := r.must(t, syscall.CLONE_NEWNET, accounts+guarded+"list() { nft -s list ruleset; echo =; }\nsnippet=/usr/share/nftables.d/ruleset-post/50-sealgate.nft\n"+script)
	lists := strings.Split(strings.TrimSuffix(out, "=\n"), "=\n")
	if len(lists) != n {
		t.Fatalf("%d lists:\n%s\nlog:\n%s", len(lists), out, r.read("/log"))
	}
	for i, list := range lists {
		if list != lists[0] {
			t.Errorf("list %d is\n%s\nthe first\n%s", i, list, lists[0])
		}
	}
	return lists
}

// Mistakes in UCI must not open the way: then the guard is the package's own, with the same rules and the ports that are ports.
func TestGuardWithMistakes(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	right := r.must(t, syscall.CLONE_NEWNET, accounts+guarded+"nft -s list ruleset")
	for name, test := range map[string]struct {
		set   map[string]string
		ports string
	}{
		"no fleet":         {map[string]string{"main/fleet": ""}, "1883"},
		"a mode of nobody": {map[string]string{"steer/mode": "tcp"}, "1883"},
		"one bad port":     {map[string]string{"steer/ports.1": "x", "steer/ports.2": "2883"}, "2883"},
		"hostile ports":    {map[string]string{"steer/ports.1": "1883 } } table inet x { chain y { accept", "steer/ports.2": "0", "steer/ports.3": "65536"}, "1883"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t)
			r.uci(t, plain())
			for option, value := range test.set {
				r.uci(t, map[string]string{"sealgate/" + option: value})
			}
			out := r.must(t, syscall.CLONE_NEWNET, accounts+quiet+`/etc/init.d/sealgate-gatewayd start
nft -s list ruleset
nft -f /usr/share/nftables.d/ruleset-post/50-sealgate.nft || echo unreadable`)
			if want := strings.Replace(right, "1883", test.ports, 1); out != want {
				t.Errorf("the guard is\n%s\nwant\n%s\nlog:\n%s", out, want, r.read("/log"))
			}
			if strings.Contains(r.read("/log"), "open_instance") {
				t.Errorf("a daemon was started:\n%s", r.read("/log"))
			}
		})
	}
}

// In mode listen nothing is forwarded to begin with, and fw4 gets nothing.
func TestNoGuardInModeListen(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.uci(t, map[string]string{"sealgate/steer/mode": "listen", "sealgate/uplink/broker.1": "broker.example:8883"})
	if out := r.must(t, syscall.CLONE_NEWNET, accounts+guarded+"nft list ruleset"); out != "" || exists(r, "/var/run/sealgate/guard.nft") {
		t.Errorf("the rules are\n%s", out)
	}
}

// netifd takes all policy routes away when it starts. They are back once an interface is up, and whenever procd starts gatewayd.
func TestPolicyRoutesComeBack(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	out := r.must(t, syscall.CLONE_NEWNET, accounts+guarded+`
rules() { ip rule show | grep -c 'iif br-lan.*lookup 24225'; }
nft -a list table inet sealgate >/before; ( ACTION=ifup . /etc/hotplug.d/iface/50-sealgate ); nft -a list table inet sealgate | cmp - /before
nft delete table inet sealgate; ( ACTION=ifup . /etc/hotplug.d/iface/50-sealgate ); nft list tables
rules
ip rule del pref 883; rules
( ACTION=ifdown . /etc/hotplug.d/iface/50-sealgate ); rules
( ACTION=ifup . /etc/hotplug.d/iface/50-sealgate ); rules
ip rule del pref 883; rules
/usr/libexec/sealgate/gatewayd /var/run/sealgate/sealgate.toml; echo $?; rules
`)
	// gatewayd itself then fails, for want of an identity.
	if want := "table inet sealgate\n1\n0\n0\n1\n0\n1\n1\n"; out != want {
		t.Errorf("rules %q, want %q\nlog:\n%s", out, want, r.read("/log"))
	}
}

// Only teardown opens the way.
func TestTeardown(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	out := r.must(t, syscall.CLONE_NEWNET, accounts+guarded+`
/etc/init.d/sealgate-gatewayd stop; nft list tables
/etc/init.d/sealgate-gatewayd teardown >/dev/null; nft list tables; ls /var/run/sealgate/guard.nft
echo end`)
	if want := "table inet sealgate\nend\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}
