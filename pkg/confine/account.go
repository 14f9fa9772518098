package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// account is who the process is to be.
type account struct {
	name     string
	change   bool // it is somebody else now
	uid, gid int
}

// lookUp finds an account; of no name, the one that the process has.
func lookUp(name string) (a account, err error) {
	a = account{name: name, uid: os.Geteuid(), gid: os.Getegid()}
	if name == "" {
		return a, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return a, fmt.Errorf("user = %q: no such account: make it, for example with `adduser --system --group %s`", name, name)
	}
	if a.gid, err = strconv.Atoi(u.Gid); err != nil {
		return a, fmt.Errorf("user = %q: group %q is not a number", name, u.Gid)
	}
	was := a.uid
	if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return a, fmt.Errorf("user = %q: its number %q is none", name, u.Uid)
	}
	a.change = was != a.uid
	if a.change && was != 0 {
		return a, fmt.Errorf("user = %q: only root can become another user, and this program runs as user %d: start it as root or as %s, or leave user out", name, was, name)
	}
	return a, nil
}

// own makes the directories that are missing, and gives them to the account.
func (a *account) own(dirs []string) error {
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if a.change {
			if err := os.Chown(dir, a.uid, a.gid); err != nil {
				return err
			}
		}
	}
	return nil
}

// check finds directories that the account cannot write in, before something is lost for it.
func (a *account) check(dirs []string) error {
	for _, dir := range dirs {
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s: not writable for user %d: run `chown -R %s %s`", dir, a.uid, a.word(), dir)
		}
	}
	return nil
}

func (a *account) word() string {
	if a.name != "" {
		return a.name
	}
	return strconv.Itoa(a.uid)
}

// become takes the account on and drops all capabilities but those in keep. The bounding set comes first, which needs CAP_SETPCAP;
// PR_SET_KEEPCAPS carries the permitted ones over the change of user (capabilities(7)).
func (a *account) become(keep []int) error {
	had, err := capabilities()
	if err != nil {
		return fmt.Errorf("read the process's capabilities: %w", err)
	}
	var set uint64
	for _, c := range keep {
		set |= 1 << c
	}
	if had&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range 64 {
			if set&(1<<c) == 0 && allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0) != nil {
				break // beyond the kernel's last
			}
		}
	}
	if a.change {
		err = allThreads(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0)
		for _, do := range []func() error{func() error { return syscall.Setgroups(nil) }, func() error { return syscall.Setgid(a.gid) }, func() error { return syscall.Setuid(a.uid) }} {
			if err == nil {
				err = do()
			}
		}
		if err != nil {
			return fmt.Errorf("become user %s: %w", a.name, err)
		}
	}
	if err := setCapabilities(had & set); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// capabilities are the permitted ones of this thread.
func capabilities() (uint64, error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	err := unix.Capget(&h, &d[0])
	return uint64(d[0].Permitted) | uint64(d[1].Permitted)<<32, err
}

func setCapabilities(set uint64) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	d[0].Permitted, d[1].Permitted = uint32(set), uint32(set>>32)
	d[0].Effective, d[1].Effective = d[0].Permitted, d[1].Permitted
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&d)), 0); errno != 0 {
		return errno
	}
	return nil
}

// allThreads makes a system call on each thread of the process.
func allThreads(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3); errno != 0 {
		return errno
	}
	return nil
}
