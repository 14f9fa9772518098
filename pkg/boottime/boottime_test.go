package boottime

import "testing"

func TestNowGrows(t *testing.T) {
	first := Now()
	if first <= 0 {
		t.Fatalf("%v since boot", first)
	}
	for Now() == first {
	}
	if second := Now(); second < first {
		t.Errorf("%v after %v", second, first)
	}
}
