package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

// The real programs in a shape that the other tests do not have: the only keeper on a server without any gateway, control
// messages on a broker of their own, which has another CA, and below prefixes that one would rather not choose.

const brokersPolicy = `version = 1
unmatched = "pass"
[[group]]
name = "default"
topics = ["plant/#"]
keepers = ["keeper1"]
activate_after = "500ms"
checkpoint = "1s"
`

// prefixes are first levels of control topics: the plain one, one of several levels with a space and an empty one, and
// one of letters of two, three and four bytes, one of them not in Unicode's composed form.
var prefixes = []string{"control", "works/hall 7//keys", "gro\u0308ße/制御/🔑"}

func TestKeeperOnItsOwnAndControlOnItsOwnBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	lab.NeedTool(t, "mosquitto")
	for _, prefix := range prefixes {
		t.Run(prefix, func(t *testing.T) { newApart(t, prefix).run() })
	}
}

// apart is one such installation.
type apart struct {
	*testing.T
	prefix        string
	plant         *lab.Plant // its broker carries the data
	control       string     // URL of the other broker
	bundle        string     // PEM file of both brokers' CAs
	keeper        *lab.Proc
	keeperConf    string
	keeperLink    string
	data, keys    *spy
	device        mqtt.Client
	reader        *lab.Proc
	controlBroker *lab.Broker
}

func newApart(t *testing.T, prefix string) *apart {
	a := &apart{T: t, prefix: prefix, plant: lab.NewPlant(t, lab.PlantOptions{Loopback: true})}
	a.plant.Fleet = lab.NewFleet(t, a.plant.Programs.Sealctl, brokersPolicy, map[string]string{"gw1": "gateway", "keeper1": "keeper", "ops": "operator", "sub1": "subscriber"})
	ca, port := lab.NewCA(t, "control broker CA"), lab.FreePort(t)
	a.controlBroker = lab.Mosquitto(t, lab.BrokerOptions{TLS: port, Cert: ca.Issue(t, "control broker", time.Time{}, "127.0.0.1")})
	a.control = fmt.Sprintf("mqtts://127.0.0.1:%d", port)
	dir := t.TempDir()
	a.bundle = filepath.Join(dir, "brokers.pem")
	var pems []byte
	for _, f := range []string{a.plant.CA.File, ca.File} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pems = append(pems, b...)
	}
	a.write(a.bundle, string(pems))
	a.plant.Conf.Set("", "identity", a.plant.Fleet.Identity("gw1"))
	a.plant.Conf.Set("control", "broker", a.control).Set("control", "ca", ca.File).Set("control", "prefix", prefix)
	a.plant.WriteConf(t)
	// What OPERATIONS shows for a keeper that runs alone, and no more.
	a.keeperLink, a.keeperConf = filepath.Join(dir, "k.sock"), filepath.Join(dir, "keeper.toml")
	conf := lab.Conf{}
	conf.Set("", "fleet", "plant").Set("", "identity", a.plant.Fleet.Identity("keeper1"))
	conf.Set("", "state", filepath.Join(dir, "state")).Set("", "keylink", a.keeperLink).Set("", "keep", filepath.Join(dir, "keys"))
	conf.Set("control", "broker", a.control).Set("control", "ca", ca.File).Set("control", "prefix", prefix)
	a.write(a.keeperConf, conf.String())
	a.data, a.keys = newSpy(t, a.plant.URL(), a.plant.CA.Pool()), newSpy(t, a.control, ca.Pool())
	return a
}

func (a *apart) write(file, text string) {
	a.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		a.Fatal(err)
	}
}

func (a *apart) startKeeper() {
	a.keeper = lab.Start(a.T, lab.Cmd{Path: a.plant.Programs.Controld, Args: []string{"-config", a.keeperConf}})
}

func (a *apart) sealctl(args ...string) lab.Cmd {
	return lab.Cmd{Path: a.plant.Programs.Sealctl, Args: args}
}

// member is sealctl as a member that knows both brokers.
func (a *apart) member(command, name string, args ...string) lab.Cmd {
	return a.sealctl(slices.Concat([]string{command, "-i", a.plant.Fleet.Identity(name), "-b", a.plant.URL(), "--control-broker", a.control, "--cafile", a.bundle, "--prefix", a.prefix}, args)...)
}

func (a *apart) run() {
	a.startKeeper()
	a.plant.Up(a.T)
	a.reader = lab.Start(a.T, a.member("sub", "sub1", "-t", "plant/#", "--json"))
	if err := a.reader.AwaitLine(lab.Within(a.T, 40*time.Second), "subscribed"); err != nil {
		a.Fatal(err)
	}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + a.plant.DeviceAddr()).SetClientID("device").SetConnectTimeout(10 * time.Second)
	a.device = mqtt.NewClient(o)
	a.done(a.device.Connect())
	a.Cleanup(func() { a.device.Disconnect(0) })

	a.through("before")
	a.rotate()
	a.through("after a rotation")
	// A new policy, published to the control broker by an operator.
	a.sealctlDo("policy", "sign", a.plant.Fleet.Dir)
	a.sealctlDo("policy", "publish", a.plant.Fleet.Dir, "-i", a.plant.Fleet.Identity("ops"), "-b", a.control, "--cafile", a.bundle, "--prefix", a.prefix)
	a.awaitEpochOfPolicy(2)
	a.through("under the next policy")
	// Each of the keeper, the gateway's controld and the control broker goes and comes back; data goes on.
	a.keeper.Kill()
	a.through("without the keeper")
	a.startKeeper()
	a.plant.Controld.Kill()
	a.through("without the gateway's controld")
	a.plant.StartControld(a.T)
	a.controlBroker.Kill()
	a.through("without the control broker")
	a.controlBroker.Restart(a.T)
	a.rotate()
	// A device does not get below the prefix, although this broker carries no control messages and the policy lets all else pass.
	a.done(a.device.Publish(a.prefix+"/control", 0, false, "junk"))
	a.done(a.device.Publish("other", 1, false, "in clear"))
	a.through("at the end")
	a.data.await(a.T, "other") // and what came before it
	a.keys.await(a.T, a.prefix+"/checkpoint/default/gw1")
	a.check()
}

