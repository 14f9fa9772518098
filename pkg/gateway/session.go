package gateway

import (
	"crypto/sha256"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"sealgate/pkg/crypto"
)

// session is what outlives a connection: the streams of one client id at one broker, and
// the records of messages in flight. It belongs to one connection at a time.
type session struct {
	key sessionKey

	owner  *conn         // the connection that has it; set by take
	wanted atomic.Bool   // another connection waits for it
	left   chan struct{} // closed when the connection has given it back; made anew by take

	seals sealStreams // owned by the direction device -> broker
	opens openStreams // owned by the direction broker -> device

	// What crosses the directions. No lock of it is shared between connections, and QoS 0
	// messages do not take it.
	mu       sync.Mutex          // guards sent, due, accepted and subs
	sent     idTable[sentRecord] // device's QoS 1 and 2 messages that the broker has not acknowledged
	due      idTable[dueRecord]  // broker's QoS 1 and 2 messages that the device has not acknowledged
	accepted []acceptance        // what the device acknowledged and the windows do not know yet
	subs     subscriptions       // of the device
	hasDue   atomic.Bool         // due is not empty
	hasAcks  atomic.Bool         // accepted is not empty
}

// sentRecord makes the re-sent message the same bytes as the first time (F1).
type sentRecord struct {
	stream *sealStream
	record crypto.Resend
	old    bool // of a connection before this one
}

// dueRecord is a message that was forwarded, or refused, and whose handshake is not over.
type dueRecord struct {
	stream  *openStream // nil: refused; we answer the broker ourselves
	seq     uint64
	tag     uint32
	counted bool // QoS 2: the device has it (PUBREC); only PUBCOMP is missing
	asks    bool // refused, and yet PUBREL is for the device, which may have the message from elsewhere
}

type acceptance struct {
	stream *openStream
	seq    uint64
}

const (
	sentSize = int(unsafe.Sizeof(idSlot[sentRecord]{}))
	dueSize  = int(unsafe.Sizeof(idSlot[dueRecord]{}))
)

// forget drops the subscriptions and the records of all messages in flight.
func (s *session) forget(g *Gateway) {
	b := &g.memory
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs.clear(g, false)
	s.sent.clear(b)
	s.due.clear(b)
	s.hasDue.Store(false)
}

// lost drops what is remembered of earlier connections: the broker has no session for the
// client. What this connection has sent already stays.
func (s *session) lost(g *Gateway) {
	b := &g.memory
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent.keep(func(r *sentRecord) bool { return !r.old })
	if s.sent.n == 0 {
		s.sent.clear(b)
	}
	s.subs.clear(g, true)
	s.due.clear(b) // nothing has come on this connection before CONNACK
	s.hasDue.Store(false)
}

// resumed reports whether there are records of an earlier connection.
func (s *session) resumed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sent.slots {
		if s.sent.slots[i].id != 0 && s.sent.slots[i].v.old {
			return true
		}
	}
	return false
}

// settle makes the session ready to wait for its client's next connection.
func (s *session) settle(b *budget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sent.slots {
		s.sent.slots[i].v.old = true
	}
	s.subs.settle()
	for i := range s.due.slots {
		s.due.slots[i].v.asks = s.due.slots[i].v.stream == nil // meanwhile the device may get the message by another way
	}
	if s.sent.n == 0 {
		s.sent.clear(b)
	}
	if s.due.n == 0 {
		s.due.clear(b)
	}
}

// sessionKey names a client: the same id at two brokers is two clients.
type sessionKey struct {
	broker netip.AddrPort // that the device dialled
	client string         // of a long id the beginning
	digest [32]byte       // of a long id
}

// newSessionKey keeps no more of a client id than it must: a device may send 64 KiB.
func newSessionKey(broker netip.AddrPort, client []byte) sessionKey {
	const enough = 64
	if len(client) <= enough {
		return sessionKey{broker: broker, client: string(client)}
	}
	return sessionKey{broker: broker, client: string(client[:enough]), digest: sha256.Sum256(client)}
}

