package firmware

import (
	"os"
	"path/filepath"
	"testing"

	"sealgate/test/lab"
)

// TestTrial upgrades to a slot that starts, network and all, and seals nothing: its start never comes to an end, so gatewayd is not run, and init listens to nobody.
// The machine goes back by itself, and meanwhile nothing crosses.
func TestTrial(t *testing.T) {
	lab.NeedRoot(t)
	t.Parallel()
	s := newSite(t)
	lan := cable(t, s.sensor, "lan")
	m := newMachine(t, kinds()[0], lan, s.open(t, ""))
	m.on(t)
	s.enrol(t, m)
	s.awaitSealed(t, m, 0)
	s.upgrade(t, m, "B", hangingSlot(t, m.kind))

	before := opened(s.reader.Stdout())
	m.on(t)
	m.says(t, "Sealgate, slot B")
	m.says(t, "this start hangs")
	m.ends(t) // after two minutes, and what it takes to start
	m.says(t, "slot B does not work, and is not kept: no message was sealed within 2m0s")
	if n := opened(s.reader.Stdout()) - before; n > 0 {
		t.Errorf("it sealed %d messages: this test is of no use", n)
	}
	s.startsIn(t, m, "A")
	s.judge(t)
}

// hangingSlot is the image's slot, but that its start hangs once the network is up.
func hangingSlot(t *testing.T, k kind) []byte {
	t.Helper()
	run := func(program string, args ...string) {
		lab.MustRun(t, lab.Within(t, patience), lab.Cmd{Path: program, Args: args})
	}
	dir := t.TempDir()
	root, slot := filepath.Join(dir, "root"), filepath.Join(dir, "slot")
	run("unsquashfs", "-quiet", "-no-progress", "-dest", root, k.imageFile()+".slot")
	rc, err := os.OpenFile(filepath.Join(root, "etc/init.d/rc"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = rc.WriteString("echo this start hangs >/dev/console\nsleep 1000000\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	rc.Close()
	run("mksquashfs", root, slot, "-comp", "gzip", "-Xcompression-level", "1", "-all-root", "-quiet", "-no-progress")
	b, err := os.ReadFile(slot)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
