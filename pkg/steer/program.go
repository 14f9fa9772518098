package steer

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sealgate/bpf"
)

// program is the classifier in the kernel, with its maps. Attached programs live on when it is closed.
type program struct {
	objects  *bpf.SteerObjects
	changing sync.Mutex // held from reading the configuration until it is written, and while the maps are closed
}

func loadProgram() (*program, error) {
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11 count maps against it
		return nil, fmt.Errorf("load the classifier: lift the limit on locked memory: %w: run gatewayd as root or with CAP_SYS_RESOURCE", err)
	}
	objects, err := bpf.Load()
	if err != nil {
		return nil, programError("load the classifier", err)
	}
	return &program{objects: objects}, nil
}

func (p *program) close() {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.objects.Close()
}

// configure fills the maps. It comes before attaching: an attached classifier without a configuration would pass
// every packet on.
func (p *program) configure(l *net.TCPListener, ports []uint16) error {
	addr := l.Addr().(*net.TCPAddr)
	c := classifierConfig{Port: uint32(addr.Port), Mark: listenerMark}
	if addr.IP.To4() == nil {
		c.Flags |= flagListenerIPv6
	}
	if err := p.write(c); err != nil {
		return err
	}
	for _, port := range ports {
		if err := p.objects.SteerPortsMap.Put(port, uint8(1)); err != nil {
			return programError(fmt.Sprintf("steer port %d", port), err)
		}
	}
	return nil
}

func (p *program) write(c classifierConfig) error {
	if err := p.objects.SteerConfigMap.Put(uint32(0), c); err != nil {
		return programError("configure the classifier", err)
	}
	return nil
}

// passTagged says what to do with steered packets in a VLAN tag: leave them to a steered VLAN interface, or drop them.
func (p *program) passTagged(pass bool) error {
	return p.change(func(c *classifierConfig) {
		c.Flags &^= flagPassTagged
		if pass {
			c.Flags |= flagPassTagged
		}
	})
}

// change edits the configuration in force.
func (p *program) change(edit func(*classifierConfig)) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	var c classifierConfig
	if err := p.objects.SteerConfigMap.Lookup(uint32(0), &c); err != nil {
		return programError("read the classifier's configuration", err)
	}
	edit(&c)
	return p.write(c)
}

// standIn has the classifier stand between the ports of a bridge, and forgets where stations were heard.
func (p *program) standIn(b classifierBridge) error {
	if err := p.objects.SteerBridgeMap.Put(uint32(0), b); err != nil {
		return programError("tell the classifier about the bridge", err)
	}
	var station, port [8]byte
	var stale [][8]byte
	for i := p.objects.SteerStationsMap.Iterate(); i.Next(&station, port[:4]); {
		stale = append(stale, station)
	}
	for _, station := range stale {
		if err := p.objects.SteerStationsMap.Delete(station); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return programError("forget the stations of the bridge", err)
		}
	}
	return nil
}

// letCross names the kinds of frame that may cross a bridge.
func (p *program) letCross(ethertypes []uint16) error {
	for _, t := range ethertypes {
		if err := p.objects.SteerTypesMap.Put(t, uint8(1)); err != nil {
			return programError(fmt.Sprintf("let ethertype %#04x cross", t), err)
		}
	}
	return nil
}

// counters sums the processors' counts.
func (p *program) counters() (sums [counters]uint64, err error) {
	p.changing.Lock()
	defer p.changing.Unlock()
	for i := range sums {
		var each []uint64
		if err := p.objects.SteerCountersMap.Lookup(uint32(i), &each); err != nil {
			return sums, programError("read the classifier's counters", err)
		}
		for _, n := range each {
			sums[i] += n
		}
	}
	return sums, nil
}

// programError makes one line of a verifier's log and says what is missing.
func programError(doing string, err error) error {
	if ve := (*ebpf.VerifierError)(nil); errors.As(err, &ve) {
		err = fmt.Errorf("the kernel's verifier refuses it: %w", ve.Cause)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: run gatewayd as root or with CAP_NET_ADMIN and CAP_BPF", doing, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w: kernel 5.7 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF is needed (OpenWrt: kmod-sched-bpf)", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Counters are the classifier's counts of packets since it was loaded.
type Counters struct {
	Assigned   uint64 // packets handed to the listener or to a connection of ours; a packet may hold many segments
	Segments   uint64 // TCP segments in them
	NoListener uint64 // dropped: no listener
	Fragment   uint64 // dropped: fragment of TCP
	Truncated  uint64 // dropped: header cut off
	Extension  uint64 // dropped: more IPv6 extension headers than the classifier follows
	VLAN       uint64 // dropped: steered traffic in an unexpected VLAN tag
	Failed     uint64 // dropped: the kernel refused the assignment
	Barred     uint64 // dropped in a bridge: a kind of frame that may not cross, or to a steered port from the broker's side
	Foreign    uint64 // packets of a host's own socket on a steered port, sent to our listener instead
	Denied     uint64 // dropped: the deny list has their source
	Limited    uint64 // dropped: a new connection of a device over its rate
	Untold     uint64 // events of new connections that found no room
	Refused    uint64 // connections closed after accept: to a port that is not steered, or to the gateway itself
}

// Counters reads the counts. All but Refused are zero where there is no classifier.
func (s *Steering) Counters() (Counters, error) {
	var refused uint64
	if s.acceptor != nil {
		refused = s.acceptor.refused.Load()
	}
	if s.program == nil {
		return Counters{Refused: refused}, nil
	}
	c, err := s.program.counters()
	return Counters{
		Assigned: c[countAssigned], Segments: c[countSegments], NoListener: c[countNoListener],
		Fragment: c[countFragment], Truncated: c[countTruncated], Extension: c[countExtension],
		VLAN: c[countVLAN], Failed: c[countFailed], Barred: c[countBarred], Foreign: c[countForeign],
		Denied: c[countDenied], Limited: c[countLimited], Untold: c[countUntold],
		Refused: refused,
	}, err
}
