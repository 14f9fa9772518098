package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a rule can allow (landlock(7)): of a file, and of a directory.
const (
	readFile  = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readDir   = unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFile = readFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	writeDir  = writeFile | readDir | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK
	first = 1<<13 - 1 // all that the first version knows
)

// since are the kinds of access that came with a later version of Landlock. What a kernel does not know it does not forbid.
var since = []struct {
	abi    uintptr
	access uint64
}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}}

// system are the files that a Go program reads besides its own: of the network's configuration, certificates, time zones, and
// what the kernel tells of itself. /tmp/resolv.conf and its directory are where OpenWrt has it.
var system = []string{"/etc", "/usr/share", "/usr/lib/ssl", "/proc", "/sys", "/run/systemd/resolve", "/tmp/resolv.conf", "/tmp/resolv.conf.d", "/tmp/hosts", "/dev/urandom"}

// files lets the process read what is listed and system, write below what is listed, and execute nothing.
func files(read, write []string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errNotHere
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: first}
	for _, s := range since {
		if abi >= s.abi {
			attr.Handled_access_fs |= s.access
		}
	}
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(set))
	for _, path := range append([]string{os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR")}, append(system, read...)...) {
		if err := allow(set, path, readFile, readDir); err != nil {
			return err
		}
	}
	for _, path := range append([]string{os.DevNull}, write...) {
		if err := allow(set, path, writeFile&attr.Handled_access_fs, writeDir&attr.Handled_access_fs); err != nil {
			return err
		}
	}
	return allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0)
}

// allow adds a rule for what path leads to now, and for all below where that is a directory. What does not exist is left out.
func allow(set uintptr, path string, file, dir uint64) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil || path == "" {
		return nil
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: file, Parent_fd: int32(fd)}
	if info, err := os.Stat(target); err == nil && info.IsDir() {
		rule.Allowed_access |= dir
	}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, set, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", path, errno)
	}
	return nil
}
