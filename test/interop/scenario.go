package interop

import (
	"bytes"
	"fmt"
	"syscall"
)

// step is one part of the scenario. Everything that clients see in it is compared.
type step struct {
	name string
	what string
	play func(*run)
	fits func(*run) bool // nil: everywhere
}

func v5(r *run) bool      { return r.kind.version == 5 }
func library(r *run) bool { return !r.kind.tool }
func both(f, g func(*run) bool) func(*run) bool {
	return func(r *run) bool { return f(r) && g(r) }
}

// steps is the scenario, in order. Two steps that wait for the broker's clock are begun early and ended late.
var steps = []step{
	{"frozen", "keep-alive timeout, with a retained will", (*run).freeze, nil},
	{"exp", "a message that expires in a waiting session", (*run).expiring, v5},
	{"qos", "QoS 0, 1 and 2", (*run).qos, nil},
	{"low", "a subscription below the publisher's QoS", (*run).low, nil},
	{"ret", "retained before and after subscribing, cleared", (*run).retained, nil},
	{"clear", "a subscriber sees a retained message cleared", (*run).clear, nil},
	{"retw", "retained under a wildcard", (*run).retainedWildcard, nil},
	{"rap", "retain as published, retain handling, no local", (*run).subscribeOptions, both(v5, library)},
	{"wild", "wildcards", (*run).wildcards, nil},
	{"over", "overlapping subscriptions, QoS 0, 1 and 2", (*run).overlapping, nil},
	{"sh", "a shared subscription", (*run).shared, nil},
	{"pay", "empty, binary and 100 KiB payloads", (*run).payloads, nil},
	{"utf", "topics in UTF-8", (*run).utf8, nil},
	{"back", "question and answer, both ways", (*run).answer, nil},
	{"unsub", "unsubscribing", (*run).unsubscribe, library},
	{"will", "wills after SIGKILL, not after DISCONNECT", (*run).wills, nil},
	{"away", "a session with messages while away", (*run).away, nil},
	{"take", "takeover by the same client id", (*run).takeover, nil},
	{"secret", "refused: a connection, a subscription, a message", (*run).refused, nil},
	{"props", "properties of messages, subscription identifiers", (*run).properties, v5},
	{nobody, "a message that nobody has subscribed to", (*run).unheard, nil},
	{"alias", "topic aliases", (*run).aliases, v5},
	{"ids", "two subscription identifiers on one connection", (*run).identifiers, both(v5, library)},
}

// play plays the scenario and returns what clients saw.
func (r *run) play() *transcript {
	r.log = newTranscript()
	r.clients = r.kind.start(r.t, r.tell)
	r.step = "start"
	r.connect("pub", near)
	var late []func()
	for _, s := range steps {
		if !r.fits(s) {
			continue
		}
		r.step = s.name
		switch s.name {
		case "frozen":
			late = append(late, func() { r.thaw() })
		case "exp":
			late = append(late, func() { r.expired() })
		}
		s.play(r)
	}
	for i, s := range []string{"frozen", "exp"}[:len(late)] {
		r.step = s
		late[i]()
	}
	r.step = "end"
	r.disconnect("pub")
	return r.log
}

// fits reports whether this client and this broker are able to do a step.
func (r *run) fits(s step) bool {
	_, e := excuse(r.broker, r.kind, s.name)
	return (s.fits == nil || s.fits(r)) && (e == nil || e.how != leftOut)
}

// freeze stops a client with SIGSTOP: its pings stop, and the broker has to notice. See thaw.
func (r *run) freeze() {
	r.connect("heir", far)
	r.subscribe("heir", 1, "#")
	r.connect(frozen, near, func(c *command) {
		c.Alive = 2
		if r.kind.tool {
			c.Alive = 5 // the least it takes
		}
		c.Will = &message{Topic: r.topic("will"), Payload: []byte(marker + " frozen"), QoS: 1, Retain: true}
	})
	r.subscribe(frozen, 0, "idle")
	r.clients.signal(frozen, syscall.SIGSTOP)
}

func (r *run) thaw() {
	r.expect("heir", 1)
	r.clients.signal(frozen, syscall.SIGKILL)
	r.connect("heir2", far)
	r.subscribe("heir2", 1, "will")
	r.expect("heir2", 1)
	r.disconnect("heir")
	r.disconnect("heir2")
	r.publish("pub", 1, true, "will", nil)
}

