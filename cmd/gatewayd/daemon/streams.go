package daemon

import (
	"context"
	"time"

	"sealgate/pkg/keylink"
)

// How often controld is told what has been sealed: ten times in a checkpoint interval, so that a checkpoint tells of
// messages that are not much older than the one before it.
const (
	tellsAnInterval = 10
	tellAtLeast     = 250 * time.Millisecond
	tellAtMost      = 5 * time.Second
	lastWords       = time.Second // for the report after the last connection has ended
)

// tellEvery is the pause between two reports of streams.
func (k *keyState) tellEvery() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	every := tellsAnInterval * tellAtMost
	if k.document != nil {
		for i := range k.document.Groups {
			every = min(every, k.document.Groups[i].Checkpoint)
		}
	}
	return max(every/tellsAnInterval, tellAtLeast)
}

// tellStreams tells controld what has been sealed, also if that is nothing, until ctx ends.
func (d *daemon) tellStreams(ctx context.Context) {
	timer := time.NewTimer(tellAtLeast)
	defer timer.Stop()
	var listening []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		listening = d.tellListening(listening)
		d.tell(ctx)
		timer.Reset(d.keys.tellEvery())
	}
}

// tell tells controld the heads of streams, in as many reports as it takes. What could not be written stays for the next time.
func (d *daemon) tell(ctx context.Context) {
	d.untoldMu.Lock()
	defer d.untoldMu.Unlock()
	for {
		if d.untold == nil {
			for _, h := range d.gateway.Heads(keylink.MaxStreams) {
				d.untold = append(d.untold, keylink.Stream(h))
			}
		}
		if d.link.ReportStreams(ctx, d.untold) != nil {
			return
		}
		full := len(d.untold) == keylink.MaxStreams
		if d.untold = nil; !full {
			return
		}
	}
}

// tellLast tells what the last connections have sent.
func (d *daemon) tellLast() {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	d.tell(ctx)
}
