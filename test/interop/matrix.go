package interop

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// exception is a step that is not the same, and why that is as it has to be.
type exception struct {
	broker, client string // several of them; "": all
	version        int    // 0: both
	step           string
	how            how
	why            string
}

type how int

const (
	differs    how = iota // the test checks that it still does
	inAnyOrder            // each message has to come, in an order of the broker's choice
	leftOut               // the broker cannot do it
)

func (h how) String() string {
	return [...]string{"differs", "is compared without regard to order", "is left out"}[h]
}

// explained is all that is not the same, or not tried. Whatever else differs is a failure.
var explained = []exception{
	{"mochi-mqtt", "mosquitto_pub/sub mqtt.js python3-paho-mqtt", 5, "will", differs, "The broker forgets the content type of a will. Through " +
		"Sealgate it comes, because it travels inside the envelope. (paho.golang does not send it.)"},
	{"mochi-mqtt", "paho.mqtt.golang paho.golang mqtt.js python3-paho-mqtt", 0, "away", inAnyOrder, "The broker sorts what waits for a session by the second " +
		"in which it came."},
	{"mochi-mqtt", "mosquitto_pub/sub", 0, "away", leftOut, "The broker refuses a SUBSCRIBE whose packet identifier one of its own messages has, " +
		"and mosquitto_sub subscribes whenever it connects."},
	{"nats-server", "", 0, "away", inAnyOrder, "The broker, when busy, now and then sends the first waiting message only after its ack_wait, direct as through Sealgate."},
	{"nats-server RabbitMQ aedes", "", 0, "sh", leftOut, "Shared subscriptions came with MQTT 5, which this broker does not speak."},
	{"RabbitMQ", "", 0, "retw", leftOut, "The broker sends retained messages to subscriptions without wildcards only."},
}

// excuse finds the explanation of a step that is not the same, and its letter; nil if there is none.
func excuse(b *broker, k kind, step string) (letter string, e *exception) {
	for i := range explained {
		e := &explained[i]
		if (e.broker == "" || contains(e.broker, b.name)) && (e.client == "" || contains(e.client, k.name)) && (e.version == 0 || e.version == k.version) && e.step == step {
			return string(rune('a' + i)), e
		}
	}
	return "", nil
}

func contains(list, name string) bool { return slices.Contains(strings.Fields(list), name) }

// matrix collects the cells and prints them.
type matrix struct {
	mu       sync.Mutex
	rows     []string
	cells    map[[2]string]string // by client and broker
	messages int
}

// set fills a cell: how many steps were alike, and the letters of those that were not.
func (m *matrix) set(k kind, b *broker, alike int, letters string, messages int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := fmt.Sprint(alike)
	if letters != "" {
		text += " " + letters
	}
	m.cells[[2]string{k.String(), b.name}] = text
	m.messages += messages
}

// complete reports whether no cell was left out for want of a program.
func (m *matrix) complete() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := 0
	for _, name := range m.rows {
		for _, b := range brokers {
			if b.v5 || strings.HasSuffix(name, ", 3.1.1") {
				want++
			}
		}
	}
	return len(m.cells) == want
}

// String is the matrix as docs/INTEROP.md shows it.
func (m *matrix) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s strings.Builder
	row := func(cells ...string) { s.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	head, rule := []string{"client, MQTT version"}, []string{"---"}
	for _, b := range brokers {
		head, rule = append(head, b.name), append(rule, "---")
	}
	row(head...)
	row(rule...)
	for _, k := range m.rows {
		cells := []string{k}
		for _, b := range brokers {
			text := m.cells[[2]string{k, b.name}]
			if text == "" {
				text = "–"
			}
			cells = append(cells, text)
		}
		row(cells...)
	}
	s.WriteString("\n")
	for i, e := range explained {
		where := "at " + strings.ReplaceAll(e.broker, " ", ", ")
		if e.broker == "" {
			where = "at all brokers"
		}
		if e.client != "" {
			where += ", with " + strings.ReplaceAll(e.client, " ", ", ")
		}
		fmt.Fprintf(&s, "- %c: step \"%s\" %s %s. %s\n", 'a'+i, e.step, e.how, where, e.why)
	}
	return s.String()
}
