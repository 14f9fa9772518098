package steer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

type capability struct {
	name   string
	number uint
	or     uint // a capability that includes it; the same number if none does
}

var (
	capNetAdmin = capability{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, unix.CAP_NET_ADMIN}
	capNetRaw   = capability{"CAP_NET_RAW", unix.CAP_NET_RAW, unix.CAP_NET_RAW}
	capBPF      = capability{"CAP_BPF", unix.CAP_BPF, unix.CAP_SYS_ADMIN} // CAP_BPF is younger than bpf(2)
)

// Needs are what steering goes on needing after [Listen]: to steer an interface that is made again, and to give a verdict on a packet.
type Needs struct {
	Capabilities []int    // as unix.CAP_NET_ADMIN
	Write        []string // directories, where they exist
	BPF          bool     // loads and attaches programs
}

// Needs says what o goes on needing. The error is that of the kernel, which was asked what this process has.
func (o *Options) Needs() (n Needs, err error) {
	need := map[string][]capability{ModeTC: {capNetAdmin, capBPF}, ModeNFQueue: {capNetAdmin}}[o.Mode]
	has, err := effective()
	if err != nil {
		return n, err
	}
	for _, c := range need {
		if !has(c.number) {
			c.number = c.or
		}
		n.Capabilities = append(n.Capabilities, int(c.number))
	}
	n.BPF = o.Mode == ModeTC
	if n.BPF && o.Attach != AttachClsact && isBPFFS(bpffsRoot) {
		n.Write = []string{bpffsRoot}
	}
	return n, nil
}

// effective reports, of each capability, whether this process has it.
func effective() (has func(uint) bool, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("read this process's capabilities: %w", err)
	}
	return func(n uint) bool { return data[n/32].Effective&(1<<(n%32)) != 0 }, nil
}

// needCapabilities returns an error that names the capabilities this process does not have.
func needCapabilities(doing string, need ...capability) error {
	has, err := effective()
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var missing []string
	for _, c := range need {
		if !has(c.number) && !has(c.or) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s: permission denied: run as root or give %s", doing, strings.Join(missing, " and "))
}
