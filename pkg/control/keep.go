package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// What a keeper's program hands to its next run on the same machine (spec 7): the keys and KEKs of the groups that it keeps.
// A keeper that is alone would otherwise take the history along when it ends, and the epoch that it has not yet granted to
// anybody. Members who keep no group keep nothing: a keeper gives it to them again.

// Kept is what the next run is to be given of one group, in [Config.Kept]. It holds secrets: whoever stores it
// clears State afterwards.
type Kept struct {
	Group string
	State []byte // nil: nothing of this group, any more
}

// Bounds of what is read back.
const (
	keptKind   = "kept"
	keptItems  = 11
	chainItems = 4
	keptKey    = 13
	// MaxKept is the size of one group's State, in bytes.
	MaxKept = 512 << 10
)

// errKept says why a state is not taken over.
var errKept = errors.New("kept by another member, or of another group")

// collectKept puts out what has changed of the groups that this member keeps, before anything that was made of it is published.
func (m *Machine) collectKept() {
	if !m.cfg.Keep {
		return
	}
	for _, g := range m.ordered() {
		if !g.changed {
			continue
		}
		g.changed = false
		switch keeps := g.keeper && len(g.keys) > 0; {
		case keeps:
			m.putKept(Kept{g.name, m.keptOf(g)})
		case g.kept:
			m.putKept(Kept{Group: g.name})
		}
		g.kept = g.keeper && len(g.keys) > 0
	}
}

// putKept replaces what waits to be stored of the same group.
func (m *Machine) putKept(k Kept) {
	at := slices.IndexFunc(m.out.Keep, func(old Kept) bool { return old.Group == k.Group })
	if at < 0 {
		m.out.Keep = append(m.out.Keep, k)
		return
	}
	clear(m.out.Keep[at].State)
	m.out.Keep[at] = k
}

// keptOf encodes a group. Times are those of the boot clock, which goes on over a restart of the program.
func (m *Machine) keptOf(g *group) []byte {
	b := make([]byte, 0, 512+len(g.shown)+len(g.lineages)*128+len(g.keys)*256) // in one piece: what append leaves behind nobody clears
	b = dcbor.AppendText(dcbor.AppendArray(b, keptItems), keptKind)
	b = dcbor.AppendText(dcbor.AppendText(b, m.self.Fleet), m.self.Name)
	b = dcbor.AppendText(b, g.name)
	b = appendEpoch(b, g.highest)
	b = dcbor.AppendInt(b, int64(g.freshAt))
	b = dcbor.AppendArray(b, len(g.lineages))
	for _, l := range g.lineages {
		b = dcbor.AppendText(dcbor.AppendUint(dcbor.AppendArray(b, chainItems), l.generation), l.founder)
		b = dcbor.AppendBytes(dcbor.AppendUint(b, l.next), l.kek.Bytes())
	}
	b = dcbor.AppendArray(b, len(g.keys))
	for _, k := range g.keys {
		b = k.appendKept(b)
	}
	return dcbor.AppendBytes(b, g.shown)
}

func (k *key) appendKept(b []byte) []byte {
	b = appendEpoch(dcbor.AppendArray(b, keptKey), k.epoch)
	b = dcbor.AppendText(b, k.keeper)
	b = dcbor.AppendBytes(b, k.certificate[:])
	for _, d := range []time.Duration{k.learned, k.activateAt, k.supersededAt, k.confirmedAt, k.delay} {
		b = dcbor.AppendInt(b, int64(d))
	}
	b = dcbor.AppendBool(dcbor.AppendBool(b, k.confirmed), k.unannounced)
	return dcbor.AppendBytes(b, k.secret.Bytes())
}

func appendEpoch(b []byte, e crypto.Epoch) []byte {
	return dcbor.AppendUint(dcbor.AppendUint(dcbor.AppendUint(b, e.PolicyVersion), e.Generation), e.Number)
}

func readEpoch(r *dcbor.Reader) crypto.Epoch {
	return crypto.Epoch{PolicyVersion: r.Uint(), Generation: readEpochValue(r), Number: readEpochValue(r)}
}

