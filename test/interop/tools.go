package interop

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"sealgate/test/lab"
)

// tools are mosquitto_sub and mosquitto_pub: a process for each subscriber and each message. CONNECT waits for the
// SUBSCRIBE that goes with it.
type tools struct {
	t        lab.T
	version  string
	tell     func(event)
	mu       sync.Mutex
	connects map[string]command
	subs     map[string]*lab.Proc

	lingering int // see linger
}

func needTools(t lab.T) {
	t.Helper()
	for _, name := range []string{"mosquitto_sub", "mosquitto_pub", "stdbuf"} {
		lab.NeedTool(t, name)
	}
}

func startTools(version int) func(lab.T, func(event)) clients {
	return func(t lab.T, tell func(event)) clients {
		o := &tools{t: t, version: "mqttv311", tell: tell, connects: map[string]command{}, subs: map[string]*lab.Proc{}}
		if version == 5 {
			o.version = "mqttv5"
		}
		return o
	}
}

func (o *tools) do(c command) event {
	o.mu.Lock()
	connect, sub := o.connects[c.Client], o.subs[c.Client]
	o.mu.Unlock()
	switch c.Do {
	case "connect":
		o.mu.Lock()
		o.connects[c.Client] = c
		o.mu.Unlock()
		if c.User != "" { // is to be refused
			return o.run(append(o.common(c), "-u", c.User, "-P", c.Pass, "-t", "none", "-n"))
		}
		return event{}
	case "subscribe":
		return o.subscribe(connect, c)
	case "publish":
		return o.publish(connect, c.Message)
	case "disconnect":
		if sub == nil {
			return event{}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		asleep(ctx, sub)
		sub.Signal(syscall.SIGINT)
		code, err := sub.Wait(ctx)
		return reply(code, err, nil)
	}
	return event{Error: "cannot " + c.Do}
}

// asleep waits until a process waits for something. The handler for signals of mosquitto_sub prints: where it interrupts a
// printf, the line in the buffer is written twice, and looks as if the message had come twice.
func asleep(ctx context.Context, p *lab.Proc) {
	for ctx.Err() == nil {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
		if _, rest, ok := strings.Cut(string(stat), ") "); err != nil || ok && strings.HasPrefix(rest, "S") {
			return
		}
		runtime.Gosched()
	}
}

func (o *tools) signal(client string, s syscall.Signal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.subs[client].Signal(s)
}

func (o *tools) common(c command) []string {
	return []string{"-V", o.version, "-h", c.Host, "-p", strconv.Itoa(c.Port), "-i", c.ID, "-k", strconv.Itoa(c.Alive)}
}

// run runs mosquitto_pub to its end.
func (o *tools) run(args []string) event {
	p := lab.Start(o.t, lab.Cmd{Path: "mosquitto_pub", Args: args})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code, err := p.Wait(ctx)
	return reply(code, err, p.Stderr())
}

func reply(code int, err error, said []string) event {
	if err != nil {
		return event{Error: err.Error()}
	}
	return event{Code: code, Error: strings.Join(said, "; ")}
}

func (o *tools) publish(connect command, m *message) event {
	args := append(o.common(connect), "-t", m.Topic, "-q", strconv.Itoa(m.QoS))
	if m.Retain {
		args = append(args, "-r")
	}
	args = append(args, properties("publish", m.Props)...)
	switch {
	case len(m.Payload) == 0:
		return o.run(append(args, "-n"))
	case m.QoS == 0 && len(m.Payload) < 1000:
		return o.linger(connect, args, m.Payload)
	}
	p := lab.Start(o.t, lab.Cmd{Path: "mosquitto_pub", Args: append(args, "-s"), Stdin: true})
	p.Write(m.Payload)
	p.CloseInput()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code, err := p.Wait(ctx)
	return reply(code, err, p.Stderr())
}

// linger publishes with QoS 0 by a client that stays connected until the end of the test. mosquitto_pub would close at once, and no
// broker promises to handle what it has not acknowledged: RabbitMQ lost such a message once, direct, on a busy machine.
func (o *tools) linger(connect command, args []string, payload []byte) event {
	o.mu.Lock()
	o.lingering++
	id := fmt.Sprintf("%s-%d", connect.ID, o.lingering)
	o.mu.Unlock()
	p := lab.Start(o.t, lab.Cmd{Path: "stdbuf", Args: append([]string{"-oL", "mosquitto_pub"}, append(args, "-i", id, "-l", "-d")...), Stdin: true})
	p.Write(append(slices.Clone(payload), '\n'))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := p.Await(ctx, func(stdout, _ []string) bool {
		return slices.ContainsFunc(stdout, func(line string) bool { return strings.Contains(line, "sending PUBLISH") })
	})
	return reply(0, err, p.Stderr())
}

func properties(packet string, p *messageProps) (args []string) {
	if p == nil {
		return nil
	}
	add := func(name string, values ...string) { args = append(append(args, "-D", packet, name), values...) }
	for name, value := range map[string]string{"content-type": p.ContentType, "response-topic": p.Response, "correlation-data": string(p.Correlation)} {
		if value != "" {
			add(name, value)
		}
	}
	for name, value := range map[string]int{"message-expiry-interval": p.Expiry, "topic-alias": p.Alias, "will-delay-interval": p.Delay} {
		if value != 0 {
			add(name, strconv.Itoa(value))
		}
	}
	if p.Format != nil {
		add("payload-format-indicator", strconv.Itoa(*p.Format))
	}
	for _, pair := range p.User {
		add("user-property", pair[0], pair[1])
	}
	return args
}

// format is how mosquitto_sub prints a message: fields of which none holds a tab.
const format = `MSG\t%t\t%q\t%r\t%x\t%C\t%D\t%E\t%F\t%P\t%R\t%S`

func (o *tools) subscribe(connect, c command) event {
	args := append(o.common(connect), "-d", "-F", format, "-q", strconv.Itoa(c.Filters[0].QoS))
	for _, f := range c.Filters {
		args = append(args, "-t", f.Filter)
	}
	if !connect.Clean {
		args = append(args, "-c") // in MQTT 5 with a session that does not expire
	}
	if c.SubID != 0 {
		args = append(args, "-D", "subscribe", "subscription-identifier", strconv.Itoa(c.SubID))
	}
	if w := connect.Will; w != nil {
		args = append(args, "--will-topic", w.Topic, "--will-payload", string(w.Payload), "--will-qos", strconv.Itoa(w.QoS))
		if w.Retain {
			args = append(args, "--will-retain")
		}
		args = append(args, properties("will", w.Props)...)
	}
	// mosquitto_sub keeps lines back where standard output is a pipe; stdbuf becomes it, in the same process
	p := lab.Start(o.t, lab.Cmd{Path: "stdbuf", Args: append([]string{"-oL", "mosquitto_sub"}, args...)})
	o.mu.Lock()
	o.subs[c.Client] = p
	o.mu.Unlock()
	answered := make(chan event, 1)
	go o.read(c.Client, p, answered)
	return <-answered
}

var connAcked, subscribed = regexp.MustCompile(`received CONNACK \((\d+)\)`), regexp.MustCompile(`^Subscribed \(mid: \d+\): (.*)$`)

// read reads what a mosquitto_sub prints. The first answer is that to SUBSCRIBE, or the end.
func (o *tools) read(client string, p *lab.Proc, answered chan<- event) {
	ctx, cancel := context.WithTimeout(context.Background(), patience) // for the answer; cut off by the process's own end
	defer cancel()
	var answer event
	open, connected := true, false
	say := func() {
		if open {
			open = false
			answered <- answer
		}
	}
	for read := 0; ; {
		var lines []string
		wait := context.Background()
		if open {
			wait = ctx
		}
		err := p.Await(wait, func(stdout, _ []string) bool { lines = stdout[read:]; return len(lines) > 0 })
		if err != nil {
			code, _ := p.Wait(ctx)
			answer.Error = fmt.Sprintf("exit %d: %s", code, strings.Join(p.Stderr(), "; "))
			say()
			return
		}
		read += len(lines)
		for _, line := range lines {
			if m := connAcked.FindStringSubmatch(line); m != nil {
				if connected && open { // it would go on for ever
					answer.Error = "the connection was closed instead of an answer"
					say()
					p.Kill()
				}
				connected = true
				answer.Code, _ = strconv.Atoi(m[1])
			} else if m := subscribed.FindStringSubmatch(line); m != nil {
				for text := range strings.SplitSeq(m[1], ", ") {
					n, _ := strconv.Atoi(text)
					answer.Codes = append(answer.Codes, n)
				}
				if !refusedAll(answer.Codes) { // else the process ends, and its last words belong to the answer
					say()
				}
			} else if rest, ok := strings.CutPrefix(line, "MSG\t"); ok {
				o.tell(event{Ev: "message", Client: client, Message: parseLine(rest)})
			}
		}
	}
}

func refusedAll(codes []int) bool {
	for _, c := range codes {
		if c < 0x80 {
			return false
		}
	}
	return true
}

// parseLine reads a message as mosquitto_sub prints it under format.
func parseLine(line string) *message {
	f := strings.Split(line, "\t")
	if len(f) != 11 {
		return &message{Topic: "unreadable: " + line}
	}
	m := &message{Topic: f[0], Retain: f[2] == "1"}
	m.QoS, _ = strconv.Atoi(f[1])
	m.Payload, _ = hex.DecodeString(f[3])
	p := &messageProps{ContentType: f[4], Correlation: []byte(f[5]), Response: f[9]}
	p.Expiry, _ = strconv.Atoi(f[6])
	if n, err := strconv.Atoi(f[7]); err == nil {
		p.Format = &n
	}
	if f[8] != "" {
		p.User = [][2]string{{"as printed", f[8]}}
	}
	if f[10] != "" {
		p.User = append(p.User, [2]string{"subscription identifiers", f[10]})
	}
	m.Props = p
	return m
}
