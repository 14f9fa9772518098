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
	maxGranted     = 32      // of one session, and of one SUBSCRIBE
	maxFilterBytes = 1 << 10 // of these together
	maxPendingSubs = 4       // SUBSCRIBE packets of one session without answer
	maxWildcards   = 1 << 10 // different filters with wildcards, of all sessions
	maxListened    = 1 << 14 // different filters of all sessions
)

// answeredSubs are those of one session that the broker has granted, as far as they are known: the broker may have kept it from before this
// process began. Its lock is taken for the packets named above and where connections begin and end.
type answeredSubs struct {
	mu      sync.Mutex
	live    bool                // its filters are counted in Gateway.listening
	granted map[string]struct{} // of those that count
	bytes   int                 // of granted
	asked   []askedFilters
}

// askedFilters is a SUBSCRIBE that the broker has not answered.
type askedFilters struct {
	id      uint16
	filters []askedFilter
}

type askedFilter struct {
	name   string
	counts bool
}

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

// subscribes reads a SUBSCRIBE on its way to the broker.
func (u *upPath) subscribes(f mqttparse.Frame) {
	s := &u.c.sess.answered
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) >= maxPendingSubs {
		return
	}
	it := mqttparse.Filters(f, u.c.version)
	a := askedFilters{id: it.PacketID()}
	for bytes := 0; it.Next(); {
		name := string(it.Filter())
		if bytes += len(name); len(a.filters) >= maxGranted || bytes > maxFilterBytes {
			break
		}
		_, _, shared := topic.ShareFilter(name)
		partial := u.c.version == mqttparse.V5 && it.Options()&(mqttparse.NoLocal|mqttparse.RetainAsPublished) != 0
		a.filters = append(a.filters, askedFilter{name, !shared && !partial && topic.ValidateFilter(name) == nil})
	}
	s.asked = append(s.asked, a)
}

// granted reads a SUBACK on its way to the device.
func (d *downPath) granted(f mqttparse.Frame) {
	id, codes, err := mqttparse.ParseSubAck(f, d.c.version)
	if err != nil {
		return
	}
	s, g := &d.c.sess.answered, d.c.g
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.asked {
		if a.id != id {
			continue
		}
		s.asked = append(s.asked[:i], s.asked[i+1:]...)
		for k, filter := range a.filters {
			switch {
			case k >= len(codes) || codes[k] >= 0x80:
			case filter.counts:
				s.grant(g, filter.name)
			default:
				s.revoke(g, filter.name) // it replaces one that counted
			}
		}
		return
	}
}

// unsubscribes reads an UNSUBSCRIBE on its way to the broker: from now on nothing need come.
func (u *upPath) unsubscribes(f mqttparse.Frame) {
	s, g := &u.c.sess.answered, u.c.g
	s.mu.Lock()
	defer s.mu.Unlock()
	for it := mqttparse.Filters(f, u.c.version); it.Next(); {
		s.revoke(g, string(it.Filter()))
	}
}

// grant and revoke change what is subscribed to; the caller holds mu.
func (s *answeredSubs) grant(g *Gateway, filter string) {
	if _, known := s.granted[filter]; known || len(s.granted) >= maxGranted || s.bytes+len(filter) > maxFilterBytes {
		return
	}
	if s.granted == nil {
		s.granted = make(map[string]struct{})
	}
	s.granted[filter] = struct{}{}
	s.bytes += len(filter)
	if s.live {
		g.listening.add(filter, g.cfg.Now())
	}
}

func (s *answeredSubs) revoke(g *Gateway, filter string) {
	if _, known := s.granted[filter]; !known {
		return
	}
	delete(s.granted, filter)
	s.bytes -= len(filter)
	if s.live {
		g.listening.drop(filter)
	}
}

// listens begins to count what a session is subscribed to: the broker has accepted its connection, and says whether it has
// kept the subscriptions of the one before.
func (d *downPath) listens(present bool) {
	c := d.c
	now := c.g.cfg.Now()
	d.ear = &ear{since: now}
	s := &c.sess.answered
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(c.g)
	if !present {
		s.granted, s.bytes = nil, 0
	}
	s.live = true
	for filter := range s.granted {
		c.g.listening.add(filter, now)
	}
}

// deafens ends that, with the connection.
func (c *conn) deafens() {
	if c.sess == nil || c.down == nil || c.down.ear == nil {
		return
	}
	c.down.ear.over.Store(true)
	s := &c.sess.answered
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(c.g)
}

// end counts the filters no longer; the caller holds mu.
func (s *answeredSubs) end(g *Gateway) {
	s.asked = nil
	if !s.live {
		return
	}
	s.live = false
	for filter := range s.granted {
		g.listening.drop(filter)
	}
}
