package firmware

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

const (
	brokerIP = "10.9.0.2"
	deviceIP = "10.9.0.3"
	routedIP = "10.8.0.3" // of a device behind a router
)

// TestAppliance puts an appliance as it comes out of the factory between devices and broker, sets it up at the console by a ticket, and cuts its power. From
// before it is switched on the devices publish, and nothing that they say may appear on the broker's side.
func TestAppliance(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			runAppliance(t, k)
		})
	}
}

// site is where a machine stands: devices on one side, the broker and the operator on the other.
type site struct {
	sensor, uplink *lab.Namespace
	programs       lab.Programs
	fleet          *lab.Fleet
	ca             *lab.CA
	wire           *lab.Capture
	reader         *lab.Proc
	device         *lab.Proc // publishes all the time
	marker         []byte
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{sensor: lab.NewNamespace(t, "sensor"), uplink: lab.NewNamespace(t, "uplink"), programs: lab.Build(t), ca: lab.NewCA(t, "broker CA"), marker: []byte("cleartext-of-a-device-")}
	s.fleet = lab.NewFleet(t, s.programs.Sealctl, "", map[string]string{"sub1": "subscriber", "ops": "operator"})
	return s
}

// open makes the cable to the uplink, and gives the devices their address, in the network of the broker unless gateway is the router between that and theirs; and what
// is at the ends: a broker with TLS, a DHCP server, a subscriber, and a device that publishes all the time.
func (s *site) open(t *testing.T, gateway string) (up wire) {
	t.Helper()
	up = cable(t, s.uplink, "up")
	if gateway == "" {
		s.sensor.AddAddr(t, "lan", deviceIP+"/24")
	} else {
		s.sensor.AddAddr(t, "lan", routedIP+"/24")
		s.sensor.AddRoute(t, brokerIP+"/32", gateway)
	}
	s.uplink.AddAddr(t, "up", brokerIP+"/24")
	s.wire = lab.NewCapture(t, s.uplink, "up")
	lab.Mosquitto(t, lab.BrokerOptions{NS: s.uplink, TLS: 8883, Plain: 1883, Cert: s.ca.Issue(t, "broker", time.Time{}, brokerIP)})
	s.dhcp(t)
	s.reader = lab.Start(t, s.sealctl("sub", "-i", s.fleet.Identity("sub1"), "-t", "plant/#", "--json"))
	s.device = lab.Start(t, lab.Cmd{NS: s.sensor, Path: "/bin/sh", Args: []string{"-c", fmt.Sprintf(
		"n=0; while n=$((n+1)); do timeout 5 mosquitto_pub -h %s -t plant/$n -q 1 -m '%s' 2>/dev/null; sleep 0.2; done", brokerIP, bytes.Repeat(s.marker, 4))}})
	return up
}

// sealctl is the operator's tool beside the broker.
func (s *site) sealctl(command string, args ...string) lab.Cmd {
	words := append(strings.Fields(command), args...)
	return lab.Cmd{NS: s.uplink, Path: s.programs.Sealctl, Args: append(words, "-b", "mqtts://"+brokerIP+":8883", "--cafile", s.ca.File)}
}

func (s *site) dhcp(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "udhcpd.conf")
	text := fmt.Sprintf("start 10.9.0.100\nend 10.9.0.120\ninterface up\nlease_file %s/leases\npidfile %s/pid\noption subnet 255.255.255.0\n", dir, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	lab.Start(t, lab.Cmd{NS: s.uplink, Path: "busybox", Args: []string{"udhcpd", "-f", conf}})
}

// awaitSealed waits for the next message that the subscriber opens, after the first few.
func (s *site) awaitSealed(t *testing.T, m *machine, after int) {
	t.Helper()
	if err := s.reader.Await(lab.Within(t, patience), func(stdout, _ []string) bool { return opened(stdout) > after }); err != nil {
		t.Fatalf("no sealed message: %v; the console said\n%s", err, strings.Join(m.proc.Stdout(), "\n"))
	}
	took := time.Since(m.since)
	cpu, err := m.proc.CPU()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: first sealed message %.1f s after power on, %.1f s of a processor", m.kind.name, took.Seconds(), cpu.Seconds())
}

func opened(lines []string) (n int) {
	for _, l := range lines {
		if strings.Contains(l, `"status":"ok"`) {
			n++
		}
	}
	return n
}

// enrol sets the machine up at its console.
func (s *site) enrol(t *testing.T, m *machine) {
	t.Helper()
	ticket := s.ticket(t)
	s.serve(t)
	pem, err := os.ReadFile(s.ca.File)
	if err != nil {
		t.Fatal(err)
	}
	m.says(t, "Not set up yet")
	m.types(t, "setup")
	m.says(t, "A ticket makes this gateway")
	m.types(t, ticket)
	m.says(t, "The broker that keys are exchanged over")
	m.types(t, "mqtts://"+brokerIP+":8883")
	m.says(t, "The CA of its certificate")
	m.types(t, strings.TrimSpace(string(pem)))
	m.says(t, "Done: this is gateway")
	s.publishPolicy(t)
}

