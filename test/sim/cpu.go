package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadCPU is the processor time of this thread. The simulation is one goroutine locked to it.
func threadCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
