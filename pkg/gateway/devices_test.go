package gateway

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"sealgate/pkg/mqttparse"
)

// A device that is refused gets no CONNECT through, and what it has open ends by Disconnect, on both sides.
func TestRefusedDevice(t *testing.T) {
	f := newFleet(t)
	var refused atomic.Bool
	ts := newTester(t, f.rotate(1), Config{Refuses: func(a netip.Addr) bool { return a.IsLoopback() && refused.Load() }}, nil)
	dev, broker := ts.connected(mqttparse.V311, "pump", true, false)
	here := ts.g.Clients()[netip.MustParseAddr("127.0.0.1")]
	if here.Connections != 1 || len(here.IDs) != 1 || here.IDs[0] != "pump" {
		t.Errorf("%+v", here)
	}
	if n := ts.g.Disconnect(func(netip.Addr) bool { return false }); n != 0 {
		t.Errorf("%d connections ended", n)
	}
	dev.send(publishPacket(dev.v, message("s/a", "undisturbed", 0, 0)))
	broker.publish()

	refused.Store(true)
	if n := ts.g.Disconnect(func(a netip.Addr) bool { return a.IsLoopback() }); n != 1 {
		t.Errorf("%d connections ended; want 1", n)
	}
	dev.ended()
	broker.ended()
	late := ts.dial()
	late.send(connectPacket(mqttparse.V311, "pump", true))
	late.ended()
	ts.accept().ended()
}
