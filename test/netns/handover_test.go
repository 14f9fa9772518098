package netns

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealgate/test/lab"
)

// scene is a gateway under the load of a crowd, with everybody who can tell what became of the messages.
type scene struct {
	*lab.Plant
	needle  string
	capture *lab.Capture
	sub     *subscriber
	witness *witness
	crowd   *crowd
}

func newScene(t *testing.T, p *lab.Plant, o crowdOptions) *scene {
	t.Helper()
	s := &scene{Plant: p, needle: o.Needle, capture: lab.NewCapture(t, p.Topo.Uplink, "eth0")}
	p.Setup(t)
	if p.Conf[""]["user"] == "nobody" {
		giveAway(t, filepath.Dir(t.TempDir()), nobody)
		startControldAs(t, p, nobody)
	} else {
		p.StartControld(t)
	}
	p.StartGatewayd(t)
	if err := p.Gatewayd.AwaitLine(lab.Within(t, 40*time.Second), "gatewayd runs"); err != nil {
		t.Fatal(err)
	}
	p.AwaitEpoch(t, "default", 1)
	s.sub = subscribe(t, p, "plant/#")
	s.witness = newWitness(t, p, o.Needle)
	s.crowd = startCrowd(t, p.Topo.Sensor, o)
	s.crowd.await(t, "the first messages", func() bool { return s.crowd.total >= o.N })
	return s
}

// settle sends the crowd home, waits until the subscriber has every message that was acknowledged, and judges the rest.
func (s *scene) settle(t *testing.T) {
	t.Helper()
	s.crowd.leave(t)
	missing := 0
	err := s.sub.await(lab.Within(t, 2*time.Minute), func() bool {
		missing = s.missing()
		return missing == 0
	})
	if err != nil {
		t.Errorf("%d of %d acknowledged messages never reached the subscriber: %v", missing, s.crowd.total, err)
	}
	if len(s.sub.bad) > 0 {
		t.Logf("the subscriber also reported %q", s.sub.bad)
	}
	s.witness.judge(t, s.crowd.total)
	if err := s.capture.Stop(); err != nil {
		t.Error(err)
	}
	if found := s.capture.Find([]byte(s.needle)); len(found) > 0 {
		t.Errorf("%d frames on the broker's wire hold payload in clear", len(found))
	}
	steered := s.Conf["steer"]["mode"] != "listen"
	if leaked := s.capture.ToPort(uint16(s.DevicePort), 0); steered && len(leaked) > 0 {
		t.Errorf("%d frames to port %d reached the broker's wire", len(leaked), s.DevicePort)
	}
	frames, bytes := s.capture.Frames()
	t.Logf("%d connections, %d messages acknowledged, %d missing; not connected %v; %d frames, %d bytes recorded", s.crowd.connected, s.crowd.total, missing, s.crowd.failed, frames, bytes)
}

// missing is how many messages were acknowledged and not opened by the subscriber.
func (s *scene) missing() (n int) {
	for i, acked := range s.crowd.acked {
		for seq := range acked {
			if s.sub.opened(fmt.Sprintf("%s%d|%d", s.needle, i, seq)) == 0 {
				n++
			}
		}
	}
	return n
}

// handOver starts another gatewayd that takes over, and waits until the one before has ended.
func (s *scene) handOver(t *testing.T) {
	t.Helper()
	old := s.Gatewayd
	s.Gatewayd = lab.Start(t, s.takeover(s.ConfFile))
	if err := s.Gatewayd.AwaitLine(lab.Within(t, time.Minute), "gatewayd runs"); err != nil {
		t.Fatal(err)
	}
	s.crowd.awaitMore(t, 25)
	if code, err := old.Wait(lab.Within(t, time.Minute)); err != nil || code != 0 {
		t.Fatalf("the gatewayd before ended with %d, %v", code, err)
	}
	if !lab.HasLine(old.Stderr(), "another gatewayd has taken over") {
		t.Error("the gatewayd before does not know why it ended")
	}
}

func (s *scene) takeover(conf string) lab.Cmd {
	return lab.Cmd{NS: s.GatewayNS(), Path: s.Programs.Gatewayd, Args: []string{"-takeover", "-config", conf}}
}

// TestHandover hands a gateway under load over three times, to one gatewayd after the other: no connection is refused, no message that
// was acknowledged is missing, no number is used twice, and nothing crosses in clear. Before that, some that cannot take over leave
// the one that runs as it was.
func TestHandover(t *testing.T) {
	for _, c := range []struct {
		name, mode, user string
		bridge           bool
		n                int
	}{
		{"tc", "tc", "", false, 300}, {"tc as nobody", "tc", "nobody", false, 50}, {"in a bridge", "tc", "", true, 50},
		{"tproxy as nobody", "tproxy", "nobody", false, 50}, {"redirect", "redirect", "", false, 50}, {"listen", "listen", "", false, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.NeedRoot(t)
			var topo *lab.Topology
			if c.bridge {
				topo = lab.NewBridgeTopology(t, true)
			}
			p := newPlantIn(t, policy, topo)
			o := crowdOptions{Addr: p.DeviceAddr(), N: c.n, Needle: needle("handover"), Stay: time.Duration(c.n) * 20 * time.Millisecond, Away: 500 * time.Millisecond, Pause: 500 * time.Millisecond}
			p.Conf.Set("uplink", "broker", p.BrokerAddr()).Set("limits", "drain", "300ms").Set("steer", "mode", c.mode)
			if c.mode == "listen" {
				o.Addr = net.JoinHostPort(lab.LANIP4, "1883")
				p.Conf.Set("steer", "listen", o.Addr)
			}
			if c.user != "" {
				p.Conf.Set("", "user", c.user)
			}
			p.WriteConf(t)
			s := newScene(t, p, o)
			s.notTaken(t)
			for range 3 {
				s.handOver(t)
			}
			s.settle(t)
			if len(s.crowd.failed) > 0 {
				t.Errorf("connections were refused: %v", s.crowd.failed)
			}
		})
	}
}

