package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/test/lab"
)

// vlan is the devices' in this test.
const vlan = 7

// TestVLAN has the devices in a VLAN that reaches the appliance tagged, in both of its places. The kernel of the testing machine may have no VLANs: the tags are put
// on and taken off between the machine's cable and the devices' interface.
func TestVLAN(t *testing.T) {
	lab.NeedRoot(t)
	t.Parallel()
	t.Run("bridge", func(t *testing.T) {
		t.Parallel()
		runVLAN(t, "", "LAN_VLAN=7")
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		runVLAN(t, "10.8.0.1", "LAN_VLAN=7", "PLACE=routed", "LAN_ADDRESS=10.8.0.1/24")
	})
}

// runVLAN sets an appliance up whose place.conf has some other settings; gateway is its address if it is to be a router.
func runVLAN(t *testing.T, gateway string, place ...string) {
	s := newSite(t)
	lan, tagged := taggedCable(t, s.sensor, "lan")
	m := newMachine(t, kinds()[0], lan, s.open(t, gateway))
	m.on(t)
	m.says(t, "Not set up yet")
	for _, setting := range place {
		name, _, _ := strings.Cut(setting, "=")
		m.types(t, "sed -i s,^"+name+"=.*,"+setting+", /etc/sealgate/place.conf")
	}
	m.types(t, "sync; reboot")
	m.ends(t)
	m.on(t)
	if gateway != "" { // a router that is not set up takes everything else across
		s.passes(t)
	}
	s.enrol(t, m)
	s.awaitSealed(t, m, 0)
	m.cutPower()
	s.startsIn(t, m, "A")
	s.passes(t)
	s.judge(t)
	if tagged.Load() == 0 {
		t.Error("the machine sent no tagged frame")
	}
}

// passes waits until a datagram of a device has come across.
func (s *site) passes(t *testing.T) {
	t.Helper()
	var there net.PacketConn
	if err := s.uplink.Do(func() (err error) { there, err = net.ListenPacket("udp4", brokerIP+":0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	here, err := s.sensor.Dial(lab.Within(t, patience), "udp4", there.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	go func() {
		for ; !errors.Is(err, net.ErrClosed); time.Sleep(100 * time.Millisecond) {
			_, err = here.Write([]byte("no MQTT"))
		}
	}()
	_ = there.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := there.ReadFrom(make([]byte, 64)); err != nil {
		t.Fatalf("what is no MQTT does not get across: %v", err)
	}
}

// taggedCable is a cable on whose machine's side all frames are in the VLAN; others that the machine sends are lost. It gets each frame without a tag too, as if devices
// had tried that. It counts the frames that the machine sent in the VLAN.
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
				_, _ = ours.Write(f)
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
