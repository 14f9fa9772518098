package steer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sealgate/bpf"
)

// attacher keeps the classifier on the LAN interfaces. Attaching replaces what an earlier process left, in one step;
// closing leaves what is attached, so that packets go on being dropped.
type attacher struct {
	program *program
	lan     []string // in a bridge: the ports of both sides
	bridge  *joiner  // nil: the gateway routes
	log     *slog.Logger
	pins    string // directory for pinned links, or "" for clsact

	mu   sync.Mutex
	done map[string]attachment // by interface name; zero for one that does not exist
	out  attachment            // to the way out of the bridge
}

type attachment struct {
	index int
	how   string
}

// newAttacher chooses the way to attach. TCX is preferred: nothing else can take its place, and a new process replaces
// the program in one step. It needs a kernel that has it and a BPF file system that outlives this process.
func newAttacher(p *program, o Options, log *slog.Logger) (*attacher, error) {
	a := &attacher{program: p, lan: o.LAN, log: log, done: make(map[string]attachment)}
	if o.bridged() {
		a.lan, a.bridge = o.sides(), &joiner{options: o, program: p, log: log}
		if err := errors.Join(p.standIn(noBridge), p.letCross(slices.Concat(alwaysCross, o.Ethertypes))); err != nil {
			return nil, err
		}
	}
	if o.Attach == AttachClsact {
		return a, nil
	}
	err := haveTCX()
	if err == nil {
		a.pins, err = pins()
	}
	if err != nil && o.Attach == AttachTCX {
		return nil, fmt.Errorf("attach the classifier by TCX: %w", err)
	}
	if err != nil {
		log.Info("steering by clsact instead of TCX", "reason", err.Error())
	}
	return a, nil
}

// haveTCX asks the kernel for the TCX programs of the loopback interface.
func haveTCX() error {
	lo, err := interfaceByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	err = bpf.HaveTCX(lo.index)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EPERM) {
		return err
	}
	return fmt.Errorf("this kernel has no TCX (6.6 or newer has): %w", err)
}

func (a *attacher) attached() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := make(map[string]string, len(a.done))
	for name, at := range a.done {
		if at.how != "" {
			m[name] = at.how
		}
	}
	return m
}

// attachAll attaches to every LAN interface that exists and is not attached yet. An interface that does not exist is
// not an error: it is attached when it appears.
func (a *attacher) attachAll() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	links := make(map[string]iface)
	var errs []error
	for _, name := range a.lan {
		l, err := interfaceByName(name)
		if errors.Is(err, errNoInterface) {
			a.forget(name)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("find interface %s: %w", name, err))
			continue
		}
		links[name] = l
	}
	if a.bridge != nil {
		errs = append(errs, a.joinBridge())
	} else {
		errs = append(errs, a.program.passTagged(hasSteeredVLAN(links)))
	}
	for name, l := range links {
		if a.done[name].index == l.index {
			continue
		}
		if err := refusePort(l); err != nil && a.bridge == nil {
			errs = append(errs, err)
			continue
		}
		how, err := a.attach(l, incoming)
		if err != nil {
			errs = append(errs, programError("attach the classifier to "+name, err))
			continue
		}
		a.done[name] = attachment{l.index, how}
		a.log.Info("steering", "interface", name, "attached", how)
	}
	return errors.Join(errs...)
}

// again attaches to every interface, whatever is there now.
func (a *attacher) again() error {
	a.mu.Lock()
	clear(a.done)
	a.out = attachment{}
	a.mu.Unlock()
	return a.attachAll()
}

// joinBridge tells the classifier about the bridge as it is now, and puts it in the way out of it.
func (a *attacher) joinBridge() error {
	bridge, err := a.bridge.join()
	if bridge.index == a.out.index {
		return err
	}
	a.out = attachment{}
	if bridge.index == 0 {
		return err
	}
	how, attachErr := a.attach(bridge, outgoing)
	if attachErr != nil {
		return errors.Join(err, programError("attach the classifier to the way out of "+bridge.name, attachErr))
	}
	a.out = attachment{bridge.index, how}
	return err
}

// refusePort refuses a port of a bridge or a bond: its packets belong to the interface above, which is the one that the
// policy route sees them come in by.
func refusePort(l iface) error {
	if l.master == 0 {
		return nil
	}
	above, err := interfaceByIndex(l.master)
	if err != nil {
		return fmt.Errorf("find the interface above %s: %w", l.name, err)
	}
	switch above.kind {
	case "bridge", "bond", "team", "openvswitch":
		return fmt.Errorf("steer.lan: %s is a port of the %s %s: name %s instead",
			l.name, above.kind, above.name, above.name)
	}
	return nil
}