// notTaken starts gatewayds that cannot take over.
func (s *scene) notTaken(t *testing.T) {
	t.Helper()
	other := "tc"
	if s.Conf["steer"]["mode"] == other {
		other = "redirect"
	}
	for _, c := range []struct {
		name, says string
		cmd        lab.Cmd
	}{
		{"a broken program", "", lab.Cmd{Path: lab.NeedTool(t, "false"), Args: s.takeover("").Args}},
		{"without the flag", "runs already", lab.Cmd{NS: s.GatewayNS(), Path: s.Programs.Gatewayd, Args: []string{"-config", s.ConfFile}}},
		{"another mode", "steer.mode is", s.takeover(s.altered(t, map[string]any{"mode": other, "bridge": ""}))},
		{"an account that is not there", "no such account", s.takeover(s.altered(t, map[string]any{"user": "nobody-of-that-name"}))},
	} {
		code, _, stderr := lab.Run(t, lab.Within(t, time.Minute), c.cmd)
		if code != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit %d: %s", c.name, code, stderr)
		}
		s.crowd.awaitMore(t, 25)
	}
	s.killedBeforeReady(t)
	select {
	case <-s.Gatewayd.Done():
		t.Error("the gatewayd that runs ended")
	default:
	}
}

// killedBeforeReady kills a gatewayd that has the sockets, has put its classifier into place, and waits for keys in vain.
func (s *scene) killedBeforeReady(t *testing.T) {
	t.Helper()
	s.Controld.Signal(syscall.SIGSTOP)
	broken := lab.Start(t, s.takeover(s.ConfFile))
	if err := broken.AwaitLine(lab.Within(t, 20*time.Second), "confined"); err != nil {
		t.Error(err)
	}
	s.crowd.awaitMore(t, 25)
	broken.Kill()
	s.Controld.Signal(syscall.SIGCONT)
	if err := s.Gatewayd.AwaitLine(lab.Within(t, 20*time.Second), "handover broken off"); err != nil {
		t.Error(err)
	}
	s.crowd.awaitMore(t, 25)
}

// altered is the configuration file with values changed: user, and those of [steer].
func (s *scene) altered(t *testing.T, values map[string]any) string {
	t.Helper()
	conf := lab.Conf{}
	for name, keys := range s.Conf {
		conf[name] = maps.Clone(keys)
	}
	for key, value := range values {
		section := "steer"
		if key == "user" {
			section = ""
		}
		conf.Set(section, key, value)
	}
	path := filepath.Join(t.TempDir(), "sealgate.toml")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHandoverFromOneThatDies kills the gatewayd that runs while another one, which has its sockets, waits for keys: that one serves.
func TestHandoverFromOneThatDies(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Up(t)
	p.Controld.Signal(syscall.SIGSTOP)
	heir := lab.Start(t, lab.Cmd{NS: p.GatewayNS(), Path: p.Programs.Gatewayd, Args: []string{"-takeover", "-config", p.ConfFile}})
	if err := heir.AwaitLine(lab.Within(t, 30*time.Second), "confined"); err != nil {
		t.Fatal(err)
	}
	p.Gatewayd.Kill()
	p.Controld.Signal(syscall.SIGCONT)
	p.Gatewayd = heir
	p.AwaitReady(t)
	if err := heir.AwaitLine(lab.Within(t, 30*time.Second), "going on without it"); err != nil {
		t.Errorf("it does not know that the one before has died: %v", err)
	}
}

// TestNoHandoverInPassing holds that a gatewayd whose connections are inside it keeps them: who would take over is told why not.
func TestNoHandoverInPassing(t *testing.T) {
	t.Parallel()
	p := newPassingPlant(t)
	p.Up(t)
	d := startDevices(t, p.Topo.Sensor, 2, "before", p.DeviceAddr())
	d.awaitAcked(t, "before", 10)
	heir := lab.Cmd{NS: p.GatewayNS(), Path: p.Programs.Gatewayd, Args: []string{"-takeover", "-config", p.ConfFile}}
	code, _, stderr := lab.Run(t, lab.Within(t, 30*time.Second), heir)
	if code != 1 || !strings.Contains(stderr, "connections are inside the process") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	d.enter("after")
	d.awaitAcked(t, "after", 10)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts["after"].ended+d.counts["before"].ended > 0 {
		t.Error("a device's connection ended")
	}
}
