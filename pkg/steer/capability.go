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

// needCapabilities returns an error that names the capabilities this process does not have.
func needCapabilities(doing string, need ...capability) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("%s: read this process's capabilities: %w", doing, err)
	}
	has := func(n uint) bool { return data[n/32].Effective&(1<<(n%32)) != 0 }
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
