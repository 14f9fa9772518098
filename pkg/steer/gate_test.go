package steer

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// What devices provoke is logged once a minute, with who it was.
func TestGateSays(t *testing.T) {
	var log bytes.Buffer
	g := &gate{log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, kind := range []uint32{eventNew, eventDenied, eventLimited, eventDenied, eventLimited} {
		g.heard(&deviceEvent{Address: keyOf(netip.MustParseAddr("192.0.2.7")), MAC: macKey{2, 0, 0, 0, 0, 7}, Kind: kind, Port: 40000})
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines; want 2", n)
	}
	for _, want := range []string{"device denied", "device limited", "device=192.0.2.7:40000 mac=02:00:00:00:00:07"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in\n%s", want, &log)
		}
	}
}

// In mode listen: who is denied is reset and the listener goes on; who is allowed again is served.
func TestGateAccepts(t *testing.T) {
	everybody := DeviceRules{DenyNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	var log bytes.Buffer
	s, err := Listen(context.Background(), Options{Mode: ModeListen, Listen: "127.0.0.1:0", Devices: everybody}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := s.Listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	for range 2 {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err == nil {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a denied device was told something")
			}
			conn.Close()
		}
	}
	if err := s.SetDevices(DeviceRules{}); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	s.Close()
	if _, open := <-accepted; open {
		t.Error("more was accepted than is allowed")
	}
	if r := s.Devices(1); r.Sums != (DeviceSums{Accepted: 1, Denied: 2}) || len(r.Denied) != 0 {
		t.Errorf("%+v", r)
	}
	if n := strings.Count(log.String(), "device refused"); n != 1 || !strings.Contains(log.String(), `reason="devices.deny has 127.0.0.0/8"`) {
		t.Errorf("the log says %d times:\n%s", n, &log)
	}
}
