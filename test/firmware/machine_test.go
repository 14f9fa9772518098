package firmware

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// patience bounds every wait: an emulated processor is some 20 times slower than this one, which other tests use too.
const patience = 5 * time.Minute

// machine is an appliance: a disk, two network interfaces, a serial console.
type machine struct {
	kind  kind
	disk  string
	wires []wire
	proc  *lab.Proc
	looks int       // at its memory
	since time.Time // when it was switched on
}

// kind is a way to boot.
type kind struct {
	name    string
	image   string // beside SEALGATE_IMAGE
	program string
	args    []string
}

func kinds() []kind {
	flash := func(file string) string { return "if=pflash,format=raw,readonly=on,file=" + file }
	return []kind{
		{"x86_64 BIOS", "sealgate-x86_64.img", "qemu-system-x86_64", []string{"-M", "q35", "-m", "256"}},
		// The firmware leaves the loader a fourth of the memory, and that must hold kernel and initramfs twice.
		{"x86_64 EFI", "sealgate-x86_64.img", "qemu-system-x86_64", []string{"-M", "q35", "-m", "512", "-drive", flash("/usr/share/OVMF/OVMF_CODE.fd")}},
		// This firmware waits some seconds for a key unless it has a menu.
		{"arm64 EFI", "sealgate-arm64.img", "qemu-system-aarch64", []string{"-M", "virt", "-cpu", "cortex-a53", "-m", "256",
			"-drive", flash("/usr/share/AAVMF/AAVMF_CODE.fd"), "-boot", "menu=on,splash-time=0"}},
	}
}

// imageFile is the disk of this kind, which was made beside the one that SEALGATE_IMAGE names.
func (k kind) imageFile() string {
	return filepath.Join(filepath.Dir(os.Getenv("SEALGATE_IMAGE")), k.image)
}

// wire is the end of a cable that goes into the machine.
type wire struct {
	netdev string // QEMU's words for it, with a place for its name and one for the descriptor
	file   *os.File
}

// cable is a wire to an interface in a namespace.
func cable(t *testing.T, ns *lab.Namespace, name string) wire {
	t.Helper()
	return wire{"tap,id=%s,fd=%s", ns.NewTap(t, name)}
}

// newMachine copies the image to a disk of its own.
func newMachine(t *testing.T, k kind, wires ...wire) *machine {
	t.Helper()
	if os.Getenv("SEALGATE_IMAGE") == "" {
		t.Skip("SEALGATE_IMAGE names no image: `make test-firmware` makes them")
	}
	_, err := exec.LookPath(k.program)
	lab.Require(t, err == nil, "needs "+k.program)
	m := &machine{kind: k, disk: filepath.Join(t.TempDir(), "disk"), wires: wires}
	in, err := os.Open(k.imageFile())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(m.disk)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	return m
}

// on switches the machine on.
func (m *machine) on(t *testing.T) {
	t.Helper()
	args := append([]string{"-accel", "tcg", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot",
		"-drive", "file=" + m.disk + ",format=raw,if=virtio,cache=unsafe"}, m.kind.args...)
	var files []*os.File
	for i, w := range m.wires {
		fd := string(rune('3' + i))
		args = append(args, "-netdev", fmt.Sprintf(w.netdev, "n"+fd, fd), "-device", "virtio-net-pci,netdev=n"+fd+",mac=52:54:00:5e:a1:0"+fd)
		files = append(files, w.file)
	}
	m.since = time.Now()
	m.proc = lab.Start(t, lab.Cmd{Path: m.kind.program, Args: args, Stdin: true, Files: files})
}

// cutPower ends the machine as a power cut does.
func (m *machine) cutPower() { m.proc.Kill() }

// ends waits until the machine restarts: the emulator ends instead.
func (m *machine) ends(t *testing.T) {
	t.Helper()
	if _, err := m.proc.Wait(lab.Within(t, patience)); err != nil {
		t.Fatalf("the machine does not restart: %v; the console said\n%s", err, strings.Join(m.proc.Stdout(), "\n"))
	}
}

// says waits until the console has shown a text.
func (m *machine) says(t *testing.T, text string) {
	t.Helper()
	heard := func(stdout, _ []string) bool {
		return slices.ContainsFunc(stdout, func(l string) bool { return strings.Contains(l, text) })
	}
	if err := m.proc.Await(lab.Within(t, patience), heard); err != nil {
		t.Fatalf("the console never says %q: %v; it said\n%s", text, err, strings.Join(m.proc.Stdout(), "\n"))
	}
}

// types types lines at the console.
func (m *machine) types(t *testing.T, lines ...string) {
	t.Helper()
	if _, err := io.WriteString(m.proc, strings.Join(lines, "\n")+"\n"); err != nil {
		t.Fatal(err)
	}
}