// sessionStore keeps sessions between connections. A session is owned by exactly one
// connection. A second one with the same client id (a takeover, which only the broker can
// judge) waits for it a moment, then gets a fresh session, which replaces the first when
// the broker has accepted the connection. Idle sessions are dropped oldest first.
type sessionStore struct {
	g  *Gateway
	mu sync.Mutex // guards what follows
	m  map[sessionKey]*storedSession

	unused byUse[storedSession, *storedSession] // the idle ones
	idle   int                                  // how many
}

type storedSession struct {
	session *session
	owned   bool

	links[storedSession] // of the idle ones
}

func (e *storedSession) list() *links[storedSession] { return &e.links }

func (t *sessionStore) init(g *Gateway) {
	t.g, t.m = g, make(map[sessionKey]*storedSession)
}

// take gives a connection the session of its client: the stored one if it is idle, else a
// new one. A client without an id always gets a new one that is not stored. While another
// connection owns the session, take gives that one and a channel to wait on instead, unless the
// caller has waited: then its new session is not stored before claim.
func (t *sessionStore) take(key sessionKey, c *conn, waited bool) (s *session, owner *conn, left <-chan struct{}) {
	fresh := &session{key: key, owner: c, left: make(chan struct{})}
	if key.client == "" {
		return fresh, nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[key]
	switch {
	case e == nil:
		t.m[key] = &storedSession{session: fresh, owned: true}
		return fresh, nil, nil
	case e.owned && waited:
		return fresh, nil, nil
	case e.owned:
		e.session.wanted.Store(true)
		return nil, e.session.owner, e.session.left
	}
	t.unlink(e)
	e.owned, e.session.owner, e.session.left = true, c, fresh.left
	e.session.wanted.Store(false)
	return e.session, nil, nil
}

// claim makes s the stored session of its client: the broker has accepted its connection.
func (t *sessionStore) claim(s *session) {
	if s.key.client == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[s.key]
	if e != nil && e.session == s {
		return
	}
	if e != nil && !e.owned {
		t.unlink(e)
		t.discard(e.session)
	}
	t.m[s.key] = &storedSession{session: s, owned: true}
}

// adopt gives a session that has no client id the one that the broker has assigned to its client, under which the
// client may come back. It reports false, and the session stays without one, if there is a session of
// that id already: a broker must not be able to replace another client's, with its replay windows.
func (t *sessionStore) adopt(s *session, key sessionKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.key.client != "" || key.client == "" || t.m[key] != nil {
		return false
	}
	s.key = key
	t.m[key] = &storedSession{session: s, owned: true}
	return true
}

// put gives a session back when its connection has ended. One that was taken over is dropped.
func (t *sessionStore) put(s *session) {
	s.settle(&t.g.memory)
	t.mu.Lock()
	defer t.mu.Unlock()
	close(s.left)
	e := t.m[s.key]
	switch {
	case e == nil || e.session != s:
		t.discard(s)
		return
	case s.seals.n == 0 && s.opens.n == 0 && len(s.opens.floors) == 0 && s.sent.n == 0 && s.due.n == 0 && !s.subs.matter():
		delete(t.m, s.key)
		t.discard(s)
		return
	}
	e.owned = false
	t.unused.link(e)
	if t.idle++; t.idle > t.g.maxConnections() {
		t.dropOldest()
	}
}

// shed drops the oldest idle session to make room for streams and reports whether there was one.
func (t *sessionStore) shed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle == 0 {
		return false
	}
	t.dropOldest()
	return true
}

func (t *sessionStore) dropOldest() {
	e := t.unused.oldest
	t.unlink(e)
	delete(t.m, e.session.key)
	t.discard(e.session)
}

func (t *sessionStore) unlink(e *storedSession) {
	t.unused.unlink(e)
	t.idle--
}

// discard gives back what a session was charged for.
func (t *sessionStore) discard(s *session) {
	s.forget(t.g)
	for e := s.seals.newest; e != nil; e = e.next {
		t.g.heads.end(e)
	}
	t.g.streams.Add(-int64(s.seals.n + s.opens.n))
	t.g.memory.give(s.seals.bytes + s.opens.bytes + len(s.opens.floors)*floorCost)
}

// len is the number of idle sessions.
func (t *sessionStore) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.idle
}
