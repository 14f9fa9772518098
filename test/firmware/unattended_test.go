package firmware

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealgate/test/lab"
)

// TestUnattended sets an appliance up by files that somebody put into the folder "setup" of its disk's boot partition, as docs/INSTALL.md says, and types nothing. At first
// one of the files is wrong, which the appliance says where a person without a console finds it.
func TestUnattended(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	s := newSite(t)
	lan := cable(t, s.sensor, "lan")
	m := newMachine(t, kinds()[0], lan, s.open(t, ""))
	ticket := s.ticket(t)
	pem, err := os.ReadFile(s.ca.File)
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, map[string]string{"ticket": ticket + "\r\n", "Broker.txt": "\ufeffmqtts://" + brokerIP + ":8883\r\n", "ca.pem": string(pem), "place.conf": "PLACE=bridge\r\nADRESS=10.9.0.50/24\r\n"})
	m.on(t)
	m.says(t, `setup: place.conf: line 2: there is no setting "ADRESS"`)
	m.says(t, "Not set up yet")
	m.cutPower()
	if said := m.get(t, "error.txt"); !strings.Contains(said, `place.conf: line 2: there is no setting "ADRESS"`) {
		t.Errorf("error.txt: %q", said)
	}

	m.put(t, map[string]string{"place.conf": "PLACE=bridge\r\nADDRESS=10.9.0.50/24\r\n"})
	m.on(t)
	m.says(t, "setup: Setting this appliance up by the files")
	m.says(t, "nobody serves this fleet")
	s.serve(t)
	m.says(t, "setup: This appliance is set up, and the ticket is erased")
	s.publishPolicy(t)
	s.awaitSealed(t, m, 0)
	m.cutPower()
	if names := m.files(t); strings.Join(names, " ") != "broker.txt ca.pem place.conf" {
		t.Errorf("the folder holds %q", names)
	}
	if m.contains(t, []byte(ticket)[len(ticket)/2:]) {
		t.Error("the ticket is on the disk still")
	}

	// An appliance that is set up takes no notice of files, unless a power cut came between its membership and the erasing.
	m.put(t, map[string]string{"ticket": "sealgate-ticket-1-x", "place.conf": "ADDRESS=10.9.0.51/24"})
	m.on(t)
	m.says(t, "Set up. `sealctl status` shows")
	if names := m.files(t); strings.Join(names, " ") != "broker.txt ca.pem place.conf ticket" {
		t.Errorf("the folder holds %q", names)
	}
	m.types(t, "touch /data/ticket-unerased; sync; reboot")
	m.ends(t)
	m.on(t)
	m.says(t, "Set up. `sealctl status` shows")
	m.cutPower()
	if names := m.files(t); strings.Join(names, " ") != "broker.txt ca.pem place.conf" || m.contains(t, []byte("sealgate-ticket-1-x")) {
		t.Errorf("the folder holds %q; the ticket may be on the disk still", names)
	}
	if !s.wire.Contains([]byte{10, 9, 0, 50}) {
		t.Error("nothing came from the address that place.conf gives")
	}
	s.judge(t)
}

// boot names the disk's boot partition for mtools.
func (m *machine) boot() string { return m.disk + "@@1M" }

// put writes files into the folder of the boot partition, as an operator does before the disk goes into the machine.
func (m *machine) put(t *testing.T, files map[string]string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "setup")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mtools(t, "mcopy", "-s", "-o", "-i", m.boot(), dir, "::")
}

func (m *machine) get(t *testing.T, name string) string {
	t.Helper()
	return mtools(t, "mtype", "-i", m.boot(), "::setup/"+name)
}

// files are the names in the folder, sorted and in small letters.
func (m *machine) files(t *testing.T) (names []string) {
	t.Helper()
	for _, path := range strings.Fields(strings.ToLower(mtools(t, "mdir", "-b", "-i", m.boot(), "::setup"))) {
		names = append(names, path[strings.LastIndex(path, "/")+1:])
	}
	slices.Sort(names)
	return names
}

// contains looks for bytes anywhere on the disk.
func (m *machine) contains(t *testing.T, b []byte) bool {
	t.Helper()
	disk, err := os.ReadFile(m.disk)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(disk, b)
}

func mtools(t *testing.T, program string, args ...string) string {
	t.Helper()
	code, out, errs := lab.Run(t, lab.Within(t, patience), lab.Cmd{Path: lab.NeedTool(t, program), Args: args})
	if code != 0 {
		t.Fatalf("%s %q: exit %d\n%s", program, args, code, errs)
	}
	return out
}
