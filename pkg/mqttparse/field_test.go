package mqttparse

import (
	"math/rand/v2"
	"testing"
)

// One odd byte at every place of strings of every length around the word size.
func TestPlainAtEveryPlace(t *testing.T) {
	for n := range 34 {
		b := make([]byte, n)
		for at := range n {
			for c := range 256 {
				for i := range b {
					b[i] = 'a' + byte(i%26)
				}
				b[at] = byte(c)
				want := c != 0 && c != '+' && c != '#' && c < 0x80
				if got := plain(b); got != want {
					t.Fatalf("plain(%q) = %v", b, got)
				}
			}
		}
	}
}

// Neighbours of the searched bytes side by side must not be mistaken for them.
func TestPlainAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	near := []byte{1, 2, '+' - 1, '+' + 1, '#' - 1, '#' + 1, 0x7f, '*', ',', '"', '$', 0, '+', '#', 0x80, 0xff}
	for range 100_000 {
		b := make([]byte, rng.IntN(20))
		want := true
		odd := rng.IntN(3) == 0
		for i := range b {
			c := near[rng.IntN(11)]
			if odd && rng.IntN(8) == 0 {
				c = near[rng.IntN(len(near))]
			}
			b[i] = c
			want = want && c != 0 && c != '+' && c != '#' && c < 0x80
		}
		if got := plain(b); got != want {
			t.Fatalf("plain(%x) = %v", b, got)
		}
	}
}
