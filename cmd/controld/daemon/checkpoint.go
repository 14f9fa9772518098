package daemon

import (
	"slices"
	"sync"

	"sealgate/pkg/control"
)

// wants are the groups of whose checkpoints gatewayd wants to know.
type wants struct {
	mu     sync.Mutex
	groups []string // guarded by mu
}

// wantCheckpoints has the member subscribe to the checkpoints of these groups and of no others.
func (d *daemon) wantCheckpoints(groups []string) {
	d.wants.mu.Lock()
	defer d.wants.mu.Unlock()
	if !slices.Equal(groups, d.wants.groups) {
		d.wants.groups = slices.Clone(groups)
		d.member.WantCheckpoints(groups)
	}
}

// passCheckpoints gives gatewayd what was verified.
func (d *daemon) passCheckpoints(list []control.ReceivedCheckpoint) {
	for _, c := range list {
		d.server.Checkpoint(c.From.Name, c.Message.Marshal())
	}
}
