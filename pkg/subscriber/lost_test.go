package subscriber_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/subscriber"
	"sealgate/test/embedded"
)

// relay carries connections to a broker until it is cut.
type relay struct {
	net.Listener
	to    string
	mu    sync.Mutex
	cut   bool       // guarded by mu
	conns []net.Conn // guarded by mu
}

func newRelay(t *testing.T, url string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: strings.TrimPrefix(url, "mqtt://")}
	t.Cleanup(func() { l.Close(); r.set(true) })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			r.carry(in)
		}
	}()
	return r
}

func (r *relay) carry(in net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		in.Close()
		return
	}
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		in.Close()
		return
	}
	r.conns = append(r.conns, in, out)
	for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() { io.Copy(c[0], c[1]); c[0].Close() }()
	}
}

// set cuts the connections and lets none through, or lets them through again.
func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

// TestControlConnectionLost: a client's control connection is gone while messages under a new key arrive over the other one. They wait
// for the key longer than for one that nobody has.
func TestControlConnectionLost(t *testing.T) {
	b := embedded.Start(t, embedded.Options{})
	f := newFleet(t, nil)
	keeper, control, in, heard := f.keeper(b.URL(), nil), newRelay(t, b.URL()), newInbox(), newInbox()
	alice := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "alice"), Broker: b.URL(),
		ControlBroker: "mqtt://" + control.Addr().String(), Handler: in.handle, ReadOnly: true})
	bob := connect(t, subscriber.Options{Member: f.identity(crypto.RoleSubscriber, "bob"), Broker: b.URL(), Handler: heard.handle})
	for _, c := range []*subscriber.Client{alice, bob} {
		if err := c.Subscribe(within(t), 1, "plant/#"); err != nil {
			t.Fatal(err)
		}
	}
	sent := 0
	publish := func() crypto.KeyID {
		if err := bob.Publish(within(t), "plant/1", fmt.Append(nil, sent), 1, false); err != nil {
			t.Fatal(err)
		}
		sent++
		return heard.await(t, sent)[sent-1].Key
	}
	old := publish()
	in.await(t, 1)
	control.set(true)
	if _, err := keeper.Rotate(within(t), "plant"); err != nil {
		t.Fatal(err)
	}
	for limit := within(t); publish() == old; {
		if limit.Err() != nil {
			t.Fatal("nothing came under the new key")
		}
	}
	in.await(t, sent-1)
	<-time.After(3 * time.Second) // more than a key which nobody has is waited for
	control.set(false)
	for i, m := range in.await(t, sent) {
		if m.Status != subscriber.StatusOK || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("message %d: %+v %q", i, m, m.Payload)
		}
	}
}
