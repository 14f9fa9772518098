// Package confine takes from the running process what it has no more use for, once all that needs privilege is open: the superuser's
// identity and capabilities, new privileges through exec, files outside what its configuration names (Landlock), and system calls that
// only an intruder would make (seccomp). Nothing of it can be undone.
//
// It holds for every thread. Programs built with cgo cannot do that ([syscall.AllThreadsSyscall]); there Process fails.
package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Options are what the process goes on needing.
type Options struct {
	User  string   // the account to become, with its primary group; empty: none
	Keep  []int    // the capabilities to keep, as unix.CAP_NET_ADMIN, where the process has them
	Read  []string // files, and directories with all below, that it goes on reading; those that do not exist are left out
	Write []string // directories that it goes on writing in; those that do not exist are made, mode 0700, and given to User
	BPF   bool     // it goes on loading and attaching BPF programs
}

// Process confines the running process. missing names what this kernel does not have, each with the reason; the rest holds then. After an
// error some of it may hold, so the program should end.
func Process(o Options) (missing []string, err error) {
	if err := allThreads(unix.SYS_GETPID, 0, 0, 0); err != nil {
		return nil, errors.New("confine the process: this program was built with cgo and cannot change all its threads: build it with CGO_ENABLED=0")
	}
	who, err := lookUp(o.User)
	if err != nil {
		return nil, err
	}
	if err := who.own(o.Write); err != nil {
		return nil, err
	}
	if err := who.become(o.Keep); err != nil {
		return nil, err
	}
	if err := who.check(o.Write); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"no_new_privs", func() error { return allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0) }},
		{"not dumpable", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
		{"Landlock", func() error { return files(o.Read, o.Write) }},
		{"seccomp", func() error { return systemCalls(o.BPF) }},
	} {
		err := step.do()
		switch {
		case errors.Is(err, errNotHere), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
			missing = append(missing, fmt.Sprintf("%s: %v", step.name, err))
		case err != nil:
			return missing, fmt.Errorf("confine the process, %s: %w", step.name, err)
		}
	}
	return missing, nil
}

// errNotHere is for what this kernel or architecture does not have.
var errNotHere = errors.New("not in this kernel")
