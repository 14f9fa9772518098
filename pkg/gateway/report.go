package gateway

import (
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// reporter logs what devices and brokers can provoke as often as they like: one line a reason
// in ten seconds, with the number of those left out.
type reporter struct {
	log  *slog.Logger
	mu   sync.Mutex // guards what follows
	last map[string]*reported
}

type reported struct {
	at      time.Time
	skipped int
}

// maxReported bounds the reasons remembered; they come from a fixed set of words.
const maxReported = 256

// warn logs a warning under a reason.
func (r *reporter) warn(reason, msg string, args ...any) {
	skipped, ok := r.due(reason, time.Now())
	if !ok {
		return
	}
	if skipped > 0 {
		args = append(args, "also", skipped)
	}
	r.log.Warn(msg, append([]any{"reason", reason}, args...)...)
}

// due reports whether reason may be logged at now, and how many were skipped before.
func (r *reporter) due(reason string, now time.Time) (skipped int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.last[reason]
	if e == nil {
		if r.last == nil || len(r.last) >= maxReported {
			r.last = make(map[string]*reported)
		}
		r.last[reason] = &reported{at: now}
		return 0, true
	}
	if now.Sub(e.at) < logEvery {
		e.skipped++
		return 0, false
	}
	skipped, e.at, e.skipped = e.skipped, now, 0
	return skipped, true
}

// panicPlace names the function and line that panicked. Call it from the deferred function
// that recovers.
func panicPlace() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	seen := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			seen = true
		case seen && !strings.HasPrefix(f.Function, "runtime."):
			file := f.File[strings.LastIndexByte(f.File, '/')+1:]
			return f.Function + " (" + file + ":" + strconv.Itoa(f.Line) + ")"
		}
		if !more {
			return "unknown place"
		}
	}
}
