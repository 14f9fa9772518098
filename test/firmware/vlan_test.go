package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// vlan is the devices' in this test.
const vlan = 7

// TestVLAN has the devices in a VLAN that reaches the appliance tagged. The kernel of the testing machine may have no VLANs: the tags are put on and taken off
// between the machine's cable and the devices' interface.
func TestVLAN(t *testing.T) {
	lab.NeedRoot(t)
	s := newSite(t)
	lan, tagged := taggedCable(t, s.sensor, "lan")
	m := newMachine(t, kinds()[0], lan, s.open(t))
	m.on(t)
	m.says(t, "Not set up yet")
	m.types(t, "sed -i s/^LAN_VLAN=.*/LAN_VLAN=7/ /etc/sealgate/place.conf && sync && reboot")
	m.ends(t)
	m.on(t)
	s.enrol(t, m)
	s.awaitSealed(t, m, 0)
	m.cutPower()
	s.startsIn(t, m, "A")
	s.judge(t)
	if tagged.Load() == 0 {
		t.Error("the machine sent no tagged frame")
	}
}

// taggedCable is a cable on whose machine's side all frames are in the VLAN, and others are lost. It counts the frames that the machine sent.
func taggedCable(t *testing.T, ns *lab.Namespace, name string) (wire, *atomic.Int64) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, file := os.NewFile(uintptr(pair[0]), "machine's end"), os.NewFile(uintptr(pair[1]), "our end")
	ours, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() { theirs.Close(); ours.Close() })
	tap := ns.NewTap(t, name)
	var sent atomic.Int64
	tag := []byte{0x81, 0, 0, vlan}
	go func() { // to the machine
		b := make([]byte, 1<<16)
		for {
			n, err := tap.Read(b)
			if err != nil {
				return
			}
			if f := b[lab.TapHeader:n]; len(f) >= 14 {
				_, _ = ours.Write(bytes.Join([][]byte{f[:12], tag, f[12:]}, nil))
			}
		}
	}()
	go func() { // from the machine
		b := make([]byte, 1<<16)
		for {
			n, err := ours.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if f := b[:max(n, 0)]; len(f) > 18 && binary.BigEndian.Uint32(f[12:]) == 0x81000000|vlan {
				sent.Add(1)
				_, _ = tap.Write(bytes.Join([][]byte{make([]byte, lab.TapHeader), f[:12], f[16:]}, nil))
			}
		}
	}()
	return wire{"dgram,id=%s,local.type=fd,local.str=%s", theirs}, &sent
}
