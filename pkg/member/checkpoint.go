package member

import (
	"context"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/session"
)

// farewellTime bounds how long Close waits for the broker to take the last checkpoints.
const farewellTime = 2 * time.Second

// ReportStreams tells the machine what this member's data plane has sealed since it last said, also if that is
// nothing: from the first call on the member publishes checkpoints.
func (m *Member) ReportStreams(heads []control.StreamHead) {
	m.ask(m.ctx, func(now control.Time) { m.machine.Checkpoint(now, heads) })
}

// WantCheckpoints names the groups whose checkpoints Config.Checkpoints is to get, in place of those named before.
func (m *Member) WantCheckpoints(groups []string) {
	m.ask(m.ctx, func(now control.Time) { m.machine.WantCheckpoints(now, groups) })
}

// farewell publishes the last checkpoints of a member that ends in good order, so that nobody misses it.
func (m *Member) farewell() {
	if m.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, farewellTime)
	defer cancel()
	var last []*session.Delivery
	m.ask(ctx, func(now control.Time) {
		m.machine.EndCheckpoints(now)
		out := m.machine.Take()
		if m.link == nil {
			return
		}
		for _, p := range out.Publish {
			last = append(last, m.link.conn.Publish(p.Topic, p.Payload, p.QoS, p.Retain))
		}
	})
	for _, d := range last {
		_ = d.Wait(ctx) // without it the member counts as silenced; there is nobody left to do better
	}
}
