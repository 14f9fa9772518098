package daemon

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sealgate/pkg/config"
)

// Any user of the machine can hold the name. Who does so without listening there does not keep gatewayd from starting.
func TestHandoverNameHeld(t *testing.T) {
	cfg := &config.Config{Keylink: filepath.Join(t.TempDir(), "keylink.sock")}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: handoverName(cfg)}); err != nil {
		t.Fatal(err)
	}
	in, err := inherit(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if in.name != nil || in.word.Reason == "" {
		t.Errorf("%+v", in)
	}
}
