package daemon

import (
	"slices"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/keylink"
)

// connected notes that controld has come or gone. Without it nobody hears checkpoints.
func (d *daemon) connected(yes bool) {
	d.keys.setConnected(yes)
	if !yes {
		d.gateway.Hear(false)
	}
}

// checkpointArrived holds a checkpoint, which controld has verified, against what has arrived.
func (d *daemon) checkpointArrived(from string, b []byte) {
	m, err := checkpoint.Parse(b)
	if err != nil {
		d.log.Warn("keylink: controld passed on what is no checkpoint: run gatewayd and controld of one release", "from", from, "error", err)
		return
	}
	d.gateway.Checkpoint(from, m)
}

// report is what controld is told about this gateway.
func (d *daemon) report() keylink.Report {
	r := d.keys.report(d.gateway.Ready())
	r.Listens = d.gateway.Listening()
	if len(r.Listens) > keylink.MaxGroups {
		r.Listens = r.Listens[:keylink.MaxGroups]
	}
	return r
}

// tellListening tells controld whose checkpoints are wanted, where that has changed since told; it returns what it is.
func (d *daemon) tellListening(told []string) []string {
	r := d.report()
	if !slices.Equal(r.Listens, told) {
		d.link.Report(r)
	}
	return r.Listens
}
