package control

import "time"

// A member subscribes to its topics again from time to time (spec 6.6). The broker answers with the copy
// that it retains, which is what a member needs that was connected while the broker could not show it: a cluster
// that has just lost a node grants subscriptions before it finds its retained messages again, and some brokers lose a
// subscription when they move it. It costs no other member anything.

// refreshState is when this session's subscriptions are made again.
type refreshState struct {
	at   time.Duration
	wait time.Duration // until the next, about
}

// startRefresh plans the first time of a session.
func (m *Machine) startRefresh() {
	m.refresh.wait = RefreshMin
	m.planRefresh()
}

func (m *Machine) planRefresh() {
	r := &m.refresh
	r.at = m.now.Mono + r.wait/2 + m.jitter(r.wait/2)
}

// runRefresh subscribes again when it is time, soon after the beginning of a session and then more and more rarely.
func (m *Machine) runRefresh() {
	r := &m.refresh
	if r.at > m.now.Mono {
		return
	}
	m.out.Subscribe = append(m.out.Subscribe, m.topics()...)
	r.wait = min(2*r.wait, RefreshMax)
	m.planRefresh()
}

// topics are what this member is subscribed to.
func (m *Machine) topics() []string {
	all := []string{PolicyTopic(m.cfg.Prefix)}
	for _, g := range m.ordered() {
		if g.subscribed {
			all = append(all, KeysTopic(m.cfg.Prefix, g.name))
		}
		if g.checkpoint.heard {
			all = append(all, CheckpointTopic(m.cfg.Prefix, g.name, "+"))
		}
	}
	if m.keepsAny() {
		all = append(all, ControlTopic(m.cfg.Prefix))
	}
	return append(all, InboxTopic(m.cfg.Prefix, m.inbox))
}
