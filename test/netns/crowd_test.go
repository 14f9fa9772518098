package netns

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/test/lab"
)

// A crowd is many publishers in a process of their own among the devices: this test program, started again. Each connects,
// publishes at QoS 1 one message after the other, leaves, with DISCONNECT or without, and comes back after a while, all at
// random. A message that was not acknowledged is sent again, until it is; so what is acknowledged of a publisher is 1, 2, 3 and so on.

// crowdOptions are what the crowd is told, as JSON in the variable crowdVariable.
type crowdOptions struct {
	Addr   string
	N      int
	Needle string        // what payloads begin with
	Stay   time.Duration // connected at most so long, by chance
	Away   time.Duration // and away
	Pause  time.Duration // at most so long between two messages
}

const (
	crowdVariable = "SEALGATE_TEST_CROWD"
	crowdPatience = 30 * time.Second // for whatever is to come; a handshake packet that is lost is sent again after 1 s, 3 s, 7 s
)

// crowd is the test's side.
type crowd struct {
	proc      *lab.Proc
	read      int
	acked     []int // by publisher, its messages acknowledged
	total     int
	connected int
	acks      []ack
	failed    map[string]int // connections that could not be made, by reason
}

// ack is a message acknowledged: when, and when its connection was begun.
type ack struct {
	publisher       int
	at, connectedAt int64 // Unix time in nanoseconds
}

func startCrowd(t *testing.T, ns *lab.Namespace, o crowdOptions) *crowd {
	t.Helper()
	conf, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{acked: make([]int, o.N), failed: map[string]int{}}
	c.proc = lab.Start(t, lab.Cmd{NS: ns, Path: os.Args[0], Env: []string{crowdVariable + "=" + string(conf)}, Stdin: true})
	return c
}

// await takes in what the crowd says until cond holds.
func (c *crowd) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	err := c.proc.Await(lab.Within(t, 2*time.Minute), func(stdout, _ []string) bool {
		for ; c.read < len(stdout); c.read++ {
			c.take(stdout[c.read])
		}
		return cond()
	})
	if err != nil {
		t.Fatalf("%s: %v; %d messages acknowledged, %d connections made, not made %v", what, err, c.total, c.connected, c.failed)
	}
}

func (c *crowd) take(line string) {
	var seq int
	var a ack
	if n, _ := fmt.Sscanf(line, "a %d %d %d %d", &a.publisher, &seq, &a.at, &a.connectedAt); n == 4 {
		c.acked[a.publisher], c.total = seq, c.total+1
		c.acks = append(c.acks, a)
	} else if reason, ok := strings.CutPrefix(line, "x "); ok {
		c.failed[reason]++
	} else if strings.HasPrefix(line, "c ") {
		c.connected++
	}
}

// awaitMore waits for n more acknowledged messages on connections made from now on.
func (c *crowd) awaitMore(t *testing.T, n int) {
	t.Helper()
	since, from := time.Now().UnixNano(), len(c.acks)
	found := 0
	c.await(t, "messages on new connections", func() bool {
		for ; from < len(c.acks); from++ {
			if c.acks[from].connectedAt > since {
				found++
			}
		}
		return found >= n
	})
}

// leave has every publisher end what it has begun, and go.
func (c *crowd) leave(t *testing.T) {
	t.Helper()
	c.proc.CloseInput()
	c.await(t, "the crowd's leave", func() bool {
		select {
		case <-c.proc.Done():
			return c.read == len(c.proc.Stdout())
		default:
			return false
		}
	})
}

// crowdMain is the crowd's own process. It ends when its standard input does.
func crowdMain() int {
	var o crowdOptions
	if err := json.Unmarshal([]byte(os.Getenv(crowdVariable)), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = os.Stdin.Read(make([]byte, 1))
	}()
	flushed := make(chan struct{})
	go func() {
		for range time.Tick(10 * time.Millisecond) {
			mu.Lock()
			out.Flush()
			mu.Unlock()
			select {
			case <-flushed:
				return
			default:
			}
		}
	}()
	var all sync.WaitGroup
	for i := range o.N {
		all.Go(func() { (&publisher{o: &o, i: i, say: say, stop: stop}).run() })
	}
	all.Wait()
	close(flushed)
	mu.Lock()
	defer mu.Unlock()
	out.Flush()
	return 0
}

// publisher is one of the crowd.
type publisher struct {
	o    *crowdOptions
	i    int
	seq  int // the message that is to be acknowledged next, from 0
	say  func(string, ...any)
	stop chan struct{}
}

func (p *publisher) run() {
	for p.rest(p.o.Away) {
		began := time.Now()
		conn, err := net.DialTimeout("tcp", p.o.Addr, crowdPatience)
		if err != nil {
			p.say("x dial: %v", plain(err))
			continue
		}
		p.visit(conn, began)
		conn.Close()
	}
}

// visit is one connection.
func (p *publisher) visit(conn net.Conn, began time.Time) {
	if _, err := conn.Write(connectPacket(fmt.Sprintf("crowd%d", p.i))); err != nil {
		p.say("x CONNECT: %v", plain(err))
		return
	}
	if err := readConnAckIn(conn, crowdPatience); err != nil {
		p.say("x CONNACK: %v", plain(err))
		return
	}
	p.say("c %d", p.i)
	until := began.Add(time.Duration(rand.Int64N(int64(p.o.Stay))))
	for going := true; going && time.Now().Before(until); going = p.rest(p.o.Pause) {
		id := uint16(p.seq%65535 + 1)
		packet := publishPacket(fmt.Sprintf("plant/crowd%d", p.i), fmt.Appendf(nil, "%s%d|%d", p.o.Needle, p.i, p.seq), id)
		if _, err := conn.Write(packet); err != nil {
			return
		}
		if err := readPubAckIn(conn, id, crowdPatience); err != nil {
			return
		}
		p.seq++
		p.say("a %d %d %d %d", p.i, p.seq, time.Now().UnixNano(), began.UnixNano())
	}
	if rand.IntN(2) == 0 {
		_, _ = conn.Write([]byte{0xe0, 0})
	}
}

// rest waits for a time by chance; false: it is time to go.
func (p *publisher) rest(most time.Duration) bool {
	select {
	case <-p.stop:
		return false
	case <-time.After(time.Duration(rand.Int64N(int64(most)))):
		return true
	}
}

// plain is an error without the addresses in it.
func plain(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, "->")+1:]
}
