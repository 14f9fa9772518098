package lab

import (
	"io"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestTopologyRoutes(t *testing.T) {
	NeedRoot(t)
	topo := NewTopology(t)
	for _, addr := range []string{BrokerIP4 + ":4321", "[" + BrokerIP6 + "]:4321"} {
		l, err := topo.Uplink.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				io.WriteString(c, "hello")
				c.Close()
			}
		}()
		c, err := topo.Sensor.Dial(Within(t, 10*time.Second), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(c); string(got) != "hello" {
			t.Errorf("read %q through the gateway, want hello", got)
		}
		c.Close()
	}
}
