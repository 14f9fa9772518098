package member

import (
	"runtime/debug"
	"testing"
	"time"
)

// TestSourceTime: the floor of the clock never is empty, and a build that claims to be older than its compiler is not believed.
func TestSourceTime(t *testing.T) {
	at := func(s ...debug.BuildSetting) time.Time { return sourceTime(&debug.BuildInfo{Settings: s}) }
	if got := at(); !got.Equal(compilerTime) || got.IsZero() {
		t.Errorf("without version control: %v", got)
	}
	if got := at(debug.BuildSetting{Key: "vcs.time", Value: "2031-02-03T04:05:06Z"}); got.Year() != 2031 {
		t.Errorf("a commit of 2031: %v", got)
	}
	for _, bad := range []string{"", "yesterday", "1970-01-01T00:00:00Z"} {
		if got := at(debug.BuildSetting{Key: "vcs.time", Value: bad}); !got.Equal(compilerTime) {
			t.Errorf("vcs.time %q: %v", bad, got)
		}
	}
	if buildTime().Before(compilerTime) {
		t.Error("before the compiler")
	}
}
