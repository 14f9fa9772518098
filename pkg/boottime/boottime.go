// Package boottime reads the one clock that key lifetimes run on: it only grows, goes on
// while the machine sleeps, and nobody sets it. gatewayd and controld of a router
// read the same one, so that a time that one names means something to the other.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_BOOTTIME: the time since the machine booted.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // every kernel since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
