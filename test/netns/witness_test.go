package netns

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/test/lab"
)

// witness is the broker's own view: an ordinary MQTT client that takes every message as the broker has it. Over TLS a record of
// the wire cannot show a payload that was passed on unsealed; here it is seen.
type witness struct {
	needle []byte

	mu       sync.Mutex // guards what follows
	messages int
	bad      []string            // the first payloads that are no envelopes, or hold the needle
	reused   []string            // the first numbers that stand for two messages
	numbers  map[number][32]byte // what each stands for
	streams  map[crypto.Kid]bool
	err      error // why it sees no more
}

// number is what may seal one message only: a key, a stream and a sequence number.
type number struct {
	kid crypto.Kid
	seq uint64
}

// newWitness subscribes at the broker's cleartext port, beside the broker.
func newWitness(t *testing.T, p *lab.Plant, needle string) *witness {
	t.Helper()
	w := &witness{needle: []byte(needle), numbers: map[number][32]byte{}, streams: map[crypto.Kid]bool{}}
	conn, err := p.UplinkNS().Dial(lab.Within(t, 20*time.Second), "tcp", p.DeviceAddr())
	if err != nil {
		t.Fatalf("dial the broker as a witness: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(append(connectPacket("witness"), "\x82\x0c\x00\x01\x00\x07plant/#\x01"...)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	var answers [9]byte // CONNACK and SUBACK
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(in, answers[:]); err != nil || string(answers[:]) != "\x20\x02\x00\x00\x90\x03\x00\x01\x01" {
		t.Fatalf("subscribe as a witness: % x, %v", answers, err)
	}
	conn.SetReadDeadline(time.Time{})
	go func() {
		err := w.read(conn, in)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}()
	return w
}

// read takes in PUBLISH after PUBLISH, and acknowledges.
func (w *witness) read(conn net.Conn, in *bufio.Reader) error {
	for {
		first, err := in.ReadByte()
		if err != nil {
			return err
		}
		n, err := binary.ReadUvarint(in) // MQTT's lengths are written like these
		if err != nil {
			return err
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		if first&0xf0 != 0x30 {
			return fmt.Errorf("the broker sent a packet of type %d", first>>4)
		}
		body = body[2+binary.BigEndian.Uint16(body):]
		if first&6 != 0 {
			if _, err := conn.Write([]byte{0x40, 2, body[0], body[1]}); err != nil {
				return err
			}
			body = body[2:]
		}
		w.see(body)
	}
}

func (w *witness) see(payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages++
	e, err := crypto.ParseEnvelope(payload)
	if err != nil || bytes.Contains(payload, w.needle) {
		if len(w.bad) < 10 {
			w.bad = append(w.bad, fmt.Sprintf("%q (%v)", payload, err))
		}
		return
	}
	w.streams[e.Kid] = true
	at, content := number{e.Kid, e.Seq}, sha256.Sum256(payload)
	if before, used := w.numbers[at]; used && before != content && len(w.reused) < 10 {
		w.reused = append(w.reused, fmt.Sprintf("%v %d", e.Kid, e.Seq))
	}
	w.numbers[at] = content
}

// judge holds what was seen so far against what must never be.
func (w *witness) judge(t *testing.T, least int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.messages < least {
		t.Errorf("the witness saw %d messages of %d that were acknowledged, and proves little: %v", w.messages, least, w.err)
	}
	if len(w.bad) > 0 {
		t.Errorf("the broker was given what is not sealed: %s", w.bad)
	}
	if len(w.reused) > 0 {
		t.Errorf("numbers that stand for two messages (key, stream, number): %s", w.reused)
	}
	t.Logf("the witness saw %d messages, %d numbers of %d streams", w.messages, len(w.numbers), len(w.streams))
}