// expiring leaves two messages to a client that is away, of which one expires before a frozen client's keep alive has
// run out.
func (r *run) expiring() {
	r.connect("late", far, kept)
	r.subscribe("late", 1, "#")
	r.disconnect("late")
	r.publish("pub", 1, false, "short", []byte(marker+" short"), &messageProps{Expiry: 1})
	r.publish("pub", 1, false, "long", []byte(marker+" long"), &messageProps{Expiry: longExpiry})
}

func (r *run) expired() {
	r.connect("late", far, kept)
	if r.kind.tool {
		r.subscribe("late", 1, "#")
	}
	r.expect("late", 1)
}

func (r *run) qos() {
	r.connect("sub", far)
	r.subscribe("sub", 2, "#")
	for q := range 3 {
		for n := range 3 {
			r.say(q, false, fmt.Sprint(q), n)
		}
	}
	r.expect("sub", 9)
}

func (r *run) low() {
	for q := range 2 {
		client := fmt.Sprintf("low%d", q)
		r.connect(client, far)
		r.subscribe(client, q, "#")
	}
	r.say(2, false, "two", 1)
	r.say(1, false, "one", 1) // on a topic of its own: there is order among messages of one QoS only (MQTT 4.6)
	r.expect("low0", 2)
	r.expect("low1", 2)
}

func (r *run) retained() {
	r.say(1, true, "a", 1)
	r.say(1, true, "a", 2)
	r.say(1, true, "b", 1)
	r.publish("pub", 1, true, "b", nil)
	r.connect("ret", far)
	r.subscribe("ret", 1, "a", "b", "c")
	r.expect("ret", 1)
	r.say(1, true, "c", 1)
	r.say(0, true, "c", 2)
	r.expect("ret", 2)
	r.disconnect("ret")
	r.publish("pub", 1, true, "a", nil)
	r.publish("pub", 1, true, "c", nil)
	r.connect("later", far)
	r.subscribe("later", 1, "a", "b", "c", "d")
	r.say(1, false, "d", 1)
	r.expect("later", 1)
}

// clear deletes a retained message before the eyes of a subscriber.
func (r *run) clear() {
	r.say(1, true, "x", 1)
	r.connect("clear", far)
	r.subscribe("clear", 1, "x")
	r.expect("clear", 1)
	r.publish("pub", 1, true, "x", nil)
	r.say(1, false, "x", 2)
	r.expect("clear", 2)
}

func (r *run) retainedWildcard() {
	r.say(1, true, "a/x", 1)
	r.say(1, true, "b/x", 1)
	r.connect("retw", far)
	r.subscribe("retw", 1, "+/x")
	r.expect("retw", 2)
	r.disconnect("retw")
	r.publish("pub", 1, true, "a/x", nil)
	r.publish("pub", 1, true, "b/x", nil)
}

func (r *run) subscribeOptions() {
	r.say(1, true, "old", 1)
	subscribe := func(client string, f filter) {
		f.Filter, f.QoS = r.topic("#"), 1
		r.connect(client, near)
		r.do(command{Do: "subscribe", Client: client, Filters: []filter{f}})
	}
	subscribe("asis", filter{AsIs: true})
	subscribe("never", filter{Handling: 2})
	subscribe("nolocal", filter{Handling: 2, NoLocal: true})
	r.expect("asis", 1)
	r.say(1, true, "new", 1)
	r.publish("nolocal", 1, false, "own", []byte(marker+" own"))
	r.expect("asis", 2)
	r.expect("never", 2)
	r.expect("nolocal", 1)
	for _, client := range []string{"asis", "never", "nolocal"} {
		r.disconnect(client)
	}
	r.publish("pub", 1, true, "old", nil)
	r.publish("pub", 1, true, "new", nil)
}

func (r *run) wildcards() {
	r.connect("plus", far)
	r.subscribe("plus", 1, "+/x")
	r.connect("hash", far)
	r.subscribe("hash", 1, "1/#")
	r.say(1, false, "1/x", 1)
	r.say(1, false, "2/x", 1)
	r.say(1, false, "1/y/z", 1)
	r.say(1, false, "2/y", 1)
	r.expect("plus", 2)
	r.expect("hash", 2)
}

