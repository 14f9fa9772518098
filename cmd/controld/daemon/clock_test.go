package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/crypto"
)

// TestForgetClock: a clock once ran decades ahead, and was noted. controld says what is wrong and what to do, and that helps.
func TestForgetClock(t *testing.T) {
	f := newFleet(t)
	id := f.enrol(t, crypto.RoleKeeper)
	dir := shortDir(t)
	floor, conf := filepath.Join(dir, "controld", "floor"), filepath.Join(dir, "c.toml")
	if err := os.Mkdir(filepath.Dir(floor), 0o700); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(id, "policy.cose"))
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("1 %x ", sha256.Sum256(raw))
	if err := os.WriteFile(floor, []byte(line+"4070908800\n"), 0o600); err != nil { // 2099
		t.Fatal(err)
	}
	r := &running{socket: filepath.Join(dir, "k"), log: new(locked)}
	text := fmt.Sprintf("fleet = \"plant\"\nidentity = %q\nstate = %q\nkeylink = %q\n[control]\nbroker = \"mqtt://%s\"\n", id, dir, r.socket, startBroker(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, args ...string) int {
		return Main(cmdenv.Env{Ctx: ctx, Args: append([]string{"-config", conf}, args...), Stdout: r.log, Stderr: r.log, Getenv: func(string) string { return "" }})
	}
	for _, forgotten := range []bool{false, true} {
		r.log = new(locked)
		ctx, cancel := context.WithCancel(context.Background())
		code := make(chan int, 1)
		go func() { code <- run(ctx) }()
		if forgotten {
			r.await(t, "an epoch", func(s Status) bool { return len(s.Groups) == 1 && s.Groups[0].Sending == s.Groups[0].Epoch })
		} else {
			r.await(t, "a status", func(Status) bool { return true })
		}
		if got := strings.Contains(r.log.String(), "controld -forget-clock"); got == forgotten {
			t.Errorf("forgotten %v; the log says what to do: %v\n%s", forgotten, got, r.log)
		}
		if run(context.Background(), "-forget-clock") != cmdenv.Failed || !strings.Contains(r.log.String(), "stop it first") {
			t.Errorf("the time is forgotten while controld runs:\n%s", r.log)
		}
		cancel()
		<-code
		if !forgotten && (run(context.Background(), "-forget-clock") != cmdenv.OK || !strings.Contains(r.log.String(), "2099-01-01T00:00:00Z is forgotten")) {
			t.Errorf("not forgotten:\n%s", r.log)
		}
		if b, err := os.ReadFile(floor); err != nil || !strings.HasPrefix(string(b), line) {
			t.Errorf("the floor of the policy is now %s, %v", b, err)
		}
	}
}
