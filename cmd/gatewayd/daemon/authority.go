package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"sealgate/pkg/boottime"
	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/keylink"
)

// The freshness limit at the data plane (docs/spec/keylink.md section 6). controld renews the authority to seal
// whenever a keeper has confirmed it. Without controld it is not renewed, and ends when it would have ended
// there: a controld that was killed gains nobody a gateway that seals for ever under keys that were revoked long ago.

// watchEvery is how often the limits are looked at, at least: Go's timers stop while a machine sleeps, its boot
// clock does not.
const watchEvery = time.Second

// authority is how long the keys of a group may seal.
type authority struct {
	keylink.Authority
	warned bool // an operator was told that it is running out
	lapsed bool // and that it has
	in     bool // the pipeline seals by it
}

// left is how long sealing may go on. Nobody's authority, nil, is none.
func (a *authority) left(now time.Duration) time.Duration {
	if a == nil {
		return 0
	}
	return max(a.Lapse-now, 0)
}

// renew takes over what controld says without a new policy or keys.
func (k *keyState) renew(said map[string]keylink.Authority) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.refused {
		k.authorize(said)
	}
}

// authorize takes over what controld says. The caller holds mu.
func (k *keyState) authorize(said map[string]keylink.Authority) {
	for group, next := range said {
		if a := k.authority[group]; a != nil {
			a.Authority = next
		} else {
			k.authority[group] = &authority{Authority: next}
		}
	}
}

// sealing gives the keys for the pipeline to use from now on: those of groups without authority open only. The caller
// holds mu.
func (k *keyState) sealing(now time.Duration) map[string][]crypto.Key {
	for _, a := range k.authority {
		a.in = a.left(now) > 0
	}
	usable := make(map[string][]crypto.Key, len(k.keys))
	for group, keys := range k.keys {
		if k.authority[group].left(now) == 0 {
			keys = slices.Clone(keys)
			for i := range keys {
				keys[i].Send = false
			}
		}
		usable[group] = keys
	}
	return usable
}

// enforce finds out whose authority has lapsed by now, or has come back, and returns the state that the
// pipeline must have instead of its own; nil if nothing has changed.
func (k *keyState) enforce(now time.Duration) (*gateway.State, []note) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var notes []note
	changed := false
	for _, group := range slices.Sorted(maps.Keys(k.authority)) {
		a := k.authority[group]
		notes = a.note(notes, now, group)
		changed = changed || a.in != (a.left(now) > 0)
	}
	if !changed {
		return nil, notes
	}
	ring, err := crypto.NewKeyring(k.sealing(now))
	if err != nil { // these keys made a keyring before
		return &gateway.State{Table: k.table, Policy: k.document}, append(notes, note{slog.LevelError, "keys refused", []any{"error", err}})
	}
	ring = ring.WithTopicKey(k.topics)
	if len(k.keys) == 0 {
		ring = nil
	}
	return &gateway.State{Table: k.table, Keys: ring, Policy: k.document}, notes
}

// note adds what an operator should know at now.
func (a *authority) note(notes []note, now time.Duration, group string) []note {
	args := []any{"group", group}
	left := a.left(now)
	switch {
	case left == 0 && !a.lapsed:
		a.warned, a.lapsed = true, true
		return append(notes, note{slog.LevelError, "the freshness limit has passed without a confirmation: nothing of this group leaves until a keeper confirms its keys to controld", args})
	case left > 0 && now >= a.Warn && !a.warned:
		a.warned = true
		return append(notes, note{slog.LevelWarn, fmt.Sprintf("no keeper has confirmed the keys of this group: in %v nothing of it leaves any more; is controld running, and can it reach a keeper?", left.Round(time.Second)), args})
	case left > 0 && now < a.Warn && a.warned:
		a.warned, a.lapsed = false, false
		return append(notes, note{slog.LevelInfo, "the keys of this group are confirmed again", args})
	}
	a.lapsed = a.lapsed && left == 0
	return notes
}

// due is when enforce has something to do next, at the latest.
func (k *keyState) due(now time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := now + watchEvery
	for _, a := range k.authority {
		for _, t := range []time.Duration{a.Warn, a.Lapse} {
			if t > now {
				at = min(at, t)
			}
		}
	}
	return at
}

// enforce has the pipeline act on what now brings.
func (d *daemon) enforce(now time.Duration) {
	d.stateMu.Lock()
	defer d.stateMu.Unlock()
	state, notes := d.keys.enforce(now)
	for _, n := range notes {
		d.log.Log(context.Background(), n.level, "freshness: "+n.text, n.args...)
	}
	if state != nil {
		d.gateway.SetState(state)
	}
}

// watchAuthority enforces the freshness limits until ctx ends.
func (d *daemon) watchAuthority(ctx context.Context) {
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		d.enforce(boottime.Now())
		now := boottime.Now()
		timer.Reset(d.keys.due(now) - now)
	}
}
