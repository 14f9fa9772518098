package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"sealgate/test/lab"
)

// load is a set of connections that keep a window of QoS 1 messages full. The packets are made once; a message costs the
// generator a copy and two bytes of packet identifier.
type load struct {
	conns    []net.Conn
	count    atomic.Int64
	stopping atomic.Bool
	group    sync.WaitGroup
	mu       sync.Mutex
	failure  error
}

const ioTimeout = 20 * time.Second

// connect opens a connection from a namespace, nil for the process's own, and speaks MQTT until CONNACK.
func connect(ns *lab.Namespace, addr, clientID string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	conn, err := ns.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn, introduce(conn, clientID)
}

// introduce speaks MQTT until CONNACK, and closes the connection where it does not come.
func introduce(conn net.Conn, clientID string) error {
	conn.SetDeadline(time.Now().Add(ioTimeout))
	packet := append([]byte{0x10, byte(12 + len(clientID))}, "\x00\x04MQTT\x04\x02\x00\x00"...)
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(clientID)))
	packet = append(packet, clientID...)
	if _, err := conn.Write(packet); err != nil {
		conn.Close()
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil || ack != [4]byte{0x20, 2, 0, 0} {
		conn.Close()
		return fmt.Errorf("CONNACK % x, %w", ack, err)
	}
	conn.SetDeadline(time.Time{})
	return nil
}

// publish makes a QoS 1 PUBLISH and says where its packet identifier is.
func publish(topic string, size int) (packet []byte, idAt int) {
	remaining := 2 + len(topic) + 2 + size
	packet = []byte{0x32}
	for n := remaining; ; {
		b := byte(n & 127)
		if n >>= 7; n > 0 {
			packet = append(packet, b|128)
			continue
		}
		packet = append(packet, b)
		break
	}
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(topic)))
	packet = append(packet, topic...)
	idAt = len(packet)
	packet = append(packet, 0, 0)
	for i := range size {
		packet = append(packet, byte('a'+i%26))
	}
	return packet, idAt
}

func startLoad(c contender, w workload, size int) (*load, error) {
	l := &load{}
	for i := range w.connections {
		conn, err := connect(c.ns, c.addr, fmt.Sprintf("bench%d", i))
		if err != nil {
			l.stop()
			return nil, err
		}
		l.conns = append(l.conns, conn)
	}
	for i, conn := range l.conns {
		l.group.Go(func() {
			if err := l.run(conn, fmt.Sprintf("bench/%d/value", i), w, size); !l.stopping.Load() {
				l.mu.Lock()
				l.failure = errors.Join(l.failure, err)
				l.mu.Unlock()
			}
		})
	}
	return l, nil
}

// run keeps one connection's window full until it breaks: as many messages go out as acknowledgements one read brought.
func (l *load) run(conn net.Conn, topic string, w workload, size int) error {
	packet, idAt := publish(topic, size)
	out := make([]byte, 0, w.inFlight*len(packet))
	in := make([]byte, 4*w.inFlight)
	var id uint16
	send := func(n int) error {
		out = out[:0]
		for range n {
			if id++; id == 0 {
				id = 1
			}
			binary.BigEndian.PutUint16(packet[idAt:], id)
			out = append(out, packet...)
			if w.together {
				continue
			}
			if _, err := conn.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if !w.together {
			return nil
		}
		_, err := conn.Write(out)
		return err
	}
	if err := send(w.inFlight); err != nil {
		return err
	}
	have := 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return err
		}
		have += n
		acks := have / 4
		for i := range acks {
			if in[4*i] != 0x40 {
				return fmt.Errorf("% x in place of PUBACK", in[4*i:4*i+4])
			}
		}
		have = copy(in, in[4*acks:have])
		l.count.Add(int64(acks))
		if acks > 0 {
			if err := send(acks); err != nil {
				return err
			}
		}
	}
}

func (l *load) acked() int64 { return l.count.Load() }

func (l *load) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

func (l *load) stop() {
	l.stopping.Store(true)
	for _, c := range l.conns {
		c.Close()
	}
	l.group.Wait()
}

// idle is a set of connections that do nothing after CONNACK.
type idle []net.Conn

// openIdle opens n connections; batch keeps their client identifiers apart from other batches'.
func openIdle(addr string, batch, n int) (idle, error) {
	var conns idle
	for i := range n {
		conn, err := connect(nil, addr, fmt.Sprintf("idle%d.%d", batch, i))
		if err != nil {
			conns.close()
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func (i idle) close() {
	for _, c := range i {
		c.Close()
	}
}
