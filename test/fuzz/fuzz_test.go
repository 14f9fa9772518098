package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The runner finds every target that is written in a test file, and each of them has inputs to start from.
func TestEveryTargetIsFoundAndHasACorpus(t *testing.T) {
	found, err := targets(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]bool{}
	for _, f := range found {
		packages[f.pkg] = true
	}
	// -v prints a line for each input of each target, and the name of a target that has none.
	args := []string{"test", "-v", "-run", "^Fuzz"}
	for p := range packages {
		args = append(args, p)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the inputs that are committed fail: %v\n%s", err, out)
	}
	inputs := perTarget(string(out))
	var names []string
	for _, f := range found {
		names = append(names, f.name)
		if inputs[f] == 0 {
			t.Errorf("%s %s has no corpus: add inputs by f.Add or under testdata/fuzz", f.pkg, f.name)
		}
	}
	listed := written(t)
	slices.Sort(names)
	slices.Sort(listed)
	if len(names) < 30 || !slices.Equal(names, listed) {
		t.Errorf("the runner finds %d targets, the test files have %d:\n%v\n%v", len(names), len(listed), names, listed)
	}
}

// perTarget counts the inputs that `go test -v` reports of each target.
func perTarget(out string) map[target]int {
	input, end := regexp.MustCompile(`^\s+--- PASS: (Fuzz\w+)/`), regexp.MustCompile(`^ok\s+(\S+)`)
	counts, open := map[target]int{}, map[string]int{}
	for line := range strings.Lines(out) {
		if m := input.FindStringSubmatch(line); m != nil {
			open[m[1]]++
		} else if m := end.FindStringSubmatch(line); m != nil { // a package's lines come before its result
			for name, n := range open {
				counts[target{m[1], name}] = n
			}
			clear(open)
		}
	}
	return counts
}

// written finds the targets in the text of every test file, whatever `go list` says of packages.
func written(t *testing.T) (names []string) {
	t.Helper()
	pattern := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range pattern.FindAllSubmatch(b, -1) {
			names = append(names, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A run prints a line for its target; one that does not exist is an error.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := runIn(t, &out, "pkg/topic FuzzMatch$"); err != nil {
		t.Fatal(err, out.String())
	}
	if !regexp.MustCompile(`sealgate/pkg/topic +FuzzMatch +\d+ +\d+ +\d+ +ok(; go.dev/issue/75804)?\n`).MatchString(out.String()) {
		t.Errorf("got\n%s", out.String())
	}
	if err := runIn(t, &out, "FuzzNothing"); err == nil {
		t.Error("a pattern that matches nothing is a success")
	}
}

func runIn(t *testing.T, out *bytes.Buffer, only string) error {
	t.Helper()
	t.Chdir("../..")
	defer t.Chdir("test/fuzz")
	return run(t.Context(), out, 2*time.Second, 1, only)
}

// What fails is shown with its output, and counted.
func TestTableShowsFailures(t *testing.T) {
	var out bytes.Buffer
	failed := table(&out, []outcome{{target: target{"p", "FuzzA"}}, {target: target{"p", "FuzzB"}, err: errors.New("exit status 1"), output: "panic: no"}})
	if failed != 1 || !strings.Contains(out.String(), "FAILED") || !strings.Contains(out.String(), "panic: no") {
		t.Errorf("%d failed:\n%s", failed, out.String())
	}
}

// The engine's mistake at the end of the time is no failure of a target; whatever else a run says is.
func TestEndedLate(t *testing.T) {
	const late = "fuzz: elapsed: 57s, execs: 9 (0/sec), new interesting: 1 (total: 2)\nfuzz: elapsed: 1m1s, execs: 9 (0/sec), new interesting: 1 (total: 2)\n" +
		"--- FAIL: FuzzX (61.01s)\n    context deadline exceeded\nFAIL\nexit status 1\nFAIL\tsealgate/pkg/x\t61.013s\n"
	if !endedLate(late) {
		t.Error("the engine's own mistake counts as a failure")
	}
	for _, out := range []string{
		"",
		"FAIL\n",
		strings.Replace(late, "    context deadline exceeded\n", "", 1),
		strings.Replace(late, "FAIL\nexit", "    Failing input written to testdata/fuzz/FuzzX/1234\nFAIL\nexit", 1),
		strings.Replace(late, "    context deadline", "    x_test.go:12: got context deadline", 1),
		"panic: no\n" + late,
		strings.Replace(late, "    context", "    fuzzing process hung or terminated unexpectedly: exit status 2\n    context", 1),
		"sealgate/pkg/x: build failed\n" + late,
	} {
		if endedLate(out) {
			t.Errorf("no failure:\n%s", out)
		}
	}
}
