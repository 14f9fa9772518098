package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/subscriber"
)

// keyPatience is how long `sub` waits for keys before it subscribes without.
const keyPatience = 10 * time.Second

// subFlags are the flags of `sealctl sub`.
type subFlags struct {
	brokerFlags
	mqtt5Flags
	topics    []string
	qos       int
	count     int
	wait      float64
	verbose   bool
	json      bool
	noNewline bool
	noRetain  bool

	adjust func(*subscriber.Options) // of the connection, by mqtt5Flags
}

func subCommand() *command {
	return &command{
		name: "sub", args: "-i DIR -b URL -t FILTER [-t FILTER ...] [flags]", short: "subscribe to sealed topics and print what is in them", run: runSub,
		long: `
Subscribe to topics, open what is sealed and print it, one message a line.
Prints "subscribed ..." on stderr when every filter has been granted.

Only messages that opened and are new are printed in full. Everything else, such as forged,
repeated or missing messages, is told on stderr, or with --json as an object with its status:
ok, duplicate, replayed, conflict, stale, expired-epoch, unknown-key, forged, plaintext. Missing
ones are an object of their own, {"status":"gap","topic":...,"from":...,"to":...}; when they
arrive late, {"status":"gap-filled",...} takes that back. The checkpoints of gateways lead to others: dropped, recovered,
burned, silent, heard, withheld, unattributed, disputed, crowded (docs/SUBSCRIBER.md).`,
	}
}

func runSub(env cmdenv.Env, c *command, args []string) error {
	var f subFlags
	o := newOptions(c)
	f.brokerFlags.register(o)
	f.registerData(o)
	o.list(&f.topics, "t topic", "FILTER", "topic filter; repeat for more")
	o.number(&f.qos, "q qos", 1, "0|1|2", "quality of service of the subscriptions (default 1)")
	o.number(&f.count, "C count", 0, "N", "exit after N messages (with --json: of any status)")
	for _, n := range o.show("W timeout", "SECONDS", "give up after so many seconds: exit 1 if -C is not reached, else 0") {
		o.fs.Float64Var(&f.wait, n, 0, "")
	}
	o.yes(&f.verbose, "v verbose", "print the topic before the payload")
	o.yes(&f.json, "json", "print one JSON object a line, also for messages that are not ok")
	o.yes(&f.noNewline, "N no-newline", "print no newline after a payload")
	o.yes(&f.noRetain, "R no-retained", "leave out retained messages")
	f.mqtt5Flags.register(o, "connect")
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	adjust, rest, err := f.connection(o)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return usagef("-D %s: want connect", rest[0].command)
	}
	f.adjust = adjust
	if err := validFilters(f.topics); err != nil {
		return err
	}
	switch {
	case len(f.topics) == 0:
		return usagef("-t FILTER is missing: what to subscribe to, for example -t 'sensors/#'")
	case f.qos < 0 || f.qos > 2:
		return usagef("-q %d: want 0, 1 or 2", f.qos)
	case f.count < 0 || o.given("C", "count") && f.count == 0:
		return usagef("-C %d: want a number from 1", f.count)
	case f.wait < 0:
		return usagef("-W %g: want a number of seconds", f.wait)
	}
	return f.run(env, c)
}

func (f *subFlags) run(env cmdenv.Env, c *command) error {
	ctx, cancel := context.WithCancel(env.Ctx)
	defer cancel()
	if f.wait > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(f.wait*float64(time.Second)))
		defer cancel()
	}
	p := &printer{f: f, env: env, name: c.name, enough: make(chan struct{})}
	client, err := f.connect(ctx, env, c, func(o *subscriber.Options) {
		f.adjust(o)
		o.Handler, o.ReadOnly = p.handle, true
	})
	if err != nil {
		return f.outcome(ctx, err)
	}
	defer client.Close()
	patience, stop := context.WithTimeout(ctx, keyPatience)
	defer stop()
	if err := client.Ready(patience); err != nil && ctx.Err() == nil {
		env.Errorf("sealctl %s: going on without keys: %v", c.name, err)
	}
	if err := client.Subscribe(ctx, byte(f.qos), f.topics...); err != nil {
		return f.outcome(ctx, err)
	}
	env.Errorf("subscribed to %s (QoS %d)", strings.Join(f.topics, " "), f.qos)
	select {
	case <-p.enough:
		return p.failure()
	case <-ctx.Done():
		return f.outcome(ctx, ctx.Err())
	}
}

// outcome turns the end of waiting into an exit: a time limit or an interrupt is a failure only when -C asked for
// messages that did not come.
func (f *subFlags) outcome(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == nil:
		return err
	case f.count > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the %d messages of -C did not arrive within %g seconds", f.count, f.wait)
	case f.count > 0:
		return errors.New("interrupted before -C was reached")
	}
	return nil
}

// printer prints messages. handle runs on the client's goroutine.
type printer struct {
	f      *subFlags
	env    cmdenv.Env
	name   string
	seen   int
	once   sync.Once
	enough chan struct{} // closed when nothing more is to be printed
	err    error         // why, if not because of -C; set before enough is closed
}

func (p *printer) failure() error { return p.err }

