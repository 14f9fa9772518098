package chaos

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sealgate/pkg/control"
	"sealgate/test/embedded"
)

// mustRefuse gives each node a message on a topic and fails unless it is refused because of want: the log says so as a
// warning, the counter of refusals grows, and neither the keys nor the key to seal under nor the policy changes.
func (s *scene) mustRefuse(topic string, msg []byte, want error, nodes ...*node) {
	s.Helper()
	for _, n := range nodes {
		to := topic
		if topic == inbox {
			to = n.inbox()
		}
		before, mark, refusals := n.fingerprint(), n.log.mark(), n.refusals()
		if s.broker.Deliver(embedded.Letter{To: n.name, Topic: to, Payload: msg, QoS: 1}) == 0 {
			s.Fatalf("%s has not subscribed to %s", n.name, to)
		}
		s.await(n.name+" refuses: "+want.Error(), func() bool {
			_, ok := n.log.find(mark, func(e control.Event) bool { return e.Result == control.ResultRefused && errors.Is(e.Err, want) })
			return ok
		})
		if after := n.fingerprint(); after != before {
			s.Errorf("%s: a refused message changed its state from %s to %s", n.name, before, after)
		}
		if n.refusals() <= refusals {
			s.Errorf("%s: the counter of refusals has not grown", n.name)
		}
		if !n.log.said(want.Error()) {
			s.Errorf("%s: no warning in the log says %q", n.name, want)
		}
	}
}

// fingerprint is all that the node's data plane goes by: the policy's version, the keys held and the one to seal under.
func (n *node) fingerprint() string {
	state := n.m.State()
	var b strings.Builder
	if state.Policy != nil {
		fmt.Fprintf(&b, "policy %d", state.Policy.Document.Version)
	}
	for _, name := range state.Keys.Groups() {
		for _, k := range state.Keys.Keys(name) {
			fmt.Fprintf(&b, ", %s %v %v %v", name, k.Epoch, k.ID, k.Send)
		}
	}
	return b.String()
}

// inbox stands for the topic of each member's own inbox.
const inbox = "(inbox)"

func (n *node) inbox() string {
	n.s.Helper()
	topic := ""
	n.s.await(n.name+" has an inbox", func() bool {
		filters := n.s.broker.Filters(n.name)
		i := slices.IndexFunc(filters, func(f string) bool { return strings.HasPrefix(f, prefix+"/inbox/") })
		if i >= 0 {
			topic = filters[i]
		}
		return i >= 0
	})
	return topic
}

// refusals is how many messages the node has refused, of all kinds.
func (n *node) refusals() (sum uint64) {
	for c, count := range n.m.Status().Counters {
		if c.Result == control.ResultRefused {
			sum += count
		}
	}
	return sum
}
