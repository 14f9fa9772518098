package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/gateway/uplink"
	"sealgate/pkg/mqttparse"
	"sealgate/test/lab"
)

// maxIdle is what an idle connection may cost the gateway's process, in bytes.
const maxIdle = 25_000

// idlePeers is the environment variable that turns the test binary into the other side of
// TestIdleMemory, so that only the gateway's memory is measured: it names certificate, key
// and number of devices.
const idlePeers = "SEALGATE_TEST_IDLE_PEERS"

// TestIdleMemory measures heap and stacks of idle connections with a TLS uplink, after each
// has carried a message both ways, and holds them to the budget.
func TestIdleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	const devices = 300
	authority := lab.NewCA(t, "brokers")
	cert := authority.Issue(t, "broker", time.Time{}, "127.0.0.1")
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", idlePeers, cert.CertFile, cert.KeyFile, devices))
	cmd.Stderr = os.Stderr
	in, out := pipes(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	broker := line(t, out)
	ca, err := os.ReadFile(authority.File)
	if err != nil {
		t.Fatal(err)
	}
	d, err := uplink.New(uplink.Config{Broker: broker, TLS: true, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	ts := newTester(t, newFleet(t).rotate(1), Config{}, d.Dial)
	before := memory()
	fmt.Fprintln(in, ts.addr)
	if got := line(t, out); got != "ready" {
		t.Fatalf("the other side: %s", got)
	}
	eventually(t, "all connected", func() bool { return ts.g.Status().Messages["up"]["seal"] == devices })
	eventually(t, "all idle, within budget", func() bool {
		return (memory()-before)/devices < maxIdle
	})
	m := memory()
	t.Logf("%d bytes of heap and stack for each of %d idle connections", (m-before)/devices, devices)
}

// memory is live heap and stacks. Stacks shrink by half with each collection.
func memory() int {
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

func pipes(t *testing.T, cmd *exec.Cmd) (io.WriteCloser, *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("the other side of the test: %v", err)
	}
	return strings.TrimSpace(s)
}

// playIdlePeers is the other side: a TLS broker and many devices.
func playIdlePeers(arg string) error {
	part := strings.Split(arg, ",")
	n, err := strconv.Atoi(part[2])
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(part[0], part[1])
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	fmt.Println(ln.Addr())
	in := bufio.NewReader(os.Stdin)
	addr, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	for i := range n {
		c, err := net.Dial("tcp", strings.TrimSpace(addr))
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write(connectPacket(mqttparse.V311, fmt.Sprintf("dev%d", i), true))
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			return err
		}
		_, _ = c.Write(publishPacket(mqttparse.V311, message("s/plant/line1", "21.5", 1, 1)))
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, _ = in.ReadString('\n') // until the parent closes the pipe
	return nil
}

// answer accepts CONNECT and acknowledges one PUBLISH.
func answer(c net.Conn) {
	p := make([]byte, 4096)
	if _, err := c.Read(p); err == nil {
		_, _ = c.Write(mqttparse.AppendConnAck(nil, mqttparse.V311, false, 0))
		if _, err := c.Read(p); err == nil {
			_, _ = c.Write(mqttparse.AppendAck(nil, mqttparse.V311, mqttparse.PUBACK, 1, 0))
		}
	}
	_, _ = io.Copy(io.Discard, c)
	c.Close()
}
