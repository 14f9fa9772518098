package gateway

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/mqttparse"
)

// FuzzDevice gives any bytes of a device to a gateway with all its goroutines, before a broker that answers as one does. Whatever they
// are: no panic, an end, both connections closed (a peer plays until its own is), no goroutine left, and nothing on a sealed topic reaches the broker but envelopes that open.
func FuzzDevice(f *testing.F) {
	fl := fixedFleet(f)
	for _, s := range seeds(fl) {
		f.Add(s.device, s.step)
	}
	state := fl.state()
	f.Fuzz(func(t *testing.T, device []byte, step byte) {
		dev := &playedPeer{say: device, step: int(step) + 1}
		upl := &playedPeer{answers: true, stays: true}
		carryOne(t, state, dev, upl)
		checkUplink(t, state, whole(upl.heard))
	})
}

// FuzzBroker gives any bytes of a broker to a gateway with all its goroutines, behind which a device acknowledges what it gets. What
// reaches the device on a sealed topic was sealed.
func FuzzBroker(f *testing.F) {
	fl := fixedFleet(f)
	for _, s := range seeds(fl) {
		f.Add(s.broker, s.step)
	}
	state := fl.state()
	hello := mqttparse.AppendConnect(nil, &mqttparse.Connect{Version: mqttparse.V5, CleanStart: true, ClientID: []byte("dev"),
		Properties: []byte{mqttparse.PropTopicAliasMaximum, 0, 9}})
	f.Fuzz(func(t *testing.T, broker []byte, step byte) {
		dev := &playedPeer{say: hello, step: len(hello), answers: true, stays: true}
		upl := &playedPeer{say: broker, step: int(step) + 1, waits: true}
		carryOne(t, state, dev, upl)
		checkUplink(t, state, whole(upl.heard))
		checkDevice(t, state, mqttparse.V5, whole(dev.heard))
	})
}

// playedPeer is one end of a connection: it says its bytes, hears what comes, and may answer it.
type playedPeer struct {
	say     []byte
	step    int  // bytes in one write
	answers bool // acknowledges and grants
	waits   bool // says nothing before it has heard something
	stays   bool // does not close when it has said everything
	heard   []byte
}

// play runs the peer until the connection ends.
func (p *playedPeer) play(c net.Conn) {
	defer c.Close()
	first, quit := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if p.waits {
			select {
			case <-first:
			case <-quit:
				return
			}
		}
		for said := p.say; len(said) > 0; {
			n, err := c.Write(said[:min(p.step, len(said))])
			if said = said[n:]; err != nil {
				return
			}
		}
		if !p.stays {
			c.Close()
		}
	})
	var once sync.Once
	answered, buf := 0, make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			once.Do(func() { close(first) })
		}
		p.heard = append(p.heard, buf[:n]...)
		if p.answers {
			for rest := p.heard[answered:]; ; {
				f, size := firstFrame(rest)
				if size == 0 {
					break
				}
				answered += size
				rest = rest[size:]
				if a := answerTo(f); a != nil {
					_, _ = c.Write(a)
				}
			}
		}
		if err != nil {
			break
		}
	}
	close(quit)
	c.Close()
	wg.Wait()
}

// firstFrame is the packet at the front of b; size 0: it is not whole.
func firstFrame(b []byte) (f []byte, size int) {
	if len(b) < 2 {
		return nil, 0
	}
	n, w := mqttparse.Varint(b[1:])
	if w <= 0 || len(b) < 1+w+n {
		return nil, 0
	}
	return b[:1+w+n], 1 + w + n
}

// whole is b up to the last packet that is whole.
func whole(b []byte) []byte {
	end := 0
	for {
		_, n := firstFrame(b[end:])
		if n == 0 {
			return b[:end]
		}
		end += n
	}
}

// answerTo is what a peer says to a packet, in the short forms that are the same in every version.
func answerTo(f []byte) []byte {
	_, w := mqttparse.Varint(f[1:])
	body := f[1+w:]
	id := func(at int) []byte {
		if len(body) < at+2 {
			return []byte{0, 1}
		}
		return body[at : at+2]
	}
	switch mqttparse.Type(f[0] >> 4) {
	case mqttparse.CONNECT:
		if len(body) > 6 && mqttparse.Version(body[6]) == mqttparse.V5 {
			return []byte{0x20, 6, 0, 0, 3, mqttparse.PropTopicAliasMaximum, 0, 9}
		}
		return []byte{0x20, 2, 0, 0}
	case mqttparse.PUBLISH:
		if f[0]&6 == 0 || len(body) < 2 {
			return nil
		}
		at := 2 + int(body[0])<<8 + int(body[1])
		if f[0]&6 == 2 {
			return append([]byte{0x40, 2}, id(at)...)
		}
		return append([]byte{0x50, 2}, id(at)...)
	case mqttparse.PUBREC:
		return append([]byte{0x62, 2}, id(0)...)
	case mqttparse.PUBREL:
		return append([]byte{0x70, 2}, id(0)...)
	case mqttparse.PINGREQ:
		return []byte{0xd0, 0}
	}
	return nil
}

// carryOne carries one connection between two peers, by pipes in memory, to its end.
func carryOne(t *testing.T, state *State, dev, upl *playedPeer) {
	t.Helper()
	before := runtime.NumGoroutine()
	var peers sync.WaitGroup
	g := New(Config{MaxMessage: 4096, Gateway: "gw1", hold: 5 * time.Millisecond, linger: 20 * time.Millisecond, stall: 20 * time.Millisecond, Now: func() time.Duration { return 1 },
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			here, there := net.Pipe()
			peers.Go(func() { upl.play(there) })
			return here, nil
		}})
	g.SetState(state)
	here, there := net.Pipe()
	g.accepted(here)
	peers.Go(func() { dev.play(there) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.Drain(ctx); err != nil {
		t.Fatalf("the connection does not end: %v\n%s", err, stacks())
	}
	peers.Wait() // not before: until the connection has ended it may still dial, which begins another
	eventually(t, "the goroutines of a connection end", func() bool { return runtime.NumGoroutine() <= before })
	var metrics bytes.Buffer
	if g.metrics.WritePrometheus(&metrics); bytes.Contains(metrics.Bytes(), []byte(`sealgate_refused_total{reason="internal"}`)) {
		t.Fatal("a defect was caught: a panic is one")
	}
}

func stacks() []byte {
	b := make([]byte, 1<<20)
	return bytes.TrimSpace(b[:runtime.Stack(b, true)])
}
