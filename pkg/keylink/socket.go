package keylink

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Modes of the socket, and of its directory if it has to be made.
const (
	socketMode = 0o660
	dirMode    = 0o750
)

// listen binds the socket at path. It appears there complete: bound under another name in
// the same directory, given its mode, then renamed. A socket left by a dead process is
// replaced, one that somebody listens on is not.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("keylink: making the directory of %s: %w", path, reason(err))
	}
	if err := free(path); err != nil {
		return nil, err
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(temp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("keylink: cannot listen at %s: %w; the directory must be writable for controld", path, reason(err))
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, socketMode)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("keylink: cannot listen at %s: %w", path, reason(err))
	}
	return l, nil
}

// free makes sure that nothing at path would be lost by binding there.
func free(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("keylink: %s: %w", path, reason(err))
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("keylink: %s exists and is not a socket: remove it, or set another path as keylink", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("keylink: another controld listens at %s: stop it first, or set another path as keylink", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("keylink: cannot tell whether somebody listens at %s: %w", path, reason(err))
	}
	return nil
}

// reason is the innermost error, without the path and system call that the message names anyway.
func reason(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	var op *net.OpError
	var sys *os.SyscallError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	case errors.As(err, &sys):
		return sys.Err
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

// credentials is who the kernel says is at the other end (SO_PEERCRED, unix(7)): user and
// group as they were at connect.
type credentials struct{ uid, gid uint32 }

func peer(c *net.UnixConn) (credentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return credentials{}, err
	}
	var ucred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		ucred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, sockErr); err != nil {
		return credentials{}, err
	}
	return credentials{ucred.Uid, ucred.Gid}, nil
}

// welcome reports whether a peer may speak to a server with credentials own: the same user,
// root, or a member of the same group.
func (own credentials) welcome(p credentials) bool {
	return p.uid == own.uid || p.uid == 0 || p.gid == own.gid
}
