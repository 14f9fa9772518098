package member

import (
	"log/slog"
	"runtime/debug"
	"time"

	"sealgate/pkg/boottime"
	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
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

// compilerTime is before the first compiler that can build this program: package crypto/hpke came with Go 1.26, whose
// first release candidate is of December 2025.
var compilerTime = time.Date(2025, time.December, 1, 0, 0, 0, 0, time.UTC)

// buildTime is when the source of this program was committed, or if the build does not tell, when it could first be built: it cannot
// be earlier than that.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return compilerTime
	}
	return sourceTime(info)
}

func sourceTime(info *debug.BuildInfo) time.Time {
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return latest(t, compilerTime)
		}
	}
	return compilerTime
}

// farBehind is how far a clock may lag the one noted before somebody should look which of the two is wrong.
const farBehind = 24 * time.Hour

// checkClock tells the operator that the machine's clock is far behind what earlier runs have noted. A router without a battery is
// so at each boot; a clock that once ran years ahead leaves it so for good.
func checkClock(log *slog.Logger, noted, now time.Time, id *crypto.Identity) {
	if noted.Sub(now) <= farBehind {
		return
	}
	say := log.Info
	if noted.After(id.NotAfter()) {
		say = log.Error // nothing verifies at that time
	}
	say("this machine's clock is behind the time that an earlier run noted, which is gone by; if the clock is right, and was ahead then, "+
		"stop controld, run controld -forget-clock and start it again", "clock", now.UTC().Format(time.RFC3339), "noted", noted.UTC().Format(time.RFC3339))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
