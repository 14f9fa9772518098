package interop

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"sealgate/test/lab"
)

// Connections with a process of their own, which is killed or stopped.
const killed, frozen = "killed", "frozen"

// marker stands in every payload and every property that describes one: where it is read, there is plaintext.
const marker = "PLAINTEXT"

// side is where a client connects: before the gateway that seals, or before the one that opens. In a direct run both
// are the broker.
type side int

const (
	near side = iota
	far
)

// run plays the scenario once, with one kind of client over one path.
type run struct {
	t       lab.T
	kind    kind
	broker  *broker
	ports   [2]int // by side
	prefix  string // first topic level, and client ids begin with it
	clients clients
	like    *transcript // of the direct run; nil while it is played

	step string
	log  *transcript
}

// transcript is what clients saw in one run.
type transcript struct {
	mu       sync.Mutex
	changed  chan struct{}       // closed and replaced with every event
	results  map[string][]string // by step: outcomes of commands, in order
	messages map[string][]string // by "step client topic": in order of arrival
	counts   map[string]int      // by "step client": how many messages were to come
	lost     map[string]int      // by client: reason code of the lost connection
	limits   map[string]int      // the least values in CONNACK of what the peer takes at most
	vain     bool                // something was waited for in vain
}

func newTranscript() *transcript {
	return &transcript{changed: make(chan struct{}), results: map[string][]string{}, messages: map[string][]string{}, counts: map[string]int{}, lost: map[string]int{}, limits: map[string]int{}}
}

// tell takes what clients tell unasked.
func (r *run) tell(e event) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e.Ev {
	case "message":
		m := e.Message
		topic := strings.TrimPrefix(m.Topic, r.prefix+"/")
		step, _, _ := strings.Cut(topic, "/")
		client, _, _ := strings.Cut(e.Client, "#") // clients that share a subscription are a#1 and a#2
		key := step + " " + client + " " + topic
		l.messages[key] = append(l.messages[key], r.text(m))
	case "lost":
		if _, known := l.lost[e.Client]; !known {
			l.lost[e.Client] = e.Code
		}
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// text is a message as transcripts compare it. DUP is not in it: whether a message is sent again depends on the moment.
func (r *run) text(m *message) string {
	payload := fmt.Sprintf("%q", m.Payload)
	if len(m.Payload) > 60 {
		payload = fmt.Sprintf("%d bytes %x", len(m.Payload), sha256.Sum256(m.Payload))
	}
	text := fmt.Sprintf("qos=%d retain=%t %s", m.QoS, m.Retain, payload)
	p := m.Props
	if p == nil {
		return text
	}
	q := *p
	for _, most := range []int{longExpiry, defaultExpiry} { // brokers count down
		if q.Expiry > most-100 && q.Expiry <= most {
			q.Expiry = most
		}
	}
	slices.Sort(q.SubIDs)
	q.Response = strings.TrimPrefix(q.Response, r.prefix+"/")
	props, err := json.Marshal(q)
	if err != nil {
		panic(err)
	}
	if string(props) == "{}" {
		return text
	}
	return text + " " + string(props)
}

// Message expiry intervals that no run outlasts, in seconds: one that is asked for, and what mochi-mqtt gives to all others.
const longExpiry, defaultExpiry = 1000, 86400

// until waits until cond holds, which is asked under the transcript's lock.
func (l *transcript) until(patience time.Duration, cond func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		ok, changed := cond(), l.changed
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-deadline.C:
			return false
		}
	}
}

// received counts a client's messages in a step. The lock must be held.
func (l *transcript) received(step, client string) (n int) {
	for key, lines := range l.messages {
		if strings.HasPrefix(key, step+" "+client+" ") {
			n += len(lines)
		}
	}
	return n
}

// expect waits for a client's messages of this step, n in all.
func (r *run) expect(client string, n int) {
	key := r.step + " " + client
	n += r.log.counts[key]
	r.log.counts[key] = n
	step := r.step
	if r.log.until(r.patience(), func() bool { return r.log.received(step, client) >= n }) {
		return
	}
	r.log.mu.Lock()
	got := r.log.received(step, client)
	r.log.mu.Unlock()
	r.note("%s %s: %d messages of %d", client, inVain, got, n)
	r.log.vain = true
}

