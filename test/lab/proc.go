package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Proc is a process that a test started. Its output is kept line by line and can be waited for; it ends with the test at the
// latest, and with the testing process if that is killed.
type Proc struct {
	Name string
	cmd  *exec.Cmd
	in   io.WriteCloser

	done chan struct{} // closed when the process has ended and all its output is read

	mu      sync.Mutex
	stdout  []string
	stderr  []string
	changed chan struct{} // closed and replaced with every line
}

// Cmd says what to start.
type Cmd struct {
	NS    *Namespace // nil: the caller's
	Path  string
	Args  []string
	Env   []string // added to the caller's
	Dir   string
	User  uint32     // who to be, with the group of the same number; 0: the caller
	Stdin bool       // keep a pipe to the process's standard input, see Write
	Files []*os.File // the process's descriptors from 3 on
}

// Start starts a process. When the test has failed, the last lines of its standard error go to the test's log, unless it
// ended with exit code 0.
func Start(t T, c Cmd) *Proc {
	t.Helper()
	p := &Proc{Name: filepath.Base(c.Path), done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir, p.cmd.ExtraFiles = c.Dir, c.Files
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if c.User != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.User, Gid: c.User}
	}
	stdout, err1 := p.cmd.StdoutPipe()
	stderr, err2 := p.cmd.StderrPipe()
	var err3 error
	if c.Stdin {
		p.in, err3 = p.cmd.StdinPipe()
	}
	if err := errors.Join(err1, err2, err3, c.NS.Do(p.cmd.Start)); err != nil {
		t.Fatalf("start %s: %v", p.Name, err)
	}
	raiseFiles(p.Pid())
	var readers sync.WaitGroup
	readers.Go(func() { p.collect(stdout, &p.stdout) })
	readers.Go(func() { p.collect(stderr, &p.stderr) })
	go func() {
		readers.Wait()
		p.cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() && p.cmd.ProcessState.ExitCode() != 0 {
			t.Logf("%s %s ended with %v and wrote at the end:\n%s", p.Name, strings.Join(c.Args, " "), p.cmd.ProcessState, tail(p.Stderr(), 30))
		}
	})
	return p
}

// raiseFiles lets a process open as many files as it may at most: the Go runtime gives children the lower limit back.
func raiseFiles(pid int) {
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) == nil {
		limit.Cur = limit.Max
		unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
}

func tail(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *Proc) collect(r io.Reader, lines *[]string) {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			*lines = append(*lines, strings.TrimSuffix(line, "\n"))
			close(p.changed)
			p.changed = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// Pid is the process's id.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Write writes to the process's standard input.
func (p *Proc) Write(b []byte) (int, error) { return p.in.Write(b) }

// CloseInput ends the process's standard input.
func (p *Proc) CloseInput() { p.in.Close() }

// Stdout returns the lines written to standard output by now.
func (p *Proc) Stdout() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout[:len(p.stdout):len(p.stdout)]
}

// Stderr returns the lines written to standard error by now.
func (p *Proc) Stderr() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr[:len(p.stderr):len(p.stderr)]
}

// Await waits until cond holds; it is asked anew whenever the process wrote a line or ended. It returns an error when the
// context or the process ends first.
func (p *Proc) Await(ctx context.Context, cond func(stdout, stderr []string) bool) error {
	for {
		p.mu.Lock()
		changed, stdout, stderr := p.changed, p.stdout, p.stderr
		p.mu.Unlock()
		ended := false
		select {
		case <-p.done:
			ended = true
			stdout, stderr = p.Stdout(), p.Stderr()
		default:
		}
		if cond(stdout, stderr) {
			return nil
		}
		if ended {
			return fmt.Errorf("%s ended (%s) before what was waited for; it wrote:\n%s", p.Name, p.cmd.ProcessState, tail(stderr, 10))
		}
		select {
		case <-changed:
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("%s: waited in vain: %w; it wrote:\n%s", p.Name, ctx.Err(), tail(stderr, 10))
		}
	}
}

// AwaitLine waits until a line of standard error contains text.
func (p *Proc) AwaitLine(ctx context.Context, text string) error {
	return p.Await(ctx, func(_, stderr []string) bool { return HasLine(stderr, text) })
}

// HasLine reports whether any line contains text.
func HasLine(lines []string, text string) bool {
	for _, line := range lines {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// Signal sends a signal to the process.
func (p *Proc) Signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// Kill ends the process with SIGKILL and waits for its end.
func (p *Proc) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end with SIGTERM and waits; after the context's end it kills it and returns an error.
func (p *Proc) Stop(ctx context.Context) error {
	p.Signal(syscall.SIGTERM)
	_, err := p.Wait(ctx)
	if err != nil {
		p.Kill()
	}
	return err
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Wait waits for the process's end and returns its exit code, -1 for a signal.
func (p *Proc) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("%s did not end: %w", p.Name, ctx.Err())
	}
}

// Run starts a process and waits for its end.
func Run(t T, ctx context.Context, c Cmd) (code int, stdout, stderr string) {
	t.Helper()
	p := Start(t, c)
	code, err := p.Wait(ctx)
	if err != nil {
		p.Kill()
		t.Fatalf("%v; it wrote:\n%s", err, tail(p.Stderr(), 20))
	}
	return code, strings.Join(p.Stdout(), "\n"), strings.Join(p.Stderr(), "\n")
}

// MustRun is Run for a command that has to succeed; it returns standard output.
func MustRun(t T, ctx context.Context, c Cmd) string {
	t.Helper()
	code, stdout, stderr := Run(t, ctx, c)
	if code != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", c.Path, strings.Join(c.Args, " "), code, stdout, stderr)
	}
	return stdout
}

// CPU returns the processor time the process has used by now, user and system, over all its threads.
func (p *Proc) CPU() (time.Duration, error) { return CPU(p.Pid()) }

// CPU returns the processor time of a process by now, user and system, over all its threads, from the scheduler's account
// in nanoseconds. Threads that ended meanwhile are not in it: take it over a span in which none ends.
func CPU(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("read the processor time of process %d: no /proc/%d/task/*/schedstat", pid, pid)
	}
	var sum time.Duration
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		ns, _, _ := bytes.Cut(b, []byte(" "))
		n, err := strconv.ParseInt(string(ns), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", task, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// RSS returns the process's resident memory in bytes.
func (p *Proc) RSS() (int, error) { return memory(p.Pid(), "VmRSS:") }

// PeakRSS returns the most resident memory the process ever had, in bytes.
func (p *Proc) PeakRSS() (int, error) { return memory(p.Pid(), "VmHWM:") }

func memory(pid int, field string) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}
