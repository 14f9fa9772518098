package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sealgate/cmd/controld/daemon"
	"sealgate/pkg/control"
	"sealgate/pkg/keylink"
	"sealgate/test/lab"
)

const standstillPolicy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["plant/#"]
keepers = ["k1", "k2"]
`

// TestStandstillMovesNoLead stops the process of a keeper that stands by for longer than a lease lives, as a machine that swaps or a
// host that moves it does. When it goes on, the leases that it missed lie unread behind its timers. It does not take over.
func TestStandstillMovesNoLead(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	lab.NeedTool(t, "mosquitto")
	programs, port := lab.Build(t), lab.FreePort(t)
	lab.Mosquitto(t, lab.BrokerOptions{Plain: port})
	f := lab.NewFleet(t, programs.Sealctl, standstillPolicy, map[string]string{"k1": "keeper", "k2": "keeper"})
	links, procs := make(map[string]string), make(map[string]*lab.Proc)
	for _, name := range []string{"k1", "k2"} {
		dir := t.TempDir()
		links[name] = filepath.Join(dir, "k.sock")
		conf := lab.Conf{}
		conf.Set("", "fleet", "plant").Set("", "identity", f.Identity(name)).Set("", "state", filepath.Join(dir, "state")).Set("", "keylink", links[name])
		conf.Set("control", "broker", fmt.Sprintf("mqtt://127.0.0.1:%d", port))
		file := filepath.Join(dir, "sealgate.toml")
		if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		procs[name] = lab.Start(t, lab.Cmd{Path: programs.Controld, Args: []string{"-config", file}})
	}
	status := func(name string) (g daemon.GroupStatus) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var s daemon.Status
		if b, err := keylink.Status(ctx, links[name]); err == nil && json.Unmarshal(b, &s) == nil && len(s.Groups) == 1 {
			g = s.Groups[0]
		}
		return g
	}
	all := &fleet{t: t}
	all.until("k1 leads and k2 follows", func() bool { return status("k1").Leading && status("k2").Confirmed && status("k2").Leader == "k1" })
	wire := newSpy(t, fmt.Sprintf("mqtt://127.0.0.1:%d", port), nil)
	leases := func(n int) {
		t.Helper()
		want := wire.leases() + n
		all.until("more leases", func() bool { return wire.leases() >= want })
	}
	procs["k2"].Signal(syscall.SIGSTOP)
	t.Cleanup(func() { procs["k2"].Signal(syscall.SIGCONT) })
	leases(4) // 4.5 s and more from one to the next: more than LeaseLife in all
	procs["k2"].Signal(syscall.SIGCONT)
	all.until("k2 answers again", func() bool { return status("k2").Leader != "" })
	leases(2)
	if a, b := status("k1"), status("k2"); !a.Leading || b.Leading || b.Leader != "k1" {
		t.Errorf("k1 leads: %v, k2 leads: %v, and takes %s for the leader", a.Leading, b.Leading, b.Leader)
	}
	if lab.HasLine(procs["k2"].Stderr(), "leads: ") || lab.HasLine(procs["k1"].Stderr(), "leads no more") {
		t.Error("the lead has moved meanwhile")
	}
}

// leases is the number of leases that the broker has shown.
func (s *spy) leases() (n int) {
	for _, m := range s.seen() {
		if control.Urgent([]byte(m.payload)) {
			n++
		}
	}
	return n
}
