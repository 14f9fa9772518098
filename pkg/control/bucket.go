package control

import "time"

// bucket is a token bucket: a rate with a burst.
type bucket struct {
	rate, burst float64 // tokens a second, tokens at most
	tokens      float64
	at          time.Duration
}

func newBucket(rate, burst int) bucket {
	return bucket{rate: float64(rate), burst: float64(burst), tokens: float64(burst)}
}

func (b *bucket) fill(now time.Duration) {
	if now > b.at {
		b.tokens = min(b.burst, b.tokens+b.rate*(now-b.at).Seconds())
		b.at = now
	}
}

// take uses one token, if there is one.
func (b *bucket) take(now time.Duration) bool {
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// ready is when the next token will be there: a little late rather than early, so that a
// timer set for it always finds it.
func (b *bucket) ready(now time.Duration) time.Duration {
	b.fill(now)
	if b.tokens >= 1 {
		return now
	}
	return now + time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Microsecond
}