func (p *printer) handle(m *subscriber.Message) {
	if p.done() || m.Retain && p.f.noRetain {
		return
	}
	var err error
	switch {
	case p.f.json:
		err = writeJSON(p.env.Stdout, m)
		p.count(!m.Report())
	case m.Status == subscriber.StatusOK:
		err = p.writeText(m)
		p.count(true)
	default:
		p.env.Errorf("%s", complaint(m))
	}
	if err != nil {
		p.once.Do(func() { p.err = fmt.Errorf("stdout: %w", err); close(p.enough) })
	}
}

func (p *printer) done() bool {
	select {
	case <-p.enough:
		return true
	default:
		return false
	}
}

func (p *printer) count(counts bool) {
	if counts {
		p.seen++
	}
	if p.f.count > 0 && p.seen >= p.f.count {
		p.once.Do(func() { close(p.enough) })
	}
}

func (p *printer) writeText(m *subscriber.Message) error {
	var line []byte
	if p.f.verbose {
		line = append(append(line, m.Topic...), ' ')
	}
	line = append(line, m.Payload...)
	if !p.f.noNewline {
		line = append(line, '\n')
	}
	_, err := p.env.Stdout.Write(line)
	return err
}

// complaint is what the text mode says about something that is not ok.
func complaint(m *subscriber.Message) string {
	switch {
	case m.Status == subscriber.StatusDisputed:
		return fmt.Sprintf("%s: stream %s: claimed by %s, and %s", m.Status, m.Stream, m.Gateway, m.Other)
	case m.Report() && !numbered(m):
		return strings.TrimSpace(fmt.Sprintf("%s: group %s %s", m.Status, m.Group, m.Gateway))
	case m.Status == subscriber.StatusWithheld:
		return fmt.Sprintf("%s: checkpoints %d to %d of %s", m.Status, m.From, m.To, m.Gateway)
	case m.Report():
		return fmt.Sprintf("%s: %s stream %s, numbers %d to %d", m.Status, m.Topic, m.Stream, m.From, m.To)
	case m.Sealed:
		return fmt.Sprintf("%s: %s stream %s, number %d, key %s", m.Status, m.Topic, m.Stream, m.Seq, m.Key)
	}
	return fmt.Sprintf("%s: %s", m.Status, m.Topic)
}

// numbered reports whether a report is about the numbers From to To.
func numbered(m *subscriber.Message) bool {
	return m.Sealed && m.Status != subscriber.StatusDisputed || m.Status == subscriber.StatusWithheld
}

// jsonMessage is a line of --json. Reports have from and to, messages the rest.
type jsonMessage struct {
	Topic   string            `json:"topic"`
	Payload *string           `json:"payload,omitempty"`
	Base64  *string           `json:"payload_base64,omitempty"`
	QoS     *byte             `json:"qos,omitempty"`
	Retain  *bool             `json:"retain,omitempty"`
	Status  subscriber.Status `json:"status"`
	Group   string            `json:"group,omitempty"`
	Gateway string            `json:"gateway,omitempty"`
	Other   string            `json:"other,omitempty"`
	Stream  string            `json:"stream,omitempty"`
	Key     string            `json:"key,omitempty"`
	Seq     *uint64           `json:"seq,omitempty"`
	Gap     uint64            `json:"gap,omitempty"`
	*jsonProperties
	From *uint64 `json:"from,omitempty"`
	To   *uint64 `json:"to,omitempty"`
}

func writeJSON(w io.Writer, m *subscriber.Message) error {
	j := jsonMessage{Topic: m.Topic, Status: m.Status, Group: m.Group, Gateway: m.Gateway, Other: m.Other, Gap: m.Gap}
	if m.Sealed {
		j.Stream, j.Key = m.Stream.String(), m.Key.String()
	}
	if m.Report() {
		if numbered(m) {
			j.From, j.To = &m.From, &m.To
		}
	} else {
		j.QoS, j.Retain = &m.QoS, &m.Retain
		if m.Sealed {
			j.Seq = &m.Seq
		}
	}
	if m.Status == subscriber.StatusOK {
		j.Payload, j.Base64 = textOrBase64(m.Payload)
		if !m.Properties.Empty() {
			j.jsonProperties = propertiesOf(&m.Properties)
		}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(&j)
}

// jsonProperties are the properties that describe the content of a message.
type jsonProperties struct {
	PayloadFormat byte           `json:"payload_format,omitempty"`
	ContentType   string         `json:"content_type,omitempty"`
	ResponseTopic string         `json:"response_topic,omitempty"`
	Correlation   *string        `json:"correlation_data,omitempty"`
	Correlation64 *string        `json:"correlation_data_base64,omitempty"`
	User          []jsonProperty `json:"user_properties,omitempty"`
}

type jsonProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func propertiesOf(p *subscriber.Properties) *jsonProperties {
	j := &jsonProperties{PayloadFormat: p.PayloadFormat, ContentType: p.ContentType, ResponseTopic: p.ResponseTopic}
	if p.CorrelationData != nil {
		j.Correlation, j.Correlation64 = textOrBase64(p.CorrelationData)
	}
	for _, u := range p.User {
		j.User = append(j.User, jsonProperty(u))
	}
	return j
}

// textOrBase64 returns b as it is if it is UTF-8, else in base64.
func textOrBase64(b []byte) (text, encoded *string) {
	if utf8.Valid(b) {
		s := string(b)
		return &s, nil
	}
	s := base64.StdEncoding.EncodeToString(b)
	return nil, &s
}
