package steer

import (
	"container/list"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Devices are told apart by their addresses, and known from the first connection that is accepted of them: a finished
// handshake proves the address, so packets with made-up sources take no room here. Each connection is asked about when
// it is accepted, in every mode alike. In mode tc the classifier drops earlier what would be refused here: all packets
// of whom the deny list has, and the SYNs of a device that has to wait for its next connection.

// MaxDevices is how many devices are remembered. Those beyond are served all the same, neither counted nor limited.
const MaxDevices = 4096

// MaxDenied is how many addresses, and how many MACs, can be denied.
const MaxDenied = 1024

// MAC is the source address of an Ethernet frame.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// DeviceRules say who is kept out, and how often anybody else may connect. The zero DeviceRules keep nobody out.
type DeviceRules struct {
	DenyMACs []MAC          // only mode tc sees them
	DenyNets []netip.Prefix // an address alone has all its bits
	Every    time.Duration  // a device may make one new connection so often, in the long run; 0: no limit
	Burst    int            // and so many at once; at least 1
}

// check refuses what cannot be held, naming the configuration key.
func (r *DeviceRules) check(mode string) error {
	switch {
	case len(r.DenyMACs) > 0 && mode != ModeTC:
		return fmt.Errorf("devices.deny: %v: mode %q does not see MAC addresses: name the device's IP address, or use mode \"tc\"", r.DenyMACs[0], mode)
	case len(r.DenyMACs) > MaxDenied || len(r.DenyNets) > MaxDenied:
		return fmt.Errorf("devices.deny: %d MACs and %d addresses; at most %d of each can be denied", len(r.DenyMACs), len(r.DenyNets), MaxDenied)
	case r.Every < 0 || r.Every > 0 && r.Burst < 1:
		return fmt.Errorf("devices.rate: one connection every %v, %d at once: neither may be less than nothing", r.Every, r.Burst)
	}
	return nil
}

// patience is how far a device may be ahead of its rate.
func (r *DeviceRules) patience() time.Duration { return r.Every * time.Duration(r.Burst-1) }

// net returns the entry that denies an address, or -1.
func (r *DeviceRules) net(addr netip.Addr) int {
	return slices.IndexFunc(r.DenyNets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// devices is the table of them. Its lock is taken when a connection is accepted and for status, never for a message.
type devices struct {
	mode string
	now  func() time.Duration

	mu      sync.Mutex     // guards what follows
	kernel  *kernelDevices // nil where no classifier is
	rules   DeviceRules
	known   map[netip.Addr]*list.Element // of *device
	order   *list.List                   // the one that connected last is first
	denials []denial                     // as rules.DenyNets
	sums    DeviceSums
}

type device struct {
	addr     netip.Addr
	accepted uint64
	limited  uint64
	seen     time.Duration
	paid     time.Duration // when all its connections so far are within the rate (GCRA's theoretical arrival time)
}

type denial struct {
	connections uint64
	seen        time.Duration
}

func newDevices(o *Options, kernel *kernelDevices) *devices {
	start := time.Now()
	return &devices{
		mode: o.Mode, kernel: kernel, now: func() time.Duration { return time.Since(start) },
		rules: o.Devices, denials: make([]denial, len(o.Devices.DenyNets)),
		known: make(map[netip.Addr]*list.Element), order: list.New(),
	}
}

// close ends the classifier's part, whose maps are about to be closed.
func (t *devices) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kernel != nil {
		t.kernel.clock.close()
		t.kernel = nil
	}
}

// admit decides on a connection that has been accepted and returns why it may not be served, or nothing.
func (t *devices) admit(addr netip.Addr) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if !addr.IsValid() {
		return "its address is not known"
	}
	if i := t.rules.net(addr); i >= 0 {
		t.denials[i].connections++
		t.denials[i].seen = now
		t.sums.Denied++
		return "devices.deny has " + sourceText(t.rules.DenyNets[i])
	}
	d := t.find(addr, now)
	if d == nil {
		t.sums.Unknown++
		return ""
	}
	d.seen = now
	if t.rules.Every > 0 && !t.take(d, now) {
		d.limited++
		t.sums.Limited++
		return fmt.Sprintf("devices.rate: more than %d connections at once, and then one every %v", t.rules.Burst, t.rules.Every)
	}
	d.accepted++
	t.sums.Accepted++
	return ""
}

// take counts a connection against the rate, and has the classifier hold the device's next ones if this was the last that
// it may make now.
func (t *devices) take(d *device, now time.Duration) bool {
	if d.paid-now > t.rules.patience() {
		return false
	}
	d.paid = max(d.paid, now) + t.rules.Every
	if wait := d.paid - now - t.rules.patience(); wait > 0 && t.kernel != nil {
		t.kernel.hold(d.addr, wait)
	}
	return true
}

// find returns the device of an address, as the one that connected last; nil if there is no room for another.
func (t *devices) find(addr netip.Addr, now time.Duration) *device {
	if e := t.known[addr]; e != nil {
		t.order.MoveToFront(e)
		return e.Value.(*device)
	}
	if len(t.known) >= MaxDevices && !t.forget(now) {
		return nil
	}
	d := &device{addr: addr}
	t.known[addr] = t.order.PushFront(d)
	if t.kernel != nil {
		t.kernel.add(addr)
	}
	return d
}

// forget makes room by the device that has not connected for longest, unless it has to wait for its next connection:
// who is over the rate does not become a stranger by sending others before.
func (t *devices) forget(now time.Duration) bool {
	e := t.order.Back()
	d := e.Value.(*device)
	if d.paid-now > t.rules.patience() {
		return false
	}
	t.order.Remove(e)
	delete(t.known, d.addr)
	if t.kernel != nil {
		t.kernel.remove(d.addr)
	}
	return true
}

// set puts other rules in force. After an error all of the old ones are.
func (t *devices) set(r DeviceRules) error {
	if err := r.check(t.mode); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kernel != nil {
		if err := t.kernel.set(t.rules, r); err != nil {
			return err
		}
	}
	if r.Every != t.rules.Every || r.Burst != t.rules.Burst {
		t.forgive()
	}
	denials := make([]denial, len(r.DenyNets))
	for i, p := range r.DenyNets {
		if k := slices.Index(t.rules.DenyNets, p); k >= 0 {
			denials[i] = t.denials[k]
		}
	}
	t.rules, t.denials = r, denials
	return nil
}

// forgive lets every device begin anew. The caller holds mu.
func (t *devices) forgive() {
	for addr, e := range t.known {
		e.Value.(*device).paid = 0
		if t.kernel != nil {
			t.kernel.release(addr)
		}
	}
}

// denied tells whether a device that has an address is kept out. By its MAC it is known as the classifier saw it last.
func (t *devices) denied(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rules.net(addr) >= 0 {
		return true
	}
	if len(t.rules.DenyMACs) == 0 {
		return false
	}
	c, ok := t.kernel.look(addr)
	return ok && slices.Contains(t.rules.DenyMACs, c.MAC.mac())
}
