package netns

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// failing is a way to start a program wrongly.
type failing struct {
	name string
	cmd  func(t *testing.T, p *lab.Plant) lab.Cmd
	code int      // 1 or 2; 0: either
	says []string // what the one line has to contain, in any case
}

// with returns a daemon's command line with a configuration that differs from the plant's.
func with(t *testing.T, p *lab.Plant, daemon string, change func(lab.Conf)) lab.Cmd {
	t.Helper()
	conf := lab.Conf{}
	for section, values := range p.Conf {
		for key, value := range values {
			conf.Set(section, key, value)
		}
	}
	change(conf)
	file := filepath.Join(t.TempDir(), "sealgate.toml")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return lab.Cmd{Path: daemon, Args: []string{"-config", file}}
}

// brokerWith starts a broker on loopback with a certificate and returns its URL.
func brokerWith(t *testing.T, cert lab.Cert) string {
	t.Helper()
	port := lab.FreePort(t)
	lab.Mosquitto(t, lab.BrokerOptions{TLS: port, Cert: cert})
	return "mqtts://127.0.0.1:" + strconv.Itoa(port)
}

var failings = []failing{
	{"gatewayd: no configuration", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Gatewayd, Args: []string{"-config", "/nonexistent/sealgate.toml"}}
	}, 0, []string{"/nonexistent/sealgate.toml", "no such file"}},
	{"controld: no configuration", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Controld, Args: []string{"-config", "/nonexistent/sealgate.toml"}}
	}, 0, []string{"/nonexistent/sealgate.toml", "no such file"}},
	{"gatewayd: unknown key", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return with(t, p, p.Programs.Gatewayd, func(c lab.Conf) { c.Set("steer", "prots", 1883) })
	}, 2, []string{"sealgate.toml:", "prots"}},
	{"gatewayd -check: bad value", func(t *testing.T, p *lab.Plant) lab.Cmd {
		cmd := with(t, p, p.Programs.Gatewayd, func(c lab.Conf) { c.Set("limits", "max_message", "lots") })
		cmd.Args = append([]string{"-check"}, cmd.Args...)
		return cmd
	}, 2, []string{"max_message"}},
	{"gatewayd: unknown flag", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Gatewayd, Args: []string{"-confgi", "x"}}
	}, 2, []string{"confgi"}},
	{"gatewayd: port taken", func(t *testing.T, p *lab.Plant) lab.Cmd {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return with(t, p, p.Programs.Gatewayd, func(c lab.Conf) { c.Set("steer", "listen", l.Addr().String()) })
	}, 1, []string{"steer.listen", "taken"}},
	{"gatewayd: uplink CA missing", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return with(t, p, p.Programs.Gatewayd, func(c lab.Conf) { c.Set("uplink", "ca", "/nonexistent/ca.pem") })
	}, 0, []string{"/nonexistent/ca.pem"}},
	{"controld: identity missing", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return with(t, p, p.Programs.Controld, func(c lab.Conf) { c.Set("", "identity", "/nonexistent/identity") })
	}, 0, []string{"/nonexistent/identity"}},
	{"controld: identity of another fleet", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return with(t, p, p.Programs.Controld, func(c lab.Conf) { c.Set("", "fleet", "another") })
	}, 0, []string{"another", "plant"}},
	{"sealctl: identity directory is not one", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"sub", "-i", t.TempDir(), "-b", p.URL(), "-t", "#"}}
	}, 1, []string{"identity"}},
	{"sealctl: another CA", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"pub", "-i", p.Fleet.Identity("sub1"), "-b", p.URL(),
			"-t", "plant/x", "-m", "x", "--cafile", lab.NewCA(t, "another").File}}
	}, 1, []string{"not signed by", "--cafile"}},
	{"sealctl: expired broker certificate", func(t *testing.T, p *lab.Plant) lab.Cmd {
		url := brokerWith(t, p.CA.Issue(t, "expired", time.Now().Add(-time.Hour), "127.0.0.1"))
		return lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"pub", "-i", p.Fleet.Identity("sub1"), "-b", url,
			"-t", "plant/x", "-m", "x", "--cafile", p.CA.File}}
	}, 1, []string{"not valid now", "renew it"}},
	{"sealctl: nobody listens", func(t *testing.T, p *lab.Plant) lab.Cmd {
		url := "mqtts://127.0.0.1:" + strconv.Itoa(lab.FreePort(t))
		return lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"pub", "-i", p.Fleet.Identity("sub1"), "-b", url,
			"-t", "plant/x", "-m", "x", "--cafile", p.CA.File}}
	}, 1, []string{"refused"}},
	{"sealctl: rotate without controld", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return p.RotateCmd("default")
	}, 1, []string{"keylink.sock"}},
	{"sealctl: unknown command", func(t *testing.T, p *lab.Plant) lab.Cmd {
		return lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"subb"}}
	}, 2, []string{"subb"}},
}

// TestStartupErrors starts the programs wrongly: each says in one line what is wrong, and ends with code 1 or 2.
func TestStartupErrors(t *testing.T) {
	p := loopbackPlant(t)
	for _, f := range failings {
		t.Run(f.name, func(t *testing.T) { f.check(t, f.cmd(t, p)) })
	}
}

func loopbackPlant(t *testing.T) *lab.Plant {
	t.Helper()
	lab.NeedTool(t, "mosquitto")
	return lab.NewPlant(t, lab.PlantOptions{Policy: policy, Loopback: true})
}

