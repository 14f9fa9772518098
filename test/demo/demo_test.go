package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestDemo runs the demo as it runs with everything there, and as it runs without root and without mosquitto.
func TestDemo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	bin := filepath.Dir(lab.Build(t).Gatewayd)
	for _, args := range [][]string{nil, {"-loopback"}, {"-embedded"}, {"-loopback", "-embedded"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			if len(args) == 0 {
				lab.NeedRoot(t)
				lab.NeedTool(t, "mosquitto_pub")
			}
			code, stdout, stderr := lab.Run(t, lab.Within(t, 90*time.Second), lab.Cmd{Path: program, Args: args, Env: []string{"SEALGATE_BIN=" + bin}})
			if code != 0 || strings.Contains(stdout, "✗") || !strings.Contains(stdout, "All of it is right.") {
				t.Errorf("exit %d\n%s\n%s", code, stdout, stderr)
			}
		})
	}
}