// keptState is a group's state as read back.
type keptState struct {
	fleet, name, group string
	highest            crypto.Epoch
	freshAt            time.Duration
	lineages           []*lineage
	keys               []*key
	shown              []byte
}

// parseKept decodes a state. It copies everything out of b.
func parseKept(b []byte) (*keptState, error) {
	r := dcbor.NewReader(b)
	s := new(keptState)
	r.ArrayExact(keptItems)
	if kind := r.Text(16); r.Err() == nil && kind != keptKind {
		r.Fail(fmt.Errorf("%w: kind %q", dcbor.ErrMalformed, kind))
	}
	s.fleet, s.name, s.group = readName(r), readName(r), readName(r)
	s.highest, s.freshAt = readEpoch(r), time.Duration(r.Int())
	for n := r.Array(MaxLineages); n > 0 && r.Err() == nil; n-- {
		s.lineages = append(s.lineages, readLineage(r))
	}
	for n := r.Array(MaxKeysPerGroup); n > 0 && r.Err() == nil; n-- {
		k := readKept(r)
		k.commitment = crypto.Commitment(k.secret, s.group)
		k.id = crypto.KeyID(k.commitment[:4])
		s.keys = append(s.keys, k)
	}
	s.shown = slices.Clone(r.Bytes(MaxEpochMessage))
	if err := r.Done(); err != nil {
		return nil, err
	}
	return s, nil
}

func readLineage(r *dcbor.Reader) *lineage {
	r.ArrayExact(chainItems)
	l := &lineage{generation: readEpochValue(r), founder: readName(r), next: readEpochValue(r)}
	var kek [crypto.SecretSize]byte
	r.BytesExact(kek[:])
	l.kek, _ = crypto.KEKFrom(kek[:])
	clear(kek[:])
	return l
}

func readKept(r *dcbor.Reader) *key {
	r.ArrayExact(keptKey)
	k := &key{epoch: readEpoch(r), keeper: readName(r)}
	r.BytesExact(k.certificate[:])
	for _, d := range []*time.Duration{&k.learned, &k.activateAt, &k.supersededAt, &k.confirmedAt, &k.delay} {
		*d = time.Duration(r.Int())
	}
	k.confirmed, k.unannounced = r.Bool(), r.Bool()
	var secret [crypto.SecretSize]byte
	r.BytesExact(secret[:])
	k.secret, _ = crypto.PayloadSecretFrom(secret[:])
	clear(secret[:])
	return k
}

// restoreKept takes over what the run before has kept, once, under the first policy that this run follows.
func (m *Machine) restoreKept() {
	kept := m.cfg.Kept
	m.cfg.Kept = nil
	for name, raw := range kept {
		g := m.groups[name]
		if g == nil || !g.keeper {
			m.putKept(Kept{Group: name})
			continue
		}
		if err := m.restore(g, raw); err != nil {
			m.alarm(Event{Kind: KindEpoch, Result: ResultNote, Group: name, Err: fmt.Errorf("the keys that the run before kept are not used: %w", err)})
			m.putKept(Kept{Group: name})
		}
	}
}

func (m *Machine) restore(g *group, raw []byte) error {
	s, err := parseKept(raw)
	if err != nil {
		return err
	}
	if s.fleet != m.self.Fleet || s.name != m.self.Name || s.group != g.name {
		return errKept
	}
	for _, k := range s.keys {
		k.barred = m.isBarred(k.keeper, k.certificate)
		if err := m.addKey(g, k); err != nil {
			m.event(Event{Kind: KindEpoch, Result: ResultNote, Group: g.name, Err: err})
		}
	}
	for _, l := range s.lineages {
		g.setLineage(l)
	}
	if s.highest.Compare(g.highest) > 0 {
		g.highest = s.highest
	}
	g.freshAt = s.freshAt
	if e, err := ParseEpoch(peek(s.shown)); err == nil {
		g.shown, g.wraps, g.founder = s.shown, e.Wraps, e.Founder
	}
	g.changed, g.kept, m.keysChanged = false, true, true
	m.note(g, fmt.Sprintf("goes on with %d keys of the run before, up to epoch %s", len(g.keys), g.highest))
	return nil
}
