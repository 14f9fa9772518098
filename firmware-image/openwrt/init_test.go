package openwrt

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

// enrolled gives the router what enrolment leaves; nobody reads what is in it.
func (r *router) enrolled(t *testing.T) {
	t.Helper()
	for _, name := range []string{"identity.key", "identity.crt", "ca.crt"} {
		r.put(t, "/etc/sealgate/identity/"+name, "x\n")
	}
}

func (r *router) log() []string { return strings.Split(strings.TrimSuffix(r.read("/log"), "\n"), "\n") }

func (r *router) logged(t *testing.T, want ...string) {
	t.Helper()
	if got := r.log(); !slices.Equal(got, want) {
		t.Errorf("procd was told\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

const quiet = "exec 2>/dev/null; : >/log\n"

// What procd is told of the data plane.
func TestStartGatewayd(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.uci(t, map[string]string{"sealgate/main/gatewayd_memory": "48MiB"})
	r.enrolled(t)
	r.must(t, syscall.CLONE_NEWNET, accounts+quiet+"/etc/init.d/sealgate-gatewayd start && /etc/init.d/sealgate-gatewayd triggers")
	r.logged(t, "run|sealgate-gatewayd|start",
		"open_instance|gatewayd",
		"set_param|command|/usr/libexec/sealgate/gatewayd|/var/run/sealgate/sealgate.toml",
		"set_param|file|/var/run/sealgate/sealgate.toml|/etc/sealgate/identity/identity.crt|/etc/sealgate/identity/ca.crt",
		"set_param|respawn|3600|5|0",
		"set_param|limits|nofile=16384 16384|core=0 0",
		"set_param|env|GOMEMLIMIT=48MiB",
		"set_param|term_timeout|10", "set_param|stdout|1", "set_param|stderr|1",
		"close_instance",
		"run|sealgate-gatewayd|triggers", "add_reload_trigger|sealgate")
}

// What procd is told of the control plane: an account of its own, a jail that has no more than it needs.
func TestStartControld(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.enrolled(t)
	want := []string{"run|sealgate-controld|start",
		"open_instance|controld",
		"set_param|command|/usr/sbin/controld|-config|/var/run/sealgate/sealgate.toml",
		"set_param|file|/var/run/sealgate/sealgate.toml|/etc/sealgate/identity/identity.crt|/etc/sealgate/identity/identity.key|/etc/sealgate/identity/ca.crt|/etc/sealgate/identity/topic.key",
		"set_param|user|sealgatectl", "set_param|group|sealgate", "set_param|no_new_privs|1",
		"set_param|respawn|3600|5|0", "set_param|limits|core=0 0", "set_param|term_timeout|10", "set_param|stdout|1", "set_param|stderr|1",
		"add_jail|sealgate-controld|log|procfs",
		"add_jail_mount|/var/run/sealgate/sealgate.toml|/etc/sealgate/identity|/etc/sealgate|/etc/ssl/certs|/etc/passwd|/etc/group|/etc/hosts|/etc/resolv.conf|/tmp/resolv.conf|/tmp/resolv.conf.d",
		"add_jail_mount_rw|/var/run/sealgate/link|/etc/sealgate/state",
		"close_instance"}
	r.must(t, 0, accounts+quiet+"/etc/init.d/sealgate-controld start")
	r.logged(t, want...)
	r.uci(t, map[string]string{"sealgate/uplink/ca": "/etc/sealgate/ca.pem", "sealgate/control/ca": "/mnt/ca.pem", "sealgate/control/password_file": "/mnt/a b"})
	r.must(t, 0, quiet+"/etc/init.d/sealgate-controld start")
	r.logged(t, slices.Insert(slices.Clone(want), len(want)-1, "add_jail_mount|/mnt/ca.pem")...)
	r.uci(t, map[string]string{"sealgate/main/jail": "0"})
	r.must(t, 0, quiet+"/etc/init.d/sealgate-controld start")
	r.logged(t, slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, "add_jail") })...)
}

