package confine

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What struct seccomp_data has where, and the answers (linux/seccomp.h).
const (
	offNumber, offArch = 0, 4
	answerAllow        = unix.SECCOMP_RET_ALLOW
	answerKill         = unix.SECCOMP_RET_KILL_PROCESS
	answerRefuse       = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

// arches are the architectures that the programs are built for. In mips a number says itself which of several ABIs it is of.
var arches = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
	"mips": unix.AUDIT_ARCH_MIPS, "mipsle": unix.AUDIT_ARCH_MIPSEL,
}

// x32 is the bit that numbers of the x32 ABI have on amd64; under them every call could be made once more.
const x32 = 0x40000000

// never are system calls that neither daemon makes and an intruder would: other programs, other processes' memory, file systems,
// namespaces, the kernel's modules and keys, the clock, and interfaces with a record of faults.
var never = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_ACCT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PERSONALITY,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_SYSLOG,
}

// filter is the program that decides on each system call: of another architecture, the end of the process; one of calls, EPERM.
func filter(arch uint32, calls []uint32) []unix.SockFilter {
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	const equal, atLeast = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	p := []unix.SockFilter{load(offArch), {Code: equal, Jt: 1, K: arch}, answer(answerKill), load(offNumber)}
	if arch == unix.AUDIT_ARCH_X86_64 {
		p = append(p, unix.SockFilter{Code: atLeast, Jf: 1, K: x32}, answer(answerKill))
	}
	for _, nr := range calls {
		p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: nr}, answer(answerRefuse))
	}
	return append(p, answer(answerAllow))
}

// systemCalls puts the filter in force for all threads.
func systemCalls(loadsBPF bool) error {
	arch, known := arches[runtime.GOARCH]
	if !known {
		return errNotHere
	}
	calls := never
	if !loadsBPF {
		calls = append(calls[:len(calls):len(calls)], unix.SYS_BPF)
	}
	prog := filter(arch, calls)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return errno
	}
	return nil
}