// overlapping subscribes to a topic twice: brokers may send one copy or two (MQTT 3.1.1, 3.3.5; MQTT 5, 3.3.4).
func (r *run) overlapping() {
	for qos := range 3 {
		r.overlap(fmt.Sprint("over", qos), qos, r.broker.copies[r.kind.version])
	}
}

func (r *run) overlap(client string, qos, copies int) {
	r.connect(client, far)
	r.subscribe(client, qos, client+"/+", client+"/#")
	for n := range 3 {
		r.say(qos, false, fmt.Sprintf("%s/%d", client, n), n)
	}
	r.expect(client, 3*copies)
}

func (r *run) shared() {
	for _, client := range []string{"sh#1", "sh#2"} {
		r.connect(client, far)
		r.do(command{Do: "subscribe", Client: client, Filters: []filter{{Filter: "$share/group/" + r.topic("#"), QoS: 1}}})
	}
	for n := range 6 {
		r.say(1, false, fmt.Sprint(n), 1) // each on a topic of its own: between the two there is no order
	}
	r.expect("sh", 6)
}

func (r *run) payloads() {
	r.connect("pay", far)
	r.subscribe("pay", 1, "#")
	binary := []byte(marker)
	for i := range 256 {
		binary = append(binary, byte(i))
	}
	large := bytes.Repeat([]byte(marker+" "), 100<<10/(len(marker)+1)+1)[:100<<10]
	r.publish("pub", 1, false, "empty", nil)
	r.publish("pub", 1, false, "binary", binary)
	r.publish("pub", 1, false, "large", large)
	r.publish("pub", 0, false, "large0", large)
	r.expect("pay", 4)
}

func (r *run) utf8() {
	r.connect("utf", far)
	r.subscribe("utf", 1, "#")
	topics := []string{"Grüße/日本語/🌡", "Ώ/é/$x"}
	if r.broker.anyTopic {
		topics = append(topics, "a b/c.d", "/")
	}
	for _, topic := range topics {
		r.say(1, false, topic, 1)
	}
	r.expect("utf", len(topics))
}

func (r *run) answer() {
	r.connect("responder", far)
	r.subscribe("responder", 1, "question")
	r.connect("requester", near)
	r.subscribe("requester", 1, "answer")
	r.connect("answerer", far)
	r.publish("pub", 1, false, "question", []byte(marker+" what?"), &messageProps{Response: r.topic("answer"), Correlation: []byte(marker + " 1")})
	r.expect("responder", 1)
	r.publish("answerer", 1, false, "answer", []byte(marker+" that"), &messageProps{Correlation: []byte(marker + " 1")})
	r.expect("requester", 1)
}

func (r *run) unsubscribe() {
	r.connect("un", far)
	r.subscribe("un", 1, "a", "b")
	drop := command{Do: "unsubscribe", Client: "un", Filters: []filter{{Filter: r.topic("a")}}}
	r.do(drop)
	r.say(1, false, "a", 1)
	r.say(1, false, "b", 1)
	r.expect("un", 1)
	r.do(drop) // there is none any more
}

func (r *run) wills() {
	r.connect("heir3", far)
	r.subscribe("heir3", 1, "#")
	dying := func(client string) {
		r.connect(client, near, func(c *command) {
			c.Will = &message{Topic: r.topic(client), Payload: []byte(marker + " " + client), QoS: 1}
			if r.kind.version == 5 {
				c.Will.Props = &messageProps{Delay: 1, ContentType: marker, User: [][2]string{{"who", marker}}}
				c.Options = &connectProps{Expiry: 300}
			}
		})
		r.subscribe(client, 0, "idle")
	}
	dying("calm")
	r.disconnect("calm")
	dying(killed)
	r.clients.signal(killed, syscall.SIGKILL)
	r.expect("heir3", 1)
	if v5(r) && library(r) {
		dying("asking")
		r.do(command{Do: "disconnect", Client: "asking", Reason: 4}) // disconnect with will message
		r.expect("heir3", 1)
	}
}

