package lab

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStandaloneCleansUp interrupts a program made with Standalone, which is this test binary once more.
func TestStandaloneCleansUp(t *testing.T) {
	if mode := os.Getenv("LAB_STANDALONE"); mode != "" {
		os.Exit(Standalone("child", func(c T) {
			fmt.Println("directory", c.TempDir())
			child := Start(c, Cmd{Path: "/bin/sh", Args: []string{"-c", "echo up; exec sleep 1000"}})
			child.Await(Within(c, 10*time.Second), func(stdout, _ []string) bool { return len(stdout) > 0 })
			fmt.Println("process", child.Pid())
			if mode == "fail" {
				c.Fatalf("failed on purpose")
			}
			select {}
		}))
	}
	for mode, want := range map[string]int{"fail": 1, "wait": 130} {
		p := Start(t, Cmd{Path: os.Args[0], Args: []string{"-test.run", t.Name()}, Env: []string{"LAB_STANDALONE=" + mode}})
		var dir string
		var pid int
		err := p.Await(Within(t, 20*time.Second), func(stdout, _ []string) bool {
			for _, l := range stdout {
				if d, ok := strings.CutPrefix(l, "directory "); ok {
					dir = d
				}
				fmt.Sscanf(l, "process %d", &pid)
			}
			return dir != "" && pid != 0
		})
		if err != nil {
			t.Fatal(err)
		}
		if mode == "wait" {
			p.Signal(syscall.SIGINT)
		}
		if code, err := p.Wait(Within(t, 20*time.Second)); code != want || err != nil {
			t.Errorf("%s: exit %d, %v; want %d", mode, code, err, want)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the temporary directory is still there: %v", mode, err)
		}
		if syscall.Kill(pid, 0) != syscall.ESRCH {
			t.Errorf("%s: the child process is still there", mode)
		}
	}
}
