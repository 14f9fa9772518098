package member

import (
	"runtime/debug"
	"time"

	"sealgate/pkg/boottime"
	"sealgate/pkg/control"
)

// NewClock returns the clock that a member reads when its Config brings none: never below when this program was
// built, nor below floor.
func NewClock(floor time.Time) func() control.Time { return newClock(floor) }

// newClock reads CLOCK_BOOTTIME, which goes on while a machine sleeps, and the wall
// clock, which on a router without a battery starts in the past: never below floor.
// When the wall clock is below the floor, time passes above it as CLOCK_BOOTTIME does.
func newClock(floor time.Time) func() control.Time {
	floor = latest(floor, buildTime())
	start := boottime.Now()
	return func() control.Time {
		mono := boottime.Now()
		return control.Time{Mono: mono, Wall: latest(time.Now(), floor.Add(mono-start))}
	}
}

// buildTime is when the source of this program was committed: it cannot be earlier than that. The zero time if unknown.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
