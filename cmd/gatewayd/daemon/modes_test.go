package daemon

import (
	"log/slog"
	"strings"
	"testing"

	"sealgate/pkg/steer"
)

// When a start has failed, the log says of each mode what this kernel can do. A configured mode that it cannot do is why,
// with the part that is missing and what to use instead; one that could not be tried is not.
func TestRefuseMode(t *testing.T) {
	modes := []steer.Ability{
		{Name: "tc", Detail: "this kernel cannot: sk_assign: the classifier: none"},
		{Name: "tproxy", OK: true, Detail: "this kernel can"},
		{Name: "redirect", OK: true, Detail: "this kernel can"},
		{Name: "nfqueue", Untried: true, Detail: "this kernel cannot: nfqueue: not tried"},
	}
	for mode, want := range map[string]string{
		"tc":      "steer.mode = \"tc\": this kernel cannot: sk_assign: the classifier: none; or set steer.mode to one that it can: tproxy, redirect, then run `gatewayd -setup` again",
		"tproxy":  "",
		"nfqueue": "",
	} {
		var said strings.Builder
		got := ""
		if err := refuseMode(mode, modes, slog.New(slog.NewTextHandler(&said, nil))); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("mode %s: %q; want %q", mode, got, want)
		}
		for _, line := range []string{`"this kernel can steer" modes="tproxy redirect"`, `"not known whether this kernel can steer" mode=nfqueue`} {
			if !strings.Contains(said.String(), line) {
				t.Errorf("mode %s: the log does not say %s:\n%s", mode, line, said.String())
			}
		}
		if why := `"this kernel cannot steer" mode=tc why="this kernel cannot: sk_assign`; strings.Contains(said.String(), why) == (mode == "tc") {
			t.Errorf("mode %s: the log says:\n%s", mode, said.String())
		}
	}
	nothing := []steer.Ability{{Name: "tc", Detail: "this kernel cannot: nf_tables: none"}}
	if err := refuseMode("tc", nothing, slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "or set") {
		t.Errorf("no mode at all: %v", err)
	}
}
