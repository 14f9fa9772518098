// Command probe confines itself and then tries what it should not be able to do, for the test of package confine: a line for each
// attempt with what came of it. Arguments: the user, a directory to write in, a file to read.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"sealgate/pkg/confine"
)

func main() {
	user, dir, file := os.Args[1], os.Args[2], os.Args[3]
	missing, err := confine.Process(confine.Options{User: user, Keep: []int{unix.CAP_NET_ADMIN}, Read: []string{file}, Write: []string{dir}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	say := func(what string, err error) { fmt.Printf("%s: %v\n", what, err) }
	for _, m := range missing {
		fmt.Println("missing:", m)
	}
	var threads sync.WaitGroup
	for range 8 { // on other threads too
		threads.Go(func() {
			say("write elsewhere", os.WriteFile(filepath.Join(filepath.Dir(dir), "elsewhere"), nil, 0o600))
		})
	}
	threads.Wait()
	say("write", os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600))
	_, err = os.ReadFile(file)
	say("read", err)
	_, err = os.ReadFile(filepath.Join(filepath.Dir(dir), "secret"))
	say("read elsewhere", err)
	say("exec", exec.Command("/bin/true").Run())
	say("mount", unix.Mount("none", dir, "tmpfs", 0, ""))
	_, _, errno := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
	say("bpf", errno)
	say("setuid", unix.Setuid(0))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	say("listen", err)
	if err == nil {
		l.Close()
	}
	_, err = net.LookupHost("localhost")
	say("resolve", err)
}
