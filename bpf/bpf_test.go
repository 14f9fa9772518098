package bpf

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"sealgate/test/lab"
)

// TestGenerated compiles steer.c again and compares with what is committed, byte for byte.
func TestGenerated(t *testing.T) {
	for _, tool := range []string{"clang-14", "llvm-strip-14"} {
		_, err := exec.LookPath(tool)
		lab.Require(t, err == nil, "needs "+tool)
	}
	out := t.TempDir()
	cmd := exec.Command("sh", "generate.sh")
	cmd.Env = append(os.Environ(), "OUT="+out)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, b)
	}
	for _, name := range []string{"steer_bpfel.o", "steer_bpfeb.o", "steer_bpfel.go", "steer_bpfeb.go"} {
		want, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what steer.c compiles to: run `go generate ./bpf` and commit", name)
		}
	}
}

// TestObjects holds that both objects are of their byte order, alike, and free of what an old kernel cannot load.
func TestObjects(t *testing.T) {
	var programs []*ebpf.ProgramSpec
	for name, order := range map[string]binary.ByteOrder{"steer_bpfel.o": binary.LittleEndian, "steer_bpfeb.o": binary.BigEndian} {
		spec, err := ebpf.LoadCollectionSpec(name)
		if err != nil {
			t.Fatal(err)
		}
		if spec.ByteOrder != order {
			t.Errorf("%s: byte order %v", name, spec.ByteOrder)
		}
		if spec.Types != nil {
			t.Errorf("%s holds type information", name)
		}
		if len(spec.Programs) != 1 || len(spec.Maps) != 3 {
			t.Errorf("%s: %d programs, %d maps", name, len(spec.Programs), len(spec.Maps))
		}
		for _, p := range spec.Programs {
			programs = append(programs, p)
			for _, i := range p.Instructions {
				if i.IsFunctionCall() || i.IsLoadOfFunctionPointer() {
					t.Errorf("%s calls a function of its own: %v", name, i)
				}
			}
		}
	}
	if len(programs) == 2 && programs[0].Type != programs[1].Type {
		t.Errorf("programs of types %v and %v", programs[0].Type, programs[1].Type)
	}
}
