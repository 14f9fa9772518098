package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// LoadSteerObjects reads every kind of BPF object, compressed sections and type information included, and that takes a
// quarter of a megabyte. Load does the same for objects such as steer.c compiles to: one program in section "tc", maps
// in section "maps", and no relocation but those of the program to the maps. A test compares the two.

// Load loads the classifier and its maps into the kernel. Errors wrap the kernel's and name the program or the map; a
// verifier's refusal is an *ebpf.VerifierError. The caller closes what it gets.
func Load() (*SteerObjects, error) {
	program, maps, err := parseObject(_SteerBytes)
	if err != nil {
		return nil, fmt.Errorf("read the embedded object: %w", err)
	}
	o := &SteerObjects{}
	loaded := map[string]**ebpf.Map{
		SteerMapSteerPortsMap: &o.SteerPortsMap, SteerMapSteerConfigMap: &o.SteerConfigMap, SteerMapSteerCountersMap: &o.SteerCountersMap,
		SteerMapSteerDevicesMap: &o.SteerDevicesMap, SteerMapSteerHoldMap: &o.SteerHoldMap, SteerMapSteerEventsMap: &o.SteerEventsMap,
		SteerMapSteerDenyMacsMap: &o.SteerDenyMacsMap, SteerMapSteerDenyNetsMap: &o.SteerDenyNetsMap,
		SteerMapSteerBridgeMap: &o.SteerBridgeMap, SteerMapSteerTypesMap: &o.SteerTypesMap, SteerMapSteerStationsMap: &o.SteerStationsMap,
		SteerMapSteerNeighboursMap: &o.SteerNeighboursMap,
	}
	for name, m := range loaded {
		if *m, err = ebpf.NewMap(maps[name]); err != nil {
			o.Close()
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
	}
	for i := range program.Instructions {
		if in := &program.Instructions[i]; in.Reference() != "" {
			if err = in.AssociateMap(*loaded[in.Reference()]); err != nil {
				o.Close()
				return nil, fmt.Errorf("program %s: map %s: %w", program.Name, in.Reference(), err)
			}
		}
	}
	if o.SealgateSteer, err = ebpf.NewProgram(program); err != nil {
		o.Close()
		return nil, fmt.Errorf("program %s: %w", program.Name, err)
	}
	return o, nil
}

// The parts of an ELF file that matter, elf(5).
type (
	elfHeader struct {
		_             [40]byte
		SectionOffset uint64
		_             [12]byte
		SectionCount  uint16
		NamesSection  uint16
	}
	elfSection struct {
		Name, Type   uint32
		_, _         uint64
		Offset, Size uint64
		_, _         uint32
		_, _         uint64
	}
	elfSymbol struct {
		Name        uint32
		_, _        byte
		Section     uint16
		Value, Size uint64
	}
	elfRelocation struct {
		Offset uint64
		Info   uint64 // the symbol's index is the upper half
	}
)

var errObject = errors.New("not as steer.c compiles")

// parseObject returns the program, whose instructions refer to maps by their names, and the maps.
func parseObject(b []byte) (*ebpf.ProgramSpec, map[string]*ebpf.MapSpec, error) {
	var order binary.ByteOrder = binary.LittleEndian
	if bytes.HasPrefix(b, []byte("\x7fELF\x02\x02")) { // 64 bits, big-endian
		order = binary.BigEndian
	}
	sections, names, err := parseSections(b, order)
	if err != nil {
		return nil, nil, err
	}
	symbols, err := records[elfSymbol](sections[".symtab"], order)
	if err != nil {
		return nil, nil, err
	}
	relocations, err := records[elfRelocation](sections[".reltc"], order)
	if err != nil {
		return nil, nil, err
	}
	in, err := asm.AppendInstructions(nil, bytes.NewReader(sections["tc"]), order, "linux")
	if err != nil {
		return nil, nil, err
	}
	program := &ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: in, ByteOrder: order}
	maps := make(map[string]*ebpf.MapSpec)
	for _, s := range symbols {
		name := cString(sections[".strtab"], s.Name)
		switch {
		case int(s.Section) >= len(names) || s.Size == 0:
		case names[s.Section] == "tc":
			program.Name = name
		case names[s.Section] == "maps":
			if maps[name], err = parseMap(name, sections["maps"], s.Value, order); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, r := range relocations {
		i := instructionAt(in, r.Offset)
		if i < 0 || r.Info>>32 >= uint64(len(symbols)) {
			return nil, nil, errObject
		}
		name := cString(sections[".strtab"], symbols[r.Info>>32].Name)
		if maps[name] == nil {
			return nil, nil, errObject
		}
		in[i].Src = asm.PseudoMapFD
		in[i] = in[i].WithReference(name)
	}
	return program, maps, nil
}

// parseSections returns the sections' contents by name, and their names by number.
func parseSections(b []byte, order binary.ByteOrder) (sections map[string][]byte, names []string, err error) {
	var h elfHeader
	if _, err := binary.Decode(b, order, &h); err != nil {
		return nil, nil, err
	}
	size := uint64(h.SectionCount) * uint64(binary.Size(elfSection{}))
	if h.SectionOffset > uint64(len(b)) || size > uint64(len(b))-h.SectionOffset {
		return nil, nil, errObject
	}
	headers, err := records[elfSection](b[h.SectionOffset:h.SectionOffset+size], order)
	if err != nil || int(h.NamesSection) >= len(headers) {
		return nil, nil, errors.Join(errObject, err)
	}
	contents := make([][]byte, len(headers))
	for i, s := range headers {
		if s.Offset > uint64(len(b)) || s.Size > uint64(len(b))-s.Offset {
			return nil, nil, errObject
		}
		contents[i] = b[s.Offset : s.Offset+s.Size]
	}
	sections = make(map[string][]byte)
	for i, s := range headers {
		names = append(names, cString(contents[h.NamesSection], s.Name))
		sections[names[i]] = contents[i]
	}
	return sections, names, nil
}

func records[T any](b []byte, order binary.ByteOrder) ([]T, error) {
	var t T
	list := make([]T, len(b)/binary.Size(t))
	_, err := binary.Decode(b, order, list)
	return list, err
}

func cString(table []byte, offset uint32) string {
	if uint64(offset) > uint64(len(table)) {
		return ""
	}
	s, _, _ := bytes.Cut(table[offset:], []byte{0})
	return string(s)
}

// parseMap reads a struct map_def.
func parseMap(name string, section []byte, offset uint64, order binary.ByteOrder) (*ebpf.MapSpec, error) {
	if offset > uint64(len(section)) {
		return nil, errObject
	}
	var def struct{ Type, KeySize, ValueSize, MaxEntries, Flags uint32 }
	if _, err := binary.Decode(section[offset:], order, &def); err != nil {
		return nil, err
	}
	return &ebpf.MapSpec{
		Name: name, Type: ebpf.MapType(def.Type),
		KeySize: def.KeySize, ValueSize: def.ValueSize, MaxEntries: def.MaxEntries, Flags: def.Flags,
	}, nil
}

// instructionAt returns the index of the instruction at an offset in bytes, or -1. Instructions differ in length.
func instructionAt(in asm.Instructions, offset uint64) int {
	at := uint64(0)
	return slices.IndexFunc(in, func(i asm.Instruction) bool {
		found := at == offset
		at += i.Size()
		return found
	})
}
