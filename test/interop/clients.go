package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"sealgate/test/lab"
)

// clients are all connections of one kind of client in one run.
type clients interface {
	// do carries one command out and returns the reply.
	do(c command) event
	// signal signals the process of one connection.
	signal(client string, s syscall.Signal)
}

// kind is one client implementation at one version of MQTT.
type kind struct {
	name    string
	version int // 4 is MQTT 3.1.1
	// tool: a program for each connection and each message, which subscribes once and always connects again.
	tool  bool
	need  func(t lab.T) // skips, or fails, where something is not installed
	start func(t lab.T, tell func(event)) clients
}

func (k kind) String() string {
	if k.version == 5 {
		return k.name + ", 5"
	}
	return k.name + ", 3.1.1"
}

// kinds are all clients of the matrix.
func kinds(t lab.T) []kind {
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test program: %v", err)
	}
	golang := func(library string) func(lab.T, func(event)) clients {
		return starter(lab.Cmd{Path: self, Env: []string{childEnv + "=" + library}})
	}
	dir := filepath.Join(lab.Root(t), "clients")
	js := starter(lab.Cmd{Path: "node", Args: []string{filepath.Join(dir, "client.js")}})
	py := starter(lab.Cmd{Path: python, Args: []string{"-B", filepath.Join(dir, "client.py")}})
	nothing := func(lab.T) {}
	return []kind{
		{"mosquitto_pub/sub", 4, true, needTools, startTools(4)},
		{"mosquitto_pub/sub", 5, true, needTools, startTools(5)},
		{"paho.mqtt.golang", 4, false, nothing, golang("paho3")},
		{"paho.golang", 5, false, nothing, golang("paho5")},
		{"mqtt.js", 4, false, needNode, js},
		{"mqtt.js", 5, false, needNode, js},
		{"python3-paho-mqtt", 4, false, needPython, py},
		{"python3-paho-mqtt", 5, false, needPython, py},
	}
}

const python = "/usr/bin/python3" // Debian's, which finds Debian's packages

func needPython(t lab.T) {
	t.Helper()
	lab.Require(t, exec.Command(python, "-c", "import paho.mqtt.client").Run() == nil, "needs Debian's python3-paho-mqtt; make setup installs it")
}

// needNode requires node with the packages of clients/package-lock.json.
func needNode(t lab.T) {
	t.Helper()
	lab.NeedTool(t, "node")
	_, err := os.Stat(filepath.Join(lab.Root(t), "clients", "node_modules", "mqtt"))
	lab.Require(t, err == nil, "needs the packages of mqtt.js and aedes; make setup installs them with npm")
}

// programs are client programs that take commands. Connections whose process is to be signalled have one of their own.
type programs struct {
	t    lab.T
	cmd  lab.Cmd
	tell func(event)
	mu   sync.Mutex
	all  map[string]*program // by process; see process
}

func starter(cmd lab.Cmd) func(lab.T, func(event)) clients {
	return func(t lab.T, tell func(event)) clients {
		return &programs{t: t, cmd: cmd, tell: tell, all: map[string]*program{}}
	}
}

// process names the process that a connection lives in.
func process(client string) string {
	switch client {
	case killed, frozen:
		return client
	}
	return ""
}

func (p *programs) of(client string) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := process(client)
	if p.all[name] == nil {
		p.all[name] = startProgram(p.t, p.cmd, p.tell)
	}
	return p.all[name]
}

func (p *programs) do(c command) event { return p.of(c.Client).do(c) }

func (p *programs) signal(client string, s syscall.Signal) { p.of(client).proc.Signal(s) }

// program is one running client program.
type program struct {
	proc    *lab.Proc
	tell    func(event)
	mu      sync.Mutex
	last    int // number of the last command
	replies map[int]chan event
}

func startProgram(t lab.T, cmd lab.Cmd, tell func(event)) *program {
	cmd.Stdin = true
	p := &program{proc: lab.Start(t, cmd), tell: tell, replies: map[int]chan event{}}
	go p.read()
	return p
}

// read hands out what the program writes, until it ends.
func (p *program) read() {
	for read := 0; ; {
		var lines []string
		err := p.proc.Await(context.Background(), func(stdout, _ []string) bool {
			lines = stdout[read:]
			return len(lines) > 0
		})
		if err != nil {
			return
		}
		read += len(lines)
		for _, line := range lines {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				e = event{Ev: "lost", Error: fmt.Sprintf("%s wrote what is no event: %.200s", p.proc.Name, line)}
			}
			p.event(e)
		}
	}
}

func (p *program) event(e event) {
	if e.Ev != "reply" {
		p.tell(e)
		return
	}
	p.mu.Lock()
	reply := p.replies[e.N]
	delete(p.replies, e.N)
	p.mu.Unlock()
	if reply != nil {
		reply <- e
	}
}

func (p *program) do(c command) event {
	reply := make(chan event, 1)
	p.mu.Lock()
	p.last++
	c.N = p.last
	p.replies[c.N] = reply
	line, err := json.Marshal(c)
	if err == nil {
		_, err = p.proc.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		return event{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case e := <-reply:
		return e
	case <-p.proc.Done():
		return event{Error: "the client ended: " + strings.Join(p.proc.Stderr(), "\n")}
	case <-ctx.Done():
		return event{Error: "no answer"}
	}
}
