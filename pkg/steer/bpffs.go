package steer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// pins returns the directory for this network namespace's pinned links, made if need be. It mounts the BPF file system
// where it is missing and may be mounted for good.
func pins() (string, error) {
	if err := haveBPFFS(); err != nil {
		return "", err
	}
	dir, err := pinPath()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a directory for pinned links: %w", err)
	}
	return dir, nil
}

// pinPath names the directory of this network namespace: links of two namespaces may not share a name.
func pinPath() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("find this network namespace: %w", err)
	}
	return filepath.Join(bpffsRoot, pinDirectory, "net-"+strconv.FormatUint(st.Ino, 10)), nil
}

// haveBPFFS makes sure that what is pinned stays when this process ends. A file system that only this process's mount
// namespace sees goes with it, and with it the classifier.
func haveBPFFS() error {
	private, err := privateMounts()
	if err != nil {
		return err
	}
	if !isBPFFS(bpffsRoot) {
		if private {
			return fmt.Errorf("no BPF file system at %s, and none can be mounted for good from a private mount namespace", bpffsRoot)
		}
		return mountBPFFS()
	}
	if private && !sameDevice(bpffsRoot, "/proc/1/root"+bpffsRoot) {
		return fmt.Errorf("the BPF file system at %s is private to this process's mount namespace", bpffsRoot)
	}
	return nil
}

func mountBPFFS() error {
	entries, err := os.ReadDir(bpffsRoot)
	if err != nil {
		return fmt.Errorf("no BPF file system: %w", err)
	}
	if len(entries) != 0 {
		return fmt.Errorf("%s is not a BPF file system and not empty", bpffsRoot)
	}
	err = unix.Mount("bpf", bpffsRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=0700")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount the BPF file system at %s: %w", bpffsRoot, err)
	}
	return nil
}

func isBPFFS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == unix.BPF_FS_MAGIC
}

// privateMounts tells whether this process sees other mounts than the first process.
func privateMounts() (bool, error) {
	var own, first unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/mnt", &own), unix.Stat("/proc/1/ns/mnt", &first)); err != nil {
		return false, fmt.Errorf("compare mount namespaces: %w", err)
	}
	return own.Ino != first.Ino, nil
}

func sameDevice(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev
}
