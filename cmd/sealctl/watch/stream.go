package watch

import (
	"slices"
	"time"

	"sealgate/pkg/crypto"
)

// Bounds and times of what is remembered of streams.
const (
	maxSpans   = 64               // ranges of missing numbers of one stream, and of burned ones
	hold       = 10 * time.Minute // what is missing, and what was alarming, counts as news so long
	streamLife = 15 * time.Minute // a stream that nothing is said of is forgotten
	activeTime = time.Minute      // a stream named by a checkpoint within it, or two intervals, is active
)

type streamKey struct {
	group string
	kid   crypto.Kid
}

// stream is what is known of one stream that a checkpoint has named, or of which something is missing.
type stream struct {
	gateway string        // who claims it; "": nobody yet
	named   time.Duration // when a checkpoint last told of new numbers
	touched time.Duration
	final   bool
	missing []span
	burned  []span
	total   uint64 // numbers that were ever missing
}

// span is the numbers from..to, both included.
type span struct {
	from, to uint64
	at       time.Duration
	dropped  bool // a checkpoint has shown it, not a later message
}

func (s span) size() uint64 { return s.to - s.from + 1 }

// cut takes the numbers from..to out of spans, and returns how many that were.
func cut(spans []span, from, to uint64) (out []span, n uint64) {
	for _, s := range spans {
		if s.to < from || s.from > to {
			out = append(out, s)
			continue
		}
		n += min(s.to, to) - max(s.from, from) + 1
		if s.from < from {
			out = append(out, span{s.from, from - 1, s.at, s.dropped})
		}
		if s.to > to {
			out = append(out, span{to + 1, s.to, s.at, s.dropped})
		}
	}
	return out, n
}

// miss notes that the numbers from..to have not arrived.
func (s *stream) miss(from, to uint64, dropped bool, now time.Duration) {
	if to < from {
		return
	}
	fresh := []span{{from, to, now, dropped}}
	for _, known := range [][]span{s.missing, s.burned} {
		for _, k := range known {
			fresh, _ = cut(fresh, k.from, k.to)
		}
	}
	for _, n := range fresh {
		s.total += n.size()
	}
	s.missing = bounded(append(s.missing, fresh...))
}

// found notes that the numbers from..to have arrived after all.
func (s *stream) found(from, to uint64) { s.missing, _ = cut(s.missing, from, to) }

// unsent notes that the numbers from..to were never sent.
func (s *stream) unsent(from, to uint64) {
	var n uint64
	s.missing, n = cut(s.missing, from, to)
	s.total -= n
	s.burned = bounded(append(s.burned, span{from: from, to: to}))
}

func bounded(spans []span) []span {
	if n := len(spans) - maxSpans; n > 0 {
		return slices.Delete(spans, 0, n)
	}
	return spans
}

// stream finds or makes a stream; nil: there is no room for more.
func (f *Fleet) stream(k streamKey) *stream {
	s := f.streams[k]
	if s == nil {
		if len(f.streams) >= maxStreams {
			f.raise(AlarmCrowded, k.group, "", "more streams than this watch keeps in mind")
			return nil
		}
		s = new(stream)
		f.streams[k] = s
	}
	s.touched = f.now.Mono
	return s
}

// prune forgets old streams, and what is no longer news of the others.
func (f *Fleet) prune() {
	now := f.now.Mono
	for k, s := range f.streams {
		if len(s.missing) > 0 {
			s.missing = slices.DeleteFunc(s.missing, func(m span) bool { return now-m.at >= hold })
		}
		g := f.groups[k.group]
		if g != nil && now-s.touched < streamLife {
			continue
		}
		if g != nil && s.total > 0 {
			w := g.gateways[s.gateway]
			if w == nil {
				w = &gateway{perMinute: -1}
				g.gateways[s.gateway] = w
			}
			w.total += s.total
		}
		delete(f.streams, k)
	}
}
