package gateway

import (
	"sync"
	"time"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/topic"
)

// What devices subscribe to decides what a ledger of checkpoints may miss (ledger.go): a message that nobody behind this gateway asked for
// has not been dropped. Subscriptions are read from SUBSCRIBE, SUBACK and UNSUBSCRIBE as they pass, and counted over all
// connected sessions. One that would not bring every message of its topics counts for nothing: a shared one, one with No Local, and one with
// Retain As Published, whose messages look like retained ones.

// Bounds of what is remembered. What finds no room counts for nothing.
const (
	maxGranted     = 32      // of one session
	maxFilterBytes = 1 << 10 // of these together
	maxWildcards   = 1 << 10 // different filters with wildcards, of all sessions
	maxListened    = 1 << 14 // different filters of all sessions
)

// listening is what all connected sessions together are subscribed to.
type listening struct {
	mu      sync.Mutex
	filters map[string]*listened
	wild    map[string]*listened // those of filters that have wildcards
	version uint64               // grows when a filter comes or goes
}

type listened struct {
	sessions int
	since    time.Duration // when the first of them began
}

func (l *listening) add(filter string, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.filters[filter]
	if f == nil {
		wild := hasWildcard(filter)
		if len(l.filters) >= maxListened || wild && len(l.wild) >= maxWildcards {
			return
		}
		if l.filters == nil {
			l.filters, l.wild = make(map[string]*listened), make(map[string]*listened)
		}
		f = &listened{since: now}
		l.filters[filter] = f
		if wild {
			l.wild[filter] = f
		}
		l.version++
	}
	f.sessions++
}

func (l *listening) drop(filter string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.filters[filter]
	if f == nil {
		return
	}
	if f.sessions--; f.sessions == 0 {
		delete(l.filters, filter)
		delete(l.wild, filter)
		l.version++
	}
}

// to reports since when somebody has listened to a topic, by the filter that has stood longest.
func (l *listening) to(name string) (since time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.filters[name]; f != nil {
		since, ok = f.since, true
	}
	for filter, f := range l.wild {
		if (!ok || f.since < since) && topic.Match(filter, name) {
			since, ok = f.since, true
		}
	}
	return since, ok
}

// toAll reports since when somebody has listened to every topic that filters match.
func (l *listening) toAll(filters []string) (since time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, want := range filters {
		var best *listened
		for filter, f := range l.wild {
			if (best == nil || f.since < best.since) && topic.Covers(filter, want) {
				best = f
			}
		}
		if f := l.filters[want]; f != nil && (best == nil || f.since < best.since) {
			best = f
		}
		if best == nil {
			return 0, false
		}
		since = max(since, best.since)
	}
	return since, len(filters) > 0
}

// toAny reports whether somebody listens to a topic that one of filters matches.
func (l *listening) toAny(filters []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for filter := range l.filters {
		for _, want := range filters {
			if topic.Overlap(filter, want) {
				return true
			}
		}
	}
	return false
}

// names calls each for the topics that are listened to by their names, until it returns false.
func (l *listening) names(each func(name string) bool) (version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.filters {
		if _, wild := l.wild[name]; !wild && !each(name) {
			break
		}
	}
	return l.version
}

// at is the version of what is listened to.
func (l *listening) at() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

func hasWildcard(filter string) bool {
	for i := range len(filter) {
		if filter[i] == '+' || filter[i] == '#' {
			return true
		}
	}
	return false
}

// granted reads a SUBACK on its way to the device.
func (c *conn) granted(f mqttparse.Frame) {
	id, codes, err := mqttparse.ParseSubAck(f, c.version)
	if err != nil {
		return
	}
	sess, g := c.sess, c.g
	sess.mu.Lock()
	defer sess.mu.Unlock()
	for filter, x := range sess.subs.m {
		if x.asked != id {
			continue
		}
		x.asked = 0
		switch {
		case x.place >= len(codes) || codes[x.place] >= 0x80:
		case x.whole:
			sess.subs.grant(g, filter, x)
		default:
			sess.subs.revoke(g, filter, x) // it replaces one that counted
		}
	}
}

// grant and revoke change what counts; the caller holds the session's mu, as for all that follows.
func (t *subscriptions) grant(g *Gateway, filter string, x *subscription) {
	if x.granted || t.granted >= maxGranted || t.grantedBytes+len(filter) > maxFilterBytes {
		return
	}
	x.granted = true
	t.granted++
	t.grantedBytes += len(filter)
	if t.live {
		g.listening.add(filter, g.cfg.Now())
	}
}

func (t *subscriptions) revoke(g *Gateway, filter string, x *subscription) {
	if !x.granted {
		return
	}
	x.granted = false
	t.granted--
	t.grantedBytes -= len(filter)
	if t.live {
		g.listening.drop(filter)
	}
}

// begin counts what has been granted from now on; what an earlier connection was granted only if the broker has kept that.
func (t *subscriptions) begin(g *Gateway, present bool) {
	now := g.cfg.Now()
	for filter, x := range t.m {
		if !present {
			t.revoke(g, filter, x)
		} else if x.granted {
			g.listening.add(filter, now)
		}
	}
	t.live = true
}

// end counts it no longer, and waits for no answer.
func (t *subscriptions) end(g *Gateway) {
	for filter, x := range t.m {
		if x.asked = 0; t.live && x.granted {
			g.listening.drop(filter)
		}
	}
	t.live = false
}

// listens begins to count what a session is subscribed to: the broker has accepted its connection, and says whether it has
// kept the subscriptions of the one before.
func (d *downPath) listens(present bool) {
	c := d.c
	d.ear = &ear{since: c.g.cfg.Now()}
	c.sess.mu.Lock()
	defer c.sess.mu.Unlock()
	c.sess.subs.begin(c.g, present)
}

// deafens ends that, with the connection.
func (c *conn) deafens() {
	if c.sess == nil {
		return
	}
	if c.down != nil && c.down.ear != nil {
		c.down.ear.over.Store(true)
	}
	c.sess.mu.Lock()
	defer c.sess.mu.Unlock()
	c.sess.subs.end(c.g)
}