// concerns tells whether a change of the interface may call for attachAll. In a bridge any interface may have become a port.
func (a *attacher) concerns(name string) bool { return a.bridge != nil || slices.Contains(a.lan, name) }

// forget notes that an interface does not exist, and says so once.
func (a *attacher) forget(name string) {
	if at, known := a.done[name]; known && at == (attachment{}) {
		return
	}
	a.done[name] = attachment{}
	a.log.Warn("interface does not exist; steering waits for it", "interface", name)
}

// hasSteeredVLAN tells whether one of the interfaces is a VLAN on top of another. The lower one then sees the upper
// one's packets, tagged, and must leave them alone.
func hasSteeredVLAN(links map[string]iface) bool {
	for l := range maps.Values(links) {
		for lower := range maps.Values(links) {
			if l.kind == "vlan" && l.lower == lower.index {
				return true
			}
		}
	}
	return false
}

// hook is a place of an interface.
type hook struct {
	tcx    uint32 // the link's attach type
	parent uint32 // of a filter
	pin    string // behind the interface's name
}

var (
	incoming = hook{unix.BPF_TCX_INGRESS, clsactIngress, ""}
	outgoing = hook{unix.BPF_TCX_EGRESS, clsactEgress, pinOutgoing}
)

// attach puts the program on the interface and takes off whatever the other way of attaching left.
func (a *attacher) attach(l iface, h hook) (how string, err error) {
	if a.pins == "" {
		if err := attachClsact(a.program.objects.SealgateSteer, l, h); err != nil {
			return "", err
		}
		return AttachClsact, unpin(l.name + h.pin)
	}
	if err := attachTCX(a.program.objects.SealgateSteer, l, h, filepath.Join(a.pins, l.name+h.pin)); err != nil {
		return "", err
	}
	return AttachTCX, removeFilter(l, h)
}

// attachTCX updates the pinned link, or makes one if there is none for this interface. A link whose interface has gone
// does not come back with a new one of the same name.
func attachTCX(p *ebpf.Program, l iface, h hook, pin string) error {
	old, err := bpf.OpenTCX(pin)
	if err == nil {
		defer old.Close()
		if at, err := old.Interface(); err == nil && at == l.index {
			return old.Update(p)
		}
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("remove the stale link %s: %w", pin, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open the pinned link %s: %w", pin, err)
	}
	made, err := bpf.AttachTCX(p, l.index, h.tcx)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := made.Pin(pin); err != nil {
		return fmt.Errorf("pin the link at %s: %w", pin, err)
	}
	return nil
}

// attachClsact replaces our filter in one step. The qdisc is shared with other programs: it is made when missing and
// never removed.
func attachClsact(p *ebpf.Program, l iface, h hook) error {
	if err := addClsact(l); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the clsact qdisc: %w (OpenWrt: kmod-sched-core)", err)
	}
	if err := replaceFilter(l, h.parent, p.FD()); err != nil {
		return fmt.Errorf("add the filter: %w (OpenWrt: kmod-sched-bpf)", err)
	}
	return nil
}

// hasFilter tells whether the interface carries a filter of ours.
func hasFilter(l iface, h hook) (bool, error) {
	names, err := listFilters(l, h.parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil // no clsact
	}
	if err != nil {
		return false, fmt.Errorf("list the filters of %s: %w", l.name, err)
	}
	return slices.Contains(names, filterName), nil
}

func removeFilter(l iface, h hook) error {
	has, err := hasFilter(l, h)
	if err != nil || !has {
		return err
	}
	if err := deleteFilter(l, h.parent); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the filter of %s: %w", l.name, err)
	}
	return nil
}

// unpin removes the pinned link of an interface, which detaches its program. No pin is no error; nor is it that a confined process may
// not look, because what was pinned then went at its start.
func unpin(name string) error {
	dir, err := pinPath()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("remove the pinned link: %w", err)
	}
	return nil
}

// detachAll takes the classifier off every interface of this network namespace, however it was attached.
func detachAll() error {
	var errs []error
	if dir, err := pinPath(); err != nil {
		errs = append(errs, err)
	} else if isBPFFS(bpffsRoot) {
		errs = append(errs, os.RemoveAll(dir))
		os.Remove(filepath.Dir(dir)) // stays while other network namespaces have theirs in it
	}
	links, err := listInterfaces()
	if err != nil {
		errs = append(errs, fmt.Errorf("list interfaces: %w", err))
	}
	for _, l := range links {
		errs = append(errs, removeFilter(l, incoming), removeFilter(l, outgoing))
	}
	return errors.Join(errs...)
}
