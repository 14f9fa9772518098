package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What a gateway must show so that a slot on trial is kept.
func TestAwaitSealing(t *testing.T) {
	const wait = 2 * time.Minute
	report := func(gatewayd, controld string, errs ...string) statusReport {
		return statusReport{Gatewayd: json.RawMessage(gatewayd), Controld: json.RawMessage(controld), Errors: errs}
	}
	sealed := report(`{"ready":true,"traffic":{"messages":{"up":{"seal":1}}}}`, ``, "controld: away")
	quiet := report(`{"ready":true,"traffic":{}}`, `{"connected":true}`)
	away := report(`{"ready":true,"traffic":{}}`, `{"connected":false}`)
	gone := report(``, ``, "gatewayd: no answer")
	for _, c := range []struct {
		name, why string
		at        func(time.Duration) statusReport
	}{
		{"sealed late", "", func(at time.Duration) statusReport { return after(at, wait-2*time.Second, gone, sealed) }},
		{"no device", "", func(time.Duration) statusReport { return quiet }},
		{"no device, ready late", "", func(at time.Duration) statusReport { return after(at, wait/2, gone, quiet) }},
		{"never an answer", "gatewayd: no answer", func(time.Duration) statusReport { return gone }},
		{"no keys", "no policy and keys", func(time.Duration) statusReport { return report(`{"ready":false}`, `{"connected":true}`) }},
		{"no network", "control broker", func(time.Duration) statusReport { return away }},
		{"uplink fails", "refused 1", func(time.Duration) statusReport {
			return report(`{"ready":true,"traffic":{"uplink_errors":{"refused":1}}}`, `{"connected":true}`)
		}},
		{"gatewayd ends", "gatewayd: no answer", func(at time.Duration) statusReport { return after(at, wait/2, quiet, gone) }},
		{"gatewayd ends again and again", "", func(at time.Duration) statusReport {
			return after(at%(10*time.Second), 8*time.Second, quiet, gone)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				began := time.Now()
				err := awaitSealing(ctx, wait, time.Second, func(ctx context.Context) statusReport {
					time.Sleep(time.Millisecond)
					if ctx.Err() != nil {
						return gone
					}
					return c.at(time.Since(began))
				})
				keep := c.why == "" && !strings.Contains(c.name, "again")
				if (err == nil) != keep || err != nil && !strings.Contains(err.Error(), c.why) {
					t.Errorf("%v; want %q", err, c.why)
				}
			})
		})
	}
}

func after(at, change time.Duration, before, then statusReport) statusReport {
	if at < change {
		return before
	}
	return then
}
