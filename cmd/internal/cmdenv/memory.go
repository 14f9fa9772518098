package cmdenv

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// little is the memory, in bytes, up to which a machine's is spared at the cost of its processor.
const little = 256 << 20

// LimitMemory sets the Go runtime's soft memory limit to percent of the machine's memory,
// unless GOMEMLIMIT is set. A router has little memory and no swap: collecting more often near
// the limit is better than being killed by the kernel. On machines of up to 256 MiB the heap is
// collected at half the usual growth too, unless GOGC is set.
func LimitMemory(getenv func(string) string, percent int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return
	}
	limit, gc := memoryRules(memTotal(string(b)), percent, getenv)
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	if gc > 0 {
		debug.SetGCPercent(gc)
	}
}

// memoryRules gives the limit, in bytes, and GOGC for a machine with total bytes; 0 is what stays as it is.
func memoryRules(total, percent int64, getenv func(string) string) (limit int64, gc int) {
	set := func(name string) bool { return getenv != nil && getenv(name) != "" }
	if !set("GOMEMLIMIT") {
		limit = total / 100 * percent
	}
	if total > 0 && total <= little && !set("GOGC") {
		gc = 50
	}
	return limit, gc
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
