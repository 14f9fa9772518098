package member

import (
	"testing"
	"time"
)

func TestWarningsAreRationed(t *testing.T) {
	var r ration
	logged := 0
	for range 1000 {
		if ok, _ := r.take(time.Hour); ok {
			logged++
		}
	}
	if logged != warningBurst {
		t.Errorf("%d warnings at once were logged, want %d", logged, warningBurst)
	}
	ok, left := r.take(time.Hour + warningEvery)
	if !ok || left != 1000-warningBurst {
		t.Errorf("after a while: logged %t, %d left out; want %d", ok, left, 1000-warningBurst)
	}
	if ok, _ := r.take(time.Hour + warningEvery); ok {
		t.Error("a second one was logged at once")
	}
}
