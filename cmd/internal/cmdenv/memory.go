package cmdenv

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// LimitMemory sets the Go runtime's soft memory limit to percent of the machine's memory,
// unless GOMEMLIMIT is set. A router has little memory and no swap: collecting more often near
// the limit is better than being killed by the kernel. GOGC works as ever below the limit.
func LimitMemory(getenv func(string) string, percent int64) {
	if getenv != nil && getenv("GOMEMLIMIT") != "" {
		return
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return
	}
	if total := memTotal(string(b)); total > 0 {
		debug.SetMemoryLimit(total / 100 * percent)
	}
}

// memTotal reads the MemTotal line of /proc/meminfo, in bytes; 0 if there is none.
func memTotal(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		rest, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0
		}
		return kb << 10
	}
	return 0
}
