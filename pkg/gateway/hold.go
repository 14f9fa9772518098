package gateway

import (
	"sync"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// negativeTime is how long a key that did not come is not waited for again.
const negativeTime = 30 * time.Second

// maxAsked bounds the key ids remembered as asked for. A broker can invent any number.
const maxAsked = 256

type askedKey struct {
	group string
	id    crypto.KeyID
}

// askedKeys remembers which unknown keys were reported, so that one message a key and half
// minute asks, whatever the number of connections that receive it (F16).
type askedKeys struct {
	mu sync.Mutex // guards m
	m  map[askedKey]time.Time
}

// first reports whether nobody asked for k in the last half minute.
func (a *askedKeys) first(k askedKey, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.m[k]; ok && now.Sub(t) < negativeTime {
		return false
	}
	if a.m == nil {
		a.m = make(map[askedKey]time.Time)
	}
	for old, t := range a.m {
		if len(a.m) < maxAsked && now.Sub(t) < negativeTime {
			break
		}
		delete(a.m, old)
	}
	a.m[k] = now
	return true
}

// holder bounds how long one connection waits for unknown keys: Config.hold in any half minute,
// however many key ids the broker invents.
type holder struct {
	since time.Time     // begin of this half minute
	spent time.Duration // of it
	known map[askedKey]time.Time
}

// budget is how long to wait for k at now, hold being what half a minute allows: 0 for one that did not come before.
func (h *holder) budget(k askedKey, now time.Time, hold time.Duration) time.Duration {
	if now.Sub(h.since) >= negativeTime {
		h.since, h.spent, h.known = now, 0, nil
	}
	if _, tried := h.known[k]; tried || len(h.known) >= maxAsked {
		return 0
	}
	return max(hold-h.spent, 0)
}

// waited notes what a wait took, and that k did not come.
func (h *holder) waited(k askedKey, took time.Duration, came bool) {
	h.spent += took
	if came {
		return
	}
	if h.known == nil {
		h.known = make(map[askedKey]time.Time)
	}
	h.known[k] = time.Time{}
}

// holdFor asks for an unknown key and holds the message, and so what follows it, until
// the key has come or two seconds are over. The State may change meanwhile, and the
// topic's group with it.
func (d *downPath) holdFor(p *mqttparse.Publish, dec *policy.Decision, env *crypto.Envelope) (*crypto.Key, string, error) {
	k := askedKey{dec.Group, env.Kid.KeyID()} // of a hidden topic no group is known yet
	start := time.Now()
	d.askFor(*dec, k.id, start)
	left := d.hold.budget(k, start, d.c.g.cfg.hold)
	if left == 0 {
		return nil, "", nil
	}
	if err := d.flush(); err != nil { // what came before is not held
		return nil, "", err
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	for {
		select {
		case <-d.box.replaced:
			if err := d.refresh(); err != nil {
				return nil, "", err
			}
			if *dec = d.decide(p.Topic); dec.Verdict != policy.Seal {
				return nil, "", nil
			}
			if key, group := d.find(*dec, p.Topic, env); key != nil {
				d.hold.waited(k, time.Since(start), true)
				return key, group, nil
			}
		case <-timer.C:
			d.hold.waited(k, time.Since(start), false)
			return nil, "", nil
		case <-d.c.g.ctx.Done():
			return nil, "", errStopped
		}
	}
}