func (r *run) away() {
	r.connect("away", far, kept)
	r.subscribe("away", 2, "#")
	r.disconnect("away")
	for n := range 3 {
		r.say(1, false, "x", n)
	}
	r.say(2, false, "y", 1)
	r.connect("away", far, kept)
	if r.kind.tool {
		r.subscribe("away", 2, "#")
	}
	r.expect("away", 4)
	r.say(1, false, "x", 3)
	r.expect("away", 1)
	r.disconnect("away")
	r.connect("away", far) // ends the session
	r.say(1, false, "x", 4)
	r.disconnect("away")
}

// takeover connects twice with one id. A tool would connect again at once: it is stopped before.
func (r *run) takeover() {
	id := func(c *command) { c.ID = r.prefix + "twin" }
	r.connect("first", far, id)
	r.subscribe("first", 1, "#")
	r.say(1, false, "x", 1)
	r.expect("first", 1)
	if r.kind.tool {
		r.clients.signal("first", syscall.SIGSTOP)
	}
	r.connect("second", far, id)
	if !r.kind.tool {
		r.log.until(r.patience(), func() bool { _, lost := r.log.lost["first"]; return lost })
		r.log.mu.Lock()
		code, lost := r.log.lost["first"]
		r.log.mu.Unlock()
		if !v5(r) {
			code = 0 // there is none in MQTT 3.1.1, whatever a library makes of the end
		}
		r.note("first lost=%t code=%d", lost, code)
	}
	r.subscribe("second", 1, "#")
	r.say(1, false, "x", 2)
	r.expect("second", 1)
}

func (r *run) refused() {
	r.connect("mallory", near, func(c *command) { c.User, c.Pass = "mallory", "wrong" })
	r.connect("curious", far)
	r.subscribe("curious", 1, "x")
	if r.broker.refusesPublish && v5(r) {
		r.connect("loud", near)
		r.publish("loud", 1, false, "x", []byte(marker+" secret"))
	}
}

func (r *run) properties() {
	one := 1
	r.connect("props", far, func(c *command) { c.Options = &connectProps{Expiry: 10, Receive: 20, AliasMax: 5} })
	r.do(command{Do: "subscribe", Client: "props", SubID: 7, Filters: []filter{{Filter: r.topic("#"), QoS: 1}}})
	all := &messageProps{Format: &one, ContentType: marker + "/text", Response: r.topic("never"), Correlation: []byte(marker + " c"), Expiry: longExpiry,
		User: [][2]string{{"a", marker + " 1"}, {"a", marker + " 2"}, {"b", "ü " + marker}}}
	r.publish("pub", 1, false, "all", []byte(marker+" with all"), all)
	r.publish("pub", 0, false, "all", []byte(marker+" with all"), all)
	r.publish("pub", 2, false, "all", nil, all)
	r.publish("pub", 1, false, "none", []byte(marker+" with none"))
	r.expect("props", 4)
}

// nobody is a topic level without subscribers, and the step that publishes there.
const nobody = "nobody"

func (r *run) unheard() { r.publish("pub", 1, false, "x", []byte(marker)) }

func (r *run) aliases() {
	r.connect("alias", far, func(c *command) { c.Options = &connectProps{AliasMax: 5} })
	r.subscribe("alias", 1, "#")
	r.connect("short", near)
	alias := &messageProps{}
	if r.broker.aliases {
		alias.Alias = 1
	}
	r.publish("short", 1, false, "x", []byte(marker+" 1"), alias)
	for i := range 3 {
		m := &message{Topic: r.topic("x"), Payload: fmt.Appendf(nil, "%s %d", marker, i+2), QoS: i, Props: alias}
		if alias.Alias > 0 && !r.kind.tool {
			m.Topic = ""
		}
		r.do(command{Do: "publish", Client: "short", Message: m})
	}
	r.publish("short", 1, false, "y", []byte(marker+" 9"), alias) // the alias now means another topic
	r.expect("alias", 5)
}

func (r *run) identifiers() {
	r.connect("ids", far)
	r.do(command{Do: "subscribe", Client: "ids", SubID: 1, Filters: []filter{{Filter: r.topic("a/#"), QoS: 1}}})
	r.do(command{Do: "subscribe", Client: "ids", SubID: 2, Filters: []filter{{Filter: r.topic("b"), QoS: 1}}})
	r.say(1, false, "a/x", 1)
	r.say(1, false, "b", 1)
	r.expect("ids", 2)
}
