package steer

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
)

// Between the ports of a bridge, gatewayd stands inline: devices and broker are in one subnet and nothing routes. The
// bridge itself passes nothing on between the two sides. Two things see to that without gatewayd: a table of nftables
// that goes by the ports' names (bridgeguard.go), and the ports' isolation, which goes with a port that is taken out.
// What is not steered is sent across by the classifier (bpf/bridge.h).

// alwaysCross are the kinds of frame that cross in any case: ARP, IPv4 and IPv6.
var alwaysCross = []uint16{0x0806, 0x0800, 0x86dd}

func (o *Options) bridged() bool { return o.Bridge != "" }

// sides are all ports, devices' first.
func (o *Options) sides() []string { return slices.Concat(o.LAN, o.Uplink) }

// devices are the interfaces by which the devices' packets come in, to the policy route.
func (o *Options) devices() []string {
	if o.bridged() {
		return []string{o.Bridge}
	}
	return o.LAN
}

func (o *Options) checkBridge() error {
	if !o.bridged() {
		if len(o.Ethertypes) != 0 {
			return errors.New("steer.ethertypes: only for a bridge; set steer.bridge or remove it")
		}
		return nil
	}
	if o.Mode != ModeTC {
		return fmt.Errorf("steer.bridge: mode %q cannot stand in a bridge; use \"tc\"", o.Mode)
	}
	if !validInterfaceName(o.Bridge) || len(o.Bridge) > maxInterfaceName || slices.Contains(o.sides(), o.Bridge) {
		return fmt.Errorf("steer.bridge: %q is not the name of a bridge, or also in steer.lan or steer.uplink", o.Bridge)
	}
	if len(o.Uplink) == 0 || len(o.sides()) > MaxBridgePorts {
		return fmt.Errorf("steer.uplink: steer.lan and steer.uplink name the ports of %s, one on each side at least and %d in all at most",
			o.Bridge, MaxBridgePorts)
	}
	for _, name := range o.Uplink {
		if len(name) > maxInterfaceName || !validInterfaceName(name) {
			return fmt.Errorf("steer.uplink: %q is not an interface name", name)
		}
	}
	if len(o.Ethertypes) > MaxEthertypes {
		return fmt.Errorf("steer.ethertypes: %d; at most %d beside ARP, IPv4 and IPv6", len(o.Ethertypes), MaxEthertypes)
	}
	return nil
}

// setupBridge closes the bridge.
func setupBridge(o Options) error {
	if err := installBridgeGuard(o); err != nil {
		return err
	}
	ports, err := findPorts(o)
	if errors.Is(err, errNoInterface) {
		return nil // the guard goes by names; gatewayd isolates the ports when they are there
	}
	if err == nil && o.SpoofSource {
		err = errors.Join(installNextHop(ports.bridge), probeMTU())
	}
	return errors.Join(err, isolate(ports.all, true))
}

// teardownBridge undoes setupBridge.
func teardownBridge(o Options) error {
	var errs []error
	if o.bridged() {
		if ports, err := findPorts(o); err == nil {
			errs = append(errs, isolate(ports.all, false), removeNextHop(ports.bridge))
		}
	}
	return errors.Join(append(errs, removeBridgeGuard())...)
}

// bridgePorts is a bridge as it is now.
type bridgePorts struct {
	bridge   iface
	all      []iface // the configured ones that are in it
	strange  []string
	outside  []string
	uplinkOf map[int]bool // by index
}

// findPorts returns errNoInterface where there is no bridge.
func findPorts(o Options) (p bridgePorts, err error) {
	if p.bridge, err = interfaceByName(o.Bridge); err != nil {
		return p, fmt.Errorf("find bridge %s: %w", o.Bridge, err)
	}
	if err := refuseBridge(p.bridge); err != nil {
		return p, err
	}
	links, err := listInterfaces()
	if err != nil {
		return p, fmt.Errorf("list the ports of %s: %w", o.Bridge, err)
	}
	p.uplinkOf = make(map[int]bool)
	for _, l := range links {
		named, inside := slices.Contains(o.sides(), l.name), l.master == p.bridge.index
		switch {
		case named && inside:
			p.all = append(p.all, l)
			p.uplinkOf[l.index] = slices.Contains(o.Uplink, l.name)
		case named:
			p.outside = append(p.outside, l.name)
		case inside:
			p.strange = append(p.strange, l.name)
		}
	}
	return p, nil
}

