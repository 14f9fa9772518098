package firmware

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

const (
	crowdSize  = 2000
	crowdRush  = 200      // devices that connect at once
	mostMemory = 60 << 10 // KiB that both daemons may have in memory at the end
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
	s, m := begin(t, k)
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

// judgeMemory looks at what both daemons hold once they have given back what the rush took. A page that both share, as those of the program in flash, is in memory once:
// the kernel's Pss counts it half for each.
func (s *site) judgeMemory(t *testing.T, m *machine) {
	t.Helper()
	end := time.Now().Add(patience)
	sum, said := m.memory(t)
	for ; sum > mostMemory && time.Now().Before(end); sum, said = m.memory(t) {
		t.Logf("%d KiB yet", sum)
	}
	t.Log(said)
	if sum > mostMemory {
		t.Errorf("both daemons have %d KiB in memory, at most %d wanted", sum, mostMemory)
	}
	for _, bad := range []string{"Out of memory:", "oom-kill:", "nf_conntrack: table full"} {
		if strings.Contains(said, bad) {
			t.Errorf("the kernel says %q", bad)
		}
	}
}

// memory asks at the console what both daemons hold, in KiB, and what else tells whether memory is short.
func (m *machine) memory(t *testing.T) (sum int, said string) {
	t.Helper()
	m.looks++
	m.types(t, `for d in gatewayd controld; do p=$(pidof $d); echo memory $d $(grep -E "^(Pss|Rss):|^Pss_Anon" /proc/$p/smaps_rollup) $(grep VmHWM /proc/$p/status); done`,
		fmt.Sprintf(`dmesg | grep -E "Out of memory|oom-kill|table full"; grep ^Mem /proc/meminfo; cat /proc/sys/net/netfilter/nf_conntrack_count; sleep 5; echo look''ed %d times`, m.looks))
	m.says(t, fmt.Sprintf("looked %d times", m.looks))
	said = strings.Join(m.proc.Stdout(), "\n")
	said = said[max(0, strings.LastIndex(said, "\nmemory gatewayd")):]
	figures := regexp.MustCompile(`(?m)^memory (?:gatewayd|controld) .*\bPss: (\d+) kB`).FindAllStringSubmatch(said, -1)
	for _, f := range figures {
		n, _ := strconv.Atoi(f[1])
		sum += n
	}
	if len(figures) != 2 {
		t.Fatalf("no figures of two daemons in\n%s", said)
	}
	return sum, said
}
