package lab

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

// standalone is T for a program that is not a test: the demo and the benchmark.
type standalone struct {
	name string

	mu       sync.Mutex
	cleanups []func()
	failed   bool
	stopping bool // a signal came: the cleaner has the word, everybody else keeps quiet
}

// Standalone runs body as a test outside `go test` and returns the exit code: 0, 1 when body failed, 130 on SIGINT or SIGTERM
// by way of os.Exit. Cleanups run in every case.
func Standalone(name string, body func(T)) int {
	s := &standalone{name: name}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // nobody reads on: the end comes as it would have, with its cleanups
	go func() {
		<-signals
		signal.Stop(signals) // a second one ends the process at once
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		fmt.Fprintln(os.Stderr, "\ninterrupted, cleaning up")
		s.clean()
		os.Exit(130)
	}()
	done := make(chan struct{})
	go func() {
		defer close(done) // Fatalf ends this goroutine
		body(s)
	}()
	<-done
	s.hush()
	s.clean()
	Clean()
	if s.Failed() {
		return 1
	}
	return 0
}

// hush blocks for good when the cleaner of a signal is at work, which ends the process.
func (s *standalone) hush() {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		select {}
	}
}

func (s *standalone) clean() {
	for {
		s.mu.Lock()
		n := len(s.cleanups)
		if n == 0 {
			s.mu.Unlock()
			return
		}
		f := s.cleanups[n-1]
		s.cleanups = s.cleanups[:n-1]
		s.mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done) // a cleanup that fails does not keep the others from running
			f()
		}()
		<-done
	}
}

func (s *standalone) Helper()      {}
func (s *standalone) Name() string { return s.name }

func (s *standalone) Logf(format string, args ...any) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		return
	}
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (s *standalone) Errorf(format string, args ...any) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.Logf(format, args...)
}

func (s *standalone) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

func (s *standalone) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

func (s *standalone) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *standalone) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *standalone) TempDir() string {
	dir, err := os.MkdirTemp("", "sealgate-"+s.name+"-")
	if err != nil {
		s.Fatalf("make a temporary directory: %v", err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
