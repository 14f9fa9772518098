package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sealgate/test/lab"
)

// contender is a process between devices and the sink.
type contender struct {
	name string
	addr string
	proc *lab.Proc      // nil: none, devices dial the sink
	ns   *lab.Namespace // where devices are; nil: the benchmark's own
}

// cpu is the processor time the process has used so far.
func (c contender) cpu() time.Duration {
	if c.proc == nil {
		return 0
	}
	d, err := c.proc.CPU()
	if err != nil {
		return 0
	}
	return d
}

// bench holds the contenders; the one to compare with comes last.
type bench struct {
	contenders []contender
	programs   lab.Programs
}

func newBench(t lab.T) *bench {
	_, installed := lab.FindTool("mosquitto")
	plant := lab.NewPlant(t, lab.PlantOptions{Loopback: true, Embedded: !installed})
	s := newSink(t, plant.BrokerCert)
	plant.Conf.Set("uplink", "broker", s.addr)
	plant.WriteConf(t)
	plant.Up(t)
	b := &bench{programs: plant.Programs}
	b.contenders = append(b.contenders, contender{name: "gatewayd", addr: plant.DeviceAddr(), proc: plant.Gatewayd})
	if c, ok := haproxy(t, s, plant.CA); ok {
		b.contenders = append(b.contenders, c)
	} else {
		fmt.Println("HAProxy is not installed: gatewayd runs without comparison.")
	}
	for _, c := range b.contenders {
		conn, err := connect(nil, c.addr, "probe")
		if err != nil {
			t.Fatalf("reach the sink through %s: %v", c.name, err)
		}
		conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for suite := range s.suites {
		fmt.Printf("Uplink: %s\n", suite)
	}
	return b
}

// haproxyConf takes TCP in and carries it on over TLS with the broker's name verified, as gatewayd does.
const haproxyConf = `global
    maxconn 4096
    log stderr local0 err
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen bench
    bind %s
    server sink %s ssl verify required ca-file %s verifyhost localhost sni str(localhost) ssl-min-ver TLSv1.3
`

func haproxy(t lab.T, s *sink, ca *lab.CA) (contender, bool) {
	path, ok := lab.FindTool("haproxy")
	if !ok {
		return contender{}, false
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lab.FreePort(t)))
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(conf, fmt.Appendf(nil, haproxyConf, addr, s.addr, ca.File), 0o600); err != nil {
		t.Fatalf("write HAProxy's configuration: %v", err)
	}
	proc := lab.Start(t, lab.Cmd{Path: path, Args: []string{"-db", "-f", conf}})
	for range 200 { // it says nothing when it is ready
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return contender{name: "HAProxy", addr: addr, proc: proc}, true
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("HAProxy does not listen on %s: %v", addr, proc.Stderr())
	return contender{}, false
}