// Who owns what, and that a second start writes nothing: flash is not worn.
func TestOwners(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.enrolled(t)
	const look = `for f in /var/run/sealgate /var/run/sealgate/link /var/run/sealgate/sealgate.toml /etc/sealgate /etc/sealgate/state /etc/sealgate/identity /etc/sealgate/identity/*; do
	stat -c '%A %U:%G %n' $f; done`
	got := r.must(t, 0, accounts+quiet+"/etc/init.d/sealgate-controld start;"+look)
	want := `drwxr-x--- root:sealgate /var/run/sealgate
drwxr-x--- sealgatectl:sealgate /var/run/sealgate/link
-rw-r----- root:sealgate /var/run/sealgate/sealgate.toml
drwxr-xr-x root:root /etc/sealgate
drwx------ sealgatectl:sealgate /etc/sealgate/state
drwxr-x--- sealgatectl:sealgate /etc/sealgate/identity
-rw-r----- sealgatectl:sealgate /etc/sealgate/identity/ca.crt
-rw-r----- sealgatectl:sealgate /etc/sealgate/identity/identity.crt
-rw------- sealgatectl:sealgate /etc/sealgate/identity/identity.key
`
	if got != want {
		t.Errorf("made\n%s\nwant\n%s", got, want)
	}
	const changed = "find /etc -exec stat -c '%z %n' {} +\n" // times of the last change, of contents or owner
	before := r.must(t, 0, changed)
	r.must(t, 0, quiet+"/etc/init.d/sealgate-controld start")
	if after := r.must(t, 0, changed); after != before {
		t.Errorf("a second start has written to /etc:\n%s\nwas\n%s", after, before)
	}
}

// Directories elsewhere are the user's: nothing there changes hands, nor through a link that controld's account could have laid.
func TestOwnsNothingElse(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	for _, dir := range []string{"/etc", "/etc/sealgate/../config", "/etc/sealgate", "relative"} {
		r.uci(t, plain())
		r.uci(t, map[string]string{"sealgate/main/identity": dir, "sealgate/main/state": dir})
		r.put(t, "/etc/identity.crt", "x")
		const look = "stat -c '%A %U:%G %n' /etc /etc/* /etc/config/*"
		before := r.must(t, 0, accounts+"rm -rf /var/run/sealgate;"+look)
		r.must(t, 0, quiet+render)
		if after := r.must(t, 0, look); after != before {
			t.Errorf("identity = %q: \n%s\nwas\n%s", dir, after, before)
		}
	}
	r.uci(t, plain())
	r.put(t, "/etc/secret", "x")
	before := r.must(t, 0, "stat -c %A%U /etc/secret; mkdir -p /etc/sealgate/identity; ln -s /etc/secret /etc/sealgate/identity/identity.crt; chown -h sealgatectl /etc/sealgate/identity/identity.crt")
	r.must(t, 0, quiet+render)
	if after := r.must(t, 0, "stat -c %A%U /etc/secret"); after != before {
		t.Errorf("through a link %q became %q", before, after)
	}
}

func TestStartsNothing(t *testing.T) {
	t.Parallel()
	const both = quiet + "/etc/init.d/sealgate-gatewayd start; /etc/init.d/sealgate-controld start; nft list tables"
	t.Run("disabled", func(t *testing.T) {
		r := newRouter(t)
		r.uci(t, plain())
		r.uci(t, map[string]string{"sealgate/main/enabled": "0"})
		r.enrolled(t)
		if out := r.must(t, syscall.CLONE_NEWNET, accounts+both); out != "" {
			t.Errorf("tables: %q", out)
		}
		r.logged(t, "run|sealgate-gatewayd|start", "run|sealgate-controld|start")
	})
	t.Run("not enrolled, and the guard stands", func(t *testing.T) {
		r := newRouter(t)
		r.uci(t, plain())
		if out := r.must(t, syscall.CLONE_NEWNET, accounts+both); out != "table inet sealgate\n" {
			t.Errorf("tables: %q", out)
		}
		r.logged(t, "run|sealgate-gatewayd|start", "logger|-t|sealgate|-p|daemon.err|not enrolled: no MQTT of the devices leaves; run sealgate-enrol", "run|sealgate-controld|start")
	})
}

