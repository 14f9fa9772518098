package main

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

// tools says which of mosquitto's programs are installed. What is missing is replaced by what Go brings along.
type tools struct {
	broker   bool
	pub, sub string // paths, "" when not installed
}

func findTools() tools {
	var t tools
	_, t.broker = lab.FindTool("mosquitto")
	t.pub, _ = lab.FindTool("mosquitto_pub")
	if t.broker {
		t.sub, _ = lab.FindTool("mosquitto_sub")
	}
	return t
}

func (t tools) brokerName() string {
	if t.broker {
		return "mosquitto"
	}
	return "the embedded broker (mosquitto is not installed)"
}

func (t tools) publisherName() string {
	if t.pub != "" {
		return "mosquitto_pub"
	}
	return "a plain paho client (mosquitto_pub is not installed)"
}

const clientTimeout = 15 * time.Second

// publish publishes at QoS 1 from the sensor's side and returns when the broker has acknowledged.
func (t tools) publish(lt lab.T, plant *lab.Plant, addr string, m message) {
	ns := plant.SensorNS()
	if t.pub == "" {
		client := connectPaho(lt, "tcp://"+addr, ns, nil)
		defer client.Disconnect(0)
		if token := client.Publish(m.topic, 1, false, m.payload); !token.WaitTimeout(clientTimeout) || token.Error() != nil {
			lt.Fatalf("publish on %s: %v", m.topic, token.Error())
		}
		return
	}
	host, port, _ := net.SplitHostPort(addr)
	lab.MustRun(lt, lab.Within(lt, clientTimeout), lab.Cmd{NS: ns, Path: t.pub,
		Args: []string{"-h", host, "-p", port, "-q", "1", "-t", m.topic, "-m", m.payload}})
}

func connectPaho(t lab.T, broker string, ns *lab.Namespace, conf *tls.Config) mqtt.Client {
	opts := mqtt.NewClientOptions().AddBroker(broker).SetConnectTimeout(clientTimeout)
	opts.SetCustomOpenConnectionFn(func(uri *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		conn, err := ns.Dial(lab.Within(t, clientTimeout), "tcp", uri.Host)
		if err == nil && conf != nil {
			conn = tls.Client(conn, conf)
		}
		return conn, err
	})
	client := mqtt.NewClient(opts)
	if token := client.Connect(); !token.WaitTimeout(clientTimeout) || token.Error() != nil {
		t.Fatalf("connect to %s: %v", broker, token.Error())
	}
	return client
}

// observer is a subscriber at the broker that has no keys: it sees what the broker sees.
type observer struct {
	proc *lab.Proc // mosquitto_sub, or

	mu     sync.Mutex // a paho client
	got    []message
	change chan struct{}
}

func (t tools) observe(lt lab.T, plant *lab.Plant) *observer {
	o := &observer{change: make(chan struct{}, 1000)}
	ns := plant.UplinkNS()
	if t.sub == "" {
		conf := &tls.Config{RootCAs: plant.CA.Pool(), ServerName: plant.BrokerHost}
		client := connectPaho(lt, "tcp://"+plant.BrokerAddr(), ns, conf)
		lt.Cleanup(func() { client.Disconnect(0) })
		token := client.Subscribe("factory/#", 1, func(_ mqtt.Client, m mqtt.Message) {
			o.mu.Lock()
			o.got = append(o.got, message{m.Topic(), string(m.Payload())})
			o.mu.Unlock()
			o.change <- struct{}{}
		})
		if !token.WaitTimeout(clientTimeout) || token.Error() != nil {
			lt.Fatalf("subscribe at the broker: %v", token.Error())
		}
		return o
	}
	o.proc = lab.Start(lt, lab.Cmd{NS: ns, Path: t.sub, Args: []string{"-h", plant.BrokerHost, "-p", strconv.Itoa(plant.TLSPort),
		"--cafile", plant.CA.File, "-i", "observer", "-q", "1", "-t", "factory/#", "-F", "message %t %x"}})
	// It says nothing itself, the broker does.
	if err := plant.Broker.Proc.AwaitLine(lab.Within(lt, clientTimeout), "observer 1 factory/#"); err != nil {
		lt.Fatalf("subscribe at the broker: %v", err)
	}
	return o
}

// await returns what the broker passed on, once it is n messages, or what there is after a while.
func (o *observer) await(t lab.T, n int) []message {
	ctx := lab.Within(t, clientTimeout)
	if o.proc == nil {
		for {
			o.mu.Lock()
			got := o.got
			o.mu.Unlock()
			if len(got) >= n {
				return got
			}
			select {
			case <-o.change:
			case <-ctx.Done():
				return got
			}
		}
	}
	var got []message
	o.proc.Await(ctx, func(stdout, _ []string) bool {
		got = nil
		for _, line := range stdout {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "message" {
				payload, _ := hex.DecodeString(f[2])
				got = append(got, message{f[1], string(payload)})
			}
		}
		return len(got) >= n
	})
	return got
}

// opened is a line of `sealctl sub --json`.
type opened struct {
	Topic, Payload, Status string
	Gateway                string
	Seq                    uint64
}

// subscriber is a running `sealctl sub`.
type subscriber struct{ proc *lab.Proc }

func subscribe(t lab.T, plant *lab.Plant) *subscriber {
	s := &subscriber{lab.Start(t, plant.SealctlCmd("sub", "-t", "factory/#", "-q", "1", "--json"))}
	if err := s.proc.AwaitLine(lab.Within(t, 30*time.Second), "subscribed"); err != nil {
		t.Fatalf("subscribe with keys: %v", err)
	}
	return s
}

func (s *subscriber) await(t lab.T, n int) []opened {
	var got []opened
	s.proc.Await(lab.Within(t, clientTimeout), func(stdout, _ []string) bool {
		got = nil
		for _, line := range stdout {
			var o opened
			if err := json.Unmarshal([]byte(line), &o); err != nil {
				o = opened{Status: "not JSON: " + line}
			}
			got = append(got, o)
		}
		return len(got) >= n
	})
	return got
}