// check runs the command and judges its end.
func (f failing) check(t *testing.T, cmd lab.Cmd) {
	t.Helper()
	code, _, stderr := lab.Run(t, lab.Within(t, 40*time.Second), cmd)
	if code != 1 && code != 2 || f.code != 0 && code != f.code {
		t.Errorf("exit code %d, want %d (0: 1 or 2)", code, f.code)
	}
	said := slices.DeleteFunc(strings.Split(strings.TrimSpace(stderr), "\n"), func(line string) bool {
		return strings.Contains(line, " level=INFO ") // what went well until then
	})
	if len(said) != 1 {
		t.Errorf("%d lines say what is wrong, want one", len(said))
	}
	for _, want := range f.says {
		if !strings.Contains(strings.ToLower(stderr), strings.ToLower(want)) {
			t.Errorf("the message does not say %q", want)
		}
	}
	if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "panic") {
		t.Error("a stack trace")
	}
	t.Log(stderr)
}

// TestUnreadableConfiguration needs a user who is not root, or files could always be read.
func TestUnreadableConfiguration(t *testing.T) {
	lab.NeedRoot(t)
	setpriv := lab.NeedTool(t, "setpriv")
	p := loopbackPlant(t)
	dir, err := os.MkdirTemp("", "sealgate-unprivileged-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	programs := copyPrograms(t, p, dir)
	file := filepath.Join(dir, "sealgate.toml")
	p.Conf.Set("steer", "mode", "tc").Set("steer", "lan", []string{"lan0"}).Set("steer", "uplink", []string{"up0"})
	if err := os.WriteFile(file, []byte(p.Conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := func(daemon string, args ...string) lab.Cmd {
		return lab.Cmd{Path: setpriv, Args: append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all", daemon}, args...)}
	}
	failing{says: []string{file, "permission denied"}}.check(t, nobody(programs.Gatewayd, "-config", file))
	failing{says: []string{file, "permission denied"}}.check(t, nobody(programs.Controld, "-config", file))
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	failing{says: []string{"cap_net_admin"}}.check(t, nobody(programs.Gatewayd, "-setup", "-config", file))
}

// copyPrograms puts the programs where everybody can run them.
func copyPrograms(t *testing.T, p *lab.Plant, dir string) lab.Programs {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := lab.Programs{Gatewayd: filepath.Join(dir, "gatewayd"), Controld: filepath.Join(dir, "controld")}
	for from, to := range map[string]string{p.Programs.Gatewayd: to.Gatewayd, p.Programs.Controld: to.Controld} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestUplinkErrors holds that a broker whose certificate is wrong gets no device's connection, and that the log and a counter
// say why.
func TestUplinkErrors(t *testing.T) {
	lab.NeedTool(t, "mosquitto")
	p := lab.NewPlant(t, lab.PlantOptions{Policy: policy, Loopback: true})
	p.Up(t) // the keys have to be there before the uplink is tried
	for _, c := range []struct {
		name, says string
		cert       lab.Cert
	}{
		{"another CA", "not signed by uplink.ca", lab.NewCA(t, "another").Issue(t, "b", time.Time{}, "127.0.0.1")},
		{"expired", "not valid now", p.CA.Issue(t, "expired", time.Now().Add(-time.Hour), "127.0.0.1")},
		{"another host", "not for", p.CA.Issue(t, "host", time.Time{}, "10.9.9.9")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Broker.Kill()
			o := p.BrokerOptions()
			o.Cert = c.cert
			p.Broker = lab.Mosquitto(t, o)
			logged := len(p.Gatewayd.Stderr())
			if err := p.Probe(lab.Within(t, 20*time.Second)); err == nil {
				t.Error("a device was connected to a broker that cannot prove who it is")
			}
			err := p.Gatewayd.Await(lab.Within(t, 10*time.Second), func(_, stderr []string) bool {
				return len(stderr) > logged && lab.HasLine(stderr[logged:], c.says)
			})
			if err != nil {
				t.Error(err)
			}
			sum := 0.0
			for name, value := range p.Metrics(t) {
				if strings.HasPrefix(name, "sealgate_uplink_errors_total{") {
					sum += value
				}
			}
			if sum == 0 {
				t.Error("sealgate_uplink_errors_total counts nothing")
			}
			noTraces(t, p.Gatewayd, p.Controld)
		})
	}
}

// TestUnguarded holds that gatewayd starts in no mode where -setup has not been run, or for other ports, and says what to
// do; and that its log tells what this kernel can do. No mode is missing on a kernel that runs these tests.
func TestUnguarded(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	can := `"this kernel can steer" modes="tc tproxy redirect nfqueue"`
	for _, mode := range []string{"tc", "tproxy", "redirect", "nfqueue"} {
		p.Conf.Set("steer", "mode", mode).Set("steer", "ports", []int{p.DevicePort})
		if mode == "nfqueue" {
			passes(t, p)
		}
		p.WriteConf(t)
		start := lab.Cmd{NS: p.GatewayNS(), Path: p.Programs.Gatewayd, Args: []string{"-config", p.ConfFile}}
		run := "gatewayd -setup -config " + p.ConfFile
		failing{code: 1, says: []string{can, "no guard: nftables has no", run}}.check(t, start)
		p.Setup(t)
		p.Conf.Set("steer", "ports", []int{p.DevicePort, 1999})
		p.WriteConf(t)
		failing{code: 1, says: []string{can, "does not cover port 1999", run}}.check(t, start)
		p.Conf.Set("steer", "ports", []int{p.DevicePort})
		p.WriteConf(t)
		p.StartGatewayd(t)
		if err := p.Gatewayd.AwaitLine(lab.Within(t, time.Minute), `"modes in which this kernel can steer, as -setup found" can="tc tproxy redirect nfqueue" cannot=""`); err != nil {
			t.Error(err)
		}
		p.Gatewayd.Kill()
		p.Teardown(t)
	}
}
