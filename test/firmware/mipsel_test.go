package firmware

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sealgate/test/lab"
)

const (
	crowdSize  = 2000
	crowdRush  = 200   // devices that connect at once
	mostMemory = 60000 // KiB that both daemons may have in memory at the end
)

// mipsel is a machine with a MIPS processor of the kind that routers have, and 128 MB of memory. The emulator starts kernel and initramfs, which it is given out
// of the slot, as there is no loader for this board.
func mipsel(t *testing.T) kind {
	t.Helper()
	k := kind{name: "mipsel", image: "sealgate-mipsel.img", program: "qemu-system-mipsel"}
	if os.Getenv("SEALGATE_IMAGE") == "" {
		t.Skip("SEALGATE_IMAGE names no image: `make test-firmware` makes them")
	}
	dir := filepath.Join(t.TempDir(), "slot")
	lab.MustRun(t, lab.Within(t, patience), lab.Cmd{Path: lab.NeedTool(t, "unsquashfs"), Args: []string{"-no-progress", "-d", dir, k.imageFile() + ".slot", "boot"}})
	k.args = []string{"-M", "malta", "-cpu", "24Kf", "-m", "128", "-kernel", filepath.Join(dir, "boot/vmlinuz"), "-initrd", filepath.Join(dir, "boot/initrd"),
		"-append", "sealgate.slot=A console=ttyS0,115200 panic=10 quiet"}
	return k
}

// TestMIPS has a router's kind of machine do what an appliance does, and then serve two thousand devices that come two hundred at a time.
func TestMIPS(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	k := mipsel(t)
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
	before := opened(s.reader.Stdout())
	m.on(t)
	s.awaitSealed(t, m, before)
	s.device.Kill()

	c := &crowd{ns: s.sensor, say: s.marker}
	c.connect(t, crowdSize, crowdRush)
	cpu, _ := m.proc.CPU()
	t.Logf("%d devices are online after %d refusals; the emulator has worked for %.0f s", crowdSize, c.refused.Load(), cpu.Seconds())
	c.publish(t, 10)
	s.awaitCrowd(t, crowdSize)
	s.judgeMemory(t, m)
	s.judge(t)
}

// awaitCrowd waits until a message of each device of a crowd has been opened.
func (s *site) awaitCrowd(t *testing.T, size int) {
	t.Helper()
	seen := make(map[string]bool)
	read := 0
	all := func(stdout, _ []string) bool {
		for ; read < len(stdout); read++ {
			var m struct{ Topic, Status string }
			if json.Unmarshal([]byte(stdout[read]), &m) == nil && m.Status == "ok" && strings.HasPrefix(m.Topic, topicOf(0)[:len("plant/crowd/")]) {
				seen[m.Topic] = true
			}
		}
		return len(seen) >= size
	}
	if err := s.reader.Await(lab.Within(t, patience), all); err != nil {
		t.Errorf("messages of %d of %d devices arrived: %v", len(seen), size, err)
	}
}

// judgeMemory looks at what both daemons hold. A page that both share, as those of the program in flash, is in memory once: the kernel's Pss counts it half for each.
func (s *site) judgeMemory(t *testing.T, m *machine) {
	t.Helper()
	m.types(t, `for d in gatewayd controld; do p=$(pidof $d); echo memory $d $(grep -E "^(Pss|Rss):|^Pss_Anon" /proc/$p/smaps_rollup) $(grep VmHWM /proc/$p/status); done`,
		`dmesg | grep -E "Out of memory|oom-kill|table full"; grep ^Mem /proc/meminfo; cat /proc/sys/net/netfilter/nf_conntrack_count; echo look''ed`)
	m.says(t, "looked")
	said := strings.Join(m.proc.Stdout(), "\n")
	t.Log(said[max(0, strings.LastIndex(said, "memory gatewayd")):])
	sum := 0
	for _, f := range regexp.MustCompile(`(?m)^memory (?:gatewayd|controld) .*\bPss: (\d+) kB`).FindAllStringSubmatch(said, -1) {
		n, _ := strconv.Atoi(f[1])
		sum += n
		if n == 0 {
			t.Errorf("no figure in %q", f[0])
		}
	}
	if sum == 0 || sum > mostMemory {
		t.Errorf("both daemons have %d KiB in memory, at most %d wanted", sum, mostMemory)
	}
	for _, bad := range []string{"Out of memory:", "oom-kill:", "nf_conntrack: table full"} {
		if strings.Contains(said, bad) {
			t.Errorf("the kernel says %q", bad)
		}
	}
}