func (a *apart) done(token mqtt.Token) {
	a.Helper()
	if !token.WaitTimeout(40*time.Second) || token.Error() != nil {
		a.Fatalf("in vain: %v", token.Error())
	}
}

func (a *apart) sealctlDo(args ...string) {
	a.Helper()
	lab.MustRun(a.T, lab.Within(a.T, 40*time.Second), a.sealctl(args...))
}

// rotate has the keeper make an epoch, as soon as it is there to do so, and waits until the gateway seals under it.
func (a *apart) rotate() {
	a.Helper()
	before := a.plant.Epoch(a.T, "default")
	limit := lab.Within(a.T, 60*time.Second)
	for {
		code, _, why := lab.Run(a.T, limit, a.sealctl("rotate", "--group", "default", "--keylink", a.keeperLink))
		if code == 0 {
			break
		}
		select {
		case <-limit.Done():
			a.Fatalf("the keeper does not rotate: %s", why)
		case <-time.After(100 * time.Millisecond):
		}
	}
	a.plant.AwaitEpoch(a.T, "default", before+1)
}

// awaitEpochOfPolicy waits until the gateway's controld seals under an epoch of this policy version.
func (a *apart) awaitEpochOfPolicy(version int) {
	a.Helper()
	limit := lab.Within(a.T, 40*time.Second)
	for {
		_, out, _ := lab.Run(a.T, limit, a.sealctl("status", "--json", "--config", a.plant.ConfFile))
		if strings.Contains(out, fmt.Sprintf(`"sending":"%d.`, version)) || strings.Contains(out, fmt.Sprintf(`"sending": "%d.`, version)) {
			return
		}
		select {
		case <-limit.Done():
			a.Fatalf("no epoch of policy %d:\n%s", version, out)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// through publishes as a device and waits until the reader has opened it.
func (a *apart) through(what string) {
	a.Helper()
	a.done(a.device.Publish("plant/a", 1, false, "needle "+what))
	if err := a.reader.Await(lab.Within(a.T, 40*time.Second), func(out, _ []string) bool {
		return slices.ContainsFunc(out, func(line string) bool {
			var m struct{ Payload, Status string }
			return json.Unmarshal([]byte(line), &m) == nil && m.Status == "ok" && m.Payload == "needle "+what
		})
	}); err != nil {
		a.Fatalf("%s: not opened: %v\n%s\n%s", what, err, strings.Join(a.reader.Stdout(), "\n"), strings.Join(a.reader.Stderr(), "\n"))
	}
}

// check holds what each broker saw.
func (a *apart) check() {
	a.Helper()
	for _, m := range a.data.seen() {
		if !strings.HasPrefix(m.topic, "plant/") && m.topic != "other" || strings.Contains(m.payload, "needle") {
			a.Errorf("the data broker saw %q: %.40q", m.topic, m.payload)
		}
	}
	kinds := make(map[string]int)
	for _, m := range a.keys.seen() {
		rest, ok := strings.CutPrefix(m.topic, a.prefix+"/")
		kind, _, _ := strings.Cut(rest, "/")
		if kinds[kind]++; !ok {
			a.Errorf("the control broker saw %q", m.topic)
		}
	}
	for _, kind := range []string{"control", "inbox", "keys", "policy", "checkpoint"} {
		if kinds[kind] == 0 {
			a.Errorf("nothing of %s at the control broker: %v", kind, kinds)
		}
	}
}

// spy is a client of a broker that subscribes to everything.
type spy struct {
	mu   sync.Mutex
	all  []spied       // guarded by mu
	more chan struct{} // something has come
}

type spied struct{ topic, payload string }

func newSpy(t *testing.T, url string, roots *x509.CertPool) *spy {
	t.Helper()
	s := &spy{more: make(chan struct{}, 1)}
	o := mqtt.NewClientOptions().AddBroker(strings.NewReplacer("mqtts://", "ssl://", "mqtt://", "tcp://").Replace(url)).SetTLSConfig(&tls.Config{RootCAs: roots}).SetClientID("spy").SetMaxReconnectInterval(200 * time.Millisecond)
	o.SetOnConnectHandler(func(c mqtt.Client) {
		c.Subscribe("#", 1, func(_ mqtt.Client, m mqtt.Message) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.all = append(s.all, spied{m.Topic(), string(m.Payload())})
			select {
			case s.more <- struct{}{}:
			default:
			}
		})
	})
	c := mqtt.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(20*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return s
}

// await waits until something has come on a topic.
func (s *spy) await(t *testing.T, topic string) {
	t.Helper()
	limit := lab.Within(t, 40*time.Second)
	for !slices.ContainsFunc(s.seen(), func(m spied) bool { return m.topic == topic }) {
		select {
		case <-s.more:
		case <-limit.Done():
			t.Fatalf("the broker never saw %q", topic)
		}
	}
}

func (s *spy) seen() []spied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}
