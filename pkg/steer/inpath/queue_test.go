package inpath

import "testing"

// The flags are those of linux/netfilter/nfnetlink_queue.h: not ready, joined, not verified.
func TestUnverified(t *testing.T) {
	for flags, want := range map[byte]bool{0: false, 1: false, 2: false, 3: false, 4: true, 5: false, 6: false} {
		if info := []byte{0, 0, 0, flags}; unverified(&info) != want {
			t.Errorf("flags %d: %v", flags, !want)
		}
	}
	if short := []byte{4}; unverified(nil) || unverified(&short) {
		t.Error("no flags say that nobody has verified")
	}
}