// refuseBridge refuses what the classifier would undo: it sends across whatever a bridge's own tables say.
func refuseBridge(b iface) error {
	switch {
	case b.kind != "bridge":
		return fmt.Errorf("steer.bridge: %s is not a bridge", b.name)
	case b.filtering:
		return fmt.Errorf("steer.bridge: %s filters VLANs, which steering between its ports cannot: make a bridge for each VLAN, or `ip link set %s type bridge vlan_filtering 0`", b.name, b.name)
	case b.spanning:
		return fmt.Errorf("steer.bridge: %s speaks the spanning tree protocol, which steering between its ports cannot: `ip link set %s type bridge stp_state 0`", b.name, b.name)
	}
	return nil
}

// isolate leaves alone what is right already, and says nothing of a port that has gone meanwhile.
func isolate(ports []iface, isolated bool) error {
	for _, l := range ports {
		if l.isolated == isolated {
			continue
		}
		if err := setIsolated(l, isolated); err != nil && !goneMeanwhile(l) {
			return fmt.Errorf("isolate port %s of the bridge: %w (kernel 4.18 or newer is needed)", l.name, err)
		}
	}
	return nil
}

func goneMeanwhile(l iface) bool {
	now, err := interfaceByIndex(l.index)
	return errors.Is(err, errNoInterface) || err == nil && now.master != l.master
}

// joiner keeps the classifier informed about the bridge.
type joiner struct {
	options Options
	program *program
	log     *slog.Logger
	last    classifierBridge
	told    string // the last warning
}

// noBridge has the classifier send nothing across.
var noBridge = classifierBridge{Index: math.MaxUint32}

// join isolates the ports and tells the classifier about them. Where the bridge is missing, or cannot be steered,
// nothing crosses. It returns the bridge, if there is one.
func (j *joiner) join() (iface, error) {
	ports, err := findPorts(j.options)
	if err == nil {
		err = isolate(ports.all, true)
	}
	b := noBridge
	if ports.bridge.index != 0 {
		b = classifierBridge{Index: uint32(ports.bridge.index), MAC: ports.bridge.mac}
	}
	if err == nil && j.options.SpoofSource {
		b.Mark = listenerMark
		err = installNextHop(ports.bridge)
	}
	if err == nil {
		for i, l := range ports.all {
			b.Ports[i].Index = uint32(l.index)
			if ports.uplinkOf[l.index] {
				b.Ports[i].Uplink = 1
			}
		}
	}
	if b != j.last {
		if err := j.program.standIn(b); err != nil {
			return ports.bridge, err
		}
		j.last = b
	}
	j.warn(ports)
	if errors.Is(err, errNoInterface) {
		return ports.bridge, nil
	}
	return ports.bridge, err
}

// warn says once what keeps traffic from crossing.
func (j *joiner) warn(p bridgePorts) {
	text := ""
	switch {
	case p.bridge.index == 0:
		text = "the bridge does not exist; steering waits for it"
	case len(p.outside) != 0:
		text = "interfaces of steer.lan or steer.uplink are no ports of the bridge; nothing crosses by them"
	case len(p.strange) != 0:
		text = "ports of the bridge are neither in steer.lan nor in steer.uplink; nothing crosses by them"
	}
	if said := fmt.Sprint(text, p.outside, p.strange); said != j.told {
		j.told = said
		if text != "" {
			j.log.Warn(text, "bridge", j.options.Bridge, "interfaces", slices.Concat(p.outside, p.strange))
		}
	}
}
