package bpf

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
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
		if len(spec.Programs) != 1 || len(spec.Maps) != 12 {
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

// TestParse compares what Load makes of the objects with what the library does.
func TestParse(t *testing.T) {
	for _, name := range []string{"steer_bpfel.o", "steer_bpfeb.o"} {
		want, err := ebpf.LoadCollectionSpec(name)
		if err != nil {
			t.Fatal(err)
		}
		object, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		program, maps, err := parseObject(object)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range want.Maps {
			m.Extra, m.Contents, m.Tags = nil, nil, nil
		}
		if !reflect.DeepEqual(maps, want.Maps) {
			t.Errorf("%s: maps %v; want %v", name, maps, want.Maps)
		}
		p := want.Programs[SteerProgSealgateSteer]
		if program.Name != p.Name || program.Type != p.Type || program.AttachType != p.AttachType || program.Flags != p.Flags ||
			program.License != p.License || program.ByteOrder != p.ByteOrder {
			t.Errorf("%s: program %+v; want %+v", name, program, p)
		}
		if len(program.Instructions) != len(p.Instructions) {
			t.Fatalf("%s: %d instructions; want %d", name, len(program.Instructions), len(p.Instructions))
		}
		for i, in := range program.Instructions {
			want := p.Instructions[i]
			same := in.OpCode == want.OpCode && in.Dst == want.Dst && in.Src == want.Src && in.Offset == want.Offset &&
				in.Constant == want.Constant && in.Reference() == want.Reference()
			if !same {
				t.Errorf("%s: instruction %d is %v; want %v", name, i, in, want)
			}
		}
	}
}

// TestParseCut holds that a damaged object is an error, or at any rate not a panic.
func TestParseCut(t *testing.T) {
	object, err := os.ReadFile("steer_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(object); n += 3 {
		if _, _, err := parseObject(object[:n]); err == nil {
			t.Errorf("%d of %d bytes are enough", n, len(object))
		}
		damaged := bytes.Clone(object)
		damaged[n] ^= 0xff
		parseObject(damaged)
	}
}
