package bpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The library's package for links knows every kind of them, and brings what it needs to find out which a kernel has: an eighth of a megabyte.
// The classifier needs one kind, TCX, and five of bpf(2)'s commands. A test compares the two.

// TCX is a link that holds a program at the ingress or the egress of an interface (kernel 6.6). It goes when the last descriptor of it is closed,
// unless it is pinned.
type TCX struct {
	file *os.File
}

// bpf(2)'s attributes, as linux/bpf.h has them. Addresses are 64 bits wide on every machine.
type (
	linkCreate struct {
		program, target, attachType, flags uint32
		relative, _                        uint32
		revision                           uint64
	}
	linkUpdate struct {
		link, program, flags, old uint32
	}
	programQuery struct {
		target, attachType, flags, attachFlags uint32
		ids                                    uint64
		count, _                               uint32
	}
	objectPath struct {
		path     uint64
		fd, mode uint32
	}
	objectInfo struct {
		fd, size uint32
		info     uint64
	}
	linkInfo struct {
		kind, id, program, _ uint32
		target, attachType   uint32 // of a TCX link
	}
)

// call makes one call of bpf(2). Attributes hold addresses as numbers, so what those point at must be pinned.
func call(command uintptr, attributes unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attributes), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, errno
		}
	}
}

// callWithPath makes a call about an object on a BPF file system.
func callWithPath(command uintptr, pin string, fd uint32) (int, error) {
	path, err := unix.BytePtrFromString(pin)
	if err != nil {
		return 0, err
	}
	var held runtime.Pinner
	defer held.Unpin()
	held.Pin(path)
	a := objectPath{path: uint64(uintptr(unsafe.Pointer(path))), fd: fd}
	return call(command, unsafe.Pointer(&a), unsafe.Sizeof(a))
}

// HaveTCX asks the kernel for the TCX programs of an interface. The error is ErrNotSupported where there is no TCX.
func HaveTCX(ifindex int) error {
	a := programQuery{target: uint32(ifindex), attachType: unix.BPF_TCX_INGRESS}
	_, err := call(unix.BPF_PROG_QUERY, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	return err
}

// AttachTCX attaches a program to an interface, at unix.BPF_TCX_INGRESS or BPF_TCX_EGRESS, before all others.
func AttachTCX(p *ebpf.Program, ifindex int, at uint32) (*TCX, error) {
	a := linkCreate{program: uint32(p.FD()), target: uint32(ifindex), attachType: at, flags: unix.BPF_F_BEFORE}
	fd, err := call(unix.BPF_LINK_CREATE, unsafe.Pointer(&a), unsafe.Sizeof(a))
	runtime.KeepAlive(p)
	if err != nil {
		return nil, fmt.Errorf("attach the program: %w", err)
	}
	return &TCX{os.NewFile(uintptr(fd), "tcx")}, nil
}

// OpenTCX opens a pinned link. The error wraps fs.ErrNotExist if there is none.
func OpenTCX(pin string) (*TCX, error) {
	fd, err := callWithPath(unix.BPF_OBJ_GET, pin, 0)
	if err != nil {
		return nil, err
	}
	return &TCX{os.NewFile(uintptr(fd), pin)}, nil
}

// Interface returns the index of the interface that the link is at; 0: the interface is gone, or this is no TCX link.
func (l *TCX) Interface() (int, error) {
	var held runtime.Pinner
	defer held.Unpin()
	info := new(linkInfo)
	held.Pin(info)
	a := objectInfo{fd: uint32(l.file.Fd()), size: uint32(unsafe.Sizeof(*info)), info: uint64(uintptr(unsafe.Pointer(info)))}
	_, err := call(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if err != nil || info.kind != unix.BPF_LINK_TYPE_TCX {
		return 0, err
	}
	return int(info.target), nil
}

// Update puts another program in the place of the link's, in one step.
func (l *TCX) Update(p *ebpf.Program) error {
	a := linkUpdate{link: uint32(l.file.Fd()), program: uint32(p.FD())}
	_, err := call(unix.BPF_LINK_UPDATE, unsafe.Pointer(&a), unsafe.Sizeof(a))
	runtime.KeepAlive(p)
	return err
}

// Pin makes the link stay after the process, under a name on a BPF file system. Removing the file unpins it.
func (l *TCX) Pin(pin string) error {
	_, err := callWithPath(unix.BPF_OBJ_PIN, pin, uint32(l.file.Fd()))
	return err
}

// Close closes the descriptor.
func (l *TCX) Close() error { return l.file.Close() }