// A reload keeps the devices' connections if no more has changed than gatewayd takes over while it runs.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.uci(t, plain())
	r.enrolled(t)
	r.put(t, "/running", "")
	r.must(t, syscall.CLONE_NEWNET, accounts+quiet+"/etc/init.d/sealgate-gatewayd start")
	reload := func(options map[string]string) string {
		t.Helper()
		r.uci(t, options)
		r.must(t, syscall.CLONE_NEWNET, quiet+"/etc/init.d/sealgate-gatewayd reload")
		return r.read("/log")
	}
	for option, value := range map[string]string{"uplink/ca": "/etc/sealgate/new.pem", "limits/max_connections": "7", "limits/connect_timeout": "5s", "limits/drain": "9s", "devices/rate": "5/s"} {
		if log := reload(map[string]string{"sealgate/" + option: value}); log != "run|sealgate-gatewayd|reload\nsend_signal|sealgate-gatewayd|gatewayd|HUP\n" {
			t.Errorf("%s: procd was told\n%s", option, log)
		}
	}
	for option, value := range map[string]string{"steer/lan.2": "br-two", "limits/max_message": "2MiB", "main/user": "root"} {
		if log := reload(map[string]string{"sealgate/" + option: value}); !strings.Contains(log, "open_instance|gatewayd\n") || strings.Contains(log, "HUP") {
			t.Errorf("%s: procd was told\n%s", option, log)
		}
	}
	r.uci(t, map[string]string{"sealgate/uplink/ca": "/etc/sealgate/other.pem"})
	r.must(t, syscall.CLONE_NEWNET, "rm /running;"+quiet+"/etc/init.d/sealgate-gatewayd reload")
	if log := r.read("/log"); !strings.Contains(log, "open_instance|gatewayd\n") {
		t.Errorf("not running: procd was told\n%s", log)
	}
}

// The first boot finds the sides by the router's own networks, else by the order of its interfaces; what is set stays.
func TestFirstBoot(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		set  map[string]string
		want string // lan, uplink
	}{
		"networks":      {map[string]string{"network/lan/device": "br-lan", "network/wan/device": "eth0.2"}, "br-lan eth0.2"},
		"order":         {nil, "eth0 eth1"},
		"configured":    {map[string]string{"sealgate/steer/lan.1": "br-x", "sealgate/steer/uplink.1": "up0"}, "br-x up0"},
		"one is":        {map[string]string{"sealgate/steer/lan.1": "br-x", "network/wan/device": "wan"}, "br-x wan"},
		"not the order": {map[string]string{"network/lan/device": "br-lan"}, "br-lan eth1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t)
			r.uci(t, test.set)
			for _, port := range []string{"eth1/device", "eth0/device", "br-lan/no", "lo/no"} {
				r.put(t, "/sys/class/net/"+port, "")
			}
			r.must(t, 0, accounts+accounts)
			if got := strings.Join(append(r.list("lan"), r.list("uplink")...), " "); got != test.want {
				t.Errorf("sides %q, want %q", got, test.want)
			}
			want := "root:x:0:0:root:/root:/bin/ash\nsealgate:x:5883:5883:sealgate:/var/run/sealgate:/bin/false\nsealgatectl:x:5884:5883:sealgatectl:/var/run/sealgate:/bin/false\n"
			if got := r.read("/etc/passwd"); got != want {
				t.Errorf("accounts\n%s", got)
			}
			if got := r.read("/uci/firewall/sealgate/path"); !exists(r, got) || r.read("/uci/firewall/sealgate/fw4_compatible") != "1" {
				t.Errorf("fw4 is told of %q", got)
			}
		})
	}
}

func (r *router) list(option string) (items []string) {
	for _, n := range []string{"1", "2", "3"} {
		if v := r.read("/uci/sealgate/steer/" + option + "." + n); v != "" {
			items = append(items, v)
		}
	}
	return items
}
