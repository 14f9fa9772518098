package gateway

import (
	"io"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

// TestDismiss holds that a dismissed device's messages arrive and are acknowledged, that the broker hears no DISCONNECT, which would
// take back the device's will, and that a connection whose CONNECT is not answered yet is left alone.
func TestDismiss(t *testing.T) {
	f := newFleet(t)
	ts := newTester(t, f.rotate(1), Config{}, nil)
	dev, broker := ts.connected(mqttparse.V311, "dev1", true, false)
	young := ts.dial()
	young.send(connectPacket(young.v, "dev2", true))
	youngBroker := ts.accept()
	youngBroker.next()
	dev.send(publishPacket(dev.v, message("s/a", "last words", 1, 1)))

	dismissed := make(chan struct{})
	go func() { ts.g.Dismiss(t.Context(), time.Millisecond); close(dismissed) }()
	if _, _, payload := f.unseal("default", broker.publish()); string(payload) != "last words" {
		t.Errorf("%q", payload)
	}
	if _, err := broker.read(); err != io.EOF {
		t.Errorf("the broker sees %v, not the end", err)
	}
	broker.send(mqttparse.AppendAck(nil, dev.v, mqttparse.PUBACK, 1, 0))
	broker.Close()
	if got := dev.next(); got.Type() != mqttparse.PUBACK {
		t.Errorf("the device gets %v", got.Type())
	}
	dev.ended()

	youngBroker.send(mqttparse.AppendConnAck(nil, young.v, false, 0)) // now it is its turn
	if got := young.next(); got.Type() != mqttparse.CONNACK {
		t.Errorf("the young device gets %v", got.Type())
	}
	if _, err := youngBroker.read(); err != io.EOF {
		t.Errorf("the young device's broker sees %v, not the end", err)
	}
	youngBroker.Close()
	<-dismissed
}
