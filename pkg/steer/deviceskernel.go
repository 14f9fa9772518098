package steer

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// kernelDevices is the classifier's share of the table of devices.
type kernelDevices struct {
	*program
	clock clock
}

// deviceKey is struct steer_address.
type deviceKey [16]byte

func keyOf(addr netip.Addr) deviceKey { return deviceKey(addr.As16()) }

// macKey is union steer_mac.
type macKey [8]byte

func (k macKey) mac() MAC { return MAC(k[:6]) }

func keyOfMAC(m MAC) (k macKey) {
	copy(k[:], m[:])
	return k
}

// netKey is struct steer_net.
type netKey struct {
	Bits    uint32
	Address deviceKey
}

func keyOfNet(p netip.Prefix) netKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return netKey{uint32(bits), keyOf(p.Addr())}
}

// deviceCount is struct steer_device.
type deviceCount struct {
	Packets, Bytes, Limited, Seen uint64
	MAC                           macKey
}

// deniedCount is struct steer_denied.
type deniedCount struct{ Packets, Seen uint64 }

// deviceEvent is struct steer_event.
type deviceEvent struct {
	Address    deviceKey
	MAC        macKey
	Kind, Port uint32
}

// Kinds of events, enum steer_event_kind.
const (
	eventNew = iota + 1
	eventDenied
	eventLimited
)

// maxEvents is the room in the queue of events.
const maxEvents = 256

// newKernelDevices puts rules in force in a classifier that is not attached yet.
func newKernelDevices(p *program, r DeviceRules) (*kernelDevices, error) {
	k := &kernelDevices{program: p}
	if err := k.clock.open(); err != nil {
		return nil, programError("read the kernel's clock", err)
	}
	if err := k.set(DeviceRules{}, r); err != nil {
		k.clock.close()
		return nil, err
	}
	return k, nil
}

// set adds what is denied from now on, and only then takes out what is not any more. After an error all is as before.
func (k *kernelDevices) set(old, next DeviceRules) error {
	err := k.deny(next)
	if err == nil {
		err = k.flag(next)
	}
	if err != nil {
		k.allow(next, old)
		return err
	}
	k.allow(old, next)
	return nil
}

func (k *kernelDevices) deny(r DeviceRules) error {
	for _, m := range r.DenyMACs {
		if err := addKey(k.objects.SteerDenyMacsMap, keyOfMAC(m)); err != nil {
			return programError("devices.deny: deny "+m.String(), err)
		}
	}
	for _, p := range r.DenyNets {
		if err := addKey(k.objects.SteerDenyNetsMap, keyOfNet(p)); err != nil {
			return programError("devices.deny: deny "+p.String(), err)
		}
	}
	return nil
}

// allow takes out what was denied and is not to be.
func (k *kernelDevices) allow(was, keep DeviceRules) {
	for _, m := range was.DenyMACs {
		if !slices.Contains(keep.DenyMACs, m) {
			_ = k.objects.SteerDenyMacsMap.Delete(keyOfMAC(m))
		}
	}
	for _, p := range was.DenyNets {
		if !slices.Contains(keep.DenyNets, p) {
			_ = k.objects.SteerDenyNetsMap.Delete(keyOfNet(p))
		}
	}
}

func addKey(m *ebpf.Map, key any) error {
	err := m.Update(key, deniedCount{}, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	return err
}

// flag tells the classifier which maps hold something.
func (k *kernelDevices) flag(r DeviceRules) error {
	return k.change(func(c *classifierConfig) {
		c.Flags &^= flagDenyMACs | flagDenyNets | flagHold
		if len(r.DenyMACs) > 0 {
			c.Flags |= flagDenyMACs
		}
		if len(r.DenyNets) > 0 {
			c.Flags |= flagDenyNets
		}
		if r.Every > 0 {
			c.Flags |= flagHold
		}
	})
}

// add begins to count a device's packets. What finds no room is served all the same.
func (k *kernelDevices) add(addr netip.Addr) {
	_ = k.objects.SteerDevicesMap.Update(keyOf(addr), deviceCount{}, ebpf.UpdateNoExist)
}

func (k *kernelDevices) remove(addr netip.Addr) {
	_ = k.objects.SteerDevicesMap.Delete(keyOf(addr))
	k.release(addr)
}

// hold has the SYNs of a device dropped for a while. Where that fails they are refused when they are accepted.
func (k *kernelDevices) hold(addr netip.Addr, wait time.Duration) {
	if now, err := k.clock.now(); err == nil {
		_ = k.objects.SteerHoldMap.Put(keyOf(addr), now+uint64(wait/k.clock.tick))
	}
}

func (k *kernelDevices) release(addr netip.Addr) { _ = k.objects.SteerHoldMap.Delete(keyOf(addr)) }

// look reads a device's counts. Without a classifier, k is nil, there are none.
func (k *kernelDevices) look(addr netip.Addr) (c deviceCount, ok bool) {
	if k == nil {
		return c, false
	}
	err := k.objects.SteerDevicesMap.Lookup(keyOf(addr), &c)
	return c, err == nil
}

// denials returns the maps that count what was denied; nil without a classifier.
func (k *kernelDevices) denials() (macs, nets *ebpf.Map) {
	if k == nil {
		return nil, nil
	}
	return k.objects.SteerDenyMacsMap, k.objects.SteerDenyNetsMap
}

// ages returns how a time of the classifier's becomes one that has passed since.
func (k *kernelDevices) ages() func(uint64) time.Duration {
	if k == nil {
		return func(uint64) time.Duration { return 0 }
	}
	now, err := k.clock.now()
	return func(seen uint64) time.Duration {
		if err != nil || seen > now {
			return 0
		}
		return time.Duration(now-seen) * k.clock.tick
	}
}
