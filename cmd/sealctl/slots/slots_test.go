package slots

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

func TestRelease(t *testing.T) {
	r, err := Measure(strings.NewReader("image"))
	if err != nil || r.Size != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got, err := ParseRelease(r.Marshal()); err != nil || got != r {
		t.Errorf("%+v, %v; want %+v", got, err, r)
	}
	if _, err := Measure(strings.NewReader("")); err == nil {
		t.Error("an empty image is measured")
	}
	good := r.Marshal()
	for name, bad := range map[string][]byte{
		"empty": nil, "cut off": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "of another kind": bytes.Replace(good, []byte("image"), []byte("imago"), 1),
	} {
		if _, err := ParseRelease(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRunning(t *testing.T) {
	for _, c := range []struct {
		cmdline string
		slot    Slot
		trial   bool
	}{
		{"sealgate.slot=A console=ttyS0", "A", false},
		{"quiet sealgate.slot=B sealgate.trial\n", "B", true},
		{"root=/dev/sda1", "", false},
		{"sealgate.slot=C", "", false},
	} {
		slot, trial, err := Running(c.cmdline)
		if slot != c.slot || trial != c.trial || (err == nil) != (c.slot != "") {
			t.Errorf("%q: %q, %v, %v", c.cmdline, slot, trial, err)
		}
	}
}

func TestPartitions(t *testing.T) {
	for _, c := range []struct {
		slot          Slot
		running, want string
	}{
		{"B", "/dev/sda2", "/dev/sda3"}, {"A", "/dev/nvme0n1p3", "/dev/nvme0n1p2"}, {"B", "/dev/sda3", ""}, {"A", "overlay", ""},
	} {
		if got, err := c.slot.Partition(c.running); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("slot %s beside %s: %q, %v", c.slot, c.running, got, err)
		}
	}
	if got := Loader("/dev/mmcblk0p2"); got != "/dev/mmcblk0p1" {
		t.Error(got)
	}
}

// disk is a device in memory.
type disk struct {
	b     []byte
	loses bool // forgets what it was given
	fails error
}

func (d *disk) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, at) }
func (d *disk) Sync() error                            { return d.fails }
func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	if int(at)+len(p) > len(d.b) {
		return 0, errors.New("no space left on device")
	}
	if d.loses {
		return len(p), nil
	}
	return copy(d.b[at:], p), nil
}

func TestWrite(t *testing.T) {
	image := bytes.Repeat([]byte("squashfs"), 300_000)
	r, err := Measure(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	exchanged := bytes.Clone(image)
	exchanged[7] ^= 1
	for _, c := range []struct {
		name, why string
		disk      disk
		image     []byte
	}{
		{"larger slot", "", disk{b: make([]byte, len(image)+5)}, image},
		{"slot too small", "no space left", disk{b: make([]byte, len(image)-1)}, image},
		{"image cut off", "unexpected EOF", disk{b: make([]byte, len(image))}, image[:len(image)-1]},
		{"image exchanged", "not what was signed", disk{b: make([]byte, len(image))}, exchanged},
		{"disk that forgets", "not what was signed", disk{b: make([]byte, len(image)), loses: true}, image},
		{"disk that fails", "input/output", disk{b: make([]byte, len(image)), fails: errors.New("input/output error")}, image},
	} {
		told := int64(0)
		err := Write(&c.disk, bytes.NewReader(c.image), r, func(done int64) { told = done })
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v; want %q", c.name, err, c.why)
		}
		if err == nil && (told != r.Size || !bytes.Equal(c.disk.b[:len(image)], image)) {
			t.Errorf("%s: told %d of %d", c.name, told, r.Size)
		}
	}
}

// The slot that a trial falls back to is not written to.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		good    Slot
		running Slot
		trial   bool
		refused bool
	}{{"A", "A", false, false}, {"A", "B", true, true}, {"", "B", true, true}, {"B", "B", true, false}, {"A", "B", false, false}, {"", "A", false, false}} {
		var block []byte
		if c.good != "" {
			block, _ = Set(nil, "good", string(c.good), "try", "A")
		}
		b, err := Begin(block, c.running, c.trial)
		if (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if want, _ := Set(nil, "good", string(c.running), "try", ""); err == nil && !bytes.Equal(b, want) {
			t.Errorf("%+v: %q", c, b)
		}
	}
}

// What Set writes GRUB's own tool reads, and the other way round.
func TestSet(t *testing.T) {
	b, err := Set(nil, "good", "A")
	if err == nil {
		b, err = Set(b, "try", "B")
	}
	if err == nil {
		b, err = Set(b, "good", "B", "try", "")
	}
	if err != nil || len(b) != 1024 || !bytes.HasPrefix(b, []byte("# GRUB Environment Block\ngood=B\ntry=\n##")) {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := Set(b, "x", strings.Repeat("y", 1024)); err == nil {
		t.Error("more than fits is accepted")
	}
	tool, err := exec.LookPath("grub-editenv")
	if err != nil {
		t.Skip("needs grub-editenv")
	}
	file := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	lab.MustRun(t, lab.Within(t, time.Minute), lab.Cmd{Path: tool, Args: []string{file, "set", "other=1"}})
	if b, err = os.ReadFile(file); err == nil {
		b, err = Set(b, "try", "A")
	}
	if err != nil || !bytes.HasPrefix(b, []byte("# GRUB Environment Block\ngood=B\nother=1\ntry=A\n##")) {
		t.Errorf("%q, %v", b, err)
	}
}
