package member

import (
	"testing"
	"time"
)

// delivery is a publication that is acknowledged when the test says so.
type delivery struct{ acked bool }

func (d *delivery) Pending() bool { return !d.acked }

func TestBrokerThatAcknowledgesNothing(t *testing.T) {
	var u unacked
	now := time.Now()
	if u.overdue(now) {
		t.Error("nothing was published")
	}
	first, second := new(delivery), new(delivery)
	u.add(first, now)
	u.add(second, now.Add(ackWait/2))
	if u.overdue(now.Add(ackWait)) {
		t.Error("the broker still has time")
	}
	if !u.overdue(now.Add(ackWait + 1)) {
		t.Error("the first is overdue")
	}
	first.acked = true
	if u.overdue(now.Add(ackWait+1)) || len(u.waiting) != 1 {
		t.Errorf("the first was acknowledged; %d are remembered, want 1", len(u.waiting))
	}
	second.acked = true
	if u.overdue(now.Add(10*ackWait)) || len(u.waiting) != 0 {
		t.Errorf("all were acknowledged; %d are remembered", len(u.waiting))
	}
}