// ticket makes one for the machine.
func (s *site) ticket(t *testing.T) string {
	t.Helper()
	code, ticket, errs := lab.Run(t, lab.Within(t, patience), lab.Cmd{Path: s.programs.Sealctl, Args: []string{"fleet", "ticket", s.fleet.Dir, "--name", "gw1"}})
	if code != 0 {
		t.Fatal(errs)
	}
	return strings.TrimSpace(ticket)
}

// serve has the operator answer who comes with a ticket.
func (s *site) serve(t *testing.T) {
	t.Helper()
	lab.Start(t, s.sealctl("fleet serve", s.fleet.Dir))
}

func (s *site) publishPolicy(t *testing.T) {
	t.Helper()
	lab.MustRun(t, lab.Within(t, patience), s.sealctl("policy publish", s.fleet.Dir, "-i", s.fleet.Identity("ops")))
}

// begin sets up a machine as it comes out of the factory, has it seal under its first key and the next, and cuts its power.
func begin(t *testing.T, k kind) (*site, *machine) {
	t.Helper()
	s := newSite(t)
	lan := cable(t, s.sensor, "lan")
	m := newMachine(t, k, lan, s.open(t, ""))
	m.on(t)
	s.enrol(t, m)
	s.awaitSealed(t, m, 0)
	m.types(t, "sealctl rotate --group default && echo rotated")
	m.says(t, "rotated")
	s.awaitSealed(t, m, opened(s.reader.Stdout()))
	m.cutPower()
	return s, m
}

func runAppliance(t *testing.T, k kind) {
	lab.NeedRoot(t)
	s, m := begin(t, k)
	s.startsIn(t, m, "A")

	s.upgrade(t, m, "B", slotImage(t, k))
	s.startsIn(t, m, "B")
	m.says(t, "slot B works, and is kept")
	m.cutPower()
	s.startsIn(t, m, "B")

	// An image that is signed, and does not boot.
	s.upgrade(t, m, "A", make([]byte, 1<<20))
	m.on(t)
	m.says(t, "Slot A cannot be started")
	m.ends(t)
	s.startsIn(t, m, "B")

	// The power goes in the middle of writing.
	s.fetch(t, m, slotImage(t, k))
	m.says(t, "30 %")
	m.cutPower()
	s.startsIn(t, m, "B")

	s.judge(t)
}

// judge looks for what devices said on the broker's side.
func (s *site) judge(t *testing.T) {
	t.Helper()
	if s.wire.Contains(s.marker) {
		t.Errorf("what a device said crossed in clear: %q", s.wire.Find(s.marker)[0])
	}
	if n := len(s.wire.ToPort(1883, 0)); n > 0 { // a connection that comes to nothing is one that got past the gateway all the same
		t.Errorf("%d packets to a steered port crossed", n)
	}
	if frames, _ := s.wire.Frames(); frames == 0 {
		t.Error("the capture is empty")
	}
}

// startsIn switches the machine on, which is to start from a slot, and to seal.
func (s *site) startsIn(t *testing.T, m *machine, slot string) {
	t.Helper()
	before := opened(s.reader.Stdout())
	m.on(t)
	m.says(t, "Sealgate, slot "+slot)
	s.awaitSealed(t, m, before)
}

// slotImage is what an upgrade writes.
func slotImage(t *testing.T, k kind) []byte {
	t.Helper()
	b, err := os.ReadFile(k.imageFile() + ".slot")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// upgrade has the machine write an image to a slot and restart.
func (s *site) upgrade(t *testing.T, m *machine, slot string, image []byte) {
	t.Helper()
	s.fetch(t, m, image)
	m.says(t, "slot "+slot+" is written")
	m.ends(t)
}

// fetch has the machine fetch an image that the operator signed, and begin an upgrade.
func (s *site) fetch(t *testing.T, m *machine, image []byte) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "slot")
	if err := os.WriteFile(file, image, 0o644); err != nil {
		t.Fatal(err)
	}
	lab.MustRun(t, lab.Within(t, patience), lab.Cmd{Path: s.programs.Sealctl, Args: []string{"upgrade", "sign", file, "-i", s.fleet.Identity("ops")}})
	server := lab.Start(t, lab.Cmd{NS: s.uplink, Path: "busybox", Args: []string{"httpd", "-f", "-p", "8000", "-h", dir}})
	defer server.Kill()
	m.types(t, "cd /data && rm -f slot* && wget -q http://"+brokerIP+":8000/slot http://"+brokerIP+":8000/slot.sig; sealctl upgrade slot --restart")
	m.says(t, "writing it to slot")
}