// inVain marks a note of what did not come.
const inVain = "waited in vain"

// patience is how long the run waits for what has to come. Once something did not, the run differs already.
func (r *run) patience() time.Duration {
	if r.log.vain {
		return 2 * time.Second
	}
	return patience
}

// note records an outcome.
func (r *run) note(format string, args ...any) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.results[r.step] = append(r.log.results[r.step], fmt.Sprintf(format, args...))
}

// do carries a command out and records what came of it.
func (r *run) do(c command) event {
	e := r.clients.do(c)
	if e.Code == 0x10 && r.step != nobody {
		e.Code = 0 // no matching subscribers: who has just left may still be counted
	}
	text := fmt.Sprintf("%s %s:", c.Client, c.Do)
	if c.Do == "connect" || e.Code != 0 {
		text += fmt.Sprintf(" code=%d", e.Code)
	}
	if c.Do == "connect" {
		text += fmt.Sprintf(" present=%t", e.Present)
	}
	if len(e.Codes) > 0 {
		text += fmt.Sprintf(" codes=%v", e.Codes)
	}
	if props := r.limits(e.Props); props != "" {
		text += " " + props
	}
	if e.Error != "" {
		text += " error: " + e.Error
	}
	r.note("%s", strings.ReplaceAll(text, r.prefix, "PREFIX"))
	return e
}

// limits gives the properties of CONNACK but for those that say what the peer takes at most. A gateway may lower these,
// and never raises them: their least values are kept for compare.
func (r *run) limits(props map[string]any) string {
	rest := map[string]any{}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for name, value := range props {
		n, number := value.(float64)
		if most, limit := limitNames[name]; limit && number {
			old, known := r.log.limits[most]
			if !known || int(n) < old {
				r.log.limits[most] = int(n)
			}
			continue
		}
		rest[name] = value
	}
	if len(rest) == 0 {
		return ""
	}
	text, err := json.Marshal(rest)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// limitNames are the libraries' names of three properties.
var limitNames = map[string]string{
	"max_packet": "Maximum Packet Size", "maximumPacketSize": "Maximum Packet Size", "MaximumPacketSize": "Maximum Packet Size",
	"receive": "Receive Maximum", "receiveMaximum": "Receive Maximum", "ReceiveMaximum": "Receive Maximum",
	"alias_max": "Topic Alias Maximum", "topicAliasMaximum": "Topic Alias Maximum", "TopicAliasMaximum": "Topic Alias Maximum",
}

// topic is a topic of this step.
func (r *run) topic(rest string) string { return r.prefix + "/" + r.step + "/" + rest }

// connect makes a connection with a clean session.
func (r *run) connect(client string, at side, change ...func(*command)) event {
	c := command{Do: "connect", Client: client, Host: "127.0.0.1", Port: r.ports[at], ID: r.prefix + client, Version: r.kind.version, Clean: true, Alive: 60}
	for _, f := range change {
		f(&c)
	}
	return r.do(c)
}

// kept asks for a session that outlives its connections.
func kept(c *command) {
	c.Clean = false
	if c.Version == 5 {
		c.Options = &connectProps{Expiry: 300}
	}
}

// subscribe subscribes to filters of this step with one QoS.
func (r *run) subscribe(client string, qos int, rest ...string) event {
	c := command{Do: "subscribe", Client: client}
	for _, f := range rest {
		c.Filters = append(c.Filters, filter{Filter: r.topic(f), QoS: qos})
	}
	return r.do(c)
}

func (r *run) publish(client string, qos int, retain bool, rest string, payload []byte, props ...*messageProps) event {
	m := &message{Topic: r.topic(rest), Payload: payload, QoS: qos, Retain: retain}
	if len(props) > 0 && r.kind.version == 5 {
		m.Props = props[0]
	}
	return r.do(command{Do: "publish", Client: client, Message: m})
}

// say is publish with a short payload that tells messages apart.
func (r *run) say(qos int, retain bool, rest string, n int) event {
	return r.publish("pub", qos, retain, rest, fmt.Appendf(nil, "%s %s %s %d", marker, r.step, rest, n))
}

func (r *run) disconnect(client string) { r.do(command{Do: "disconnect", Client: client}) }
