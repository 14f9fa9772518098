package crypto

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// modelWindow is a Window that remembers everything.
type modelWindow struct {
	seen              map[uint64]bool
	top, first, floor uint64
	started           bool
}

func (m *modelWindow) check(seq uint64) Verdict {
	switch {
	case !m.started:
		return Start
	case seq < m.floor || seq+WindowSize <= m.top:
		return TooOld
	case m.seen[seq]:
		return Duplicate
	}
	return Fresh
}

func (m *modelWindow) commit(seq uint64) (gap Range, gapped bool) {
	switch v := m.check(seq); {
	case v == Start:
		*m = modelWindow{seen: map[uint64]bool{}, top: seq, first: seq, started: true}
	case v != Fresh:
		return Range{}, false
	case seq > m.top:
		if seq > m.top+1 {
			gap, gapped = Range{m.top + 1, seq - 1}, true
		}
		m.top = seq
	}
	m.seen[seq] = true
	return gap, gapped
}

func (m *modelWindow) missing() (all, late uint64, ranges []Range) {
	if !m.started {
		return 0, 0, nil
	}
	all = m.top - m.first + 1
	for seq := range m.seen {
		if seq >= m.first {
			all--
		}
	}
	from := max(m.first, m.floor)
	if m.top >= WindowSize {
		from = max(from, m.top-WindowSize+1)
	}
	for seq := from; seq < m.top; seq++ {
		if m.seen[seq] {
			continue
		}
		late++
		if n := len(ranges); n > 0 && ranges[n-1].To+1 == seq {
			ranges[n-1].To = seq
		} else {
			ranges = append(ranges, Range{seq, seq})
		}
	}
	return all, late, ranges
}

// nextSeq draws numbers as a broker makes them arrive: mostly in order, some skipped,
// repeated, late, replayed, and a few far off.
func nextSeq(r *rand.Rand, top uint64) uint64 {
	back := func(n uint64) uint64 { return top - min(top, r.Uint64N(n)) }
	switch r.IntN(20) {
	case 0:
		return top + 2 + r.Uint64N(5)
	case 1:
		return top + 1 + r.Uint64N(200)
	case 2, 3:
		return back(10)
	case 4, 5, 6:
		return back(300)
	case 7:
		return back(WindowSize + 100)
	case 8:
		return top + WindowSize - 3 + r.Uint64N(6)
	case 9:
		if r.IntN(10) == 0 {
			return top + r.Uint64N(1<<20)
		}
	case 10:
		return top - min(top, WindowSize-2+r.Uint64N(4))
	}
	return top + 1
}

func TestWindowAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w Window
		var m modelWindow
		if seed%3 == 0 {
			h := r.Uint64N(5000)
			w.Resume(h)
			m = modelWindow{seen: map[uint64]bool{h: true}, top: h, first: h, floor: h + 1, started: true}
		}
		for step := range 2000 {
			seq := nextSeq(r, m.top)
			if !m.started {
				seq = r.Uint64N(3000)
			}
			before := w
			if got, want := w.Check(seq), m.check(seq); got != want {
				t.Fatalf("seed %d, step %d: number %d at top %d is %v, expected %v", seed, step, seq, m.top, got, want)
			}
			if w != before {
				t.Fatal("Check moved the window")
			}
			fills := w.Fills(seq)
			if sample := step%16 == 0; sample {
				compareWindows(t, &w, &m)
				_, late, _ := m.missing()
				filled := m
				filled.seen = maps.Clone(m.seen)
				_, gapped := filled.commit(seq)
				_, lateAfter, _ := filled.missing()
				if want := m.started && !gapped && filled.top == m.top && lateAfter < late; fills != want {
					t.Fatalf("seed %d, step %d: Fills(%d) is %v", seed, step, seq, fills)
				}
			}
			gap, gapped := w.Commit(seq)
			wantGap, wantGapped := m.commit(seq)
			if gap != wantGap || gapped != wantGapped {
				t.Fatalf("seed %d, step %d: commit of %d returns %v %v, expected %v %v", seed, step, seq, gap, gapped, wantGap, wantGapped)
			}
		}
		compareWindows(t, &w, &m)
	}
}

func compareWindows(t *testing.T, w *Window, m *modelWindow) {
	t.Helper()
	all, late := w.Missing()
	wantAll, wantLate, ranges := m.missing()
	if all != wantAll || late != wantLate {
		t.Fatalf("%d missing of which %d can arrive, expected %d and %d", all, late, wantAll, wantLate)
	}
	if got := w.AppendMissing(nil, 1<<20); !slices.Equal(got, ranges) {
		t.Fatalf("missing %v, expected %v", got, ranges)
	}
	if got := w.AppendMissing(nil, 2); !slices.Equal(got, ranges[:min(2, len(ranges))]) {
		t.Fatalf("first two missing %v, expected %v", got, ranges)
	}
	if top, ok := w.Highest(); top != m.top || ok != m.started {
		t.Fatalf("highest is %d, expected %d", top, m.top)
	}
}

func TestWindowKeepsItsPromises(t *testing.T) {
	if WindowSize < 1024 {
		t.Errorf("the window is %d", WindowSize)
	}
	if n := unsafe.Sizeof(Window{}); n > 304 {
		t.Errorf("a window takes %d bytes", n)
	}
	var w Window
	if all, late := w.Missing(); all != 0 || late != 0 || w.AppendMissing(nil, 9) != nil || w.Check(0) != Start || w.Fills(0) {
		t.Error("the zero window is not empty")
	}
	for v, s := range map[Verdict]string{Fresh: "fresh", Duplicate: "duplicate", TooOld: "too-old", Start: "start"} {
		if v.String() != s {
			t.Errorf("%d is %q", v, v)
		}
	}
}

func TestTagsTellConflicts(t *testing.T) {
	var w Window
	var tags Tags
	accept := func(seq uint64, tag uint32) {
		w.Commit(seq)
		tags.Remember(&w, seq, tag)
	}
	accept(0, 100)
	accept(1, 101)
	accept(1500, 102) // 1500 % 1024 is 476
	accept(476, 103)  // late, in the window but not among the last 1024: must not overwrite
	for _, c := range []struct {
		seq  uint64
		tag  uint32
		want bool
	}{
		{1500, 102, false}, {1500, 7, true}, {476, 7, false}, {1, 7, false}, {1499, 7, false}, {1501, 7, false},
	} {
		if got := tags.Conflict(&w, c.seq, c.tag); got != c.want {
			t.Errorf("Conflict(%d, %d) is %v", c.seq, c.tag, got)
		}
	}
}
