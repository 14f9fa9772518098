package openwrt

import (
	"crypto/tls"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// fleet is a fleet whose operator answers joiners at a broker, in a network that is the test's own.
type fleet struct {
	ns                    *lab.Namespace
	dir, url, ca, sealctl string
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ca := lab.NewCA(t, "broker CA")
	f := &fleet{ns: lab.NewNamespace(t, "router"), dir: filepath.Join(t.TempDir(), "plant"), url: "mqtts://127.0.0.1:8883", ca: ca.File, sealctl: lab.Build(t).Sealctl}
	lab.Embedded(t, f.ns, "127.0.0.1:8883", &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "broker", time.Time{}, "127.0.0.1").Pair}})
	f.run(t, "fleet", "init", f.dir, "--name", "plant")
	f.run(t, "fleet", "add", f.dir, "--role", "subscriber", "--name", "alice")
	return f
}

// ticket makes a ticket and answers whoever comes with it.
func (f *fleet) ticket(t *testing.T, name string) string {
	t.Helper()
	ticket := f.run(t, "fleet", "ticket", f.dir, "--role", "gateway", "--name", name)
	lab.Start(t, lab.Cmd{NS: f.ns, Path: f.sealctl, Args: []string{"fleet", "serve", f.dir, "-b", f.url, "--cafile", f.ca}})
	return ticket
}

// publish gives the policy of the fleet's directory to whoever follows it.
func (f *fleet) publish(t *testing.T) {
	t.Helper()
	lab.MustRun(t, lab.Within(t, time.Minute), lab.Cmd{NS: f.ns, Path: f.sealctl, Args: []string{"policy", "publish", f.dir, "-b", f.url, "-i", filepath.Join(f.dir, "members/alice"), "--cafile", f.ca}})
}

func (f *fleet) run(t *testing.T, args ...string) string {
	t.Helper()
	return lab.MustRun(t, lab.Within(t, time.Minute), lab.Cmd{Path: f.sealctl, Args: args})
}

// configure gives the router a configuration for the fleet. In mode listen nothing is put into the kernel.
func (f *fleet) configure(t *testing.T, r *router) {
	t.Helper()
	ca, err := os.ReadFile(f.ca)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, "/etc/sealgate/broker-ca.pem", string(ca))
	r.uci(t, plain())
	r.uci(t, map[string]string{
		"sealgate/steer/mode": "listen", "sealgate/uplink/broker.1": strings.TrimPrefix(f.url, "mqtts://"), "sealgate/uplink/ca": "/etc/sealgate/broker-ca.pem",
		"sealgate/control/broker.1": f.url, "sealgate/control/ca": "/etc/sealgate/broker-ca.pem",
	})
}

// A ticket on standard input: the identity comes over the broker, is controld's alone, and both daemons are started with it.
func TestEnrols(t *testing.T) {
	t.Parallel()
	r, f := newRouter(t), newFleet(t)
	f.configure(t, r)
	r.ns = f.ns
	out := r.must(t, 0, accounts+": >/log\nsealgate-enrol && stat -c '%a %u:%g %n' /etc/sealgate/identity /etc/sealgate/identity/*.key && /etc/init.d/sealgate-gatewayd check", f.ticket(t, "gw1"))
	if want := "750 5884:5883 /etc/sealgate/identity\n600 5884:5883 /etc/sealgate/identity/identity.key\n/var/run/sealgate/sealgate.toml: ok\n/var/run/sealgate/sealgate.toml: ok\n"; !strings.HasSuffix(out, want) {
		t.Errorf("said\n%s\nwant it to end with\n%s", out, want)
	}
	if log := r.read("/log"); !strings.Contains(log, "open_instance|gatewayd\n") || !strings.Contains(log, "open_instance|controld\n") {
		t.Errorf("procd was told\n%s", log)
	}
}

// From the web page: the ticket is a file until it is taken up, the answer comes at once, and how it goes is asked for.
func TestEnrolsFromPage(t *testing.T) {
	t.Parallel()
	r, f := newRouter(t), newFleet(t)
	f.configure(t, r)
	r.ns = f.ns
	r.must(t, 0, accounts)
	ask := func(ticket string) (asked struct {
		Enrolled bool
		Code     *int
		Said     string
	}) {
		t.Helper()
		out := r.must(t, 0, `sealgate-enrol --status >/dev/null && cat >/var/run/sealgate-enrol/ticket && sealgate-enrol --from-page || exit
[ ! -e /var/run/sealgate-enrol/ticket ] || echo the ticket is there still
until sealgate-enrol --status | tee /answer | grep -q '"code":[-0-9]'; do usleep 50000; done
cat /answer`, ticket)
		if err := json.Unmarshal([]byte(out), &asked); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		return asked
	}
	if a := ask(`no ticket \ "at all"` + "\n"); a.Enrolled || a.Code == nil || *a.Code == 0 || !strings.Contains(a.Said, "controld: ") {
		t.Errorf("no ticket: %+v", a)
	}
	if a := ask(f.ticket(t, "gw2")); !a.Enrolled || a.Code == nil || *a.Code != 0 || !strings.Contains(a.Said, "this machine is gateway gw2 of fleet plant") {
		t.Errorf("%+v", a)
	}
	if info, err := os.Stat(filepath.Join(r.root, "var/run/sealgate-enrol")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("where the ticket is put: %v %v, want mode 0700", info, err)
	}
}

// Enrolled by a ticket, both daemons run with what the package renders and owns, each as its own account, and meet at the socket; after
// that nothing below /etc has been written but what the policy brought.
func TestRunsAsItsAccounts(t *testing.T) {
	t.Parallel()
	r, f := newRouter(t), newFleet(t)
	f.configure(t, r)
	r.ns = f.ns
	out := r.must(t, 0, accounts+`sealgate-enrol >/enrol.log 2>&1 || { cat /enrol.log; exit 1; }
: >/tmp/controld.log; chmod 666 /tmp/controld.log
start-stop-daemon -S -b -m -p /controld.pid -c sealgatectl:sealgate -x /bin/sh -- -c 'exec /usr/sbin/controld -config /var/run/sealgate/sealgate.toml 2>/tmp/controld.log'
/usr/libexec/sealgate/gatewayd /var/run/sealgate/sealgate.toml 2>/tmp/gatewayd.log &
left=600
until sealctl status --json 2>/dev/null >/answer && grep -q '"sending":"[0-9]' /answer; do
	left=$((left - 1))
	[ $left -gt 0 ] && kill -0 $! || { cat /tmp/*.log /answer; exit 1; }
	usleep 100000
done
for pid in $(cat /controld.pid) $!; do grep -E '^(Name|Uid|Gid|CapEff|NoNewPrivs):' /proc/$pid/status | tr '\n\t' '  '; echo; done
ls -A /etc/sealgate/state/controld; stat -c '%A %U:%G' /var/run/sealgate/link/keylink.sock`, f.ticket(t, "gw1"))
	const own = "CapEff: 0000000000000000 NoNewPrivs: 1 \n"
	want := "Name: controld Uid: 5884 5884 5884 5884 Gid: 5883 5883 5883 5883 " + own + "Name: gatewayd Uid: 5883 5883 5883 5883 Gid: 5883 5883 5883 5883 " + own +
		"floor\npolicy.cose\nsrw-rw---- sealgatectl:sealgate\n"
	if out != want {
		t.Errorf("says\n%s\nwant\n%s", out, want)
	}
}
