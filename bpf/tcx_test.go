package bpf

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// TestTCX puts a link through its life and asks the library about each step: what it sees of ours, and what we see of its own.
func TestTCX(t *testing.T) {
	lab.NeedRoot(t)
	ns := lab.NewNamespace(t, "tcx")
	err := ns.Do(func() error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		if err := HaveTCX(lo.Index); errors.Is(err, ebpf.ErrNotSupported) {
			t.Skip("this kernel has no TCX")
		} else if err != nil {
			return err
		}
		programs := [2]*ebpf.Program{passAll(t), passAll(t)}
		dir, err := os.MkdirTemp("/sys/fs/bpf", "sealgate-test-"+strconv.Itoa(os.Getpid())+"-")
		if err != nil {
			t.Skipf("no BPF file system: %v", err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		pin := filepath.Join(dir, "lo")
		if _, err := OpenTCX(pin); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a link that is not there: %v", err)
		}
		behind, err := link.AttachTCX(link.TCXOptions{Interface: lo.Index, Program: passAll(t), Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		defer behind.Close()

		made, err := AttachTCX(programs[0], lo.Index, unix.BPF_TCX_INGRESS)
		if err != nil {
			return err
		}
		first(t, lo.Index, programs[0])
		if err := made.Pin(pin); err != nil {
			return err
		}
		made.Close()
		again, err := OpenTCX(pin)
		if err != nil {
			return err
		}
		defer again.Close()
		if at, err := again.Interface(); err != nil || at != lo.Index {
			t.Errorf("the pinned link is at interface %d, %v; want %d", at, err, lo.Index)
		}
		if err := again.Update(programs[1]); err != nil {
			return err
		}
		first(t, lo.Index, programs[1])
		theirs, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return err
		}
		defer theirs.Close()
		if info, err := theirs.Info(); err != nil || info.TCX() == nil || int(info.TCX().Ifindex) != lo.Index {
			t.Errorf("the library takes our link for %+v, %v", info, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AttachTCX(passAll(t), 1<<30, unix.BPF_TCX_INGRESS); !errors.Is(err, unix.ENODEV) {
		t.Errorf("attach to no interface: %v; want ENODEV", err)
	}
}

// first fails the test unless the library finds the program before all others.
func first(t *testing.T, ifindex int, p *ebpf.Program) {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if err != nil || len(q.Programs) != 2 || q.Programs[0].ID != id {
		t.Errorf("programs %+v, %v; want %d first of two", q, err, id)
	}
}

func passAll(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}
