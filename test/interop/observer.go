package interop

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"

	"sealgate/pkg/crypto"
	"sealgate/test/lab"
)

// observer subscribes to everything at the broker itself and judges what a curious broker sees.
type observer struct {
	mu      sync.Mutex
	plain   map[string]int // messages with the marker in a direct run, by prefix: they show that the observer sees
	sealed  map[string]int // sealed messages, by prefix
	leaks   []string
	cleared int
}

// observe starts the observer, in MQTT 5 where the broker speaks it, so that it sees properties.
func observe(t lab.T, b *broker, port int) *observer {
	t.Helper()
	o := &observer{plain: map[string]int{}, sealed: map[string]int{}}
	do, version := (&paho3{tell: o.tell, clients: map[string]mqtt.Client{}}).do, 4
	if b.v5 {
		do, version = (&paho5{tell: o.tell, clients: map[string]*paho.Client{}, sessions: map[string]*state.State{}}).do, 5
	}
	if _, err := do(command{Do: "connect", Client: "observer", Host: "127.0.0.1", Port: port, ID: "observer", Version: version, Clean: true, Alive: 60}); err != nil {
		t.Fatalf("connect the observer: %v", err)
	}
	c := command{Do: "subscribe", Client: "observer"}
	for _, s := range steps {
		if s.name != nobody && s.name != "secret" {
			c.Filters = append(c.Filters, filter{Filter: "+/" + s.name + "/#", QoS: 1})
		}
	}
	if _, err := do(c); err != nil {
		t.Fatalf("subscribe the observer: %v", err)
	}
	t.Cleanup(func() { do(command{Do: "disconnect", Client: "observer"}) })
	return o
}

func (o *observer) tell(e event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.Ev != "message" {
		o.leaks = append(o.leaks, "the observer lost its connection: what came after was not looked at")
		return
	}
	m := e.Message
	prefix, _, _ := strings.Cut(m.Topic, "/")
	shows := bytes.Contains(m.Payload, []byte(marker)) || describes(m.Props)
	switch {
	case strings.HasPrefix(prefix, "d"):
		if shows {
			o.plain[prefix]++
		}
	case shows:
		o.leaks = append(o.leaks, fmt.Sprintf("on %s: %.80q %+v", m.Topic, m.Payload, m.Props))
	case len(m.Payload) == 0:
		o.cleared++ // of a retained message
	case !crypto.LooksSealed(m.Payload):
		o.leaks = append(o.leaks, fmt.Sprintf("no envelope on %s: %.80q", m.Topic, m.Payload))
	default:
		o.sealed[prefix]++
	}
}

// describes reports whether properties tell of the content.
func describes(p *messageProps) bool {
	return p != nil && (p.Format != nil || p.ContentType != "" || p.Response != "" || len(p.Correlation) > 0 || len(p.User) > 0)
}

// verdict tells what is wrong after the runs of prefixes d… and s… with the same number.
func (o *observer) verdict(number string, least int) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := slices.Clone(o.leaks)
	if n := o.plain["d"+number]; n < least {
		out = append(out, fmt.Sprintf("the observer saw only %d messages of the direct run", n))
	}
	if n := o.sealed["s"+number]; n < least {
		out = append(out, fmt.Sprintf("the observer saw only %d sealed messages", n))
	}
	return out
}
