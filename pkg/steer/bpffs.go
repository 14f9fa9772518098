package steer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	for range 10 { // another network namespace's teardown may take the directory above away meanwhile
		if err = os.MkdirAll(dir, 0o700); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
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

// haveBPFFS makes sure that there is a BPF file system, and that what is pinned there stays when this process ends. One
// that only this process's mount namespace has goes with it, and with it the classifier; so the first process must see
// the same one.
func haveBPFFS() error {
	if !isBPFFS(bpffsRoot) {
		if err := mountBPFFS(); err != nil {
			return err
		}
		if err := sharedBPFFS(); err != nil {
			unix.Unmount(bpffsRoot, 0)
			return err
		}
	}
	return sharedBPFFS()
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

// sharedBPFFS compares what this process and the first one have mounted.
func sharedBPFFS() error {
	own, err := mountedBPFFS("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	first, err := mountedBPFFS("/proc/1/mountinfo")
	if err != nil {
		return err
	}
	if own == "" || own != first {
		return fmt.Errorf("the BPF file system at %s is private to this process's mount namespace and would go with it", bpffsRoot)
	}
	return nil
}

// mountedBPFFS returns the device number of the BPF file system in a mountinfo file, see proc_pid_mountinfo(5).
func mountedBPFFS(path string) (device string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the mount table: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && fields[4] == bpffsRoot && strings.HasPrefix(after, "bpf ") {
			device = fields[2] // the last one is on top
		}
	}
	return device, nil
}
