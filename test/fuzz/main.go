// Command fuzz runs every fuzz target of the repository for a while, several side by side, and prints what came of each.
//
//	go run ./test/fuzz -time 60s -jobs 2
//
// The targets are found in the packages that `go list` names. An input that fails is kept by the go command under testdata/fuzz
// of its package, to be committed with the correction; other new inputs go to Go's cache, so that the next run starts from them.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	length := flag.Duration("time", time.Minute, "how long each target runs")
	jobs := flag.Int("jobs", 2, "targets side by side, one worker each")
	only := flag.String("only", "", "run only targets whose package and name match this regular expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *length, *jobs, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// outcome is what came of one target.
type outcome struct {
	target
	execs, news string // as the go command prints them; "" if it never did
	took        time.Duration
	late        bool   // it ended by the fuzzing engine's own mistake about the time; see endedLate
	output      string // if it failed
	err         error
}

func run(ctx context.Context, w io.Writer, length time.Duration, jobs int, only string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	all, err := targets(ctx, ".")
	if err != nil {
		return err
	}
	var chosen []target
	for _, t := range all {
		if pattern.MatchString(t.pkg + " " + t.name) {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no fuzz target matches %q", only)
	}
	begun := time.Now()
	results := fuzzAll(ctx, chosen, length, jobs)
	failed := table(w, results)
	fmt.Fprintf(w, "%d targets, %d failed, %s each, %d side by side: %s\n", len(results), failed, length, jobs, time.Since(begun).Round(time.Second))
	if failed > 0 {
		return fmt.Errorf("%d targets failed; their inputs are under testdata/fuzz", failed)
	}
	return ctx.Err()
}

// fuzzAll runs the targets, so many at a time.
func fuzzAll(ctx context.Context, list []target, length time.Duration, jobs int) []outcome {
	results := make([]outcome, len(list))
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(jobs, 1) {
		wg.Go(func() {
			for i := range next {
				results[i] = fuzz(ctx, list[i], length)
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

var progress = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+)`)

// fuzz runs one target with one worker. Looking for shorter inputs is kept short: a target with goroutines covers something else in every run.
func fuzz(ctx context.Context, t target, length time.Duration) outcome {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", length.String(), "-fuzzminimizetime", "1s", "-parallel", "1", t.pkg)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its workers
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	o := outcome{target: t}
	begun := time.Now()
	o.err = cmd.Run()
	o.took = time.Since(begun)
	if all := progress.FindAllStringSubmatch(out.String(), -1); len(all) > 0 {
		last := all[len(all)-1]
		o.execs, o.news = last[1], last[2]
	}
	if o.late = o.err != nil && endedLate(out.String()); o.late {
		o.err = nil
	}
	if o.err != nil {
		o.output = out.String()
	}
	return o
}

// endedLate reports whether a run failed only because the engine took the end of -fuzztime for an error of the target, which it does now
// and then on a busy machine (go.dev/issue/75804, in Go before 1.27). It says no more than that then: a run with any other line
// is a failure, above all one that has written an input.
func endedLate(out string) bool {
	late := false
	for line := range strings.Lines(out) {
		switch line = strings.TrimSpace(line); {
		case line == "context deadline exceeded":
			late = true
		case line == "", line == "FAIL", line == "exit status 1", strings.HasPrefix(line, "fuzz: elapsed: "), strings.HasPrefix(line, "--- FAIL: Fuzz"), strings.HasPrefix(line, "FAIL\t"):
		default:
			return false
		}
	}
	return late
}

// table prints the results, what failed in full, and returns how many did.
func table(w io.Writer, results []outcome) (failed int) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "package\ttarget\texecutions\tnew inputs\tseconds\tresult")
	for _, o := range results {
		result := "ok"
		if o.late {
			result = "ok; go.dev/issue/75804"
		}
		if o.err != nil {
			result = "FAILED"
			failed++
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.0f\t%s\n", o.pkg, o.name, o.execs, o.news, o.took.Seconds(), result)
	}
	tw.Flush()
	for _, o := range results {
		if o.err != nil {
			fmt.Fprintf(w, "\n%s %s: %v\n%s\n", o.pkg, o.name, o.err, strings.TrimSpace(o.output))
		}
	}
	return failed
}
