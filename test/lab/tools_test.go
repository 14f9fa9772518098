package lab

import (
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mqttHello is a CONNECT with an empty client identifier, and the start of its answer.
const mqttHello, mqttWelcome = "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "\x20\x02\x00\x00"

func TestCaptureSees(t *testing.T) {
	NeedRoot(t)
	topo := NewTopology(t)
	capture := NewCapture(t, topo.Uplink, "eth0")
	l, err := topo.Uplink.Listen("tcp", BrokerIP4+":1883")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const needle = "lab-needle-7f3a|"
	payload := Marker(needle, 100_000) // many segments
	received := make(chan int)
	go func() {
		n := 0
		if c, err := l.Accept(); err == nil {
			b, _ := io.ReadAll(c)
			n = len(b)
		}
		received <- n
	}()
	c, err := topo.Sensor.Dial(Within(t, 10*time.Second), "tcp", BrokerIP4+":1883")
	if err != nil {
		t.Fatal(err)
	}
	c.Write(payload)
	c.Close()
	if n := <-received; n != len(payload) {
		t.Fatalf("received %d bytes, want %d", n, len(payload))
	}
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	if !capture.Contains([]byte(needle)) {
		t.Error("the capture does not show what crossed the wire")
	}
	if capture.Contains([]byte("no-such-needle")) {
		t.Error("the capture shows what never crossed the wire")
	}
	n := 0
	for _, p := range capture.Payloads(1883) {
		n += len(p)
	}
	if n < len(payload) {
		t.Errorf("the TCP payloads in the record are %d bytes, want %d", n, len(payload))
	}
	if path, ok := FindTool("tcpdump"); ok {
		out, err := exec.Command(path, "-nr", capture.File, "tcp port 1883").Output()
		if err != nil || strings.Count(string(out), "\n") < 3 {
			t.Errorf("tcpdump reads the record: %v\n%s", err, out)
		}
	}
}

// greet speaks the first words of MQTT over TLS.
func greet(t *testing.T, addr string, ca *CA) {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, mqttHello)
	b := make([]byte, len(mqttWelcome))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != mqttWelcome {
		t.Fatalf("the broker answered % x, %v; want % x", b, err, mqttWelcome)
	}
}

func TestMosquitto(t *testing.T) {
	port := FreePort(t)
	ca := NewCA(t, "test")
	b := Mosquitto(t, BrokerOptions{TLS: port, Cert: ca.Issue(t, "broker", time.Time{}, "127.0.0.1")})
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	greet(t, addr, ca)
	b.Kill()
	b.Restart(t)
	greet(t, addr, ca)
}

func TestEmbedded(t *testing.T) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
	ca := NewCA(t, "test")
	Embedded(t, nil, addr, serverTLS(ca.Issue(t, "broker", time.Time{}, "127.0.0.1")))
	greet(t, addr, ca)
}

func TestCertificateKinds(t *testing.T) {
	ca, other := NewCA(t, "one"), NewCA(t, "other")
	for _, c := range []struct {
		name  string
		cert  Cert
		roots *CA
		want  string
	}{
		{"good", ca.Issue(t, "good", time.Time{}, "127.0.0.1"), ca, ""},
		{"expired", ca.Issue(t, "expired", time.Now().Add(-time.Hour), "127.0.0.1"), ca, "expired"},
		{"other CA", other.Issue(t, "b", time.Time{}, "127.0.0.1"), ca, "unknown authority"},
		{"other host", ca.Issue(t, "host", time.Time{}, "10.1.1.1"), ca, "valid for"},
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS(c.cert))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				c.(*tls.Conn).Handshake()
			}
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: c.roots.Pool()})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		l.Close()
	}
}

func TestProc(t *testing.T) {
	p := Start(t, Cmd{Path: "/bin/sh", Args: []string{"-c", "echo out; echo err >&2; read x; exit 3"}, Stdin: true})
	if err := p.AwaitLine(Within(t, 10*time.Second), "err"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CPU(); err != nil {
		t.Error(err)
	}
	if rss, err := p.RSS(); err != nil || rss == 0 {
		t.Errorf("resident memory %d, %v", rss, err)
	}
	p.CloseInput()
	if code, err := p.Wait(Within(t, 10*time.Second)); code != 3 || err != nil {
		t.Errorf("exit %d, %v; want 3", code, err)
	}
	if err := p.AwaitLine(Within(t, 10*time.Second), "never"); err == nil {
		t.Error("a line was found that was never written")
	}
}

func TestConfRenders(t *testing.T) {
	c := Conf{}.Set("", "fleet", "plant").Set("steer", "ports", []int{1883, 1}).Set("steer", "spoof_source", false)
	want := "fleet = \"plant\"\n[steer]\nports = [1883,1]\nspoof_source = false\n"
	if c.String() != want {
		t.Errorf("rendered\n%swant\n%s", c, want)
	}
}
