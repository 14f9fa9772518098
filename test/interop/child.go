package interop

import (
	"bufio"
	"encoding/json"
	"os"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// childEnv makes the test program a client instead: the Go libraries are to be processes like the others, which can be
// stopped and killed.
const childEnv = "INTEROP_CLIENT"

// patience is how long anything is waited for that has to come.
const patience = 30 * time.Second

// runChild is the client program for a Go library: commands from standard input, events to standard output.
func runChild(library string) {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(e)
	}
	var do func(command) (event, error)
	switch library {
	case "paho3":
		do = (&paho3{tell: tell, clients: map[string]mqtt.Client{}}).do
	case "paho5":
		do = (&paho5{tell: tell, clients: map[string]*paho.Client{}, sessions: map[string]*state.State{}}).do
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var c command
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		reply, err := do(c)
		reply.Ev, reply.N, reply.Client = "reply", c.N, c.Client
		if err != nil {
			reply.Error = err.Error()
		}
		tell(reply)
	}
}
